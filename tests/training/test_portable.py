"""A stage caps the processor's instructions and its threads before torch and NumPy are imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from alzmri.training import portable

ROOT = Path(__file__).parents[2]
STAGES = ("train", "ood", "evaluate", "export")


@pytest.fixture
def asked(make_params, monkeypatch):
    """A function that gives the variables for values of ``compute``."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return lambda **compute: portable.variables(make_params(compute=compute).compute)


def test_instructions_are_capped_and_threads_fixed_each_by_its_own_parameter(asked, monkeypatch):
    variables = asked(portable=True, threads=2)
    assert portable.CAPS.items() <= variables.items()
    assert {variables[name] for name in portable.THREADS} == {"2"}
    assert asked(portable=False, threads=0) == {}
    assert asked(portable=True, threads=0) == portable.CAPS
    assert not portable.CAPS.keys() & asked(portable=False, threads=3).keys()
    for processes, each in (("1", "4"), ("2", "2"), ("3", "1"), ("8", "1")):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)  # of a host, which share its threads
        assert asked(portable=False, threads=4)["OMP_NUM_THREADS"] == each
    monkeypatch.setattr("platform.machine", lambda: "aarch64")  # it has no such instructions
    assert not portable.CAPS.keys() & asked(portable=True).keys()


def test_parameters_that_cannot_be_read_are_left_to_the_stage_to_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert portable.environment() == {}
    Path("params.yaml").write_text("compute: {portable: perhaps}\n")
    assert portable.environment() == {}


def test_idle_cores_are_named_with_the_setting_that_uses_them(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_count", lambda **_: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert portable.idle_cores(8) == ""
    assert portable.idle_cores(2).startswith(" of 8 cores;")
    assert "-S compute.portable=false -S compute.threads=0" in portable.idle_cores(2)


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_reads_the_variables_before_a_stage_has_set_them(stage, make_params, tmp_path):
    """And what the caller has set does not win."""
    params = make_params(compute={"portable": True, "threads": 2})
    (tmp_path / "params.yaml").write_text(params.model_dump_json())
    check = f"""
import os, sys
set_by = os.environ.update
def update(*values, **switches):
    if switches:  # the package's own, against telemetry
        return set_by(**switches)
    print(sorted({{"torch", "numpy", "cv2", "scipy"}} & set(sys.modules)))
    set_by(*values)
    sys.stdout.flush()
    print(__import__("json").dumps(dict(os.environ)))
    raise SystemExit
os.environ.update = update
import {stage}
"""
    done = subprocess.run(
        [sys.executable, "-c", check],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{ROOT}/src", "MKL_CBWR": "AUTO", "OMP_NUM_THREADS": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    imported, environment = done.stdout.splitlines()
    assert imported == "[]"
    with_caps = json.loads(environment)
    assert with_caps["OMP_NUM_THREADS"] == "2"
    assert with_caps["MKL_CBWR"] == "COMPATIBLE"

"""What runs in the container, as far as it needs no container."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from alzmri import params
from alzmri.sagemaker import container, job_request

ROOT = Path(__file__).parents[2]


def test_sagemaker_container_installs_all_that_the_stage_imports():
    """With that, PyTorch and what they bring it starts, and so does W&B's client.

    The container itself needs no more than the standard library.
    """
    words = [sys.executable, "-S", "-c", "import alzmri.sagemaker.container"]
    subprocess.run(words, cwd=ROOT / "src", check=True)
    assert "torch" not in _with_requirements(container.NEEDED), "the image's own would be replaced"
    given = _with_requirements({*container.NEEDED, "torch"})
    owners = metadata.packages_distributions()
    absent = [name for name, of in owners.items() if not {*map(_normal, of)} & {*given, "alzmri"}]
    assert {"dvc", "matplotlib", "typer"} <= set(absent)
    without = f"import sys; sys.modules.update(dict.fromkeys({absent}))"
    code = f"{without}; import train, alzmri.tracking.tracker, wandb"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", check=True)


def _with_requirements(names):
    found, ahead = set(), {_normal(name) for name in names}
    while ahead:
        name = ahead.pop()
        found.add(name)
        try:
            wanted = metadata.requires(name) or ()
        except metadata.PackageNotFoundError:
            continue
        plain = (line for line in wanted if "extra ==" not in line)
        ahead |= {_normal(re.match(r"[\w.-]+", line)[0]) for line in plain} - found
    return found


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_sagemaker_container_writes_the_parameters_that_were_submitted(
    make_params, tmp_path, monkeypatch
):
    monkeypatch.setattr(container, "ML", tmp_path)
    monkeypatch.setattr(container, "CODE", tmp_path)
    submitted = make_params(train={"lr": 1e-5, "keep_last": True}, data={"source": "kaggle"})
    (tmp_path / "input/config").mkdir(parents=True)
    config = tmp_path / "input/config/hyperparameters.json"
    config.write_text(json.dumps(job_request.hyperparameters(submitted)))
    container._write_params()
    # But for `compute`: the job trains where it is, with all that the machine has.
    elsewhere = {"compute": params.Compute(train_on="here")}
    assert params.load(tmp_path / "params.yaml") == submitted.model_copy(update=elsewhere)


@pytest.mark.parametrize("here", ["algo-2", "algo-1", "algo-10"])
def test_sagemaker_container_orders_hosts_by_their_number(tmp_path, monkeypatch, here):
    """By letter algo-10 comes before algo-2; every host must give every other the same rank."""
    monkeypatch.setattr(container, "ML", tmp_path)
    monkeypatch.setattr(container, "_gpus", lambda: 4)
    (tmp_path / "input/config").mkdir(parents=True)
    resources = {
        "hosts": ["algo-10", "algo-2", "algo-9", "algo-1"],
        "current_host": here,
        "network_interface_name": "eth3",
    }
    (tmp_path / "input/config/resourceconfig.json").write_text(json.dumps(resources))
    hosts, own, interface = container._hosts()
    assert (own, interface) == (here, "eth3")
    assert hosts == ["algo-1", "algo-2", "algo-9", "algo-10"]
    command = container._command(hosts, own)
    assert f"--node-rank={hosts.index(here)}" in command
    assert {"--nnodes=4", "--nproc-per-node=4", "--master-addr=algo-1"} <= set(command)
    assert command[-1] == "src/train.py"
    for gpus in (0, 1):
        monkeypatch.setattr(container, "_gpus", lambda gpus=gpus: gpus)
        assert container._command(["algo-1"], "algo-1") == [sys.executable, "src/train.py"]


def test_sagemaker_container_tracks_by_the_first_host_only(monkeypatch):
    monkeypatch.setattr(container, "_wandb_key", lambda: "key")
    first, other = (container._environment("eth3", first=first) for first in (True, False))
    assert first["WANDB_API_KEY"] == "key"
    assert (other.get("WANDB_API_KEY"), other["WANDB_MODE"]) == (None, "disabled")
    for environment in (first, other):
        assert environment["GLOO_SOCKET_IFNAME"] == environment["NCCL_SOCKET_IFNAME"] == "eth3"
        assert environment["ALZMRI_CHECKPOINTS"] == "/opt/ml/checkpoints"
    monkeypatch.setattr(container, "_wandb_key", lambda: None)
    assert container._environment("eth3", first=True)["WANDB_MODE"] == "disabled"


def test_sagemaker_container_installs_only_pins_that_are_not_met():
    met = f"rich=={metadata.version('rich')}"
    assert container.unmet(f"{met}\nscipy==0.1\npytest==1.0\n") == ["scipy==0.1"]
    assert container.unmet((ROOT / "requirements.txt").read_text()) == []


@pytest.mark.parametrize(
    ("printed", "status", "expected"),
    [
        (
            "epoch 1/2\nerror: params.yaml has 2 fault(s):\n  a: b\n  c: d\nE1123 torchrun says\n",
            1,
            "params.yaml has 2 fault(s):\n  a: b\n  c: d",
        ),
        (
            "Traceback (most recent call last):\n  File x\nKeyError: 'y'\nTraceback (most recent"
            " call last):\n  File z\nChildFailedError: src/train.py\n",
            1,
            "KeyError: 'y'",
        ),
        ("error: was a warning\nepoch 1/2\nerror: ended it\n", 1, "ended it"),
        ("epoch 1/2\n", -signal.SIGKILL, container.UNSAID),
        ("", 3, "training ended with status 3"),
    ],
)
def test_sagemaker_container_finds_the_users_own_error(printed, status, expected):
    assert container.reason(printed.splitlines(), status) == expected


def test_sagemaker_container_says_why_it_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "ML", tmp_path)
    monkeypatch.setattr(container.signal, "signal", lambda *_: None)
    failure = tmp_path / "output/failure"

    def train():
        """Whose process could now be killed: then this is what the job's owner reads."""
        assert failure.read_text() == container.UNSAID
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "models/last.pt")

    monkeypatch.setattr(container, "train", train)
    assert container.main() == 1
    assert failure.read_text() == "[Errno 28] No space left on device: 'models/last.pt'"
    monkeypatch.setattr(container, "train", lambda: None)
    assert container.main() == 0
    assert not failure.exists()

"""`alzmri sweep`: real experiments of DVC's, real kills."""

import fcntl
import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from .. import forks
from ..processes import limit

EPOCHS = 100
"""Long enough to be caught at it."""
KILLED = ("alzmri", "sweep", f"train.epochs={EPOCHS}", "--seeds", "3", "--name", "k", "-j", "2")
GOOD, BAD = ["k-seed0", "k-seed1"], "k-seed2"


@pytest.fixture
def clone(clone):
    """One whose third experiment fails in the stage train."""
    stage = clone.root / "src/train.py"
    luck = "settings = params.load()\n    if settings.train.seed == 2: raise UserError('no luck')\n"
    stage.write_text(stage.read_text().replace("settings = params.load()\n", luck))
    yield clone
    for process in _running(clone):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _running(clone):
    """All that works in the clone or its temporary copies."""
    return [
        process
        for process in psutil.process_iter(["cwd"])
        if (process.info["cwd"] or "").startswith(str(clone.root))
    ]


def _trained(clone):
    """How many trainings have a checkpoint."""
    return len({path.parent for path in clone.root.glob(".checkpoints/*/*.checkpoint")})


def _names(clone):
    return sorted(clone.run("dvc", "exp", "list", "--name-only").stdout.split())


def test_what_is_interrupted_killed_or_failed_loses_nothing(clone, eventually):
    """SIGKILL of DVC, then of the sweep; the same command, Ctrl-C; the same command."""
    changed = clone.run("git", "status", "--porcelain").stdout
    first = clone.start(*KILLED, forked=True)
    eventually(lambda: _trained(clone) == 2, 180)
    one = _dvc(clone, GOOD[0])
    copy = Path(one.cwd())
    one.kill()  # its training goes on without it, until the sweep ends that and starts it again
    eventually(lambda: not copy.exists(), 60)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()

    second = clone.start(*KILLED)  # no forks: each process is to get one signal, and once
    clone.read_until(second, "ended the experiments of an earlier call")
    refused = clone.run(*KILLED, code=2)
    assert "another sweep or study runs in this repository" in refused.stderr
    eventually(lambda: "resuming in epoch" in _log(clone, GOOD[0]), 180)
    os.killpg(second.pid, signal.SIGINT)  # as a terminal sends it
    said, _ = second.communicate(timeout=limit(90))
    assert second.returncode == 130, said
    assert "stopping: trainings save their work first" in said
    assert "the same command continues" in said
    assert not _running(clone)
    assert clone.run("git", "status", "--porcelain").stdout == changed

    last = clone.run(*KILLED, code=1)
    assert "earlier call" not in last.stdout
    assert f"{BAD} failed; its last lines:" in last.stdout
    assert "error: no luck" in last.stdout
    assert f"1 of 3 experiments failed: {BAD}" in last.stderr
    assert "Traceback" not in last.stderr
    assert _names(clone) == GOOD
    for name in GOOD:
        assert re.search(rf"^\| {name} \| 0\.\d+ \[", last.stdout, re.MULTILINE)
    assert "resuming in epoch" in _log(clone, GOOD[0])
    assert (clone.root / "reports/k/index.html").stat().st_size
    assert not list((clone.root / ".checkpoints").iterdir())
    assert not _running(clone)

    other_parameters = clone.run(*KILLED, "-S", "train.batch_size=4", code=2)
    assert "another --name" in other_parameters.stderr
    assert f"dvc exp remove {' '.join(GOOD)}" in other_parameters.stderr
    source = clone.root / "src/alzmri/models/architectures.py"
    source.write_text(source.read_text() + "# edited\n")
    assert f"dvc exp remove {' '.join(GOOD)}" in clone.run(*KILLED, code=2).stderr


def _dvc(clone, name):
    """The process of DVC's that runs an experiment."""
    (one,) = (one for one in forks.find(clone.root, "dvc") if name in one.cmdline())
    return one


def _log(clone, name):
    path = clone.root / f".dvc/tmp/sweep/{name}.log"
    return path.read_text() if path.exists() else ""


def test_in_a_folder_of_a_larger_repository_and_while_another_holds_the_lock(clone, tmp_path):
    """All stages run: what is applied is complete. Optuna's choice goes the same way."""
    project = tmp_path / "larger/projects/alzmri"
    shutil.copytree(clone.root, project, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    larger, moved = type(clone)(tmp_path / "larger"), type(clone)(project)
    larger.run("git", "init", "--quiet")
    for key in ("name", "email"):
        larger.run("git", "config", f"user.{key}", "test@localhost")
    larger.run("git", "config", "log.showSignature", "true")
    larger.commit("all")
    words = ("train.lr=log(1e-4,1e-1)", "-S", "train.epochs=1", "--trials", "1", "--name", "t")
    with (project / ".dvc/tmp/lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = moved.start("alzmri", "sweep", *words, forked=True)
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "another process holds the lock" in line:
                break
    said += process.communicate(timeout=limit(240))[0].splitlines(keepends=True)
    assert process.returncode == 0, "".join(said)
    assert _names(moved) == ["t-t001"]
    assert not larger.run("git", "status", "--porcelain").stdout
    moved.run("dvc", "exp", "apply", "t-t001")
    assert "up to date" in moved.run("dvc", "status").stdout
    settings = moved.json("dvc", "params", "diff", "--json")["params.yaml"]
    assert 1e-4 <= settings["train.lr"]["new"] <= 1e-1
    moved.run("alzmri", "review", "HEAD")
    moved.run("alzmri", "compare", "t-t001")


def test_what_is_wrong_is_said_before_anything_runs(clone, tmp_path):
    faults = clone.run("alzmri", "sweep", "train.epoch=1,2", "--seeds", "two", code=2)
    assert "did you mean train.epochs?" in faults.stderr
    assert "train.seed = 'two'" in faults.stderr
    shallow = type(clone)(tmp_path / "shallow")
    clone.commit("another")
    clone.run("git", "clone", "--quiet", "--depth", "1", f"file://{clone.root}", str(shallow.root))
    for words, message in (
        (("honest", "--task", "two"), "--task two: allowed are none, three-class, binary"),
        (("protocol", "--source", "kaggle"), "alzmri data import"),
    ):
        assert message in clone.run("alzmri", *words, code=2).stderr
    for words in (("sweep", "train.lr=0.1,0.2"), ("honest",), ("protocol",)):
        refused = shallow.run("alzmri", *words, code=2)
        assert "this is a shallow clone: run `git fetch --unshallow` first" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not _names(clone)

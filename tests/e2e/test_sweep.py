"""`alzmri sweep` over DVC's own queue: real workers, real kills."""

import hashlib
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from alzmri.errors import EnvironmentFault
from alzmri.experiments.sweeps import control, queue
from alzmri.experiments.sweeps.queue import State

EPOCHS = 500
"""Long enough to be caught at it."""
KILLED = (
    "alzmri",
    "sweep",
    f"train.epochs={EPOCHS}",
    "--seeds",
    "3",
    "--name",
    "killed",
    "-j",
    "2",
)


@pytest.fixture
def clone(clone):
    yield clone
    _kill(clone)


def _kill(clone):
    """End the workers of a clone and all that they started, as a power cut does."""
    started = queue.workers(clone.root)
    for task in _tasks(clone):
        started += filter(None, [task.process])
    for process in started:
        with suppress(psutil.NoSuchProcess):
            for child in [*process.children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def _tasks(clone):
    return queue.tasks(clone.root)


def _running(clone):
    """The tasks that are past their first epoch, with a worker at them."""
    workers = queue.workers(clone.root)
    return [
        task
        for task in _tasks(clone)
        if task.state is State.RUNNING
        and queue.progress(task.log)[1]
        and not task.stranded(workers)
    ]


def _trainer(task):
    """Its training; None between stages."""
    with suppress(psutil.NoSuchProcess):
        for child in task.process.children(recursive=True) if task.process else []:
            if child.cmdline()[1:2] == ["src/train.py"]:
                return child
    return None


def _still(clone):
    """The tasks whose training stands still, with a checkpoint: each is made to once it has one."""
    return [
        task
        for task in _running(clone)
        if (trainer := _trainer(task)) is not None and _stopped(trainer)
    ]


def _stopped(trainer):
    trainer.suspend()
    # Its lock has the name of the folder with its checkpoints.
    locks = [Path(file.path) for file in trainer.open_files() if file.path.endswith(".lock")]
    if any(list(lock.with_suffix("").glob("*.checkpoint")) for lock in locks):
        return True
    trainer.resume()
    return False


def _weights(clone, name):
    """DVC's digest of the model of an experiment."""
    (ref,) = clone.run(
        "git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}"
    ).stdout.split()
    lock = YAML(typ="safe").load(clone.run("git", "show", f"{ref}:dvc.lock").stdout)
    outputs = lock["stages"]["train"]["outs"]
    return {out["path"]: out["md5"] for out in outputs}["models/model.safetensors"]


def _names(clone):
    return sorted(clone.run("dvc", "exp", "list", "--name-only").stdout.split())


def test_kills_lose_nothing_and_the_same_command_goes_on(clone, eventually):
    """A worker, a trainer, then Ctrl-C and everything: the experiments end as if undisturbed."""
    first = clone.start(*KILLED)
    eventually(lambda: len(_still(clone)) == 2, 120)
    one, other = _running(clone)
    _trainer(other).kill()
    psutil.Process(one.process.ppid()).kill()
    _trainer(one).resume()
    events = {
        f"{other.name}: killed by signal 9; queued again",
        f"{one.name}: its worker was killed; queued again",
    }
    assert first.stdout is not None
    while events:
        line = first.stdout.readline()
        assert line, f"never said: {events}"
        events -= {event for event in events if line.startswith(event)}
    os.killpg(first.pid, signal.SIGINT)  # as a terminal sends it
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 130, said
    assert "DVC's workers go on without this" in said
    assert "dvc queue stop --kill" in said
    assert queue.workers(clone.root)

    eventually(lambda: _still(clone), 120)
    cut = _still(clone)[0]
    _kill(clone)
    again = clone.run(*KILLED).stdout
    names = ["killed-seed0", "killed-seed1", "killed-seed2"]
    assert _names(clone) == names
    assert sorted(task.name for task in _tasks(clone)) == names  # nothing was queued twice
    assert f"{cut.name}: its worker was killed; queued again" in again
    logs = {task.name: task.log for task in _tasks(clone)}
    assert "resuming in epoch" in logs[one.name]
    assert "resuming in epoch" in logs[other.name]
    for name in names:
        assert re.search(rf"^\| {name} \| 0\.\d+ \[", again, re.MULTILINE)
    assert (clone.root / "reports/killed/index.html").stat().st_size
    assert not list((clone.root / ".dvc/tmp/exps").glob("tmp*"))  # nor is a workspace left behind
    assert not list((clone.root / ".checkpoints").iterdir())

    params = clone.root / "params.yaml"
    content = YAML(typ="safe").load(params.read_text())
    content["train"].update(epochs=EPOCHS, seed=int(one.name.removeprefix("killed-seed")))
    YAML(typ="safe").dump(content, params)
    clone.run("python", "src/train.py")
    undisturbed = (clone.root / "models/model.safetensors").read_bytes()
    assert hashlib.md5(undisturbed, usedforsecurity=False).hexdigest() == _weights(clone, one.name)


def test_a_failure_shows_its_last_lines_and_the_rest_is_compared(clone):
    stage = clone.root / "src/train.py"
    luck = "settings = params.load()\n    if settings.train.seed: raise UserError('no luck')\n"
    stage.write_text(stage.read_text().replace("settings = params.load()\n", luck))
    words = ("--seeds", "2", "train.epochs=1", "--name", "luck", "--metric", "loss")
    good, bad = "luck-seed0", "luck-seed1"
    for _ in range(2):  # the second time only what failed is run
        failed = clone.run("alzmri", "sweep", *words, code=1)
        assert f"{bad} failed; its last lines:" in failed.stdout
        assert "error: no luck" in failed.stdout
        assert f"1 of 2 experiments failed: {bad}" in failed.stderr
        assert "Traceback" not in failed.stderr
        assert f"\n| {good} | " in failed.stdout
        assert (clone.root / "reports/luck/index.html").stat().st_size
        assert _names(clone) == [good]
    assert f"{good}  running" not in failed.stdout

    changed = clone.run("alzmri", "sweep", *words, "-S", "train.batch_size=4", code=2)
    assert "another --name" in changed.stderr
    assert f"dvc exp remove {good}" in changed.stderr
    source = clone.root / "src/alzmri/models/lenet.py"
    source.write_text(source.read_text() + "# edited\n")
    assert f"dvc exp remove {good}" in clone.run("alzmri", "sweep", *words, code=2).stderr


def test_what_is_wrong_is_said_before_anything_is_queued(clone):
    done = clone.run("alzmri", "sweep", "train.epoch=1,2", "--seeds", "two", code=2)
    assert "this sweep has 2 fault(s)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not _tasks(clone)
    assert not queue.workers(clone.root)


def test_a_worker_that_does_not_stay_is_started_a_bounded_number_of_times(
    clone, monkeypatch, tmp_path
):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'queue-worker' in sys.orig_argv: sys.exit('no workers today')\n"
    )
    for name, value in {**clone.environment, "PYTHONPATH": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(control, "STARTS", 2)
    monkeypatch.setattr(control, "SECONDS_BETWEEN_STARTS", 0)
    crew = control.Crew(Path(clone.root), jobs=1)

    def keep_on():
        while True:
            crew.keep(queued=1, running=0)

    with pytest.raises(EnvironmentFault, match="started 2 times and does not stay") as fault:
        keep_on()
    assert "no workers today" in str(fault.value)

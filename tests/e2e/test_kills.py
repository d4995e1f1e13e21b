"""A training that is killed, however and whenever, ends as if nothing had happened."""

import hashlib
import os
import random
import signal
import subprocess

import psutil
import pytest

KILLS = 12
LONG = {"epochs: 3": "epochs: 30", "checkpoint_every: 0": "checkpoint_every: 5"}


@pytest.fixture
def long(clone):
    """A clone whose training takes some seconds; and the weights of an undisturbed run."""
    params = clone.root / "params.yaml"
    text = params.read_text()
    for old, new in LONG.items():
        assert old in text
        text = text.replace(old, new)
    params.write_text(text)
    clone.run("python", "src/train.py")
    whole = _digests(clone)
    assert not _checkpoints(clone)
    for name in whole:
        (clone.root / name).unlink()
    return clone, whole


def _digests(clone):
    names = ("models/model.safetensors", "models/model.json", "plots/history.csv")
    return {name: hashlib.sha256((clone.root / name).read_bytes()).hexdigest() for name in names}


def _checkpoints(clone):
    return list((clone.root / ".checkpoints").rglob("*.checkpoint"))


def _start(clone, *words, **environment):
    return subprocess.Popen(
        words or ("python", "src/train.py"),
        cwd=clone.root,
        env={**clone.environment, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _read_until(process, beginnings):
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if line.startswith(beginnings):
            return said
    raise AssertionError("".join(said))


def test_killed_a_dozen_times_it_ends_with_the_same_bytes(long):
    clone, whole = long
    draw = random.Random(0)
    killed = resumed = 0
    for _ in range(KILLS):
        process = _start(clone)
        said = _read_until(process, ("lenet",))
        try:
            process.wait(timeout=draw.uniform(0, 1.5))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        rest, _ = process.communicate()
        resumed += "resuming in epoch" in "".join(said) + rest
    done = clone.run("python", "src/train.py")
    resumed += "resuming in epoch" in done.stdout
    assert killed >= 3
    assert resumed >= 2
    assert _digests(clone) == whole
    assert not _checkpoints(clone)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_stop_it_saves_and_goes_on_from_that_step(long, number, status):
    clone, whole = long
    process = _start(clone)
    _read_until(process, ("epoch  2",))
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == status
    assert _checkpoints(clone)
    done = clone.run("python", "src/train.py")
    assert "resuming in epoch" in done.stdout
    assert _digests(clone) == whole


def test_the_second_of_two_alike_waits_for_the_first(long):
    """DVC killed alone leaves its trainer behind, and the next `dvc repro` starts another."""
    clone, whole = long
    repro = ("dvc", "repro", "--single-item", "--force", "train")
    first = _start(clone, *repro)
    _read_until(first, ("epoch  2",))
    # DVC may have others for a moment, such as its sender of statistics.
    children = psutil.Process(first.pid).children(recursive=True)
    (trainer,) = (child for child in children if "src/train.py" in child.cmdline())
    trainer.suspend()
    first.kill()
    first.wait()
    second = _start(clone, *repro)
    _read_until(second, ("warning: this very run is being trained by another process",))
    trainer.resume()
    second.communicate()
    assert second.returncode == 0
    assert _digests(clone) == whole


def test_other_parameters_start_from_zero(long):
    clone, _ = long
    process = _start(clone)
    _read_until(process, ("epoch  2",))
    process.send_signal(signal.SIGTERM)
    process.communicate()
    params = clone.root / "params.yaml"
    params.write_text(params.read_text().replace("lr: 0.0001", "lr: 0.0002"))
    assert "resuming" not in clone.run("python", "src/train.py").stdout


def test_an_experiment_that_failed_in_the_queue_goes_on(long):
    """Its workspace is deleted; its checkpoints are in the repository that queued it."""
    clone, _ = long
    clone.commit("longer")
    settings = ("dvc", "exp", "run", "--temp", "train")
    process = _start(clone, *settings)
    _read_until(process, ("epoch  2",))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert _checkpoints(clone)
    done = clone.run(*settings)
    assert "resuming in epoch" in done.stdout
    assert not _checkpoints(clone)

"""A training that is killed, however and whenever, ends as if nothing had happened."""

import hashlib
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from alzmri.store import remotes

from .. import forks
from ..processes import limit

KILLS = {"any time": 7, "checkpoint": 3, "validation": 3, "export": 3}
EPOCHS, STEPS = 10, 8
"""Epochs of the run, and steps of each; checkpoints follow the last step and the validation."""
OUTPUTS = ("models/model.safetensors", "models/model.json", "plots/history.csv")
PREPARE = """
import os, sys
sys.path.insert(0, os.path.abspath("src"))
import alzmri.training.results
import torch._dynamo  # which the optimiser would import in every trainer
from alzmri.training import loop
predict = loop.predict
def announced(*inputs):
    print("validating", flush=True)
    return predict(*inputs)
loop.predict = announced
"""
"""These programs fork from a server that has our code too, so that kills fall into the training.

Trainers say when they validate: it takes milliseconds, and nothing else tells from outside.
"""


@dataclass
class Trainer:
    """A process of the server's."""

    fork: forks.Fork
    log: Path

    @property
    def pid(self) -> int:
        return self.fork.pid

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def until(self, condition: Callable[[], object]) -> bool:
        """Wait; whether ``condition`` held before the process ended."""
        while psutil.pid_exists(self.pid):
            if condition():
                return True
            time.sleep(0.001)
        return False

    def kill_at(self, condition: Callable[[], object]) -> None:
        """Kill it when ``condition`` holds, unless it ends before.

        It takes a millisecond's step at a time, and stands still while the condition is looked at:
        moments shorter than the looking are caught too.
        """
        while psutil.pid_exists(self.pid):
            self.send(signal.SIGSTOP)
            if condition():
                return self.send(signal.SIGKILL)
            self.send(signal.SIGCONT)
            time.sleep(0.001)
        return None

    def seconds(self) -> float:
        """Seconds of CPU so far: its progress, whatever else the machine does."""
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(self.pid).cpu_times()
            return times.user + times.system
        return 0.0

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def end(self) -> tuple[int, float]:
        """Wait for its end: exit status and seconds of CPU."""
        return self.fork.end()


@pytest.fixture(scope="module")
def start(repro, tmp_path_factory) -> Iterator[Callable[..., Trainer]]:
    """A function that starts a stage in a clone; one at a time."""
    log = tmp_path_factory.mktemp("logs") / "log"

    def begin(clone, script="src/train.py", **environment):
        log.unlink(missing_ok=True)
        return Trainer(server.start([script], clone.root, log, environment), log)

    with closing(forks.Forks(PREPARE, repro.root)) as server:
        yield begin


@pytest.fixture(scope="module")
def undisturbed(repro, start, tmp_path_factory):
    """A clone with a longer training; what that leaves, and its seconds of CPU."""
    clone = repro.copy(tmp_path_factory.mktemp("undisturbed") / "alzmri")
    params = clone.root / "params.yaml"
    yaml = YAML()
    content = yaml.load(params.read_text())
    content["train"].update(epochs=EPOCHS, checkpoint_every=STEPS)
    with params.open("w") as handle:
        yaml.dump(content, handle)
    clone.commit("longer")
    status, seconds = start(clone).end()
    assert status == 0
    assert list((clone.root / ".checkpoints").iterdir()) == []
    whole = _digests(clone)
    _forget(clone)
    return clone, whole, seconds


@pytest.fixture
def long(undisturbed, tmp_path):
    clone, whole, _ = undisturbed
    return clone.copy(tmp_path / "alzmri"), whole


def _digests(clone):
    return {name: hashlib.sha256((clone.root / name).read_bytes()).hexdigest() for name in OUTPUTS}


def _forget(clone):
    for name in OUTPUTS:
        (clone.root / name).unlink(missing_ok=True)


def _checkpoints(clone):
    return sorted((clone.root / ".checkpoints").rglob("*.checkpoint"))


def _drafts(clone):
    return list((clone.root / ".checkpoints").rglob(".draft.tmp"))


def _run_out(trainer, clone, whole):
    """It ends well and with the same bytes; what it said."""
    status, _ = trainer.end()
    assert status == 0, trainer.said()
    assert _digests(clone) == whole
    assert not _checkpoints(clone)
    return trainer.said()


def _stopped(start, clone, number=signal.SIGTERM, **environment):
    """Train past the second epoch, then ask it to stop: its exit status."""
    trainer = start(clone, **environment)
    assert trainer.until(lambda: "\nepoch  2" in trainer.said()), trainer.said()
    trainer.send(number)
    return trainer.end()[0]


def test_killed_16_times_it_ends_with_the_same_bytes(undisturbed, long, start):
    clone, whole = long
    seed = 0
    draw = random.Random(seed)
    moments = [name for name, count in KILLS.items() for _ in range(count)]
    draw.shuffle(moments)
    killed = torn = resumed = completed = 0
    while moments:
        _forget(clone)
        trainer = start(clone)
        if moments[-1] == "any time":
            after = draw.uniform(0, undisturbed[2])
            trainer.kill_at(lambda t=trainer, s=after: t.seconds() >= s)
        elif moments[-1] == "export":
            trainer.kill_at((clone.root / OUTPUTS[2]).exists)
        elif moments[-1] == "validation":
            trainer.kill_at(lambda t=trainer: t.said().endswith("validating\n"))
        else:
            trainer.kill_at(lambda: _drafts(clone))
        status, _ = trainer.end()
        said = trainer.said()
        resumed += "resuming in epoch" in said
        if status == 0:
            completed += 1
            assert completed < 30, f"seed {seed}: {moments} never come"
            assert _digests(clone) == whole, f"seed {seed}, {len(moments)} kills left"
            continue
        assert status == -signal.SIGKILL, said
        killed += 1
        moments.pop()
        torn += bool(_drafts(clone))
    assert _run_out(start(clone), clone, whole)
    assert killed == sum(KILLS.values())
    assert torn >= KILLS["checkpoint"] // 2, f"seed {seed}: drafts were whole before the kill"
    assert resumed > 0
    assert list((clone.root / ".checkpoints").iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_stop_it_saves_and_goes_on_from_that_step(long, start, number, status):
    clone, whole = long
    assert _stopped(start, clone, number) == status
    assert _checkpoints(clone)
    assert "resuming in epoch" in _run_out(start(clone), clone, whole)


def test_ctrl_c_in_dvc_repro_stops_both_and_the_next_goes_on(long):
    clone, whole = long
    process = clone.start("dvc", "repro", "train", forked=True)
    clone.read_until(process, "epoch  2")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    process.communicate(timeout=limit(60))
    assert process.returncode != 0
    assert _checkpoints(clone)
    assert not (clone.root / OUTPUTS[0]).exists()
    assert "resuming in epoch" in clone.run("dvc", "repro", "train").stdout
    assert _digests(clone) == whole


def test_the_second_of_two_alike_waits_for_the_first(long):
    """DVC killed alone leaves its trainer behind, and the next `dvc repro` starts another."""
    clone, whole = long
    repro = ("dvc", "repro", "--single-item", "--force", "train")
    first = clone.start(*repro, forked=True)
    clone.read_until(first, "epoch  2")
    (killed,), (trainer,) = (forks.find(clone.root, name) for name in ("dvc", "train.py"))
    trainer.suspend()
    killed.kill()
    first.wait()
    second = clone.start(*repro, forked=True)
    clone.read_until(second, "warning: another process trains this very run")
    trainer.resume()
    second.communicate()
    assert second.returncode == 0
    assert _digests(clone) == whole


def test_another_run_harms_nothing_and_what_is_damaged_is_set_aside(long, start):
    clone, whole = long
    _stopped(start, clone)
    params = clone.root / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("lr: 0.0001", "lr: 0.0002"))
    other = start(clone)
    assert other.end()[0] == 0
    assert "resuming" not in other.said()
    params.write_text(text)
    *_, latest = _checkpoints(clone)
    latest.write_bytes(latest.read_bytes()[:-1000])
    said = _run_out(start(clone), clone, whole)
    assert "damaged" in said
    assert "resuming in epoch" in said


FULL_DISK = f"""
mkdir -p models .checkpoints
mount -t tmpfs -o size=128k none models
mount -t tmpfs -o size=1m none .checkpoints
python src/train.py
echo "status $?"
ls -A models
find .checkpoints -type f
mount -o remount,size=16m models
mount -o remount,size=16m .checkpoints
python src/train.py
sha256sum {" ".join(OUTPUTS)}
"""


def test_on_a_full_disk_it_says_so_and_goes_on_once_there_is_room(long):
    """Room for one checkpoint and for no model: on real, small file systems of its own."""
    clone, whole = long
    own = ("unshare", "--map-root-user", "--mount")
    probe = clone.run(*own, "mount", "-t", "tmpfs", "none", "models", code=None)
    if probe.returncode:
        pytest.skip(f"no file system can be mounted here: {probe.stderr}")
    done = clone.run(*own, "sh", "-c", FULL_DISK)
    before, after = done.stdout.split("status 1\n")
    assert f"epoch {EPOCHS}/" in before
    assert "could not be written" in done.stderr
    assert "training continues" in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == [
        "error: No space left on device: models/model.safetensors; free some space on the disk"
    ]
    assert "Traceback" not in done.stderr
    left, ended = after.split("lenet, ")
    assert re.fullmatch(r"\.checkpoints/\w+/[\w-]+\.checkpoint\n", left), left
    assert "resuming in epoch" in ended
    assert dict(reversed(line.split()) for line in ended.splitlines()[-3:]) == whole


def test_a_store_that_comes_and_goes_costs_warnings(long, start, free_block):
    clone, whole = long
    port = str(free_block())
    clone.run("alzmri", "store", "up", "--port", port)
    remote = remotes.default(clone.root)
    there = {
        "ALZMRI_CHECKPOINTS": "s3://alzmri/checkpoints",
        "AWS_ACCESS_KEY_ID": remote.keys[0],
        "AWS_SECRET_ACCESS_KEY": remote.keys[1],
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_MAX_ATTEMPTS": "1",
    }
    try:
        trainer = start(clone, **there)
        assert trainer.until(lambda: "\nepoch  2" in trainer.said()), trainer.said()
        trainer.send(signal.SIGSTOP)
        clone.run("alzmri", "store", "down")
        trainer.send(signal.SIGCONT)
        assert trainer.until(lambda: "training continues" in trainer.said()), trainer.said()
        trainer.send(signal.SIGSTOP)
        clone.run("alzmri", "store", "up")
        trainer.send(signal.SIGCONT)
        warned = trainer.said().count("training continues")
        assert trainer.until(lambda: _epochs_since(trainer) > 1), trainer.said()
        trainer.send(signal.SIGTERM)
        assert trainer.end()[0] == 143
        assert warned

        trainer = start(clone, **there)
        assert trainer.until(lambda: "\nepoch" in trainer.said()), trainer.said()
        assert "resuming in epoch" in trainer.said()
        trainer.send(signal.SIGSTOP)
        clone.run("alzmri", "store", "down")
        trainer.send(signal.SIGCONT)
        assert trainer.end()[0] == 0, trainer.said()
        assert "could not be removed" in trainer.said()
        assert _digests(clone) == whole

        clone.run("alzmri", "store", "up")
        del there["AWS_MAX_ATTEMPTS"]  # a server that has just started answers some with a 500
        trainer = start(clone, **there)
        assert "resuming in epoch" in _run_out(trainer, clone, whole)
    finally:
        clone.run("alzmri", "store", "down", code=None)


def _epochs_since(trainer):
    """Epochs that ended after the last checkpoint that could not be written."""
    return trainer.said().rpartition("training continues")[2].count("\nepoch")


def _weights(clone, experiment):
    """DVC's digest of the model of an experiment; and that of the undisturbed run."""
    lock = YAML(typ="safe").load(clone.run("git", "show", f"{experiment}:dvc.lock").stdout)
    (digest,) = (out["md5"] for out in lock["stages"]["train"]["outs"] if out["path"] == OUTPUTS[0])
    cached = clone.root / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}"
    return hashlib.sha256(cached.read_bytes()).hexdigest()


def _experiments(clone):
    listed = clone.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    return [name for name in listed if re.match(r"refs/exps/[0-9a-f]{2}/", name)]


def test_an_experiment_killed_in_its_temporary_workspace_goes_on(long):
    """The workspace is deleted; its checkpoints are in the repository that it started from."""
    clone, whole = long
    words = ("dvc", "exp", "run", "--temp", "train")
    process = clone.start(*words, forked=True)
    clone.read_until(process, "epoch  2")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert _checkpoints(clone)
    assert "resuming in epoch" in clone.run(*words).stdout
    (experiment,) = _experiments(clone)
    assert _weights(clone, experiment) == whole[OUTPUTS[0]]
    assert not _checkpoints(clone)

"""The series as a person runs them: real DVC experiments, real interrupts."""

import os
import signal

from ..processes import limit

QUICK = ("-S", "train.epochs=1", "-S", "data.image_size=32", "-S", "model.name=lenet")


def test_honest_goes_on_after_an_interrupt_and_pools_every_person_once(clone):
    command = ("alzmri", "honest", "--task", "binary", "--folds", "3", *QUICK)
    process = clone.start(*command, forked=True)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("[2/4]"):
            os.killpg(process.pid, signal.SIGINT)
    process.stdout.close()
    assert process.wait(timeout=limit(60)) == 130, "".join(said)

    done = clone.run(*command)
    assert "[1/4] honest-phantom-2classes-fold0: finished before" in done.stdout
    assert "fold1: finished before" not in done.stdout
    page = (clone.root / "docs/results.md").read_text()
    section = page[page.index("## phantom: people that the model has never seen") :]
    assert "| 2 classes | 28 |" in section  # 7 people a class, each tested once
    assert "Scaled for a machine without a GPU" in section
    assert "LEAKS" in section
    assert (clone.root / "docs/honest-phantom.png").stat().st_size > 10_000
    _same_again(clone, command)


def test_protocol_is_labelled_as_leaking(clone):
    command = ("alzmri", "protocol", *QUICK)
    clone.run(*command)
    page = (clone.root / "docs/results.md").read_text()
    section = page[page.index("## phantom: the protocol, which LEAKS") :]
    assert "best: lr 0.0005, momentum 0.85" in section
    assert "people are in training too" in section
    assert (clone.root / "docs/protocol-phantom.png").stat().st_size > 10_000
    names = clone.run("dvc", "exp", "list", "--name-only").stdout.split()
    assert {"protocol-phantom-baseline", "protocol-phantom-best"} <= set(names)
    _same_again(clone, command)
    (clone.root / ".dvc/cache").rename(clone.root / "elsewhere")
    lost = clone.run(*command, code=2)
    assert "plots/history.csv of experiment protocol-phantom-baseline is not" in lost.stderr
    assert "dvc exp remove protocol-phantom-baseline" in lost.stderr
    assert "Traceback" not in lost.stderr


def test_fast_is_counted_in_flops_and_labelled_as_leaking(clone):
    command = ("alzmri", "fast", *QUICK, "-S", "train.warmup=0")
    clone.run(*command)
    page = (clone.root / "docs/results.md").read_text()
    section = page[page.index("## phantom: fewer epochs, on the split that LEAKS") :]
    assert "| recipe, seed 1 | 1 at 32 px, batches of " in section
    assert "seed of split 0, of training 0, 1." in section
    assert "train.ema=0.998" in section
    assert (clone.root / "docs/fast-phantom.png").stat().st_size > 10_000
    names = clone.run("dvc", "exp", "list", "--name-only").stdout.split()
    assert {"fast-phantom-seed0", "fast-phantom-seed1", "fast-phantom-protocol"} <= set(names)
    _same_again(clone, command)


def test_what_is_wrong_is_said_before_anything_runs(clone):
    for words, message in (
        (("honest", "-S", "train.epoch=1"), "did you mean train.epochs"),
        (("honest", "-S", "train.epochs"), "write KEY=VALUE"),
        (("honest", "--task", "two"), "--task two: allowed are none, three-class, binary"),
        (("protocol", "--source", "kaggle"), "alzmri data import"),
    ):
        done = clone.run("alzmri", *words, code=2)
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not clone.run("dvc", "exp", "list", "--name-only").stdout.strip()


def _same_again(clone, command):
    """Nothing is run twice, and what is written stays the same."""
    page = (clone.root / "docs/results.md").read_bytes()
    pictures = {path: path.read_bytes() for path in (clone.root / "docs").glob("*.png")}
    again = clone.run(*command)
    assert "Running stage" not in again.stdout
    assert (clone.root / "docs/results.md").read_bytes() == page
    assert {path: path.read_bytes() for path in pictures} == pictures

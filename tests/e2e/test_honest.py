"""The studies as a person runs them: real DVC experiments."""

QUICK = ("-S", "train.epochs=1", "-S", "data.image_size=32", "-S", "model.name=lenet", "-j", "2")


def test_honest_says_what_it_takes_and_pools_every_subject_once(clone):
    command = ("alzmri", "honest", "--task", "binary", "--folds", "3", *QUICK)
    # What an earlier study of this name left, with other parameters, is replaced.
    name = "honest-phantom-2classes-fold0"
    clone.run("dvc", "exp", "save", "--name", name)
    done = clone.run(*command)
    assert "4 experiments, 4 of them to run, 2 at once\nroughly " in done.stdout
    assert " min on this machine; DVC's cache grows by" in done.stdout
    assert "Scaled for a machine without a GPU" in done.stdout
    page = (clone.root / "docs/results.md").read_text()
    section = page[page.index("## phantom: people that the model has never seen") :]
    assert "| 2 classes | 28 |" in section  # 7 subjects a class, each tested once
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
    assert "models/evaluation.json of experiment protocol-phantom-baseline is not" in lost.stderr
    assert "dvc exp remove protocol-phantom-baseline" in lost.stderr
    assert "Traceback" not in lost.stderr


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
    assert "  running" not in again.stdout
    assert ", 0 of them to run" in again.stdout
    assert (clone.root / "docs/results.md").read_bytes() == page
    assert {path: path.read_bytes() for path in pictures} == pictures

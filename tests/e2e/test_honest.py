"""The studies as a user runs them: real DVC experiments."""

QUICK = ("-S", "train.epochs=1", "-S", "data.image_size=32", "-S", "model.name=lenet", "-j", "2")
HONEST = ("alzmri", "honest", "--task", "binary", "--folds", "3", *QUICK)
PROTOCOL = ("alzmri", "protocol", *QUICK)


def test_the_studies_pool_every_subject_once_and_label_what_leaks(clone):
    # What an earlier study of this name left, with other parameters, is replaced.
    clone.run("dvc", "exp", "save", "--name", "honest-phantom-2classes-fold0")
    done = clone.run(*HONEST)
    assert "4 experiments, 4 of them to run, 2 at once\nroughly " in done.stdout
    assert " min on this machine; DVC's cache grows by" in done.stdout
    assert "Scaled for a machine" not in done.stdout  # the user said how large
    assert "2 experiments, 2 of them to run" in clone.run(*PROTOCOL).stdout
    text = (clone.root / "docs/results.md").read_text()
    section = text[text.index("## phantom: subjects that the model has never seen") :]
    assert "| 2 classes | 28 |" in section  # 7 subjects a class, each tested once
    assert "LEAKS" in section
    assert "| 2 classes | five numbers | 0." in section
    assert "labels permuted | mean 0." in section
    section = text[text.index("## phantom: the protocol, which LEAKS") :]
    assert "best: lr 0.0005, momentum 0.85" in section
    assert "subjects are in training too" in section
    names = clone.run("dvc", "exp", "list", "--name-only").stdout.split()
    folds = {f"honest-phantom-2classes-{part}" for part in ("fold0", "fold1", "fold2", "slices")}
    assert {*names} == {*folds, "protocol-phantom-baseline", "protocol-phantom-best"}

    # Nothing is run twice, and what is written stays the same.
    pictures = [clone.root / f"docs/{name}-phantom.png" for name in ("honest", "protocol")]
    before = [path.read_bytes() for path in pictures]
    assert min(map(len, before)) > 10_000
    again = clone.run(*PROTOCOL)
    assert "  running" not in again.stdout
    assert ", 0 of them to run" in again.stdout
    assert (clone.root / "docs/results.md").read_text() == text
    assert [path.read_bytes() for path in pictures] == before

    (clone.root / ".dvc/cache").rename(clone.root / "elsewhere")
    lost = clone.run(*PROTOCOL, code=2)
    assert "models/evaluation.json of experiment protocol-phantom-baseline is no" in lost.stderr
    assert "dvc exp remove protocol-phantom-baseline" in lost.stderr
    assert "Traceback" not in lost.stderr

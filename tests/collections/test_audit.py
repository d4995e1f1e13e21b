"""An audit says what leaks, and says nothing where nothing does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from alzmri.classes import CLASSES, FOLDERS
from alzmri.collections import audit
from alzmri.collections.cli import data_app
from alzmri.data import similarity, subjects
from alzmri.data.collection import Collection, Entry
from alzmri.errors import UserError

PEOPLE, SLICES = 4, 6
"""Of a class; of a subject."""


def head(person: int, number: int) -> NDArray[np.uint8]:
    """uint8 ``[48, 48]``: a disc with a pattern of its own per subject, smaller slice by slice."""
    half = np.random.default_rng(person).integers(60, 250, (6, 3))
    coarse = np.hstack([half, half[:, ::-1]])
    fine = np.random.default_rng((person, number)).integers(0, 5, (48, 48))
    y, x = np.mgrid[:48, :48] - 23.5
    inside = np.hypot(x, y) < 22 - number
    return ((np.kron(coarse, np.ones((8, 8), int)) + fine) * inside).astype(np.uint8)


Publish = Callable[[Callable[[int, int], str]], None]


@pytest.fixture
def publish(
    untracked: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    committed: Callable[[str], Path],
) -> Publish:
    """``publish(part)`` imports a release as data/mine, slices in folders ``part(subject, slice)``.

    The working directory becomes a repository with the committed parameters.
    """
    shutil.copy(committed("params.yaml"), untracked)
    monkeypatch.chdir(untracked)

    def make(part: Callable[[int, int], str]) -> None:
        release, rows = tmp_path / "release", ["path,subject"]
        for person in range(PEOPLE * len(FOLDERS)):
            for number in range(SLICES):
                folder = Path(part(person, number), FOLDERS[person % len(FOLDERS)])
                (release / folder).mkdir(parents=True, exist_ok=True)
                path = folder / f"{person}-{number}.png"
                Image.fromarray(head(person, number)).save(release / path)
                rows.append(f"{path.as_posix()},S{person}")
        (release / "subjects.csv").write_text("\n".join(rows))
        imported = CliRunner().invoke(data_app, ["import", str(release), "--name", "mine"])
        assert imported.exit_code == 0, imported.output

    return make


def run(*options: str) -> Result:
    return CliRunner().invoke(data_app, ["audit", "mine", *options])


def numbers(*options: str) -> dict[str, dict[str, Any]]:
    """What ``--json`` says, by layout."""
    done = run("--json", *options)
    assert done.exit_code == 0, done.output
    return {leak["layout"]: leak for leak in json.loads(done.stdout)["layouts"]}


def by_slice(person: int, number: int) -> str:
    return "test" if number >= SLICES - 2 else "train"


def by_person(person: int, number: int) -> str:
    return "Testing" if person >= 3 * len(FOLDERS) else "Training"


def test_the_top_slices_of_the_training_people(publish: Publish) -> None:
    publish(by_slice)
    done = run()
    assert done.exit_code == 0, done.output
    assert "16 of 16 subjects tested are in training" in done.output
    assert "the end slices (top or bottom) of the training subjects: in 16 of the 16" in done.output
    assert "less brain than any training slice" in done.output
    assert Path("plots/audit-mine.png").read_bytes().startswith(b"\x89PNG")
    leaks = numbers()
    assert list(leaks) == ["published", "subject", "slice"]
    assert leaks["published"]["train"] == {"images": 64, "people": 16}
    assert leaks["published"]["test"] == {"images": 32, "people": 16}
    assert min(leaks["published"][key] for key in ("same_subject", "accuracy")) > 0.95
    assert leaks["subject"]["shared_subjects"] == leaks["subject"]["test_near_duplicates"] == 0
    assert leaks["subject"]["ends"] is None
    assert [leaks[name]["current"] for name in leaks] == [False, True, False]


def test_the_widest_slices(publish: Publish) -> None:
    publish(lambda _, number: "test" if number < 2 else "train")
    assert "the widest slices of the training subjects: in 16 of the 16" in run().output


def test_a_published_test_of_other_people(publish: Publish) -> None:
    publish(by_person)
    done = run()
    assert "published: 0 of 4 subjects tested are in training" in done.output
    assert "brain" not in done.output
    leak = numbers()["published"]
    assert leak["shared_subjects"] == leak["near_duplicate_pairs"] == leak["same_subject"] == 0
    assert not any(pair["same_subject"] for pair in leak["pairs"])


def test_slices_divided_at_random_are_no_end(publish: Publish) -> None:
    part = np.random.default_rng(0).permuted(
        np.tile(["train", "train", "test"], (PEOPLE * len(FOLDERS), 2)), axis=1
    )
    publish(lambda person, number: str(part[person, number]))
    done = run()
    assert "published: 16 of 16 subjects tested are in training" in done.output
    assert "brain" not in done.output


def test_validation_stands_in_for_a_test(publish: Publish) -> None:
    publish(lambda _, number: "valid" if number == 3 else "train")
    assert numbers()["published"]["test"] == {"images": 16, "people": 16}


def test_a_copy_in_both_parts_is_its_own_twin(publish: Publish, tmp_path: Path) -> None:
    copy = tmp_path / "release" / "Testing" / FOLDERS[0] / "copy.png"
    copy.parent.mkdir(parents=True)
    Image.fromarray(head(0, 0)).save(copy)
    publish(by_person)  # subject 0 is published for training, but for the copy
    leak = numbers()["published"]
    assert leak["shared_subjects"] == leak["test_near_duplicates"] == 1
    worst = leak["pairs"][0]
    assert worst["test"] == worst["train"] == f"{FOLDERS[0]}/0-0.png"
    assert worst["similarity"] == pytest.approx(1)


@pytest.mark.parametrize("remove", [True, False])
def test_no_published_split(publish: Publish, remove: bool) -> None:
    publish(lambda *_: "all")
    if remove:
        Path("data/mine/origin.csv").unlink()
    done = run()
    assert done.exit_code == 0, done.output
    assert "no published split is known" in done.output
    assert list(numbers()) == ["subject", "slice"]


def test_origins_that_cannot_be_read(publish: Publish) -> None:
    publish(by_slice)
    Path("data/mine/origin.csv").write_bytes(b"\xff")
    assert "origin.csv is not a UTF-8 CSV table" in str(run().exception)


def test_nothing_but_json_on_stdout(publish: Publish) -> None:
    publish(by_slice)
    done = run("--json", "--figure", "elsewhere/leak.png", "--pairs", "5")
    content = json.loads(done.stdout)
    assert (content["collection"], content["images"], content["people"]) == ("mine", 96, 16)
    assert (content["subjects_from"], content["refused"]) == ("subjects.csv", {})
    assert content["figure"] == "elsewhere/leak.png"
    assert Path("elsewhere/leak.png").exists()
    assert not Path("plots").exists()
    shown = {leak["layout"]: len(leak["pairs"]) for leak in content["layouts"]}
    assert shown["published"] == shown["slice"] == 5
    assert 1 <= shown["subject"] <= PEOPLE  # are tested, and nobody is shown twice
    assert run("--json", "--figure", "elsewhere/leak.png", "--pairs", "5").stdout == done.stdout


def test_the_same_figure_again(publish: Publish) -> None:
    publish(by_slice)
    run("--figure", "one.png")
    run("--figure", "two.png")
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()


def test_the_table_fits_a_terminal(publish: Publish) -> None:
    publish(by_slice)
    table = [line for line in run().output.splitlines() if line[:1] in "┏┃┡│└"]
    assert any("subject split *" in line for line in table)
    assert max(map(len, table)) <= 80
    assert len({len(line) for line in table}) == 1


def test_pairs_are_of_different_people_and_classes(publish: Publish) -> None:
    publish(by_slice)
    pairs = numbers("--pairs", "10")["published"]["pairs"]
    people = [Path(pair["test"]).name.split("-")[0] for pair in pairs]
    assert len(set(people)) == len(pairs) == 10
    assert {pair["test_label"] for pair in pairs[:4]} == set(CLASSES)
    first = [pair["similarity"] for pair in pairs[:4]]
    assert first == sorted(first, reverse=True)


def test_strict(publish: Publish) -> None:
    publish(by_slice)
    assert run("--strict").exit_code == 0
    file = Path("params.yaml")
    file.write_text(file.read_text().replace("unit: subject", "unit: slice"))
    assert run().exit_code == 0
    done = run("--strict", "--json")
    assert done.exit_code == 1
    assert any(leak["current"] for leak in json.loads(done.stdout)["layouts"])


def test_a_subject_of_its_own_for_each_image_hides_nothing(publish: Publish) -> None:
    publish(by_slice)
    table = Path("data/mine/subjects.csv")
    header, *rows = table.read_text().splitlines()
    names = [f"{row.split(',')[0]},S{number}" for number, row in enumerate(rows)]
    table.write_text("\n".join([header, *names]))
    done = run("--strict")
    assert done.exit_code == 1
    assert "test images have a near-duplicate in training: of" in done.output
    assert "0 of" not in done.output.partition("subject split (current)")[2].splitlines()[0]


def test_too_few_people_for_a_subject_split(publish: Publish) -> None:
    publish(by_slice)
    table = Path("data/mine/subjects.csv")
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *(f"{row.split(',')[0]},S1" for row in rows)]))
    done = run()
    assert done.exit_code == 0, done.output
    assert "no subject split: too few subjects (1)" in done.output
    assert list(numbers()) == ["published", "slice"]
    assert "too few subjects" in str(run("--strict").exception)


def test_an_unknown_name(publish: Publish) -> None:
    publish(by_slice)
    for name, message in (
        ("other", "data/other is not a directory; bring one in with `alzmri data import`"),
        ("../mine", "cannot name a collection"),
        ("prepared", "cannot name a collection"),
    ):
        refusal = CliRunner().invoke(data_app, ["audit", name]).exception
        assert isinstance(refusal, UserError)
        assert message in str(refusal)


def fabricated(thumbnails: NDArray[np.uint8]) -> audit.Slices:
    """Slices of as many subjects, classes taking turns."""
    labels = tuple(CLASSES[index % 4] for index in range(len(thumbnails)))
    entries = tuple(
        Entry(f"{index}", label, f"{index:064x}", None) for index, label in enumerate(labels)
    )
    found = Collection(Path("nowhere"), CLASSES, entries, ())
    people = subjects.People([f"S{index}" for index in range(len(thumbnails))])
    return audit.Slices(
        found, labels, people, similarity.encode(thumbnails), np.arange(len(thumbnails))
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 40))
def test_identical_copies_are_found_without_an_error(seed: int, number: int) -> None:
    once = np.random.default_rng(seed).integers(0, 256, (number, 16, 16), np.uint8)
    slices = fabricated(np.concatenate([once, once]))
    labels = slices.labels[:number] * 2
    train = np.arange(2 * number) < number
    layout = audit.Layout("published", False, train, np.zeros_like(train), ~train)
    slices = audit.Slices(slices.found, labels, slices.people, slices.codes, slices.areas)
    leak = audit.measure(slices, layout, pairs=1)
    assert leak.accuracy == leak.macro_f1 == 1
    assert leak.test_near_duplicates == number
    assert leak.shared_subjects == leak.same_subject == 0
    assert not any(pair.same_subject for pair in leak.pairs)  # though of the same class
    np.testing.assert_allclose(leak.similarity, 1, atol=1e-3)


def test_the_majority_is_of_training_and_its_accuracy_of_test() -> None:
    slices = fabricated(np.random.default_rng(0).integers(0, 256, (16, 16, 16), np.uint8))
    common, rare = CLASSES[2], CLASSES[1]
    labels = (common,) * 6 + (rare,) * 2 + (common,) * 2 + (rare,) * 6
    slices = audit.Slices(slices.found, labels, slices.people, slices.codes, slices.areas)
    train = np.arange(16) < 8
    layout = audit.Layout("published", False, train, np.zeros_like(train), ~train)
    leak = audit.measure(slices, layout, pairs=1)
    assert (leak.majority, leak.majority_accuracy) == (common, 0.25)


def test_few_slices_prove_no_end() -> None:
    """Of two slices one always has less brain: that is chance until many subjects agree."""
    train = np.array([True, False])
    layout = audit.Layout("slice", False, train, ~train & train, ~train)
    alone = audit.ends(["S"] * 2, np.array([9, 5]), layout)
    assert alone is not None
    assert (alone.less, alone.auc, alone.which) == (1, 1, None)

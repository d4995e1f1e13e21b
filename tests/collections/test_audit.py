"""An audit says what leaks, and says nothing where nothing does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from alzmri.classes import FOLDERS
from alzmri.collections.data_commands import data_app

PEOPLE, SLICES = 4, 6
"""Of a class; of a subject."""
TABLE = Path("data/mine/subjects.csv")


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
def publish(untracked: Path, tmp_path: Path, committed: Callable[[str], Path]) -> Publish:
    """``publish(part)`` imports a release as data/mine, slices in folders ``part(subject, slice)``.

    The working directory becomes a repository with the committed parameters.
    """
    shutil.copy(committed("params.yaml"), untracked)

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


def test_slices_of_the_training_subjects(publish: Publish) -> None:
    publish(by_slice)
    done = run("--strict")
    assert done.exit_code == 0, done.output
    assert "96 images of 16 subjects, known from subjects.csv" in done.output
    assert "published: 16 of 16 subjects tested are in training" in done.output
    assert Path("plots/audit-mine.png").read_bytes().startswith(b"\x89PNG")
    table = [line for line in done.output.splitlines() if line[:1] in "┏┃┡│└"]
    assert any("subject split *" in line for line in table)
    assert {len(line) for line in table} <= set(range(81))
    file = Path("params.yaml")
    file.write_text(file.read_text().replace("unit: subject", "unit: slice"))
    done = run("--strict", "--json")
    assert done.exit_code == 1
    leaks = {leak["layout"]: leak for leak in json.loads(done.stdout)["layouts"]}
    assert list(leaks) == ["published", "subject", "slice"]
    assert leaks["published"]["train"] == {"images": 64, "people": 16}
    assert leaks["published"]["test"] == {"images": 32, "people": 16}
    assert min(leaks["published"][key] for key in ("same_subject", "accuracy")) > 0.95
    assert leaks["subject"]["shared_subjects"] == leaks["subject"]["test_near_duplicates"] == 0
    assert [leaks[name]["current"] for name in leaks] == [False, False, True]
    pairs = leaks["published"]["pairs"]
    assert len({Path(pair["test"]).name.split("-")[0] for pair in pairs}) == len(pairs) == 3
    alike = [pair["similarity"] for pair in pairs]
    assert alike == sorted(alike, reverse=True)
    assert all(pair["same_subject"] for pair in pairs)


def test_a_published_test_of_other_subjects_and_one_copy(publish: Publish, tmp_path: Path) -> None:
    copy = tmp_path / "release" / "Testing" / FOLDERS[0] / "copy.png"
    copy.parent.mkdir(parents=True)
    Image.fromarray(head(0, 0)).save(copy)
    publish(by_person)  # subject 0 is published for training, but for the copy
    leak = numbers()["published"]
    assert leak["shared_subjects"] == leak["test_near_duplicates"] == 1
    assert leak["test"]["people"] == 5
    worst, *others = leak["pairs"]
    assert worst["test"] == worst["train"] == f"{FOLDERS[0]}/0-0.png"
    assert worst["similarity"] == pytest.approx(1)
    assert not any(pair["same_subject"] for pair in others)
    table = Path("data/mine/origin.csv")
    # As an import writes it that tells copies from originals.
    table.write_text(
        table.read_text().replace("15-1.png,\n", "15-1.png,ModerateDemented/3-0.png\n")
    )
    assert "published: 2 of the 25 test images are turned copies" in run().output


def test_without_a_published_split(publish: Publish) -> None:
    publish(lambda _, number: "valid" if number == 3 else "train")
    assert numbers()["published"]["test"] == {"images": 16, "people": 16}  # stands in for a test
    origin = Path("data/mine/origin.csv")
    origin.unlink()
    assert "published split is unknown" in run().output
    for content, message in (
        (b"\xff", "not a UTF-8 CSV table"),
        (b"scanner,site\n1,2\n", "columns path,origin"),
        (b"", "empty file"),
    ):
        origin.write_bytes(content)
        assert message in str(run().exception)


def test_subjects_that_a_table_hides(publish: Publish) -> None:
    """One of its own for each image, one for all, none."""
    publish(by_slice)
    paths = [row.split(",")[0] for row in TABLE.read_text().splitlines()[1:]]
    names = [f"{path},S{number}\n" for number, path in enumerate(paths)]
    TABLE.write_text(f"path,subject\n{''.join(names)}")
    done = run("--strict")
    assert done.exit_code == 1
    assert "test images have a near-duplicate in training: of" in done.output
    TABLE.write_text("path,subject\n" + "".join(f"{path},S1\n" for path in paths))
    assert "the subject split is not possible: too few subjects (1)" in run().output
    assert "too few subjects" in str(run("--strict").exception)
    file = Path("params.yaml")
    text = file.read_text().replace("subjects: auto", "subjects: unknown")
    file.write_text(text.replace("unit: subject", "unit: slice"))
    done = run()
    assert "96 images of subjects unknown" in done.output
    assert "slice split (current): subjects unknown;" in done.output
    assert "data/other is not a directory" in str(
        CliRunner().invoke(data_app, ["audit", "other"]).exception
    )

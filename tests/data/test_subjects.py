"""People from a table, and people from pixels."""

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alzmri.data import subjects
from alzmri.errors import UserError

Thumbnails = NDArray[np.uint8]


def people(count: int, slices: int) -> tuple[Thumbnails, list[str], list[int]]:
    """Thumbnails of ``count`` random people with ``slices`` each, digests, and who is who."""
    generator = np.random.default_rng(0)
    heads = generator.integers(0, 200, (count, 32, 32))
    noise = generator.integers(0, 8, (count, slices, 32, 32))
    thumbnails = (heads[:, None] + noise).reshape(-1, 32, 32).astype(np.uint8)
    hashes = [hashlib.sha256(item.tobytes()).hexdigest() for item in thumbnails]
    return thumbnails, hashes, np.repeat(np.arange(count), slices).tolist()


def same_groups(first: list[str], second: list[int]) -> bool:
    pairs = set(zip(first, second, strict=True))
    return len(pairs) == len(set(first)) == len(set(second))


def test_people_are_found() -> None:
    thumbnails, hashes, truth = people(7, 5)
    found = subjects.from_pixels(thumbnails, hashes)
    assert same_groups(found, truth)
    for number in range(7):
        mine = [digest for digest, person in zip(hashes, truth, strict=True) if person == number]
        assert found[5 * number] == f"P{min(mine)[:8]}"


def test_a_person_is_a_chain_of_slices() -> None:
    """The first and the last slice look different; their neighbours link them."""
    generator = np.random.default_rng(1)
    first, last = generator.integers(0, 200, (2, 32, 32))
    chain = np.array([first + (last - first) * step / 40 for step in range(41)]).astype(np.uint8)
    assert np.corrcoef(chain[0].ravel(), chain[-1].ravel())[0, 1] < 0.5
    assert len(set(subjects.from_pixels(chain, [f"{n:064x}" for n in range(41)]))) == 1


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(15)), block=st.integers(1, 20))
def test_order_and_blocks_do_not_matter(order: list[int], block: int) -> None:
    thumbnails, hashes, _ = people(5, 3)
    expected = subjects.from_pixels(thumbnails, hashes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subjects, "_BLOCK", block)
        found = subjects.from_pixels(thumbnails[order], [hashes[index] for index in order])
    assert found == [expected[index] for index in order]


def test_the_cut_decides_exactly() -> None:
    thumbnails, hashes, _ = people(2, 1)
    correlation = float(np.corrcoef(thumbnails[0].ravel(), thumbnails[1].ravel())[0, 1])
    together = subjects.from_pixels(thumbnails, hashes, cut=correlation - 1e-9)
    apart = subjects.from_pixels(thumbnails, hashes, cut=correlation + 1e-9)
    assert (len(set(together)), len(set(apart))) == (1, 2)


def test_ids_stay_unique_when_digests_begin_alike() -> None:
    thumbnails, _, _ = people(2, 1)
    alike = ["0123456789" + "a" * 54, "0123456789" + "b" * 54]
    assert subjects.from_pixels(thumbnails, alike) == ["P0123456789a", "P0123456789b"]


def test_flat_thumbnails_link_nobody_and_none_is_fine() -> None:
    thumbnails, hashes, _ = people(2, 1)
    flat = np.concatenate([thumbnails, np.full((1, 32, 32), 9, np.uint8)])
    assert len(set(subjects.from_pixels(flat, [*hashes, "f" * 64]))) == 3
    assert subjects.from_pixels(np.empty((0, 32, 32), np.uint8), []) == []


def test_twins() -> None:
    thumbnails, _, truth = people(4, 3)
    train = np.array([person < 3 for person in truth])
    train[0] = False  # a test image whose person is in training
    assert subjects.twins(thumbnails, train, ~train) == 1
    assert subjects.twins(thumbnails, train, np.zeros(12, bool)) == 0
    assert subjects.twins(thumbnails, np.zeros(12, bool), train) == 0


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], Path]:
    def write(content: str) -> Path:
        (tmp_path / "subjects.csv").write_text(content, encoding="utf-8")
        return tmp_path / "subjects.csv"

    return write


def test_from_file_follows_the_order_of_paths(table: Callable[[str], Path]) -> None:
    rows = [("a/x.jpg", "S1"), ("a/y, z.jpg", "S2"), ("b/ä.jpg", "S1")]
    random.Random(1).shuffle(rows)
    file = table("\ufeffsubject,path,age\n" + "".join(f'{s},"{p}",70\n' for p, s in rows))
    assert subjects.from_file(file, ["b/ä.jpg", "a/y, z.jpg"]) == ["S1", "S2"]


def test_from_file_reports_every_fault(table: Callable[[str], Path]) -> None:
    file = table("path,subject\na.jpg,S1\nb.jpg,\n,S2\na.jpg,S3\n./c.jpg,S4\nd.jpg\n")
    with pytest.raises(UserError) as caught:
        subjects.from_file(file, ["a.jpg", "c.jpg", "missing.jpg"])
    assert str(caught.value).splitlines() == [
        f"{file} has 5 fault(s):",
        "  line 3: empty subject",
        "  line 4: empty path",
        "  line 5: a.jpg is listed on line 2 too",
        "  line 7: empty subject",
        "  missing.jpg is not listed",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "must name the columns"),
        (b"image;subject\n", "must name the columns"),
        (b"path,subject\n\xff,1\n", "not a UTF-8 CSV table"),
        (b'path,subject\n"a,1\n', "not a UTF-8 CSV table"),
    ],
)
def test_no_table_at_all(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "subjects.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        subjects.from_file(tmp_path / "subjects.csv", ["a"])


def test_what_is_no_file(tmp_path: Path) -> None:
    table = tmp_path / "subjects.csv"
    assert not subjects.has_table(tmp_path)
    with pytest.raises(UserError, match="not found"):
        subjects.from_file(table, ["a"])
    makers: dict[str, Callable[[], object]] = {
        "not a regular file": table.mkdir,
        "symbolic link": lambda: table.symlink_to("gone"),
        "not a regular file; put a CSV file": lambda: os.mkfifo(table),
        "empty file": table.touch,
    }
    for message, make in makers.items():
        make()
        assert subjects.has_table(tmp_path)
        with pytest.raises(UserError, match=f"{message}.*split.subjects"):
            subjects.from_file(table, ["a"])
        if table.is_dir():
            table.rmdir()
        else:
            table.unlink()


def test_names_that_end_in_a_space(table: Callable[[str], Path]) -> None:
    file = table("path,subject\na ,S1\n ./b ,S2\n./c ,S3\n")
    assert subjects.from_file(file, ["a ", "b", "c "]) == ["S1", "S2", "S3"]


def test_faults_print(table: Callable[[str], Path]) -> None:
    file = table("path,subject\na\x1b[2J,S1\na\x1b[2J,S1\n")
    with pytest.raises(UserError) as caught:
        subjects.from_file(file, ["b\x07"])
    assert str(caught.value).splitlines()[1:] == [
        "  line 3: a\\x1b[2J is listed on line 2 too",
        "  b\\x07 is not listed",
    ]

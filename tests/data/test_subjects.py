"""Subjects from a table, and subjects from pixels."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alzmri.data import similarity, subjects
from alzmri.data.class_folders import read
from alzmri.data.similarity import Forest
from alzmri.errors import UserError

Thumbnails = NDArray[np.uint8]

SIDE = 16


def people(count: int, slices: int) -> tuple[Thumbnails, list[str], list[int]]:
    """Thumbnails of ``count`` random subjects with ``slices`` each, digests, and who is who."""
    generator = np.random.default_rng(0)
    heads = generator.integers(0, 200, (count, SIDE, SIDE))
    noise = generator.integers(0, 8, (count, slices, SIDE, SIDE))
    thumbnails = (heads[:, None] + noise).reshape(-1, SIDE, SIDE).astype(np.uint8)
    hashes = [hashlib.sha256(item.tobytes()).hexdigest() for item in thumbnails]
    return thumbnails, hashes, np.repeat(np.arange(count), slices).tolist()


def recognised(thumbnails: Thumbnails, hashes: list[str]) -> list[str]:
    links = similarity.forest(similarity.encode(thumbnails))
    return subjects.from_pixels(links, hashes).names


def chain(correlations: list[float]) -> Forest:
    """The images 0, 1, 2, ... each linked with the next."""
    first = np.arange(len(correlations))
    return Forest(first, first + 1, np.array(correlations, float))


def same_groups(first: list[str], second: list[int]) -> bool:
    pairs = set(zip(first, second, strict=True))
    return len(pairs) == len(set(first)) == len(set(second))


def test_people_are_found() -> None:
    thumbnails, hashes, truth = people(7, 5)
    found = recognised(thumbnails, hashes)
    assert same_groups(found, truth)
    for number in range(7):
        mine = [digest for digest, person in zip(hashes, truth, strict=True) if person == number]
        assert found[5 * number] == f"P{min(mine)[:8]}"


def test_a_person_is_a_chain_of_slices() -> None:
    """The first and the last slice look different; their neighbours link them."""
    generator = np.random.default_rng(1)
    share = np.linspace(0, 1, 41)[:, None, None]
    ends = generator.integers(0, 200, (6, 2, SIDE, SIDE))
    chains = np.concatenate([(1 - share) * first + share * last for first, last in ends])
    thumbnails = (chains + np.linspace(0, 50, SIDE)[:, None]).astype(np.uint8)
    assert np.corrcoef(thumbnails[0].ravel(), thumbnails[40].ravel())[0, 1] < 0.5
    found = recognised(thumbnails, [f"{n:064x}" for n in range(len(thumbnails))])
    assert same_groups(found, np.repeat(np.arange(6), 41).tolist())


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(15)))
def test_order_does_not_matter(order: list[int]) -> None:
    thumbnails, hashes, _ = people(5, 3)
    expected = recognised(thumbnails, hashes)
    found = recognised(thumbnails[order], [hashes[index] for index in order])
    assert found == [expected[index] for index in order]


def test_the_cut_is_in_the_middle_of_the_gap() -> None:
    found = subjects.from_pixels(chain([0.9, 0.3, 0.8, 0.9]), [f"{n:064x}" for n in range(5)])
    assert (found.gap, found.cut) == ((0.3, 0.8), pytest.approx(0.55))
    # Nothing reaches the floor between two subjects.
    links = Forest(np.array([0, 2]), np.array([1, 3]), np.array([0.8, 0.9]))
    assert subjects.clear_gap(links, 4) == (similarity.FLOOR, 0.8)


@pytest.mark.parametrize(
    ("correlations", "why"),
    [
        ([], "one image"),
        ([0.9], "one subject"),
        ([0.3, 0.3, 0.9], "fewer than two images a subject"),
        ([0.9, 0.88, 0.85, 0.81, 0.77], "no gap"),
        ([0.95, 0.95, 0.7, 0.7, 0.95, 0.95, 0.7, 0.45, 0.95, 0.95, 0.7, 0.95], "two gaps"),
    ],
)
def test_without_a_clear_gap_a_table_is_asked_for(correlations: list[float], why: str) -> None:
    links = chain(correlations)
    hashes = [f"{n:064x}" for n in range(len(correlations) + 1)]
    found = subjects.from_pixels(links, hashes)
    assert "subjects.csv (columns path,subject)" in str(found.doubt), why
    assert not found.known


def test_without_a_clear_gap_the_groups_are_an_upper_bound() -> None:
    correlations = [0.9, 0.6, subjects.CUT, 0.37, 0.5, 0.25, 0.7]
    found = subjects.from_pixels(chain(correlations), [f"{n:064x}" for n in range(8)])
    assert len(set(found.names)) == 3
    assert [found.names[at] == found.names[at + 1] for at in range(7)] == [
        *(True, True, True, False, True, False, True)
    ]
    assert found.gap is None
    assert found.doubt
    assert found.doubt.startswith("at most 3 subjects:")
    assert "the most similar groups reach 0.37." in found.doubt


def test_people_with_one_slice_each_are_not_guessed() -> None:
    thumbnails, hashes, _ = people(40, 1)
    assert recognised(thumbnails, hashes)[0][0] == "?"


def test_copies_of_a_slice_do_not_make_it_a_person() -> None:
    """The gap between copies and neighbours would win if widths were counted in logarithms."""
    within = ([1.0, 1.0, 0.85, 1.0, 1.0, 0.87, 1.0, 1.0, 0.4] * 4)[:-1]
    assert subjects.clear_gap(chain(within), len(within) + 1) == (0.4, 0.85)


def test_ids_stay_unique_when_digests_begin_alike() -> None:
    thumbnails, _, _ = people(2, 2)
    alike = ["0123456789" + end * 54 for end in "abcd"]
    assert recognised(thumbnails, alike) == [f"P0123456789{end}" for end in "aacc"]


def test_a_flat_thumbnail_links_nobody_and_none_is_fine() -> None:
    thumbnails, hashes, truth = people(3, 3)
    flat = np.concatenate([thumbnails, np.full((1, SIDE, SIDE), 9, np.uint8)])
    assert same_groups(recognised(flat, [*hashes, "f" * 64]), [*truth, 3])
    assert recognised(np.empty((0, SIDE, SIDE), np.uint8), []) == []


def test_near_duplicates() -> None:
    thumbnails, _, truth = people(4, 3)
    codes = similarity.encode(thumbnails)
    train = np.array([person < 3 for person in truth])
    train[0] = False  # a test image whose subject is in training
    assert subjects.near_duplicates(codes, train, ~train) == 1
    assert subjects.near_duplicates(codes, train, np.zeros(12, bool)) == 0
    assert subjects.near_duplicates(codes, np.zeros(12, bool), train) == 0
    # One slice in training is enough, and each test slice counts once.
    number = np.arange(12)
    assert subjects.near_duplicates(codes, number == 2, number < 2) == 2
    assert subjects.near_duplicates(codes, number < 2, number == 2) == 1


ROWS = '\ufeffsubject,path,age\nS1,a/x.jpg,70\nS2,"a/y, z.jpg",70\nS1, ./b/ä.jpg ,70\nS3,c ,70\n'


def test_a_table_follows_the_order_of_paths() -> None:
    paths = ["b/ä.jpg", "a/y, z.jpg", "c "]
    assert subjects.listed(ROWS.encode(), "x.csv", paths) == ["S1", "S2", "S3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "must name the columns"),
        (b"image;subject\n", "must name the columns"),
        (b"path,subject\n\xff,1\n", "not a UTF-8 CSV table"),
        (b'path,subject\n"a,1\n', "not a UTF-8 CSV table"),
        (
            b"path,subject\na.jpg,S1\nb.jpg,\n,S2\na.jpg,S3\n./c.jpg,S4\nd.jpg\ne\x1b,1\ne\x1b,1\n",
            "\n".join(
                [
                    "x.csv has 6 fault(s):",
                    "  line 3: empty subject",
                    "  line 4: empty path",
                    "  line 5: a.jpg is listed twice",
                    "  line 7: empty subject",
                    r"  line 9: e\x1b is listed twice",
                    "  missing.jpg is not listed",
                ]
            ),
        ),
    ],
)
def test_a_table_with_faults(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        subjects.listed(content, "x.csv", ["a.jpg", "c.jpg", "missing.jpg"])


@pytest.mark.parametrize("name", ["subjects.csv", "classes.txt", "origin.csv"])
def test_a_table_that_is_no_file_is_not_ignored(tmp_path: Path, name: str) -> None:
    table = tmp_path / name
    makers: dict[str, Callable[[], object]] = {
        "symbolic link": lambda: table.symlink_to("gone"),
        "not a regular file; remove it": lambda: os.mkfifo(table),
        "empty file": table.touch,
        "not a regular file": table.mkdir,
    }
    for message, make in makers.items():
        make()
        with pytest.raises(UserError, match=f"{name}: {message}"):
            subjects.find(read(tmp_path), "auto")
        table.rmdir() if table.is_dir() else table.unlink()


def test_slices_of_one_subject_are_more_alike_than_half() -> None:
    """A gap below that is between subjects that happen to be alike."""
    assert subjects.clear_gap(chain([0.55, 0.21, 0.56]), 4) == (0.21, 0.55)
    assert subjects.clear_gap(chain([0.45, 0.21, 0.46]), 4) is None

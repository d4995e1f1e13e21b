"""From files to packed arrays: nothing lost, nothing mixed up, nothing left behind."""

import csv
import re
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from alzmri.classes import FOLDERS
from alzmri.data import images, overview, subjects
from alzmri.data.counts import count
from alzmri.data.packing import pack, summary
from alzmri.data.prepared import Prepared
from alzmri.errors import UserError


@pytest.fixture
def collection(tmp_path, write):
    """Four subjects per class, three slices each."""
    for stage, folder in enumerate(FOLDERS):
        for person in range(4):
            for number in range(3):
                name = f"{person}_{number}.jpg"
                write(tmp_path / "classes" / folder / name, 10 * stage + person, number)
    return tmp_path / "classes"


@pytest.fixture
def packed(collection, tmp_path, make_params):
    """A function that packs ``collection`` into a new folder."""

    def run(**changes):
        params = make_params(**changes)
        directory = tmp_path / "prepared"
        directory.mkdir(exist_ok=True)
        result = pack(collection, directory, params)
        return result, Prepared.open(params, directory)

    return run


def test_every_row_holds_the_pixels_of_its_file(packed, collection):
    _, prepared = packed(data={"image_size": 32})
    assert prepared.images.shape == (48, 32, 32)
    assert prepared.images.dtype == np.uint8
    for row in prepared.rows:
        pixels = cv2.imread(str(collection / row.path), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(prepared.images[row.index], images.fit(pixels, 32, "pad"))


def test_people_are_found_in_the_pixels_and_kept_together(packed):
    result, prepared = packed()
    who = {}
    for row in prepared.rows:
        who.setdefault(row.path.rsplit("_")[0], set()).add(row.subject)
    assert all(len(found) == 1 for found in who.values())
    assert len({row.subject for row in prepared.rows}) == 16
    assert result.near_duplicates == 0


def test_a_slice_split_shows_its_twins(packed):
    result, prepared = packed(split={"unit": "slice"})
    known = prepared.subjects("train")
    shared = [row for row in prepared.rows if row.split == "test" and row.subject in known]
    # Of test slices; training has more slices that are like one of them.
    assert 0 < result.near_duplicates <= len(shared)


def test_the_summary_says_how_people_were_found(packed, collection):
    result, _ = packed()
    gap = result.people.gap
    found = summary(result)["people"]
    assert found["from"] == "pixels"
    assert found["gap"] == [round(gap.low, 3), round(gap.high, 3)]
    assert gap.low < found["cut"] < gap.high
    with (collection / "subjects.csv").open("w") as handle:
        handle.write("path,subject\n")
        for path in sorted(collection.rglob("*.jpg")):
            name = path.relative_to(collection)
            handle.write(f"{name},{str(name).rpartition('_')[0]}\n")
    assert summary(packed()[0])["people"] == {"from": "file", "cut": None, "gap": None}


def test_the_figure_of_links_is_the_same_every_time(packed, tmp_path):
    result, _ = packed()
    found, drawn = result.people, {}
    for name, people in (
        ("pixels", subjects.People(found.names, subjects.Gap(0.3, 0.8), 0.55)),
        ("again", subjects.People(found.names, subjects.Gap(0.3, 0.8), 0.55)),
        ("file", subjects.People(found.names)),
        ("no gap", subjects.People(found.names, cut=subjects.CUT)),
        ("unclear", None),
    ):
        overview.draw_links(tmp_path / f"{name}.png", result.links, people, "mine")
        drawn[name] = (tmp_path / f"{name}.png").read_bytes()
    assert drawn["pixels"] == drawn["again"]
    assert len(set(drawn.values())) == 4


def test_a_table_of_subjects_goes_before_the_pixels(packed, collection):
    with (collection / "subjects.csv").open("w") as handle:
        handle.write("path,subject\n")
        for number, path in enumerate(sorted(collection.rglob("*.jpg"))):
            handle.write(f"{path.relative_to(collection)},S{number % 24}\n")
    _, prepared = packed()
    assert {row.subject for row in prepared.rows} == {f"S{n}" for n in range(24)}
    _, prepared = packed(split={"subjects": "pixels"})
    assert all(row.subject.startswith("P") for row in prepared.rows)


def test_a_table_that_is_asked_for_must_be_there(packed):
    with pytest.raises(UserError, match=r"subjects\.csv not found"):
        packed(split={"subjects": "file"})


def test_merged_classes_share_a_label(packed):
    result, prepared = packed(data={"merge": "binary"})
    assert prepared.classes == ("Non Demented", "Demented")
    assert np.bincount(prepared.labels).tolist() == [12, 36]
    assert set(summary(result)["split"]["test"]) == {"Non Demented", "Demented"}


def test_rejected_files_are_listed_and_counted(packed, collection, tmp_path):
    (collection / "NonDemented" / "empty.jpg").touch()
    source = collection / "MildDemented" / "0_0.jpg"
    (collection / "MildDemented" / "again.jpg").write_bytes(source.read_bytes())
    result, prepared = packed()
    counts = summary(result)
    assert (counts["images"], counts["rejected"], counts["duplicates"]) == (48, 2, 1)
    assert len(prepared.rows) == 48
    with (tmp_path / "prepared" / "rejected.csv").open() as handle:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(handle)}
    assert listed == {
        "MildDemented/again.jpg": "duplicate of MildDemented/0_0.jpg",
        "NonDemented/empty.jpg": "empty file",
    }


def test_no_scratch_file_stays(packed, tmp_path):
    packed()
    names = {path.name for path in (tmp_path / "prepared").iterdir()}
    assert names == {
        *("images.npy", "manifest.csv", "rejected.csv"),
        *("params.json", "summary.json"),
    }


def test_a_class_that_is_missing_somewhere_is_reported(packed, collection):
    for path in (collection / "ModerateDemented").glob("[23]_*"):
        path.unlink()
    result, _ = packed()
    (problem,) = _problems(result)
    assert problem.startswith("Moderate Demented has 2 subjects and does not occur in val:")
    assert _problems(packed(data={"merge": "three-class"})[0]) == []


def _problems(packed):
    return overview.problems(packed.rows, count(packed.rows, packed.classes), packed.classes)


def test_of_unknown_subjects_nothing_is_claimed(packed, collection):
    (collection / "subjects.csv").write_text("not read")
    result, prepared = packed(split={"unit": "slice", "subjects": "unknown"})
    found = summary(result)
    assert not prepared.subjects_known
    assert found["subjects"] is None
    assert found["people"] == {"from": "unknown", "cut": None, "gap": None}
    assert {part["subjects"] for of in found["split"].values() for part in of.values()} == {0}
    assert len(prepared.subjects("train")) == len(prepared.indices("train"))


def test_the_digest_covers_pixels_split_and_the_order_of_the_classes(packed):
    digests = {packed(split={"seed": seed})[1].digest for seed in (0, 0, 1)}
    assert len(digests) == 2
    _, prepared = packed()
    assert replace(prepared, classes=prepared.classes[::-1]).digest not in digests
    assert packed(data={"fit": "stretch"})[1].digest not in digests


def _cut_images(directory):
    path = directory / "images.npy"
    path.write_bytes(path.read_bytes()[:200])


def _cut_manifest(directory):
    path = directory / "manifest.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))


def _drop_column(directory):
    path = directory / "manifest.csv"
    path.write_text("\n".join(line.rpartition(",")[0] for line in path.read_text().splitlines()))


def _empty_manifest(directory):
    (directory / "manifest.csv").write_text("")


def _header_only(directory):
    path = directory / "manifest.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")


def _not_utf8(directory):
    (directory / "manifest.csv").write_bytes(b"\xff\xfe")


def _empty_images(directory):
    (directory / "images.npy").write_bytes(b"")


def _text_images(directory):
    (directory / "images.npy").write_text("these are no images")


DAMAGES = [
    *(_cut_images, _empty_images, _text_images),
    *(_cut_manifest, _drop_column, _empty_manifest, _header_only, _not_utf8),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_name_the_remedy(packed, make_params, tmp_path, damage):
    packed()
    damage(tmp_path / "prepared")
    with pytest.raises(UserError, match=r"is damaged .*dvc repro --force prepare"):
        Prepared.open(make_params(), tmp_path / "prepared")


def test_data_made_with_other_parameters_are_refused(packed, make_params, tmp_path):
    packed()
    Prepared.open(make_params(train={"lr": 0.5}), tmp_path / "prepared")
    for change in ({"data": {"image_size": 32}}, {"split": {"unit": "slice"}}):
        with pytest.raises(UserError, match="other values of data or split"):
            Prepared.open(make_params(**change), tmp_path / "prepared")


def test_unprepared_data_name_the_remedy(make_params, tmp_path):
    with pytest.raises(UserError, match="dvc repro prepare"):
        Prepared.open(make_params(), tmp_path)


def test_a_file_that_cannot_be_written_is_one_sentence(collection, tmp_path, committed):
    """As on a full disk, which takes root to make: files may not grow beyond 50 kB."""
    (tmp_path / "params.yaml").write_text(committed("params.yaml").read_text())
    code = (
        "import resource, sys; from pathlib import Path; from alzmri import params, terminal\n"
        "from alzmri.data.packing import pack\n"
        "from alzmri.files import replacing_directory\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "def main():\n"
        "    with replacing_directory(Path(sys.argv[2])) as directory:\n"
        "        pack(Path(sys.argv[1]), directory, params.load())\n"
        "terminal.start(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, collection, tmp_path / "out/prepared"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch("error: (No space left on device|File too large).*\n", done.stderr)
    assert list((tmp_path / "out").iterdir()) == []

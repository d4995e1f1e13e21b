"""A write that is cut off leaves the old state, whole."""

import signal
import subprocess
import sys

import pytest

from alzmri.files import replacing, replacing_directory, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"good": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"bad": float("nan")})
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("half \ud800", encoding="utf-8")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_directory_leaves_the_old_one(tmp_path):
    path = tmp_path / "models"
    with replacing_directory(path) as new:
        (new / "weights").write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing_directory(path) as new:
        (new / "weights").write_text("half \ud800", encoding="utf-8")
    assert (path / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing_directory(path) as new:
        (new / "other").write_text("new")
    assert [file.name for file in path.iterdir()] == ["other"]


def test_a_directory_moved_aside_by_a_killed_process_comes_back(tmp_path):
    path = tmp_path / "models"
    killed = (
        "import os, pathlib, sys; from alzmri.files import replacing_directory\n"
        "pathlib.Path.replace_ = pathlib.Path.replace\n"
        "def replace(self, target):\n"
        "    if self.suffix == '.tmp': os.kill(os.getpid(), 9)\n"
        "    return self.replace_(target)\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "path.mkdir(); (path / 'weights').write_text('old')\n"
        "pathlib.Path.replace = replace\n"
        "with replacing_directory(path) as new: (new / 'weights').write_text('new')\n"
    )
    done = subprocess.run([sys.executable, "-c", killed, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), replacing_directory(path):
        raise ZeroDivisionError
    assert (path / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights"
    path.write_text("old")
    code = (
        "import os, pathlib, sys; from alzmri.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_may_take_the_place_of_a_file_or_a_link(tmp_path):
    for name in ("file", "link", "dangling"):
        path = tmp_path / name
        if name == "file":
            path.write_text("mine")
        else:
            path.symlink_to(tmp_path if name == "link" else tmp_path / "nowhere")
        for content in ("first", "second"):
            with replacing_directory(path) as new:
                (new / "x").write_text(content)
        assert (path / "x").read_text() == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file", "link"]

"""docs/sharing.md, typed: experiments between clones, through git and the S3 remote."""

import re
import shutil
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/sharing.md"


@pytest.fixture
def make_clone(clone, tmp_path, free_block):
    """A function that clones what is in the git remote; all use the first clone's store."""
    clone.run("alzmri", "store", "up", "--port", str(free_block()))
    hub = str(tmp_path / "hub.git")
    clone.run("git", "init", "--quiet", "--bare", "--initial-branch", "main", hub)
    clone.run("git", "remote", "add", "origin", hub)
    clone.run("git", "push", "--quiet", "origin", "HEAD")

    def make(name):
        other = type(clone)(tmp_path / name)
        clone.run("git", "clone", "--quiet", hub, str(other.root))
        shutil.copy(clone.root / ".dvc/config.local", other.root / ".dvc/config.local")
        for key, value in (("user.name", name), ("user.email", f"{name}@localhost")):
            other.run("git", "config", key, value)
        return other

    return make


def test_what_the_page_says_is_true(clone, make_clone):
    ours, theirs, commit, restore = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    second = make_clone("second")
    clone.run("sh", "-ec", ours)
    said = second.run("sh", "-ec", theirs).stdout
    assert "faster" in said
    assert "Running stage" not in said
    assert "Data and pipelines are up to date" in said
    second.run("sh", "-ec", commit)

    third = make_clone("third")
    said = third.run("sh", "-ec", restore).stdout
    assert "Running stage" not in said
    assert not third.run("git", "status", "--porcelain").stdout
    weights = "models/model.safetensors"
    for path in (weights, "plots/confusion.png", "data/prepared/images.npy"):
        assert (third.root / path).read_bytes() == (second.root / path).read_bytes()
    assert (third.root / weights).read_bytes() != (clone.root / weights).read_bytes()

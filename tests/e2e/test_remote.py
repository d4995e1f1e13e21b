"""A second clone gets everything from the S3 remote and computes nothing."""

import shutil

import pytest


@pytest.fixture
def up(clone, free_block):
    clone.run("alzmri", "store", "up", "--port", str(free_block()))
    return clone


def test_a_second_clone_pulls_and_skips_every_stage(up, clone, tmp_path):
    clone.run("dvc", "push")
    second = type(clone)(tmp_path / "second")
    clone.run("git", "clone", "--quiet", str(clone.root), str(second.root))
    shutil.copy(clone.root / ".dvc/config.local", second.root / ".dvc/config.local")
    second.run("dvc", "pull")
    assert "Running stage" not in second.run("dvc", "repro").stdout
    for path in ("models/model.safetensors", "plots/confusion.png", "data/prepared/images.npy"):
        assert (second.root / path).read_bytes() == (clone.root / path).read_bytes()


def test_make_repro_in_one_line_leaves_the_store_as_it_was(clone, free_block):
    port = str(free_block())
    clone.run("alzmri", "store", "up", "--port", port)
    clone.run("alzmri", "store", "down")
    clone.run("alzmri", "store", "run", "--", "sh", "-c", "dvc repro && dvc push")
    assert "answers     False" in clone.run("alzmri", "store", "status", code=1).stdout
    assert "macro F1" in clone.run("alzmri", "results").stdout

"""A second clone gets everything from the S3 remote and computes nothing."""

import shutil


def test_make_repros_one_line_pushes_what_a_second_clone_pulls(clone, free_block, tmp_path):
    """And it leaves the store as it was: down."""
    clone.run("alzmri", "store", "up", "--port", str(free_block()))
    clone.run("alzmri", "store", "down")
    clone.run("alzmri", "store", "run", "--", "sh", "-c", "dvc repro && dvc push")
    assert "answers     False" in clone.run("alzmri", "store", "status", code=1).stdout
    clone.run("alzmri", "store", "up")
    second = type(clone)(tmp_path / "second")
    clone.run("git", "clone", "--quiet", str(clone.root), str(second.root))
    shutil.copy(clone.root / ".dvc/config.local", second.root / ".dvc/config.local")
    second.run("dvc", "pull")
    assert "Running stage" not in second.run("dvc", "repro").stdout
    for path in ("models/model.safetensors", "plots/confusion.png", "data/prepared/images.npy"):
        assert (second.root / path).read_bytes() == (clone.root / path).read_bytes()

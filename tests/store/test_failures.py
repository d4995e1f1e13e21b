"""A plain `dvc push` or `dvc pull` says within seconds what is wrong with the store."""

import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SOON = 15.0
"""Measured at 0.8 s; the rest is for a busy machine."""
SILENT = 30.0
"""Measured at 8 s, and 23 s with the committed timeout: s3fs tries five times."""


def fails(repo, command: str, within: float) -> str:
    start = time.monotonic()
    done = repo.run("dvc", command)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < within
    return done.stderr


@pytest.fixture
def checkout(shared_store, tmp_path):
    """A checkout that uses the running store, with one folder to push."""
    repo = shared_store.clone(tmp_path / "checkout")
    repo.track("data", 1000, 2000)
    return repo


def both_fail(repo, reason: str) -> None:
    """Push what the store lacks, and pull what the cache lacks."""
    assert reason in fails(repo, "push", SOON)
    repo.forget("data")
    assert reason in fails(repo, "pull", SOON)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_down(checkout, new_repo):
    free = new_repo("ports").port
    replace_in(checkout.root / ".dvc" / "config.local", f":{checkout.port}", f":{free}")
    both_fail(checkout, "Could not connect to the endpoint")


def test_wrong_key(checkout):
    replace_in(
        checkout.root / ".dvc" / "config.local", "secret_access_key = ", "secret_access_key = wrong"
    )
    both_fail(checkout, "Forbidden")


def test_no_bucket(checkout):
    replace_in(checkout.root / ".dvc" / "config", "s3://alzmri/", "s3://elsewhere/")
    both_fail(checkout, "does not exist")


def test_no_keys_asks_no_cloud_for_them(checkout):
    (checkout.root / ".dvc" / "config.local").unlink()
    replace_in(checkout.root / ".dvc" / "config", ":8333", f":{checkout.port}")
    both_fail(checkout, "Unable to locate credentials")


def test_never_answering(checkout, free_block):
    with socket.socket() as silent:
        # Not any free port: the system draws from a range that the store does not take.
        silent.bind(("127.0.0.1", free_block()))
        silent.listen(100)
        address = f":{silent.getsockname()[1]}"
        replace_in(checkout.root / ".dvc" / "config.local", f":{checkout.port}", address)
        # A quarter of the committed time, to spare everyone the other three.
        replace_in(checkout.root / ".dvc" / "config", "read_timeout = 4", "read_timeout = 1")
        # Both at once: each only waits.
        with ThreadPoolExecutor() as aside:
            start = time.monotonic()
            asked = aside.submit(lambda: (checkout.store("status"), time.monotonic() - start))
            assert "Read timeout" in fails(checkout, "push", SILENT)
            status, seconds = asked.result()
    assert status.returncode == 1
    assert "no answer within" in status.stderr
    assert seconds < SOON


def test_settings_hold_in_any_folder_and_in_queued_workspaces(checkout):
    # The user's own settings, for other work, do not matter either.
    mine = {"AWS_PROFILE": "work", "AWS_REGION": "eu-central-1", "AWS_CA_BUNDLE": "/nowhere.pem"}
    pushed = checkout.run("dvc", "push", **mine)
    assert pushed.returncode == 0, pushed.stderr
    assert checkout.store("status", **mine).returncode == 0
    queued = checkout.root / ".dvc" / "tmp" / "exps" / "tmpabc"
    assert checkout.run("git", "clone", "--quiet", ".", str(queued)).returncode == 0
    shutil.copy(checkout.root / ".dvc" / "config.local", queued / ".dvc")
    shutil.copy(checkout.root / "data.dvc", queued)
    for folder in (checkout.root / "data", queued):
        done = checkout.run("dvc", "--cd", str(folder), "pull", **mine)
        assert done.returncode == 0, done.stderr
    assert (queued / "data" / "0").read_bytes() == (checkout.root / "data" / "0").read_bytes()

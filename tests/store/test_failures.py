"""A plain `dvc push` or `dvc pull` says within seconds what is wrong with the store."""

import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor

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


def test_what_is_wrong_is_said_soon(checkout, free_block):
    files = [checkout.root / ".dvc" / name for name in ("config", "config.local")]
    originals = [path.read_text() for path in files]
    shared, private = originals
    keyless = shared.replace(":8333", f":{checkout.port}")
    down = private.replace(f":{checkout.port}", f":{free_block()}")
    for faulty, reason in (
        ((shared, private.replace("access_key = ", "access_key = wrong")), "Forbidden"),
        ((shared.replace("s3://alzmri/", "s3://elsewhere/"), private), "does not exist"),
        ((keyless, ""), "Unable to locate credentials"),
        ((shared, down), "Could not connect to the endpoint"),
    ):
        for path, text in zip(files, faulty, strict=True):
            path.write_text(text)
        assert [path.read_text() for path in files] != originals
        assert reason in fails(checkout, "push", SOON)
    checkout.forget("data")
    assert reason in fails(checkout, "pull", SOON)


def test_never_answering(checkout, free_block):
    with socket.socket() as silent:
        # Not any free port: the system draws from a range that the store does not take.
        silent.bind(("127.0.0.1", free_block()))
        silent.listen(100)
        for name, old, new in (
            ("config.local", f":{checkout.port}", f":{silent.getsockname()[1]}"),
            # A quarter of the committed time, to spare everyone the other three.
            ("config", "read_timeout = 4", "read_timeout = 1"),
        ):
            path = checkout.root / ".dvc" / name
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
        # Both at once: each only waits.
        with ThreadPoolExecutor() as aside:
            start = time.monotonic()
            asked = aside.submit(lambda: (checkout.store("status"), time.monotonic() - start))
            assert "Read timeout" in fails(checkout, "push", SILENT)
            status, seconds = asked.result()
    assert status.returncode == 1
    assert "the local store is not running" in status.stderr
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

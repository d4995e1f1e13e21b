"""A push that is killed leaves nothing that passes for whole; the next push repairs it."""

from pathlib import Path

import pytest

from alzmri.store import server

LARGE = 105_000_000
"""Above the 100 MB from which s3fs uploads in parts."""


def stored_bytes(repo) -> int:
    return sum(path.stat().st_size for path in Path(repo.root / ".store" / "data").glob("*.dat"))


def repaired(repo, expected: dict[str, bytes]) -> bool:
    done = repo.run("dvc", "push")
    assert done.returncode == 0, done.stderr
    repo.forget("data")
    pulled = repo.run("dvc", "pull")
    assert pulled.returncode == 0, pulled.stderr
    return repo.contents("data") == expected


@pytest.mark.parametrize("sizes", [(LARGE,), (200_000,) * 150], ids=["parts", "files"])
def test_dvc_killed_while_pushing(shared_store, tmp_path, eventually, sizes):
    repo = shared_store.clone(tmp_path / "checkout")
    repo.track("data", *sizes)
    expected = repo.contents("data")
    before = stored_bytes(shared_store)
    push = repo.start("dvc", "push")
    eventually(lambda: stored_bytes(shared_store) > before + 10_000_000)
    push.kill()
    assert push.wait(10) != 0
    # Nothing half-pushed is in the store: what is there already pulls whole.
    assert repaired(repo, expected)


def test_server_killed_while_pushing(store_repo, eventually):
    store_repo.track("data", LARGE)
    expected = store_repo.contents("data")
    running = server.find(store_repo.root)
    assert running is not None
    push = store_repo.start("dvc", "push")
    eventually(lambda: stored_bytes(store_repo) > 10_000_000)
    running.process.kill()
    assert push.wait(30) != 0
    assert store_repo.store("status").returncode == 1
    assert store_repo.store("up").returncode == 0
    assert repaired(store_repo, expected)

"""A push that is killed leaves nothing that passes for whole; the next push repairs it."""

from pathlib import Path

from alzmri.store import server

from ..processes import limit

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


def test_files_of_which_some_are_pushed(shared_store, tmp_path, eventually):
    repo = shared_store.clone(tmp_path / "checkout")
    repo.track("data", *(200_000,) * 100)
    expected = repo.contents("data")
    _kill_dvc(repo, shared_store, eventually)
    # Nothing half-pushed is in the store: what is there already pulls whole.
    assert repaired(repo, expected)


def test_a_file_of_which_parts_are_pushed_when_dvc_or_the_server_is_killed(store_repo, eventually):
    store_repo.track("data", LARGE)
    expected = store_repo.contents("data")
    _kill_dvc(store_repo, store_repo, eventually)
    before = stored_bytes(store_repo)
    running = server.find(store_repo.root)
    push = store_repo.start("dvc", "push")
    eventually(lambda: stored_bytes(store_repo) > before + 10_000_000)
    running.process.kill()
    assert push.wait(limit(30)) != 0
    assert store_repo.store("status").returncode == 1
    assert store_repo.store("up").returncode == 0
    assert repaired(store_repo, expected)


def _kill_dvc(repo, stored, eventually) -> None:
    before = stored_bytes(stored)
    push = repo.start("dvc", "push")
    eventually(lambda: stored_bytes(stored) > before + 8_000_000)
    push.kill()
    assert push.wait(limit(10)) != 0

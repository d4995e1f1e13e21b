"""`alzmri store run`: the store is up for one command and left as it was."""

import signal
from pathlib import Path

import psutil
import pytest

from alzmri.store import server


def test_store_is_up_only_for_the_command(new_repo):
    repo = new_repo("repo")
    repo.track("data", 1000)
    done = repo.store("run", "--", "sh", "-c", "dvc push && exit 7")
    assert done.returncode == 7, done.stderr
    assert server.find(repo.root) is None


def test_store_that_was_up_stays_up(shared_store):
    assert shared_store.store("run", "--", "true").returncode == 0
    assert server.find(shared_store.root) is not None


def test_unknown_command(new_repo):
    repo = new_repo("repo")
    done = repo.store("run", "--", "no-such-command")
    assert done.returncode == 2
    assert "no such command: no-such-command" in done.stderr
    assert server.find(repo.root) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_command_and_the_store(new_repo, eventually, number):
    repo = new_repo("repo")
    run = repo.start(*repo.command("run", "--", "sh", "-c", "sleep 300; touch survived"))
    sleeping: list[psutil.Process] = []

    def asleep() -> bool:
        sleeping[:] = [p for p in run.children(recursive=True) if p.name() == "sleep"]
        return bool(sleeping)

    eventually(asleep)
    run.send_signal(number)
    assert run.wait(30) == 128 + number
    assert not sleeping[0].is_running()
    assert server.find(repo.root) is None
    assert not Path(repo.root / "survived").exists()


def test_signal_during_the_start_leaves_no_server(new_repo, eventually):
    repo = new_repo("repo")
    run = repo.start(*repo.command("run", "--", "touch", "ran"))
    eventually(lambda: server.find(repo.root))
    run.terminate()
    assert run.wait(30) in {0, 128 + signal.SIGTERM}
    assert server.find(repo.root) is None


def test_other_remote_needs_no_server(new_repo):
    repo = new_repo("repo")
    assert repo.store("use", "s3://elsewhere/dvc", "--no-check").returncode == 0
    assert repo.store("run", "--", "sh", "-c", "exit 3").returncode == 3
    assert not (repo.root / ".store").exists()

"""`alzmri store run`: the store is up for one command and left as it was."""

import signal
from pathlib import Path

import psutil

from alzmri.store import remotes, server

from ..processes import limit


def test_the_store_is_up_only_for_the_command_and_nothing_is_left(new_repo):
    repo = new_repo("repo")
    done = repo.store("run", "--", "no-such-command")
    assert done.returncode == 2
    assert "no such command: no-such-command" in done.stderr
    assert not (repo.root / ".store").exists()
    repo.track("data", 1000)
    done = repo.store("run", "--", "sh", "-c", "dvc push --quiet && exit 7")
    assert done.returncode == 7, done.stderr
    assert server.find(repo.root) is None


def sleeping(run: psutil.Popen) -> list[psutil.Process]:
    return [process for process in run.children(recursive=True) if process.name() == "sleep"]


def test_a_signal_ends_the_command_and_the_store(new_repo, eventually):
    repo = new_repo("repo")
    run = repo.start(*repo.command("run", "--", "sh", "-c", "sleep 300; touch survived"))
    eventually(lambda: sleeping(run))
    below = sleeping(run)
    run.send_signal(signal.SIGTERM)
    assert run.wait(limit(30)) == 128 + signal.SIGTERM
    assert server.find(repo.root) is None
    assert not Path(repo.root / "survived").exists()
    assert not any(process.is_running() for process in below)


def test_a_signal_during_the_start_leaves_no_server(new_repo, eventually):
    repo = new_repo("repo")
    run = repo.start(*repo.command("run", "--", "touch", "ran"))
    eventually(lambda: server.find(repo.root))
    run.terminate()
    assert run.wait(limit(30)) in {0, 128 + signal.SIGTERM}
    assert server.find(repo.root) is None


def test_a_store_that_was_up_stays_up_and_another_remote_must_answer(new_repo, shared_store):
    assert shared_store.store("run", "--", "true").returncode == 0
    assert server.find(shared_store.root) is not None
    repo, there = new_repo("repo"), remotes.default(shared_store.root)
    words = ("use", "s3://alzmri/dvc", "--endpoint-url", there.endpoint, "--no-check")
    assert repo.store(*words).returncode == 0
    keys = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), there.keys, strict=True))
    assert repo.store("run", "--", "sh", "-c", "exit 3", **keys).returncode == 3
    wrong = keys | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    refused = repo.store("run", "--", "touch", "ran", **wrong)
    assert refused.returncode == 1
    assert "the key is wrong" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (repo.root / "ran").exists()
    assert not (repo.root / ".store").exists()

"""`alzmri store run`: the store is up for one command and left as it was."""

import signal
import sys
from functools import partial
from pathlib import Path

import psutil

from alzmri.store import server, settings


def test_store_is_up_only_for_the_command(new_repo):
    repo = new_repo("repo")
    repo.track("data", 1000)
    done = repo.store("run", "--", "sh", "-c", "dvc push && exit 7")
    assert done.returncode == 7, done.stderr
    assert server.find(repo.root) is None


def test_the_ended_server_leaves_the_process_table(new_repo):
    """As a zombie it would still count as a process left behind."""
    code = (
        "import psutil; from pathlib import Path; from alzmri.store import session\n"
        "session.run(Path.cwd(), ['true']); print(psutil.Process().children())"
    )
    done = new_repo("repo").run(sys.executable, "-c", code)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_store_that_was_up_stays_up(shared_store):
    assert shared_store.store("run", "--", "true").returncode == 0
    assert server.find(shared_store.root) is not None


def test_unknown_command(new_repo):
    repo = new_repo("repo")
    done = repo.store("run", "--", "no-such-command")
    assert done.returncode == 2
    assert "no such command: no-such-command" in done.stderr
    assert not (repo.root / ".store").exists()


def sleeping(run: psutil.Popen) -> list[psutil.Process]:
    return [process for process in run.children(recursive=True) if process.name() == "sleep"]


def test_signal_ends_the_command_and_the_store(new_repo, eventually):
    started = []
    for number in (signal.SIGINT, signal.SIGTERM):
        repo = new_repo(number.name)
        words = repo.command("run", "--", "sh", "-c", "sleep 300; touch survived")
        started.append((number, repo, repo.start(*words)))
    below = []
    for number, _, run in started:
        eventually(partial(sleeping, run))
        below += sleeping(run)
        run.send_signal(number)
    for number, repo, run in started:
        assert run.wait(30) == 128 + number
        assert server.find(repo.root) is None
        assert not Path(repo.root / "survived").exists()
    assert not any(process.is_running() for process in below)


def test_signal_during_the_start_leaves_no_server(new_repo, eventually):
    repo = new_repo("repo")
    run = repo.start(*repo.command("run", "--", "touch", "ran"))
    eventually(lambda: server.find(repo.root))
    run.terminate()
    assert run.wait(30) in {0, 128 + signal.SIGTERM}
    assert server.find(repo.root) is None


def test_other_remote_needs_no_server_but_must_answer(new_repo, shared_store):
    repo, there = new_repo("repo"), settings.default(shared_store.root)
    words = ("use", "s3://alzmri/dvc", "--endpoint-url", there.endpoint, "--no-check")
    assert repo.store(*words).returncode == 0
    keys = {"AWS_ACCESS_KEY_ID": there.key, "AWS_SECRET_ACCESS_KEY": there.secret}
    assert repo.store("run", "--", "sh", "-c", "exit 3", **keys).returncode == 3
    wrong = keys | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    refused = repo.store("run", "--", "touch", "ran", **wrong)
    assert refused.returncode == 1
    assert "the key is wrong" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (repo.root / "ran").exists()
    assert not (repo.root / ".store").exists()

"""`alzmri doctor`: each check against the real condition that it is there for."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from alzmri.doctor import examine, machine, queue, remote, repository
from alzmri.doctor.finding import Level

PROJECT = Path(__file__).parents[1]
DOCTOR = (
    "import sys, typer; from alzmri import terminal; from alzmri.doctor import doctor;"
    "app = typer.Typer(); app.command()(doctor); sys.exit(terminal.run(app))"
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    """The environment's programs first, and nothing of the person who runs the tests."""
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "PATH": bin_first,
        "PYTHONPATH": str(PROJECT / "src"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("EMAIL", "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with which all is well but for the store, which is down."""
    root = tmp_path / "repo"
    shutil.copytree(
        PROJECT / ".dvc",
        root / ".dvc",
        ignore=shutil.ignore_patterns("config.local", "cache", "tmp"),
    )
    (root / ".dvc" / "plots.html").touch()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    (root / ".dvc" / "config.local").write_text(
        "['remote \"store\"']\naccess_key_id = a\nsecret_access_key = b\n"
        f"endpointurl = http://127.0.0.1:{port}\n"
    )
    (root / "src").mkdir()
    (root / "src" / "train.py").touch()
    git(root, "init", "--quiet")
    git(root, "config", "user.name", "test")
    git(root, "config", "user.email", "test@localhost")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "start")
    return root


def doctor(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DOCTOR, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_only_the_store_is_missing(root):
    findings = [finding for finding in examine(root) if finding.level is not Level.OK]
    assert [(finding.subject, finding.level) for finding in findings] == [("store", Level.WARN)]
    assert "alzmri store up" in findings[0].remedy


def test_report_and_exit_status(root):
    well = doctor(root)
    assert well.returncode == 0, well.stdout
    assert "  ok  git" in well.stdout
    (root / ".dvc" / "plots.html").unlink()
    ill = doctor(root / "src")
    assert ill.returncode == 1
    assert "FAIL  plots" in ill.stdout
    assert "make setup" in ill.stdout


def test_before_a_run_only_problems_are_said(root):
    quiet = doctor(root, "--before-run")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    (root / ".dvc" / "plots.html").unlink()
    loud = doctor(root, "--before-run")
    assert loud.returncode == 1
    assert len(loud.stderr.splitlines()) == 1


def test_outside_a_repository(tmp_path):
    lost = doctor(tmp_path)
    assert lost.returncode == 1
    assert "not inside a DVC repository" in lost.stdout


@pytest.mark.parametrize(
    ("version", "level"), [((3, 10), Level.FAIL), ((3, 12), Level.OK), ((3, 13), Level.FAIL)]
)
def test_python_version(version, level):
    assert machine.python_version(version).level is level


def test_environment_must_come_first(monkeypatch):
    assert machine.environment().level is Level.OK
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    finding = machine.environment()
    assert finding.level is Level.FAIL
    assert "activate" in finding.remedy


def test_disk(root, monkeypatch):
    assert machine.disk(root).level is Level.OK
    monkeypatch.setattr(machine, "ENOUGH_BYTES", 10**18)
    assert machine.disk(root).level is Level.WARN
    monkeypatch.setattr(machine, "TOO_FEW_BYTES", 10**18)
    assert machine.disk(root).level is Level.FAIL


def test_folder_that_cannot_be_written():
    assert machine.writable(Path("/proc")).level is Level.FAIL


def test_git_without_repository_commit_or_identity(root):
    shutil.rmtree(root / ".git")
    assert "not a git repository" in repository.git_repository(root).message
    git(root, "init", "--quiet")
    git(root, "config", "user.useConfigOnly", "true")
    assert repository.git_repository(root).level is Level.OK
    assert repository.first_commit(root).level is Level.FAIL
    assert repository.git_identity(root).level is Level.FAIL


@pytest.mark.parametrize(("before_run", "level"), [(False, Level.FAIL), (True, Level.WARN)])
def test_a_plain_run_needs_neither_commit_nor_identity(root, before_run, level):
    shutil.rmtree(root / ".git")
    git(root, "init", "--quiet")
    git(root, "config", "user.useConfigOnly", "true")
    found = {f.subject: f.level for f in examine(root, before_run=before_run)}
    assert found["git commit"] is level
    assert found["git identity"] is level


def test_untracked_module(root):
    assert repository.untracked_source(root).level is Level.OK
    (root / "src" / "new.py").touch()
    finding = repository.untracked_source(root)
    assert finding.level is Level.WARN
    assert "src/new.py" in finding.message


def test_lock_of_a_running_command(root):
    (root / ".dvc" / "tmp").mkdir()
    with (root / ".dvc" / "tmp" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert repository.lock(root).level is Level.WARN
    assert repository.lock(root).level is Level.OK


def test_path_locks_of_the_dead_the_strange_and_the_damaged(root):
    path = root / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", "pass"]) as dead:
        dead.wait()

    def held_by(pid: int) -> Level:
        path.write_text(json.dumps({"write": {"/x": {"pid": pid, "cmd": "dvc repro"}}}))
        return repository.path_locks(root).level

    assert held_by(dead.pid) is Level.OK
    assert held_by(os.getppid()) is Level.FAIL
    path.write_text("{")
    damaged = repository.path_locks(root)
    assert damaged.level is Level.FAIL
    assert f"rm {path}" in damaged.remedy


def test_store_that_refuses(root):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        shared = root / ".dvc" / "config"
        shared.write_text(
            shared.read_text().replace("remote = store", "remote = team")
            + "['remote \"team\"']\nurl = s3://bucket/x\n"
            f"endpointurl = http://127.0.0.1:{silent.getsockname()[1]}\n"
            "access_key_id = a\nsecret_access_key = b\nregion = us-east-1\n"
        )
        finding = remote.remote(root, may_be_down=True)
    assert finding.level is Level.FAIL
    assert "no answer within" in finding.message


def test_proxy_before_the_store(root, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    finding = remote.remote(root, may_be_down=False)
    assert finding.level is Level.FAIL
    assert "NO_PROXY" in finding.remedy


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.1)


def test_task_whose_worker_was_killed(root):
    (root / "dvc.yaml").write_text(
        "stages:\n  wait:\n    cmd: sleep ${seconds}\n    params: [seconds]\n"
    )
    (root / "params.yaml").write_text("seconds: 1\n")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "stage")
    queued = ["dvc", "exp", "run", "--queue", "--name", "stuck", "-S", "seconds=300"]
    subprocess.run(queued, cwd=root, check=True, capture_output=True)
    # No pipes: the worker would hold them open after the command has ended.
    subprocess.run(["dvc", "queue", "start"], cwd=root, check=True, stdout=subprocess.DEVNULL)
    info = root / ".dvc" / "tmp" / "exps" / "celery" / "dvc-exp-worker-1.json"
    try:
        eventually(lambda: "1 experiments" in queue.stranded_tasks(root).message)
        assert queue.stranded_tasks(root).level is Level.OK
    finally:
        eventually(info.exists)
        worker = psutil.Process(json.loads(info.read_text())["pid"])
        for process in [worker, *worker.children(recursive=True)]:
            process.send_signal(signal.SIGKILL)
    eventually(lambda: queue.stranded_tasks(root).level is Level.WARN)
    assert "dvc queue kill stuck" in queue.stranded_tasks(root).remedy
    subprocess.run(["dvc", "queue", "kill", "stuck"], cwd=root, check=True, capture_output=True)
    assert queue.stranded_tasks(root).level is Level.OK

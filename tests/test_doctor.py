"""`alzmri doctor`: each check against the real condition that it is there for."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alzmri.doctor import examine, machine, remote, repository, source
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
def root(tmp_path: Path, free_block: Callable[[], int]) -> Path:
    """A repository with which all is well but for the store, which is down."""
    root = tmp_path / "repo"
    shutil.copytree(
        PROJECT / ".dvc",
        root / ".dvc",
        ignore=shutil.ignore_patterns("config.local", "cache", "tmp"),
    )
    shutil.copy(PROJECT / "tests/params.yaml", root)
    (root / ".dvc" / "plots.html").touch()
    (root / ".dvc" / "config.local").write_text(
        "['remote \"store\"']\naccess_key_id = a\nsecret_access_key = b\n"
        f"endpointurl = http://127.0.0.1:{free_block()}\n"
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


def test_lock_that_cannot_be_written(root):
    """As in a read-only repository. Nobody, not even root, may write to a running program."""
    lock = root / ".dvc" / "tmp" / "lock"
    lock.parent.mkdir()
    shutil.copy(shutil.which("cat"), lock)
    with subprocess.Popen([lock], stdin=subprocess.PIPE) as running:
        assert repository.lock(root).level is Level.OK
        running.stdin.close()


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


def test_checkpoints_that_nobody_takes_up(root):
    folder = root / ".checkpoints"
    assert repository.checkpoints(root).level is Level.OK
    for run in ("aa", "bb"):
        (folder / run).mkdir(parents=True)
        (folder / run / "000000000008.checkpoint").write_bytes(bytes(1000))
        (folder / f"{run}.lock").touch()
    assert repository.checkpoints(root).level is Level.OK
    for path in (*(folder / "aa").iterdir(), folder / "aa", folder / "aa.lock"):
        os.utime(path, (0, 0))
    finding = repository.checkpoints(root)
    assert finding.level is Level.WARN
    assert "2.0 kB" in finding.message
    subprocess.run(finding.remedy.split("`")[1], shell=True, cwd=root, check=True)  # noqa: S602
    assert sorted(path.name for path in folder.iterdir()) == ["bb", "bb.lock"]


@pytest.fixture
def silent(root):
    """A default remote that accepts connections and never answers, until it is closed."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        shared = root / ".dvc" / "config"
        shared.write_text(
            shared.read_text().replace("remote = store", "remote = team")
            + "['remote \"team\"']\nurl = s3://bucket/x\n"
            f"endpointurl = http://127.0.0.1:{server.getsockname()[1]}\n"
            "access_key_id = a\nsecret_access_key = b\nregion = us-east-1\n"
        )
        yield server


def test_store_that_refuses(root, silent):
    finding = remote.remote(root, may_be_down=True)
    assert finding.level is Level.FAIL
    assert "no answer within" in finding.message


def test_findings_are_printed_as_they_come(root, silent):
    with subprocess.Popen(
        [sys.executable, "-c", DOCTOR], cwd=root, stdout=subprocess.PIPE, text=True
    ) as slow:
        assert "python" in slow.stdout.readline()
        while "checkpoints" not in slow.stdout.readline():
            assert slow.poll() is None
        connection, _ = silent.accept()
        assert slow.poll() is None
        connection.close()
        silent.close()
        assert "FAIL  store" in slow.stdout.read()


def configure(root: Path, content: str | bytes) -> Path:
    path = root / ".dvc" / "config.local"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:abc", "http://127.0.0.1:99999", "http://[::1", "http://[::1]:8333", "here"],
)
def test_endpoint_of_the_local_store_that_cannot_be_used(root, endpoint):
    path = configure(root, f"['remote \"store\"']\nendpointurl = {endpoint}\n")
    finding = remote.remote(root, may_be_down=True)
    assert finding.level is Level.FAIL
    assert f"{path}: endpointurl of remote 'store'" in finding.message


def test_endpoint_elsewhere_that_cannot_be_used(root, silent):
    shared = root / ".dvc" / "config"
    shared.write_text(shared.read_text().replace(f":{silent.getsockname()[1]}", ":99999"))
    finding = remote.remote(root, may_be_down=True)
    assert finding.level is Level.FAIL
    assert f"{shared}: endpointurl of remote 'team'" in finding.message


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "[core\n", "secret\n", "core = 1\n"])
def test_damaged_configuration(root, content):
    path = configure(root, content)
    finding = remote.remote(root, may_be_down=True)
    assert finding.level is Level.FAIL
    assert str(path) in finding.message
    assert "mend or delete it" in finding.message


def test_file_in_the_place_of_the_store(root):
    (root / ".store").touch()
    finding = remote.remote(root, may_be_down=True)
    assert finding.level is Level.FAIL
    assert str(root / ".store") in finding.message


def test_a_check_that_the_system_refuses_is_a_finding_and_the_others_run(root):
    (root / ".dvc" / "tmp" / "lock").mkdir(parents=True)
    (root / ".dvc" / "config.local").unlink()
    (root / ".dvc" / "config.local").mkdir()
    found = {finding.subject: finding for finding in examine(root)}
    assert found["lock"].level is Level.FAIL
    assert f"Is a directory: {root / '.dvc' / 'tmp' / 'lock'}" in found["lock"].message
    assert found["path locks"].level is Level.OK
    assert found["store"].level is Level.FAIL
    assert "it is a folder" in found["store"].message


def test_git_that_is_not_installed(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {finding.subject: finding for finding in examine(root)}
    assert (found["git"].level, found["git"].remedy) == (Level.FAIL, "install git")
    assert not {"git commit", "git identity", "source"} & found.keys()
    assert found["plots"].level is Level.OK
    assert found["store"].level is Level.WARN


def test_parameters_that_a_stage_would_refuse(root):
    path = root / "params.yaml"
    assert source.parameters(root).level is Level.OK
    path.write_text(path.read_text().replace("  lr: 0.0001", "  lr: -1"))
    finding = source.parameters(root)
    assert finding.level is Level.FAIL
    assert "train.lr" in finding.message
    assert "data" not in {finding.subject for finding in examine(root)}
    path.unlink()
    assert source.parameters(root).level is Level.FAIL


@pytest.fixture
def kaggle(root) -> Path:
    """Where the collection that params.yaml names would be; nothing is there."""
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("source: phantom", "source: kaggle"))
    (root / "data").mkdir()
    return root / "data" / "kaggle"


def test_collection_that_is_absent(root, kaggle):
    nowhere = source.collection(root)
    assert nowhere.level is Level.FAIL
    assert "alzmri data import SOURCE --name kaggle" in nowhere.remedy
    kaggle.with_name("kaggle.dvc").touch()
    elsewhere = source.collection(root)
    assert elsewhere.level is Level.FAIL
    assert "dvc pull data/kaggle" in elsewhere.remedy
    kaggle.touch()
    assert "no folder" in source.collection(root).message
    kaggle.unlink()
    (kaggle / "NonDemented").mkdir(parents=True)
    (kaggle / "NonDemented" / "é.jpg").touch()
    assert source.collection(root).level is Level.OK


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: os.mkfifo(folder / "pipe"),
        lambda folder: (folder / "lost").symlink_to("nowhere"),
        lambda folder: (folder / "circle").symlink_to("circle"),
        lambda folder: Path(os.fsdecode(bytes(folder) + b"/\xff.jpg")).touch(),
        lambda folder: Path(os.fsdecode(bytes(folder) + b"/\xff")).mkdir(),
    ],
    ids=["pipe", "link to nothing", "link to itself", "file name", "folder name"],
)
def test_collection_on_which_dvc_hangs_or_crashes(root, kaggle, make):
    folder = kaggle / "train" / "NonDemented"
    folder.mkdir(parents=True)
    make(folder)
    finding = source.collection(root)
    assert finding.level is Level.FAIL
    assert "data/kaggle/train/NonDemented/" in finding.message
    assert finding.message.isascii()


def test_collection_of_links(root, kaggle):
    kaggle.mkdir()
    (kaggle / "link.jpg").symlink_to(root / "params.yaml")
    (kaggle / "up").symlink_to("..")
    finding = source.collection(root)
    assert finding.level is Level.WARN
    assert "2 symbolic links" in finding.message


def test_proxy_before_the_store(root, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    finding = remote.remote(root, may_be_down=False)
    assert finding.level is Level.FAIL
    assert "NO_PROXY" in finding.remedy

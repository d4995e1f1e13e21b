"""`alzmri doctor`: each check against the real condition that it is there for."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from alzmri import doctor
from alzmri.cli import app
from alzmri.doctor import Level, examine


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    """The environment's programs first, and nothing of the person who runs the tests."""
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "PATH": bin_first,
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("EMAIL", "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)


@pytest.fixture
def root(
    tmp_path: Path,
    free_block: Callable[[], int],
    original: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A repository, and the current directory: all is well but for the store, which is down."""
    root = tmp_path / "repo"
    (root / ".dvc").mkdir(parents=True)
    for name in ("params.yaml", ".dvc/.gitignore", ".dvc/config", ".dvc/seaweedfs.ini"):
        (root / name).write_text(original(name))
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
    monkeypatch.chdir(root)
    return root


def run(*options: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *options])


def found(*, before_run: bool = False) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in examine(before_run=before_run)}


def test_only_the_store_is_missing_and_a_script_reads_that(root):
    findings = [finding for finding in examine() if finding.level is not Level.OK]
    assert [(finding.subject, finding.level) for finding in findings] == [("store", Level.WARN)]
    assert "alzmri store up" in findings[0].remedy
    done = run("--json")
    assert done.exit_code == 0
    levels = {finding["subject"]: finding["level"] for finding in json.loads(done.stdout)}
    assert levels.pop("store") == "warn"
    assert set(levels.values()) == {"ok"}
    quiet = run("--before-run")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_the_report_names_the_remedy_in_any_folder_of_the_repository(root, monkeypatch, tmp_path):
    (root / ".dvc" / "plots.html").unlink()
    monkeypatch.chdir(root / "src")
    ill = run()
    assert ill.exit_code == 1
    assert "  ok  git" in ill.stdout
    assert "FAIL  plots" in ill.stdout
    assert "make setup" in ill.stdout
    before = run("--before-run")
    assert (before.exit_code, before.stdout) == (1, "")
    assert len(before.stderr.splitlines()) == 1
    monkeypatch.chdir(tmp_path)
    *_, last = examine()
    assert (last.level, last.subject) == (Level.FAIL, "dvc")
    assert "not inside a DVC repository" in last.message


def test_a_check_that_raises_is_a_finding_and_the_others_run(root, monkeypatch):
    monkeypatch.setattr(doctor, "plots_template", lambda _: {}["bug"])
    monkeypatch.setattr(doctor, "checkpoints", lambda _: os.listdir(root / "nowhere"))  # noqa: PTH208
    path = root / ".dvc" / "config.local"
    path.unlink()
    path.mkdir()
    (root / "data").mkdir()
    (root / "data" / "phantom").touch()
    reported = found()
    assert reported["plots"].level is Level.FAIL
    assert "KeyError: 'bug'" in reported["plots"].message
    assert reported["checkpoints"].message == f"No such file or directory: {root / 'nowhere'}"
    assert "not a folder" in reported["data"].message
    assert "config.local is damaged" in reported["store"].message


def test_the_machine(root, monkeypatch):
    versions = ((3, 10), (3, 14), (3, 15))
    levels = [doctor.python_version(version).level for version in versions]
    assert levels == [Level.FAIL, Level.OK, Level.FAIL]
    assert "torch 2" in doctor.python_version().message
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    assert doctor.python_version().remedy == "run `make setup`"
    assert doctor.environment().level is Level.OK
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    finding = doctor.environment()
    assert finding.level is Level.FAIL
    assert "activate" in finding.remedy
    assert doctor.disk().level is Level.OK
    monkeypatch.setattr(doctor, "ENOUGH_BYTES", 10**18)
    assert doctor.disk().level is Level.WARN
    monkeypatch.setattr(doctor, "TOO_FEW_BYTES", 10**18)
    assert doctor.disk().level is Level.FAIL
    assert doctor.writable(Path("/proc")).level is Level.FAIL


def test_git_without_repository_commit_or_identity(root, tmp_path, monkeypatch):
    shutil.rmtree(root / ".git")
    assert "not a git repository" in doctor.git_repository(root).message
    git(root, "init", "--quiet")
    git(root, "config", "user.useConfigOnly", "true")
    without = found()
    assert without["git"].level is Level.OK
    assert without["git history"].level is without["git identity"].level is Level.FAIL
    assert "git commit" in without["git history"].remedy
    # `dvc repro` makes no commit.
    assert {f.level for f in found(before_run=True).values()} == {Level.OK, Level.WARN}
    monkeypatch.setenv("PATH", str(tmp_path))
    reported = found()
    assert (reported["git"].level, reported["git"].remedy) == (Level.FAIL, "install git")
    assert not {"git history", "git identity", "source"} & reported.keys()
    assert reported["plots"].level is Level.OK
    assert reported["store"].level is Level.WARN


def test_where_people_work(root, tmp_path, monkeypatch):
    """Another user's files, CR LF, an untracked module, a shallow clone."""
    with monkeypatch.context() as patched:  # git's own: only root may chown
        patched.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        reported = found()
    assert reported["git"].level is Level.FAIL
    assert reported["git"].remedy == f"run `git config --global --add safe.directory {root}`"
    assert not {"git history", "git identity", "source"} & reported.keys()
    assert doctor.line_endings(root) is None
    git(root, "config", "core.autocrlf", "true")
    assert "git restore .gitattributes" in doctor.line_endings(root).remedy
    (root / ".gitattributes").touch()
    assert doctor.line_endings(root) is None
    assert doctor.untracked_source().level is Level.OK
    (root / "src" / "new.py").touch()
    finding = doctor.untracked_source()
    assert finding.level is Level.WARN
    assert "src/new.py" in finding.message
    git(root, "commit", "--quiet", "--allow-empty", "-m", "second")
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{root}", "shallow")
    monkeypatch.chdir(tmp_path / "shallow")
    finding = doctor.history()
    assert (finding.level, finding.remedy) == (Level.FAIL, "run `git fetch --unshallow`")
    git(tmp_path / "shallow", "fetch", "--unshallow")
    assert doctor.history().level is Level.OK


def test_checkpoints_that_nobody_takes_up(root):
    folder = root / ".checkpoints"
    assert doctor.checkpoints(root).level is Level.OK
    for run in ("aa", "bb"):
        (folder / run).mkdir(parents=True)
        (folder / run / "000000000008.checkpoint").write_bytes(bytes(1000))
        (folder / f"{run}.lock").touch()
    assert doctor.checkpoints(root).level is Level.OK
    for path in (*(folder / "aa").iterdir(), folder / "aa", folder / "aa.lock"):
        os.utime(path, (0, 0))
    finding = doctor.checkpoints(root)
    assert finding.level is Level.WARN
    assert "2.0 kB" in finding.message
    subprocess.run(finding.remedy.split("`")[1], shell=True, cwd=root, check=True)  # noqa: S602
    assert sorted(path.name for path in folder.iterdir()) == ["bb", "bb.lock"]


def test_findings_are_printed_as_they_come(root):
    """The last one waits for a remote that accepts connections and never answers."""
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
        with subprocess.Popen(
            [sys.executable, "-m", "alzmri", "doctor"], stdout=subprocess.PIPE, text=True
        ) as slow:
            assert "python" in slow.stdout.readline()
            while "checkpoints" not in slow.stdout.readline():
                assert slow.poll() is None
            connection, _ = silent.accept()
            assert slow.poll() is None
            connection.close()
            silent.close()
            assert "FAIL  store" in slow.stdout.read()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00", "config.local is damaged: correct it"),
        (b"[core\n", "config.local is damaged"),
        (b"core = 1\n", "config.local is damaged"),
        *(
            (f"['remote \"store\"']\nendpointurl = {url}\n".encode(), "endpointurl of remote")
            for url in ("http://127.0.0.1:abc", "http://127.0.0.1:99999", "http://[::1]:8", "here")
        ),
    ],
)
def test_a_store_that_is_wrongly_configured(root, content, said):
    (root / ".dvc" / "config.local").write_bytes(content)
    finding = found(before_run=True)["store"]
    assert finding.level is Level.FAIL
    assert said in finding.message
    assert str(root / ".dvc") in finding.message


def test_a_proxy_and_a_file_before_the_store(root, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    finding = found()["store"]
    assert finding.level is Level.FAIL
    assert "NO_PROXY" in finding.message
    (root / ".store").touch()
    finding = doctor.store(root, may_be_down=True)
    assert finding.level is Level.FAIL
    assert str(root / ".store") in finding.message


def test_parameters_that_a_stage_would_refuse(root):
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("  lr: 0.0001", "  lr: -1"))
    reported = found()
    assert reported["params"].level is Level.FAIL
    assert "train.lr" in reported["params"].message
    assert "data" not in reported
    path.unlink()
    assert found()["params"].level is Level.FAIL


def test_a_collection_that_is_absent_or_not_of_files(root):
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("source: phantom", "source: kaggle"))
    kaggle = root / "data" / "kaggle"
    kaggle.parent.mkdir()
    nowhere = doctor.collection(root)
    assert nowhere.level is Level.FAIL
    assert "alzmri data import SOURCE --name kaggle" in nowhere.remedy
    kaggle.with_name("kaggle.dvc").touch()
    elsewhere = doctor.collection(root)
    assert elsewhere.level is Level.FAIL
    assert "dvc pull data/kaggle" in elsewhere.remedy
    kaggle.touch()
    assert "not a folder" in doctor.collection(root).message
    kaggle.unlink()
    folder = kaggle / "train" / "NonDemented"
    folder.mkdir(parents=True)
    (folder / "é.jpg").touch()
    assert doctor.collection(root).level is Level.OK
    (folder / "link.jpg").symlink_to(root / "params.yaml")
    (folder / "up").symlink_to("..")
    finding = doctor.collection(root)
    assert finding.level is Level.WARN
    assert "2 symbolic links" in finding.message
    for number, make in enumerate(
        (
            lambda place: os.mkfifo(place / "pipe"),
            lambda place: (place / "lost").symlink_to("nowhere"),
            lambda place: (place / "circle").symlink_to("circle"),
            lambda place: Path(os.fsdecode(bytes(place) + b"/\xff.jpg")).touch(),
            lambda place: Path(os.fsdecode(bytes(place) + b"/\xff")).mkdir(),
        )
    ):
        place = folder / str(number)
        place.mkdir()
        make(place)
        finding = doctor.collection(root)
        assert finding.level is Level.FAIL, number
        assert f"data/kaggle/train/NonDemented/{number}/" in finding.message
        assert finding.message.isascii()
        shutil.rmtree(place)

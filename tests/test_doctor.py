"""`alzmri doctor`: each check against the real condition that it is there for."""

import json
import os
import re
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
from alzmri.doctor import Doubt, Finding, examine
from alzmri.errors import EnvironmentFault, UserError


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


def found(*, before_run: bool = False) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(before_run=before_run)}


def test_only_the_store_is_missing_and_a_script_reads_that(root):
    done = run("--json")
    assert done.exit_code == 0
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    store = findings.pop("store")
    assert store["level"] == "warn"
    assert "alzmri store up" in store["message"]
    assert {finding["level"] for finding in findings.values()} == {"ok"}
    assert "torch 2" in findings["python"]["message"]
    quiet = run("--before-run")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_the_report_names_the_remedy_in_any_folder_of_the_repository(root, monkeypatch, tmp_path):
    (root / ".dvc" / "plots.html").unlink()
    monkeypatch.chdir(root / "src")
    ill = run()
    assert ill.exit_code == 1
    assert "  ok  git" in ill.stdout
    assert re.search("FAIL  plots: .*: run `make setup`", ill.stdout)
    before = run("--before-run")
    assert (before.exit_code, before.stdout) == (1, "")
    assert len(before.stderr.splitlines()) == 1
    monkeypatch.chdir(tmp_path)
    *_, last = examine()
    assert (last.level, last.subject) == ("FAIL", "dvc")
    assert "not inside a DVC repository" in last.message


def test_a_check_that_raises_is_a_finding_and_the_others_run(root, monkeypatch):
    monkeypatch.setattr(doctor, "plots_template", lambda: {}["bug"])
    monkeypatch.setattr(doctor, "checkpoints", lambda: os.listdir(root / "nowhere"))  # noqa: PTH208
    path = root / ".dvc" / "config.local"
    path.unlink()
    path.mkdir()
    parameters = root / "params.yaml"
    parameters.write_text(parameters.read_text().replace("  lr: 0.0001", "  lr: -1"))
    reported = found()
    assert reported["plots"].level == "FAIL"
    assert "KeyError: 'bug'" in reported["plots"].message
    assert reported["checkpoints"].message == f"No such file or directory: {root / 'nowhere'}"
    assert "train.lr = -1" in reported["params"].message
    assert "data" not in reported
    assert "config.local is damaged" in reported["store"].message


def test_the_machine(root, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(sys, "path", [])
        with pytest.raises(UserError, match="run `make setup`"):
            doctor.python()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(UserError, match="activate"):
        doctor.environment()
    for limit, fault in (("ENOUGH_BYTES", Doubt), ("TOO_FEW_BYTES", UserError)):
        monkeypatch.setattr(doctor, limit, 10**18)
        with pytest.raises(UserError, match="dvc gc") as caught:
            doctor.disk()
        assert caught.type is fault


def test_git_without_repository_commit_or_identity(root):
    shutil.rmtree(root / ".git")
    without = found()
    assert "not a git repository" in without["git"].message
    assert not {"git history", "git identity", "source"} & without.keys()
    git(root, "init", "--quiet")
    git(root, "config", "user.useConfigOnly", "true")
    with pytest.raises(UserError, match="git commit"):
        doctor.history()
    with pytest.raises(UserError, match=r"git config user\.name"):
        doctor.identity()
    # `dvc repro` makes no commit.
    reported = found(before_run=True)
    assert {finding.level for finding in reported.values()} == {"ok", "warn"}
    assert reported["git history"].level == reported["git identity"].level == "warn"


def test_where_people_work(root, tmp_path, monkeypatch):
    """Another user's files, an untracked module, a shallow clone."""
    with monkeypatch.context() as patched:  # git's own: only root may chown
        patched.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        with pytest.raises(UserError, match=f"git config --global --add safe.directory {root}"):
            doctor.repository_of_git()
    (root / "src" / "new.py").touch()
    with pytest.raises(Doubt, match=r"src/new\.py: run `git add src`"):
        doctor.untracked_source()
    git(root, "commit", "--quiet", "--allow-empty", "-m", "second")
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{root}", "shallow")
    monkeypatch.chdir(tmp_path / "shallow")
    with pytest.raises(UserError, match="git fetch --unshallow"):
        doctor.history()
    git(tmp_path / "shallow", "fetch", "--unshallow")
    assert doctor.history() == "complete"


def test_checkpoints_of_trainings_that_ended_early(root):
    folder = root / ".checkpoints"
    for name in ("aa", "bb"):
        (folder / name).mkdir(parents=True)
        (folder / name / "000000000008.checkpoint").write_bytes(bytes(1000))
        (folder / f"{name}.lock").touch()
    assert doctor.checkpoints() == "2 unfinished trainings, 2.0 kB"


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
            (f"['remote \"store\"']\nendpointurl = {url}\n".encode(), "endpointurl of DVC's remote")
            for url in ("http://127.0.0.1:abc", "http://127.0.0.1:99999", "http://[::1]:8", "here")
        ),
    ],
)
def test_a_store_that_is_wrongly_configured(root, content, said):
    (root / ".dvc" / "config.local").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        doctor.store(may_be_down=True)
    assert str(root / ".dvc") in str(caught.value)


def test_a_proxy_before_the_store(root, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(EnvironmentFault, match="NO_PROXY"):
        doctor.store(may_be_down=True)


def test_a_collection_that_is_absent_or_not_a_folder(root):
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("source: phantom", "source: kaggle"))
    kaggle = root / "data" / "kaggle"
    kaggle.parent.mkdir()
    for make, said in (
        (lambda: None, "alzmri data import SOURCE --name kaggle"),
        (kaggle.with_name("kaggle.dvc").touch, "dvc pull data/kaggle"),
        (kaggle.touch, "data/kaggle is not a folder"),
    ):
        make()
        with pytest.raises(UserError, match=said):
            doctor.collection()
    kaggle.unlink()
    kaggle.mkdir()
    assert doctor.collection() == "data/kaggle exists"

"""What a job takes along: the code that git tracks, and never a secret."""

import os
import subprocess
import tarfile

import pytest

from alzmri.errors import UserError
from alzmri.sagemaker import bundle


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with a little code, committed."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name, content in {
        "src/train.py": "print('x')\n",
        "src/alzmri/__init__.py": "",
        "requirements.txt": "torch==2.13.0\n",
        "dvc.yaml": "stages: {train: {deps: [data/prepared, src/train.py]}}\n",
        "docs/page.md": "not for the job\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "add", "--all")
    _git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "start")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def archive(tmp_path_factory):
    return tmp_path_factory.mktemp("packed") / "code.tar.gz"


def _git(folder, *words):
    subprocess.run(["git", *words], cwd=folder, check=True)


def _members(code, archive):
    bundle.pack(code, archive)
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def test_sagemaker_bundle_is_the_tracked_code_as_it_is_here(repository, archive):
    committed = bundle.here()
    (repository / "src/train.py").write_text("print('changed')\n")
    (repository / "src/notes.txt").write_text("unknown to git")
    code = bundle.here()
    assert _members(code, archive) == {
        "requirements.txt": b"torch==2.13.0\n",
        "src/alzmri/__init__.py": b"",
        "src/train.py": b"print('changed')\n",
    }
    assert (code.commit, code.changes) == (
        committed.commit,
        [" M src/train.py", "?? src/notes.txt"],
    )
    assert committed.snapshot == committed.commit
    assert subprocess.check_output(["git", "stash", "list"]) == b""


def test_sagemaker_bundle_has_a_digest_of_what_it_holds_and_one_of_what_shapes_a_model(repository):
    first = bundle.here()
    os.utime(repository / "src/train.py", (0, 0))
    (repository / "docs/page.md").write_text("changed\n")
    assert (bundle.here().digest, bundle.here().training) == (first.digest, first.training)
    (repository / "src/alzmri/__init__.py").write_text("changed = True\n")
    other = bundle.here()
    assert (other.digest != first.digest, other.training) == (True, first.training)
    (repository / "src/train.py").write_text("print('changed')\n")
    assert bundle.here().training != first.training


def test_sagemaker_bundle_refuses_files_that_hold_keys_by_their_name(repository, archive):
    names = ["src/.env", "src/secrets.env", "src/.dvc/config.local", "src/deploy.pem", "src/id_rsa"]
    for name in names:
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("x")
        _git(repository, "add", "--force", name)
        with pytest.raises(UserError, match=f"{name} is tracked by git, and files of that name"):
            bundle.pack(bundle.here(), archive)
        _git(repository, "rm", "--quiet", "--force", name)


def test_sagemaker_bundle_refuses_keys_by_their_look_and_those_at_hand(
    repository, archive, monkeypatch
):
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    keys = ["key = 'AKIA" + "ABCDEFGHIJKLMNOP'", "-----BEGIN RSA " + "PRIVATE KEY-----", "hunter2"]
    for content in keys:
        (repository / "src/train.py").write_text(f"# {content}\n")
        with pytest.raises(UserError, match=r"src/train\.py contains a key") as refused:
            bundle.pack(bundle.here(), archive)
        assert content not in str(refused.value)
    assert not archive.exists()


def test_sagemaker_bundle_names_the_largest_files_when_it_is_too_large(
    repository, archive, monkeypatch
):
    monkeypatch.setattr(bundle, "LIMIT", 1000)
    for number in range(1, 8):
        (repository / f"src/{number}.bin").write_bytes(b"\0" * 100 * number)
    _git(repository, "add", "--all")
    with pytest.raises(UserError) as refused:
        bundle.pack(bundle.here(), archive)
    lines = str(refused.value).splitlines()
    assert "2.8 kB, more than the 1.0 kB" in lines[0]
    assert [line.split()[-1] for line in lines[1:]] == [f"src/{n}.bin" for n in (7, 6, 5, 4, 3)]

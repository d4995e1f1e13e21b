"""What a job takes along: the code that git tracks, and never a secret."""

import io
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
        "docs/page.md": "not for the job\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "add", "--all")
    _git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "start")
    return tmp_path


def _git(folder, *words):
    subprocess.run(["git", *words], cwd=folder, check=True)


def _members(packed):
    with tarfile.open(fileobj=io.BytesIO(packed.archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_sagemaker_bundle_is_the_tracked_code_as_it_is_here(repository):
    (repository / "src/train.py").write_text("print('changed')\n")
    (repository / "src/notes.txt").write_text("unknown to git")
    packed = bundle.pack(repository)
    assert _members(packed) == {
        "requirements.txt": b"torch==2.13.0\n",
        "src/alzmri/__init__.py": b"",
        "src/train.py": b"print('changed')\n",
    }
    assert packed.changes == [" M src/train.py", "?? src/notes.txt"]


def test_sagemaker_bundle_is_the_same_bytes_for_the_same_files(repository):
    first = bundle.pack(repository)
    os.utime(repository / "src/train.py", (0, 0))
    assert bundle.pack(repository).archive == first.archive


@pytest.mark.parametrize(
    "name", ["src/.env", "src/secrets.env", "src/.dvc/config.local", "src/deploy.pem", "src/id_rsa"]
)
def test_sagemaker_bundle_refuses_files_that_hold_keys_by_their_name(repository, name):
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("x")
    _git(repository, "add", "--force", name)
    with pytest.raises(UserError, match=f"{name} is tracked by git, and files of that name"):
        bundle.pack(repository)


@pytest.mark.parametrize(
    "content",
    ["key = 'AKIA" + "ABCDEFGHIJKLMNOP'", "-----BEGIN RSA " + "PRIVATE KEY-----", "hunter2"],
)
def test_sagemaker_bundle_refuses_keys_by_their_look_and_those_at_hand(
    repository, monkeypatch, content
):
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    (repository / "src/train.py").write_text(f"# {content}\n")
    with pytest.raises(UserError, match=r"src/train\.py contains a key") as refused:
        bundle.pack(repository)
    assert content not in str(refused.value)


def test_sagemaker_bundle_refuses_a_link_out_of_the_repository(repository):
    (repository / "src/elsewhere.py").symlink_to("/etc/passwd")
    _git(repository, "add", "--all")
    with pytest.raises(UserError, match=r"src/elsewhere\.py .* no regular file"):
        bundle.pack(repository)


def test_sagemaker_bundle_names_the_largest_files_when_it_is_too_large(repository, monkeypatch):
    monkeypatch.setattr(bundle, "LIMIT", 1000)
    for number in range(1, 8):
        (repository / f"src/{number}.bin").write_bytes(b"\0" * 100 * number)
    _git(repository, "add", "--all")
    with pytest.raises(UserError) as refused:
        bundle.pack(repository)
    lines = str(refused.value).splitlines()
    assert "2.8 kB, more than the 1.0 kB" in lines[0]
    assert [line.split()[-1] for line in lines[1:]] == [f"src/{n}.bin" for n in (7, 6, 5, 4, 3)]

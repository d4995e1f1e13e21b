"""What git says, wherever subjects work: one tiny repository in several situations."""

import os
import subprocess

import pytest

from alzmri import git
from alzmri.errors import UserError


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with one commit of ``project/file``, which is the current directory's."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    project = tmp_path / "project"
    project.mkdir()
    (project / "file").write_text("content\n")
    for words in (
        ("init", "--quiet"),
        ("config", "user.name", "test"),
        ("config", "user.email", "test@localhost"),
        ("add", "--all"),
        ("commit", "--quiet", "--message", "start"),
    ):
        subprocess.run(("git", *words), cwd=tmp_path, check=True)
    monkeypatch.chdir(project)
    return tmp_path


def test_a_folder_of_a_larger_repository_names_files_from_there(root, monkeypatch):
    assert git.show("HEAD", "file") == "content\n"
    assert git.show("HEAD", "other") is None
    monkeypatch.chdir(root)
    assert git.show("HEAD", "file") is None


def test_settings_and_a_missing_home_change_nothing(root, monkeypatch):
    monkeypatch.delenv("HOME")
    before = git.head(), git.run("log", "-1", "--format=%cs")
    for key, value in {"log.showSignature": "true", "gpg.program": "false"}.items():
        subprocess.run(("git", "config", key, value), check=True)
    signed = subprocess.run(
        ("git", "cat-file", "commit", "HEAD"), capture_output=True, text=True, check=True
    ).stdout.replace("\n\n", "\ngpgsig nobody's\n\n", 1)
    commit = subprocess.run(
        ("git", "hash-object", "-t", "commit", "-w", "--stdin"),
        input=signed,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    subprocess.run(("git", "reset", "--quiet", commit), check=True)
    assert git.head() == commit != before[0]
    assert git.run("log", "-1", "--format=%cs") == before[1]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1", "git config --global --add safe.directory"),
        ("GIT_DIR", "/nowhere", "not a git repository.*run in the root of a clone"),
        ("PATH", "", "git is not installed"),
    ],
)
def test_what_is_wrong_is_said_in_gits_own_words(root, monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"(?s){words}"):
        git.head()


def test_a_repository_without_a_commit_is_told_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(("git", "init", "--quiet"), check=True)
    with pytest.raises(UserError, match=r"no commit: `git add -A && git commit -m start`"):
        git.head()

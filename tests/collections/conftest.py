"""Repositories to import into."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    for command in (("git", "init", "--quiet"), (sys.executable, "-m", "dvc", "init", "--quiet")):
        subprocess.run(command, cwd=root, check=True)
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh git and DVC repository, which is the current directory."""
    copy = Path(shutil.copytree(template, tmp_path / "repository"))
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """The same, without the seconds that DVC takes at the end of an import."""

    def leave_it(target: Path, *, fresh: bool) -> None:
        """In place of ``dvc add`` and ``git add``."""

    monkeypatch.setattr("alzmri.collections.importing._track", leave_it)
    return root

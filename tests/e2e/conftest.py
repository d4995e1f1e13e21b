"""The repository itself, cloned, made small, and run as a person runs it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
TINY = {
    "phantom": {"subjects": 7, "slices": 3},
    "data": {"image_size": 32},
    "model": {"name": "lenet"},
    "train": {"epochs": 3, "lr": 0.0001, "batch_size": 8},
    # Two worker processes with two threads each would wait for each other's cores.
    "compute": {"threads": 1},
    "track": {"mode": "disabled"},
}


@dataclass(frozen=True)
class Clone:
    """A clone of the working tree in an environment of its own."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """Activated, as the README says, and free of what the tests' own caller has set."""
        others = ("AWS_", "DVC_", "GIT_", "WANDB_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(others)}
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            # As compute.threads, for what is no stage.
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command; ``code`` is the exit status it must end with, None for any."""
        done = subprocess.run(
            words,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert code in (None, done.returncode), (
            f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def start(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a command as the leader of a process group; it says all on its stdout."""
        return subprocess.Popen(
            words,
            cwd=self.root,
            env={**self.environment, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @staticmethod
    def read_until(process: "subprocess.Popen[str]", beginning: str) -> None:
        """Return when ``process`` says a line that starts with ``beginning``."""
        said = []
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if line.startswith(beginning):
                return
        raise AssertionError("".join(said))

    def json(self, *words: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.run(*words).stdout)

    def metrics(self, stage: str) -> Any:
        """The content of ``metrics/STAGE.json``."""
        return json.loads((self.root / f"metrics/{stage}.json").read_text())

    def load(self, path: str) -> Any:
        """The content of a JSON file."""
        return json.loads((self.root / path).read_text())

    def commit(self, message: str) -> None:
        """Commit everything that git does not ignore."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", message)

    def copy(self, folder: Path) -> "Clone":
        """The same state elsewhere, for tests that change it."""
        shutil.copytree(self.root, folder, symlinks=True)
        return Clone(folder)


@pytest.fixture(scope="session")
def repro(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A tiny clone after one `dvc repro`, committed. Tests that change it take a copy."""
    clone = Clone(tmp_path_factory.mktemp("e2e") / "alzmri")
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in files:
        if name != "dvc.lock" and (ROOT / name).exists():
            (clone.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone.root / name)
    shutil.copy(ROOT / "tests/params.yaml", clone.root)
    _shrink(clone.root / "params.yaml")
    clone.run("git", "init", "--quiet", "--initial-branch", "main")
    clone.run("git", "config", "user.name", "test")
    clone.run("git", "config", "user.email", "test@localhost")
    clone.commit("start")
    clone.run("alzmri", "plots-page")
    clone.run("dvc", "repro")
    clone.commit("first result")
    return clone


def _shrink(params: Path) -> None:
    yaml = YAML()
    content = yaml.load(params.read_text())
    for section, values in TINY.items():
        content[section].update(values)
    with params.open("w") as handle:
        yaml.dump(content, handle)


@pytest.fixture
def clone(repro: Clone, tmp_path: Path) -> Iterator[Clone]:
    """A copy of the tiny clone that a test may change; its store is taken down at the end."""
    copy = repro.copy(tmp_path / "alzmri")
    yield copy
    copy.run("alzmri", "store", "down", code=None)

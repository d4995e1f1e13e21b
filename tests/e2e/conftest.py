"""The repository itself, cloned, made small, and run as a user runs it."""

import compileall
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from ruamel.yaml import YAML

from .. import forks, processes
from ..processes import limit

MARK = "ALZMRI_TEST_CLONE"
"""In the environment of all that runs in a clone: its root."""
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
        """The environment of what runs in it."""
        return {**forks.environment(), MARK: str(self.root)}

    def run(
        self, *words: str, code: int | None = 0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; ``code`` is the exit status it must end with, None for any."""
        done = subprocess.run(
            words,
            cwd=self.root,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit(300),
            check=False,
        )
        assert code in (None, done.returncode), (
            f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def start(
        self, *words: str, forked: bool = False, **environment: str
    ) -> "subprocess.Popen[str]":
        """Start a command as the leader of a process group; it says all on its stdout.

        Unless ``forked``, it and what it starts are as outside tests: most are killed or stopped.
        """
        own = {} if forked else forks.REAL
        return subprocess.Popen(
            words,
            cwd=self.root,
            env={**self.environment, **own, "PYTHONUNBUFFERED": "1", **environment},
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
        shutil.copytree(self.root, folder, symlinks=True, copy_function=_link_or_copy)
        return Clone(folder)

    def end(self) -> None:
        """Take its store down, and end all else that was started in it and still runs."""
        if (self.root / ".store").exists():
            self.run("alzmri", "store", "down", code=None)
        processes.end(MARK, str(self.root))


def _link_or_copy(source: str, target: str) -> object:
    """Objects of git's and DVC's have their content's digest as name: neither writes into one."""
    if "/.git/objects/" in source or "/.dvc/cache/files/" in source:
        return os.link(source, target)
    return shutil.copy2(source, target)


@pytest.fixture(scope="session")
def repro(
    tmp_path_factory: pytest.TempPathFactory,
    committed: Callable[[str], Path],
    original: Callable[[str], str],
) -> Iterator[Clone]:
    """A tiny clone after one `dvc repro`, committed. Tests that change it take a copy.

    One worker makes it, the others have copies of it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    first = Clone(shared / "repro/alzmri")
    with FileLock(shared / "repro.lock"):
        if not first.root.exists():
            draft = Clone(shared / "draft/alzmri")
            shutil.rmtree(draft.root.parent, ignore_errors=True)
            _make(draft, committed, original)
            draft.root.parent.rename(first.root.parent)
    clone = first.copy(tmp_path_factory.mktemp("e2e") / "alzmri")
    yield clone
    clone.end()


def _make(clone: Clone, committed: Callable[[str], Path], original: Callable[[str], str]) -> None:
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in files:
        # Not the user's own collections.
        if name != "dvc.lock" and not name.startswith("data/") and (ROOT / name).exists():
            (clone.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone.root / name)
    for name in ("params.yaml", "sagemaker.yaml"):
        shutil.copy(committed(name), clone.root / name)
    (clone.root / ".dvc/config").write_text(original(".dvc/config"))
    _shrink(clone.root / "params.yaml")
    clone.run("git", "init", "--quiet", "--initial-branch", "main")
    clone.run("git", "config", "user.name", "test")
    clone.run("git", "config", "user.email", "test@localhost")
    clone.commit("start")
    # Nothing in a clone writes bytecode: all copies, with the same times of their files, take this.
    compileall.compile_dir(clone.root / "src", quiet=1)
    clone.run("python", "-c", "from alzmri.plots_page import write; write()")
    clone.run("dvc", "repro")
    clone.commit("first result")


def _shrink(params: Path) -> None:
    yaml = YAML()
    content = yaml.load(params.read_text())
    for section, values in TINY.items():
        content[section].update(values)
    with params.open("w") as handle:
        yaml.dump(content, handle)


@pytest.fixture
def clone(repro: Clone, tmp_path: Path) -> Iterator[Clone]:
    """A copy of the tiny clone that a test may change; nothing runs in it after the test."""
    copy = repro.copy(tmp_path / "alzmri")
    yield copy
    copy.end()

"""Fabricated repositories with the project's DVC configuration, and real SeaweedFS servers in them.

`store_repo` is a repository whose store is up, `shared_store` one for the whole session, and
`new_repo` makes more, down. Whatever they start is stopped at the end, also after a failure.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from alzmri.store import server

from .. import forks
from ..processes import limit


@dataclass(frozen=True)
class Repository:
    """A git and DVC repository in a temporary folder."""

    root: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """No settings of the person who runs the tests, but files in their home folder."""
        return {**forks.environment(), "DVC_GLOBAL_CONFIG_DIR": str(self.root.parent)}

    def command(self, *words: str) -> list[str]:
        """The words of `alzmri store …`."""
        return ["alzmri", "store", *words]

    def store(self, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run `alzmri store …`; ``extra`` goes into its environment."""
        return self.run(*self.command(*words), **extra)

    def run(self, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a command here."""
        return subprocess.run(
            words,
            cwd=self.root,
            env=self.environment | extra,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit(120),
            check=False,
        )

    def start(self, *words: str) -> psutil.Popen:
        """Start a command here, as a process of its own, and do not wait for it."""
        return psutil.Popen(
            words,
            cwd=self.root,
            env=self.environment | forks.REAL,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def track(self, name: str, *sizes: int) -> None:
        """Put a folder of random files under DVC."""
        (self.root / name).mkdir()
        for number, size in enumerate(sizes):
            (self.root / name / str(number)).write_bytes(os.urandom(size))
        assert self.run("dvc", "add", "--quiet", name).returncode == 0

    def forget(self, name: str) -> None:
        """Remove a tracked folder and the whole cache, so that only the store has it."""
        shutil.rmtree(self.root / ".dvc" / "cache")
        shutil.rmtree(self.root / name)

    def contents(self, name: str) -> dict[str, bytes]:
        """Every file of a tracked folder."""
        return {path.name: path.read_bytes() for path in (self.root / name).iterdir()}

    def clone(self, folder: Path) -> "Repository":
        """Another checkout, given the same keys."""
        other = Repository(folder, self.port)
        shutil.copytree(
            self.root, other.root, ignore=shutil.ignore_patterns(".store", "cache", "tmp")
        )
        return other


@contextmanager
def _repositories(
    folder: Path, free_block: Callable[[], int], original: Callable[[str], str]
) -> Iterator[Callable[[str], Repository]]:
    """Yield a function that makes repositories; at the end their servers are killed."""
    made: list[Repository] = []

    def make(name: str) -> Repository:
        repo = Repository(folder / name, free_block())
        (repo.root / ".dvc").mkdir(parents=True)
        for name in (".gitignore", "config", "seaweedfs.ini"):
            (repo.root / ".dvc" / name).write_text(original(f".dvc/{name}"))
        (repo.root / ".gitignore").write_text("/.store/\n")
        (repo.root / ".dvc" / "config.local").write_text(
            f"['remote \"store\"']\n    endpointurl = http://127.0.0.1:{repo.port}\n"
        )
        made.append(repo)
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        for words in (["init", "--quiet"], ["add", "."], [*identity, "commit", "-qm", "start"]):
            assert repo.run("git", *words).returncode == 0
        return repo

    try:
        yield make
    finally:
        for repo in made:
            if running := server.find(repo.root):
                running.process.kill()  # stopping it gently takes two seconds
                psutil.wait_procs([running.process], 10)
                server.remove_sockets(running.port)


def _up(repo: Repository) -> Repository:
    started = repo.store("up")
    assert started.returncode == 0, started.stderr
    return repo


@pytest.fixture
def new_repo(
    tmp_path: Path, free_block: Callable[[], int], original: Callable[[str], str]
) -> Iterator[Callable[[str], Repository]]:
    """A function that makes a repository with its own ports; its store is down."""
    with _repositories(tmp_path, free_block, original) as make:
        yield make


@pytest.fixture
def store_repo(new_repo: Callable[[str], Repository]) -> Repository:
    """A repository whose store is up and empty."""
    return _up(new_repo("repo"))


@pytest.fixture(scope="session")
def shared_store(
    tmp_path_factory: pytest.TempPathFactory,
    free_block: Callable[[], int],
    original: Callable[[str], str],
) -> Iterator[Repository]:
    """The same, for all tests that leave it as it is; they may clone it and push to it."""
    with _repositories(tmp_path_factory.mktemp("shared"), free_block, original) as make:
        yield _up(make("repo"))

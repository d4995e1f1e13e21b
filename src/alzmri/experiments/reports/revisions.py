"""Results that belong to a commit, a branch or the workspace, read as those of an experiment."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alzmri.errors import UserError
from alzmri.experiments.lock import BESIDE
from alzmri.experiments.runs import Finished


@dataclass(frozen=True)
class Revision(Finished):
    """A commit of a branch, with the results that belong to it."""

    def _not_cached(self, path: str) -> str:
        return (
            f"{path} of {self.name} is not in DVC's cache:"
            " `dvc fetch --all-commits plots/history.csv plots/predictions.csv` brings it"
        )


@dataclass(frozen=True)
class Workspace(Revision):
    """The working tree, with the results of the last `dvc repro`."""

    name: str = "workspace"
    commit: str = ""

    def _not_cached(self, path: str) -> str:
        return f"{path} is not in DVC's cache: `dvc pull plots/history.csv plots/predictions.csv`"

    def read(self, path: str) -> str:
        """The content of a file in the working tree."""
        try:
            return Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"{path} not found: run `dvc repro` in the root of a clone") from None

    @property
    def stale(self) -> list[str]:
        """The stages behind the scores that ran on other parameters, code or data."""
        from dvc.repo import Repo

        return [
            stage
            for stage, changes in Repo().status().items()
            for change in changes
            if not stage.startswith(BESIDE)
            and (change == "changed command" or _modified(change.get("changed deps", {})))
        ]


def revision(name: str) -> Finished:
    """The commit, branch, tag or experiment called ``name``.

    Raises:
        UserError: when there is no such thing.
    """
    if experiment := _git("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}"):
        return Finished(name, experiment[0])
    commit = _git("rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}")
    if not commit:
        raise UserError(
            f"{name}: no such branch, tag, commit or experiment; `git branch -a` and"
            " `dvc exp list -A` name them"
        )
    return Revision(name, commit[0])


def _modified(dependencies: Mapping[str, Any]) -> bool:
    """Whether one is not as it was; what is only not there, as before `dvc pull`, is no change."""
    return any(change != "deleted" for change in dependencies.values())


def _git(*words: str) -> list[str]:
    """The lines that git prints; none where it fails."""
    return subprocess.run(
        ["git", *words], capture_output=True, text=True, check=False
    ).stdout.splitlines()

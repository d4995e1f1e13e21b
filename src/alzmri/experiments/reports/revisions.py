"""Results to report on: those of an experiment, of a commit, or of the workspace."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from alzmri import git
from alzmri.errors import UserError
from alzmri.experiments.lock import BESIDE
from alzmri.experiments.runs import Run, finished


@dataclass(frozen=True)
class Commit(Run):
    """A commit of a branch, with the results that belong to it."""

    def _not_cached(self, path: str) -> str:
        here = "" if self.commit == git.head() else f"`git switch {self.name}`, "
        return (
            f"{path} of {self.name} was computed elsewhere and is not in DVC's cache here:"
            f' {here}`make repro` and `git commit -am "my baseline"` make your own run the baseline'
        )


@dataclass(frozen=True)
class Workspace(Run):
    """The working tree, with the results of the last `dvc repro`."""

    name: str = "workspace"
    commit: str = ""

    def _not_cached(self, path: str) -> str:
        return f"{path} is not in DVC's cache: run `dvc repro`"

    def read(self, path: str) -> str:
        """The content of a file in the working tree."""
        try:
            return Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"{path} not found: run `dvc repro` in the root of a clone") from None

    @cached_property
    def stale(self) -> list[str]:
        """The stages behind the scores that ran on other parameters, code or data."""
        from dvc.repo import Repo

        return [
            stage
            for stage, changes in Repo().status().items()
            for change in changes
            if not stage.startswith(BESIDE)
            and (
                change == "changed command"
                # What is only not there, as before `dvc pull`, is no change.
                or {*change.get("changed deps", {}).values()} - {"deleted"}
            )
        ]


def chosen(words: Sequence[str]) -> list[Run]:
    """What :func:`named` finds for each of ``words``, once; without, this commit's experiments.

    Raises:
        UserError: when a word names nothing, or there are no experiments.
    """
    found = [run for word in words for run in named(word, begins=True)]
    if not words:
        found = list(finished(git.head()).values())
    if not found:
        raise UserError(
            "no experiment started from this commit: `dvc exp run -S train.lr=0.0005` makes one,"
            " `dvc exp list -A` shows those of other commits"
        )
    return list({run.commit: run for run in found}.values())


def named(word: str, *, begins: bool = False) -> list[Run]:
    """What is called ``word``: an experiment, a branch, a tag or a commit.

    Experiments of this commit come first, then those of any other, of one name the newest.

    Args:
        word: the name.
        begins: whether all experiments count whose names begin so.

    Raises:
        UserError: when there is no such thing.
    """
    for known in (finished(git.head()), finished()):
        if word in known and not begins:
            return [known[word]]
        if begins and (found := [run for name, run in known.items() if name.startswith(word)]):
            return found
    commit = git.lines("rev-parse", "--quiet", "--verify", "--end-of-options", f"{word}^{{commit}}")
    if commit:
        return [Commit(word, commit[0])]
    raise UserError(
        f"{word}: no such experiment, branch, tag or commit; `dvc exp list -A` and `git branch -a`"
        " name them"
    )

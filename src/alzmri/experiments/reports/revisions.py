"""Results to report on: those of an experiment, of a commit, or of the workspace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from alzmri import git
from alzmri.errors import UserError
from alzmri.evaluation.intervals import Classified
from alzmri.experiments.crossvalidation import Predictions
from alzmri.experiments.lock import BESIDE
from alzmri.experiments.runs import Finished

REPEATED = ("train.seed", "split.seed", "split.fold")
"""The keys that repeat an experiment; runs that differ in these alone are one line of a table."""

_WITHOUT_EFFECT = ("compute.", "track.", "train.checkpoint_every", "train.keep_last")
"""Keys that change no score."""


def counts(key: str) -> bool:
    """Whether ``key`` of params.yaml makes another experiment, not a repetition of the same."""
    return key not in REPEATED and not key.startswith(_WITHOUT_EFFECT)


@dataclass(frozen=True)
class Run(Finished):
    """An experiment that ran, with its predictions."""

    def loaded(self) -> Self:
        """Itself, with all that its report needs read.

        Raises:
            UserError: when something that it wrote is not there.
        """
        _ = self.settings, self.lock, self.training, self.evaluation, self.history, self.predictions
        return self

    @cached_property
    def history(self) -> Sequence[Mapping[str, str]]:
        """The rows of its plots/history.csv."""
        return self.table("plots/history.csv")

    @cached_property
    def predictions(self) -> Predictions:
        """Of the test part, slices ordered by path."""
        return Predictions.of(self)

    @property
    def repetition(self) -> tuple[Any, ...]:
        """Its seeds and fold."""
        return tuple(self.settings.get(key) for key in REPEATED)

    @property
    def sources(self) -> dict[str, dict[str, str]]:
        """The digests of the code and data that the stages behind its scores ran on."""
        stages = [name for name in self.lock.stages if not name.startswith(BESIDE)]
        return {stage: self.lock.inputs(stage) for stage in stages}

    @property
    def identity(self) -> str:
        """Equal for runs that differ in seeds and fold at most."""
        settings = sorted((key, value) for key, value in self.settings.items() if counts(key))
        return str((settings, self.sources))

    @property
    def leaks(self) -> bool:
        """Whether its test subjects were, or may have been, in training."""
        split = self.evaluation["split"]
        return bool(split["unit"] == "slice" or split["shared_subjects"])

    @property
    def best_epoch(self) -> str:
        """Such as ``7 of 10``."""
        return f"{self.training['best_epoch']} of {len(self.history)}"

    @property
    def classified(self) -> Classified:
        """Its test, to be resampled."""
        test = self.predictions
        return Classified(test.truth, test.predicted, test.subjects)

    def shown(self, metric: str) -> str:
        """One of ``METRICS`` with its interval over subjects, such as ``0.518 [0.459, 0.575]``."""
        *part, key = metric.split(".")
        known = (self.evaluation[part[0]] if part else self.evaluation)["ci95"].get(key)
        bounds = f" [{known[0]:.3f}, {known[1]:.3f}]" if known else ""
        return f"{self.score(metric):.3f}{bounds}"


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
            and (change == "changed command" or _modified(change.get("changed deps", {})))
        ]


def _modified(dependencies: Mapping[str, Any]) -> bool:
    """Whether one is not as it was; what is only not there, as before `dvc pull`, is no change."""
    return any(change != "deleted" for change in dependencies.values())


def chosen(words: Sequence[str]) -> list[Run]:
    """What :func:`named` finds for each of ``words``, once; without, this commit's experiments.

    Raises:
        UserError: when a word names nothing, or there are no experiments.
    """
    found = [run for word in words for run in named(word, begins=True)]
    runs = {run.commit: run for run in found} if words else _experiments()[0]
    if not runs:
        raise UserError(
            "no experiment started from this commit: `dvc exp run -S train.lr=0.0005` makes one,"
            " `dvc exp list -A` shows those of other commits"
        )
    return list(runs.values())


def named(word: str, *, begins: bool = False) -> list[Run]:
    """What is called ``word``: an experiment, a branch, a tag or a commit.

    Experiments of this commit come first, then those of any other, of one name the newest.

    Args:
        word: the name.
        begins: whether all experiments count whose names begin so.

    Raises:
        UserError: when there is no such thing.
    """
    for known in _experiments():
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


def _experiments() -> tuple[dict[str, Run], dict[str, Run]]:
    """The experiments that started from this commit, by name; and those of the repository."""
    here: dict[str, Run] = {}
    everywhere: dict[str, Run] = {}
    head = git.head()
    listing = ("for-each-ref", "--sort=creatordate", "--format=%(objectname) %(refname)")
    for line in git.lines(*listing, "refs/exps"):
        commit, reference = line.split(" ", 1)
        # refs/exps/12/34.../NAME; what DVC keeps there for itself is named otherwise.
        match reference.split("/", 4):
            case [_, _, start, rest, name] if len(start + rest) == len(commit):
                run = everywhere[name] = Run(name, commit)
                if start + rest == head:
                    here[name] = run
    return here, everywhere

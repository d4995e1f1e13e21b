"""DVC experiments as the program sees them: wanted, and finished."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from alzmri import git, params
from alzmri.errors import UserError
from alzmri.evaluation.markdown import interval
from alzmri.experiments.crossvalidation import Predictions
from alzmri.experiments.lock import BESIDE, Lock
from alzmri.params import Params

Settings = Mapping[str, object]
"""Keys of ``params.yaml`` with a dot, such as ``train.lr``, and their values."""

REPEATED = ("train.seed", "split.seed", "split.fold")
"""The keys that repeat an experiment; runs that differ in these alone are one line of a table."""

_WITHOUT_EFFECT = ("compute.", "track.", "train.checkpoint_every", "train.keep_last")
"""Keys that change no score."""


def counts(key: str) -> bool:
    """Whether ``key`` of params.yaml makes another experiment, not a repetition of the same."""
    return key not in REPEATED and not key.startswith(_WITHOUT_EFFECT)


@dataclass(frozen=True)
class Experiment:
    """One DVC experiment: its name, and what it sets in ``params.yaml``."""

    name: str
    settings: Settings

    @property
    def params(self) -> Params:
        """The parameters it runs with.

        Raises:
            UserError: when params.yaml or the settings do not fit the schema.
        """
        content = params.load().model_dump()
        for key, value in self.settings.items():
            section, _, name = key.partition(".")
            if not isinstance(content.get(section), dict) or not name:
                content[key] = value
            else:
                content[section][name] = value
        return params.check(content, f"params.yaml with the settings of {self.name}")


@dataclass(frozen=True)
class Run:
    """An experiment that ran, by the commit that DVC made of it; or any commit with results."""

    name: str
    commit: str

    @property
    def params(self) -> Params:
        """The parameters it ran with."""
        return params.parse(self.read("params.yaml"), f"params.yaml of {self.name}")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every key of its params.yaml with a dot; unchecked, so that an older schema is read."""
        content = YAML(typ="safe").load(self.read("params.yaml"))
        return {
            f"{section}.{key}": value
            for section, values in content.items()
            for key, value in values.items()
        }

    @property
    def stale(self) -> list[str]:
        """The stages behind its scores that ran with other parameters than its params.yaml has."""
        lock, known = self.lock, self.settings.items()
        return [stage for stage in lock.scored if not lock.parameters(stage).items() <= known]

    @cached_property
    def lock(self) -> Lock:
        """Its dvc.lock."""
        return Lock(self.read("dvc.lock"))

    @cached_property
    def training(self) -> dict[str, Any]:
        """The content of its ``metrics/train.json``, which git has."""
        return dict(json.loads(self.read("metrics/train.json")))

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """The content of its ``models/evaluation.json``, which DVC's cache has."""
        return dict(json.loads(self.cached("models/evaluation.json")))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of its ``data/prepared/summary.json``, which DVC's cache has."""
        return dict(json.loads(self.cached("data/prepared/summary.json")))

    @cached_property
    def history(self) -> list[dict[str, str]]:
        """The rows of its ``plots/history.csv``, which DVC's cache has."""
        return list(csv.DictReader(io.StringIO(self.cached("plots/history.csv"))))

    @cached_property
    def predictions(self) -> Predictions:
        """What it predicted for its test part, slices ordered by path."""
        table = io.StringIO(self.cached("plots/predictions.csv"))
        return Predictions.of(list(csv.DictReader(table)))

    def load(self) -> None:
        """Read all that a report needs.

        Raises:
            UserError: when something that it wrote is not there.
        """
        _ = self.settings, self.training, self.evaluation, self.history, self.predictions

    @property
    def repetition(self) -> tuple[Any, ...]:
        """Its seeds and fold."""
        return tuple(self.settings.get(key) for key in REPEATED)

    @property
    def sources(self) -> dict[str, dict[str, str]]:
        """The digests of the code and data that the stages behind its scores ran on."""
        return {stage: self.lock.inputs(stage) for stage in self.lock.scored}

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
        """The best epoch and how many there were, such as ``7 of 10``."""
        return f"{self.training['best_epoch']} of {len(self.history)}"

    def is_of(self, wanted: Params) -> bool:
        """Whether it is what ``wanted`` gives with the code and the data of the workspace.

        Where it was computed and where it is reported to does not count.
        """
        try:
            mine, other = (
                one.model_dump(exclude={"compute", "track"}) for one in (self.params, wanted)
            )
        except UserError:
            return False  # of a schema before this one
        return mine == other and not git.run(
            "diff", "--name-only", self.commit, "--", "src", "data", "dvc.yaml"
        )

    def score(self, metric: str) -> float:
        """One of :data:`alzmri.experiments.metrics.METRICS`; NaN where it is undefined."""
        content: Any = self.training if metric.startswith("val_") else self.evaluation
        for part in metric.split("."):
            content = content[part]
        return math.nan if content is None else float(content)

    def shown(self, metric: str) -> str:
        """One of ``METRICS`` with its interval over subjects, such as ``0.518 [0.459, 0.575]``."""
        *part, key = metric.split(".")
        bounds = (self.evaluation[part[0]] if part else self.evaluation)["ci95"].get(key)
        return interval(self.score(metric), bounds) if bounds else f"{self.score(metric):.3f}"

    def read(self, path: str) -> str:
        """The content of a text file that git has of it.

        Raises:
            UserError: when there is none.
        """
        content = git.show(self.commit, path)
        if content is None:
            raise UserError(f"{self.name} has no {path}: run `dvc repro` there, and commit")
        return content

    def cached(self, path: str) -> str:
        """The content of a text file that it wrote and DVC has in its cache.

        Raises:
            UserError: when it wrote none, or the cache has it no more.
        """
        digest = self.lock.outputs.get(path)
        for folder, listing in self.lock.outputs.items():
            if digest is None and path.startswith(f"{folder}/"):
                inside = json.loads(self._object(listing, path))
                digest = {f"{folder}/{one['relpath']}": one["md5"] for one in inside}.get(path)
        if digest is None:
            raise UserError(f"{self.name} has no {path}: run `dvc repro` there, and commit")
        return self._object(digest, path)

    def _not_cached(self, path: str) -> str:
        """What to say when the cache has ``path`` no more."""
        return (
            f"{path} of experiment {self.name} is not in DVC's cache any more:"
            f" `dvc exp remove {self.name}`, then run this again"
        )

    def _object(self, digest: str, path: str) -> str:
        from dvc.repo import Repo

        try:
            return Path(Repo().cache.local.oid_to_path(digest)).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(self._not_cached(path)) from None


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

    def read(self, path: str) -> str:
        """The content of a file in the working tree."""
        try:
            return Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"{path} not found: run `dvc repro` in the root of a clone") from None

    cached = read

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


def parse_settings(words: Sequence[str]) -> dict[str, object]:
    """``KEY=VALUE`` as on DVC's command line, values read as YAML.

    Raises:
        UserError: when a word is not of that form.
    """
    settings: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise UserError(f"-S {word}: write KEY=VALUE, such as train.lr=0.001")
        try:
            settings[key] = YAML(typ="safe").load(value)
        except YAMLError:
            raise UserError(f"-S {word}: {value} is not a YAML value") from None
    return settings


def on_this_machine(jobs: int) -> Settings:
    """How experiments use the machine when ``jobs`` of them run at once: each its share of cores.

    The instruction sets of the oldest processor and two threads are for the committed run.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else 0
    return {"compute.portable": False, "compute.threads": threads}


def require_source(name: str) -> None:
    """Raise UserError when there is no collection data/``name``."""
    if name != "phantom" and not any(map(os.path.lexists, (f"data/{name}", f"data/{name}.dvc"))):
        raise UserError(
            f"data/{name} not found: bring it in with `alzmri data import SOURCE --name {name}`"
        )


def finished(baseline: str = "") -> dict[str, Run]:
    """The experiments that started from ``baseline``, by default any commit, by name.

    Of several with one name it has the newest.
    """
    found = {}
    listing = ("for-each-ref", "--sort=creatordate", "--format=%(objectname) %(refname)")
    for line in git.lines(*listing, "refs/exps"):
        commit, reference = line.split(" ", 1)
        # refs/exps/12/34.../NAME, as DVC documents it; what it keeps for itself is named otherwise.
        match reference.split("/", 4):
            case [_, _, start, rest, name] if len(start + rest) == len(commit):
                if baseline in ("", start + rest):
                    found[name] = Run(name, commit)
    return found


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

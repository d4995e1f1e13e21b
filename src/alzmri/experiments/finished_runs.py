"""Finished experiments and commits with results: their parameters, data, code and scores."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML

from alzmri import git, params
from alzmri.errors import UserError
from alzmri.evaluation import intervals, leak
from alzmri.evaluation.markdown import interval
from alzmri.params import Params

METRICS: Mapping[str, str] = {
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_auc": "macro AUC",
    "loss": "loss",
    "ece": "calibration error",
    "brier": "Brier score",
    "subject.macro_f1": "subject-level macro F1",
    "subject.accuracy": "subject-level accuracy",
    "val_macro_f1": "validation macro F1",
    "val_accuracy": "validation accuracy",
    "val_loss": "validation loss",
}
"""Keys of models/evaluation.json and, with ``val_``, of metrics/train.json; names in tables."""
LESS_IS_BETTER = {"loss", "ece", "brier", "val_loss"}

REPEATED = ("train.seed", "split.seed", "split.fold")
"""Runs that differ only in these keys repeat one experiment and share a line of a table."""
_WITHOUT_EFFECT = ("compute.", "track.", "train.checkpoint_every", "train.keep_last")
"""Keys that change no score."""
_BESIDE = "export@"  # prefix of stages that no score depends on
_COLUMNS = ("path", "subject", "actual", "predicted", "ood")
"""Columns of plots/predictions.csv before the classes; results of earlier versions lack ``ood``."""


def counts(key: str) -> bool:
    """Whether another value of ``key`` of params.yaml makes another experiment."""
    return key not in REPEATED and not key.startswith(_WITHOUT_EFFECT)


def check_metric(key: str) -> None:
    """Raise UserError when ``key`` is not one of ``METRICS``."""
    if key not in METRICS:
        raise UserError(f"--metric {key}: allowed are {', '.join(METRICS)}")


def number(value: float) -> float | None:
    """``value`` for JSON, which has no NaN."""
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class SlicePredictions:
    """The predictions of one or several experiments for the slices of the test part.

    ``truth`` is class indices ``[n]``, ``probabilities`` ``[n, classes]`` with rows that sum to 1,
    classes in severity order. ``counted`` is false for slices that `alzmri predict` leaves out.
    """

    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    subjects: tuple[str, ...]
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    counted: NDArray[np.bool_]

    @classmethod
    def of(cls, *tables: str) -> "SlicePredictions":
        """The rows of one or several ``plots/predictions.csv``, in the order of the paths."""
        found = (row for table in tables for row in csv.DictReader(io.StringIO(table)))
        rows = sorted(found, key=lambda row: row["path"])
        classes = tuple(name for name in rows[0] if name not in _COLUMNS)
        probabilities = np.array([[float(row[name]) for name in classes] for row in rows])
        return cls(
            np.array([classes.index(row["actual"]) for row in rows], dtype=np.int64),
            # The file has six digits, so the sum is 1 only to within rounding.
            probabilities / probabilities.sum(axis=1, keepdims=True),
            tuple(row["subject"] for row in rows),
            classes,
            tuple(row["path"] for row in rows),
            np.array([row.get("ood") != "1" for row in rows]),
        )

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The index of the most probable class of each slice, ``[n]``."""
        most_probable: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return most_probable


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """``{"train": {"lr": 1}}`` as ``{"train.lr": 1}``."""
    found: dict[str, Any] = {}
    for name, one in content.items():
        section = isinstance(one, Mapping)
        found |= {f"{name}.{key}": value for key, value in one.items()} if section else {name: one}
    return found


def _content(path: str) -> cached_property[dict[str, Any]]:
    return cached_property(lambda run: dict(json.loads(run.read(path))))


@dataclass(frozen=True)
class FinishedRun:
    """A finished experiment, which DVC saves as a commit, or another commit with results.

    ``training``, ``evaluation`` and ``summary`` are its metrics/train.json, models/evaluation.json
    and data/prepared/summary.json.
    """

    name: str
    commit: str
    is_experiment: bool = True

    training = _content("metrics/train.json")
    evaluation = _content("models/evaluation.json")
    summary = _content("data/prepared/summary.json")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every key of its params.yaml with a dot; not validated: its schema may be older."""
        return _flat(YAML(typ="safe").load(self.read("params.yaml")))

    @cached_property
    def stages(self) -> dict[str, Any]:
        """The stages of its dvc.lock."""
        return YAML(typ="safe").load(self.read("dvc.lock")).get("stages") or {}

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The MD5 of each output, by its path."""
        outputs = (out for stage in self.stages.values() for out in stage.get("outs", ()))
        return {out["path"]: out["md5"] for out in outputs}

    @cached_property
    def inputs(self) -> dict[str, tuple[dict[str, str], dict[str, Any]]]:
        """The sources and the parameters of each stage.

        Sources are the MD5 by path of inputs that no stage wrote, and the command as ``cmd``;
        parameters are keys of params.yaml with a dot, and the values that the stage ran with.
        """
        found = {}
        for name, stage in self.stages.items():
            digests = {dep["path"]: dep["md5"] for dep in stage.get("deps", ())}
            sources = {path: digests[path] for path in digests if path not in self.outputs}
            parameters = _flat(stage.get("params", {}).get("params.yaml", {}))
            found[name] = {"cmd": stage["cmd"], **sources}, parameters
        return found

    def changes(self, other: "FinishedRun", *, parameters: bool = False) -> dict[str, list[str]]:
        """Names of changed sources and, with ``parameters``, of changed parameters, by stage."""
        found = {}
        for stage in self.inputs | other.inputs:
            one, two = (
                sources | used if parameters else sources
                for sources, used in (run.inputs.get(stage, ({}, {})) for run in (self, other))
            )
            if names := [name for name in one | two if one.get(name) != two.get(name)]:
                found[stage] = names
        return found

    @property
    def scored(self) -> dict[str, dict[str, str]]:
        """The sources of the stages that the scores depend on."""
        return {name: of for name, (of, _) in self.inputs.items() if not name.startswith(_BESIDE)}

    @property
    def stale(self) -> list[str]:
        """The scored stages that ran with other parameters than those of its params.yaml."""
        known = self.settings.items()
        return [stage for stage in self.scored if not self.inputs[stage][1].items() <= known]

    @cached_property
    def history(self) -> list[dict[str, str]]:
        """The rows of its ``plots/history.csv``, one per epoch."""
        return list(csv.DictReader(io.StringIO(self.read("plots/history.csv"))))

    @cached_property
    def predictions(self) -> SlicePredictions:
        """Predictions for the test part, slices ordered by path."""
        return SlicePredictions.of(self.read("plots/predictions.csv"))

    @property
    def images(self) -> NDArray[np.uint8]:
        """Its packed images, ``[n, side, side]``, in the order of its ``manifest.csv``."""
        found: NDArray[np.uint8] = np.load(io.BytesIO(self._cached("data/prepared/images.npy")))
        return found

    @property
    def repetition(self) -> tuple[Any, ...]:
        """Its seeds and fold."""
        return tuple(self.settings.get(key) for key in REPEATED)

    @property
    def identity(self) -> str:
        """A key that is equal for runs that differ only in seeds or fold."""
        settings = sorted((key, value) for key, value in self.settings.items() if counts(key))
        return str((settings, self.scored))

    @property
    def leaks(self) -> str:
        """``LEAKS``, ``MAY LEAK`` or empty."""
        return leak.leaks(self.evaluation["split"])

    @property
    def shared_subjects(self) -> int | None:
        """Number of its test subjects in training; None if its subjects are unknown."""
        shared: int | None = self.evaluation["split"]["shared_subjects"]
        return shared

    @property
    def best_epoch(self) -> str:
        """The best epoch of all epochs, such as ``7 of 10``."""
        return f"{self.training['best_epoch']} of {len(self.history)}"

    def is_of(self, wanted: Params) -> bool:
        """Whether it ran with the parameters ``wanted`` and the workspace's code and data."""
        try:
            mine = params.parse(self.read("params.yaml"), f"params.yaml of {self.name}")
        except UserError:
            return False  # its schema is older
        same = mine.model_copy(update={"compute": wanted.compute, "track": wanted.track}) == wanted
        return same and not git.run("diff", self.commit, "--", "src", "data", "dvc.yaml")

    def score(self, metric: str) -> float:
        """One of ``METRICS``; NaN if undefined."""
        content: Any = self.training if metric.startswith("val_") else self.evaluation
        for part in metric.split("."):
            content = content[part]
        return math.nan if content is None else float(content)

    def shown(self, metric: str) -> str:
        """One of ``METRICS`` with its interval over subjects, such as ``0.518 [0.459, 0.575]``."""
        *part, key = metric.split(".")
        bounds = (self.evaluation[part[0]] if part else self.evaluation)["ci95"].get(key)
        return interval(self.score(metric), bounds) if bounds else f"{self.score(metric):.3f}"

    def load(self) -> None:
        """Read all files that a report needs, to raise an error for missing ones first."""
        _ = self.training, self.evaluation, self.history, self.predictions

    def read(self, path: str) -> str:
        """A text file from its commit or, for an output, from DVC's cache; UserError if missing."""
        content = git.show(self.commit, path)
        return self._cached(path).decode() if content is None else content

    def _cached(self, path: str) -> bytes:
        from dvc.repo import Repo

        cache, known = Repo().cache.local, {} if path == "dvc.lock" else dict(self.outputs)

        def content(digest: str) -> bytes:
            return Path(cache.oid_to_path(digest)).read_bytes()

        try:
            for folder in [output for output in known if path.startswith(f"{output}/")]:
                inside = json.loads(content(known[folder]))
                known |= {f"{folder}/{one['relpath']}": one["md5"] for one in inside}
            return content(known[path])
        except KeyError:
            remedy = "run `dvc repro` there, and commit"
            raise UserError(f"{self.name} has no {path}: {remedy}") from None
        except FileNotFoundError:
            here = "" if self.commit == git.head() else f"`git switch {self.name}`, "
            own = f'{here}`make repro` and `git commit -am "my baseline"`'
            raise UserError(
                f"{path} of experiment {self.name} is no longer in DVC's cache: run"
                f" `dvc exp remove {self.name}`, then this command again"
                if self.is_experiment
                else f"{path} of {self.name} was computed elsewhere and is not in this DVC cache:"
                f" to make your own run the baseline, {own}"
            ) from None


@dataclass(frozen=True)
class Workspace(FinishedRun):
    """The working tree, with the results of the last `dvc repro`."""

    name: str = "workspace"
    commit: str = ""

    def read(self, path: str) -> str:
        """The content of a file in the working tree."""
        try:
            return Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"{path} not found: run `dvc repro` in the root of a clone") from None

    @cached_property
    def stale(self) -> list[str]:
        """The scored stages that ran on other parameters, code or data."""
        from dvc.repo import Repo

        def changed(change: Any) -> bool:  # a missing file, as before `dvc pull`, is not a change
            if isinstance(change, str):
                return change == "changed command"
            return bool({*change.get("changed deps", {}).values()} - {"deleted"})

        stages = [name for name, found in Repo().status().items() if any(map(changed, found))]
        return [name for name in stages if not name.startswith(_BESIDE)]


@dataclass(frozen=True)
class Group:
    """One or more runs of one experiment that differ only in seeds or fold, sorted by these."""

    name: str
    runs: Sequence[FinishedRun]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Parameters of its first run: every key of params.yaml with a dot, and the value."""
        return self.runs[0].settings

    @property
    def leaks(self) -> str:
        """``LEAKS``, ``MAY LEAK`` or empty: the worst of its runs."""
        return max((run.leaks for run in self.runs), key=leak.WORDS.index)

    def mean(self, metric: str) -> float:
        """The mean of one of ``METRICS`` over its runs."""
        return float(np.mean([run.score(metric) for run in self.runs]))

    def spread(self, metric: str) -> float:
        """The standard deviation over its runs; NaN for a single run."""
        scores = [run.score(metric) for run in self.runs]
        return float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan

    def shown(self, metric: str) -> str:
        """Mean and spread, such as ``0.700 ± 0.010``."""
        spread = f" ± {self.spread(metric):.3f}" if len(self.runs) > 1 else ""
        return f"{self.mean(metric):.3f}{spread}"

    @cached_property
    def interval(self) -> intervals.Interval:
        """The 95 % interval over subjects of the mean macro F1 of its runs."""
        classes, seed = len(self.runs[0].predictions.classes), self.settings["split.seed"]
        return intervals.mean_macro_f1(list(map(classified, self.runs)), classes, seed).interval

    def history(self, column: str) -> NDArray[np.float64]:
        """A column of plots/history.csv, ``[runs, epochs]``, up to the last epoch of all runs."""
        scores = [[float(row[column]) for row in run.history] for run in self.runs]
        return np.array(list(zip(*scores, strict=False))).T


def classified(run: FinishedRun) -> intervals.Classified:
    """The predictions of ``run`` by slice."""
    test = run.predictions
    return intervals.Classified(test.truth, test.predicted, test.subjects)


def finished(baseline: str = "") -> dict[str, FinishedRun]:
    """The experiments from the commit ``baseline`` (by default any), by name; the newest counts."""
    found = {}
    listing = ("for-each-ref", "--sort=creatordate", "--format=%(objectname) %(refname)")
    for line in git.lines(*listing, "refs/exps"):
        commit, reference = line.split(" ", 1)
        # DVC documents refs/exps/12/34.../NAME; its internal references have other forms.
        match reference.split("/", 4):
            case [_, _, start, rest, name] if len(start + rest) == len(commit):
                if baseline in ("", start + rest):
                    found[name] = FinishedRun(name, commit)
    return found


def chosen(words: Sequence[str]) -> list[FinishedRun]:
    """The runs that ``words`` name, each once; without words, this commit's experiments.

    A word is the name of an experiment (this commit's first), a branch, a tag or a commit, or the
    start of experiments' names. Raises UserError when a word names nothing.
    """
    here = finished(git.head())
    known = {**finished(), **here}
    found = [] if words else list(here.values())
    for word in words:
        asked = ("rev-parse", "--quiet", "--verify", "--end-of-options", f"{word}^{{commit}}")
        runs = [known[word]] if word in known else []
        runs = runs or [FinishedRun(word, one, is_experiment=False) for one in git.lines(*asked)]
        for some in (here, known):
            runs = runs or [run for name, run in some.items() if name.startswith(word)]
        if not runs:
            raise UserError(f"{word}: no such experiment or revision: see `dvc exp list -A`")
        found += runs
    if not found:
        raise UserError(
            "no experiment started from this commit: run one, as `dvc exp run -S train.lr=0.0005`;"
            " `dvc exp list -A` shows those of other commits"
        )
    return list({run.commit: run for run in found}.values())

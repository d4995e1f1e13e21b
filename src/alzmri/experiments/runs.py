"""DVC experiments as the program sees them: wanted, and finished."""

import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from alzmri import git, params
from alzmri.errors import UserError
from alzmri.experiments import metrics
from alzmri.experiments.lock import Lock
from alzmri.params import Params

Settings = Mapping[str, object]
"""Keys of ``params.yaml`` with a dot, such as ``train.lr``, and their values."""


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
class Finished:
    """An experiment that ran, by the commit that DVC made of it; or any commit with results."""

    name: str
    commit: str

    @property
    def params(self) -> Params:
        """The parameters it ran with."""
        return params.parse(self.read("params.yaml"), f"params.yaml of {self.name}")

    @cached_property
    def settings(self) -> dict[str, object]:
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
        return self.lock.stale(self.settings)

    @property
    def date(self) -> str:
        """The day on which it ran, such as 2026-11-23."""
        return git.run("log", "-1", "--format=%cs", self.commit).strip()

    @cached_property
    def lock(self) -> Lock:
        """Its dvc.lock."""
        return Lock.parse(self.read("dvc.lock"))

    @cached_property
    def scores(self) -> dict[str, Any]:
        """The content of its ``metrics/evaluate.json``, which git has."""
        return dict(json.loads(self.read("metrics/evaluate.json")))

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
        test = {} if metric.startswith("val_") else self.evaluation
        return metrics.score(metric, self.training, test)

    def read(self, path: str) -> str:
        """The content of a text file that git has of it.

        Raises:
            UserError: when there is none.
        """
        content = git.show(self.commit, path)
        if content is None:
            raise UserError(f"{self.name} has no {path}: run `dvc repro` there, and commit")
        return content

    def table(self, path: str) -> list[dict[str, str]]:
        """The rows of a CSV that it wrote and DVC has in its cache.

        Raises:
            UserError: when it has not.
        """
        return list(csv.DictReader(io.StringIO(self.cached(path))))

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


def remove(names: Sequence[str]) -> None:
    """Remove experiments of the current commit."""
    for name in names:
        git.run("update-ref", "-d", _reference(git.head()) + name)


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


def finished(baseline: str | None = None) -> dict[str, Finished]:
    """The experiments that started from ``baseline``, by default the current commit, by name."""
    start = _reference(baseline or git.head())
    lines = git.lines("for-each-ref", "--format=%(objectname) %(refname)", start)
    found = (line.split(" ", 1) for line in lines)
    return {name: Finished(name, sha) for sha, ref in found for name in [ref.removeprefix(start)]}


def _reference(baseline: str) -> str:
    """Where DVC keeps the experiments of a commit, as its documentation has it."""
    return f"refs/exps/{baseline[:2]}/{baseline[2:]}/"


def environment() -> dict[str, str]:
    """Of DVC's commands: the `python` of its stages is the one of this program."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return {**os.environ, "PATH": path}

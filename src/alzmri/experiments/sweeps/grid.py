"""The grid of a sweep: from `train.lr=0.0001,0.0005 train.seed=range(3)` to named experiments."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alzmri import params
from alzmri.errors import UserError
from alzmri.experiments.runs import (
    Experiment,
    Run,
    Settings,
    parse_settings,
    require_source,
)
from alzmri.params import FaultyParams

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SIGNIFICANT = 12
"""Digits of a number: `range(0.1,0.4,0.1)` is not to contain 0.30000000000000004."""


@dataclass(frozen=True)
class Grid:
    """Experiments that belong together; each is named after what sets it apart."""

    name: str
    experiments: Sequence[Experiment]

    @property
    def total(self) -> int:
        """How many they are."""
        return len(self.experiments)

    def known(self, finished: Mapping[str, Run]) -> Sequence[Experiment]:
        """Those of whose names there is one in ``finished``."""
        return [experiment for experiment in self.experiments if experiment.name in finished]

    def ask(self, *_: object) -> Iterable[Experiment]:
        """All of them."""
        return self.experiments


def grid(words: Sequence[str], name: str | None, base: Settings) -> Grid:
    """All combinations of the values in ``words``, the last one's values changing fastest.

    Args:
        words: `KEY=VALUES` each, in the syntax of `dvc exp run -S`, which is Hydra's:
            `a,b`, `range(start,stop,step)`, `choice(a,b)`, or a single value.
        name: of the sweep; by default `sweep-` and what varies.
        base: what all of them set unless ``words`` do.

    Raises:
        UserError: with every fault of the words and of the values in one message.
    """
    values, faults = read(words)
    varied = short([key for key, choices in values.items() if len(choices) > 1] or [*values])
    name = name or "-".join(("sweep", *varied.values()))
    faults += check_name(name)
    experiments = []
    for combination in itertools.product(*values.values()):
        settings = dict(zip(values, combination, strict=True))
        parts = (_part(word, settings[key]) for key, word in varied.items())
        # Where runs are reported to, the sweep is one group.
        everything = {**base, "track.group": name, **settings}
        experiments.append(Experiment("-".join((name, *parts)), everything))
    refuse([*faults, *misfits(experiments)])
    return Grid(name, experiments)


def refuse(faults: Sequence[str]) -> None:
    """Raise UserError with all of ``faults`` when there are any."""
    if faults:
        raise UserError("\n  ".join((f"this sweep has {len(faults)} fault(s):", *faults)))


def check_name(name: str) -> list[str]:
    """What is wrong with the name of a sweep."""
    if _NAME.fullmatch(name):
        return []
    return [f"--name {name}: up to 64 letters, digits, hyphens and underscores"]


def read(words: Sequence[str]) -> tuple[dict[str, list[object]], list[str]]:
    """The values of each key in order, none twice; and what is wrong with the words."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import get_hydra_sweeps
    from hydra.errors import HydraException

    values: dict[str, list[object]] = {}
    faults = []
    if not words:
        faults.append("nothing to run: write KEY=VALUES, such as train.lr=0.0001,0.0005")
    for word in words:
        try:
            single = [one for sweep in get_hydra_sweeps({"": [word]}) for one in sweep[""]]
            settings = [parse_settings([setting]) for setting in single]
        except (HydraException, DvcException, UserError, ValueError) as error:
            reason = str(error).splitlines()[0]
            faults.append(f"{word}: {reason}; write KEY=A,B or KEY=range(START,STOP,STEP)")
            continue
        if not settings:
            faults.append(f"{word}: no values")
        for key in dict.fromkeys(key for setting in settings for key in setting):
            if key in values:
                faults.append(f"{key}: given twice")
                continue
            choices = values[key] = []
            for setting in settings:
                value = _rounded(setting[key])
                if value not in choices:
                    choices.append(value)
    return values, faults


def _rounded(value: object) -> object:
    return float(f"{value:.{_SIGNIFICANT}g}") if isinstance(value, float) else value


def misfits(experiments: Sequence[Experiment]) -> list[str]:
    """What is wrong with their parameters, each fault once."""
    source = params.load().data.source
    faults: dict[str, None] = {}
    for experiment in experiments:
        try:
            _ = experiment.params
        except FaultyParams as error:
            faults.update(dict.fromkeys(error.faults))
        try:
            require_source(str(experiment.settings.get("data.source", source)))
        except UserError as error:
            faults[str(error)] = None
    return list(faults)


def short(keys: Sequence[str]) -> Mapping[str, str]:
    """Each key without its section, where that tells them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: word if last.count(word) == 1 else key.replace(".", "_")
        for key, word in zip(keys, last, strict=True)
    }


def _part(key: str, value: object) -> str:
    """Such as ``lr0.0005`` or ``schedule_cosine``: fit for the name of a git reference."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = re.sub(r"[^A-Za-z0-9.-]+|\.{2,}", "_", text).strip("_.")
    return f"{key}{text}" if text[:1].isdigit() else f"{key}_{text}"

"""The grid of a sweep: from `train.lr=0.0001,0.0005 train.seed=range(3)` to named experiments."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alzmri import params
from alzmri.errors import UserError
from alzmri.experiments.runs import Experiment, parse_settings, require_source
from alzmri.params import FaultyParams, Params

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SIGNIFICANT = 12
"""Digits of a number: `range(0.1,0.4,0.1)` is not to contain 0.30000000000000004."""


@dataclass(frozen=True)
class Sweep:
    """Experiments that belong together; each is named after what sets it apart."""

    name: str
    experiments: Sequence[Experiment]


def sweep(words: Sequence[str], name: str | None) -> Sweep:
    """All combinations of the values in ``words``, the last one's values changing fastest.

    Args:
        words: `KEY=VALUES` each, in the syntax of `dvc exp run -S`, which is Hydra's:
            `a,b`, `range(start,stop,step)`, `choice(a,b)`, or a single value.
        name: of the sweep; by default `sweep-` and what varies.

    Raises:
        UserError: with every fault of the words and of the values in one message.
    """
    values, faults = _values(words)
    if not values and not faults:
        faults = ["nothing to run: write KEY=VALUES, such as train.lr=0.0001,0.0005"]
    varied = _short([key for key, choices in values.items() if len(choices) > 1] or [*values])
    name = name or "-".join(("sweep", *varied.values()))
    if not _NAME.fullmatch(name):
        faults.append(f"--name {name}: up to 64 letters, digits, hyphens and underscores")
    # Where runs are reported to, the sweep is one group.
    group = {"track.group": name} if "track" in Params.model_fields else {}
    experiments = []
    for combination in itertools.product(*values.values()):
        settings = dict(zip(values, combination, strict=True))
        parts = (_part(short, settings[key]) for key, short in varied.items())
        experiments.append(Experiment("-".join((name, *parts)), {**settings, **group}))
    faults += _misfits(experiments)
    if faults:
        raise UserError("\n  ".join((f"this sweep has {len(faults)} fault(s):", *faults)))
    return Sweep(name, experiments)


def _values(words: Sequence[str]) -> tuple[dict[str, list[object]], list[str]]:
    """The values of each key in order, none twice; and what is wrong with the words."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import get_hydra_sweeps
    from hydra.errors import HydraException

    values: dict[str, list[object]] = {}
    faults = []
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


def _misfits(experiments: Sequence[Experiment]) -> list[str]:
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


def _short(keys: Sequence[str]) -> Mapping[str, str]:
    """Each key without its section, where that tells them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: short if last.count(short) == 1 else key.replace(".", "_")
        for key, short in zip(keys, last, strict=True)
    }


def _part(key: str, value: object) -> str:
    """Such as ``lr0.0005`` or ``schedule_cosine``: fit for the name of a git reference."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = re.sub(r"[^A-Za-z0-9.-]+|\.{2,}", "_", text).strip("_.")
    return f"{key}{text}" if text[:1].isdigit() else f"{key}_{text}"

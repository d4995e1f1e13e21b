"""The grid of a sweep: from `train.lr=0.0001,0.0005 train.seed=range(3)` to named experiments."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alzmri import params
from alzmri.errors import UserError
from alzmri.experiments.runs import Experiment, Run, Settings, parse_settings, require_source
from alzmri.params import FaultyParams

_SIGNIFICANT = 12
"""Digits of a number: `range(0.1,0.4,0.1)` is not to contain 0.30000000000000004."""


class Grid(NamedTuple):
    """Experiments that belong together; each is named after what sets it apart."""

    name: str
    experiments: Sequence[Experiment]

    @property
    def total(self) -> int:
        """How many experiments there are."""
        return len(self.experiments)

    def known(self, finished: Mapping[str, Run]) -> Sequence[Experiment]:
        """The experiments whose names are in ``finished``."""
        return [experiment for experiment in self.experiments if experiment.name in finished]

    def ask(self, *_: object) -> Sequence[Experiment]:
        """Return the experiments to run."""
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
    if not words:
        faults.append("nothing to run: write KEY=VALUES, such as train.lr=0.0001,0.0005")
    varied = short([key for key, choices in values.items() if len(choices) > 1] or [*values])
    name = name or "-".join(("sweep", *varied.values()))
    experiments = []
    for combination in itertools.product(*values.values()):
        settings = dict(zip(values, combination, strict=True))
        parts = (_part(word, settings[key]) for key, word in varied.items())
        # Where runs are reported to, the sweep is one group.
        everything = {**base, "track.group": name, **settings}
        experiments.append(Experiment("-".join((name, *parts)), everything))
    refuse(name, faults, experiments)
    return Grid(name, experiments)


def refuse(name: str, faults: Sequence[str], experiments: Sequence[Experiment]) -> None:
    """Raise UserError with ``faults`` and those of the sweep's name and of its parameters."""
    found = dict.fromkeys(faults)
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,63}", name, re.ASCII):
        found[f"--name {name}: up to 64 letters, digits, hyphens and underscores"] = None
    source = params.load().data.source
    for experiment in experiments:
        try:
            _ = experiment.params
        except FaultyParams as error:
            found.update(dict.fromkeys(error.faults))
        try:
            require_source(str(experiment.settings.get("data.source", source)))
        except UserError as error:
            found[str(error)] = None
    if found:
        raise UserError("\n  ".join((f"this sweep has {len(found)} fault(s):", *found)))


def read(words: Sequence[str]) -> tuple[dict[str, list[object]], list[str]]:
    """The values of each key in order, none twice; and what is wrong with the words."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import get_hydra_sweeps
    from hydra.errors import HydraException

    values: dict[str, list[object]] = {}
    faults = []
    for word in words:
        try:
            single = [one for sweep in get_hydra_sweeps({"": [word]}) for one in sweep[""]]
            pairs = [pair for one in single for pair in parse_settings([one]).items()]
        except (HydraException, DvcException, UserError, ValueError) as error:
            reason = str(error).splitlines()[0]
            faults.append(f"{word}: {reason}; write KEY=A,B or KEY=range(START,STOP,STEP)")
            continue
        key = word.partition("=")[0]
        if not pairs:
            faults.append(f"{word}: no values")
        elif key in values:
            faults.append(f"{key}: given twice")
        else:
            numbers = (
                float(f"{value:.{_SIGNIFICANT}g}") if isinstance(value, float) else value
                for _, value in pairs
            )
            values[key] = list({str(value): value for value in numbers}.values())
    return values, faults


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

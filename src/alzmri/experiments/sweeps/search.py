"""`alzmri sweep --trials`: Optuna proposes each experiment from the scores of those before."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alzmri import params
from alzmri.errors import EnvironmentFault
from alzmri.experiments import runs
from alzmri.experiments.runner import begun
from alzmri.experiments.runs import Experiment, Run, Settings
from alzmri.experiments.sweeps import grid

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

METRIC = "val_macro_f1"
"""What decides; the test part has no say."""
_RANGE = re.compile(r"([\w.]+)=(log|uniform)\(([^,()]+),([^,()]+)\)")


@dataclass(frozen=True)
class Search:
    """A number of experiments, each chosen when there is room for it.

    Attributes:
        name: of the sweep; its experiments are called NAME-t001 and so on.
        total: how many there will be.
        seed: of Optuna's draws.
        ranges: what each key that varies is drawn from.
        fixed: what all of them set.
    """

    name: str
    total: int
    seed: int
    ranges: "Mapping[str, BaseDistribution]"
    fixed: Settings

    def known(self, finished: Mapping[str, Run]) -> Sequence[Experiment]:
        """The experiments whose names are in ``finished``, with the values that each has there."""
        return [
            self._one(name, finished[name].settings) for name in self._names if name in finished
        ]

    def ask(self, baseline: str, results: Mapping[str, Run | None]) -> Iterator[Experiment]:
        """Each experiment in turn, chosen by the ``results`` that there are by then.

        One that has finished, or was begun, from ``baseline`` keeps its values. Each has a seed of
        its own: a search that was ended proposes next what it would have.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        finished = runs.finished(baseline)
        study = optuna.create_study(direction="maximize")
        trials: dict[str, optuna.Trial] = {}
        for number, name in enumerate(self._names):
            for ended in trials.keys() & results.keys():
                trial, result = trials.pop(ended), results[ended]
                failed = None if result else optuna.trial.TrialState.FAIL
                study.tell(trial, result.training[METRIC] if result else None, failed)
            before = finished[name].settings if name in finished else begun(name, baseline)
            if before.keys() >= self.ranges.keys():
                study.enqueue_trial({key: before[key] for key in self.ranges})
            with warnings.catch_warnings(action="ignore"):  # what runs counting as bad is new there
                study.sampler = optuna.samplers.TPESampler(
                    seed=self.seed + number, constant_liar=True
                )
                trials[name] = study.ask(dict(self.ranges))
            yield self._one(name, trials[name].params)

    @property
    def _names(self) -> list[str]:
        return [f"{self.name}-t{number:03}" for number in range(1, self.total + 1)]

    def _one(self, name: str, values: Mapping[str, Any]) -> Experiment:
        chosen = {key: values.get(key) for key in self.ranges}
        for key, value in chosen.items():
            if isinstance(value, float):
                chosen[key] = float(f"{value:.4g}")  # more digits make it longer, not better
        return Experiment(name, {**self.fixed, **chosen})


def search(words: Sequence[str], name: str | None, base: Settings, total: int, seed: int) -> Search:
    """A search over the ranges and lists in ``words``.

    Args:
        words: `KEY=log(a,b)` or `KEY=uniform(a,b)` to draw from, else as for a grid.
        name: of the sweep; by default `sweep-` and what varies.
        base: what all of them set unless ``words`` do.
        total: how many experiments.
        seed: of the draws.

    Raises:
        UserError: with every fault of the words and of the values in one message.
        EnvironmentFault: when Optuna is not installed.
    """
    try:
        from optuna import distributions
    except ImportError:
        raise EnvironmentFault("optuna is not installed: pip install 'alzmri[sweep]'") from None

    values, faults = grid.read([word for word in words if not _RANGE.fullmatch(word)])
    fixed = {key: choices[0] for key, choices in values.items() if len(choices) == 1}
    ends = [{key: choice} for key, choices in values.items() for choice in choices]
    ranges: dict[str, BaseDistribution] = {}
    usual = params.load().model_dump()
    for key, kind, low, high in (m.groups() for m in map(_RANGE.fullmatch, words) if m):
        section, _, last = key.partition(".")
        whole = isinstance(usual.get(section, {}).get(last), int)
        number = int if whole else float
        try:
            ends += [{key: number(low)}, {key: number(high)}]
            ranges[key] = (
                distributions.IntDistribution(int(low), int(high), kind == "log")
                if whole
                else distributions.FloatDistribution(float(low), float(high), kind == "log")
            )
        except ValueError as error:
            faults.append(f"{key}={kind}({low},{high}): {error}")
        if key in values:
            faults.append(f"{key}: given twice")
    for key in [key for key in values if key not in fixed]:
        simple = [one for one in values[key] if isinstance(one, bool | int | float | str)]
        ranges[key] = distributions.CategoricalDistribution(simple or [""])
        if simple != values[key]:
            faults.append(f"{key}: Optuna chooses between numbers and words only")
    if not ranges and not faults:
        faults.append("nothing to search: write KEY=log(A,B), KEY=uniform(A,B) or KEY=A,B")
    name = name or "-".join(("sweep", *grid.short(list(ranges)).values()))
    fixed = {**base, "track.group": name, **fixed}
    grid.refuse(name, faults, [Experiment(name, {**fixed, **end}) for end in ends])
    return Search(name, total, seed, ranges, fixed)

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
from alzmri.experiments.runs import Experiment, Finished, Settings
from alzmri.experiments.sweeps import grid

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

METRIC = "val_macro_f1"
"""What decides; the test part has no say."""
_RANGE = re.compile(r"([\w.]+)=(log|uniform)\(([^,()]+),([^,()]+)\)")
_SIGNIFICANT = 4
"""Digits of a proposal: more make it longer, not better."""


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

    def known(self, finished: Mapping[str, Finished]) -> Sequence[Experiment]:
        """Those of whose names there is one in ``finished``, with the values that it has."""
        names = (self._called(number) for number in range(1, self.total + 1))
        return [
            self._experiment(name, finished[name].settings) for name in names if name in finished
        ]

    def ask(self, baseline: str, results: Mapping[str, Finished | None]) -> Iterator[Experiment]:
        """Each experiment in turn, chosen by the ``results`` that there are by then.

        One that has finished, or was begun, from ``baseline`` keeps its values. Each has a seed of
        its own: a search that was ended proposes next what it would have.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        finished = runs.finished(baseline)
        study = optuna.create_study(direction="maximize")
        trials: dict[str, Trial] = {}
        for number in range(1, self.total + 1):
            self._tell(study, trials, results)
            name = self._called(number)
            before = finished[name].settings if name in finished else begun(name, baseline)
            if before.keys() >= self.ranges.keys():
                study.enqueue_trial({key: before[key] for key in self.ranges})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that what runs counts as bad is new in Optuna
                study.sampler = optuna.samplers.TPESampler(
                    seed=self.seed + number, constant_liar=True
                )
                trials[name] = study.ask(dict(self.ranges))
            yield self._experiment(name, trials[name].params)

    def _called(self, number: int) -> str:
        return f"{self.name}-t{number:03}"

    def _experiment(self, name: str, values: Mapping[str, Any]) -> Experiment:
        chosen = {key: _rounded(values.get(key)) for key in self.ranges}
        return Experiment(name, {**self.fixed, **chosen})

    def _tell(
        self,
        study: "Study",
        trials: "dict[str, Trial]",
        results: Mapping[str, Finished | None],
    ) -> None:
        from optuna.trial import TrialState

        for name in [name for name in trials if name in results]:
            result, trial = results[name], trials.pop(name)
            if result is None:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, result.training[METRIC])


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
        from optuna.distributions import (
            BaseDistribution,
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )
    except ImportError:
        raise EnvironmentFault("optuna is not installed: pip install 'alzmri[sweep]'") from None

    drawn = [match for word in words if (match := _RANGE.fullmatch(word))]
    listed = [word for word in words if not _RANGE.fullmatch(word)]
    values, faults = grid.read(listed) if listed else ({}, [])
    ranges: dict[str, BaseDistribution] = {}
    usual = params.load().model_dump()
    for key, kind, low, high in (match.groups() for match in drawn):
        section, _, last = key.partition(".")
        whole = isinstance(usual.get(section, {}).get(last), int)
        try:
            if whole:
                ranges[key] = IntDistribution(int(low), int(high), log=kind == "log")
            else:
                ranges[key] = FloatDistribution(float(low), float(high), log=kind == "log")
        except ValueError as error:
            faults.append(f"{key}={kind}({low},{high}): {error}")
        if key in values:
            faults.append(f"{key}: given twice")
    lists = {key: choices for key, choices in values.items() if len(choices) > 1}
    for key, choices in lists.items():
        simple = [one for one in choices if isinstance(one, bool | int | float | str)]
        if simple == choices:
            ranges[key] = CategoricalDistribution(simple)
        else:
            faults.append(f"{key}: Optuna chooses between numbers and words only")
    if not ranges and not faults:
        faults.append("nothing to search: write KEY=log(A,B), KEY=uniform(A,B) or KEY=A,B")
    name = name or "-".join(("sweep", *grid.short(list(ranges)).values()))
    faults += grid.check_name(name)
    fixed = {key: choices[0] for key, choices in values.items() if key not in lists}
    extremes = [{key: choice} for key, choices in lists.items() for choice in choices]
    for key, one in ranges.items():
        if isinstance(one, IntDistribution | FloatDistribution):
            extremes += [{key: one.low}, {key: one.high}]
    fixed = {**base, "track.group": name, **fixed}
    tried = [Experiment(name, {**fixed, **extreme}) for extreme in extremes]
    grid.refuse([*faults, *grid.misfits(tried)])
    return Search(name, total, seed, ranges, fixed)


def _rounded(value: object) -> object:
    return float(f"{value:.{_SIGNIFICANT}g}") if isinstance(value, float) else value

"""`alzmri sweep`: words such as `train.lr=0.0001,0.0005` become experiments, which run.

They are all combinations (a grid), or Optuna proposes each from the scores of those before.
"""

import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from alzmri import params, terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.evaluation.markdown import table
from alzmri.experiments import runs
from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS
from alzmri.experiments.reports import comparison, document
from alzmri.experiments.runner import Runner, begun
from alzmri.experiments.runs import Experiment, Run, Settings, parse_settings
from alzmri.params import FaultyParams

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

METRIC = "val_macro_f1"
"""What decides for Optuna; the test part has no say."""
_RANGE = re.compile(r"([\w.]+)=(log|uniform)\(([^,()]+),([^,()]+)\)")


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
    """Combine all values in ``words``; the last word's values change fastest.

    Args:
        words: `KEY=VALUES` each, in the syntax of `dvc exp run -S`, which is Hydra's:
            `a,b`, `range(start,stop,step)`, `choice(a,b)`, or a single value.
        name: of the sweep; by default `sweep-` and what varies.
        base: what all of them set unless ``words`` do.

    Raises:
        UserError: with every fault of the words and of the values in one message.
    """
    values, faults = _read(words)
    if not words:
        faults.append("nothing to run: write KEY=VALUES, such as train.lr=0.0001,0.0005")
    varied = _short([key for key, choices in values.items() if len(choices) > 1] or [*values])
    name = name or "-".join(("sweep", *varied.values()))
    experiments = []
    for combination in itertools.product(*values.values()):
        settings = dict(zip(values, combination, strict=True))
        parts = (_part(word, settings[key]) for key, word in varied.items())
        # Where runs are reported to, the sweep is one group.
        everything = {**base, "track.group": name, **settings}
        experiments.append(Experiment("-".join((name, *parts)), everything))
    _refuse(name, faults, experiments)
    return Grid(name, experiments)


def _refuse(name: str, faults: Sequence[str], experiments: Sequence[Experiment]) -> None:
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
            runs.require_source(str(experiment.settings.get("data.source", source)))
        except UserError as error:
            found[str(error)] = None
    if found:
        raise UserError("\n  ".join((f"this sweep has {len(found)} fault(s):", *found)))


def _read(words: Sequence[str]) -> tuple[dict[str, list[object]], list[str]]:
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
            # `range(0.1,0.4,0.1)` is not to contain 0.30000000000000004.
            rounded = [_rounded(value, 12) for _, value in pairs]
            values[key] = list({str(value): value for value in rounded}.values())
    return values, faults


def _rounded(value: object, digits: int) -> object:
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _short(keys: Sequence[str]) -> Mapping[str, str]:
    """Each key without its section, where that tells them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: word if last.count(word) == 1 else key.replace(".", "_")
        for key, word in zip(keys, last, strict=True)
    }


def _part(key: str, value: object) -> str:
    """Name a value for a git reference, such as ``lr0.0005`` or ``schedule_cosine``."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = re.sub(r"[^A-Za-z0-9.-]+|\.{2,}", "_", text).strip("_.")
    return f"{key}{text}" if text[:1].isdigit() else f"{key}_{text}"


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
        """Yield each experiment in turn, chosen by the ``results`` that there are by then.

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
        # More digits make a number longer, not better.
        chosen = {key: _rounded(values.get(key), 4) for key in self.ranges}
        return Experiment(name, {**self.fixed, **chosen})


def search(words: Sequence[str], name: str | None, base: Settings, total: int, seed: int) -> Search:
    """Plan a search over the ranges and lists in ``words``.

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
        raise EnvironmentFault("optuna is not installed: pip install -e '.[sweep]'") from None

    values, faults = _read([word for word in words if not _RANGE.fullmatch(word)])
    fixed = {key: choices[0] for key, choices in values.items() if len(choices) == 1}
    ends = [{key: choice} for key, choices in values.items() for choice in choices]
    ranges: dict[str, BaseDistribution] = {}
    number: Any
    draw: Any
    usual = params.load().model_dump()
    for key, kind, low, high in (m.groups() for m in map(_RANGE.fullmatch, words) if m):
        section, _, last = key.partition(".")
        number, draw = (float, distributions.FloatDistribution)
        if isinstance(usual.get(section, {}).get(last), int):
            number, draw = (int, distributions.IntDistribution)
        try:
            ends += [{key: number(low)}, {key: number(high)}]
            ranges[key] = draw(number(low), number(high), kind == "log")
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
    name = name or "-".join(("sweep", *_short(list(ranges)).values()))
    fixed = {**base, "track.group": name, **fixed}
    _refuse(name, faults, [Experiment(name, {**fixed, **end}) for end in ends])
    return Search(name, total, seed, ranges, fixed)


def sweep(plan: Grid | Search, jobs: int, metric: str) -> None:
    """Run what is missing of ``plan``; print its table, write its page.

    Args:
        plan: the experiments.
        jobs: how many run at once.
        metric: of :data:`alzmri.experiments.metrics.METRICS`, to sort by.

    Raises:
        UserError: before anything runs, when an experiment of such a name is another one.
        EnvironmentFault: at the end, when experiments failed.
    """
    runner = Runner(jobs, plan.total, metric)
    finished = runs.finished(runner.baseline)
    others = [one.name for one in plan.known(finished) if not finished[one.name].is_of(one.params)]
    if others:
        raise UserError(
            "there are experiments of these names, with other parameters, code or data: give this"
            f" sweep another --name, or remove them:\n  dvc exp remove {' '.join(others)}"
        )
    if results := runner.run(plan.ask(runner.baseline, runner.results)):
        sign = 1 if metric in LESS_IS_BETTER else -1
        best = sorted(results, key=lambda run: sign * run.score(metric))
        rows = (
            (run.name + " LEAKS" * run.leaks, run.shown(metric), run.best_epoch) for run in best
        )
        header = ("experiment", METRICS[metric], "best epoch")
        terminal.out.print(table(header, rows), markup=False)
        document.say(comparison.write(best, plan.name, metric))
    runner.complain()

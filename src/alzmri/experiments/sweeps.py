"""`alzmri sweep`: make experiments of words such as `train.lr=0.0001,0.0005` and run them.

They are all combinations (a grid), or Optuna proposes each from the earlier scores.
"""

import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from alzmri import params, terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.evaluation.markdown import table
from alzmri.experiments import comparison, report_page, runner
from alzmri.experiments.finished_runs import METRICS, FinishedRun, finished
from alzmri.experiments.groups import Group
from alzmri.experiments.runner import Experiment, Runner, Settings
from alzmri.params import FaultyParams

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

METRIC = "val_macro_f1"  # Optuna optimises this; it never sees the test part
_RANGE = re.compile(r"[\w.]+=(log|uniform)\(([^,()]+),([^,()]+)\)")

Results = Mapping[str, FinishedRun | None]
"""Experiments that have ended, by name; None for those that failed."""


class Sweep(NamedTuple):
    """A sweep; ``choose`` makes an experiment of its name, its earlier settings, the results."""

    name: str
    names: Sequence[str]
    choose: Callable[[str, Settings, Results], Experiment]

    def ask(self, baseline: str, results: Results) -> Iterator[Experiment]:
        """Yield experiments chosen by the current ``results``; begun ones keep their values."""
        done = finished(baseline)
        for name in self.names:
            before = done[name].settings if name in done else runner.begun(name, baseline)
            yield self.choose(name, before, results)


def plan(
    words: Sequence[str], name: str | None, base: Settings, trials: int | None = None, seed: int = 0
) -> Sweep:
    """Combine all values in ``words``, or let Optuna propose ``trials`` experiments.

    Words are `KEY=VALUES` in the (Hydra) syntax of `dvc exp run -S`: `a,b`,
    `range(start,stop,step)`, `choice(a,b)`, or a single value; for a search also `log(a,b)` and
    `uniform(a,b)`. All experiments set ``base`` unless words do. Raises UserError with every fault
    of words and values, EnvironmentFault when Optuna is needed and not installed.
    """
    values, kinds, faults = _read(words)
    varied = [key for key in values if len(values[key]) > 1]
    last = [key.rpartition(".")[2] for key in varied or values]
    short = {
        key: word if last.count(word) == 1 else key.replace(".", "_")
        for key, word in zip(varied or values, last, strict=True)
    }
    name = name or "-".join(("sweep", *short.values()))
    # The sweep is one group on W&B.
    base = {**base, "track.group": name, **{key: values[key][0] for key in values}}
    if trials is None:
        faults += [f"{key}: {kinds[key]}(A,B) needs --trials" for key in kinds]
        faults += [] if words else ["nothing to run: write KEY=A,B, as in train.lr=0.0001,0.0005"]
        experiments = {}
        for combination in itertools.product(*values.values()):
            chosen = dict(zip(values, combination, strict=True))
            own = "-".join((name, *(_part(word, chosen[key]) for key, word in short.items())))
            experiments[own] = Experiment(own, {**base, **chosen})
        _refuse(name, faults, list(experiments.values()))
        return Sweep(name, list(experiments), lambda name, *_: experiments[name])
    ranges = _ranges(values, kinds, faults)
    if not varied and not faults:
        faults.append("nothing to search: write KEY=log(A,B), KEY=uniform(A,B) or KEY=A,B")
    ends = [{**base, key: choice} for key in varied for choice in values[key]]
    _refuse(name, faults, [Experiment(name, end) for end in ends or [base]])
    names = [f"{name}-t{number:03}" for number in range(1, trials + 1)]
    known: dict[str, dict[str, Any]] = {}

    def choose(name: str, before: Settings, results: Results) -> Experiment:
        if before.keys() >= ranges.keys():
            known[name] = {key: before[key] for key in ranges}
        else:
            # Each trial has its own seed, so that a resumed search proposes the same values.
            known[name] = _propose(ranges, seed + names.index(name), known, results)
        return Experiment(name, {**base, **known[name]})

    return Sweep(name, names, choose)


def _read(words: Sequence[str]) -> tuple[dict[str, list[Any]], dict[str, str], list[str]]:
    """The distinct values of each key or the ends of its range; the kinds of ranges; faults."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import get_hydra_sweeps
    from hydra.errors import HydraException

    values: dict[str, list[Any]] = {}
    kinds: dict[str, str] = {}
    faults, usual = [], params.load().model_dump()
    for word in words:
        section, name = (key := word.partition("=")[0]).partition(".")[::2]
        try:
            if found := _RANGE.fullmatch(word):
                end = int if isinstance(usual.get(section, {}).get(name), int) else float
                choices: list[Any] = [end(text) for text in found.groups()[1:]]
                kinds[key] = found[1]
            else:
                single = [one for sweep in get_hydra_sweeps({"": [word]}) for one in sweep[""]]
                choices = [
                    value for one in single for value in runner.parse_settings([one]).values()
                ]
        except (HydraException, DvcException, UserError, ValueError) as error:
            reason = str(error).splitlines()[0]
            faults.append(f"{word}: {reason}; write KEY=A,B or KEY=range(START,STOP,STEP)")
            continue
        if not choices or key in values:
            faults.append(f"{key}: given twice" if choices else f"{word}: no values")
            continue
        # `range(0.1,0.4,0.1)` must not contain 0.30000000000000004.
        values[key] = list({str(one): one for one in (_rounded(x, 12) for x in choices)}.values())
    return values, kinds, faults


def _rounded(value: Any, digits: int) -> Any:
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _part(key: str, value: object) -> str:
    """The value as part of a git reference, such as ``lr0.0005`` or ``schedule_cosine``."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = re.sub(r"[^A-Za-z0-9.-]+|\.{2,}", "_", text).strip("_.")
    return f"{key}{text}" if text[:1].isdigit() else f"{key}_{text}"


def _refuse(name: str, faults: Sequence[str], experiments: Sequence[Experiment]) -> None:
    """Raise UserError with ``faults`` and the faults of the sweep's name and parameters, if any."""
    found, usual = dict.fromkeys(faults), params.load().data.source
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,63}", name, re.ASCII):
        found[f"--name {name}: up to 64 letters, digits, hyphens and underscores"] = None
    for experiment in experiments:
        try:
            runner.require_source(str(experiment.settings.get("data.source", usual)))
        except UserError as error:
            found[str(error)] = None
        try:
            _ = experiment.params
        except FaultyParams as error:
            found.update(dict.fromkeys(error.faults))
    if found:
        raise UserError("\n  ".join((f"this sweep has {len(found)} fault(s):", *found)))


def _ranges(
    values: Mapping[str, Sequence[Any]], kinds: Mapping[str, str], faults: list[str]
) -> "dict[str, BaseDistribution]":
    """Optuna's range of each key that varies; adds refused ranges to ``faults``."""
    try:
        from optuna import distributions
    except ImportError:
        raise EnvironmentFault("optuna is not installed: pip install -e '.[sweep]'") from None
    ranges: dict[str, BaseDistribution] = {}
    for key, choices in values.items():
        try:
            if key in kinds:
                whole = isinstance(choices[0], int)
                kind = distributions.IntDistribution if whole else distributions.FloatDistribution
                ranges[key] = kind(choices[0], choices[-1], log=kinds[key] == "log")
            elif len(choices) > 1:
                with warnings.catch_warnings(action="ignore"):  # about lists, which are not stored
                    ranges[key] = distributions.CategoricalDistribution(choices)
        except ValueError as error:
            faults.append(f"{key}: {error}")
    return ranges


def _propose(
    ranges: "dict[str, BaseDistribution]",
    seed: int,
    known: Mapping[str, dict[str, Any]],
    results: Results,
) -> dict[str, Any]:
    """The next values to try, given the ``known`` values by name of experiment."""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings(action="ignore"):  # about Optuna's experimental `constant_liar`
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for name, values in known.items():
            run = results.get(name)
            if name in results and run is None:
                continue  # it failed
            state = TrialState.COMPLETE if run else TrialState.RUNNING
            score = run.training[METRIC] if run else None
            with suppress(ValueError):  # from an earlier call with other ranges
                trial = create_trial(state=state, value=score, params=values, distributions=ranges)
                study.add_trial(trial)
        drawn = study.ask(ranges).params
    # Few digits keep names short.
    return {key: _rounded(value, 4) for key, value in drawn.items()}


def sweep(plan: Sweep, jobs: int, metric: str) -> None:
    """Run missing experiments of ``plan``, ``jobs`` at once; print its table, write its page."""
    running = Runner(jobs, len(plan.names), metric)
    done, others = finished(running.baseline), []
    for name in (name for name in plan.names if name in done):
        if not done[name].is_of(plan.choose(name, done[name].settings, {}).params):
            others.append(name)
    if others:
        raise UserError(
            "experiments of these names exist with other parameters, code or data: give this"
            f" sweep another --name, or remove them:\n  dvc exp remove {' '.join(others)}"
        )
    if results := running.run(plan.ask(running.baseline, running.results)):
        ranked = comparison.ranked([Group(run.name, [run]) for run in results], metric)
        runs = [group.runs[0] for group in ranked]
        rows = ((r.name + " LEAKS" * r.leaks, r.shown(metric), r.best_epoch) for r in runs)
        header = ("experiment", METRICS[metric], "best epoch")
        terminal.out.print(table(header, rows), markup=False)
        report_page.say(comparison.write_comparison(results, plan.name, metric))
    running.complain()

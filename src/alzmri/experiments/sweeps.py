"""`alzmri sweep`: make experiments of words such as `train.lr=0.0001,0.0005` and run them.

They are all combinations (a grid), or Optuna proposes each from the earlier scores.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alzmri import git, params, terminal
from alzmri.errors import UserError, require
from alzmri.evaluation.markdown import table
from alzmri.experiments import comparison, report_page, runner
from alzmri.experiments.finished_runs import METRICS, FinishedRun, Group
from alzmri.experiments.runner import Experiment, Runner, Settings

METRIC = "val_macro_f1"  # Optuna optimises this; it never sees the test part
_RANGE = re.compile(r"[\w.]+=(log|uniform)\(([^,()]+),([^,()]+)\)")

Results = Mapping[str, FinishedRun | None]
"""Experiments that have ended, by name; None for those that failed."""
Ranges = Mapping[str, tuple[str, list[Any]]]
"""Keys to search: ``log`` or ``uniform`` and both ends, or an empty text and all values."""


class Sweep(NamedTuple):
    """A sweep of the experiments ``planned``, by name; None for those that are not chosen yet.

    ``ask`` yields all of them, chosen by the current results.
    """

    name: str
    planned: Mapping[str, Experiment | None]
    ask: Callable[[Results], Iterator[Experiment]]


def plan(
    words: Sequence[str], name: str | None, base: Settings, trials: int | None = None, seed: int = 0
) -> Sweep:
    """Combine all values in ``words``, or let Optuna propose ``trials`` experiments.

    Words are `KEY=VALUES` in the (Hydra) syntax of `dvc exp run -S`: `a,b`,
    `range(start,stop,step)`, `choice(a,b)`, or a single value; for a search also `log(a,b)` and
    `uniform(a,b)`. All experiments set ``base`` unless words do. Raises UserError for faulty words
    and values, EnvironmentFault when Optuna is needed and not installed.
    """
    given: dict[str, tuple[str, list[Any]]] = {}
    for word in words:
        key = word.partition("=")[0]
        if key in given:
            raise UserError(f"{key}: given twice")
        given[key] = _read(word)
    varied = {key: of for key, of in given.items() if len(of[1]) > 1}
    keys = [*(varied or given)]
    short = [key.rpartition(".")[2] for key in keys]
    if len({*short}) < len(keys):
        short = [key.replace(".", "_") for key in keys]
    name = name or "-".join(("sweep", *short))
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,63}", name, re.ASCII):
        raise UserError(f"--name {name}: up to 64 letters, digits, hyphens and underscores")
    # The sweep is one group on W&B.
    base = {**base, "track.group": name, **{key: values[0] for key, (_, values) in given.items()}}
    if trials is not None:
        if not varied:
            raise UserError("nothing to search: write KEY=log(A,B), KEY=uniform(A,B) or KEY=A,B")
        for key, (_, ends) in varied.items():
            _check(Experiment(name, {**base, key: end}) for end in ends)
        return _search(name, base, varied, trials, seed)
    if not words:
        raise UserError("nothing to run: write KEY=A,B, as in train.lr=0.0001,0.0005")
    if ranges := [f"{key}: {kind}(A,B) needs --trials" for key, (kind, _) in given.items() if kind]:
        raise UserError("; ".join(ranges))
    experiments = []
    for combination in itertools.product(*(values for _, values in given.values())):
        chosen = dict(zip(given, combination, strict=True))
        parts = (_part(word, chosen[key]) for word, key in zip(short, keys, strict=True))
        experiments.append(Experiment("-".join((name, *parts)), {**base, **chosen}))
    planned = {one.name: one for one in experiments}
    if len(planned) < len(experiments):
        raise UserError("some of these experiments would have the same name: choose other values")
    _check(experiments)
    return Sweep(name, planned, lambda _: iter(experiments))


def _read(word: str) -> tuple[str, list[Any]]:
    """The kind of a range and its ends, or an empty text and the distinct values."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import get_hydra_sweeps
    from hydra.errors import HydraException

    try:
        if found := _RANGE.fullmatch(word):
            section, _, name = word.partition("=")[0].partition(".")
            usual = params.load().model_dump().get(section, {}).get(name)
            end = int if isinstance(usual, int) else float
            ends = [end(found[2]), end(found[3])]
            if not ends[0] < ends[1] or (found[1] == "log" and ends[0] <= 0):
                raise ValueError("no such range: A must be below B, and above 0 for log")
            return found[1], ends
        single = [one for sweep in get_hydra_sweeps({"": [word]}) for one in sweep[""]]
        choices = [value for one in single for value in runner.parse_settings([one]).values()]
    except (HydraException, DvcException, UserError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{word}: {reason}; write KEY=A,B or KEY=range(START,STOP,STEP)") from None
    if not choices:
        raise UserError(f"{word}: no values")
    # `range(0.1,0.4,0.1)` must not contain 0.30000000000000004.
    return "", list({str(one): one for one in (_rounded(x, 12) for x in choices)}.values())


def _rounded(value: Any, digits: int) -> Any:
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _part(key: str, value: object) -> str:
    """The value as part of a git reference, such as ``lr0.0005`` or ``schedule_cosine``."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = re.sub(r"[^A-Za-z0-9.-]+|\.{2,}", "_", text).strip("_.")
    return f"{key}{text}" if text[:1].isdigit() else f"{key}_{text}"


def _check(experiments: Iterable[Experiment]) -> None:
    """Raise UserError when parameters or the collection of an experiment are faulty."""
    for experiment in experiments:
        runner.require_source(experiment.params.data.source)


def _search(name: str, base: Settings, ranges: Ranges, trials: int, seed: int) -> Sweep:
    """Let Optuna choose the values of ``ranges``; it keeps a journal of them and of the scores."""
    optuna = require("optuna", "sweep")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    runner.FOLDER.mkdir(parents=True, exist_ok=True)
    journal = str(runner.FOLDER / f"{name}.optuna")
    try:
        backend = optuna.storages.journal.JournalFileBackend(journal)
        study = optuna.create_study(
            study_name=f"{git.head()} {ranges}",  # another commit or other ranges begin anew
            storage=optuna.storages.JournalStorage(backend),
            direction="maximize",
            load_if_exists=True,
        )
    except (AssertionError, LookupError, ValueError):  # after a full disk, for example
        raise UserError(f"{journal} is damaged: give this sweep another --name") from None
    kinds, distributions = optuna.distributions, {}
    for key, (kind, values) in ranges.items():
        if kind:
            whole = isinstance(values[0], int)
            between = kinds.IntDistribution if whole else kinds.FloatDistribution
            distributions[key] = between(*values, log=kind == "log")
        else:  # the journal cannot keep every value, but each index
            distributions[key] = kinds.CategoricalDistribution(range(len(values)))

    def own_name(number: int) -> str:
        return f"{name}-t{number + 1:03}"

    def experiment(trial: Any) -> Experiment:
        settings = {**base}
        for key, (kind, values) in ranges.items():
            # Few digits are legible in tables.
            settings[key] = _rounded(trial.params[key], 4) if kind else values[trial.params[key]]
        return Experiment(own_name(trial.number), settings)

    # A kill may have left a trial without all values.
    earlier = [trial for trial in study.trials if trial.params.keys() == ranges.keys()]
    known = [experiment(trial) for trial in earlier[:trials]]
    first = len(study.trials)
    coming = range(first, first + trials - len(known))

    def ask(results: Results) -> Iterator[Experiment]:
        yield from known
        for number in coming:
            for own, run in [*results.items()]:
                if run:
                    trial = int(own.rpartition("-t")[2]) - 1
                    study.tell(trial, run.training[METRIC], skip_if_finished=True)
            # Each trial has its own seed, so that a resumed search proposes the same values.
            study.sampler = optuna.samplers.TPESampler(seed=seed + number, constant_liar=True)
            yield experiment(study.ask(distributions))

    planned = {one.name: one for one in known} | dict.fromkeys(map(own_name, coming))
    return Sweep(name, planned, ask)


def sweep(plan: Sweep, jobs: int, metric: str) -> None:
    """Run missing experiments of ``plan``, ``jobs`` at once; print its table, write its page."""
    running = Runner(jobs, len(plan.planned), metric)
    if others := running.outdated(plan.planned):
        raise UserError(
            "experiments of these names exist with other parameters, code or data: give this"
            f" sweep another --name, or remove them:\n  dvc exp remove {' '.join(others)}"
        )
    if results := running.run(plan.ask(running.results)):
        ranked = comparison.ranked([Group(run.name, [run]) for run in results], metric)
        runs = [group.runs[0] for group in ranked]
        rows = ((f"{r.name} {r.leaks}".rstrip(), r.shown(metric), r.best_epoch) for r in runs)
        header = ("experiment", METRICS[metric], "best epoch")
        terminal.out.print(table(header, rows), markup=False)
        report_page.say(comparison.write_comparison(results, plan.name, metric))
    running.complain()

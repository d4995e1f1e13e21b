"""Series of experiments and their tables: sweep, honest, protocol, fast; the results of one."""

import json
import shlex
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alzmri import terminal
from alzmri.errors import UserError

# The modules behind the commands load torch and DVC: not before a command runs.
if TYPE_CHECKING:
    from alzmri.experiments.series.plans import Scale


class Size(StrEnum):
    """How large a series is run."""

    AUTO = "auto"
    FULL = "full"
    SCALED = "scaled"


class Place(StrEnum):
    """Where experiments train."""

    HERE = "here"
    SAGEMAKER = "sagemaker"


Source = Annotated[
    str | None, typer.Option(help="The collection data/NAME. [default: data.source]")
]
Scaling = Annotated[
    Size, typer.Option("--scale", help="auto: full on a GPU, else scaled to a CPU, and said so.")
]
Ranking = Annotated[
    str,
    typer.Option("--metric", help="What sorts them, such as val_macro_f1, loss, subject.accuracy."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")]
Overrides = Annotated[
    list[str] | None, typer.Option("-S", "--set-param", help="Change a value, as in dvc exp run.")
]


def honest(
    source: Source = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="none, three-class or binary (data.merge). [default: all]"),
    ] = None,
    folds: Annotated[int, typer.Option(min=3, max=100, help="Parts to cut the people into.")] = 5,
    scale: Scaling = Size.AUTO,
    settings: Overrides = None,
) -> None:
    """Cross-validate over people; write the tables of docs/results.md.

    Each fold is a DVC experiment, named honest-SOURCE-TASK-foldN. What has finished from this
    commit is not run again.

    Examples:

        alzmri honest

        alzmri honest --source kaggle --task binary -S train.epochs=3
    """
    from alzmri.experiments import runs
    from alzmri.experiments.series import plans
    from alzmri.experiments.series.honest import honest as run

    tasks = task or list(plans.TASKS)
    if unknown := sorted(set(tasks) - set(plans.TASKS)):
        raise UserError(f"--task {', '.join(unknown)}: allowed are {', '.join(plans.TASKS)}")
    run(_source(source), tasks, folds, _scale(scale), runs.parse_settings(settings or []), _typed())


def protocol(source: Source = None, scale: Scaling = Size.AUTO, settings: Overrides = None) -> None:
    """Run the published protocol's two settings on the slice split, which LEAKS.

    Writes the tables of docs/results.md. What has finished from this commit is not run again.

    Examples:

        alzmri protocol

        alzmri protocol --source kaggle --scale full
    """
    from alzmri.experiments import runs
    from alzmri.experiments.series.protocol import protocol as run

    run(_source(source), _scale(scale), runs.parse_settings(settings or []), _typed())


def fast(source: Source = None, scale: Scaling = Size.AUTO, settings: Overrides = None) -> None:
    """Run the fast recipe and the protocol's best setting on the slice split, which LEAKS.

    Writes a table and a curve of both, by training FLOPs, to docs/results.md.
    What has finished from this commit is not run again.

    Examples:

        alzmri fast

        alzmri fast --source kaggle -S train.precision=fp32
    """
    from alzmri.experiments import runs
    from alzmri.experiments.series.fast import fast as run

    run(_source(source), _scale(scale), runs.parse_settings(settings or []), _typed())


def sweep(
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUES...", help="As in dvc exp run -S: A,B or range(0,5)."),
    ] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="How many run at once.")] = 1,
    name: Annotated[
        str | None, typer.Option(help="Of the sweep. [default: sweep- and what varies]")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="How many train.seed from 0 on, or a list: 3, or 1,7.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=3, max=100, help="Cross-validate: split.fold of so many.")
    ] = None,
    metric: Ranking = "macro_f1",
    on: Annotated[
        Place, typer.Option("--on", help="Where to train; sagemaker.yaml says how, -j how many.")
    ] = Place.HERE,
    settings: Overrides = None,
) -> None:
    """Run all combinations of values as DVC experiments, through DVC's queue; compare them.

    Ctrl-C leaves the queue to DVC's workers. The same command again runs only what is missing.

    Examples:

        alzmri sweep train.lr=0.0001,0.0005 train.momentum=0.85,0.9 -j 2

        alzmri sweep train.lr=0.0005,0.001 --seeds 3 -S train.epochs=20 --name rates

        alzmri sweep data.merge=none,binary --folds 5

        alzmri sweep train.lr=0.0001,0.0005 --on sagemaker -j 4
    """
    from alzmri.experiments.metrics import check_metric
    from alzmri.experiments.sweeps import grid
    from alzmri.experiments.sweeps.sweep import sweep as run

    words = [*(values or []), *(settings or [])]
    if seeds is not None:
        words.append(f"train.seed=range({seeds})" if seeds.isdigit() else f"train.seed={seeds}")
    if folds is not None:
        words += [f"split.folds={folds}", f"split.fold=range({folds})"]
    if on is Place.SAGEMAKER:
        from alzmri.sagemaker import settings as account

        account.require(account.load())
        words.append(f"compute.train_on={on}")
    run(grid.sweep(words, name), jobs, check_metric(metric))


def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Experiments, or how their names begin; branches, tags, commits.",
            show_default="all experiments of this commit",
        ),
    ] = None,
    metric: Ranking = "macro_f1",
    name: Annotated[
        str | None, typer.Option(help="Of the report: reports/NAME.", show_default="from NAMES")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put finished experiments on one page: which is best, by how much, how sure that is.

    Writes reports/NAME/index.html, which needs no network, and README.md with its pictures.
    Runs that differ in seeds or fold only are one line.

    Examples:

        alzmri compare

        alzmri compare sweep-lr-momentum --metric val_macro_f1

        alzmri compare main lusty-gird --json
    """
    from alzmri.experiments.metrics import check_metric
    from alzmri.experiments.reports import comparison, document, revisions

    check_metric(metric)
    folder = document.check_name(name or "-".join(names or ["experiments"]))
    _report(comparison.write(revisions.chosen(names or []), folder, metric), as_json)


def review(
    base: Annotated[str, typer.Argument(help="A branch, tag, commit or experiment.")],
    head: Annotated[
        str | None, typer.Argument(help="What to review.", show_default="the workspace")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a change does to parameters, data, code and scores, and whether to merge it.

    Writes reports/review-BASE-HEAD/README.md, for a comment, and index.html, for a browser.

    Examples:

        alzmri review main

        alzmri review main lusty-gird
    """
    from alzmri.experiments.reports.review import write

    _report(write(base, head), as_json)


def results(as_json: AsJson = False) -> None:
    """Show the numbers of the run in this workspace, and where its plots are."""
    from alzmri.experiments.results import show

    show(as_json=as_json)


def _report(content: dict[str, Any], as_json: bool) -> None:
    """Print what a report says: all of it as JSON, or its conclusion and where it is."""
    if as_json:
        terminal.say(json.dumps(content, indent=2, default=str))
    else:
        page = content["written"][0]
        terminal.say(f"{content['conclusion']}\nwritten: {page} and README.md beside it")


def _source(name: str | None) -> str:
    from alzmri import params
    from alzmri.experiments import runs

    source = name or params.load().data.source
    runs.require_source(source)
    return source


def _scale(size: Size) -> "Scale":
    import torch

    from alzmri.experiments.series import plans

    if size is Size.AUTO:
        size = Size.FULL if torch.cuda.is_available() else Size.SCALED
    return plans.FULL if size is Size.FULL else plans.SCALED


def _typed() -> str:
    return shlex.join(["alzmri", *sys.argv[1:]])

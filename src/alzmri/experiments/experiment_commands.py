"""The commands sweep, honest, protocol, compare, review and results."""

from typing import Annotated, Literal

import typer

# Commands import their modules when they run, because these load torch and DVC.

Source = Annotated[
    str | None, typer.Option(help="The collection data/NAME.", show_default="data.source")
]
Scaling = Annotated[
    Literal["auto", "full", "scaled"],
    typer.Option("--scale", help="auto: full size on a GPU, scaled down on a CPU."),
]
Jobs = Annotated[int, typer.Option("-j", "--jobs", min=1, help="Number of experiments at once.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
Overrides = Annotated[
    list[str] | None, typer.Option("-S", "--set-param", help="Change a value, as in dvc exp run.")
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="Metric to sort by, such as val_macro_f1, loss, subject.accuracy.",
        show_default="macro_f1",
    ),
]


def honest(
    source: Source = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="none, three-class or binary (data.merge).", show_default="all"),
    ] = None,
    folds: Annotated[int, typer.Option(min=3, max=100, help="Number of folds.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of training, each for all folds.")] = 1,
    scale: Scaling = "auto",
    jobs: Jobs = 1,
    settings: Overrides = None,
) -> None:
    """Cross-validate over subjects; write the tables of docs/results.md.

    It first prints the number of runs, the time and the disk space. Each fold is a DVC experiment,
    named honest-SOURCE-TASK-foldN; those that finished from this commit are not repeated. Baselines
    are logistic regression on five numbers per subject and its label permutation test.

    Examples:

        alzmri honest --source kaggle --task binary -S train.epochs=3
    """
    from alzmri.experiments import honest_study
    from alzmri.experiments.studies import asked

    study = asked(source, scale, honest_study.SCALES, jobs, settings or [])
    honest_study.honest(study, task or list(honest_study.TASKS), folds, seeds)


def protocol(
    source: Source = None, scale: Scaling = "auto", jobs: Jobs = 1, settings: Overrides = None
) -> None:
    """Run the published protocol's two settings on the slice split, which LEAKS.

    It writes the tables of docs/results.md; finished experiments of this commit are not repeated.

    Examples:

        alzmri protocol --source kaggle --scale full
    """
    from alzmri.experiments import studies

    studies.protocol(studies.asked(source, scale, studies.PROTOCOL_SCALES, jobs, settings or []))


def sweep(
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUES...", help="As in dvc exp run -S: A,B or range(0,5)."),
    ] = None,
    jobs: Jobs = 1,
    name: Annotated[
        str | None, typer.Option(help="Name of the sweep.", show_default="sweep-KEYS")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Values of train.seed: 3 means 0,1,2; or a list such as 1,7.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=3, max=100, help="Cross-validate with this many folds.")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Let Optuna propose this many experiments instead of all."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of Optuna.")] = 0,
    metric: Metric = None,
    on: Annotated[
        Literal["here", "sagemaker"],
        typer.Option(help="Where to train; sagemaker.yaml configures the jobs."),
    ] = "here",
    settings: Overrides = None,
) -> None:
    """Run all combinations of values as DVC experiments, and compare them.

    With --trials, KEY=log(A,B) and KEY=uniform(A,B) are ranges, and Optuna maximises validation
    macro F1, by which the table is then sorted. After Ctrl-C the same command continues.

    Examples:

        alzmri sweep train.lr=0.0001,0.0005 train.momentum=0.85,0.9 -j 2

        alzmri sweep train.lr=0.0005,0.001 --seeds 3 -S train.epochs=20 --on sagemaker

        alzmri sweep 'train.lr=log(1e-5,1e-2)' model.dropout=0.3,0.5 --trials 20
    """
    from alzmri.experiments import runner, sweeps
    from alzmri.experiments.finished_runs import check_metric

    check_metric(metric := metric or (sweeps.METRIC if trials else "macro_f1"))
    words = [*(values or []), *(settings or [])]
    if seeds is not None:
        words.append(f"train.seed=range({seeds})" if seeds.isdigit() else f"train.seed={seeds}")
    if folds is not None:
        words += [f"split.folds={folds}", f"split.fold=range({folds})"]
    base: runner.Settings = runner.on_this_machine(jobs) if jobs > 1 else {}
    if on == "sagemaker":
        from alzmri.sagemaker import job_request

        job_request.load_settings(job_request.TO_TRAIN)
        base = {"compute.train_on": on}
    sweeps.sweep(sweeps.plan(words, name, base, trials, seed), jobs, metric)


def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Experiments (or the start of their names), branches, tags, commits.",
            show_default="all experiments of this commit",
        ),
    ] = None,
    metric: Metric = None,
    as_json: AsJson = False,
) -> None:
    """Compare finished experiments on one page: which is best, by how much, with intervals.

    It writes reports/NAMES/index.html, which needs no network, and README.md with its pictures.
    Runs that differ only in seeds or fold share a line.

    Examples:

        alzmri compare main lusty-gird --json
    """
    from alzmri.experiments import comparison, report_page
    from alzmri.experiments.finished_runs import check_metric, chosen

    check_metric(metric := metric or "macro_f1")
    folder = report_page.folder_name("-".join(names or ["experiments"]))
    written = comparison.write_comparison(chosen(names or []), folder, metric)
    report_page.say(written, as_json=as_json)


def review(
    base: Annotated[str, typer.Argument(help="A branch, tag, commit or experiment.")],
    head: Annotated[
        str | None, typer.Argument(help="The change to review.", show_default="the workspace")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a change does to parameters, data, code and scores, and whether to merge it.

    It writes reports/review-BASE-HEAD/README.md, for a comment, and index.html, for a browser.

    Examples:

        alzmri review main lusty-gird
    """
    from alzmri.experiments import comparison, report_page

    report_page.say(comparison.write_review(base, head), as_json=as_json)


def results(
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Also compare it with the committed run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the scores of the run in this workspace and the paths of its plots."""
    from alzmri import terminal
    from alzmri.experiments.workspace_results import show, verdict

    show(as_json=as_json)
    if baseline and not as_json:
        terminal.say(verdict())

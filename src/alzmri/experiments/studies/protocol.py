"""The published protocol, reproduced and labelled: it splits slices, not people."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alzmri import terminal
from alzmri.evaluation.markdown import interval, table
from alzmri.experiments.runs import Run
from alzmri.experiments.studies import page, plans, running
from alzmri.experiments.studies.plans import Study
from alzmri.figure import SEVERITY, drawing


def protocol(study: Study) -> None:
    """Run what is missing of the two settings, write the section of docs/results.md."""
    source, scale, overrides, jobs, command = study
    planned = plans.protocol(source, scale, overrides)
    finished = running.run(list(planned.values()), jobs, scale.protocol_note)
    runs = {setting: finished[experiment.name] for setting, experiment in planned.items()}
    figure = Path(f"docs/protocol-{source}.png")
    draw(figure, source, runs)
    scores = _scores(runs)
    page.write(
        f"protocol {source}",
        f"## {source}: the protocol, which LEAKS",
        f"{page.provenance(command, list(runs.values()))} {scale.protocol_note}".strip(),
        "Slices are split 70/15/15, not people: the test people are in training too, and the"
        " score is mostly recognition of people. For comparison with the literature only.",
        scores,
        f"![Validation scores by epoch: this split leaks]({figure.name})",
    )
    terminal.out.print(scores, markup=False)
    terminal.out.print(f"written: {page.PAGE}, {figure}; the experiments: dvc exp show")


def _scores(runs: dict[str, Run]) -> str:
    header = (
        "slice split, LEAKS",
        "accuracy",
        "macro F1",
        "loss",
        "best epoch",
        "test people also in training",
        "test slices with a training twin",
    )
    return table(header, (_row(setting, run) for setting, run in runs.items()))


def _row(setting: str, run: Run) -> Sequence[Any]:
    summary, test, used = run.summary, run.evaluation, run.params.train
    tested = sum(count["images"] for count in summary["split"]["test"].values())
    return (
        f"{setting}: lr {used.lr:g}, momentum {used.momentum:g}",
        interval(test["accuracy"], test["ci95"]["accuracy"]),
        interval(test["macro_f1"], test["ci95"]["macro_f1"]),
        f"{test['loss']:.3f}",
        f"{run.training['best_epoch']} of {used.epochs}",
        f"{run.scores['shared_subjects']} of {test['subject']['n']}",
        f"{summary['leak']['test_images_with_training_twin']} of {tested}",
    )


def draw(path: Path, source: str, runs: dict[str, Run]) -> None:
    """Validation accuracy and macro F1 by epoch, one colour per setting."""
    with drawing(path, 6.8, 3.0) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        names = {"val_accuracy": "accuracy", "val_macro_f1": "macro F1"}
        for axes, (column, name) in zip(panels, names.items(), strict=True):
            for (setting, run), colour in zip(
                runs.items(), (SEVERITY[1], SEVERITY[3]), strict=True
            ):
                history = run.history
                epochs = [int(row["epoch"]) for row in history]
                values = [float(row[column]) for row in history]
                axes.plot(epochs, values, color=colour, label=setting)
                best = run.training["best_epoch"]
                axes.plot(best, values[best - 1], "o", color=colour)
            axes.set(xlabel="epoch", ylim=(0, 1.02))
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_title(f"validation {name}", fontsize=9)
        panels[1].legend(title="setting", loc="lower right", fontsize=9)
        figure.suptitle(
            f"{source}: the protocol splits slices, so these scores LEAK",
            fontsize=10,
            x=0.01,
            ha="left",
        )

"""The published protocol, reproduced and labelled: it splits slices, not people."""

from pathlib import Path

from alzmri.evaluation.markdown import records
from alzmri.experiments.runs import Run
from alzmri.experiments.studies import page, plans
from alzmri.experiments.studies.plans import Study
from alzmri.figure import SEVERITY, drawing


def protocol(study: Study) -> None:
    """Run what is missing of the two settings, write the section of docs/results.md."""
    source, note = study.source, study.scale.protocol_note
    planned = plans.protocol(source, study.scale, study.overrides)
    finished = plans.run(list(planned.values()), study.jobs, note)
    runs = dict(zip(planned, finished, strict=True))
    figure = Path(f"docs/protocol-{source}.png")
    draw(figure, source, runs)
    scores = records([_row(setting, run) for setting, run in runs.items()])
    page.report(
        f"protocol {source}",
        scores,
        figure,
        f"## {source}: the protocol, which LEAKS",
        page.provenance(study.command, finished, note),
        "Slices are split 70/15/15, not people: the test people are in training too, and the"
        " score is mostly recognition of people. For comparison with the literature only.",
        scores,
        f"![Validation scores by epoch: this split leaks]({figure.name})",
    )


def _row(setting: str, run: Run) -> dict[str, str]:
    tested = sum(count["images"] for count in run.summary["split"]["test"].values())
    known, near = run.evaluation["split"]["shared_subjects"], run.summary["leak"]
    lr, momentum = run.settings["train.lr"], run.settings["train.momentum"]
    return {
        "slice split, LEAKS": f"{setting}: lr {lr:g}, momentum {momentum:g}",
        "accuracy": run.shown("accuracy"),
        "macro F1": run.shown("macro_f1"),
        "loss": run.shown("loss"),
        "best epoch": run.best_epoch,
        "test people also in training": f"{known} of {run.evaluation['subject']['n']}",
        "test slices with a training twin": f"{near['test_images_with_training_twin']} of {tested}",
    }


def draw(path: Path, source: str, runs: dict[str, Run]) -> None:
    """Validation accuracy and macro F1 by epoch, one colour per setting."""
    with drawing(path, 6.8, 3.0) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        names = {"val_accuracy": "accuracy", "val_macro_f1": "macro F1"}
        for axes, (column, name) in zip(panels, names.items(), strict=True):
            for (setting, run), colour in zip(runs.items(), SEVERITY[1::2], strict=True):
                values = [float(row[column]) for row in run.history]
                axes.plot(range(1, len(values) + 1), values, color=colour, label=setting)
                best = run.training["best_epoch"]
                axes.plot(best, values[best - 1], "o", color=colour)
            axes.set(xlabel="epoch", ylim=(0, 1.02))
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_title(f"validation {name}", fontsize=9)
        panels[1].legend(title="setting", loc="lower right", fontsize=9)
        title = f"{source}: the protocol splits slices, so these scores LEAK"
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")

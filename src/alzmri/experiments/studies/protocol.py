"""The published protocol, reproduced and labelled: it splits slices, not subjects."""

from collections.abc import Mapping
from pathlib import Path

from alzmri.evaluation.markdown import records
from alzmri.experiments.runs import Experiment, FinishedRun
from alzmri.experiments.studies import Scale, Scales, Study
from alzmri.figure import SEVERITY, drawing

VARIANTS = {
    "baseline": {"train.lr": 0.0001, "train.momentum": 0.9},
    "best": {"train.lr": 0.0005, "train.momentum": 0.85},
}
"""The protocol's two settings; everything else about them is the same."""

SCALES: Scales = {
    "full": Scale({"data.image_size": 224, "train.batch_size": 128, "train.epochs": 100}),
    "scaled": Scale(
        {"data.image_size": 128, "train.batch_size": 32, "train.epochs": 15},
        "Scaled for a machine without a GPU: 128 px instead of 224; batches of 32 instead of 128"
        " and 15 epochs instead of 100, which are 0.6 of the steps on 15 % of the images.",
    ),
}
_USUAL = (
    "data.merge=none split.unit=slice split.folds=0 train.schedule=constant"
    " train.class_weights=none"
)


def planned(study: Study) -> dict[str, Experiment]:
    """The protocol's experiments, by variant; what the user sets wins."""
    settings = study.settings(_USUAL)
    return {
        name: Experiment(
            f"protocol-{study.source}-{name}", {**settings, **values, **study.overrides}
        )
        for name, values in VARIANTS.items()
    }


def protocol(study: Study) -> None:
    """Run what is missing of the two variants, write the section of docs/results.md."""
    done = study.run(list(planned(study).values()))
    runs, figure = dict(zip(VARIANTS, done, strict=True)), Path(f"docs/protocol-{study.source}.png")
    _draw(figure, study.source, runs)
    study.report(
        "protocol",
        "the protocol, which LEAKS",
        done,
        "Slices are split 70/15/15, not subjects: the test subjects are in training too, and the"
        " score is mostly recognition of subjects. For comparison with the literature only.",
        records([_row(name, run) for name, run in runs.items()]),
        f"![Validation scores by epoch: this split leaks]({figure.name})",
    )


def _row(name: str, run: FinishedRun) -> dict[str, str]:
    tested = sum(count["images"] for count in run.summary["split"]["test"].values())
    near = run.summary["leak"]["test_images_with_training_near_duplicate"]
    known = run.evaluation["split"]["shared_subjects"]
    lr, momentum = run.settings["train.lr"], run.settings["train.momentum"]
    return {
        "slice split, LEAKS": f"{name}: lr {lr:g}, momentum {momentum:g}",
        "accuracy": run.shown("accuracy"),
        "macro F1": run.shown("macro_f1"),
        "loss": run.shown("loss"),
        "best epoch": run.best_epoch,
        "test subjects also in training": "subjects unknown"
        if run.subjects_unknown
        else f"{known} of {run.evaluation['subject']['n']}",
        "test slices with a near-duplicate in training": f"{near} of {tested}",
    }


def _draw(path: Path, source: str, runs: Mapping[str, FinishedRun]) -> None:
    """Validation accuracy and macro F1 by epoch, one colour per variant."""
    with drawing(path, 6.8, 3.0) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, name in zip(panels, ("accuracy", "macro F1"), strict=True):
            for (variant, run), colour in zip(runs.items(), SEVERITY[1::2], strict=True):
                column = f"val_{name.lower().replace(' ', '_')}"
                values = [float(row[column]) for row in run.history]
                axes.plot(range(1, len(values) + 1), values, color=colour, label=variant)
                best = run.training["best_epoch"]
                axes.plot(best, values[best - 1], "o", color=colour)
            axes.set(xlabel="epoch", ylim=(0, 1.02))
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_title(f"validation {name}", fontsize=9)
        panels[1].legend(title="setting", loc="lower right", fontsize=9)
        title = f"{source}: the protocol splits slices, so these scores LEAK"
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")

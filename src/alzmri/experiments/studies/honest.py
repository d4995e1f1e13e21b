"""The honest number: cross-validation over subjects, beside the slice split that leaks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alzmri.errors import LeakError
from alzmri.evaluation import report
from alzmri.evaluation.intervals import Interval, of_new_people
from alzmri.evaluation.markdown import interval, records
from alzmri.evaluation.metrics import by_subject
from alzmri.experiments.runs import Experiment, FinishedRun
from alzmri.experiments.scores import SlicePredictions
from alzmri.experiments.studies import Scale, Scales, Study
from alzmri.figure import SEVERITY, drawing

TASKS = {"none": "4 classes", "three-class": "3 classes", "binary": "2 classes"}
"""The values of ``data.merge`` and what the tables call them."""

SCALES: Scales = {
    "full": Scale({"data.image_size": 224, "train.epochs": 20}),
    "scaled": Scale(
        {"data.image_size": 128, "train.epochs": 6},
        "Scaled for a machine without a GPU: 128 px instead of 224, 6 epochs instead of 20.",
    ),
}
_USUAL = (
    "train.lr=0.004 train.momentum=0.9 train.schedule=onecycle train.batch_size=32"
    " train.class_weights=sqrt"
)
_NEW = 20
_NEW_LABEL = f"{_NEW} new subjects"
"""How many new subjects the range of scores is given for."""


class TaskResults(NamedTuple):
    """What the experiments of one task found.

    Attributes:
        name: such as ``4 classes``.
        test: of all folds together: every subject is tested once.
        scores: of that, as in ``models/evaluation.json``.
        new: where the subject-level macro F1 of so few new subjects falls, 95 times out of 100.
        folds: the subject-level macro F1 of each.
        leak: ``models/evaluation.json`` of the slice split, same recipe.
    """

    name: str
    test: SlicePredictions
    scores: Mapping[str, Any]
    new: Interval
    folds: Sequence[float]
    leak: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, folds: Sequence[FinishedRun], slices: FinishedRun) -> "TaskResults":
        """Pool the folds.

        Raises:
            LeakError: when a subject is in two of them: these are no folds of one split.
        """
        subjects = [subject for fold in folds for subject in set(fold.predictions.subjects)]
        if twice := len(subjects) - len(set(subjects)):
            raise LeakError(
                f"{twice} subjects are tested in several folds: not one cross-validation"
            )
        test = SlicePredictions.of(*(fold.read("plots/predictions.csv") for fold in folds))
        slice_level = (test.truth, test.probabilities, test.subjects)
        truth, probabilities, names = by_subject(*slice_level)
        classes, predicted = len(test.classes), probabilities.argmax(axis=1)
        return cls(
            name,
            test,
            report.score(*slice_level, test.classes, seed=0),
            of_new_people(truth, predicted, names, classes, 0, _NEW)["macro_f1"],
            [fold.score("subject.macro_f1") for fold in folds],
            slices.evaluation,
        )


def planned(study: Study, task: str, folds: int) -> dict[int | None, Experiment]:
    """The folds of one task by number; under None the same on the slice split, which leaks."""
    settings = {**study.settings(_USUAL), "data.merge": task}
    name = f"honest-{study.source}-{TASKS[task].replace(' ', '')}"
    slices = {**settings, "split.unit": "slice", "split.folds": 0, "split.fold": 0}
    crossed = {**settings, "split.unit": "subject", "split.folds": folds}
    found: dict[int | None, Experiment] = {
        fold: Experiment(f"{name}-fold{fold}", {**crossed, "split.fold": fold})
        for fold in range(folds)
    }
    return {**found, None: Experiment(f"{name}-slices", slices)}


def honest(study: Study, tasks: Sequence[str], folds: int) -> None:
    """Run what is missing of the plan, write the section of docs/results.md and its figure."""
    done = study.run([one for task in tasks for one in planned(study, task, folds).values()])
    results = []
    for start, task in zip(range(0, len(done), folds + 1), tasks, strict=True):
        *crossed, slices = done[start : start + folds + 1]
        results.append(TaskResults.of(TASKS[task], crossed, slices))
    figure = Path(f"docs/honest-{study.source}.png")
    _draw(figure, study.source, results)
    columns = {"precision": "precision", "recall": "recall", "f1": "F1"}
    study.report(
        "honest",
        "subjects that the model has never seen",
        done,
        f"{folds}-fold cross-validation over subjects: each subject is tested once, by a model"
        " that was neither trained nor chosen on them. The epoch is chosen on validation subjects"
        " of the same fold. Predictions of all folds are pooled; a subject's probabilities are the"
        " mean over their slices; intervals are 95 %, by resampling subjects within their class.",
        records(list(map(row, results))),
        f"*{_NEW_LABEL}* is where the macro F1 of so few falls 95 times out of 100: a small test"
        " set says little. *Leaks* is the same model, recipe and images with slices drawn singly:"
        " its test subjects are in training too.",
        records(
            [
                {"subject-level macro F1": task.name}
                | {f"fold {number}": f"{score:.3f}" for number, score in enumerate(task.folds)}
                | {"mean": f"{np.mean(task.folds):.3f} ± {np.std(task.folds, ddof=1):.3f}"}
                for task in results
            ]
        ),
        records(
            [
                {f"{results[0].name}, per slice": name}
                | {column: f"{values[key]:.3f}" for key, column in columns.items()}
                for name, values in results[0].scores["per_class"].items()
            ]
        ),
        f"![Subject-level macro F1, by task]({figure.name})",
    )


def row(task: TaskResults) -> dict[str, object]:
    """The row of ``task`` in the table of scores."""

    def shown(scores: Mapping[str, Any], key: str) -> str:
        return interval(scores[key], scores["ci95"][key])

    subject, leak, known = (
        *(of["subject"] for of in (task.scores, task.leak)),
        task.leak["split"]["shared_subjects"],
    )
    classes = dict(zip(task.test.subjects, task.test.truth.tolist(), strict=True))
    return {
        "task": task.name,
        "subjects": subject["n"],
        "**subject-level macro F1**": f"**{shown(subject, 'macro_f1')}**",
        "subject-level accuracy": shown(subject, "accuracy"),
        "most frequent class": f"{np.bincount(list(classes.values())).max() / len(classes):.3f}",
        "macro F1 per slice": shown(task.scores, "macro_f1"),
        _NEW_LABEL: "{:.2f} to {:.2f}".format(*task.new),
        "slice split, subject-level macro F1: LEAKS": (
            f"{leak['macro_f1']:.3f} ({known} of {leak['n']} subjects known)"
        ),
    }


def _draw(path: Path, source: str, results: Sequence[TaskResults]) -> None:
    """Per task: pooled score with interval, the folds, the range of few subjects, the leak."""
    blue, red = SEVERITY[0], SEVERITY[3]
    with drawing(path, 6.8, 0.85 * len(results) + 1.3) as figure:
        axes = figure.add_subplot()
        for place, task in enumerate(results):
            score = task.scores["subject"]["macro_f1"]
            known = task.scores["subject"]["ci95"]["macro_f1"]
            axes.hlines(place, task.new[0], task.new[1], blue, alpha=0.25, lw=9, label=_NEW_LABEL)
            axes.hlines(place, known[0], known[1], blue, lw=3, label="all subjects, 95 %")
            axes.plot(task.folds, [place] * len(task.folds), "k|", markersize=11, label="one fold")
            leak = task.leak["subject"]["macro_f1"]
            for value, marker, colour, label in (
                (score, "o", blue, "cross-validated"),
                (leak, "X", red, "slice split: LEAKS"),
            ):
                axes.plot(value, place, marker, color=colour, ms=8.5, mec="white", label=label)
                axes.text(value, place - 0.2, f"{value:.2f}", color=colour, ha="center")
        axes.set_yticks(range(len(results)), [task.name for task in results])
        axes.set_ylim(len(results) - 0.5, -0.6)
        axes.set(xlim=(0, 1.02), xlabel="subject-level macro F1")
        axes.tick_params(axis="y", length=0)
        axes.set_title(f"{source}: new subjects, and the same subjects again", fontsize=10)
        # Every task draws the same marks: each is explained once.
        marks = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(marks.values(), marks, loc="outside lower center", ncols=5, fontsize=8)

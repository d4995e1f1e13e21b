"""The honest number: cross-validation over people, beside the slice split that leaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alzmri.evaluation.intervals import Interval
from alzmri.evaluation.markdown import interval, records, table
from alzmri.experiments.crossvalidation import Predictions
from alzmri.experiments.studies import page, plans
from alzmri.experiments.studies.plans import TASKS, Study
from alzmri.figure import SEVERITY, drawing

NEW_PEOPLE = 20
"""How many new people the range of scores is given for."""
NEW_LABEL = f"{NEW_PEOPLE} new people"


@dataclass(frozen=True)
class Task:
    """What the experiments of one task said.

    Attributes:
        name: such as ``4 classes``.
        folds: the predictions of each fold.
        slices: of the slice split, same recipe.
        slices_shared: test people of the slice split that its model was trained on.
    """

    name: str
    folds: Sequence[Predictions]
    slices: Predictions
    slices_shared: int

    @cached_property
    def pooled(self) -> Predictions:
        """The test of all folds: every person is tested once."""
        return Predictions.pooled(self.folds)

    @cached_property
    def new_people(self) -> Interval:
        """Where the macro F1 per person of ``NEW_PEOPLE`` new people falls."""
        return self.pooled.of_new_people(NEW_PEOPLE)["macro_f1"]

    @property
    def fold_scores(self) -> list[float]:
        """The macro F1 per person of each fold."""
        return [fold.scores["subject"]["macro_f1"] for fold in self.folds]


def honest(study: Study, tasks: Sequence[str], folds: int) -> None:
    """Run what is missing of the plan, write the section of docs/results.md and its figure."""
    source, note = study.source, study.scale.honest_note
    planned = [plans.honest(source, task, folds, study.scale, study.overrides) for task in tasks]
    runs = plans.run([one for plan in planned for one in plan.values()], study.jobs, note)
    results = []
    for number, task in enumerate(tasks):
        *crossed, slices = runs[number * (folds + 1) :][: folds + 1]
        predicted, shared = (
            [run.predictions for run in crossed],
            slices.evaluation["split"]["shared_subjects"],
        )
        results.append(Task(TASKS[task], predicted, slices.predictions, shared))
    figure = Path(f"docs/honest-{source}.png")
    draw(figure, source, results)
    scores = _scores(results)
    page.report(
        f"honest {source}",
        scores,
        figure,
        f"## {source}: people that the model has never seen",
        page.provenance(study.command, runs, note),
        f"{folds}-fold cross-validation over people: each person is tested once, by a model"
        " that was neither trained nor chosen on them. The epoch is chosen on validation"
        " people of the same fold. Predictions of all folds"
        " are pooled; a person's probabilities are the mean over their slices; intervals are"
        " 95 %, by resampling people within their class.",
        scores,
        f"*{NEW_LABEL}* is where the macro F1 of so few falls 95 times out of 100:"
        " a small test set says little. *Leaks* is the same model, recipe and images with"
        " slices drawn singly: its test people are in training too.",
        _folds(results),
        _classes(results[0]),
        f"![Macro F1 per person, by task]({figure.name})",
    )


def _scores(results: Sequence[Task]) -> str:
    rows = []
    for task in results:
        scores, leak = task.pooled.scores, task.slices.scores["subject"]
        subject, (low, high) = scores["subject"], task.new_people
        classes = dict(zip(task.pooled.subjects, task.pooled.truth.tolist(), strict=True))
        frequent = np.bincount(list(classes.values())).max() / len(classes)
        row = {
            "task": task.name,
            "people": subject["n"],
            "**macro F1 per person**": f"**{_interval(subject, 'macro_f1')}**",
            "accuracy per person": _interval(subject, "accuracy"),
            "most frequent class": f"{frequent:.3f}",
            "macro F1 per slice": _interval(scores, "macro_f1"),
            NEW_LABEL: f"{low:.2f} to {high:.2f}",
            "slice split, macro F1 per person: LEAKS": (
                f"{leak['macro_f1']:.3f} ({task.slices_shared} of {leak['n']} people known)"
            ),
        }
        rows.append(row)
    return records(rows)


def _interval(scores: Mapping[str, Any], key: str) -> str:
    return interval(scores[key], scores["ci95"][key])


def _folds(results: Sequence[Task]) -> str:
    header = ("macro F1 per person", *(f"fold {n}" for n in range(len(results[0].folds))), "mean")
    rows = []
    for task in results:
        scores = task.fold_scores
        mean = f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"
        rows.append((task.name, *(f"{score:.3f}" for score in scores), mean))
    return table(header, rows)


def _classes(task: Task) -> str:
    columns = {"precision": "precision", "recall": "recall", "f1": "F1"}
    rows = (
        (name, *(f"{values[key]:.3f}" for key in columns))
        for name, values in task.pooled.scores["per_class"].items()
    )
    return table((f"{task.name}, per slice", *columns.values()), rows)


def draw(path: Path, source: str, results: Sequence[Task]) -> None:
    """Per task: pooled score with interval, the folds, the range of few people, the leak."""
    blue, red = SEVERITY[0], SEVERITY[3]
    with drawing(path, 6.8, 0.85 * len(results) + 1.3) as figure:
        axes = figure.add_subplot()
        for place, task in enumerate(results):
            subject, few = task.pooled.scores["subject"], task.new_people
            known = subject["ci95"]["macro_f1"]
            axes.hlines(place, few[0], few[1], blue, alpha=0.25, lw=9, label=NEW_LABEL)
            axes.hlines(place, known[0], known[1], blue, lw=3, label="all people, 95 %")
            folds = task.fold_scores
            axes.plot(folds, [place] * len(folds), "k|", markersize=11, label="one fold")
            leak = task.slices.scores["subject"]["macro_f1"]
            for value, marker, colour, label in (
                (subject["macro_f1"], "o", blue, "cross-validated"),
                (leak, "X", red, "slice split: LEAKS"),
            ):
                axes.plot(value, place, marker, color=colour, ms=8.5, mec="white", label=label)
                axes.text(value, place - 0.2, f"{value:.2f}", color=colour, ha="center")
        axes.set_yticks(range(len(results)), [task.name for task in results])
        axes.set_ylim(len(results) - 0.5, -0.6)
        axes.set(xlim=(0, 1.02), xlabel="macro F1 per person")
        axes.tick_params(axis="y", length=0)
        axes.set_title(f"{source}: new people, and the same people again", fontsize=10)
        # Every task draws the same marks: each is explained once.
        marks = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(marks.values(), marks, loc="outside lower center", ncols=5, fontsize=8)

"""The honest number: cross-validation over people, beside the slice split that leaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from alzmri import terminal
from alzmri.evaluation.intervals import Interval
from alzmri.experiments.crossvalidation import Predictions
from alzmri.experiments.runs import Settings
from alzmri.experiments.studies import page, plans, running
from alzmri.experiments.studies.plans import TASKS, Scale
from alzmri.figure import SEVERITY, drawing
from alzmri.markdown import interval, table

NEW_PEOPLE = 20
"""For how many new people the range of the score is told."""
NEW_LABEL = f"{NEW_PEOPLE} new people"


@dataclass(frozen=True)
class Task:
    """What the experiments of one task said.

    Attributes:
        name: such as ``4 classes``.
        folds: the predictions of each fold.
        pooled: all of them; every person is tested once.
        slices: of the slice split, same recipe.
        slices_shared: test people of the slice split that its model was trained on.
    """

    name: str
    folds: Sequence[Predictions]
    pooled: Predictions
    slices: Predictions
    slices_shared: int

    @property
    def new_people(self) -> Interval:
        """Where the macro F1 per person of ``NEW_PEOPLE`` new people falls."""
        return self.pooled.of_new_people(NEW_PEOPLE)["macro_f1"]


def honest(
    source: str,
    tasks: Sequence[str],
    folds: int,
    scale: Scale,
    overrides: Settings,
    jobs: int,
    command: str,
) -> None:
    """Run what is missing of the plan, write the section of docs/results.md and its figure."""
    planned = {task: plans.honest(source, task, folds, scale, overrides) for task in tasks}
    everything = [experiment for runs in planned.values() for experiment in runs.values()]
    finished = running.run(everything, jobs, scale.honest_note)
    results = []
    for task, runs in planned.items():
        *crossed, slices = (finished[experiment.name] for experiment in runs.values())
        predicted = [Predictions.of(run) for run in crossed]
        shared = slices.scores["shared_subjects"]
        results.append(
            Task(
                TASKS[task],
                predicted,
                Predictions.pooled(predicted),
                Predictions.of(slices),
                shared,
            )
        )
    figure = Path(f"docs/honest-{source}.png")
    draw(figure, source, results)
    section = "\n\n".join(
        (
            f"## {source}: people that the model has never seen",
            f"{page.provenance(command, list(finished.values()))} {scale.honest_note}".strip(),
            f"{folds}-fold cross-validation over people: each person is tested once, by a model"
            " that was neither trained nor chosen on them. The epoch is chosen on validation"
            " people of the same fold. Predictions of all folds"
            " are pooled; a person's probabilities are the mean over their slices; intervals are"
            " 95 %, by resampling people within their class.",
            _scores(results),
            f"*{NEW_LABEL}* is where the macro F1 of so few falls 95 times out of 100:"
            " a small test set says little. *Leaks* is the same model, recipe and images with"
            " slices drawn singly: its test people are in training too.",
            _folds(results),
            _classes(results[0]),
            f"![Macro F1 per person, by task]({figure.name})",
        )
    )
    page.write_section(f"honest {source}", section)
    terminal.out.print(_scores(results), markup=False)
    terminal.out.print(f"written: {page.PAGE}, {figure}; the experiments: dvc exp show")


def _scores(results: Sequence[Task]) -> str:
    header = (
        "task",
        "people",
        "**macro F1 per person**",
        "accuracy per person",
        "most frequent class",
        "macro F1 per slice",
        NEW_LABEL,
        "slice split, macro F1 per person: LEAKS",
    )
    rows = []
    for task in results:
        scores, subject = task.pooled.scores, task.pooled.scores["subject"]
        low, high = task.new_people
        leak = task.slices.scores["subject"]
        rows.append(
            (
                task.name,
                subject["n"],
                f"**{interval(subject['macro_f1'], subject['ci95']['macro_f1'])}**",
                interval(subject["accuracy"], subject["ci95"]["accuracy"]),
                f"{_most_frequent(task.pooled):.3f}",
                interval(scores["macro_f1"], scores["ci95"]["macro_f1"]),
                f"{low:.2f} to {high:.2f}",
                f"{leak['macro_f1']:.3f} ({task.slices_shared} of {leak['n']} people known)",
            )
        )
    return table(header, rows)


def _folds(results: Sequence[Task]) -> str:
    header = ("macro F1 per person", *(f"fold {n}" for n in range(len(results[0].folds))), "mean")
    rows = []
    for task in results:
        scores = [fold.scores["subject"]["macro_f1"] for fold in task.folds]
        mean = f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"
        rows.append((task.name, *(f"{score:.3f}" for score in scores), mean))
    return table(header, rows)


def _classes(task: Task) -> str:
    rows = (
        (name, f"{values['precision']:.3f}", f"{values['recall']:.3f}", f"{values['f1']:.3f}")
        for name, values in task.pooled.scores["per_class"].items()
    )
    return table((f"{task.name}, per slice", "precision", "recall", "F1"), rows)


def _most_frequent(predictions: Predictions) -> float:
    """Share of the people that are in the most frequent class."""
    people: Mapping[str, int] = dict(
        zip(predictions.subjects, predictions.truth.tolist(), strict=True)
    )
    return float(np.bincount(list(people.values())).max() / len(people))


def draw(path: Path, source: str, results: Sequence[Task]) -> None:
    """Per task: pooled score with interval, the folds, the range of few people, the leak."""
    blue, red = SEVERITY[0], SEVERITY[3]
    with drawing(path, 6.8, 0.85 * len(results) + 1.3) as figure:
        axes = figure.add_subplot()
        for place, task in enumerate(results):
            subject = task.pooled.scores["subject"]
            folds = [fold.scores["subject"]["macro_f1"] for fold in task.folds]
            leak = task.slices.scores["subject"]["macro_f1"]
            known, few = subject["ci95"]["macro_f1"], task.new_people
            axes.hlines(place, few[0], few[1], blue, alpha=0.25, lw=9, label=NEW_LABEL)
            axes.hlines(place, known[0], known[1], blue, lw=3, label="all people, 95 %")
            axes.plot(folds, [place] * len(folds), "k|", markersize=11, label="one fold")
            _mark(axes, subject["macro_f1"], place, "o", blue, "cross-validated")
            _mark(axes, leak, place, "X", red, "slice split: LEAKS")
        axes.set_yticks(range(len(results)), [task.name for task in results])
        axes.set_ylim(len(results) - 0.5, -0.6)
        axes.set(xlim=(0, 1.02), xlabel="macro F1 per person")
        axes.tick_params(axis="y", length=0)
        axes.set_title(f"{source}: new people, and the same people again", fontsize=10)
        # Every task draws the same marks: each is explained once.
        explained = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(
            explained.values(), explained, loc="outside lower center", ncols=5, fontsize=8
        )


def _mark(axes: Axes, value: float, place: int, marker: str, colour: str, label: str) -> None:
    """A score with its number above it."""
    axes.plot(
        value, place, marker, color=colour, markersize=8.5, markeredgecolor="white", label=label
    )
    axes.annotate(
        f"{value:.2f}",
        (value, place),
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        color=colour,
    )

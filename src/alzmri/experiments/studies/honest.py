"""The honest number: cross-validation over subjects, beside the slice split that leaks."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alzmri.errors import LeakError
from alzmri.evaluation import assessment
from alzmri.evaluation.intervals import (
    Classified,
    Interval,
    difference,
    mean_macro_f1,
    of_new_subjects,
)
from alzmri.evaluation.markdown import interval, records
from alzmri.evaluation.metrics import by_subject
from alzmri.experiments.runs import Experiment, FinishedRun
from alzmri.experiments.scores import SlicePredictions
from alzmri.experiments.studies import Scale, Scales, Study
from alzmri.experiments.studies.floors import FLOORS, PERMUTATIONS, Subjects, guessed
from alzmri.figure import SEVERITY, drawing
from alzmri.models.validation import macro_f1

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
_LEARNABLE = 3
"""Subjects of a class, one for each part of the split."""


class TaskResults(NamedTuple):
    """What the experiments of one task found.

    Attributes:
        name: such as ``4 classes``.
        test: of all folds together: every subject is tested once.
        scores: of that, as in ``models/evaluation.json``.
        new: where the subject-level macro F1 of so few new subjects falls, 95 times out of 100.
        folds: the subject-level macro F1 of each.
        leak: ``models/evaluation.json`` of the slice split, same recipe.
        seeds: the subject-level macro F1 of all folds together, for each seed of training.
        subjects: what the floors are made of.
    """

    name: str
    test: SlicePredictions
    scores: Mapping[str, Any]
    new: Interval
    folds: Sequence[float]
    leak: Mapping[str, Any]
    seeds: Sequence[float]
    subjects: Subjects

    @classmethod
    def of(
        cls,
        name: str,
        folds: Sequence[FinishedRun],
        slices: FinishedRun,
        repeats: Sequence[Sequence[FinishedRun]] = (),
    ) -> "TaskResults":
        """Pool the folds; ``repeats`` are the same folds with other seeds of training.

        Raises:
            LeakError: when a subject is in two of them: these are no folds of one split.
        """
        subjects = [subject for fold in folds for subject in set(fold.predictions.subjects)]
        if twice := len(subjects) - len(set(subjects)):
            raise LeakError(
                f"{twice} subjects are tested in several folds: not one cross-validation"
            )
        test = _pooled(folds)
        slice_level = (test.truth, test.probabilities, test.subjects)
        scores = assessment.score(*slice_level, test.classes, 0, test.counted)
        others = [macro_f1(*_classified(_pooled(runs))[:2]) for runs in repeats]
        manifests = [fold.read("data/prepared/manifest.csv") for fold in folds]
        return cls(
            name,
            test,
            scores,
            of_new_subjects(_classified(test), len(test.classes), 0, _NEW),
            [fold.score("subject.macro_f1") for fold in folds],
            slices.evaluation,
            [scores["subject"]["macro_f1"], *others],
            Subjects.of(folds[0].images, manifests, test.classes),
        )


def _pooled(folds: Sequence[FinishedRun]) -> SlicePredictions:
    return SlicePredictions.of(*(fold.read("plots/predictions.csv") for fold in folds))


def _classified(test: SlicePredictions) -> Classified:
    """Each subject's class, in the order of their names."""
    truth, probabilities, names = by_subject(
        test.truth, test.probabilities, test.subjects, test.counted
    )
    return Classified(truth, probabilities.argmax(axis=1), names)


def planned(
    study: Study, task: str, folds: int, seeds: int = 1
) -> tuple[list[list[Experiment]], Experiment]:
    """The folds of one task for each seed of training; the same on the slice split, which leaks."""
    settings = {**study.settings(_USUAL), "data.merge": task}
    name = f"honest-{study.source}-{TASKS[task].replace(' ', '')}"
    slices = {**settings, "split.unit": "slice", "split.folds": 0, "split.fold": 0}
    crossed = {**settings, "split.unit": "subject", "split.folds": folds}
    start = int(str(settings["train.seed"]))
    return [
        [
            Experiment(
                f"{name}-fold{fold}" + f"-seed{seed}" * (seed > start),
                {**crossed, "split.fold": fold, "train.seed": seed},
            )
            for fold in range(folds)
        ]
        for seed in range(start, start + seeds)
    ], Experiment(f"{name}-slices", slices)


def honest(study: Study, tasks: Sequence[str], folds: int, seeds: int) -> None:
    """Run what is missing of the plan, write the section of docs/results.md and its figure."""
    plans = [planned(study, task, folds, seeds) for task in tasks]
    wanted = [one for crossed, slices in plans for one in (*itertools.chain(*crossed), slices)]
    done = study.run(wanted)
    runs = iter(done)
    results = []
    for task in tasks:
        first, *repeats = [list(itertools.islice(runs, folds)) for _ in range(seeds)]
        results.append(TaskResults.of(TASKS[task], first, next(runs), repeats))
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
        " mean over their slices. Intervals are 95 %, over subjects, and hold the fitted models"
        " fixed: what another fold or seed of training changes is beside them.",
        records(list(map(row, results))),
        f"*{_NEW_LABEL}* is where the macro F1 of so few falls 95 times out of 100, as far as these"
        " subjects tell: a small test set says little. *At most* is what macro F1 can reach without"
        f" the classes of fewer than {_LEARNABLE} subjects, which cannot be in training, validation"
        " and test. *Leaks* is the same model, recipe and images with slices drawn singly: its test"
        " subjects are in training too.",
        "**Floors**, in the same folds. Each is logistic regression on numbers that are measured"
        " without learning: the shares of the brain's area that are fluid, at the ventricles and"
        " outside, and the contrast. *Network − this* is the paired difference of macro F1.",
        records([line for task in results for line in floor_rows(task)]),
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


def floor_rows(task: TaskResults) -> Iterator[dict[str, object]]:
    """The network, the floors, guesses; the difference, and the label permutation test."""
    subjects, network, classes = task.subjects, _classified(task.test), len(task.test.classes)
    labels, names = network.truth, network.subjects
    predictions = {
        floor: subjects.predicted(columns, subjects.labels) for floor, columns in FLOORS.items()
    }
    best = max(predictions, key=lambda floor: macro_f1(labels, predictions[floor]))
    predictions["always the most frequent class"] = np.full(
        len(labels), np.bincount(labels).argmax()
    )
    yield _floor_row(task.name, "the network", network, classes)
    for floor, predicted in predictions.items():
        known = difference([network], [network._replace(predicted=predicted)], classes, 0)
        low, high = known.interval
        line = _floor_row(task.name, floor, Classified(labels, predicted, names), classes)
        yield {**line, "network − this": f"{known.value:+.3f} [{low:+.3f}, {high:+.3f}]"}
    for what, values in (
        ("guesses, each class as often as it occurs", list(guessed(labels))),
        (f"{best}, labels permuted between subjects", subjects.permuted(FLOORS[best])),
    ):
        low, high = np.quantile(values, (0.025, 0.975))
        reached = sum(value >= macro_f1(labels, predictions[best]) for value in values)
        p = f"; p = {(1 + reached) / (1 + PERMUTATIONS):.3f}" if len(values) == PERMUTATIONS else ""
        said = f"mean {np.mean(values):.3f}, 95 of 100 in {low:.3f} to {high:.3f}{p}"
        yield {"task": task.name, "": what, "macro F1": said, "accuracy": "", "network − this": ""}


def _floor_row(task: str, name: str, test: Classified, classes: int) -> dict[str, object]:
    found = mean_macro_f1([test], classes, 0)
    return {
        "task": task,
        "": name,
        "macro F1": interval(found.value, found.interval),
        "accuracy": f"{np.mean(test.truth == test.predicted):.3f}",
        "network − this": "",
    }


def row(task: TaskResults) -> dict[str, object]:
    """The row of ``task`` in the table of scores."""

    def shown(scores: Mapping[str, Any], key: str) -> str:
        return interval(scores[key], scores["ci95"][key])

    subject, leak, known = (
        *(of["subject"] for of in (task.scores, task.leak)),
        task.leak["split"]["shared_subjects"],
    )
    sizes = np.bincount(task.subjects.labels, minlength=len(task.test.classes))
    learnable, seeds = sizes >= _LEARNABLE, task.seeds
    return {
        "task": task.name,
        "subjects": subject["n"],
        "**subject-level macro F1**": f"**{shown(subject, 'macro_f1')}**",
        "at most": f"{learnable.sum() / (sizes > 0).sum():.3f}",
        "folds": f"{np.mean(task.folds):.3f} ± {np.std(task.folds, ddof=1):.3f}",
        "seeds": f"± {np.std(seeds, ddof=1):.3f} ({len(seeds)})" if seeds[1:] else "one",
        "subject-level accuracy": shown(subject, "accuracy"),
        "always the most frequent class": f"{sizes.max() / sizes.sum():.3f}",
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

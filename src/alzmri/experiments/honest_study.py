"""`alzmri honest`: cross-validation over subjects, beside the slice split, which leaks.

The floors are what a network must beat: logistic regression, in the same folds, on a few numbers
per subject that are measured without learning; guesses; permuted labels.
"""

import csv
import io
import itertools
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import make_scorer
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from alzmri.data.images import Pixels
from alzmri.errors import LeakError, UserError
from alzmri.evaluation import assessment
from alzmri.evaluation.intervals import (
    RESAMPLES,
    Classified,
    Resampled,
    mean_macro_f1,
    of_new_subjects,
)
from alzmri.evaluation.markdown import interval, records
from alzmri.evaluation.metrics import by_subject
from alzmri.experiments.comparison import signed
from alzmri.experiments.finished_runs import FinishedRun, SlicePredictions
from alzmri.experiments.runner import Experiment
from alzmri.experiments.studies import Scale, Study
from alzmri.figure import SEVERITY, drawing
from alzmri.inference import ventricles
from alzmri.models.validation import macro_f1
from alzmri.ood.detector import share_interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TASKS = {"none": "4 classes", "three-class": "3 classes", "binary": "2 classes"}
"""The values of ``data.merge`` and their names in tables."""
SCALES: Mapping[str, Scale] = {
    "full": ({"data.image_size": 224, "train.epochs": 20}, ""),
    "scaled": (
        {"data.image_size": 128, "train.epochs": 6},
        "Scaled for a machine without a GPU: 128 px instead of 224, 6 epochs instead of 20.",
    ),
}
_USUAL = """\
train.lr=0.004 train.momentum=0.9 train.schedule=onecycle train.batch_size=32
train.class_weights=sqrt"""
_NEW = 20  # number of new subjects that the range of scores is for
_NEW_LABEL = f"{_NEW} new subjects"
_LEARNABLE = 3  # least number of subjects of a class: one for each part of the split

FLOORS = {"five numbers": range(5), "ventricle fraction alone": range(1)}
"""The columns of :func:`numbers_of` that each floor uses."""
FUSED = "five numbers"  # the floor that late fusion joins to the network
_NETWORK, _BOTH = "network", "network and five numbers"
_MOST = "always the most frequent class"
PERMUTATIONS, GUESSES = 50, 1000


_MAY_LEAK = """\
**A subject may be in several groups, in training and in the test: these scores may LEAK, and
intervals, which treat groups as subjects, are too narrow.**"""


def numbers_of(slices: Sequence[Pixels]) -> Floats:
    """Five numbers of one subject, from their slices, uint8 ``[side, side]`` each.

    They are the fractions of the brain's area that are fluid, at the ventricles and outside (mean
    and maximum over slices), and the contrast of grey and white: 90 % minus 50 % quantile.
    """
    measured = np.zeros((len(slices), 3))  # an empty image keeps the zeros
    for row, image in zip(measured, slices, strict=True):
        plane = image.T.astype(np.float32)
        if plane.any():
            brain = ventricles.brain(plane[:, :, np.newaxis])[:, :, 0]
            tissue = float(np.median(plane[brain]))
            fluid = brain & (plane < ventricles.FLUID * tissue)
            inside = (fluid & ventricles.middle(brain)).sum()
            row[:2] = np.array([inside, fluid.sum() - inside]) / brain.sum()
            row[2] = (np.quantile(plane[brain], 0.9) - tissue) / max(tissue, 1)
    mean, most = measured.mean(axis=0), measured.max(axis=0)
    return np.array([mean[0], most[0], mean[1], most[1], mean[2]])


def floor(numbers: Floats, labels: Ints, folds: Ints) -> Floats:
    """Probabilities ``[subjects, classes]`` by logistic regression on the other folds' numbers."""
    inner = StratifiedKFold(3, shuffle=True, random_state=0)
    # Not the scorer "f1_macro", because with two classes scikit-learn 1.9 fails on it.
    strengths = {"Cs": (0.01, 0.1, 1.0, 10.0), "cv": inner, "scoring": make_scorer(macro_f1)}
    regression = LogisticRegressionCV(**strengths, class_weight="balanced", max_iter=1000)
    model = make_pipeline(StandardScaler(), regression)
    found = np.zeros((len(labels), labels.max() + 1))
    with warnings.catch_warnings(action="ignore"):  # about small classes and convergence
        for test in (folds == fold for fold in np.unique(folds)):
            model.fit(numbers[~test], labels[~test])
            found[np.ix_(test, model.classes_)] = model.predict_proba(numbers[test])
    return found


def pooled(folds: Sequence[FinishedRun]) -> SlicePredictions:
    """Predictions of all folds together; LeakError when two folds test one subject."""
    subjects = [subject for run in folds for subject in set(run.predictions.subjects)]
    if twice := len(subjects) - len(set(subjects)):
        raise LeakError(f"{twice} subjects are tested in several folds")
    return SlicePredictions.of(*(run.read("plots/predictions.csv") for run in folds))


class TaskResults:
    """The results of the task ``name``, such as ``4 classes``.

    ``slices`` is the same recipe on the slice split, ``repeats`` the folds with other seeds.
    ``scores`` are of all folds together, as in ``models/evaluation.json``; ``new`` is the 95 %
    range of subject-level macro F1 of ``_NEW`` new subjects; ``by_fold`` and ``by_seed`` are
    subject-level macro F1.
    """

    def __init__(
        self,
        name: str,
        folds: Sequence[FinishedRun],
        slices: FinishedRun,
        repeats: Sequence[Sequence[FinishedRun]] = (),
    ) -> None:
        tests = [pooled(runs) for runs in (folds, *repeats)]
        rows = [(test.truth, test.probabilities, test.subjects) for test in tests]
        by = [by_subject(*of, test.counted) for of, test in zip(rows, tests, strict=True)]
        self.name, self.folds, self.leak = name, folds, slices.evaluation
        self.names, self.classes = tests[0].classes, len(tests[0].classes)
        unknown = any(run.shared_subjects is None for run in folds)
        self.several = unknown or assessment.several_groups(folds[0].summary)
        self.labels, self.probabilities, self.subjects = by[0]
        self.predicted = Classified(self.labels, self.probabilities.argmax(axis=1), self.subjects)
        self.scores = assessment.score(*rows[0], tests[0].classes, 0, tests[0].counted)
        self.new = of_new_subjects(self.predicted, self.classes, 0, _NEW)
        self.by_fold = [run.score("subject.macro_f1") for run in folds]
        self.by_seed = [macro_f1(labels, found.argmax(axis=1)) for labels, found, _ in by]

    def row(self) -> dict[str, object]:
        """Its row in the table of scores."""
        leak, scores, subject = self.leak, self.scores, self.scores["subject"]
        sizes, folds, seeds = np.bincount(self.labels), self.by_fold, self.by_seed
        macro, accuracy = (
            interval(subject[key], subject["ci95"][key]) for key in ("macro_f1", "accuracy")
        )
        return {
            "task": self.name,
            "subjects": "at most " * self.several + str(subject["n"]),
            "**subject-level macro F1**": f"**{macro}**",
            "at most": f"{(sizes >= _LEARNABLE).sum() / (sizes > 0).sum():.3f}",
            "folds": f"{np.mean(folds):.3f} ± {np.std(folds, ddof=1):.3f}",
            "best epochs": ", ".join(str(run.training["best_epoch"]) for run in self.folds),
            "seeds": f"± {np.std(seeds, ddof=1):.3f} ({len(seeds)})" if seeds[1:] else "one",
            "subject-level accuracy": accuracy,
            "macro F1 per slice": interval(scores["macro_f1"], scores["ci95"]["macro_f1"]),
            _NEW_LABEL: "{:.2f} to {:.2f}".format(*self.new),
            "slice split, subject-level macro F1: LEAKS": (
                f"{leak['subject']['macro_f1']:.3f} ({leak['split']['shared_subjects']} of"
                f" {leak['subject']['n']} subjects known)"
            ),
        }

    def class_rows(self) -> Iterator[dict[str, object]]:
        """Confusion by subject, with the sensitivity and specificity of each class."""
        truth, predicted, _ = self.predicted
        for number, name in enumerate(self.names):
            own, said = truth == number, predicted == number
            if own.any():
                hits, passes = float(said[own].mean()), float((~said)[~own].mean())
                named = np.bincount(predicted[own], minlength=self.classes)
                yield {
                    "task": self.name,
                    "class": name,
                    "subjects": own.sum(),
                    "predicted as each class, in this order": ", ".join(map(str, named)),
                    "sensitivity": interval(hits, share_interval(hits, own.sum())),
                    "specificity": interval(passes, share_interval(passes, (~own).sum())),
                }

    def floor_rows(self) -> Iterator[dict[str, object]]:
        """The network, the floors, guesses; differences, and the label permutation test."""
        labels, probabilities, classes = self.labels, self.probabilities, self.classes
        numbers, folds = self._measurements()
        floors = {name: floor(numbers[:, of], labels, folds) for name, of in FLOORS.items()}
        # The product puts classes in the order of the geometric mean.
        both = probabilities[:, : labels.max() + 1] * floors[FUSED]
        predictions = {
            name: found.argmax(axis=1)
            for name, found in {_NETWORK: probabilities, _BOTH: both, **floors}.items()
        }
        best = max(FLOORS, key=lambda name: macro_f1(labels, predictions[name]))
        most = np.bincount(labels).argmax()
        predictions[_MOST] = np.full(len(labels), most)
        tests = {name: self.predicted._replace(predicted=of) for name, of in predictions.items()}
        resampled = {name: mean_macro_f1([test], classes, 0) for name, test in tests.items()}
        # A constant answer is right by no luck, so that no imagined subject is needed.
        constant = np.full(RESAMPLES, resampled[_MOST].value)
        resampled[_MOST] = Resampled(resampled[_MOST].value, constant, constant)
        for name, test in tests.items():
            found = resampled[name]
            yield {
                "task": self.name,
                "": name,
                "macro F1": interval(found.value, found.interval),
                "accuracy": f"{np.mean(labels == test.predicted):.3f}",
                **{
                    f"{one} − this": "" if name == one else signed(resampled[one].minus(found))
                    for one in (_NETWORK, _BOTH)
                },
            }
        rng, reached = np.random.default_rng(0), macro_f1(labels, predictions[best])
        guesses = [macro_f1(labels, rng.choice(labels, len(labels))) for _ in range(GUESSES)]
        rng, columns = np.random.default_rng(0), numbers[:, FLOORS[best]]
        drawn = [rng.permutation(labels) for _ in range(PERMUTATIONS)]
        permuted = [macro_f1(one, floor(columns, one, folds).argmax(axis=1)) for one in drawn]
        p = (1 + sum(value >= reached for value in permuted)) / (1 + PERMUTATIONS)
        for name, values, said in (
            ("guesses by class frequency", guesses, ""),
            (f"{best}, labels permuted", permuted, f"; p = {p:.3f}"),
        ):
            low, high = np.quantile(values, (0.025, 0.975))
            range_ = f"mean {np.mean(values):.3f}, 95 of 100 in {low:.3f} to {high:.3f}{said}"
            yield {"task": self.name, "": name, "macro F1": range_}

    def _measurements(self) -> tuple[Floats, Ints]:
        """The numbers, ``[n, 5]``, and the fold of each subject."""
        images, slices = self.folds[0].images, defaultdict[str, list[Pixels]](list)
        for line in csv.DictReader(io.StringIO(self.folds[0].read("data/prepared/manifest.csv"))):
            slices[line["subject"]].append(images[int(line["index"])])
        tested = [(run.predictions.subjects, number) for number, run in enumerate(self.folds)]
        fold = {name: number for names, number in tested for name in names}
        numbers = np.array([numbers_of(slices[name]) for name in self.subjects])
        return numbers, np.array([fold[name] for name in self.subjects])


def planned(study: Study, task: str, folds: int, seeds: int = 1) -> list[Experiment]:
    """The folds of one task for each seed, then the experiment on the slice split, which leaks."""
    settings = {**study.settings(_USUAL), "data.merge": task}
    name = f"honest-{study.source}-{TASKS[task].replace(' ', '')}"
    crossed = {"split.unit": "subject", "split.folds": folds}
    start = int(str(settings["train.seed"]))
    return [
        *(
            Experiment(
                f"{name}-fold{fold}" + f"-seed{seed}" * (seed > start),
                {**settings, **crossed, "split.fold": fold, "train.seed": seed},
            )
            for seed in range(start, start + seeds)
            for fold in range(folds)
        ),
        Experiment(
            f"{name}-slices",
            {**settings, "split.unit": "slice", "split.folds": 0, "split.fold": 0},
        ),
    ]


def honest(study: Study, tasks: Sequence[str], folds: int, seeds: int) -> None:
    """Run missing experiments, write the section of docs/results.md and its figure."""
    if unknown := sorted({*tasks} - {*TASKS}):
        raise UserError(f"--task {', '.join(unknown)}: allowed are {', '.join(TASKS)}")
    done = study.run([one for task in tasks for one in planned(study, task, folds, seeds)])
    runs, results = iter(done), []
    for task in tasks:
        first, *repeats = [list(itertools.islice(runs, folds)) for _ in range(seeds)]
        results.append(TaskResults(TASKS[task], first, next(runs), repeats))
    figure = Path(f"docs/honest-{study.source}.png")
    _draw(figure, study.source, results)
    several = any(task.several for task in results)
    title = "subjects that the model has never seen"
    study.report(
        "honest",
        "cross-validation over groups of images, which may LEAK" if several else title,
        done,
        *[_MAY_LEAK] * several,
        f"{folds}-fold cross-validation over {'groups' if several else 'subjects'} ([how to read"
        " the tables](#how-to-read-the-tables-of-alzmri-honest)):",
        records([task.row() for task in results]),
        "By subject:",
        records([line for task in results for line in task.class_rows()]),
        "Beside the floors:",
        records([line for task in results for line in task.floor_rows()]),
        f"![Subject-level macro F1, by task]({figure.name})",
    )


def _draw(path: Path, source: str, results: Sequence[TaskResults]) -> None:
    """Draw for each task the pooled score with interval, folds, range of new subjects and leak."""
    blue, red = SEVERITY[0], SEVERITY[3]
    with drawing(path, 6.8, 0.85 * len(results) + 1.5) as figure:
        axes = figure.add_subplot()
        for place, task in enumerate(results):
            score, leak = (of["subject"] for of in (task.scores, task.leak))
            for ends, width, alpha, label in (
                (task.new, 9, 0.25, _NEW_LABEL),
                (score["ci95"]["macro_f1"], 3, 1, "all subjects, 95 %"),
            ):
                axes.hlines(place, ends[0], ends[1], blue, lw=width, alpha=alpha, label=label)
            folds = task.by_fold
            axes.plot(folds, [place] * len(folds), "k|", markersize=11, label="one fold")
            for value, marker, colour, label in (
                (score["macro_f1"], "o", blue, "cross-validated"),
                (leak["macro_f1"], "X", red, "slice split: LEAKS"),
            ):
                axes.plot(value, place, marker, color=colour, ms=8.5, mec="white", label=label)
                axes.text(value, place - 0.2, f"{value:.2f}", color=colour, ha="center")
        axes.set_yticks(range(len(results)), [task.name for task in results])
        axes.set(xlim=(0, 1.02), ylim=(len(results) - 0.5, -0.6))
        axes.set_xlabel(
            f"subject-level macro F1\none fold tests 1/{len(results[0].folds)} of the subjects, so"
            " its score can lie outside the interval of all"
        )
        axes.tick_params(axis="y", length=0)
        new = "new image groups (MAY LEAK)" if any(t.several for t in results) else "new subjects"
        axes.set_title(f"{source}: scores on {new} and on training subjects", fontsize=10)
        # All tasks share marks; the legend has each once.
        marks = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(marks.values(), marks, loc="outside lower center", ncols=5, fontsize=8)

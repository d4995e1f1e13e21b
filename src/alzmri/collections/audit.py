"""What a division into training and test images leaks, measured without a model.

A score is honest where nothing but the disease connects test and training images. Here is what
else connects them: the same subjects, near-duplicates, and how far one gets by answering with
the class of the most similar training slice (1-nearest-neighbour). What that scores on a layout
above what it scores on new subjects, in the subject split, is recognition of subjects.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score

from alzmri import terminal
from alzmri.classes import merged
from alzmri.collections import origins
from alzmri.data import collection, images, similarity, splits, subjects
from alzmri.data.collection import Collection
from alzmri.data.prepared import PARTS
from alzmri.errors import UserError
from alzmri.params import Params

UNITS: tuple[Literal["subject", "slice"], ...] = ("subject", "slice")

SOME_BRAIN = 0.1
"""Of the 99th percentile of a slice's intensities: above it is the head, below it background."""

END_AUC, END_Z = 0.9, 5.0
"""From which on test images are called an end of the stack: almost always, and not by chance."""

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Slices:
    """The usable images of a collection, as an audit sees them; all ``[n]`` in one order.

    Attributes:
        found: the files.
        labels: classes after ``data.merge``.
        people: who is on each, see :func:`subjects.find`.
        codes: see :func:`similarity.encode`.
        areas: int64, see :func:`area`.
    """

    found: Collection
    labels: tuple[str, ...]
    people: subjects.People
    codes: similarity.Codes
    areas: Ints


@dataclass(frozen=True)
class Layout:
    """A division of images; bool ``[n]`` each. A published one may have copies in both."""

    name: str
    current: bool
    train: Bools
    val: Bools
    test: Bools


@dataclass(frozen=True)
class Part:
    """How much one part of a layout holds; ``people`` is None where nobody knows them."""

    images: int
    people: int | None


@dataclass(frozen=True)
class Ends:
    """Whether test images are an end of the stack of slices of subjects who are in training too.

    Attributes:
        people: in training and test.
        less: of them, those whose test slices all show less brain than every training slice.
        more: the same with more.
        auc: the chance that a training slice shows more brain than a test slice of the same
            subject, ties counting half; the mean over subjects.
        z: of ``auc`` against 0.5, in standard deviations of slices divided at random.
    """

    people: int
    less: int
    more: int
    auc: float
    z: float

    @property
    def which(self) -> Literal["least", "most"] | None:
        """Whether the test slices are those with the least or the most brain, or neither."""
        if abs(self.z) < END_Z or abs(self.auc - 0.5) < END_AUC - 0.5:
            return None
        return "least" if self.z > 0 else "most"


@dataclass(frozen=True)
class Pair:
    """A test image and the training image most like it: paths, classes, similarity, subjects."""

    test: str
    train: str
    test_label: str
    train_label: str
    similarity: float
    same_subject: bool | None


@dataclass(frozen=True)
class Leak:
    """What one layout leaks. What takes subjects is None where they are unknown.

    Attributes:
        layout: ``published``, ``subject`` or ``slice``.
        current: whether ``params.yaml`` has it.
        train, val, test: what the parts hold.
        shared_subjects: subjects of the test who are in training too.
        test_near_duplicates: test images with a training image that is a near-duplicate:
            :data:`subjects.NEAR_DUPLICATE`.
        turned_copies: test images whose original, or another copy of it, is in training, see
            :func:`origins.copies`; None where the collection has no known copies.
        near_duplicate_pairs: all such pairs.
        same_subject: the share of test images whose nearest training image is the same subject's.
        similarity: of test images with their nearest training image: 5 %, 50 % and 95 %.
        majority: the most frequent class of the training images.
        majority_accuracy: of always answering ``majority``.
        accuracy, macro_f1, recall: of answering with the class of the nearest training image;
            recall per class of the test.
        ends: None where nobody is shared.
        pairs: the worst, see :func:`measure`.
    """

    layout: str
    current: bool
    train: Part
    val: Part
    test: Part
    shared_subjects: int | None
    test_near_duplicates: int
    turned_copies: int | None
    near_duplicate_pairs: int
    same_subject: float | None
    similarity: tuple[float, float, float]
    majority: str
    majority_accuracy: float
    accuracy: float
    macro_f1: float
    recall: dict[str, float]
    ends: Ends | None
    pairs: tuple[Pair, ...]

    @property
    def at_fault(self) -> bool:
        """Whether the layout is the current one and its test is not of new subjects only."""
        return self.current and bool(
            self.shared_subjects
            or self.shared_subjects is None
            or (self.layout == "subject" and self.test_near_duplicates)
        )


@dataclass(frozen=True)
class Audit:
    """What the layouts of a collection leak.

    Attributes:
        subjects_from: ``pixels``, ``subjects.csv``, or None where subjects are unknown.
        leaks: published, if that is known, then the subject and the slice split.
        refused: why a split cannot be made, by its unit.
    """

    slices: Slices
    subjects_from: str | None
    leaks: tuple[Leak, ...]
    refused: dict[str, UserError]


def audit(directory: Path, params: Params, *, pairs: int) -> Audit:
    """Read the collection in ``directory`` and measure every layout of it.

    Raises:
        UserError: what :func:`read` and :func:`published` raise.
    """
    slices, refused = read(directory, params)
    layouts: list[Layout | None] = [published(slices)]
    for unit in UNITS:
        try:
            if unit not in refused:
                layouts.append(dealt(slices, params, unit))
        except UserError as error:
            refused[unit] = error
    leaks = tuple(
        measure(slices, layout, pairs=pairs, merge=params.data.merge)
        for layout in layouts
        if layout
    )
    told = "pixels" if slices.people.cut else subjects.SUBJECTS_FILE
    return Audit(slices, told if slices.people.known else None, leaks, refused)


def read(directory: Path, params: Params) -> tuple[Slices, dict[str, UserError]]:
    """The collection in ``directory``, subjects as ``split.subjects`` says.

    Where nobody knows them, there is no subject split: why, by its unit, as in :class:`Audit`.

    Raises:
        UserError: there is none, ``prepare`` would refuse it, or its ``subjects.csv`` has faults.
    """
    kept: list[tuple[images.Pixels, int]] = []
    with terminal.progress("validating") as progress:
        found = collection.read(
            directory,
            lambda pixels: (images.thumbnail(pixels), area(pixels)),
            kept.append,
            progress,
        )
    collection.require(found, params.data.max_rejected)
    thumbnails, areas = zip(*kept, strict=True)
    called = merged(params.data.merge, found.classes)
    with terminal.progress("comparing images") as progress:
        codes = similarity.encode(np.stack(thumbnails))

        def links() -> similarity.Forest:
            return similarity.forest(codes, progress)

        refused: dict[str, UserError] = {}
        try:
            people = subjects.find(directory, params.split.subjects, found.entries, links)
        except subjects.Unclear as error:
            refused["subject"] = error
            people = subjects.find(directory, "unknown", found.entries, links)
    if not people.known:
        refused.setdefault("subject", UserError("split.subjects is unknown"))
    slices = Slices(
        found,
        tuple(called[entry.label] for entry in found.entries),
        people,
        codes,
        np.array(areas, np.int64),
    )
    return slices, refused


def area(pixels: images.Pixels) -> int:
    """How many pixels of a slice (uint8 ``[height, width]``) show the head.

    Measured on the public collection: with :data:`SOME_BRAIN` 0.05 as with 0.1, each of 180
    subjects' slices published as test has less than any of the same subject's in training.
    """
    return int((pixels > SOME_BRAIN * np.percentile(pixels, 99)).sum())


def published(slices: Slices) -> Layout | None:
    """The division that the collection was published with; None where none is known.

    Without test images, those published for validation are the test.

    Raises:
        UserError: ``origin.csv`` is no table of origins.
    """
    known = origins.find(slices.found.directory)
    parts = [set(map(origins.part, known.get(item.path, ()))) for item in slices.found.entries]
    train, val, test = (np.array([name in mine for mine in parts]) for name in PARTS)
    if not test.any():
        val, test = test, val
    return Layout("published", False, train, val, test) if train.any() and test.any() else None


def dealt(slices: Slices, params: Params, unit: Literal["subject", "slice"]) -> Layout:
    """The division that ``prepare`` would make, were ``split.unit`` so.

    Raises:
        UserError: when a part would be empty.
    """
    split = params.split.model_copy(update={"unit": unit})
    hashes = [entry.sha256 for entry in slices.found.entries]
    groups = slices.people.names if unit == "subject" else hashes
    parts = np.array(splits.assign(slices.labels, groups, split))
    masks = [parts == part for part in PARTS]
    return Layout(unit, unit == params.split.unit, *masks)


def measure(slices: Slices, layout: Layout, *, pairs: int, merge: str = "none") -> Leak:
    """What ``layout`` leaks.

    ``pairs`` is how many test images at most are listed with their nearest training images: the
    most alike of each class, then the second of each class, and so on, and nobody twice, so that
    they are not all of one kind. ``merge`` is ``data.merge``.
    """
    labels, people = np.array(slices.labels), np.array(slices.people.names)
    known = slices.people.known
    tested, trained = np.flatnonzero(layout.test), np.flatnonzero(layout.train)
    found, similarities, near_duplicates = similarity.nearest(
        slices.codes[tested], slices.codes[trained], subjects.NEAR_DUPLICATE
    )
    nearest = trained[found]
    truth, said = labels[tested], labels[nearest]
    classes = tuple(dict.fromkeys(merged(merge, slices.found.classes).values()))
    present = [name for name in classes if name in truth]
    # Ties by severity, whatever the order of files.
    counts = Counter(labels[trained].tolist())
    majority = max(classes, key=lambda name: counts[name])
    low, median, high = np.quantile(similarities, (0.05, 0.5, 0.95)).tolist()

    def part(mask: Bools) -> Part:
        return Part(int(mask.sum()), len(set(people[mask])) if known else None)

    return Leak(
        layout=layout.name,
        current=layout.current,
        train=part(layout.train),
        val=part(layout.val),
        test=part(layout.test),
        shared_subjects=len(set(people[trained]) & set(people[tested])) if known else None,
        test_near_duplicates=int((near_duplicates > 0).sum()),
        turned_copies=_turned(slices, layout),
        near_duplicate_pairs=int(near_duplicates.sum()),
        same_subject=float((people[nearest] == people[tested]).mean()) if known else None,
        similarity=(low, median, high),
        majority=majority,
        majority_accuracy=float((truth == majority).mean()),
        accuracy=float(accuracy_score(truth, said)),
        macro_f1=float(f1_score(truth, said, labels=present, average="macro", zero_division=0)),
        recall={name: float((said[truth == name] == name).mean()) for name in present},
        ends=ends(slices.people.names, slices.areas, layout),
        pairs=tuple(
            Pair(
                slices.found.entries[tested[row]].path,
                slices.found.entries[nearest[row]].path,
                str(truth[row]),
                str(said[row]),
                float(similarities[row]),
                bool(people[tested[row]] == people[nearest[row]]) if known else None,
            )
            for row in _worst(similarities, truth, people[tested], people[nearest], pairs)
        ),
    )


def _turned(slices: Slices, layout: Layout) -> int | None:
    """``Leak.turned_copies``."""
    paths = [entry.path for entry in slices.found.entries]
    copies = origins.copies(slices.found.directory)
    if not copies:
        return None
    original = [copies.get(path, path) for path in paths]
    trained = {original[index] for index in np.flatnonzero(layout.train)}
    return sum(original[index] in trained for index in np.flatnonzero(layout.test))


def ends(people: Sequence[str], areas: Ints, layout: Layout) -> Ends | None:
    """Whether each subject's test images are those with the least (or most) brain: see `Ends`.

    Brain gets less toward the vertex and the neck, so an end of the stack shows in the areas,
    whatever the files are called. Per subject it is Mann and Whitney's U (1947); its variance,
    summed over subjects, gives ``z``.
    """
    mine: defaultdict[str, list[int]] = defaultdict(list)
    for index in np.flatnonzero(layout.train | layout.test).tolist():
        mine[people[index]].append(index)
    auc, variance, less, more = [], [], 0, 0
    for indices in mine.values():
        at = np.array(indices)
        train, test = areas[at[layout.train[at]]], areas[at[layout.test[at]]]
        if not (len(train) and len(test)):
            continue
        over = train[:, None] > test
        auc.append(float((over + 0.5 * (train[:, None] == test)).mean()))
        variance.append((len(train) + len(test) + 1) / (12 * len(train) * len(test)))
        less += bool(over.all())
        more += bool((train[:, None] < test).all())
    if not auc:
        return None
    z = float((np.array(auc) - 0.5).sum() / np.sqrt(sum(variance)))
    return Ends(len(auc), less, more, float(np.mean(auc)), z)


def headline(leak: Leak) -> str:
    """How far a layout's test is from new subjects, in half a sentence."""
    name = called(leak) + (" (current)" if leak.current else "")
    near = f"{leak.test_near_duplicates} of {leak.test.images} test images have a near-duplicate in"
    if leak.shared_subjects is None:
        return f"{name}: subjects unknown; {near} training"
    if leak.test_near_duplicates and not leak.shared_subjects:
        return (
            f"{name}: {near} training: of {leak.test.people} subjects, some have other names there"
        )
    return (
        f"{name}: {leak.shared_subjects} of {leak.test.people} subjects tested are in training; the"
        f" most similar training slice shows the same subject for {leak.same_subject:.1%}"
    )


def called(leak: Leak) -> str:
    """The layout as people say it."""
    return "published" if leak.layout == "published" else f"{leak.layout} split"


def end_of_stack(leak: Leak) -> str | None:
    """One sentence if the test images are an end of the stack of the training subjects."""
    if leak.ends is None or leak.ends.which is None:
        return None
    which = leak.ends.which
    where, sign, count = {
        "least": ("the end slices (top or bottom)", "less", leak.ends.less),
        "most": ("the widest slices", "more", leak.ends.more),
    }[which]
    return (
        f"{called(leak)}: the test images are {where} of the training subjects: in {count} of the"
        f" {leak.ends.people} subjects in both, every test slice shows {sign} brain than any"
        " training slice"
    )


def _worst(
    similarities: Floats,
    labels: NDArray[np.str_],
    tested: NDArray[np.str_],
    trained: NDArray[np.str_],
    number: int,
) -> list[int]:
    """The rows to look at: nobody twice, and classes taking turns, the most alike first."""
    shown: set[str] = set()
    turns: Counter[str] = Counter()
    chosen: list[tuple[int, int]] = []
    for row in np.argsort(-similarities, kind="stable").tolist():
        mine = {str(tested[row]), str(trained[row])}
        if mine & shown:
            continue
        shown |= mine
        chosen.append((turns[labels[row]], row))
        turns[labels[row]] += 1
    # A stable sort: within a turn the most alike stay first.
    return [row for _, row in sorted(chosen, key=lambda item: item[0])][:number]

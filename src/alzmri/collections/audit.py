"""Measure, without a model, how a division into training and test images leaks.

A score is honest if only the disease connects test and training images. Other connections are
shared subjects and near-duplicates. A 1-nearest-neighbour classifier, which takes the class of the
most similar training slice, shows their effect: it scores higher on a layout that leaks than on the
new subjects of the subject split.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score

from alzmri.classes import merged
from alzmri.collections import recognition
from alzmri.data import class_folders, images, similarity, splits, subjects
from alzmri.data.class_folders import Collection
from alzmri.data.prepared import PARTS, short
from alzmri.errors import UserError
from alzmri.figure import SEVERITY, drawing
from alzmri.params import Params

_PAIRS = 3
"""Maximum number of pairs of a layout: one row of the figure."""
_WHOSE = {True: "the same", False: "another", None: "unknown"}


@dataclass(frozen=True)
class Part:
    """The size of one part of a layout; ``people`` is None if subjects are unknown."""

    images: int
    people: int | None


@dataclass(frozen=True)
class Pair:
    """A test image and the most similar training image: paths, classes, similarity, subjects."""

    test: str
    train: str
    test_label: str
    train_label: str
    similarity: float
    same_subject: bool | None


@dataclass(frozen=True)
class Leak:
    """The leak of one layout: ``published``, ``subject`` or ``slice``; ``current`` if
    ``params.yaml`` sets it. Values about subjects are None if these are unknown.

    Attributes:
        shared_subjects: number of test subjects that are in training too.
        test_near_duplicates: number of test images with a near-duplicate in training.
        turned_copies: number of test images whose original, or a copy of it, is in training; None
            in a collection without copies.
        same_subject: fraction of test images whose nearest training image is of the same subject.
        majority_accuracy: accuracy of always naming the most frequent class in training.
        accuracy: accuracy of naming the class of the nearest training image; ``macro_f1`` its F1.
        pairs: test images and their nearest ones, the most similar first, each subject once.
    """

    layout: str
    current: bool
    train: Part
    val: Part
    test: Part
    shared_subjects: int | None
    test_near_duplicates: int
    turned_copies: int | None
    same_subject: float | None
    majority_accuracy: float
    accuracy: float
    macro_f1: float
    pairs: Sequence[Pair]

    @property
    def at_fault(self) -> bool:
        """Whether the layout is the current one and its test subjects are not all new."""
        near = self.layout == "subject" and self.test_near_duplicates
        return self.current and bool(self.shared_subjects is None or self.shared_subjects or near)

    @property
    def called(self) -> str:
        """The name of the layout for users."""
        return "published" if self.layout == "published" else f"{self.layout} split"

    @property
    def headline(self) -> str:
        """The leak in half a sentence."""
        name = self.called + " (current)" * self.current
        number = f"{self.test_near_duplicates} of {self.test.images}"
        near = f"{number} test images have a near-duplicate in training"
        if self.shared_subjects is None:
            return f"{name}: subjects unknown; {near}"
        if self.test_near_duplicates and not self.shared_subjects:
            return f"{name}: {near}: of {self.test.people} subjects, some have other names there"
        return (
            f"{name}: {self.shared_subjects} of {self.test.people} subjects tested are in training;"
            f" {self.same_subject:.1%} of the slices are most similar to one of the same subject"
        )


@dataclass(frozen=True)
class Audit:
    """The leaks of a collection's layouts: the published one, if known, and the two splits; the
    reasons for impossible splits, by unit. Values about subjects are None if these are unknown."""

    images: int
    people: int | None
    doubt: str | None
    subjects_from: str | None
    layouts: Sequence[Leak]
    refused: Mapping[str, str]


def audit(directory: Path, params: Params) -> Audit:
    """Read the collection in ``directory`` and measure every layout of it.

    Raises:
        UserError: there is no collection, ``prepare`` would refuse it, or its ``subjects.csv`` or
            ``origin.csv`` has faults.
    """
    found = class_folders.read(directory)
    class_folders.require(found, params.data.max_rejected)
    identified = subjects.find(found, params.split.subjects)
    called = merged(params.data.merge, found.classes)
    labels = [called[entry.label] for entry in found.entries]
    layouts, refused = {}, {}
    # An image may be published in both parts. Without a test, validation images are the test.
    published = [set(map(recognition.part, entry.origins)) for entry in found.entries]
    train, val, test = (np.array([name in mine for mine in published]) for name in PARTS)
    if not test.any():
        val, test = test, val
    if train.any() and test.any():
        layouts["published"] = [train, val, test]
    for unit in ("subject", "slice"):
        if unit == "subject" and not identified.known:
            refused[unit] = identified.doubt or "split.subjects is unknown"
            continue
        split = params.split.model_copy(update={"unit": unit})
        try:
            parts = np.array(splits.parts(found.entries, labels, identified.names, split))
            layouts[unit] = [parts == part for part in PARTS]
        except UserError as error:
            refused[unit] = str(error)
    leaks = [
        _measure(found, np.array(labels), identified, name, name == params.split.unit, masks)
        for name, masks in layouts.items()
    ]
    if not identified.known:
        return Audit(len(labels), None, None, None, leaks, refused)
    source = "pixels" if identified.cut else subjects.SUBJECTS_FILE
    return Audit(len(labels), len(set(identified.names)), identified.doubt, source, leaks, refused)


def _measure(
    found: Collection,
    labels: NDArray[np.str_],
    identified: subjects.SubjectNames,
    layout: str,
    current: bool,
    masks: Sequence[NDArray[np.bool_]],
) -> Leak:
    """Measure the leak of a layout; ``masks`` are bool ``[n]``: training, validation, test."""
    names, known = np.array(identified.names), identified.known
    original = np.array([entry.original for entry in found.entries])
    copied = any(entry.original != entry.path for entry in found.entries)
    trained, _, tested = (np.flatnonzero(mask) for mask in masks)
    places, similarities, near_duplicates = similarity.nearest(
        found.codes[tested], found.codes[trained], subjects.NEAR_DUPLICATE
    )
    nearest = trained[places]
    truth, said, same = labels[tested], labels[nearest], names[tested] == names[nearest]
    # Sorted, so that the order of files does not matter in a tie.
    (majority, _), *_ = Counter(sorted(labels[trained])).most_common()
    shown: set[str] = set()
    pairs: list[Pair] = []
    for row in np.argsort(-similarities, kind="stable").tolist():
        both = {names[tested[row]], names[nearest[row]]}
        if len(pairs) < _PAIRS and not both & shown:
            shown |= both
            paths = found.entries[tested[row]].path, found.entries[nearest[row]].path
            whose = bool(same[row]) if known else None
            pairs.append(
                Pair(*paths, str(truth[row]), str(said[row]), float(similarities[row]), whose)
            )
    return Leak(
        layout,
        current,
        *(Part(int(mask.sum()), len(set(names[mask])) if known else None) for mask in masks),
        shared_subjects=len(set(names[trained]) & set(names[tested])) if known else None,
        test_near_duplicates=int((near_duplicates > 0).sum()),
        turned_copies=int(np.isin(original[tested], original[trained]).sum()) if copied else None,
        same_subject=float(same.mean()) if known else None,
        majority_accuracy=float((truth == majority).mean()),
        accuracy=float(accuracy_score(truth, said)),
        macro_f1=float(
            f1_score(truth, said, labels=np.unique(truth), average="macro", zero_division=0)
        ),
        pairs=pairs,
    )


def draw(path: Path, directory: Path, leaks: Sequence[Leak], name: str) -> None:
    """Draw the pairs of each layout: test slice, nearest training slice, their difference.

    ``directory`` is the collection ``name``; it reads only the slices that it shows.
    """
    with drawing(path, 9.0, 1.95 * len(leaks) + 0.4) as figure:
        title = f"{name}: the most similar pairs of each layout"
        figure.suptitle(title, x=0.005, ha="left", fontsize=12, weight="bold")
        bands = figure.subfigures(len(leaks), 1, squeeze=False)[:, 0]
        for band, leak in zip(bands, leaks, strict=True):
            text = leak.headline
            band.suptitle(text[0].upper() + text[1:], x=0.005, ha="left", fontsize=10)
            row = band.subplots(1, _PAIRS)
            for axes, pair in zip(row, leak.pairs, strict=False):
                _draw_pair(axes, directory, pair)
            for axes in row[len(leak.pairs) :]:
                axes.axis("off")


def _draw_pair(axes: Axes, directory: Path, pair: Pair) -> None:
    test, train = (images.decode(directory / path).pixels for path in (pair.test, pair.train))
    size = test.shape[::-1]
    train = np.asarray(cv2.resize(train, size, interpolation=cv2.INTER_AREA), np.uint8)
    axes.imshow(np.hstack([test, train, 2 * np.minimum(cv2.absdiff(test, train), 127)]), "gray")
    labels = [short(label) for label in (pair.test_label, pair.train_label)]
    axes.set_xlabel(f"test: {labels[0]}, train: {labels[1]}, difference × 2", fontsize=7.5)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    title = f"similarity {pair.similarity:.2f}, {_WHOSE[pair.same_subject]} subject"
    colour = SEVERITY[3 if pair.same_subject else 0]
    axes.set_title(title, fontsize=9, color=colour, weight="bold")

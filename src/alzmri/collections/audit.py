"""Measure, without a model, how a division into training and test images leaks.

A score is honest if only the disease connects test and training images. Other connections are
shared subjects, near-duplicates, and the score of a 1-nearest-neighbour classifier (the class of
the most similar training slice): its score on a layout, above its score on new subjects in the
subject split, is recognition of subjects.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score

from alzmri.classes import merged
from alzmri.collections import importing, recognition
from alzmri.data import class_folders, images, similarity, splits, subjects
from alzmri.data.class_folders import Entry
from alzmri.data.prepared import PARTS
from alzmri.errors import UserError
from alzmri.figure import SEVERITY, drawing
from alzmri.params import Params

_ACROSS = 3
"""Number of pairs in a row."""
_ROW, _TITLE = 1.65, 0.3
"""Height of a row of pairs and of a layout's title, inches."""
_WHOSE = {True: "the same", False: "another", None: "unknown"}

Masks = Sequence[NDArray[np.bool_]]
"""Masks of the images in training, validation and test: bool ``[n]`` each."""


class _Slices(NamedTuple):
    """The images of a collection in one order, ``labels`` after ``data.merge``."""

    entries: Sequence[Entry]
    labels: NDArray[np.str_]
    people: NDArray[np.str_]
    people_known: bool
    codes: similarity.Codes
    copy_of: Mapping[str, str]


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
    """The leak of one layout. Values about subjects are None if these are unknown."""

    layout: str
    """``published``, ``subject`` or ``slice``."""
    current: bool
    """Whether ``params.yaml`` sets it."""
    train: Part
    val: Part
    test: Part
    shared_subjects: int | None
    """Number of test subjects that are in training too."""
    test_near_duplicates: int
    """Number of test images with a near-duplicate in training."""
    turned_copies: int | None
    """Number of test images whose original, or its copy, is in training; None without copies."""
    same_subject: float | None
    """Fraction of test images whose nearest training image is of the same subject."""
    majority: str
    """The most frequent class of the training images; below, the accuracy of always naming it."""
    majority_accuracy: float
    accuracy: float
    """Accuracy of naming the class of the nearest training image; below, its macro F1."""
    macro_f1: float
    pairs: tuple[Pair, ...]
    """Test images and their nearest ones, the most similar first, each subject once."""

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
            f" the most similar training slice shows the same subject for {self.same_subject:.1%}"
        )


@dataclass(frozen=True)
class Audit:
    """The leaks of a collection's layouts: the published one, if known, the subject split and the
    slice split.

    ``people`` (their number) and ``subjects_from`` (``pixels`` or ``subjects.csv``) are None if
    subjects are unknown; ``doubt`` is as in :class:`subjects.People`; ``refused`` has the reasons
    for impossible splits, by unit.
    """

    images: int
    people: int | None
    doubt: str | None
    subjects_from: str | None
    layouts: Sequence[Leak]
    refused: Mapping[str, str]


def audit(directory: Path, params: Params, *, pairs: int) -> Audit:
    """Read the collection in ``directory`` and measure every layout of it.

    Args:
        pairs: maximum number of test images per layout to list with their nearest ones.

    Raises:
        UserError: there is no collection, ``prepare`` would refuse it, or its ``subjects.csv`` or
            ``origin.csv`` has faults.
    """
    found, heads = importing.read(directory)
    class_folders.require(found, params.data.max_rejected)
    entries, (codes, links) = found.entries, importing.compared(heads)
    refused: dict[str, str] = {}
    try:
        people = subjects.find(directory, params.split.subjects, entries, lambda: links)
    except subjects.Unclear as error:
        refused["subject"] = str(error)
        people = subjects.find(directory, "unknown", entries, lambda: links)
    if not people.known:
        refused.setdefault("subject", "split.subjects is unknown")
    called, copy_of = merged(params.data.merge, found.classes), class_folders.copies(directory)
    labels = [called[entry.label] for entry in entries]
    layouts: dict[str, Masks | None] = {"published": _published(directory, entries)}
    units: tuple[Literal["subject", "slice"], ...] = ("subject", "slice")
    for unit in units:
        split = params.split.model_copy(update={"unit": unit})
        try:
            if unit not in refused:
                parts = np.array(splits.parts(entries, labels, people.names, split, copy_of))
                layouts[unit] = [parts == part for part in PARTS]
        except UserError as error:
            refused[unit] = str(error)
    slices = _Slices(
        *(entries, np.array(labels), np.array(people.names), people.known, codes, copy_of)
    )
    leaks = [
        _measure(slices, name, name == params.split.unit, masks, list(called.values()), pairs)
        for name, masks in layouts.items()
        if masks
    ]
    number = len(set(people.names)) if people.known else None
    source = "pixels" if people.cut else subjects.SUBJECTS_FILE if people.known else None
    return Audit(len(entries), number, people.doubt, source, leaks, refused)


def _published(directory: Path, entries: Sequence[Entry]) -> Masks | None:
    """The published layout, in which an image may be in both parts; None if unknown.

    Without published test images, the validation images are the test.
    """
    known = class_folders.origins(directory)
    parts = [set(map(recognition.part, known.get(entry.path, ()))) for entry in entries]
    train, val, test = (np.array([name in mine for mine in parts]) for name in PARTS)
    if not test.any():
        val, test = test, val
    return [train, val, test] if train.any() and test.any() else None


def _measure(
    slices: _Slices, layout: str, current: bool, masks: Masks, classes: Sequence[str], pairs: int
) -> Leak:
    """Measure the leak of a layout."""
    entries, labels, people, known, codes, copy_of = slices
    trained, _, tested = (np.flatnonzero(mask) for mask in masks)
    found, similarities, near_duplicates = similarity.nearest(
        codes[tested], codes[trained], subjects.NEAR_DUPLICATE
    )
    nearest = trained[found]
    truth, said, same = labels[tested], labels[nearest], people[tested] == people[nearest]
    # Severity breaks ties, so that the order of files does not matter.
    counts = Counter(labels[trained].tolist())
    majority = max(classes, key=lambda name: counts[name])
    present = sorted(set(truth), key=classes.index)
    original = np.array([copy_of.get(entry.path, entry.path) for entry in entries])
    turned = int(np.isin(original[tested], original[trained]).sum())
    shown: set[str] = set()
    worst: list[Pair] = []
    for row in np.argsort(-similarities, kind="stable").tolist():
        both = {str(people[tested[row]]), str(people[nearest[row]])}
        if len(worst) < pairs and not both & shown:
            shown |= both
            paths = entries[tested[row]].path, entries[nearest[row]].path
            whose = bool(same[row]) if known else None
            worst.append(
                Pair(*paths, str(truth[row]), str(said[row]), float(similarities[row]), whose)
            )
    train, val, test = (
        Part(int(mask.sum()), len(set(people[mask])) if known else None) for mask in masks
    )
    return Leak(
        *(layout, current, train, val, test),
        shared_subjects=len(set(people[trained]) & set(people[tested])) if known else None,
        test_near_duplicates=int((near_duplicates > 0).sum()),
        turned_copies=turned if copy_of else None,
        same_subject=float(same.mean()) if known else None,
        majority=majority,
        majority_accuracy=float((truth == majority).mean()),
        accuracy=float(accuracy_score(truth, said)),
        macro_f1=float(f1_score(truth, said, labels=present, average="macro", zero_division=0)),
        pairs=tuple(worst),
    )


def draw(path: Path, directory: Path, leaks: Sequence[Leak], name: str) -> None:
    """Draw the pairs of each layout: test slice, nearest training slice, their difference.

    ``directory`` is the collection ``name``; it reads only the slices that it shows.
    """
    rows = [-(-len(leak.pairs) // _ACROSS) for leak in leaks]
    heights = [_TITLE + _ROW * number for number in rows]
    with drawing(path, 9.0, sum(heights) + 0.4) as figure:
        title = f"{name}: the most similar pairs of each layout"
        figure.suptitle(title, x=0.005, ha="left", fontsize=12, weight="bold")
        bands = figure.subfigures(len(leaks), 1, height_ratios=heights, squeeze=False)
        for band, leak, number in zip(bands[:, 0], leaks, rows, strict=True):
            text = leak.headline
            band.suptitle(text[0].upper() + text[1:], x=0.005, ha="left", fontsize=10)
            grid = band.subplots(number, _ACROSS, squeeze=False).ravel()
            for axes in grid[len(leak.pairs) :]:
                axes.axis("off")
            for axes, pair in zip(grid, leak.pairs, strict=False):
                _draw_pair(axes, directory, pair)


def _draw_pair(axes: Axes, directory: Path, pair: Pair) -> None:
    test, train = (images.decode(directory / path).pixels for path in (pair.test, pair.train))
    size = test.shape[::-1]
    train = np.asarray(cv2.resize(train, size, interpolation=cv2.INTER_AREA), np.uint8)
    axes.imshow(np.hstack([test, train, 2 * np.minimum(cv2.absdiff(test, train), 127)]), "gray")
    labels = [label.removesuffix(" Demented") for label in (pair.test_label, pair.train_label)]
    axes.set_xlabel(f"test: {labels[0]}, train: {labels[1]}, difference × 2", fontsize=7.5)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    title = f"similarity {pair.similarity:.2f}, {_WHOSE[pair.same_subject]} subject"
    colour = SEVERITY[3 if pair.same_subject else 0]
    axes.set_title(title, fontsize=9, color=colour, weight="bold")

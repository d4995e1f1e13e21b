"""The figure of an audit: test slices beside the training slices that give them away."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from alzmri.collections.audit import Leak, Pair, headline
from alzmri.data import images
from alzmri.figure import SEVERITY, drawing

_ACROSS = 3
"""Pairs beside each other."""

_ROW, _TITLE = 1.65, 0.3
"""Inches: of a row of pairs, and of what stands above the rows of a layout."""

_FULL = 128
"""Of the difference: shown at full brightness, for half the range is already another picture."""

_SAME, _OTHER = SEVERITY[3], SEVERITY[0]
_WHOSE = {True: "the same", False: "another", None: "unknown"}


def draw(path: Path, directory: Path, leaks: Sequence[Leak], title: str) -> None:
    """A band per layout with its pairs: test slice, nearest training slice, their difference.

    ``directory`` is the collection; only the slices that are shown are read.
    """
    rows = [-(-len(leak.pairs) // _ACROSS) for leak in leaks]
    heights = [_TITLE + _ROW * number for number in rows]
    with drawing(path, 9.0, sum(heights) + 0.4) as figure:
        figure.suptitle(title, x=0.005, ha="left", fontsize=12, weight="bold")
        bands = figure.subfigures(len(leaks), 1, height_ratios=heights, squeeze=False)
        for band, leak, number in zip(bands[:, 0], leaks, rows, strict=True):
            text = headline(leak)
            band.suptitle(text[0].upper() + text[1:], x=0.005, ha="left", fontsize=10)
            grid = band.subplots(number, _ACROSS, squeeze=False)
            for axes in grid.flat[len(leak.pairs) :]:
                axes.axis("off")
            for axes, pair in zip(grid.flat, leak.pairs, strict=False):
                _draw_pair(axes, directory, pair)


def _draw_pair(axes: Axes, directory: Path, pair: Pair) -> None:
    test, train = (images.decode(directory / path).pixels for path in (pair.test, pair.train))
    height, width = test.shape
    train = np.asarray(cv2.resize(train, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    difference = cv2.absdiff(test, train)
    gap = np.ones((height, max(1, width // 24), 3))
    gray, heat = mpl.colormaps["gray"], mpl.colormaps["inferno"]
    shown = (gray(test), gray(train), heat(difference / _FULL))
    axes.imshow(np.hstack([part for image in shown for part in (image[..., :3], gap)][:-1]))
    of_test, of_train = (
        name.removesuffix(" Demented") for name in (pair.test_label, pair.train_label)
    )
    axes.set_xticks(
        [width / 2 + number * (width + gap.shape[1]) for number in range(3)],
        [f"test: {of_test}", f"train: {of_train}", "difference"],
        fontsize=7.5,
    )
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(
        f"similarity {pair.similarity:.2f}, {_WHOSE[pair.same_subject]} subject",
        fontsize=9,
        color=_SAME if pair.same_subject else _OTHER,
        weight="bold",
    )

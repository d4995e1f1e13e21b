"""What is drawn is what was counted: actual classes in rows, the surest mistakes first."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from alzmri.classes import CLASSES
from alzmri.evaluation import figures

TRUTH = np.array([0, 0, 0, 1, 2, 3])
PREDICTED = np.array([0, 1, 1, 1, 3, 3])


@pytest.fixture
def drawn(monkeypatch):
    """The figures, instead of files of them."""
    seen = []

    @contextmanager
    def keep(_path, *_size):
        seen.append(Figure())
        yield seen[-1]

    monkeypatch.setattr(figures, "drawing", keep)
    return seen


def test_the_confusion_has_actual_classes_in_rows_and_shares_of_them(drawn):
    figures.confusion(Path("x.png"), TRUTH, PREDICTED, CLASSES, "note")
    axes = drawn[0].axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "actual")
    # (column, row): two of the three slices of class 0 were taken for class 1.
    assert cells[1, 0] == "2\n67%"
    assert cells[0, 1] == "0\n0%"
    assert cells[3, 2] == "1\n100%"
    assert len(cells) == 16


def test_the_mistakes_are_the_surest_ones_and_the_surest_comes_first(drawn):
    chances = np.full((6, 4), 0.02)
    chances[np.arange(6), PREDICTED] = [0.9, 0.5, 0.8, 0.9, 0.6, 0.9]
    images = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((8, 8), np.uint8)
    figures.mistakes(Path("x.png"), images, TRUTH, chances, CLASSES, "note")
    shown = [axes for axes in drawn[0].axes if axes.get_title()]
    assert [int(axes.images[0].get_array()[0, 0]) for axes in shown] == [2, 4, 1]
    assert shown[0].get_title() == "is Non\nsaid Very Mild 80%"


def test_every_class_has_its_own_roc_curve_and_area(drawn):
    chances = np.eye(4)[PREDICTED] * 0.9 + 0.025
    figures.roc(Path("x.png"), TRUTH, chances, CLASSES, "note")
    (legend,) = (axes.get_legend() for axes in drawn[0].axes)
    labels = [text.get_text() for text in legend.get_texts()]
    assert [label.rpartition("  ")[0] for label in labels] == list(CLASSES)
    assert labels[3].endswith("0.90")  # all of class 3 found; one in five others taken for it

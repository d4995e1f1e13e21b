"""What is drawn is what was counted: actual classes in rows, the surest mistakes first."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from alzmri.classes import CLASSES
from alzmri.data.prepared import Row
from alzmri.evaluation import figures
from alzmri.evaluation.assessment import Predictions

TRUTH = np.array([0, 0, 0, 1, 2, 3])
PREDICTED = np.array([0, 1, 1, 1, 3, 3])


def _test(truth, chances, subjects=None, images=None):
    count, classes = chances.shape
    rows = tuple(Row(n, "", "", name, "test", "") for n, name in enumerate(subjects or "x" * count))
    aside = {"ood": np.zeros(count, bool), "temperature": 1.0, "calibrated": False}
    return Predictions(rows, images, truth, np.log(chances), **aside, classes=CLASSES[:classes])


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


def test_the_mistakes_are_the_surest_ones_of_each_class_and_the_surest_comes_first(drawn):
    sure = np.array([0.9, 0.5, 0.8, 0.9, 0.6, 0.9])
    chances = np.repeat((1 - sure[:, None]) / 3, 4, axis=1)
    chances[np.arange(6), PREDICTED] = sure
    images = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((8, 8), np.uint8)
    figures.mistakes(Path("x.png"), _test(TRUTH, chances, images=images), "note")
    shown = [axes for axes in drawn[0].axes if axes.images]
    assert [int(axes.images[0].get_array()[0, 0]) for axes in shown] == [2, 1, 4]
    assert shown[0].get_title() == "Very Mild 80%"
    rows = [text.get_text() for axes in shown for text in axes.texts]
    assert rows == ["Non Demented\n2 of 3 wrong", "Mild Demented\n1 of 1 wrong"]


def test_every_class_has_its_own_roc_curve_area_and_band(drawn):
    chances = np.eye(4)[PREDICTED] * 0.9 + 0.025
    figures.roc(Path("x.png"), _test(TRUTH, chances, "aaabcd"), "note")
    (axes,) = drawn[0].axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [label.rpartition("  ")[0] for label in labels] == list(CLASSES)
    assert labels[3].endswith("0.90")  # all of class 3 found; one in five others taken for it
    assert len(axes.collections) == 4


def test_reliability_has_an_interval_over_subjects_of_every_point(drawn):
    """Two subjects are right: Clopper and Pearson's interval begins at 0.158."""
    chances = np.tile([0.8, 0.2], (20, 1))
    test = _test(np.zeros(20, int), chances, "a" * 10 + "b" * 10)
    figures.reliability(Path("x.png"), test, "note")
    bars = [tuple(line.get_segments()[0][:, 1]) for line in drawn[0].axes[0].collections]
    assert bars == [pytest.approx((0.158, 1), abs=1e-3)] * 2


def test_the_learning_curves_mark_the_epoch_that_was_kept(drawn, tmp_path):
    table = tmp_path / "history.csv"
    header = "epoch,lr,train_loss,val_loss,val_accuracy,val_macro_f1"
    table.write_text(f"{header}\n1,0.1,3,2,0.5,0.4\n2,0.1,2,1,0.6,0.5\n3,0.1,1,2,0.6,0.5\n")
    figures.history(Path("x.png"), table)
    losses, scores = drawn[0].axes
    assert np.array(losses.lines[1].get_ydata()).tolist() == [2, 1, 2]
    assert np.array(scores.lines[1].get_ydata()).tolist() == [0.4, 0.5, 0.5]
    assert scores.get_xlabel() == "epoch (the model is of epoch 2)"

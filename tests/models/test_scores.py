"""Macro F1 against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from alzmri.models.scores import macro_f1

CLASS = st.integers(0, 3)


@given(st.lists(st.tuples(CLASS, CLASS), min_size=1, max_size=20))
def test_it_is_that_of_scikit_learn_over_the_classes_that_occur(pairs):
    truth, predicted = np.array(pairs, dtype=np.int64).T
    expected = f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    assert macro_f1(truth, predicted) == pytest.approx(expected)

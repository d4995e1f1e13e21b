"""Permuted labels: one per subject, and as many of each class as before."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from alzmri.classes import CLASSES
from alzmri.data.label_permutation import permuted

subjects_drawn = st.lists(
    st.tuples(st.sampled_from(CLASSES), st.integers(1, 5)), min_size=1, max_size=30
)


@given(subjects_drawn, st.integers(0, 2**32 - 1), st.randoms())
def test_subjects_stay_whole_and_the_order_of_images_does_not_matter(drawn, seed, random):
    labels = [label for label, slices in drawn for _ in range(slices)]
    subjects = [f"P{n}" for n, (_, slices) in enumerate(drawn) for _ in range(slices)]
    given_labels = dict(zip(subjects, permuted(labels, subjects, seed), strict=True))
    assert Counter(given_labels.values()) == Counter(label for label, _ in drawn)
    order = list(range(len(labels)))
    random.shuffle(order)
    again = permuted([labels[i] for i in order], [subjects[i] for i in order], seed)
    assert again == [given_labels[subjects[i]] for i in order]


def test_the_new_label_does_not_depend_on_the_old():
    subjects = [f"P{n}" for n in range(400)]
    labels = [CLASSES[n % 4] for n in range(400)]
    same = sum(a == b for a, b in zip(labels, permuted(labels, subjects, 0), strict=True))
    assert 60 < same < 140  # hypergeometric: mean 100, standard deviation about 8.7
    assert permuted(labels, subjects, 1) != permuted(labels, subjects, 0)


def test_a_subject_of_two_classes_counts_for_the_more_frequent():
    labels = [CLASSES[0], CLASSES[1], CLASSES[1]]
    assert permuted(labels, ["a", "a", "a"], 0) == [CLASSES[1]] * 3

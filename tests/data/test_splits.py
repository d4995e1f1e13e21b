"""Subjects are never divided, every image is used once, and the order of files means nothing."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from alzmri.classes import CLASSES
from alzmri.data.prepared import PARTS
from alzmri.data.splits import assign, permuted
from alzmri.errors import UserError
from alzmri.params import Split

people = st.lists(
    st.tuples(st.sampled_from(CLASSES), st.integers(1, 9)), min_size=12, max_size=60
).map(lambda drawn: [(label, f"p{n}") for n, (label, k) in enumerate(drawn) for _ in range(k)])


def _split(**changes):
    values = {
        "unit": "subject",
        "subjects": "auto",
        "fractions": [0.7, 0.15, 0.15],
        "folds": 0,
        "fold": 0,
        "seed": 0,
    }
    return Split(**{**values, **changes})


def _assigned(images, split):
    labels, groups = zip(*images, strict=True)
    return assign(labels, groups, split)


def _possible(images, split):
    """The same; subjects that cannot be divided so are another test's business."""
    try:
        return _assigned(images, split)
    except UserError:
        reject()


@given(people, st.integers(0, 5), st.sampled_from([0, 3, 5]))
def test_no_person_is_on_two_sides(images, seed, folds):
    parts = _possible(images, _split(seed=seed, folds=folds))
    sides = defaultdict(set)
    for (_, person), part in zip(images, parts, strict=True):
        sides[person].add(part)
    assert all(len(side) == 1 for side in sides.values())
    assert set(parts) == set(PARTS)


@given(people, st.randoms(use_true_random=False))
def test_the_order_of_the_files_changes_nothing(images, rng):
    parts = _possible(images, _split())
    order = list(range(len(images)))
    rng.shuffle(order)
    assert _assigned([images[i] for i in order], _split()) == [parts[i] for i in order]


@given(people)
def test_folds_test_every_image_once(images):
    tested = Counter()
    for fold in range(3):
        parts = _possible(images, _split(folds=3, fold=fold))
        tested.update(i for i, part in enumerate(parts) if part == "test")
    assert tested == Counter(range(len(images)))


def test_folds_share_what_is_left_over():
    images = [(label, f"{label}{n}") for label in CLASSES for n in range(6)]
    sizes = [_assigned(images, _split(folds=5, fold=fold)).count("test") for fold in range(5)]
    assert sorted(sizes) == [4, 5, 5, 5, 5]


def test_what_a_fold_leaves_is_divided_as_training_and_validation_are():
    images = [(label, f"{label}{n}") for label in CLASSES for n in range(40) for _ in range(5)]
    for fold in range(5):
        counts = Counter(_assigned(images, _split(folds=5, fold=fold)))
        assert counts["test"] == 160
        # 0.70 to 0.15, to within a subject of each class.
        assert counts["train"] == pytest.approx(640 * 0.70 / 0.85, abs=20)


def test_a_subject_counts_as_of_the_class_of_most_of_their_slices():
    minor = [CLASSES[2], CLASSES[3]]
    images = [
        (label, f"{major}{n}")
        for major in CLASSES[:2]
        for n in range(20)
        for label in (major, major, major, minor[n % 2])
    ]
    names = [name for _, name in images]
    for seed in range(5):
        sides = dict(zip(names, _assigned(images, _split(seed=seed)), strict=True))
        for major in CLASSES[:2]:
            counts = Counter(part for name, part in sides.items() if name.startswith(major))
            assert [counts[part] for part in PARTS] == [14, 3, 3]


def test_fractions_are_met_within_one_person_per_class():
    images = [(label, f"{label}{n}") for label in CLASSES for n in range(40) for _ in range(5)]
    counts = Counter(
        (label, part) for (label, _), part in zip(images, _assigned(images, _split()), strict=True)
    )
    for label in CLASSES:
        assert [counts[label, part] for part in PARTS] == [140, 30, 30]


@pytest.mark.parametrize(
    ("number", "expected"), [(1, {"train"}), (2, {"train", "test"}), (3, set(PARTS))]
)
def test_a_rare_class_is_trained_first_then_tested(number, expected):
    images = [(CLASSES[0], f"many{n}") for n in range(20)]
    images += [(CLASSES[3], f"few{n}") for n in range(number)]
    parts = _assigned(images, _split())
    assert set(parts[20:]) == expected


def test_two_subjects_of_each_class_are_enough():
    """All classes are in training; validation takes one subject from the test."""
    images = [(label, f"{label}{n}") for label in CLASSES[:3] for n in range(2)]
    parts = _assigned(images, _split(fractions=[0.5, 0.25, 0.25]))
    assert Counter(parts) == {"train": 3, "val": 1, "test": 2}
    assert (
        len({label for (label, _), part in zip(images, parts, strict=True) if part == "train"}) == 3
    )


def test_another_seed_draws_other_people():
    images = [(label, f"{label}{n}") for label in CLASSES for n in range(20)]
    assert _assigned(images, _split(seed=1)) != _assigned(images, _split(seed=2))


def test_too_few_people_is_a_users_mistake():
    with pytest.raises(UserError, match=r"too few subjects \(2\).*val"):
        assign([CLASSES[0]] * 2, ["a", "b"], _split())


@given(people, st.integers(0, 2**32 - 1), st.randoms())
def test_permuted_labels_keep_subjects_whole_and_classes_as_frequent(images, seed, random):
    labels, subjects = zip(*images, strict=True)
    new = dict(zip(subjects, permuted(labels, subjects, seed), strict=True))
    assert Counter(new.values()) == Counter(dict(zip(subjects, labels, strict=True)).values())
    order = list(range(len(labels)))
    random.shuffle(order)
    again = permuted([labels[i] for i in order], [subjects[i] for i in order], seed)
    assert again == [new[subjects[i]] for i in order]


def test_the_permuted_label_does_not_depend_on_the_old():
    subjects = [f"P{n}" for n in range(400)]
    labels = [CLASSES[n % 4] for n in range(400)]
    same = sum(a == b for a, b in zip(labels, permuted(labels, subjects, 0), strict=True))
    assert 60 < same < 140  # hypergeometric: mean 100, standard deviation about 8.7
    assert permuted(labels, subjects, 1) != permuted(labels, subjects, 0)
    assert permuted(CLASSES[:1] + CLASSES[1:2] * 2, ["a"] * 3, 0) == [CLASSES[1]] * 3


def test_another_seed_draws_other_folds():
    images = [(label, f"{label}{n}") for label in CLASSES for n in range(20)]
    one, other = (
        [part == "test" for part in _assigned(images, _split(folds=5, seed=seed))]
        for seed in (1, 2)
    )
    assert one != other

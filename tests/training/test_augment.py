"""Augmentation is the protocol's, and a pure function of seed, epoch and sample."""

import numpy as np

from alzmri.params import Augment
from alzmri.training.augment import Augmenter


def _augmenter(seed=0, **changes):
    return Augmenter(
        Augment(**{"p": 0.2, "shift": 0.05, "scale": 0.05, "rotate": 15, **changes}), seed, 1000
    )


IMAGE = np.random.default_rng(0).integers(1, 255, (64, 64), dtype=np.uint8)


def test_the_same_sample_in_any_order_is_the_same_image():
    forwards = _augmenter(p=1.0)
    images = [forwards(IMAGE, 1, sample) for sample in range(10)]
    backwards = _augmenter(p=1.0)
    again = [backwards(IMAGE, 1, sample) for sample in reversed(range(10))]
    np.testing.assert_array_equal(images, again[::-1])


def test_seed_epoch_and_sample_all_matter():
    images = [
        _augmenter(p=1.0)(IMAGE, 1, 1),
        _augmenter(p=1.0)(IMAGE, 2, 1),
        _augmenter(p=1.0)(IMAGE, 1, 2),
        _augmenter(1, p=1.0)(IMAGE, 1, 1),
    ]
    assert len({image.tobytes() for image in images}) == 4


def test_a_fifth_of_the_slices_changes():
    augment = _augmenter()
    changed = sum((augment(IMAGE, 1, sample) != IMAGE).any() for sample in range(1000))
    # Binomial(1000, 0.2): six standard deviations.
    assert 124 < changed < 276


def test_probability_zero_leaves_the_slice_alone():
    augment = _augmenter(p=0.0)
    assert all((augment(IMAGE, 1, sample) == IMAGE).all() for sample in range(50))


def test_what_comes_in_from_outside_is_black():
    white = np.full((64, 64), 255, np.uint8)
    augment = _augmenter(p=1.0, shift=0.0, scale=0.0, rotate=15)
    corners = [augment(white, 1, sample)[0, 0] for sample in range(50)]
    assert min(corners) == 0


def test_shift_moves_by_no_more_than_its_share():
    dot = np.zeros((101, 101), np.uint8)
    dot[50, 50] = 255
    augment = _augmenter(p=1.0, shift=0.1, scale=0.0, rotate=0)
    places = np.array(
        [np.unravel_index(augment(dot, 1, n).argmax(), dot.shape) for n in range(300)]
    )
    moved = np.abs(places - 50)
    assert moved.max() <= 11
    assert moved.max(axis=0).min() >= 8

"""Augmentation is the protocol's, a pure function of seed, epoch and sample, on every device."""

from functools import partial

import cv2
import numpy as np
import pytest
import torch
from albumentations.augmentations.geometric.functional import create_affine_transformation_matrix
from scipy.stats import ks_2samp

from alzmri.params import Augment
from alzmri.training.batches import read_on_device, read_on_host

SIDE = 64
PROTOCOL = {"p": 0.2, "shift": 0.05, "scale": 0.05, "rotate": 15}


def read(images, device=None, rows=None, seed=0, **changes):
    """The ``rows`` of ``images``, or all, augmented on the host or on ``device``."""
    augment, rng = Augment(**{**PROTOCOL, **changes}), np.random.default_rng(seed)
    if device:
        of_epoch = read_on_device(torch.from_numpy(images).to(device), augment, rng)
    else:
        of_epoch = read_on_host(images, augment, rng)
    result = of_epoch(np.arange(len(images)) if rows is None else np.array(rows))
    assert result.dtype == torch.uint8
    return result.cpu().numpy()


@pytest.fixture(params=["host", "device"])
def augmented(request, device):
    return partial(read, device=device if request.param == "device" else None)


def test_a_slice_is_a_function_of_the_seed_and_the_sample(augmented):
    images = np.random.default_rng(0).integers(1, 255, (40, 32, 32), dtype=np.uint8)
    first = augmented(images, p=1.0)
    np.testing.assert_array_equal(first[[7, 3]], augmented(images, p=1.0, rows=[7, 3]))
    assert (first != augmented(images, p=1.0, seed=1)).any()
    alike = augmented(np.repeat(images[:1], 2, axis=0), p=1.0)
    assert (alike[0] != alike[1]).any()
    np.testing.assert_array_equal(augmented(images, p=0.0), images)


def test_a_fifth_of_the_slices_moves_by_no_more_than_its_share_and_black_comes_in(augmented):
    white = np.full((1000, SIDE, SIDE), 255, np.uint8)
    changed = (augmented(white, rotate=15, shift=0, scale=0)[:, 0, 0] == 0).sum()
    assert 124 < changed < 276  # binomial(1000, 0.2): six standard deviations
    dots = np.zeros((300, 101, 101), np.uint8)
    dots[:, 50, 50] = 255
    moved = augmented(dots, p=1.0, shift=0.1, scale=0.0, rotate=0).reshape(300, -1).argmax(axis=1)
    away = np.abs(np.stack(np.unravel_index(moved, (101, 101))) - 50)
    assert away.max() <= 11
    assert away.max(axis=1).min() >= 8


@pytest.fixture(scope="module")
def measured():
    """``measured(device, **changes)``: where a bar is, how large and how turned, for 3000 draws."""
    bar = np.zeros((SIDE, SIDE), np.uint8)
    bar[20:44, 28:36] = 200
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2

    def measure(device=None, **changes):
        images = read(np.repeat(bar[None], 3000, axis=0), device, **changes)
        mass = images.sum(axis=(1, 2), dtype=float)
        centre_x, centre_y = ((images * axis).sum(axis=(1, 2)) / mass for axis in (x, y))
        across = ((images * x * y).sum(axis=(1, 2)) / mass) - centre_x * centre_y
        return [values.round(2) for values in (centre_x, centre_y, mass, across)]

    return measure


def _furthest(one, other):
    """Kolmogorov and Smirnov's distance; with these seeds 4 points of difference are noticed."""
    pairs = zip(one, other, strict=True)
    return max(ks_2samp(*pair, method="asymp").statistic for pair in pairs)


def test_the_draws_of_a_device_have_the_distribution_of_albumentations(device, measured):
    host = measured()
    assert _furthest(host, measured(device)) < 0.04
    for change in ({"rotate": 30}, {"shift": 0.1}, {"scale": 0.1}, {"p": 0.4}):
        assert _furthest(host, measured(device, **change)) > 0.04, change


def test_one_map_gives_the_image_that_opencv_gives(device):
    """Turn, zoom and shift composed in Albumentations' order, bilinear, black outside."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(1, 255, (SIDE, SIDE), dtype=np.uint8), (0, 0), 2)
    image = cv2.normalize(image, None, 1, 255, cv2.NORM_MINMAX)
    turn, zoom, shift = 11.0, 1.04, (3, -2)
    drawn = iter([np.array([turn]), np.array([zoom]), np.array([shift]) / SIDE])

    class Fixed:
        def random(self, count):
            return np.zeros(count)

        def uniform(self, *_):
            return next(drawn)

    there = torch.from_numpy(image[None]).to(device)
    slices = read_on_device(there, Augment(**PROTOCOL), Fixed())(np.array([0]))
    ours = slices[0].cpu().numpy().astype(int)
    middle = ((SIDE - 1) / 2,) * 2
    matrix = create_affine_transformation_matrix(
        dict(zip("xy", shift, strict=True)), {"x": 0, "y": 0}, {"x": zoom, "y": zoom}, turn, middle
    )
    theirs = cv2.warpAffine(image, matrix[:2], (SIDE, SIDE), flags=cv2.INTER_LINEAR).astype(int)
    assert (theirs == 0).any()
    # OpenCV rounds positions to 1/32 of a pixel.
    assert np.abs(ours - theirs).max() <= 6
    assert np.abs(ours - theirs).mean() < 0.5

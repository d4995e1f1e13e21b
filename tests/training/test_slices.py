"""Augmentation on the device is Albumentations' in another place."""

import cv2
import numpy as np
import pytest
import torch
from albumentations.augmentations.geometric.functional import create_affine_transformation_matrix
from scipy.stats import ks_2samp

from alzmri.data.prepared import Prepared
from alzmri.params import Augment
from alzmri.training.slices import DeviceSlices, HostSlices

SIDE, COPIES = 64, 3000
PROTOCOL = {"p": 0.2, "shift": 0.05, "scale": 0.05, "rotate": 15}


def _copies(image):
    return Prepared(np.repeat(image[None], COPIES, axis=0), (), ())


def _both(where, image, **changes):
    """All copies as each of the two augments them."""
    augment = Augment(**{**PROTOCOL, **changes})
    every = np.arange(COPIES)
    prepared = _copies(image)
    host = HostSlices(prepared, augment, 0)(1, every)
    device = DeviceSlices(prepared, augment, 0, where)(1, every)
    assert device.dtype == torch.uint8
    assert device.shape == host.shape
    return host.numpy(), device.cpu().numpy()


def _measures(images):
    """Of each image with one bar: where its centre is, how large it is, how it is turned."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    mass = images.sum(axis=(1, 2), dtype=float)
    centre_x, centre_y = ((images * axis).sum(axis=(1, 2)) / mass for axis in (x, y))
    across = ((images * x * y).sum(axis=(1, 2)) / mass) - centre_x * centre_y
    return {"x": centre_x, "y": centre_y, "mass": mass, "turn": across}


@pytest.mark.parametrize("p", [0.2, 1.0])
def test_its_draws_have_the_distribution_of_albumentations(device, p):
    """Kolmogorov and Smirnov's test; with these seeds it would notice 4 points of difference."""
    bar = np.zeros((SIDE, SIDE), np.uint8)
    bar[20:44, 28:36] = 200
    host, ours = (_measures(images) for images in _both(device, bar, p=p))
    for name in host:
        assert (
            ks_2samp(host[name].round(2), ours[name].round(2), method="asymp").statistic < 0.04
        ), name


@pytest.mark.parametrize("change", [{"rotate": 30}, {"shift": 0.1}, {"scale": 0.1}, {"p": 0.4}])
def test_the_comparison_would_notice_another_setting(device, change):
    bar = np.zeros((SIDE, SIDE), np.uint8)
    bar[20:44, 28:36] = 200
    host, _ = (_measures(images) for images in _both(device, bar))
    _, ours = (_measures(images) for images in _both(device, bar, **change))
    assert (
        max(ks_2samp(host[n].round(2), ours[n].round(2), method="asymp").statistic for n in host)
        > 0.04
    )


def test_one_map_gives_the_image_that_opencv_gives(device, monkeypatch):
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

    monkeypatch.setattr(np.random, "default_rng", lambda _: Fixed())
    slices = DeviceSlices(Prepared(image[None], (), ()), Augment(**PROTOCOL), 0, device)
    ours = slices(1, np.array([0]))[0].cpu().numpy().astype(int)
    middle = ((SIDE - 1) / 2,) * 2
    matrix = create_affine_transformation_matrix(
        dict(zip("xy", shift, strict=True)), {"x": 0, "y": 0}, {"x": zoom, "y": zoom}, turn, middle
    )
    theirs = cv2.warpAffine(image, matrix[:2], (SIDE, SIDE), flags=cv2.INTER_LINEAR).astype(int)
    assert (theirs == 0).any()
    # OpenCV rounds positions to 1/32 of a pixel.
    assert np.abs(ours - theirs).max() <= 6
    assert np.abs(ours - theirs).mean() < 0.5


def test_a_slice_is_a_function_of_seed_epoch_and_sample(device):
    noise = np.random.default_rng(0).integers(0, 255, (40, 32, 32), dtype=np.uint8)
    prepared = Prepared(noise, (), ())

    def slices(seed=0):
        return DeviceSlices(prepared, Augment(**{**PROTOCOL, "p": 1.0}), seed, device)

    every = np.arange(40)
    first = slices()(1, every)
    assert torch.equal(first[[7, 3]], slices()(1, np.array([7, 3])))
    assert not torch.equal(first, slices()(2, every))
    assert not torch.equal(first, slices(seed=1)(1, every))


def test_what_is_not_augmented_stays_as_it_is(device):
    noise = np.random.default_rng(0).integers(0, 255, (40, 32, 32), dtype=np.uint8)
    slices = DeviceSlices(Prepared(noise, (), ()), Augment(**{**PROTOCOL, "p": 0.0}), 0, device)
    np.testing.assert_array_equal(slices(1, np.arange(40)).cpu().numpy(), noise)

"""How alike slices are, and whether the phantom's subjects are found after every perturbation."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree
from sklearn.metrics import adjusted_rand_score

from alzmri.data import images, similarity, subjects
from alzmri.phantom.simulate import generate

Pixels = NDArray[np.uint8]
SIDE = 16
"""The side of random slices: whitening takes time that grows with its sixth power."""

Perturb = Callable[[Pixels, np.random.Generator], Pixels]


def random(count: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE), np.uint8)


@settings(max_examples=8, deadline=None)
@given(block=st.integers(1, 30), limit=st.sampled_from([0, 10, 10**6]))
def test_the_forest_is_that_of_all_pairs_at_once(block: int, limit: int) -> None:
    slices = random(24) // 2 + random(1, 1) // 3
    slices[5] = slices[4]  # at distance 0, which SciPy takes for no edge
    codes = similarity.encode(slices)
    alike = similarity._correlations(codes, codes).astype(float)
    distances = np.where(alike >= similarity.FLOOR, 2 - alike, 0)
    whole = 2 - minimum_spanning_tree(distances).data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_BLOCK", block)
        patch.setattr(similarity, "_MAX_EDGES", limit)
        links = similarity.forest(similarity.encode(slices))
    assert np.sort(links.correlations) == pytest.approx(np.sort(whole), abs=1e-4)  # rounded codes
    assert links.correlations.max() == pytest.approx(1, abs=1e-3)


def test_correlations_are_the_better_of_both_mirror_images() -> None:
    slices = random(6) // 4 + np.linspace(0, 150, SIDE)[:, None].astype(np.uint8)
    mean, whitening = similarity._whitening(slices)
    own = (similarity._normalised(slices) - mean) @ whitening
    squares = (own / np.linalg.norm(own, axis=1, keepdims=True)).reshape(-1, SIDE, SIDE)
    expected = [[max(np.vdot(a, b), np.vdot(a, b[:, ::-1])) for b in squares] for a in squares]
    codes = similarity.encode(slices)
    assert (codes == codes.round()).all()
    assert similarity._correlations(codes, codes) == pytest.approx(np.array(expected), abs=1e-3)


@settings(max_examples=8, deadline=None)
@given(up=st.sampled_from([1, -1]), left=st.sampled_from([1, -1]), gain=st.floats(0.2, 0.9))
def test_a_flipped_or_darker_copy_is_the_same(up: int, left: int, gain: float) -> None:
    slices = random(12) // 4 + np.linspace(0, 150, SIDE)[:, None].astype(np.uint8)
    copies = (slices[:, ::up, ::left] * gain).round().astype(np.uint8)
    codes = similarity.encode(np.concatenate([copies, slices]))
    indices, correlations, alike = similarity.nearest(codes[:12], codes[12:], alike=0.9)
    assert indices.tolist() == list(range(12))
    assert correlations.min() > 0.9
    assert (alike == 1).all()


def test_nearest_is_that_of_all_pairs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = similarity.encode(random(16))
    queries, references = codes[:7], codes[7:]
    whole = similarity._correlations(queries, references)
    monkeypatch.setattr(similarity, "_BLOCK", 2)
    indices, correlations, alike = similarity.nearest(queries, references, alike=0.1)
    assert indices.dtype == np.int64
    assert indices.tolist() == whole.argmax(axis=1).tolist()
    assert correlations == pytest.approx(whole.max(axis=1), abs=1e-5)
    assert alike.tolist() == (whole >= 0.1).sum(axis=1).tolist()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_or_flat_slices(count: int) -> None:
    assert len(similarity.forest(similarity.encode(random(count))).first) <= max(0, count - 1)
    flat = np.full((count, SIDE, SIDE), 7, np.uint8)
    assert not similarity.encode(flat).any()
    codes = similarity.encode(np.concatenate([random(2), flat]))
    indices, correlations, alike = similarity.nearest(codes[:2], codes[2:], alike=0.1)
    assert (indices >= 0).all() == bool(count)
    assert not correlations.any()
    assert not alike.any()


def jpeg(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    quality = int(draw.integers(60, 96))
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)


def resized(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    width, height = draw.uniform(0.5, 1.5, 2)
    fx, fy = float(width), float(height)
    return np.asarray(cv2.resize(pixels, None, fx=fx, fy=fy), np.uint8)


def padded(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    return np.pad(pixels, draw.integers(0, 40, (2, 2)).tolist())


def relit(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    lit = pixels * draw.uniform(0.7, 1.3) + draw.uniform(-30, 30)
    return np.asarray(np.clip(lit.round(), 0, 255), np.uint8)


def flipped(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    turned = np.rot90(pixels, int(draw.integers(4)))
    return np.ascontiguousarray(turned[:, :: 1 if draw.random() < 0.5 else -1])


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Pixels], list[str]]:
    """16 simulated subjects, 6 slices each, and who is who."""
    directory: Path = tmp_path_factory.mktemp("phantom") / "phantom"
    generate(directory, subjects=4, slices=6, seed=1, difficulty=0.1)
    files = sorted(directory.rglob("*.jpg"))
    return [images.decode(file).pixels for file in files], [file.name[:-7] for file in files]


@pytest.mark.parametrize(
    "kinds",
    [(), (jpeg,), (resized,), (flipped,), (relit, padded, resized, jpeg)],
    ids=lambda kinds: "+".join(kind.__name__ for kind in kinds) or "none",
)
def test_the_phantoms_subjects_are_found(
    phantom: tuple[list[Pixels], list[str]], kinds: tuple[Perturb, ...]
) -> None:
    pixels, truth = phantom
    draw = np.random.default_rng(5)
    thumbnails = []
    for one in pixels:
        for kind in kinds:
            one = kind(one, draw)
        thumbnails.append(images.thumbnail(one))
    links = similarity.forest(similarity.encode(np.array(thumbnails)))
    found = subjects.from_pixels(links, [f"{number:064x}" for number in range(len(pixels))])
    assert adjusted_rand_score(truth, found.names) == 1

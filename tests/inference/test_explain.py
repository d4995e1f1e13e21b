"""Maps follow the model, the slice and the class."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from alzmri.inference.explain import INDEX, grad_cam, overlay, write
from alzmri.inference.inputs import InputSlice
from alzmri.inference.predictor import PredictionReport, Predictor
from alzmri.models.architectures import ARCHITECTURES, build
from alzmri.models.forward import normalise
from alzmri.ood.features import WithFeatures

from .conftest import CARD


def _likeness(first, second):
    """Mean rank correlation of maps, -1 to 1; a map without evidence is like no other."""
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(first, second, strict=True)]
    return np.mean([spearmanr(a, b).statistic if a.any() and b.any() else 0 for a, b in pairs])


def test_a_map_depends_on_what_the_model_has_learnt(predictor, prepared):
    """Adebayo et al., "Sanity checks for saliency maps" (2018): weights anew, maps anew."""
    indices = prepared.indices("test")
    slices, classes = prepared.images[indices], prepared.labels[indices]
    maps = grad_cam(predictor, slices, classes)
    assert (maps.shape, maps.dtype) == (slices.shape, np.float32)
    assert (maps >= 0).all()
    assert np.array_equal(maps, grad_cam(predictor, slices, classes))
    torch.manual_seed(1)
    random = replace(predictor, model=WithFeatures(build(**predictor.card.architecture)))
    assert _likeness(maps, grad_cam(random, slices, classes)) < 0.5
    assert _likeness(maps, grad_cam(predictor, slices, (classes + 1) % 4)) < 0.9
    # The discs differ around the centre; the corners are noise in every class.
    centre, corners = maps[-1, 8:24, 8:24], np.delete(maps[-1], slice(4, 28), axis=1)
    assert centre.mean() > corners.mean()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_features_and_maps(prepared, name):
    model = build(name, classes=4, image_size=32, dropout=0.5)
    other = Predictor(WithFeatures(model), CARD, None)
    slices = prepared.images[:3]
    with torch.inference_mode():
        logits, features = other.model(torch.from_numpy(slices))
        torch.testing.assert_close(logits, model(normalise(torch.from_numpy(slices))))
    assert features.ndim == 2
    assert features.std() > 0
    assert grad_cam(other, slices, np.array([0, 1, 2])).shape == slices.shape


def test_an_overlay_is_the_slice_without_evidence_and_stronger_evidence_has_its_own_colour():
    picture = np.full((32, 32), 100, np.uint8)
    evidence = np.zeros((32, 32), np.float32)
    evidence[:, 8:16], evidence[:, 16:24], evidence[:, 24:] = 1, 2, 4
    plain, marked = overlay(picture, 0 * evidence), overlay(picture, evidence)
    assert plain.shape == (256, 256, 3)
    assert (plain[:, :, 0] == plain[:, :, 2]).all()
    shown = [tuple(marked[128, column].tolist()) for column in (32, 96, 160, 224)]
    assert shown[0] == tuple(plain[128, 32].tolist())
    assert len(set(shown)) == 4


def test_pictures_are_of_the_class_that_is_asked_for_and_the_index_says_which(
    predictor, prepared, tmp_path
):
    rows = prepared.indices("test")[::4]
    pixels, pad = prepared.images[rows], [InputSlice("/s/a b.png", None, None, prepared.images[0])]
    slices = [replace(pad[0], source=f"/s/{n} x.png", pixels=one) for n, one in enumerate(pixels)]
    report = PredictionReport(predictor, slices, predictor.predict(pixels), [])
    best = report.prediction.probabilities.argmax(axis=1)
    assert len(set(best)) > 1
    for target in (None, 2):
        folder = tmp_path / str(target)
        assert write(folder, report, target) == len(slices)
        with (folder / INDEX).open(newline="") as handle:
            index = list(csv.DictReader(handle))
        labels = best if target is None else np.full_like(best, target)
        assert [row["class"] for row in index] == [CARD.classes[label] for label in labels]
        for number, (row, label) in enumerate(zip(index, labels, strict=True)):
            chance = report.prediction.probabilities[number, label]
            assert row["probability"] == f"{chance:.6f}"
            inside = report.prediction.in_distribution[number]
            assert row["distribution"] == f"{'in' if inside else 'out of'} distribution"
            expected = grad_cam(predictor, pixels[number : number + 1], labels[number : number + 1])
            np.testing.assert_allclose(np.load(folder / row["map"]), expected[0], atol=1e-5)
            assert Image.open(folder / row["overlay"]).size == (256, 256)

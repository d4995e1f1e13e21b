"""A slice becomes what the model was trained on, as its card says, or is refused."""

from dataclasses import replace

import numpy as np
import pytest

from alzmri.data import images
from alzmri.errors import UserError
from alzmri.inference.predictor import Preprocessing
from alzmri.models.forward import MEAN, STD
from alzmri.models.saved import Card


@pytest.fixture
def card():
    return Card(
        architecture={"image_size": 32},
        classes=["a", "b"],
        preprocessing={"fit": "stretch", "channels": 1, "mean": MEAN, "std": STD},
        parameters={},
        training_subjects=[],
        data_sha256="",
        temperature=1.0,
        versions={},
    )


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_slice_is_fitted_as_in_training(card, fit):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48), np.uint8)
    own = Preprocessing.of(replace(card, preprocessing={**card.preprocessing, "fit": fit}))
    np.testing.assert_array_equal(own(pixels), images.fit(pixels, 32, fit))


@pytest.mark.parametrize(
    "change", [{"mean": 0.4}, {"std": 1.0}, {"channels": 3}, {"fit": "crop"}, {"window": 7}]
)
def test_another_preprocessing_is_refused(card, change):
    with pytest.raises(UserError, match="trained with another preprocessing"):
        Preprocessing.of(replace(card, preprocessing={**card.preprocessing, **change}))

"""A model is validated when it is loaded: no value that somebody changed gives an answer."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from alzmri.errors import UserError
from alzmri.inference.predictor import CPU, Predictor
from alzmri.models import saved
from alzmri.models.architectures import build
from alzmri.models.forward import MEAN, STD
from alzmri.ood import features
from alzmri.ood.detector import Detector

from .conftest import CARD, SHAPE

NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with a LeNet and its detector."""
    folder = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    model = build(**SHAPE)
    saved.save(folder, model.state_dict(), CARD)
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32), np.uint8)
    _, found = features.run(features.WithFeatures(model), images, np.arange(40), CPU)
    whose, labels = [f"subject {number}" for number in range(10)], np.zeros(10, int)
    Detector.fit(found[:30], found[30:], whose, labels, saved.digest(folder)).save(folder)
    Predictor.load(folder)
    return folder


CARDS = {
    "temperature 0": {"temperature": 0},
    "temperature below 0": {"temperature": -1},
    "temperature tiny": {"temperature": 1e-300},
    "temperature huge": {"temperature": 1e300},
    "temperature infinite": {"temperature": INF},
    "temperature no number": {"temperature": NAN},
    "temperature a text": {"temperature": "warm"},
    "temperature a list": {"temperature": [1.5]},
    "classes fewer": {"classes": ["a", "b", "c"]},
    "classes more": {"classes": ["a", "b", "c", "d", "e"]},
    "classes none": {"classes": []},
    "classes the same": {"classes": ["a", "a", "a", "a"]},
    "classes twice": {"classes": ["a", "b", "c", "a"]},
    "classes without a name": {"classes": ["a", "b", "c", ""]},
    "classes markup": {"classes": ["[/]", "b", "c", "d"]},
    "classes on two lines": {"classes": ["a\nb", "b", "c", "d"]},
    "classes long": {"classes": ["a" * 41, "b", "c", "d"]},
    "classes numbers": {"classes": [0, 1, 2, 3]},
    "outputs fewer": {"architecture": {**SHAPE, "classes": 3}},
    "outputs many": {"architecture": {**SHAPE, "classes": 10**9}},
    "outputs many, named": {
        "architecture": {**SHAPE, "classes": 5}, "classes": ["a", "b", "c", "d", "e"],
    },
    "image another": {"architecture": {**SHAPE, "image_size": 64}},
    "image huge": {"architecture": {**SHAPE, "image_size": 10**6}},
    "image below 0": {"architecture": {**SHAPE, "image_size": -32}},
    "dropout above 1": {"architecture": {**SHAPE, "dropout": 2}},
    "dropout no number": {"architecture": {**SHAPE, "dropout": NAN}},
    "architecture unknown": {"architecture": {**SHAPE, "name": "vgg"}},
    "architecture with more": {"architecture": {**SHAPE, "depth": 50}},
    "architecture empty": {"architecture": {}},
    "mean another": {"preprocessing": {"fit": "pad", "channels": 1, "mean": 0.4, "std": STD}},
    "fit unknown": {"preprocessing": {"fit": "crop", "channels": 1, "mean": MEAN, "std": STD}},
    "parameters empty": {"parameters": {}},
    "split unknown": {"parameters": {"data": {"source": "x"}, "split": {"unit": "nonsense"}}},
    "parameters a list": {"parameters": {"data": ["phantom"], "split": []}},
}  # fmt: skip
DETECTOR = {
    "threshold infinite": {"threshold": INF},
    "threshold no number": {"threshold": NAN},
    "threshold 0": {"threshold": 0},
    "threshold below 0": {"threshold": -1},
    "residual no number": {"residual": NAN},
    "residual infinite": {"residual": INF},
    "variances 0": {"variances": lambda found: 0 * found},
    "variances infinite": {"variances": lambda found: INF + found},
    "variances too few": {"variances": lambda found: found[:-1]},
    "mean no number": {"mean": lambda found: np.where(np.arange(len(found)) == 7, NAN, found)},
    "directions no number": {"directions": lambda found: NAN * found},
    "directions long": {"directions": lambda found: 1000 * found},
    "features fewer": {
        "mean": lambda found: found[:9], "directions": np.eye(9),
        "variances": np.ones(9),
    },
}  # fmt: skip
WEIGHTS = {"weights no number": NAN, "weights infinite": INF}


def _card(folder, changes):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _detector(folder, changes):
    path = folder / "ood.safetensors"
    tensors = load_file(path)
    for name, change in changes.items():
        found = change(tensors[name]) if callable(change) else np.asarray(change)
        tensors[name] = np.ascontiguousarray(found, tensors[name].dtype)
    save_file(tensors, path, {"weights": saved.digest(folder)})


def _weights(folder, value):
    """And the detector says that they are its own."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).flat[0] = value
    save_file(tensors, path)
    _detector(folder, {})


CASES = [
    *((name, _card, changes) for name, changes in CARDS.items()),
    *((name, _detector, changes) for name, changes in DETECTOR.items()),
    *((name, _weights, value) for name, value in WEIGHTS.items()),
]


@pytest.mark.parametrize(
    ("tamper", "changes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_tampered_model_is_refused_in_one_sentence(good, tmp_path, tamper, changes):
    folder = tmp_path / "models"
    shutil.copytree(good, folder)
    tamper(folder, changes)
    with pytest.raises(UserError) as refused:
        Predictor.load(folder)
    assert "\n" not in str(refused.value)
    if tamper is _weights:  # by those, too, who evaluate a model or start a training from it
        with pytest.raises(UserError, match=r"model\.safetensors: .* NaN or infinite values"):
            saved.load(folder)


def test_weights_of_another_type_are_refused(good, tmp_path):
    """Loading would convert them, and the model would predict anything."""
    shutil.copytree(good, tmp_path / "models")
    path = tmp_path / "models/model.safetensors"
    save_file({name: of.astype(np.int8) for name, of in load_file(path).items()}, path)
    with pytest.raises(UserError, match=r"has the type torch\.int8\): run"):
        saved.load(tmp_path / "models")

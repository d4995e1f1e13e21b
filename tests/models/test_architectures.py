"""The models fit every image size, and are what their docstrings say."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from alzmri.models.architectures import ARCHITECTURES, STRIDE_AND_PADDING, AlexNet, build
from alzmri.models.forward import normalise, predict, probabilities

SIZES = tuple(STRIDE_AND_PADDING)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_come_out_and_the_tables_of_docstrings_have_the_shape_of_every_layer(name, size):
    with torch.device("meta"):  # without drawing 57 million weights
        model = build(name, classes=3, image_size=size, dropout=0.5)
        features, seen = torch.zeros(2, 1, size, size), []
        for layer in model.features:
            features = layer(features)
            if not isinstance(layer, nn.ReLU):
                seen.append((features.shape[1], features.shape[2]))
        assert model(torch.zeros(2, 1, size, size)).shape == (2, 3)
    layers = re.findall(r"^ *(?:conv|max-pool) .*$", type(model).__doc__, re.MULTILINE)
    documented = [[int(number) for number in line.split()[-7:]] for line in layers]
    if name != "resnet18":
        assert seen == [(row[0], row[1 + SIZES.index(size)]) for row in documented]


def test_alexnet_is_alexnet():
    with torch.device("meta"):
        model = AlexNet(classes=4, image_size=224, dropout=0.5)
    kernels = [m.kernel_size[0] for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [11, 5, 3, 3, 3]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 5
    linear = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]
    assert linear == [4096, 4096, 4]
    # 57.0 million: Krizhevsky's 61.1 less 996 classes (4.1) and two colours (0.05).
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 57.0


def test_resnet18_is_resnet18():
    with torch.device("meta"):
        model = build("resnet18", classes=4, image_size=224, dropout=0.5)
    kernels = [m.kernel_size[0] for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {size: kernels.count(size) for size in kernels} == {7: 1, 3: 16, 1: 3}
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 20
    # Torchvision's 11,689,512 less 996 classes and the first convolution of two colours.
    assert sum(p.numel() for p in model.parameters()) == 11_689_512 - 996 * 513 - 2 * 64 * 49


def test_the_classifiers_are_linear_layers_with_relu_and_the_dropout_that_is_asked_for():
    layers = {
        "alexnet": "Dropout Linear ReLU Dropout Linear ReLU Linear",
        "lenet": "Linear ReLU Dropout Linear ReLU Dropout Linear",
        "resnet18": "Dropout Linear",
    }
    for name, expected in layers.items():
        with torch.device("meta"):
            classifier = build(name, classes=4, image_size=32, dropout=0.3).classifier
        assert " ".join(type(layer).__name__ for layer in classifier) == expected
        assert {m.p for m in classifier if isinstance(m, nn.Dropout)} == {0.3}


def test_pixels_become_minus_one_to_one_and_probabilities_survive_large_logits():
    images = torch.tensor([[[0, 255], [51, 204]]], dtype=torch.uint8)
    expected = torch.tensor([[[[-1.0, 1.0], [-0.6, 0.6]]]])
    torch.testing.assert_close(normalise(images), expected)
    assert images.dtype == torch.uint8
    result = probabilities(np.array([[1e4, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(result, [[1, 0], [0.5, 0.5]])


def test_prediction_of_a_slice_does_not_depend_on_its_batch():
    model = build("lenet", classes=4, image_size=32, dropout=0.5)
    images = np.random.default_rng(0).integers(0, 255, (300, 32, 32), dtype=np.uint8)
    everything = predict(model, images, np.arange(300), torch.device("cpu"))
    alone = predict(model, images, np.array([299]), torch.device("cpu"))
    np.testing.assert_allclose(alone[0], everything[299], atol=1e-6)


def test_every_convolution_is_followed_by_relu():
    """Without, the feature maps would be linear in the slice but for the pooling."""
    block = "Conv2d BatchNorm2d ReLU"
    layers = {
        "alexnet": f"{block} MaxPool2d {block} MaxPool2d {block} {block} {block} MaxPool2d",
        "lenet": "Conv2d ReLU MaxPool2d Conv2d ReLU MaxPool2d",
    }
    for name, expected in layers.items():
        with torch.device("meta"):
            features = build(name, classes=4, image_size=32, dropout=0.3).features
        leaves = [layer for layer in features.modules() if not [*layer.children()]]
        assert " ".join(type(layer).__name__ for layer in leaves) == expected


@pytest.mark.parametrize("place", [2, 3])
def test_a_residual_block_adds_its_input(place):
    """Whose convolutions are switched off; at place 3 the shortcut halves the side."""
    torch.manual_seed(0)
    block = build("resnet18", classes=4, image_size=32, dropout=0.5).features[place][0].eval()
    *_, last = block.convolutions
    torch.nn.init.zeros_(last.weight)
    maps = torch.randn(2, 64, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(block(maps), torch.relu(block.shortcut(maps)))
        assert block(maps).any()

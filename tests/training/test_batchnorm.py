"""The twin that the loop trains computes what the model computes, and its gradients."""

import pytest
import torch
import torch.nn.functional as F

from alzmri.models import build
from alzmri.training.batchnorm import normalising

CPU = torch.device("cpu")


def _loss_and_gradients(network, model, precision):
    slices = torch.rand(16, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = network(slices)
    loss = F.cross_entropy(logits.float(), torch.arange(16) % 4)
    loss.backward()
    return loss.item(), {name: value.grad.clone() for name, value in model.named_parameters()}


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = build("alexnet", classes=4, image_size=64, dropout=0.0)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                # Falling normalisations too, and of every offset.
                module.weight.normal_()
                module.bias.normal_()
    return made.to(memory_format=torch.channels_last).train()


def test_pooling_first_changes_neither_the_loss_nor_a_gradient(model):
    twin = normalising(model, CPU, several=False).train()
    loss, gradients = _loss_and_gradients(twin, model, "fp32")
    expected_loss, expected = _loss_and_gradients(model, model, "fp32")
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        away = (gradient - expected[name]).norm() / expected[name].norm()
        assert away < 1e-3, name


def test_in_bfloat16_it_is_as_near_to_the_exact_gradient(model):
    """To the bit it cannot be: values that are equal once rounded share a window's maximum."""
    twin = normalising(model, CPU, several=False).train()
    _, exact = _loss_and_gradients(model, model, "fp32")

    def away(network):
        _, rounded = _loss_and_gradients(network, model, "bf16")
        return sum(
            float((rounded[name] - value).norm() / value.norm()) for name, value in exact.items()
        )

    assert away(twin) < 1.1 * away(model)


def test_the_statistics_for_validation_are_left_to_it(model):
    twin = normalising(model, CPU, several=False).train()
    before = {name: value.clone() for name, value in model.named_buffers() if "features.0" in name}
    _loss_and_gradients(twin, model, "fp32")
    for name, value in before.items():
        assert torch.equal(model.get_buffer(name), value)


def test_a_model_without_normalisation_is_left_as_it_is():
    model = build("lenet", classes=4, image_size=64, dropout=0.0).train()
    twin = normalising(model, CPU, several=False).train()
    assert str(twin) == str(model)
    loss, _ = _loss_and_gradients(twin, model, "fp32")
    assert loss == _loss_and_gradients(model, model, "fp32")[0]

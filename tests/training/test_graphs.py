"""What the loop trains computes on every device what the model computes, and its gradients."""

import pytest
import torch
import torch.nn.functional as F

from alzmri.training.loop import Run


def _loss_and_gradients(network, model, images):
    model.zero_grad()
    loss = F.cross_entropy(network(images), torch.arange(len(images), device=images.device) % 4)
    loss.backward()
    return loss.item(), {name: value.grad.clone() for name, value in model.named_parameters()}


def test_batch_after_batch_also_of_another_size(prepared, make_params, device):
    params = make_params(model={"name": "alexnet", "dropout": 0}, data={"image_size": 32})
    run = Run.start(prepared, params, device)
    run.model.train()
    run.replica.train()
    for size in (16, 16, 7, 16):
        images = torch.randn(size, 1, 32, 32, device=device)
        loss, gradients = _loss_and_gradients(run.replica, run.model, images)
        expected_loss, expected = _loss_and_gradients(run.model, run.model, images)
        assert loss == pytest.approx(expected_loss, rel=1e-4)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            away = (gradient - expected[name]).norm() / expected[name].norm()
            assert away < 1e-2, name
        run.optimizer.step()

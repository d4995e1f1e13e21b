"""Batch normalisation over a batch that several processes hold."""

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def over_all_processes(model: nn.Module, device: torch.device) -> nn.Module:
    """A twin of ``model`` with the same parameters, normalising by the whole batch's statistics.

    torch's own SyncBatchNorm does so on GPUs only.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin: nn.Module = copy.deepcopy(model, shared)
    if device.type == "cuda":
        twin = nn.SyncBatchNorm.convert_sync_batchnorm(twin)
    for module in twin.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _GlobalBatchNorm2d
    return twin


class _GlobalBatchNorm2d(nn.BatchNorm2d):
    """For training only. The running statistics stay as they are: validation estimates its own."""

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.eps
        )
        return output


class _Normalise(torch.autograd.Function):
    """Ioffe and Szegedy, "Batch Normalization" (2015), with sums over all processes.

    The passes over the images are torch's own kernels for normalisation with given statistics.
    What those leave out of the gradient is that the statistics depend on the images.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        # Unused running statistics: their type is that of the result, and bfloat16 is too coarse.
        running = torch.zeros_like(weight), torch.ones_like(weight)
        mean, variance = torch.batch_norm_update_stats(images, *running, 0.0)
        count = images.numel() / images.shape[1]
        sums = torch.stack((mean, variance + mean.square(), torch.ones_like(mean))) * count
        dist.all_reduce(sums)
        mean, square = sums[:2] / sums[2]
        variance = square - mean.square()
        ctx.save_for_backward(images, weight, mean, variance, sums[2])
        ctx.eps = eps
        output, _, _ = torch.native_batch_norm(
            images, weight, bias, mean, variance, False, 0.0, eps
        )
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        images, weight, mean, variance, count = ctx.saved_tensors
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0],
            images,
            weight,
            mean,
            variance,
            None,
            None,
            False,
            ctx.eps,
            [False, True, True],
        )
        sums = torch.stack((of_weight, of_bias))
        dist.all_reduce(sums)
        through_weight, through_bias = sums / count
        inverse = (variance + ctx.eps).rsqrt()
        factor = weight * inverse
        slope = -factor * inverse * through_weight
        offset = -factor * through_bias - slope * mean
        factor, slope, offset = (
            values.to(images.dtype).view(1, -1, 1, 1) for values in (factor, slope, offset)
        )
        # Two passes; torch's kernel for the gradient of given statistics is a third one.
        gradient = torch.addcmul(offset, images, slope).addcmul_(gradients[0], factor)
        return gradient, of_weight, of_bias, None

"""Batch normalisation as the loop computes it: after pooling, over the batch of all processes."""

import copy
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def normalising(model: nn.Module, device: torch.device, *, several: bool) -> nn.Module:
    """A twin of ``model`` with the same parameters, for training only.

    Running statistics are not its concern: validation estimates its own.

    Args:
        model: its ``features`` are blocks of convolution, normalisation and ReLU, some with
            max-pooling after them, or have no normalisation.
        device: a GPU has faster kernels of its own for all this.
        several: whether to normalise by the statistics of the batch that all processes hold
            together; torch's own SyncBatchNorm does so on GPUs only.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin: nn.Module = copy.deepcopy(model, shared)
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(twin) if several else twin
    features = twin.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    for place, block in enumerate(features):
        if not (isinstance(block, nn.Sequential) and isinstance(block[1], nn.BatchNorm2d)):
            continue
        pool = features[place + 1] if place + 1 < len(features) else None
        if not isinstance(pool, nn.MaxPool2d):
            pool = None
        if pool or several:
            block[1] = _Normalisation(block[1], pool, several)
        if pool:
            features[place + 1] = nn.Identity()
    return twin


class _Normalisation(nn.Module):
    """Max-pooling, where there is one, and normalisation, in this order."""

    def __init__(self, norm: nn.BatchNorm2d, pool: nn.MaxPool2d | None, several: bool) -> None:
        super().__init__()
        self.norm, self.pool, self.several = norm, pool, several

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            images, self.norm.weight, self.norm.bias, self.norm.eps, self.pool, self.several
        )
        return output


class _Normalise(torch.autograd.Function):
    """Ioffe and Szegedy, "Batch Normalization" (2015).

    The maximum of normalised values is the normalised maximum, or minimum where the weight is
    negative: with the pooling first, normalisation and ReLU have a quarter of the values to go
    through. The statistics are of all values.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        pool: nn.MaxPool2d | None,
        several: bool,
    ) -> Tensor:
        # Unused running statistics: their type is that of the result, and bfloat16 is too coarse.
        running = torch.zeros_like(weight), torch.ones_like(weight)
        mean, variance = torch.batch_norm_update_stats(images, *running, 0.0)
        count = None
        if several:
            mine = images.numel() / images.shape[1]
            sums = torch.stack((mean, variance + mean.square(), torch.ones_like(mean))) * mine
            dist.all_reduce(sums)
            mean, square = sums[:2] / sums[2]
            variance, count = square - mean.square(), sums[2]
        kept, where = _extremes(images, weight, pool) if pool else (images, None)
        ctx.save_for_backward(images, kept, where, weight, mean, variance, count)
        ctx.eps, ctx.pool = eps, pool
        output, _, _ = torch.native_batch_norm(kept, weight, bias, mean, variance, False, 0.0, eps)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, kept, where, weight, mean, variance, count = ctx.saved_tensors
        (of_kept,), pool, eps = gradients, ctx.pool, ctx.eps
        gradient = of_kept
        if pool:
            sizes = pool.kernel_size, pool.stride, pool.padding, pool.dilation
            gradient = torch.ops.aten.max_pool2d_with_indices_backward(
                of_kept, images, *sizes, pool.ceil_mode, where
            )
        backward = torch.ops.aten.native_batch_norm_backward
        inverse = (variance + eps).rsqrt()
        if count is None:
            statistics = None, None, mean, inverse
            of_all = backward(gradient, images, weight, *statistics, True, eps, [True] * 3)
            return *of_all, None, None, None
        statistics = mean, variance, None, None
        of_weight, of_bias = backward(
            of_kept, kept, weight, *statistics, False, eps, [False, True, True]
        )[1:]
        # What torch's kernel for given statistics leaves out: that they depend on the images.
        sums = torch.stack((of_weight, of_bias))
        dist.all_reduce(sums)
        through_weight, through_bias = sums / count
        factor = weight * inverse
        slope = -factor * inverse * through_weight
        offset = -factor * through_bias - slope * mean
        factor, slope, offset = (
            values.to(images.dtype).view(1, -1, 1, 1) for values in (factor, slope, offset)
        )
        of_images = torch.addcmul(offset, images, slope).addcmul_(gradient, factor)
        return of_images, of_weight, of_bias, None, None, None


def _extremes(images: Tensor, weight: Tensor, pool: nn.MaxPool2d) -> tuple[Tensor, Tensor]:
    """What normalisation with ``weight`` makes the largest under each window, and its indices."""
    falling = bool((weight < 0).any())
    if falling:
        sign = torch.where(weight < 0, -1.0, 1.0).to(images.dtype).view(1, -1, 1, 1)
        images = images * sign
    kept, where = F.max_pool2d(
        images,
        pool.kernel_size,
        pool.stride,
        pool.padding,
        pool.dilation,
        pool.ceil_mode,
        return_indices=True,
    )
    return (kept * sign if falling else kept), where

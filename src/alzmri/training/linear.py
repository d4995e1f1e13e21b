"""Large linear layers whose batch several processes hold: they exchange inputs, not gradients."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class GatheredLinear(nn.Linear):
    """Its weights' gradient is that of the whole batch: nothing is left to sum."""

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias
        )
        return output


def gather_inputs(model: nn.Module, batch_size: int) -> None:
    """Make those linear layers of ``model`` gather their inputs for which that moves less.

    After Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014): of
    AlexNet's 58 million weights 54 are here, and a batch of 128 is a tenth of that at most.

    Args:
        model: its linear layers are changed in place; they keep their parameters.
        batch_size: slices in a step, of all processes.
    """
    for module in model.modules():
        if type(module) is not nn.Linear:
            continue
        if module.weight.numel() > batch_size * (module.in_features + module.out_features):
            module.__class__ = GatheredLinear


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        output = F.linear(inputs, weight, bias)
        # As autocast had it.
        ctx.save_for_backward(inputs.to(output.dtype), weight)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs, weight = ctx.saved_tensors
        (gradient,) = gradients
        all_inputs, all_gradients = _gathered(inputs, gradient)
        return (
            gradient @ weight.to(gradient.dtype),
            (all_gradients.t() @ all_inputs).to(weight.dtype),
            all_gradients.sum(0, dtype=weight.dtype),
        )


def _gathered(*mine: Tensor) -> tuple[Tensor, ...]:
    """The rows ``[n, …]`` of all processes, filled up with zeros where one has fewer."""
    most = torch.tensor(len(mine[0]), device=mine[0].device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    gathered = []
    for rows in mine:
        filled = F.pad(rows, (0, 0, 0, int(most) - len(rows))).contiguous()
        # As bytes: gloo does not know every type.
        parts = filled.new_empty((dist.get_world_size() * len(filled), filled.shape[1]))
        dist.all_gather_into_tensor(parts.view(torch.uint8), filled.view(torch.uint8))
        gathered.append(parts)
    return tuple(gathered)

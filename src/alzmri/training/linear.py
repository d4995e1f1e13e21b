"""Large linear layers whose units several processes share out: they exchange slices, not weights.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class SplitLinear(nn.Linear):
    """A layer of which this process has some units, and computes them for all processes' slices.

    ``weight`` and ``bias`` are its rows of the whole layer's, in the same memory; their gradients
    are of the whole batch. Input and output are those of this process's own slices.
    """

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.out_features
        )
        return output


def split_layers(model: nn.Module, batch_size: int) -> None:
    """Share out those linear layers of ``model`` for which that moves less than their gradients.

    Of AlexNet's 58 million weights 54 are in them, and a batch of 128 is a tenth of that at most.

    Args:
        model: its linear layers are changed in place.
        batch_size: slices in a step, of all processes.
    """
    for module in model.modules():
        if type(module) is not nn.Linear:
            continue
        moved = batch_size * (module.in_features + module.out_features)
        if module.weight.numel() > moved and module.out_features >= dist.get_world_size():
            mine = rows(module.out_features, dist.get_rank())
            module.weight = nn.Parameter(module.weight.detach()[mine])
            module.bias = nn.Parameter(module.bias.detach()[mine])
            module.__class__ = SplitLinear


def rows(units: int, rank: int) -> slice:
    """Which of ``units`` process ``rank`` has."""
    size = dist.get_world_size()
    return slice(units * rank // size, units * (rank + 1) // size)


def complete(whole: Tensor) -> None:
    """Give every process all rows of ``whole``, of which each has its own."""
    for rank in range(dist.get_world_size()):
        dist.broadcast(whole[rows(len(whole), rank)], rank)


class _Linear(torch.autograd.Function):
    """What is gathered has for every process as many rows as the one with the most slices."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, units: int) -> Tensor:
        most = torch.tensor(len(inputs), device=inputs.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        ctx.most, ctx.shares = int(most), _shares(units)
        processes = len(ctx.shares)
        filled = _filled(inputs, ctx.most)
        all_inputs = _exchanged([filled] * processes, [filled.numel()] * processes)
        all_inputs = all_inputs.view(-1, inputs.shape[1])
        mine = F.linear(all_inputs, weight, bias)
        # As autocast had it.
        ctx.save_for_backward(all_inputs.to(mine.dtype), weight)
        received = [ctx.most * share for share in ctx.shares]
        parts = _exchanged(mine.split(ctx.most), received).split(received)
        return torch.cat([part.view(ctx.most, -1)[: len(inputs)] for part in parts], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        all_inputs, weight = ctx.saved_tensors
        (gradient,) = gradients
        processes, most = len(ctx.shares), ctx.most
        columns = _filled(gradient, most).split(ctx.shares, dim=1)
        mine = _exchanged(columns, [most * len(weight)] * processes).view(-1, len(weight))
        of_all_inputs = mine @ weight.to(mine.dtype)
        parts = _exchanged(of_all_inputs.split(most), [most * weight.shape[1]] * processes)
        of_inputs = parts.view(processes, most, -1)[:, : len(gradient)].sum(0)
        of_weight = (mine.t() @ all_inputs).to(weight.dtype)
        return of_inputs, of_weight, mine.sum(0, dtype=weight.dtype), None


def _shares(units: int) -> list[int]:
    """How many of ``units`` each process has."""
    mine = (rows(units, rank) for rank in range(dist.get_world_size()))
    return [each.stop - each.start for each in mine]


def _filled(slices: Tensor, most: int) -> Tensor:
    """``slices`` ``[n, …]`` with zeros below, up to ``most`` of them."""
    return F.pad(slices, (0, 0, 0, most - len(slices)))


def _exchanged(parts: Sequence[Tensor], received: Sequence[int]) -> Tensor:
    """Send each process its one of ``parts``; what they sent, flat, so many values of each."""
    outgoing = torch.cat([part.reshape(-1) for part in parts])
    incoming = outgoing.new_empty(sum(received))
    width = outgoing.element_size()
    # As bytes: gloo does not know every type.
    dist.all_to_all_single(
        incoming.view(torch.uint8),
        outgoing.view(torch.uint8),
        [width * count for count in received],
        [width * part.numel() for part in parts],
    )
    return incoming

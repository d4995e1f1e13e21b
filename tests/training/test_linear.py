"""Large linear layers that several processes share out."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

from alzmri.training.linear import SplitLinear, complete, rows, split_layers
from alzmri.training.processes import in_step

ROWS, PROCESSES = 7, 3
"""One process has a row more than the others."""


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 64), nn.ReLU(inplace=True), nn.Linear(64, 4))


def _gradients(replica, slices, precision):
    inputs = torch.randn((ROWS, 96), generator=torch.Generator().manual_seed(1))[slices]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        replica(inputs).float().square().sum().backward()
    return [parameter.grad for parameter in replica.parameters()]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_gradients_are_those_of_the_whole_batch(tmp_path, precision, tolerance):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = ["--nproc-per-node", str(PROCESSES), __file__, str(tmp_path), precision]
    subprocess.run([*torchrun, *words], check=True, timeout=120)
    expected = _gradients(_model(), slice(None), precision)
    for rank in range(PROCESSES):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def _one_of_several(folder, precision):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = _model()
    split_layers(model, ROWS)
    # The small layer moves less as a gradient.
    assert [type(model[0]), type(model[2])] == [SplitLinear, nn.Linear]
    weight, bias, *others = _gradients(in_step(model), slice(rank, None, PROCESSES), precision)
    wholes = [torch.full((64, 96), torch.nan), torch.full((64,), torch.nan)]
    for mine, whole in zip((weight, bias), wholes, strict=True):
        whole[rows(64, rank)] = mine
        complete(whole)
    torch.save([*wholes, *others], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    _one_of_several(*sys.argv[1:])

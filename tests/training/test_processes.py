"""What processes share comes together again, and a signal ends a training when it should."""

import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from alzmri.models.architectures import build
from alzmri.training import processes
from alzmri.training.processes import Processes, noting_stops


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_was_shared_is_gathered_in_its_order(monkeypatch, size):
    items = np.arange(7)
    everyone = [Processes(rank, size) for rank in range(size)]
    parts = [np.outer(each.share(items), [1.0, 10.0]) for each in everyone]
    monkeypatch.setattr(Processes, "of_each", lambda *_: parts)
    for each, mine in zip(everyone, parts, strict=True):
        np.testing.assert_array_equal(each.gather(mine), np.outer(items, [1.0, 10.0]))


def test_on_gpus_a_step_normalises_over_all_processes_in_layers_of_its_own(monkeypatch):
    """It shares weights and statistics with the model, whose own layers stay as they are."""
    monkeypatch.setattr(processes, "DistributedDataParallel", lambda network, **_: network)
    model = build("resnet18", classes=4, image_size=32, dropout=0.5)
    before = list(map(type, model.modules()))
    network = processes.in_step(model, torch.device("cuda"))
    swap = {nn.BatchNorm2d: nn.SyncBatchNorm}
    assert set(swap) <= set(before)
    assert list(map(type, network.modules())) == [swap.get(kind, kind) for kind in before]
    assert list(map(type, model.modules())) == before
    for ours, theirs in (
        (model.parameters(), network.parameters()),
        (model.buffers(), network.buffers()),
    ):
        assert list(map(id, ours)) == list(map(id, theirs))
    assert processes.in_step(model, torch.device("cpu")) is model


def test_a_second_signal_stops_at_once_unless_torchrun_may_have_repeated_the_first():
    before = signal.getsignal(signal.SIGTERM)
    with noting_stops(insist=True) as stop:
        assert stop() == 0
        for number in (signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert stop() == signal.SIGTERM
    with noting_stops(insist=False) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() == signal.SIGTERM
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before

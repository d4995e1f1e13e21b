"""Training by several processes, as torchrun starts them, on one host and on two."""

import csv
import hashlib
import signal
import socket

import pytest
import torch

from .. import forks
from ..processes import limit

LONG = {"epochs: 3": "epochs: 15", "checkpoint_every: 0": "checkpoint_every: 5"}


def _edit(clone, changes):
    params = clone.root / "params.yaml"
    text = params.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    params.write_text(text)


def _torchrun(*options):
    return ("torchrun", "--nproc-per-node", "2", *options, "src/train.py")


def _start(clone, *words):
    return clone.start(*words, forked=True, GLOO_SOCKET_IFNAME="lo")


def _weights(clone):
    return hashlib.sha256((clone.root / "models/model.safetensors").read_bytes()).hexdigest()


def _losses(clone):
    with (clone.root / "plots/history.csv").open(newline="") as handle:
        return [
            float(line[name])
            for line in csv.DictReader(handle)
            for name in ("train_loss", "val_loss")
        ]


def _momenta(clone):
    state = torch.load(clone.root / "models/last.pt")["optimizer"]["state"]
    return [values["momentum_buffer"] for values in state.values()]


def test_several_processes_take_the_steps_that_one_takes(clone):
    """Order, augmentation and the batch's mean; 3 do not divide a batch of 8."""
    kept = {"keep_last: false": "keep_last: true", "ema: 0.0": "ema: 0.9"}
    _edit(clone, {"dropout: 0.5": "dropout: 0.0", **kept, "epochs: 3": "epochs: 2"})
    clone.run("python", "src/train.py")
    alone, momenta = _losses(clone), _momenta(clone)
    done = clone.run("torchrun", "--nproc-per-node", "3", "src/train.py")
    assert " in fp32 (3 processes, 1 threads" in done.stdout
    assert done.stdout.count("epoch 1/2") == 1
    assert _losses(clone) == pytest.approx(alone, rel=1e-3)
    for found, expected in zip(_momenta(clone), momenta, strict=True):
        assert found.shape == expected.shape
        # What rounding differs by grows from step to step; rows of another step differ by all.
        assert (found - expected).norm() < 0.2 * expected.norm()


def test_with_batch_normalisation_they_take_almost_the_same_steps(clone):
    """On CPUs each normalises its own share of a batch; they validate with the same statistics."""
    shape = {"name: lenet": "name: alexnet", "dropout: 0.5": "dropout: 0.0"}
    # Few steps: AlexNet's many weights make each a slow one.
    _edit(clone, {**shape, "epochs: 3": "epochs: 1", "batch_size: 8": "batch_size: 30"})
    clone.run("python", "src/train.py")
    alone = _losses(clone)
    clone.run(*_torchrun())
    assert _losses(clone) == pytest.approx(alone, rel=3e-2)


def test_two_hosts_train_as_one(clone, tmp_path):
    """Two addresses of this machine, each with a clone of its own."""
    clone.run(*_torchrun())
    together = _weights(clone)
    (clone.root / "models/model.safetensors").unlink()
    other = clone.copy(tmp_path / "other")
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = str(free.getsockname()[1])
    rendezvous = ("--nnodes", "2", "--master-addr", "127.0.0.2", "--master-port", port)
    words = ("torchrun", "--nproc-per-node", "1", *rendezvous, "--node-rank")
    hosts = [_start(clone, *words, "0", "--local-addr", "127.0.0.2", "src/train.py")]
    hosts.append(_start(other, *words, "1", "--local-addr", "127.0.0.3", "src/train.py"))
    said = [host.communicate(timeout=limit(120))[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], "".join(said)
    assert "epoch 3/3" in said[0]
    assert "epoch" not in said[1]
    assert _weights(clone) == together
    assert not (other.root / "models/model.safetensors").exists()


def test_a_host_with_other_parameters_is_refused(clone, tmp_path):
    other = clone.copy(tmp_path / "other")
    _edit(other, {"momentum: 0.9 ": "momentum: 0.8 "})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    words = ("torchrun", "--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", port)
    hosts = [
        _start(one, *words, "--node-rank", str(rank), "src/train.py")
        for rank, one in enumerate((clone, other))
    ]
    said = [host.communicate(timeout=limit(120))[0] for host in hosts]
    assert all(host.returncode for host in hosts)
    for lines in said:
        assert "error: the processes have different parameters" in lines


def test_when_one_dies_all_end_and_any_number_goes_on(clone, tmp_path):
    _edit(clone, LONG)
    alone = clone.copy(tmp_path / "alone")
    whole = clone.copy(tmp_path / "whole")
    whole.run(*_torchrun())
    process = _start(clone, *_torchrun())
    clone.read_until(process, "epoch  3")
    (agent,), workers = (list(forks.find(clone.root, name)) for name in ("torchrun", "train.py"))
    assert len(workers) == 2
    agent.suspend()  # or torchrun may end the others before they notice
    workers[1].kill()
    clone.read_until(process, "error: another process of this training ended")
    agent.resume()
    process.communicate(timeout=limit(20))
    assert process.returncode == 1
    assert not any(worker.is_running() for worker in workers)
    alone.run("cp", "-r", str(clone.root / ".checkpoints"), str(alone.root))
    assert "resuming in epoch" in clone.run(*_torchrun()).stdout
    assert _weights(clone) == _weights(whole)
    assert "resuming in epoch" in alone.run("python", "src/train.py").stdout


def test_told_to_stop_all_save_and_go_on_from_that_step(clone):
    """By Ctrl-C, and then by SIGTERM."""
    _edit(clone, {"epochs: 3": "epochs: 400"})
    saved = []
    for number, begins in ((signal.SIGINT, "epoch  3"), (signal.SIGTERM, "resuming in epoch")):
        process = _start(clone, *_torchrun())
        clone.read_until(process, begins)
        clone.read_until(process, "epoch")
        process.send_signal(number)
        process.communicate(timeout=limit(20))
        assert process.returncode
        saved.append({path.name for path in (clone.root / ".checkpoints").rglob("*.checkpoint")})
    assert saved[0]
    assert saved[1] - saved[0]

"""Ours: the package's loop on the packed images."""

from training import Training

from peers import Gate, Setting


def run(setting: Setting, gate: Gate) -> None:
    training = Training(setting.folder, setting.image_size, setting.batch_size, setting.precision)
    while True:
        gate.epoch()
        for _ in training.epoch():
            gate.step()

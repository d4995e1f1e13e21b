"""Lightning, after its tutorial "Train a model" with the data of the plain PyTorch script.

Its defaults that write files (logger, checkpoints) are off: they are not compared.
"""

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from peers import Gate, Setting
from peers.pytorch import loader


class Classifier(L.LightningModule):
    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting, self.model = setting, setting.model()

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        if self.setting.careful:
            images = images.contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(self.model(images), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.setting.optimizer(self.model)


class Timed(L.Callback):
    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_train_epoch_start(self, *_: object, **__: object) -> None:
        self.gate.epoch()

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        self.gate.step()


def run(setting: Setting, gate: Gate) -> None:
    trainer = L.Trainer(
        max_epochs=-1,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Timed(gate)],
    )
    trainer.fit(Classifier(setting), loader(setting))

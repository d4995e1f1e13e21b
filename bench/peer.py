"""What a user would choose instead: the same AlexNet on the same slices in Lightning.

As in its tutorial "Train a model", with the data of Albumentations' tutorial of image
classification. Lightning's defaults that write files (logger, checkpoints) are off.
"""

import logging
import time
import warnings
from functools import cache
from pathlib import Path

import albumentations as A
import cv2
import lightning as L
import torch
import torch.nn.functional as F
from albumentations.pytorch import ToTensorV2
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from training import THREADS, synchronize

from alzmri.classes import CLASSES
from alzmri.data.prepared import Prepared
from alzmri.models.architectures import build


def write_files(prepared: Prepared, folder: Path) -> None:
    """The training slices as ``CLASS/NUMBER.jpg``: they need not be resized again."""
    for index in prepared.indices("train"):
        path = folder / str(prepared.labels[index]) / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), prepared.images[index], [cv2.IMWRITE_JPEG_QUALITY, 95])


class Slices(Dataset[tuple[Tensor, int]]):
    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*/*.jpg"))
        affine = A.Affine(
            scale=(0.95, 1.05), translate_percent=(-0.05, 0.05), rotate=(-15, 15), p=0.2
        )
        self.transform = A.Compose([affine, A.Normalize(mean=0.5, std=0.5), ToTensorV2()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.files[index]
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        return self.transform(image=image)["image"], int(path.parent.name)


class Classifier(L.LightningModule):
    def __init__(self, careful: bool) -> None:
        super().__init__()
        self.careful = careful
        self.model = build("alexnet", classes=len(CLASSES), image_size=224, dropout=0.5)
        if careful:
            self.model.to(memory_format=torch.channels_last)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        if self.careful:
            images = images.contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(self.model(images), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=self.careful
        )


class Clock(L.Callback):
    """Takes the time from the end of an epoch's step ``first`` to the end of the last."""

    def __init__(self, first: int, steps: int) -> None:
        self.first, self.steps, self.done, self.seconds = first, steps, 0, 0.0

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        self.done += 1
        if self.done in (self.first, self.steps):
            synchronize()
            self.seconds = time.perf_counter() - self.seconds


@cache
def _made(
    files: Path, batch_size: int, workers: int, careful: bool
) -> tuple[Classifier, DataLoader[tuple[Tensor, int]]]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(THREADS)
    batches = DataLoader(
        Slices(files),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=careful and workers > 0,
        # As in the tutorials: this process was spawned, and would spawn them too.
        multiprocessing_context="fork" if workers else None,
    )
    return Classifier(careful), batches


def rate(files: Path, batch_size: int, workers: int, careful: bool) -> float:
    """Images per second of an epoch from when every loading process has delivered a batch.

    The start of an epoch would weigh too much in epochs this short. ``careful`` uses channels-last,
    a fused optimiser, and loading processes that outlive the epoch.
    """
    classifier, batches = _made(files, batch_size, workers, careful)
    clock = Clock(min(max(workers, 1), len(batches) - 1), len(batches))
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = L.Trainer(max_epochs=1, devices=1, callbacks=[clock], **dict.fromkeys(off, False))
    trainer.fit(classifier, batches)
    return (clock.steps - clock.first) * batch_size / clock.seconds

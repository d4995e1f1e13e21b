"""A plain PyTorch script, after Albumentations' tutorial of image classification.

A ``Dataset`` that reads with OpenCV and augments with Albumentations, a ``DataLoader`` with
processes, a loop. NCHW is PyTorch's default layout.
"""

import albumentations as A
import cv2
import torch
from albumentations.pytorch import ToTensorV2
from torch import nn
from torch.utils.data import DataLoader, Dataset

from peers import Gate, Setting


class Slices(Dataset):
    def __init__(self, setting: Setting) -> None:
        self.files, self.labels = setting.files, setting.labels
        self.transform = A.Compose(
            [
                A.Affine(
                    scale=(0.95, 1.05),
                    translate_percent=(-0.05, 0.05),
                    rotate=(-15, 15),
                    p=0.2,
                ),
                A.Normalize(mean=0.5, std=0.5),
                ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = cv2.imread(str(self.files[index]), cv2.IMREAD_GRAYSCALE)
        return self.transform(image=image)["image"], self.labels[index]


def loader(setting: Setting) -> DataLoader:
    return DataLoader(
        Slices(setting),
        batch_size=setting.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=setting.workers,
        pin_memory=setting.device.type == "cuda",
        persistent_workers=setting.careful and setting.workers > 0,
    )


def train(setting: Setting, gate: Gate, batches: DataLoader) -> None:
    """The loop; MONAI's tutorials write the same one."""
    model = setting.model().train()
    optimizer, criterion = setting.optimizer(model), nn.CrossEntropyLoss()
    while True:
        gate.epoch()
        for batch in batches:
            images, labels = batch.values() if isinstance(batch, dict) else batch
            images, labels = images.to(setting.device), labels.to(setting.device)
            if setting.careful:
                images = images.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
            gate.step()


def run(setting: Setting, gate: Gate) -> None:
    train(setting, gate, loader(setting))

"""MONAI, after its MedNIST tutorials: dictionary transforms, ``CacheDataset``, its ``DataLoader``.

The cache holds every decoded and scaled image; only the random transform runs per epoch.
"""

import math

from monai.data import CacheDataset, DataLoader
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandAffined,
    ScaleIntensityRanged,
)

from peers import Gate, Setting
from peers.pytorch import train


def run(setting: Setting, gate: Gate) -> None:
    shift = 0.05 * setting.image_size
    transform = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=-1, b_max=1),
            RandAffined(
                "image",
                prob=0.2,
                rotate_range=math.radians(15),
                translate_range=(shift, shift),
                scale_range=(0.05, 0.05),
                padding_mode="border",
            ),
        ]
    )
    items = [
        {"image": str(path), "label": label}
        for path, label in zip(setting.files, setting.labels, strict=True)
    ]
    batches = DataLoader(
        CacheDataset(items, transform, progress=False),
        batch_size=setting.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=setting.workers,
        pin_memory=setting.device.type == "cuda",
        persistent_workers=setting.careful and setting.workers > 0,
    )
    train(setting, gate, batches)

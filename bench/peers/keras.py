"""Keras 3 on its PyTorch backend, after "Image classification from scratch".

Files by a ``PyDataset`` (``image_dataset_from_directory`` needs TensorFlow or Grain), augmentation
by Keras' layers in the dataset, which is what the tutorial advises on a CPU, ``compile``, ``fit``.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
from keras import layers

from alzmri.classes import CLASSES
from alzmri.models.alexnet import STRIDE_AND_PADDING
from peers import Gate, Setting


class Slices(keras.utils.PyDataset):
    def __init__(self, setting: Setting) -> None:
        super().__init__(workers=max(setting.workers, 1))
        self.files, self.labels = np.array(setting.files), np.array(setting.labels)
        self.size, self.rng = setting.batch_size, np.random.default_rng(0)
        self.augment = keras.Sequential(
            [
                # Said here, or the loading threads would each try to find it out.
                layers.Input((setting.image_size, setting.image_size, 1)),
                layers.RandomRotation(15 / 360, fill_mode="constant"),
                layers.RandomTranslation(0.05, 0.05, fill_mode="constant"),
                layers.RandomZoom(0.05, fill_mode="constant"),
            ]
        )
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.files) // self.size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.order[index * self.size : (index + 1) * self.size]
        images = np.stack(
            [
                keras.utils.img_to_array(keras.utils.load_img(path, color_mode="grayscale"))
                for path in self.files[chosen]
            ]
        )
        drawn = self.rng.random(self.size) < 0.2
        if drawn.any():
            with torch.no_grad():
                images[drawn] = self.augment(images[drawn], training=True).cpu().numpy()
        return images, self.labels[chosen]

    def on_epoch_end(self) -> None:
        self.order = self.rng.permutation(len(self.files))


def alexnet(image_size: int) -> keras.Model:
    """Layer for layer as :class:`alzmri.models.alexnet.AlexNet`."""
    stride, padding = STRIDE_AND_PADDING[image_size]
    model = keras.Sequential([layers.Input((image_size, image_size, 1))])
    model.add(layers.Rescaling(1 / 127.5, offset=-1))
    model.add(layers.ZeroPadding2D(padding))
    blocks = ((64, 11, True), (192, 5, True), (384, 3, False), (256, 3, False), (256, 3, True))
    for number, (filters, kernel, pool) in enumerate(blocks):
        first = {"strides": stride, "padding": "valid"} if number == 0 else {"padding": "same"}
        model.add(layers.Conv2D(filters, kernel, use_bias=False, **first))
        model.add(layers.BatchNormalization(momentum=0.9, epsilon=1e-5))
        model.add(layers.ReLU())
        if pool:
            model.add(layers.MaxPooling2D(3, 2))
    model.add(layers.Flatten())
    for _ in range(2):
        model.add(layers.Dropout(0.5))
        model.add(layers.Dense(4096, activation="relu"))
    model.add(layers.Dense(len(CLASSES)))
    return model


class Timed(keras.callbacks.Callback):
    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        self.gate.epoch()

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        self.gate.step()


def run(setting: Setting, gate: Gate) -> None:
    model = alexnet(setting.image_size)
    ours = sum(p.numel() for p in setting.model().parameters())
    assert sum(w.numpy().size for w in model.trainable_weights) == ours, "not the same AlexNet"
    model.compile(
        optimizer=keras.optimizers.SGD(1e-4, momentum=0.9, weight_decay=1e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(Slices(setting), epochs=1_000_000, callbacks=[Timed(gate)], verbose=0)

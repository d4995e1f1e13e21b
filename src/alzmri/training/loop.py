"""The training loop."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from alzmri.data.augment import Augmenter
from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.evaluation.calibration import fit_temperature
from alzmri.evaluation.metrics import Floats, Ints, macro_f1
from alzmri.models import build
from alzmri.models.forward import BATCH_SIZE, normalise, predict
from alzmri.params import Params, Train
from alzmri.training.batches import Batches
from alzmri.training.schedule import learning_rate

RECALIBRATION_IMAGES = 1024
"""At most so many training slices give batch normalisation its statistics before validation."""


@dataclass(frozen=True)
class Epoch:
    """One line of ``plots/history.csv``."""

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float

    def better_than(self, other: "Epoch | None") -> bool:
        """By validation macro F1, ties by loss."""
        if other is None:
            return True
        return (self.val_macro_f1, -self.val_loss) > (other.val_macro_f1, -other.val_loss)


@dataclass
class Run:
    """The state of a training run after its latest epoch.

    ``temperature`` calibrates ``best_weights``, see :mod:`alzmri.evaluation.calibration`.
    """

    model: nn.Module
    averaged: AveragedModel | None
    optimizer: torch.optim.Optimizer
    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    temperature: float = 1.0

    @classmethod
    def start(cls, prepared: Prepared, params: Params, device: torch.device) -> "Run":
        """Fresh weights and optimiser, drawn from ``train.seed``."""
        settings = params.train
        torch.manual_seed(settings.seed)
        model = build(
            params.model.name,
            classes=len(prepared.classes),
            image_size=prepared.images.shape[1],
            dropout=params.model.dropout,
        ).to(device)
        # Convolutions run faster in this layout, by 15 % on the CPU measured.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        averaged = None
        if settings.ema:
            averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        return cls(model, averaged, optimizer)

    @property
    def scored(self) -> nn.Module:
        """The model that is validated and kept: the averaged one where there is one."""
        return self.model if self.averaged is None else self.averaged.module


def train(
    prepared: Prepared,
    params: Params,
    device: torch.device,
    on_step: Callable[[int, int], None],
    on_epoch: Callable[[Epoch, bool], None],
) -> Run:
    """Train on the ``train`` part, choose the epoch on the ``val`` part.

    Args:
        prepared: the packed data.
        params: model, augmentation and optimiser.
        device: where to compute.
        on_step: called after each step with the number done and the number in all.
        on_epoch: called after each epoch with its scores, and whether it is the best so far.

    Raises:
        UserError: when the loss is no longer a finite number.
    """
    settings = params.train
    run = Run.start(prepared, params, device)
    augment = Augmenter(params.augment, settings.seed)
    batches = Batches(prepared, augment, settings.batch_size, settings.seed)
    weights = class_weights(prepared, settings).to(device)
    validation = prepared.indices("val")
    truth = prepared.labels[validation]

    for epoch in range(1, settings.epochs + 1):
        lr, train_loss = train_epoch(run, epoch, batches, settings, weights, on_step)
        recalibrate(run.scored, prepared, device)
        logits = predict(run.scored, prepared.images, validation, device)
        latest = Epoch(epoch, lr, train_loss, *validation_scores(truth, logits))
        if not (math.isfinite(latest.train_loss) and math.isfinite(latest.val_loss)):
            raise UserError(
                f"training diverged in epoch {epoch} (loss {latest.train_loss}): lower train.lr"
                f" ({settings.lr}) or train.momentum, or use train.warmup"
            )
        run.history.append(latest)
        if improved := latest.better_than(run.best):
            run.best = latest
            run.best_weights = {k: v.clone() for k, v in run.scored.state_dict().items()}
            run.temperature = fit_temperature(truth, logits)
        on_epoch(latest, improved)
        assert run.best is not None
        if settings.patience and epoch - run.best.epoch >= settings.patience:
            break
    return run


def train_epoch(
    run: Run,
    epoch: int,
    batches: Batches,
    settings: Train,
    weights: Tensor,
    on_step: Callable[[int, int], None],
) -> tuple[float, float]:
    """One pass over the training slices; the last learning rate and the mean loss."""
    device = weights.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=_bfloat16(settings, device))
    run.model.train()
    total_loss = torch.zeros((), device=device)
    slices = 0
    lr = settings.lr
    first = (epoch - 1) * len(batches)
    for step, (images, labels) in enumerate(batches.epoch(epoch), start=first):
        lr = learning_rate(settings, step, len(batches))
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        images, labels = images.to(device), labels.to(device)
        with autocast:
            logits = run.model(normalise(images))
            loss = F.cross_entropy(
                logits, labels, weights, label_smoothing=settings.label_smoothing
            )
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        if run.averaged is not None:
            run.averaged.update_parameters(run.model)
        total_loss += loss.detach() * len(labels)
        slices += len(labels)
        on_step(step + 1, settings.epochs * len(batches))
    return lr, float(total_loss) / slices


def recalibrate(model: nn.Module, prepared: Prepared, device: torch.device) -> None:
    """Re-estimate batch normalisation's running statistics on training slices, as they are now.

    Running averages lag behind the weights when the learning rate stays high, and validation
    scores then jump from epoch to epoch by tens of points.
    """
    indices = prepared.indices("train")
    count = min(len(indices), RECALIBRATION_IMAGES)
    chosen = indices[np.linspace(0, len(indices) - 1, count).astype(np.int64)]
    batches = -(-count // BATCH_SIZE)

    def inputs() -> Iterator[Tensor]:
        # Strided: the manifest is sorted by class, and the variance within a batch of one class
        # is too small. Strided batches also have one size, as their plain average wants it.
        for first in range(batches):
            yield normalise(torch.from_numpy(prepared.images[chosen[first::batches]]).to(device))

    # The layers with such statistics; the dropout after them would use up random numbers.
    update_bn(inputs(), model.get_submodule("features"))


def validation_scores(truth: Ints, logits: Floats) -> tuple[float, float, float]:
    """Loss, accuracy and macro F1."""
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth)).item()
    predicted = logits.argmax(axis=1)
    return loss, float(np.mean(predicted == truth)), macro_f1(truth, predicted)


def class_weights(prepared: Prepared, settings: Train) -> Tensor:
    """Of the loss, float32 ``[classes]``: all 1, or falling with the frequency of the class.

    ``balanced`` is inversely proportional to it; ``sqrt`` is the square root of that, for when
    a class is so rare that full balance lets its few people rule the loss. A class without a
    training slice then has weight 0, or label smoothing would favour it.
    """
    labels = prepared.labels[prepared.indices("train")]
    counts = np.bincount(labels, minlength=len(prepared.classes))
    if settings.class_weights == "none":
        return torch.ones(len(counts))
    weights = len(labels) / np.count_nonzero(counts) / np.maximum(counts, 1)
    if settings.class_weights == "sqrt":
        weights = np.sqrt(weights)
    return torch.tensor(np.where(counts > 0, weights, 0), dtype=torch.float32)


def _bfloat16(settings: Train, device: torch.device) -> bool:
    if settings.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return settings.precision == "bf16"

"""The training loop; read it from :func:`train`."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from alzmri import terminal
from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.models.architectures import Network, build
from alzmri.models.forward import BATCH_SIZE, bfloat16, normalise, predict
from alzmri.models.validation import Floats, Ints, fit_temperature, macro_f1
from alzmri.params import Params, Train
from alzmri.training.batches import Batch, Batches
from alzmri.training.checkpoints import Checkpoints, State
from alzmri.training.initial import Initial
from alzmri.training.processes import ALONE, Processes, Stop, in_step, leave, noting_stops

RECALIBRATION_IMAGES = 1024  # at most, for batch normalisation's statistics before validation
# First and last rate as fractions of the peak, and the fraction of steps with rising rate when
# `train.warmup` is 0 (Smith and Topin, "Super-convergence", 2018).
ONECYCLE_START, ONECYCLE_END, ONECYCLE_WARMUP = 1 / 25, 1 / 10_000, 0.3


class Epoch(NamedTuple):
    """One line of ``plots/history.csv``."""

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float


@dataclass
class TrainingState:
    """A training between two steps: everything that determines its continuation."""

    architecture: dict[str, Any]  # the arguments of `build`
    model: Network
    replica: nn.Module  # trains the parameters of `model` together with the other processes
    averaged: AveragedModel | None  # the moving average of `model`, with `train.ema`
    scored: Network  # is validated and kept: the averaged model, if any
    optimizer: torch.optim.Optimizer
    precision: torch.autocast  # for the forward pass
    loss: Tensor  # of this process in the current epoch, summed over its slices so far
    epoch: int = 1  # the current one; one more than the last when training is complete
    steps: int = 0  # completed in the current epoch
    history: list[Epoch] = field(default_factory=list)  # the completed epochs
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    temperature: float = 1.0  # calibrates `best_weights`
    initial: Initial | None = None  # the model that it started from

    # Saved without a copy: the training replaces these values and never changes them.
    _AS_THEY_ARE: ClassVar = ("epoch", "steps", "best_weights", "temperature")

    @classmethod
    def start(
        cls,
        prepared: Prepared,
        params: Params,
        device: torch.device,
        processes: Processes = ALONE,
        initial: Initial | None = None,
    ) -> "TrainingState":
        """A state with fresh weights from ``train.seed``, replaced by those of ``initial``."""
        settings = params.train
        torch.manual_seed(settings.seed)
        architecture = {
            "name": params.model.name,
            "classes": len(prepared.classes),
            "image_size": prepared.images.shape[1],
            "dropout": params.model.dropout,
        }
        model = build(**architecture)
        if initial:
            model.load_state_dict(initial.weights, strict=False)
        model.to(device)
        # Convolutions are faster in this layout, by 15 % on the measured CPU.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = get_ema_multi_avg_fn(settings.ema)
        averaged = AveragedModel(model, multi_avg_fn=average) if settings.ema else None
        scored = cast(Network, averaged.module) if averaged else model
        replica = in_step(model, device) if processes.size > 1 else model
        rates = {name: getattr(settings, name) for name in ("lr", "momentum", "weight_decay")}
        optimizer = torch.optim.SGD(model.parameters(), **rates, fused=True)
        # Without a cache: a step uses each weight once.
        enabled = bfloat16(settings.precision, device)
        precision = torch.autocast(device.type, torch.bfloat16, enabled, cache_enabled=False)
        loss = torch.zeros((), device=device)
        models = (model, replica, averaged, scored)
        return cls(architecture, *models, optimizer, precision, loss, initial=initial)

    def saved(self, loss: Tensor) -> State:
        """A copy, for a checkpoint, with the ``loss`` of all processes."""
        return {
            **copy.deepcopy({name: part.state_dict() for name, part in self._parts().items()}),
            **{name: getattr(self, name) for name in self._AS_THEY_ARE},
            "loss": loss,
            "history": [tuple(epoch) for epoch in self.history],
        }

    def restore(self, state: State) -> None:
        """Return to the ``state`` of :meth:`saved`, which must not be used afterwards."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for name in self._AS_THEY_ARE:
            setattr(self, name, state[name])
        self.loss.copy_(state["loss"])
        self.history = [Epoch(*values) for values in state["history"]]

    def _parts(self) -> dict[str, Any]:
        names = ("model", "optimizer", "averaged")
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    @property
    def best(self) -> Epoch | None:
        """The first epoch with the highest validation macro F1, among equal ones the least loss."""
        return max(self.history, key=lambda e: (e.val_macro_f1, -e.val_loss), default=None)

    def complete(self, settings: Train) -> bool:
        """Whether no epoch is left, or ``train.patience`` is over."""
        last = settings.epochs
        if self.best and settings.patience:
            last = min(last, self.best.epoch + settings.patience)
        return self.epoch > last


def train(
    prepared: Prepared,
    params: Params,
    device: torch.device,
    checkpoints: Checkpoints,
    on_step: Callable[[int, int], None] = lambda *_: None,
    on_epoch: Callable[[TrainingState, bool], None] = lambda *_: None,
    processes: Processes = ALONE,
    initial: Initial | None = None,
) -> TrainingState:
    """Train on the ``train`` part, choose the epoch on the ``val`` part.

    Args:
        checkpoints: an interrupted run continues from these, with the same bits.
        on_step: called after each step with the completed and the total number of steps.
        on_epoch: called with the state and True after each epoch; with False when it resumes.
        processes: these train together; only the first of them uses ``checkpoints``.

    Raises:
        UserError: the loss is no longer finite.
        SystemExit, KeyboardInterrupt: a signal stopped the run, which is saved.
    """
    settings, validation = params.train, prepared.indices("val")
    batches = Batches(prepared, params, device, processes)
    state = TrainingState.start(prepared, params, device, processes, initial)
    if found := processes.of_first(checkpoints.load() if processes.first else None):
        state.restore(found)
        if processes.first:
            terminal.say(f"resuming in epoch {state.epoch} after step {state.steps}")
            on_epoch(state, False)
        else:
            state.loss.zero_()  # the first has the sum

    with noting_stops(insist=processes.size > 1) as stop:
        while not state.complete(settings):
            state.replica.train()
            for batch in batches.epoch(state.epoch, first=state.steps):
                step(state, batch, batches, settings)
                done, every = batches.before(state.epoch, state.steps), settings.checkpoint_every
                on_step(done, settings.epochs * len(batches))
                save(state, checkpoints, processes, stop, due=every > 0 and done % every == 0)

            recalibrate(state.scored, prepared, device)
            mine = predict(state.scored, prepared.images, processes.share(validation), device)
            logits, truth = processes.gather(mine), prepared.labels[validation]
            lr = state.optimizer.param_groups[0]["lr"]
            loss = float(processes.sum(state.loss)) / len(prepared.indices("train"))
            epoch = Epoch(state.epoch, lr, loss, *validation_scores(truth, logits))
            if not math.isfinite(epoch.train_loss + epoch.val_loss):
                raise UserError(
                    f"training diverged in epoch {epoch.epoch} (loss {epoch.train_loss}): lower"
                    f" train.lr ({settings.lr}) or train.momentum, or use train.warmup"
                )
            state.history.append(epoch)
            if epoch is state.best:
                state.temperature = fit_temperature(truth, logits)
                state.best_weights = copy.deepcopy(state.scored.state_dict())

            state.epoch, state.steps = state.epoch + 1, 0
            state.loss.zero_()
            on_epoch(state, True)
            due = processes.of_first(checkpoints.affordable)
            save(state, checkpoints, processes, stop, due=due)
    checkpoints.wait()
    return state


def step(state: TrainingState, batch: Batch, batches: Batches, settings: Train) -> None:
    """Train one step on ``batch``, this process's share."""
    number = batches.before(state.epoch, state.steps)
    state.optimizer.param_groups[0]["lr"] = learning_rate(settings, number, len(batches))
    # Dropout is a function of the position in the run: RNG state is not saved.
    # `torch.manual_seed` takes 0.3 ms more, for the devices that a machine does not have.
    reseed = torch.cuda.manual_seed if state.loss.is_cuda else torch.default_generator.manual_seed
    seed = np.random.SeedSequence((settings.seed, number, batches.processes.rank))
    reseed(int(seed.generate_state(1)[0]))
    with state.precision:
        logits = state.replica(normalise(batch.images)).float()
    smoothing = settings.label_smoothing
    loss = F.cross_entropy(
        logits, batch.labels, batches.weights, reduction="sum", label_smoothing=smoothing
    )
    loss = loss / batch.weight  # this process's term of the mean over the whole batch
    state.optimizer.zero_grad()
    (loss * batches.processes.size).backward()  # the replica averages over processes
    state.optimizer.step()
    if state.averaged is not None:
        state.averaged.update_parameters(state.model)
    state.loss.add_(loss.detach(), alpha=batch.slices)
    state.steps += 1


def learning_rate(train: Train, step: int, steps_per_epoch: int) -> float:
    """The rate of ``step``, counted from 0 over the whole run: a resumed run needs no history."""
    total, warmup = train.epochs * steps_per_epoch, float(train.warmup * steps_per_epoch)
    if train.schedule == "onecycle":
        warmup = warmup or ONECYCLE_WARMUP * total
        if step < warmup:
            return train.lr * _cosine(ONECYCLE_START, 1, step / warmup)
        return train.lr * _cosine(1, ONECYCLE_END, (step - warmup) / max(total - 1 - warmup, 1))
    if step < warmup:
        return train.lr * (step + 1) / (warmup + 1)
    if train.schedule == "cosine":
        return train.lr * _cosine(1, 0, (step - warmup) / (total - warmup))
    return train.lr


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def save(
    state: TrainingState, checkpoints: Checkpoints, processes: Processes, stop: Stop, *, due: bool
) -> None:
    """Write a checkpoint if ``due``; if any process got a signal to ``stop``, do that and exit."""
    stopping = int(processes.sum(torch.tensor(stop())))
    if due or stopping:
        loss = processes.sum(state.loss)
        if processes.first:
            checkpoints.save(state.saved(loss))
    if stopping:
        checkpoints.wait()
        leave(stop())  # once more: a signal to all may have come late to this one


def recalibrate(model: Network, prepared: Prepared, device: torch.device) -> None:
    """Re-estimate batch normalisation's statistics on training slices with the current weights.

    Running averages lag behind the weights when the learning rate stays high; validation scores
    then jump by tens of points from epoch to epoch.
    """
    indices = prepared.indices("train")
    count = min(len(indices), RECALIBRATION_IMAGES)
    chosen = indices[np.linspace(0, len(indices) - 1, count).astype(np.int64)]
    batches = -(-count // BATCH_SIZE)
    # Strided, because the manifest is sorted by class, and a batch of one class has too small a
    # variance. Strided batches also have equal sizes, which their plain average requires.
    inputs = (
        normalise(torch.from_numpy(prepared.images[chosen[first::batches]]).to(device))
        for first in range(batches)
    )
    # Run only the layers with such statistics; the dropout after them would use random numbers.
    update_bn(inputs, model.features)


def validation_scores(truth: Ints, logits: Floats) -> tuple[float, float, float]:
    """Loss, accuracy and macro F1."""
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth)).item()
    predicted = logits.argmax(axis=1)
    return loss, float(np.mean(predicted == truth)), macro_f1(truth, predicted)

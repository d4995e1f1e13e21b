"""The training loop; read it from :func:`train`."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from alzmri import terminal
from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.models.architectures import Network, build
from alzmri.models.forward import BATCH_SIZE, autocast, generator, normalise, predict
from alzmri.models.validation import Floats, Ints, fit_temperature, macro_f1
from alzmri.params import Params, Train
from alzmri.training.batches import Batch, Batches
from alzmri.training.checkpoints import Checkpoints, State
from alzmri.training.initial import Initial
from alzmri.training.processes import ALONE, Processes, Stop, in_step
from alzmri.training.schedule import learning_rate

RECALIBRATION_IMAGES = 1024
"""Maximum number of training slices for batch normalisation's statistics before validation."""


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
        """Whether its validation macro F1 is higher, or equal with a lower loss."""
        if other is None:
            return True
        return (self.val_macro_f1, -self.val_loss) > (other.val_macro_f1, -other.val_loss)


@dataclass
class TrainingState:
    """A training between two steps: everything that determines its continuation."""

    model: Network
    replica: nn.Module  # trains the parameters of `model` together with the other processes
    averaged: AveragedModel | None  # the moving average of `model`, with `train.ema`
    optimizer: torch.optim.Optimizer
    precision: torch.autocast  # for the forward pass
    loss: Tensor  # of this process in the current epoch, summed over its slices so far
    epoch: int = 1  # the current one; one more than the last when training is complete
    steps: int = 0  # completed in the current epoch
    slices: int = 0  # completed in the current epoch by all processes
    history: list[Epoch] = field(default_factory=list)  # the completed epochs
    best: Epoch | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    temperature: float = 1.0  # calibrates `best_weights`
    initial: Initial | None = None  # the model that it started from

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
        size, dropout = prepared.images.shape[1], params.model.dropout
        number = len(prepared.classes)
        model = build(params.model.name, classes=number, image_size=size, dropout=dropout)
        if initial:
            initial.give_to(model, prepared.classes)
        model.to(device)
        # Convolutions are faster in this layout, by 15 % on the measured CPU.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        averaged = None
        if settings.ema:
            averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        replica = in_step(model, device) if processes.size > 1 else model
        rates = {name: getattr(settings, name) for name in ("lr", "momentum", "weight_decay")}
        optimizer = torch.optim.SGD(model.parameters(), **rates, fused=True)
        precision, loss = autocast(settings.precision, device), torch.zeros((), device=device)
        return cls(model, replica, averaged, optimizer, precision, loss, initial=initial)

    def saved(self) -> State:
        """A copy, for a checkpoint."""
        changing = {
            "model": self.model.state_dict(),
            "averaged": self.averaged and self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        return {
            **copy.deepcopy(changing),
            "epoch": self.epoch,
            "steps": self.steps,
            "slices": self.slices,
            "history": [astuple(epoch) for epoch in self.history],
            "best": self.best and self.best.epoch,
            "best_weights": self.best_weights,
            "temperature": self.temperature,
        }

    def restore(self, state: State) -> None:
        """Return to the ``state`` of :meth:`saved`, which must not be used afterwards."""
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss.copy_(state["loss"])
        self.epoch, self.steps, self.slices = state["epoch"], state["steps"], state["slices"]
        self.history = [Epoch(*values) for values in state["history"]]
        self.best = self.history[state["best"] - 1] if state["best"] else None
        self.best_weights, self.temperature = state["best_weights"], state["temperature"]

    @property
    def scored(self) -> Network:
        """The model to validate and keep: the averaged one, if any."""
        scored = self.model if self.averaged is None else self.averaged.module
        assert isinstance(scored, Network)
        return scored

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
        initial: the model to start from, see :mod:`alzmri.training.initial`.

    Raises:
        UserError: the loss is no longer finite.
        SystemExit, KeyboardInterrupt: a signal stopped the run, which is saved.
    """
    settings = params.train
    batches = Batches(prepared, params, device, processes)
    validation = prepared.indices("val")
    state = TrainingState.start(prepared, params, device, processes, initial)
    if found := processes.of_first(checkpoints.load() if processes.first else None):
        state.restore(found)
        if processes.first:
            terminal.say(f"resuming in epoch {state.epoch} after step {state.steps}")
            on_epoch(state, False)
        else:
            state.loss.zero_()  # the first has the sum

    with Stop(insist=processes.size > 1) as stop:
        while not state.complete(settings):
            state.replica.train()
            for batch in batches.epoch(state.epoch, first=state.steps):
                step(state, batch, batches, settings)
                done = batches.before(state.epoch, state.steps)
                on_step(done, settings.epochs * len(batches))
                due = bool(settings.checkpoint_every) and done % settings.checkpoint_every == 0
                save(state, checkpoints, processes, stop, due=due)

            recalibrate(state.scored, prepared, device)
            mine = predict(state.scored, prepared.images, processes.share(validation), device)
            logits, truth = processes.gather(mine), prepared.labels[validation]
            epoch = Epoch(
                state.epoch,
                state.optimizer.param_groups[0]["lr"],
                float(processes.sum(state.loss)) / state.slices,
                *validation_scores(truth, logits),
            )
            require_finite(epoch, settings)
            state.history.append(epoch)
            if epoch.better_than(state.best):
                state.best, state.temperature = epoch, fit_temperature(truth, logits)
                state.best_weights = copy.deepcopy(state.scored.state_dict())

            state.epoch, state.steps, state.slices = state.epoch + 1, 0, 0
            state.loss.zero_()
            on_epoch(state, True)
            due = processes.of_first(checkpoints.affordable)
            save(state, checkpoints, processes, stop, due=due)
    checkpoints.wait()
    return state


def step(state: TrainingState, batch: Batch, batches: Batches, settings: Train) -> None:
    """Train one step on ``batch``, this process's share."""
    rank, device = batches.processes.rank, batch.images.device
    number = batches.before(state.epoch, state.steps)
    state.optimizer.param_groups[0]["lr"] = learning_rate(settings, number, len(batches))
    # Dropout is a function of the position in the run: RNG state is not saved.
    seed = np.random.SeedSequence((settings.seed, number, rank)).generate_state(1)[0]
    generator(device).manual_seed(int(seed))
    with state.precision:
        logits = state.replica(normalise(batch.images))
    loss = F.cross_entropy(
        logits.float(),
        batch.labels,
        batches.weights,
        reduction="sum",
        label_smoothing=settings.label_smoothing,
    )
    loss = loss / batch.weight  # this process's term of the mean over the whole batch
    state.optimizer.zero_grad()
    (loss * batches.processes.size).backward()  # the replica averages over processes
    state.optimizer.step()
    if state.averaged is not None:
        state.averaged.update_parameters(state.model)
    state.loss.add_(loss.detach(), alpha=batch.slices)
    state.slices += batch.slices
    state.steps += 1


def save(
    state: TrainingState, checkpoints: Checkpoints, processes: Processes, stop: Stop, *, due: bool
) -> None:
    """Write a checkpoint if one is ``due``; if a stop is wanted, write one and exit."""
    wanted = processes.largest(stop.wanted)
    if due or wanted:
        loss = processes.sum(state.loss)
        if processes.first:
            checkpoints.save({**state.saved(), "loss": loss})
    if wanted:
        checkpoints.wait()
        stop.leave(wanted)


def require_finite(epoch: Epoch, settings: Train) -> None:
    """Raise UserError when a loss of ``epoch`` is not finite."""
    if not (math.isfinite(epoch.train_loss) and math.isfinite(epoch.val_loss)):
        raise UserError(
            f"training diverged in epoch {epoch.epoch} (loss {epoch.train_loss}): lower"
            f" train.lr ({settings.lr}) or train.momentum, or use train.warmup"
        )


def recalibrate(model: Network, prepared: Prepared, device: torch.device) -> None:
    """Re-estimate batch normalisation's statistics on training slices with the current weights.

    Running averages lag behind the weights when the learning rate stays high; validation scores
    then jump by tens of points from epoch to epoch.
    """
    indices = prepared.indices("train")
    count = min(len(indices), RECALIBRATION_IMAGES)
    chosen = indices[np.linspace(0, len(indices) - 1, count).astype(np.int64)]
    batches = -(-count // BATCH_SIZE)

    def inputs() -> Iterator[Tensor]:
        # Strided, because the manifest is sorted by class, and a batch of one class has too small a
        # variance. Strided batches also have equal sizes, which their plain average requires.
        for first in range(batches):
            yield normalise(torch.from_numpy(prepared.images[chosen[first::batches]]).to(device))

    # Run only the layers with such statistics; the dropout after them would use random numbers.
    update_bn(inputs(), model.features)


def validation_scores(truth: Ints, logits: Floats) -> tuple[float, float, float]:
    """Loss, accuracy and macro F1."""
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth)).item()
    predicted = logits.argmax(axis=1)
    return loss, float(np.mean(predicted == truth)), macro_f1(truth, predicted)

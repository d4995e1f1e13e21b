"""The training loop."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from alzmri import terminal
from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.models import build
from alzmri.models.device import autocast, generator
from alzmri.models.forward import BATCH_SIZE, normalise, predict
from alzmri.models.scores import Floats, Ints, macro_f1
from alzmri.params import Params, Train
from alzmri.training.batches import Batches
from alzmri.training.batchnorm import normalising
from alzmri.training.calibration import fit_temperature
from alzmri.training.checkpoints import Checkpoints, State
from alzmri.training.graphs import Replayed
from alzmri.training.linear import complete, rows, split_layers
from alzmri.training.processes import ALONE, Processes, in_step
from alzmri.training.schedule import learning_rate
from alzmri.training.stopping import Stop

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
    """A training run between two steps: all that decides how it goes on.

    Attributes:
        replica: what trains the weights of ``model``, in step with the other processes. Its
            parameters are the model's, in their order; of large layers some rows of them.
        loss: summed over the slices of the epoch under way so far, of this process.
        epoch: the one under way, from 1; one more than there are when training is complete.
        steps: done in it.
        slices: of it so far, of all processes.
        history: the epochs that are done.
        temperature: calibrates ``best_weights``, see :mod:`alzmri.training.calibration`.
        last: its :meth:`state` in the end, if ``train.keep_last``.
    """

    model: nn.Module
    replica: nn.Module
    averaged: AveragedModel | None
    optimizer: torch.optim.Optimizer
    loss: Tensor
    epoch: int = 1
    steps: int = 0
    slices: int = 0
    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    temperature: float = 1.0
    last: State = field(default_factory=dict)

    @classmethod
    def start(
        cls, prepared: Prepared, params: Params, device: torch.device, processes: Processes = ALONE
    ) -> "Run":
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
        replica = normalising(model, device, several=processes.size > 1)
        if processes.size > 1:
            split_layers(replica, settings.batch_size)
            replica = in_step(replica)
        elif device.type == "cuda":
            replica = Replayed(replica, min(settings.batch_size, len(prepared.indices("train"))))
        optimizer = torch.optim.SGD(
            replica.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        return cls(model, replica, averaged, optimizer, loss=torch.zeros((), device=device))

    def complete(self, model: nn.Module) -> None:
        """Give ``model`` all rows of the layers that several processes share out; all have to ask.

        Args:
            model: ``self.model``, or the averaged one.
        """
        for part, whole in zip(self.replica.parameters(), model.parameters(), strict=True):
            if part.shape != whole.shape:
                complete(whole.detach())

    def state(self) -> State:
        """A copy, for a checkpoint; whole for any number of processes, who all have to ask."""
        self.complete(self.model)
        if self.averaged is not None:
            self.complete(self.averaged.module)
        optimizer = _copied(self.optimizer.state_dict())
        for momentum, whole in self._split_momenta(optimizer):
            mine = momentum["momentum_buffer"]
            momentum["momentum_buffer"] = torch.empty_like(whole)
            momentum["momentum_buffer"][rows(len(whole), dist.get_rank())] = mine
            complete(momentum["momentum_buffer"])
        return {
            "model": _copied(self.model.state_dict()),
            "averaged": None if self.averaged is None else _copied(self.averaged.state_dict()),
            "optimizer": optimizer,
            "loss": self.loss.clone(),
            "epoch": self.epoch,
            "steps": self.steps,
            "slices": self.slices,
            "history": [astuple(epoch) for epoch in self.history],
            "best": self.best and self.best.epoch,
            "best_weights": self.best_weights,
            "temperature": self.temperature,
        }

    def restore(self, state: State) -> None:
        """Go back to where :meth:`state` was taken; takes ``state`` over."""
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        for momentum, whole in self._split_momenta(state["optimizer"]):
            mine = rows(len(whole), dist.get_rank())
            momentum["momentum_buffer"] = momentum["momentum_buffer"][mine].clone()
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss.copy_(state["loss"])
        self.epoch, self.steps, self.slices = state["epoch"], state["steps"], state["slices"]
        self.history = [Epoch(*values) for values in state["history"]]
        self.best = self.history[state["best"] - 1] if state["best"] else None
        self.best_weights, self.temperature = state["best_weights"], state["temperature"]

    def _split_momenta(self, state: State) -> Iterator[tuple[State, Tensor]]:
        """Of the layers that are shared out: what the optimiser's ``state`` has; their weights."""
        pairs = zip(self.replica.parameters(), self.model.parameters(), strict=True)
        for number, (part, whole) in enumerate(pairs):
            if part.shape != whole.shape and number in state["state"]:
                yield state["state"][number], whole.detach()

    def close_epoch(self, settings: Train, steps: int, truth: Ints, logits: Floats) -> None:
        """Enter the epoch's scores and begin the next one.

        Raises:
            UserError: when the loss is no longer a finite number.
        """
        lr = learning_rate(settings, self.epoch * steps - 1, steps)
        train_loss = float(self.loss) / self.slices
        latest = Epoch(self.epoch, lr, train_loss, *validation_scores(truth, logits))
        if not (math.isfinite(latest.train_loss) and math.isfinite(latest.val_loss)):
            raise UserError(
                f"training diverged in epoch {self.epoch} (loss {latest.train_loss}): lower"
                f" train.lr ({settings.lr}) or train.momentum, or use train.warmup"
            )
        self.history.append(latest)
        if latest.better_than(self.best):
            self.best = latest
            self.best_weights = _copied(self.scored.state_dict())
            self.temperature = fit_temperature(truth, logits)
        self.epoch += 1
        self.steps = self.slices = 0
        self.loss.zero_()

    @property
    def scored(self) -> nn.Module:
        """The model that is validated and kept: the averaged one where there is one."""
        return self.model if self.averaged is None else self.averaged.module


def train(
    prepared: Prepared,
    params: Params,
    device: torch.device,
    checkpoints: Checkpoints,
    on_step: Callable[[int, int], None],
    on_epoch: Callable[[Run, bool], None],
    processes: Processes = ALONE,
) -> Run:
    """Train on the ``train`` part, choose the epoch on the ``val`` part.

    Args:
        prepared: the packed data.
        params: model, augmentation and optimiser.
        device: where to compute.
        checkpoints: where the run goes on if it was interrupted, to the same bit.
        on_step: called after each step with the number done and the number in all.
        on_epoch: called with the run and True after each epoch; with the run and False when it
            resumes.
        processes: that train together; only the first of them uses ``checkpoints``.

    Raises:
        UserError: when the loss is no longer a finite number.
        SystemExit, KeyboardInterrupt: when told to stop; the run is saved.
    """
    settings = params.train
    run = Run.start(prepared, params, device, processes)
    if state := processes.of_first(checkpoints.load() if processes.first else None):
        run.restore(state)
        if processes.first:
            terminal.say(f"resuming in epoch {run.epoch} after step {run.steps}")
            on_epoch(run, False)
        else:
            run.loss.zero_()  # the first has the sum
    batches = Batches(prepared, params, device, processes)
    weights = class_weights(prepared, settings).to(device)
    validation = prepared.indices("val")
    truth = prepared.labels[validation]

    with Stop(insist=processes.size > 1) as stop:

        def save(position: int, *, due: bool) -> None:
            """Checkpoint the run where it is due; where a stop is wanted, do so and leave."""
            wanted = processes.largest(stop.wanted)
            if due or wanted:
                state = {**run.state(), "loss": processes.sum(run.loss)}
                if processes.first:
                    checkpoints.save(position, state)
            if wanted:
                checkpoints.wait()
                stop.leave(wanted)

        while run.epoch <= settings.epochs and not _out_of_patience(run, settings):
            for done in train_epoch(run, batches, settings, weights):
                on_step(done, settings.epochs * len(batches))
                due = settings.checkpoint_every and done % settings.checkpoint_every == 0
                save(done, due=bool(due))
            run.loss = processes.sum(run.loss)
            run.complete(run.scored)
            recalibrate(run.scored, prepared, device, processes)
            mine = processes.share(validation)
            logits = processes.gather(predict(run.scored, prepared.images, mine, device))
            run.close_epoch(settings, len(batches), truth, logits)
            on_epoch(run, True)
            save((run.epoch - 1) * len(batches), due=processes.of_first(checkpoints.affordable))
    checkpoints.wait()
    if settings.keep_last:
        run.last = run.state()
    return run


def train_epoch(run: Run, batches: Batches, settings: Train, weights: Tensor) -> Iterator[int]:
    """The steps of the epoch under way that are left; yields how many the run has done in all."""
    in_precision = autocast(settings.precision, weights.device)
    processes, weight_of = batches.processes, weights.tolist()
    dropout = generator(weights.device)
    run.replica.train()
    before = (run.epoch - 1) * len(batches)
    for batch in batches.epoch(run.epoch, first=run.steps):
        step = before + run.steps
        lr = learning_rate(settings, step, len(batches))
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        # Dropout is a function of the place in the run, so that no generator's state need be kept.
        dropout.manual_seed(_seed(settings.seed, step, processes.rank))
        with in_precision:
            logits = run.replica(normalise(batch.images))
        # This process's part of the mean over the whole batch.
        loss = F.cross_entropy(
            logits.float(),
            batch.labels,
            weights,
            reduction="sum",
            label_smoothing=settings.label_smoothing,
        ) / sum(weight_of[label] for label in batch.all_labels)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        if run.averaged is not None:
            run.averaged.update_parameters(run.model)
        run.loss.add_(loss.detach(), alpha=len(batch.all_labels))
        run.slices += len(batch.all_labels)
        run.steps += 1
        yield step + 1


def _seed(*place: int) -> int:
    return int(np.random.SeedSequence(place).generate_state(1)[0])


def _out_of_patience(run: Run, settings: Train) -> bool:
    return bool(
        settings.patience
        and run.best
        and run.history[-1].epoch - run.best.epoch >= settings.patience
    )


def recalibrate(
    model: nn.Module, prepared: Prepared, device: torch.device, processes: Processes = ALONE
) -> None:
    """Re-estimate batch normalisation's running statistics on training slices, as they are now.

    Running averages lag behind the weights when the learning rate stays high, and validation
    scores then jump from epoch to epoch by tens of points.
    """
    indices = prepared.indices("train")
    count = min(len(indices), RECALIBRATION_IMAGES)
    chosen = indices[np.linspace(0, len(indices) - 1, count).astype(np.int64)]
    batches = -(-count // BATCH_SIZE)
    mine = processes.share(np.arange(batches))

    def inputs() -> Iterator[Tensor]:
        # Strided: the manifest is sorted by class, and the variance within a batch of one class
        # is too small. Strided batches also have one size, as their plain average wants it.
        for first in mine:
            yield normalise(torch.from_numpy(prepared.images[chosen[first::batches]]).to(device))

    # The layers with such statistics; the dropout after them would use up random numbers.
    features = model.get_submodule("features")
    update_bn(inputs(), features)
    for buffer in features.buffers():
        if buffer.is_floating_point():
            buffer.copy_(processes.sum(buffer * (len(mine) / batches)))


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


def _copied(state: Any) -> Any:
    """A deep copy of a state dictionary, its tensors in the memory layout that they have."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_copied(value) for value in state]
    return state

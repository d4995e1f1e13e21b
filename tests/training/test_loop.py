"""The loop learns, repeats itself to the bit, and validates soundly."""

import uuid
from dataclasses import replace

import numpy as np
import pytest
import torch

from alzmri.errors import UserError
from alzmri.models.architectures import build
from alzmri.models.forward import normalise, predict
from alzmri.models.validation import fit_temperature
from alzmri.training.batches import Batches, class_weights
from alzmri.training.checkpoints import Checkpoints
from alzmri.training.loop import (
    Epoch,
    TrainingState,
    learning_rate,
    recalibrate,
    step,
    train,
    validation_scores,
)

CPU = torch.device("cpu")


def _train(prepared, params, on_epoch=lambda *_: None):
    store = Checkpoints("memory://checkpoints", uuid.uuid4().hex)
    return train(prepared, params, CPU, store, on_epoch=on_epoch)


def _vector(model):
    return torch.cat([values.detach().flatten() for values in model.parameters()])


@pytest.fixture
def quick(make_params):
    """LeNet, eight epochs: a second."""

    def make(model="lenet", **train):
        settings = {"lr": 0.02, "epochs": 8, "batch_size": 16, "precision": "fp32", **train}
        return make_params(train=settings, model={"name": model}, data={"image_size": 32})

    return make


@pytest.fixture
def uneven(prepared):
    """A class of its own size, so that balancing has something to balance."""
    rows = tuple(
        replace(row, split="unused") if row.subject in ("3-1", "3-2") else row
        for row in prepared.rows
    )
    return replace(prepared, rows=rows)


def test_it_learns_what_can_be_learned_and_keeps_the_best_epoch(prepared, quick):
    """Also where training goes on and gets worse: the weights are spoiled after epoch 18."""
    seen, best = [], []

    def spoil(state, new):
        seen.append((state.history[-1], state.best))
        if state.best is state.history[-1]:
            best[:] = [_vector(state.model)]
        if state.epoch > 18:
            with torch.no_grad():
                for values in state.model.parameters():
                    values.zero_()

    state = _train(prepared, quick(epochs=20), spoil)
    assert state.best.val_accuracy == 1.0
    assert [epoch.epoch for epoch, _ in seen] == list(range(1, 21))
    assert [epoch for epoch, best_ in seen if epoch is best_][-1] == state.best
    names = [name for name, _ in state.model.named_parameters()]
    assert torch.equal(torch.cat([state.best_weights[n].flatten() for n in names]), best[0])


@pytest.mark.parametrize("model", ["lenet", "resnet18"])
def test_the_same_seed_gives_the_same_bytes(prepared, quick, model):
    one, again = (_train(prepared, quick(model, epochs=1, batch_size=32)) for _ in range(2))
    assert one.history == again.history
    for name, tensor in one.best_weights.items():
        assert torch.equal(tensor, again.best_weights[name])


def test_validation_and_test_slices_are_never_trained_on(prepared, quick):
    spoiled = prepared.images.copy()
    spoiled[prepared.indices("test")] = 255
    state = _train(prepared, quick(epochs=2))
    again = _train(replace(prepared, images=spoiled), quick(epochs=2))
    assert state.history == again.history
    spoiled[prepared.indices("val")] = 0
    again = _train(replace(prepared, images=spoiled), quick(epochs=2))
    assert [e.train_loss for e in state.history] == [e.train_loss for e in again.history]
    assert [e.val_loss for e in state.history] != [e.val_loss for e in again.history]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_weights_that_are_kept_score_what_the_history_says_of_the_best_epoch(
    prepared, quick, ema
):
    """With ``ema`` too: the averaged weights are validated, so the averaged ones are kept."""
    settings = quick(epochs=3, ema=ema, schedule="cosine")
    state = _train(prepared, settings)
    kept = build("lenet", classes=4, image_size=32, dropout=settings.model.dropout)
    kept.load_state_dict(state.best_weights)
    validation = prepared.indices("val")
    truth, logits = prepared.labels[validation], predict(kept, prepared.images, validation, CPU)
    best = state.best
    scores = (best.val_loss, best.val_accuracy, best.val_macro_f1)
    assert validation_scores(truth, logits) == pytest.approx(scores, rel=1e-6)
    assert state.temperature == fit_temperature(truth, logits)
    # The history has the rate of each epoch's last step.
    steps = len(Batches(prepared, settings, CPU))
    expected = [learning_rate(settings.train, steps * n - 1, steps) for n in (1, 2, 3)]
    assert [epoch.lr for epoch in state.history] == expected


def test_the_averaged_weights_are_the_exponential_average_of_every_step(prepared, quick):
    settings = quick(ema=0.8)
    state = TrainingState.start(prepared, settings, CPU)
    batches = Batches(prepared, settings, CPU)
    expected = None
    for batch in batches.epoch(1):
        step(state, batch, batches, settings.train)
        latest = _vector(state.model)
        expected = latest if expected is None else 0.8 * expected + 0.2 * latest
    torch.testing.assert_close(_vector(state.averaged.module), expected)
    assert state.scored is state.averaged.module


@pytest.mark.parametrize("class_weights_", ["none", "sqrt"])
def test_an_epoch_is_torchs_sgd_of_the_weighted_mean_loss(uneven, make_params, class_weights_):
    """Against the loop as it is written in every tutorial; batches of ten, the last of six."""
    settings = {"lr": 0.05, "momentum": 0.7, "weight_decay": 0.01, "label_smoothing": 0.1}
    settings |= {"batch_size": 10, "schedule": "cosine", "epochs": 2, "precision": "fp32"}
    params = make_params(
        model={"name": "lenet", "dropout": 0}, train={**settings, "class_weights": class_weights_}
    )
    state = TrainingState.start(uneven, params, CPU)
    batches = Batches(uneven, params, CPU)
    plain = build("lenet", classes=4, image_size=32, dropout=0)
    plain.load_state_dict(state.model.state_dict())
    optimizer = torch.optim.SGD(plain.parameters(), lr=1, momentum=0.7, weight_decay=0.01)
    weights = class_weights(uneven, params.train)
    loss_of = torch.nn.CrossEntropyLoss(weights, label_smoothing=0.1)
    losses, sizes = [], []
    for number, batch in enumerate(batches.epoch(1)):
        optimizer.param_groups[0]["lr"] = learning_rate(params.train, number, len(batches))
        loss = loss_of(plain(normalise(batch.images)), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        sizes.append(len(batch.images))
        step(state, batch, batches, params.train)
    torch.testing.assert_close(_vector(state.model), _vector(plain), rtol=1e-4, atol=1e-5)
    assert sum(sizes) == 56
    mean = np.average(losses, weights=sizes)
    assert float(state.loss) / 56 == pytest.approx(mean, rel=1e-5)


def test_dropout_draws_anew_in_every_step(prepared, quick):
    """All training slices are one slice: only what is dropped can change the loss."""
    images = prepared.images.copy()
    images[prepared.indices("train")] = images[0]
    rows = tuple(
        replace(row, label=prepared.rows[0].label) if row.split == "train" else row
        for row in prepared.rows
    )
    alike = replace(prepared, images=images, rows=rows)
    params = quick(epochs=3, lr=1e-12, momentum=0, batch_size=64)
    params = params.model_copy(update={"augment": params.augment.model_copy(update={"p": 0.0})})
    losses = [epoch.train_loss for epoch in _train(alike, params).history]
    assert len({f"{loss:.5f}" for loss in losses}) == 3


def test_patience_ends_a_run_and_precision_batch_size_and_seed_change_it(prepared, quick):
    state = _train(prepared, quick(epochs=200, lr=1e-9, patience=3))
    assert len(state.history) == state.best.epoch + 3
    changes = ({}, {"precision": "bf16"}, {"batch_size": 8}, {"seed": 1})
    first = [_train(prepared, quick(epochs=1, **change)).history[0] for change in changes]
    assert len(set(first)) == 4


def test_the_best_epoch_is_the_first_by_macro_f1_then_loss(prepared, quick):
    state = TrainingState.start(prepared, quick(), CPU)
    assert state.best is None
    for f1, loss, best in ((0.5, 1.0, 1), (0.5, 1.0, 1), (0.5, 0.9, 3), (0.6, 2.0, 4), (0.5, 0, 4)):
        state.history.append(Epoch(len(state.history) + 1, 0.1, 1.0, loss, 0.5, f1))
        assert state.best.epoch == best


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_recalibration_gives_the_statistics_of_all_training_slices(prepared, monkeypatch, name):
    """The manifest is sorted by class; batches of one class would miss what lies between them."""
    monkeypatch.setattr("alzmri.training.loop.BATCH_SIZE", 20)
    torch.manual_seed(0)
    model = build(name, classes=4, image_size=32, dropout=0.5)
    convolution, normalisation = model.features[0][0], model.features[0][1]
    before = torch.get_rng_state()
    recalibrate(model, prepared, CPU)
    assert torch.equal(before, torch.get_rng_state())

    def responses(rows):
        with torch.no_grad():
            images = normalise(torch.from_numpy(prepared.images[rows]))
            return convolution(images).transpose(0, 1).flatten(1)

    rows = prepared.indices("train")
    whole = responses(rows)
    torch.testing.assert_close(normalisation.running_mean, whole.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(normalisation.running_var, whole.var(1), rtol=0.02, atol=1e-4)
    # Some of many slices are of every class; the first of them are all of one.
    monkeypatch.setattr("alzmri.training.loop.RECALIBRATION_IMAGES", 16)
    recalibrate(model, prepared, CPU)
    away = (normalisation.running_mean - whole.mean(1)).norm()
    assert away < 0.3 * (responses(rows[:16]).mean(1) - whole.mean(1)).norm()


def test_training_validates_with_recalibrated_statistics(prepared, quick, monkeypatch):
    """The running averages lag behind the weights, and validation shows it."""
    settings = quick("alexnet", epochs=1, lr=0.01)
    with_it = _train(prepared, settings).history
    monkeypatch.setattr("alzmri.training.loop.recalibrate", lambda *_: None)
    without = _train(prepared, settings).history
    assert with_it[-1].val_loss < without[-1].val_loss


def test_a_run_that_diverges_stops_with_the_remedy(prepared, quick):
    with pytest.raises(UserError, match=r"diverged in epoch \d.*lower train\.lr \(10\.0\)"):
        _train(prepared, quick("alexnet", lr=10.0, epochs=5))

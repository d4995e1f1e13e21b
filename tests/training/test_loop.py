"""The loop learns, repeats itself to the bit, and validates soundly."""

import uuid
from dataclasses import replace

import numpy as np
import pytest
import torch

from alzmri.errors import UserError
from alzmri.models import build
from alzmri.models.forward import normalise, predict
from alzmri.training.batches import Batches, class_weights
from alzmri.training.calibration import fit_temperature
from alzmri.training.checkpoints import Checkpoints
from alzmri.training.loop import Epoch, Run, recalibrate, step, train, validation_scores
from alzmri.training.processes import Processes
from alzmri.training.schedule import learning_rate

CPU = torch.device("cpu")


def _train(prepared, params, seen=None):
    return train(
        prepared,
        params,
        CPU,
        Checkpoints("memory://checkpoints", uuid.uuid4().hex),
        on_step=lambda *_: None,
        on_epoch=lambda run, _: seen.append((run.history[-1], run.best)) if seen is not None else 0,
    )


@pytest.fixture
def quick(make_params):
    """LeNet, eight epochs: a second."""

    def make(model="lenet", **train):
        settings = {"lr": 0.02, "epochs": 8, "batch_size": 16, "precision": "fp32", **train}
        return make_params(train=settings, model={"name": model}, data={"image_size": 32})

    return make


def test_it_learns_what_can_be_learned(prepared, quick):
    seen = []
    run = _train(prepared, quick(epochs=20), seen)
    assert run.best.val_accuracy == 1.0
    assert [epoch.epoch for epoch, _ in seen] == list(range(1, 21))
    assert [epoch for epoch, best in seen if epoch is best][-1] == run.best


@pytest.mark.parametrize("model", ["lenet", "alexnet", "resnet18"])
def test_the_same_seed_gives_the_same_bytes(prepared, quick, model):
    runs = [_train(prepared, quick(model, epochs=2)) for _ in range(2)]
    assert runs[0].history == runs[1].history
    for name, tensor in runs[0].best_weights.items():
        assert torch.equal(tensor, runs[1].best_weights[name])


def test_another_seed_gives_other_weights(prepared, quick):
    first, second = (_train(prepared, quick(epochs=1, seed=seed)) for seed in (0, 1))
    assert first.history != second.history


def test_validation_and_test_slices_are_never_trained_on(prepared, quick):
    spoiled = prepared.images.copy()
    spoiled[prepared.indices("test")] = 255
    run = _train(prepared, quick(epochs=2))
    again = _train(replace(prepared, images=spoiled), quick(epochs=2))
    assert run.history == again.history
    spoiled[prepared.indices("val")] = 0
    again = _train(replace(prepared, images=spoiled), quick(epochs=2))
    assert [e.train_loss for e in run.history] == [e.train_loss for e in again.history]
    assert [e.val_loss for e in run.history] != [e.val_loss for e in again.history]


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": "onecycle"},
        {"schedule": "cosine", "warmup": 1},
        {"class_weights": "balanced"},
        {"label_smoothing": 0.1},
        {"ema": 0.9},
        {"precision": "bf16"},
        {"weight_decay": 0.1},
        {"momentum": 0.5},
        {"lr": 0.01},
        {"batch_size": 8},
    ],
)
def test_every_setting_changes_the_run(prepared, quick, change):
    # A class of its own size, so that balancing has something to balance.
    rows = tuple(
        replace(row, split="unused") if row.subject in ("3-1", "3-2") else row
        for row in prepared.rows
    )
    uneven = replace(prepared, rows=rows)
    assert (
        _train(uneven, quick(epochs=2)).history != _train(uneven, quick(epochs=2, **change)).history
    )


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_weights_that_are_kept_score_what_the_history_says_of_the_best_epoch(
    prepared, quick, ema
):
    """With ``ema`` too: the averaged weights are validated, so the averaged ones are kept."""
    settings = quick(epochs=3, ema=ema)
    run = _train(prepared, settings)
    kept = build("lenet", classes=4, image_size=32, dropout=settings.model.dropout)
    kept.load_state_dict(run.best_weights)
    validation = prepared.indices("val")
    truth, logits = prepared.labels[validation], predict(kept, prepared.images, validation, CPU)
    best = run.best
    scores = (best.val_loss, best.val_accuracy, best.val_macro_f1)
    assert validation_scores(truth, logits) == pytest.approx(scores, rel=1e-6)
    assert run.temperature == fit_temperature(truth, logits)


def test_the_averaged_weights_are_the_exponential_average_of_every_step(prepared, quick):
    settings = quick(ema=0.8)
    run = Run.start(prepared, settings, CPU)
    batches = Batches(prepared, settings, CPU)
    expected = None
    for batch in batches.epoch(1):
        step(run, batch, batches, settings.train)
        latest = _vector(run.model)
        expected = latest if expected is None else 0.8 * expected + 0.2 * latest
    torch.testing.assert_close(_vector(run.averaged.module), expected)
    assert run.scored is run.averaged.module


@pytest.mark.parametrize("class_weights_", ["none", "sqrt"])
def test_an_epoch_is_torchs_sgd_of_the_weighted_mean_loss(prepared, make_params, class_weights_):
    """Against the loop as it is written in every tutorial; batches of ten, the last of four."""
    params = make_params(
        model={"name": "lenet", "dropout": 0},
        train={
            "lr": 0.05,
            "momentum": 0.7,
            "weight_decay": 0.01,
            "batch_size": 10,
            "label_smoothing": 0.1,
            "class_weights": class_weights_,
            "schedule": "cosine",
            "epochs": 2,
            "precision": "fp32",
        },
    )
    rows = tuple(
        replace(row, split="unused") if row.subject in ("3-1", "3-2") else row
        for row in prepared.rows
    )
    uneven = replace(prepared, rows=rows)
    run, batches = Run.start(uneven, params, CPU), Batches(uneven, params, CPU)
    plain = build("lenet", classes=4, image_size=32, dropout=0)
    plain.load_state_dict(run.model.state_dict())
    optimizer = torch.optim.SGD(plain.parameters(), lr=1, momentum=0.7, weight_decay=0.01)
    weights = class_weights(uneven, params.train)
    loss_of = torch.nn.CrossEntropyLoss(weights, label_smoothing=0.1)
    losses, sizes = [], []
    for number, batch in enumerate(Batches(uneven, params, CPU).epoch(1)):
        optimizer.param_groups[0]["lr"] = learning_rate(params.train, number, len(batches))
        loss = loss_of(plain(normalise(batch.images)), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        sizes.append(len(batch.images))
    for batch in batches.epoch(1):
        step(run, batch, batches, params.train)
    torch.testing.assert_close(_vector(run.model), _vector(plain), rtol=1e-4, atol=1e-5)
    assert run.slices == sum(sizes) == 56
    mean = np.average(losses, weights=sizes)
    assert float(run.loss) / run.slices == pytest.approx(mean, rel=1e-5)
    assert run.optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_the_history_has_the_rate_of_each_epochs_last_step(prepared, quick):
    settings = quick(epochs=3, schedule="cosine")
    run = _train(prepared, settings)
    steps = len(Batches(prepared, settings, CPU))
    expected = [learning_rate(settings.train, steps * n - 1, steps) for n in (1, 2, 3)]
    assert [epoch.lr for epoch in run.history] == expected
    assert run.optimizer.param_groups[0]["lr"] == expected[-1]


def test_dropout_draws_anew_in_every_step(prepared, quick):
    """All training slices are one slice: only what is dropped can change the loss."""
    images = prepared.images.copy()
    train_rows = prepared.indices("train")
    images[train_rows] = images[0]
    rows = tuple(
        replace(row, label=prepared.rows[0].label) if row.split == "train" else row
        for row in prepared.rows
    )
    alike = replace(prepared, images=images, rows=rows)
    params = quick(epochs=3, lr=1e-12, momentum=0, batch_size=64)
    params = params.model_copy(update={"augment": params.augment.model_copy(update={"p": 0.0})})
    losses = [epoch.train_loss for epoch in _train(alike, params).history]
    assert len({f"{loss:.5f}" for loss in losses}) == 3


def test_the_best_weights_stay_when_training_goes_on_and_gets_worse(prepared, quick):
    best = []

    def forget(run, _):
        if run.best is run.history[-1]:
            best[:] = [_vector(run.model)]
        if run.epoch > 10:
            with torch.no_grad():
                for values in run.model.parameters():
                    values.zero_()

    store = Checkpoints("memory://checkpoints", uuid.uuid4().hex)
    run = train(prepared, quick(epochs=12), CPU, store, lambda *_: None, forget)
    assert run.best.epoch <= 10
    kept = torch.cat([run.best_weights[name].flatten() for name, _ in run.model.named_parameters()])
    assert torch.equal(kept, best[0])


def _vector(model):
    return torch.cat([values.detach().flatten() for values in model.parameters()])


def test_patience_ends_a_run_that_no_longer_improves(prepared, quick):
    run = _train(prepared, quick(epochs=200, lr=1e-9, patience=3))
    assert len(run.history) == run.best.epoch + 3


def test_the_best_epoch_is_by_macro_f1_then_loss():
    def epoch(f1, loss):
        return Epoch(1, 0.1, 1.0, loss, 0.5, f1)

    assert epoch(0.5, 1.0).better_than(None)
    assert epoch(0.6, 2.0).better_than(epoch(0.5, 1.0))
    assert epoch(0.5, 0.9).better_than(epoch(0.5, 1.0))
    assert not epoch(0.5, 1.0).better_than(epoch(0.5, 1.0))


def test_an_epoch_has_every_training_slice_once(prepared, make_params, device):
    params = make_params(augment={"p": 0}, train={"batch_size": 10})
    batches = Batches(prepared, params, device)
    seen = [image.cpu().numpy() for batch in batches.epoch(1) for image in batch.images]
    assert len(batches) == 7
    expected = sorted(image.tobytes() for image in prepared.images[prepared.indices("train")])
    assert sorted(image.tobytes() for image in seen) == expected


def test_batches_augmented_in_one_go_are_the_same(prepared, make_params, device):
    batches = Batches(prepared, make_params(train={"batch_size": 10}), device)
    singly, together = ([], [])
    for at_once, kept in ((1, singly), (3, together)):
        batches._at_once = at_once
        kept.extend(batches.epoch(1, first=1))
    for one, other in zip(singly, together, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert (one.slices, one.weight) == (other.slices, other.weight)


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_share_what_one_has(prepared, make_params, device, size):
    """63 slices in batches of 10, which 3 does not divide; the last has three."""
    prepared = replace(prepared, rows=prepared.rows[1:])
    params = make_params(train={"batch_size": 10})
    alone = list(Batches(prepared, params, device).epoch(2))
    shares = [
        list(Batches(prepared, params, device, Processes(rank, size)).epoch(2))
        for rank in range(size)
    ]
    for batch, *parts in zip(alone, *shares, strict=True):
        for rank, part in enumerate(parts):
            assert torch.equal(part.images, batch.images[rank::size])
            assert torch.equal(part.labels, batch.labels[rank::size])
            assert (part.slices, part.weight) == (len(batch.images), len(batch.images))


def test_a_process_without_a_slice_counts_nothing(prepared, make_params, device):
    batches = Batches(prepared, make_params(train={"batch_size": 3}), device, Processes(4, 5))
    for batch in batches.epoch(1):
        assert batch.images.shape == (1, 32, 32)
        loss = torch.nn.functional.cross_entropy(
            torch.randn(1, 4),
            batch.labels.cpu(),
            torch.ones(4),
            reduction="sum",
            label_smoothing=0.1,
        )
        assert loss == 0


def test_epochs_differ_in_order_but_repeat_themselves(prepared, make_params, device):
    """Also from within, and after the next one was begun ahead."""
    batches = Batches(prepared, make_params(train={"batch_size": 10}), device)

    def images(epoch, first=0):
        return torch.cat([batch.images for batch in batches.epoch(epoch, first)])

    one, again, two = images(1), images(1), images(2)
    assert len(one) == len(prepared.indices("train"))
    assert torch.equal(one, again)
    assert len(one) == len(two)
    assert not torch.equal(one, two)
    assert torch.equal(images(2), two)
    assert torch.equal(images(1, first=3), one[30:])
    assert torch.equal(images(2, first=3), two[30:])
    assert torch.equal(images(1), one)


def test_the_order_of_the_slices_differs_between_epochs_and_seeds(prepared, make_params, device):
    """Without augmentation, which would make the images differ whatever their order."""

    def order(epoch, seed):
        params = make_params(augment={"p": 0}, train={"batch_size": 10, "seed": seed})
        batches = Batches(prepared, params, device).epoch(epoch)
        return [image.cpu().numpy().tobytes() for batch in batches for image in batch.images]

    first = order(1, seed=0)
    orders = [first, order(2, seed=0), order(1, seed=1)]
    assert len({tuple(images) for images in orders}) == 3
    # Shuffled within the epoch too: the manifest is sorted by class.
    assert first != [image.tobytes() for image in prepared.images[prepared.indices("train")]]


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
    images = torch.from_numpy(prepared.images[prepared.indices("train")])
    with torch.no_grad():
        responses = convolution(normalise(images)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normalisation.running_mean, responses.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(normalisation.running_var, responses.var(1), rtol=0.02, atol=1e-4)


def test_recalibration_on_some_of_many_slices_takes_them_from_every_class(prepared, monkeypatch):
    """Training slices are sorted by class: the first of them are all of one."""
    monkeypatch.setattr("alzmri.training.loop.RECALIBRATION_IMAGES", 16)
    torch.manual_seed(0)
    model = build("alexnet", classes=4, image_size=32, dropout=0.5)
    convolution, normalisation = model.features[0][0], model.features[0][1]
    recalibrate(model, prepared, CPU)

    def mean(rows):
        with torch.no_grad():
            responses = convolution(normalise(torch.from_numpy(prepared.images[rows])))
        return responses.mean((0, 2, 3))

    train_rows = prepared.indices("train")
    everything, first = mean(train_rows), mean(train_rows[:16])
    away = (normalisation.running_mean - everything).norm()
    assert away < 0.3 * (first - everything).norm()


def test_training_validates_with_recalibrated_statistics(prepared, quick, monkeypatch):
    """At a constant rate the running averages lag, and validation shows it."""
    settings = quick("alexnet", epochs=3, lr=0.01)
    with_it = _train(prepared, settings).history
    monkeypatch.setattr("alzmri.training.loop.recalibrate", lambda *_: None)
    without = _train(prepared, settings).history
    assert with_it[-1].val_loss < without[-1].val_loss


def test_a_run_that_diverges_stops_with_the_remedy(prepared, quick):
    with pytest.raises(UserError, match=r"diverged in epoch \d.*lower train\.lr \(10\.0\)"):
        _train(prepared, quick("alexnet", lr=10.0, epochs=5))


def test_balanced_weights_are_inverse_to_frequency(prepared, make_params):
    rows = tuple(
        replace(r, label="Non Demented") if r.subject == "1-0" else r for r in prepared.rows
    )
    uneven = replace(prepared, rows=rows)
    weights = class_weights(uneven, make_params(train={"class_weights": "balanced"}).train)
    np.testing.assert_allclose(weights, [64 / 4 / 20, 64 / 4 / 12, 1, 1], rtol=1e-6)
    rows = tuple(
        replace(row, split="test") if row.label == "Mild Demented" else row for row in rows
    )
    absent = replace(prepared, rows=rows)
    weights = class_weights(absent, make_params(train={"class_weights": "balanced"}).train)
    np.testing.assert_allclose(weights, [48 / 3 / 20, 48 / 3 / 12, 0, 1], rtol=1e-6)
    assert class_weights(uneven, make_params().train).tolist() == [1, 1, 1, 1]
    roots = class_weights(uneven, make_params(train={"class_weights": "sqrt"}).train)
    np.testing.assert_allclose(roots, np.sqrt([64 / 4 / 20, 64 / 4 / 12, 1, 1]), rtol=1e-6)

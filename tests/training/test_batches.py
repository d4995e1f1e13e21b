"""An epoch has every training slice once, in an order of its own, for any number of processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alzmri.training.batches import Batches, class_weights
from alzmri.training.processes import Processes


def test_an_epoch_has_every_training_slice_once_in_an_order_of_its_own(
    prepared, make_params, device
):
    """Without augmentation, which would make the images differ whatever their order."""

    def order(epoch, seed):
        params = make_params(augment={"p": 0}, train={"batch_size": 10, "seed": seed})
        batches = Batches(prepared, params, device)
        assert len(batches) == 7
        images = [image.cpu().numpy() for batch in batches.epoch(epoch) for image in batch.images]
        return tuple(image.tobytes() for image in images)

    orders = [order(1, seed=0), order(2, seed=0), order(1, seed=1)]
    assert len(set(orders)) == 3
    # Shuffled within the epoch too: the manifest is sorted by class.
    unshuffled = [image.tobytes() for image in prepared.images[prepared.indices("train")]]
    for images in orders:
        assert sorted(images) == sorted(unshuffled)
        assert list(images) != unshuffled


def test_an_epoch_repeats_itself_also_from_within(prepared, make_params, device):
    batches = Batches(prepared, make_params(train={"batch_size": 10}), device)

    def images(epoch, first=0):
        return torch.cat([batch.images for batch in batches.epoch(epoch, first)])

    one, two = images(1), images(2)
    assert not torch.equal(one, two)
    assert torch.equal(images(1), one)
    assert torch.equal(images(2, first=3), two[30:])


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
        logits, weights = torch.randn(1, 4), torch.ones(4)
        smooth = {"reduction": "sum", "label_smoothing": 0.1}
        assert torch.nn.functional.cross_entropy(logits, batch.labels.cpu(), weights, **smooth) == 0


def test_class_weights_are_inverse_to_frequency(prepared, make_params):
    rows = tuple(
        replace(r, label="Non Demented") if r.subject == "1-0" else r for r in prepared.rows
    )

    def weights(rows, kind):
        settings = make_params(train={"class_weights": kind}).train
        return class_weights(replace(prepared, rows=rows), settings).numpy()

    expected = np.array([64 / 4 / 20, 64 / 4 / 12, 1, 1])
    np.testing.assert_allclose(weights(rows, "balanced"), expected, rtol=1e-6)
    np.testing.assert_allclose(weights(rows, "sqrt"), np.sqrt(expected), rtol=1e-6)
    assert weights(rows, "none").tolist() == [1, 1, 1, 1]
    rows = tuple(
        replace(row, split="test") if row.label == "Mild Demented" else row for row in rows
    )
    absent = [48 / 3 / 20, 48 / 3 / 12, 0, 1]
    np.testing.assert_allclose(weights(rows, "balanced"), absent, rtol=1e-6)

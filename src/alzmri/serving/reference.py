"""What the model makes of slices whose class is known, to compare a new slice with.

The training slices give the nearest examples, the test slices how often each class was right.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alzmri.data.prepared import Prepared
from alzmri.files import replacing
from alzmri.inference.engine import Engine
from alzmri.models.forward import probabilities
from alzmri.serving.answers import Frequency, Nearest
from alzmri.terminal import Update

NEAREST = 10
"""Training slices that are shown."""
WINDOW = 60
"""Test slices with the most similar probability, whose classes count."""
_BATCH = 32
"""Slices in one run of the model: ONNX Runtime keeps the memory of the largest."""
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Reference:
    """The known slices.

    Attributes:
        weights: SHA-256 of the weights that computed this.
        data: SHA-256 of the prepared data.
        features: of the training slices, float32 ``[n, units]``, each of length 1.
        labels: their class indices, int64 ``[n]``.
        people: whose they are, int64 ``[n]``.
        probabilities: of the test slices, calibrated, float64 ``[m, classes]``.
        test_labels: their class indices, int64 ``[m]``.
        test_people: whose they are, int64 ``[m]``.
    """

    weights: str
    data: str
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    people: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    test_labels: NDArray[np.int64]
    test_people: NDArray[np.int64]

    def nearest(self, features: NDArray[np.float32], classes: Sequence[str]) -> Nearest:
        """The training slices most like one with ``features`` ``[units]``.

        By the cosine of what the model sees, as deep k-nearest neighbours (Papernot and McDaniel,
        2018) compare; not of what the eye does.
        """
        similarity = self.features @ (features / np.linalg.norm(features))
        order = np.argsort(-similarity, kind="stable")[:NEAREST]
        return Nearest(
            classes=[classes[label] for label in self.labels[order]],
            similarity=[round(float(value), 4) for value in similarity[order]],
            people=len(np.unique(self.people[order])),
        )

    def observed(
        self, probabilities: NDArray[np.float64], classes: Sequence[str]
    ) -> dict[str, Frequency]:
        """For each class, how often test slices with such a probability were in it.

        The interval is Wilson's (1927) with as many trials as subjects: slices of one brain are
        not independent, and this takes them for one each, which is wider than the truth.
        """
        result = {}
        for label, (name, probability) in enumerate(zip(classes, probabilities, strict=True)):
            distance = np.abs(self.probabilities[:, label] - probability)
            window = np.argsort(distance, kind="stable")[:WINDOW]
            share = float((self.test_labels[window] == label).mean())
            people = len(np.unique(self.test_people[window]))
            low, high = _wilson(share, people)
            result[name] = Frequency(
                share=share, low=low, high=high, slices=len(window), people=people
            )
        return result


def _wilson(share: float, trials: int) -> tuple[float, float]:
    spread = _Z**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    half = np.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def make(
    prepared: Prepared, engine: Engine, temperature: float, kept: Path, update: Update
) -> Reference:
    """Run the model over training and test slices, or read what an earlier start kept."""
    weights, digest = engine.about["weights"], prepared.digest
    train, test = prepared.indices("train"), prepared.indices("test")
    if (
        (reference := _read(kept))
        and (reference.weights, reference.data) == (weights, digest)
        # Of another version, the features might be others.
        and reference.features.shape[1] == engine.run(prepared.images[train[:1]])[1].shape[1]
    ):
        return reference
    people = np.unique([row.subject for row in prepared.rows], return_inverse=True)[1]
    logits, features = _run(engine, prepared.images, np.concatenate([train, test]), update)
    features = features[: len(train)]
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    reference = Reference(
        weights=weights,
        data=digest,
        features=features,
        labels=prepared.labels[train],
        people=people[train],
        probabilities=probabilities(logits[len(train) :] / temperature),
        test_labels=prepared.labels[test],
        test_people=people[test],
    )
    with suppress(OSError), replacing(kept) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **vars(reference))  # in a read-only container the next start computes anew
    return reference


def _run(
    engine: Engine, images: NDArray[np.uint8], indices: NDArray[np.int64], update: Update
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    logits, features = [], []
    for start in range(0, len(indices), _BATCH):
        scores, units = engine.run(images[indices[start : start + _BATCH]])
        logits.append(scores)
        features.append(units)
        update(min(start + _BATCH, len(indices)), len(indices))
    return np.concatenate(logits), np.concatenate(features)


def _read(kept: Path) -> Reference | None:
    """What an earlier start kept; None when there is nothing, or it is damaged."""
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            content: dict[str, Any] = dict(arrays)
        content |= {name: str(content[name]) for name in ("weights", "data")}
        return Reference(**content)
    except (OSError, ValueError, KeyError, TypeError):
        return None

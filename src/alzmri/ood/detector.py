"""Detect images that are unlike a model's training slices.

The score is the Mahalanobis distance of a network's features from those of the training slices (Lee
et al., "A simple unified framework for detecting out-of-distribution samples and adversarial
attacks", 2018), with one Gaussian for all classes (Kamoi and Kobayashi, "Why is the Mahalanobis
distance effective for anomaly detection?", 2020). There are more features than slices, so its
covariance is that of probabilistic principal components (Tipping and Bishop, 1999): the leading
directions have their own variance, all others share one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize
from scipy.special import betaincinv, stdtrit

from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.files import write_bytes
from alzmri.models import saved
from alzmri.models.forward import choose
from alzmri.ood.features import WithFeatures, run

FILE = "ood.safetensors"
KEPT_VARIANCE = 0.99  # fraction of the training features' variance in the leading directions
SUBJECTS = 0.99  # fraction of new subjects of each class that shall have no flagged slice
OWN_SPREAD = 10  # subjects of a class; fewer say little about its spread
TRAINING_IMAGES = 2048  # maximum training slices for the Gaussian; more only take time

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Detector:
    """The Gaussian and its threshold: ``models/ood.safetensors``."""

    mean: Features  # [width]
    directions: Features  # orthonormal, [leading, width]
    variances: Features  # along them, [leading]
    residual: float  # the variance along every other direction
    threshold: float  # the largest distance in distribution, see `limit`
    weights: str  # SHA-256 of the model.safetensors that gives the features

    @classmethod
    def fit(
        cls,
        training: Features,
        validation: Features,
        subjects: Sequence[str],
        labels: NDArray[np.int64],
        weights: str,
    ) -> "Detector":
        """Fit to features ``[n, width]``; subjects and labels are of the validation slices."""
        mean = training.mean(axis=0)
        _, lengths, directions = np.linalg.svd(training - mean, full_matrices=False)
        spread = np.square(lengths, dtype=np.float64) / len(training)
        share = np.cumsum(spread) / max(spread.sum(), np.finfo(np.float64).tiny)
        leading = min(int(np.searchsorted(share, KEPT_VARIANCE)) + 1, len(spread))
        others = max(1, training.shape[1] - leading)
        # A dead layer has no variance, so that everything else is infinitely far.
        least = max(1e-6 * float(spread.mean()), 1e-12)
        fitted = cls(
            mean=mean,
            directions=np.ascontiguousarray(directions[:leading]),
            variances=np.maximum(spread[:leading], least).astype(np.float32),
            residual=max(float(spread[leading:].sum()) / others, least),
            threshold=1.0,
            weights=weights,
        )
        threshold = limit(fitted.score(validation), subjects, labels)
        return replace(fitted, threshold=max(threshold, least))

    def score(self, features: Features) -> NDArray[np.float64]:
        """The distance over the threshold, float64 ``[n]``: above 1 is out of distribution."""
        # Products in single, sums in double precision: a server does this for every request.
        away = features - self.mean
        along = np.square(away @ self.directions.T, dtype=np.float64)
        beside = np.maximum(np.square(away, dtype=np.float64).sum(axis=1) - along.sum(axis=1), 0)
        distances = np.sqrt((along / self.variances).sum(axis=1) + beside / self.residual)
        return distances / self.threshold

    def save(self, directory: Path) -> str:
        """Write ``ood.safetensors``; return its SHA-256."""
        tensors = {n: np.asarray(value) for n, value in vars(self).items() if n != "weights"}
        # Only one entry, because safetensors writes several in any order.
        content = serialize(tensors, {"weights": self.weights})
        write_bytes(directory / FILE, content)
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def load(cls, directory: Path, weights: str) -> "Detector":
        """Read ``ood.safetensors``; raises UserError if missing, damaged or of another model."""
        path = directory / FILE
        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                residual, threshold = (float(tensors.pop(n)) for n in ("residual", "threshold"))
                made_for = (file.metadata() or {})["weights"]
                found = cls(**tensors, residual=residual, threshold=threshold, weights=made_for)
            found._check()
        except FileNotFoundError:
            raise UserError(f"{path} not found: run `dvc repro ood`, or `dvc pull`") from None
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): run `dvc repro -f ood`") from None
        if found.weights != weights:
            raise UserError(f"{path} belongs to other weights: run `dvc repro ood`")
        return found

    def _check(self) -> None:
        """Raise ValueError for invalid values: with a NaN, every image would be in distribution."""
        leading, width = self.directions.shape
        if self.mean.shape != (width,) or self.variances.shape != (leading,):
            raise ValueError("its arrays have different sizes")
        lengths = np.square(self.directions).sum(axis=1)
        if not (np.isfinite(self.mean).all() and np.allclose(lengths, 1, atol=1e-3)):
            raise ValueError("its mean or directions have NaN or infinite values")
        spreads = (*self.variances.tolist(), self.residual, self.threshold)
        if not all(0 < value < np.inf for value in spreads):
            raise ValueError("its variances or its threshold have impossible values")


def limit(
    distances: NDArray[np.float64], subjects: Sequence[str], labels: NDArray[np.int64]
) -> float:
    """The upper limit for the distance of a new subject's farthest slice, in any class.

    Subjects differ more than slices of one subject, and atrophy is farther from the mean than
    health: a quantile of all slices would flag whole subjects of one class, and none of another. So
    this is the prediction limit, at ``SUBJECTS``, for the farthest slice of one new subject of the
    class with the highest limit (normal; the spread is that of all classes or, where it gives more,
    the class's own, if it has ``OWN_SPREAD`` subjects).

    ``distances``, ``subjects`` and ``labels`` (classes) are of ``n`` slices of subjects outside the
    Gaussian's training part.
    """
    _, first, member = np.unique(np.asarray(subjects), return_index=True, return_inverse=True)
    farthest = np.full(len(first), -np.inf)
    np.maximum.at(farthest, member, distances)
    group = np.unique(labels[first], return_inverse=True)[1]
    if len(first) <= group.max() + 1:
        group = np.zeros_like(group)  # too few to estimate the spread within a class
    free = len(first) - group.max() - 1
    if not free:
        return float(farthest.max())
    sizes = np.bincount(group)
    centres = np.bincount(group, farthest) / sizes
    squares = np.bincount(group, np.square(farthest - centres[group]))

    def reach(squares: Any, free: Any) -> NDArray[np.float64]:
        return stdtrit(free, SUBJECTS) * np.sqrt(squares / free * (1 + 1 / sizes))

    limits = centres + reach(squares.sum(), free)
    many = sizes >= OWN_SPREAD
    return float(
        np.max([limits, np.where(many, centres + reach(squares, np.maximum(sizes - 1, 1)), 0)])
    )


def fit(directory: Path, prepared: Prepared) -> tuple[Detector, dict[str, Any]]:
    """Fit the detector for the model in ``directory``; also return ``models/ood.json``'s content.

    Training slices determine the Gaussian, validation subjects the threshold, and test slices the
    rate of false alarms, in each class and of each subject with any. Raises :class:`UserError` if
    the model is missing, damaged, or was trained on other data.
    """
    model, card = saved.load(directory)
    if card.data_sha256 != prepared.digest:
        what = f"{directory}/ was trained on other data or another split than data/prepared"
        raise UserError(f"{what}: run `dvc repro train`")
    device = choose()
    network = WithFeatures(model).to(device)
    training, validation, test = (prepared.indices(part) for part in ("train", "val", "test"))
    training = training[:: -(-len(training) // TRAINING_IMAGES)]
    known, held_out, unseen = (
        run(network, prepared.images, part, device)[1] for part in (training, validation, test)
    )
    weights = saved.digest(directory)
    subjects = np.array([row.subject for row in prepared.rows])
    detector = Detector.fit(
        known, held_out, subjects[validation].tolist(), prepared.labels[validation], weights
    )
    flagged, subjects = detector.score(unseen) > 1, subjects[test]
    sure = prepared.subjects_known  # else each slice counts as a subject
    return detector, {
        **_alarms(flagged, subjects, sure),
        "classes": {
            name: _alarms(flagged[of_class], subjects[of_class], sure)
            for number, name in enumerate(prepared.classes)
            for of_class in [prepared.labels[test] == number]
            if of_class.any()
        },
        "flagged": {
            str(name): f"{flagged[subjects == name].sum()} of {(subjects == name).sum()}"
            for name in np.unique(subjects[flagged])
            if sure
        },
        "validation": {"false_alarms": float((detector.score(held_out) > 1).mean())},
        "directions": len(detector.directions),
        # The stage adds the detector's digest, because evaluate depends on this file only.
        "weights": weights,
    }


def _alarms(flagged: NDArray[np.bool_], subjects: NDArray[np.str_], sure: bool) -> dict[str, Any]:
    """The share of ``flagged`` slices, with its 95 % interval over subjects."""
    names, of = np.unique(subjects, return_inverse=True)
    rate = float(flagged.mean())
    return {
        "false_alarms": rate,
        "ci95": {"false_alarms": share_interval(rate, len(names))},
        "slices": len(flagged),
        "subjects": len(names) if sure else None,
        "subjects_flagged": int((np.bincount(of, flagged) > 0).sum()) if sure else None,
    }


def share_interval(share: float, subjects: int) -> list[float]:
    """The 95 % interval of a ``share`` of the slices of ``subjects``, 0 to 1, with these as trials.

    It is Clopper and Pearson's (1934): exact if a subject's slices are equal, otherwise too wide.
    """
    hits = share * subjects
    low = float(betaincinv(hits, subjects - hits + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 1, subjects - hits, 0.975)) if hits < subjects else 1.0
    return [low, high]

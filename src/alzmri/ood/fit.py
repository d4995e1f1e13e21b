"""Fit the detector, and count its false alarms on subjects whom it has not seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.models import saved
from alzmri.models.device import choose
from alzmri.ood import features
from alzmri.ood.detector import TRAINING_IMAGES, Detector

RESAMPLES = 2000


def fit(directory: Path, prepared: Prepared, seed: int) -> tuple[Detector, dict[str, Any]]:
    """The detector for the model in ``directory``, and the content of ``models/ood.json``.

    Training slices give the Gaussian, validation slices the threshold, test slices the rate of
    false alarms with its 95 % interval over subjects (bootstrap with ``seed``).

    Raises:
        UserError: when the model is missing, damaged, or was trained on other data.
    """
    model, card = saved.load(directory)
    if card.data_sha256 != prepared.digest:
        raise UserError(
            f"{directory}/ was trained on other data or another split than data/prepared: run"
            " `dvc repro train`"
        )
    device = choose()
    network = features.WithFeatures(model).to(device)
    training, validation, test = (prepared.indices(part) for part in ("train", "val", "test"))
    every = -(-len(training) // TRAINING_IMAGES)
    _, known = features.run(network, prepared.images, training[::every], device)
    _, held_out = features.run(network, prepared.images, validation, device)
    _, unseen = features.run(network, prepared.images, test, device)
    detector = Detector.fit(known, held_out, saved.digest(directory))
    flagged = detector.score(unseen) > 1
    subjects = [prepared.rows[index].subject for index in test]
    return detector, {
        "false_alarms": float(flagged.mean()),
        "ci95": {"false_alarms": _interval(flagged, subjects, seed)},
        "slices": len(test),
        "subjects": len(set(subjects)) if prepared.subjects_known else None,
        "validation": {"false_alarms": float((detector.score(held_out) > 1).mean())},
        "directions": len(detector.directions),
    }


def _interval(flagged: NDArray[np.bool_], subjects: Sequence[str], seed: int) -> list[float]:
    """The 95 % percentile interval of the rate, drawing subjects with all their slices."""
    _, of = np.unique(subjects, return_inverse=True)
    alarms, slices = np.bincount(of, flagged), np.bincount(of)
    if len(slices) < 2:
        return [0.0, 1.0]  # one subject tells nothing of others
    found = bootstrap(
        (alarms, slices),
        lambda alarms, slices, axis: alarms.sum(axis) / slices.sum(axis),
        n_resamples=RESAMPLES,
        paired=True,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return [float(found.low), float(found.high)]


def headline(found: dict[str, Any]) -> str:
    """One line for the terminal, of the content of ``models/ood.json``."""
    low, high = found["ci95"]["false_alarms"]
    return (
        f"{found['false_alarms']:.1%} [{low:.1%}, {high:.1%}] of the {found['slices']} test"
        " slices are flagged as unlike the training slices, though they are of the same kind"
    )

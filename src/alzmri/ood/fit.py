"""Fit the detector, and count its false alarms on subjects whom it has not seen."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.models import saved
from alzmri.models.device import choose
from alzmri.ood import features
from alzmri.ood.detector import TRAINING_IMAGES, Detector


def fit(directory: Path, prepared: Prepared) -> tuple[Detector, dict[str, Any]]:
    """The detector for the model in ``directory``, and the content of ``models/ood.json``.

    Training slices give the Gaussian, validation subjects the threshold, test slices the rate of
    false alarms, in each class and of each subject that has any.

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
    weights = saved.digest(directory)
    of_validation = [prepared.rows[index].subject for index in validation]
    detector = Detector.fit(known, held_out, of_validation, prepared.labels[validation], weights)
    flagged = detector.score(unseen) > 1
    subjects = np.array([prepared.rows[index].subject for index in test])
    found: dict[str, Any] = {
        **_alarms(flagged, subjects),
        "classes": {
            name: _alarms(flagged[of_class], subjects[of_class])
            for number, name in enumerate(prepared.classes)
            for of_class in [prepared.labels[test] == number]
            if of_class.any()
        },
        "flagged": {
            str(name): f"{flagged[subjects == name].sum()} of {(subjects == name).sum()}"
            for name in np.unique(subjects[flagged])
        },
        "validation": {"false_alarms": float((detector.score(held_out) > 1).mean())},
        "directions": len(detector.directions),
        # With the detector's, which the stage adds: evaluate depends on this file instead of both.
        "weights": weights,
    }
    if not prepared.subjects_known:  # each slice counts as a subject above
        for of in (found, *found["classes"].values()):
            of["subjects"] = of["subjects_flagged"] = None
        found["flagged"] = {}
    return detector, found


def _alarms(flagged: NDArray[np.bool_], subjects: NDArray[np.str_]) -> dict[str, Any]:
    """The share of slices that are ``flagged``, with its 95 % interval over subjects.

    The interval is Clopper and Pearson's (1934) with subjects as the trials: exact where all slices
    of a subject are flagged alike, and wider than need be where they are not.
    """
    names, of = np.unique(subjects, return_inverse=True)
    rate, number = float(flagged.mean()), len(names)
    hits = rate * number
    low = float(beta.ppf(0.025, hits, number - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, number - hits)) if hits < number else 1.0
    return {
        "false_alarms": rate,
        "ci95": {"false_alarms": [low, high]},
        "slices": len(flagged),
        "subjects": number,
        "subjects_flagged": int((np.bincount(of, flagged) > 0).sum()),
    }


def headline(found: dict[str, Any]) -> str:
    """One line for the terminal, of the content of ``models/ood.json``."""
    low, high = found["ci95"]["false_alarms"]
    of = (
        f", of {found['subjects_flagged']} of {found['subjects']} subjects,"
        if found["subjects"]
        else ""
    )
    return (
        f"{found['false_alarms']:.1%} [{low:.1%}, {high:.1%}] of the {found['slices']} test"
        f" slices{of} are flagged as unlike the training slices, though they are of the same kind"
    )

"""Learn what a model can judge, and how often that is wrong of people it has not seen."""

from pathlib import Path
from typing import Any

import numpy as np

from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.evaluation.intervals import bootstrap
from alzmri.inference import features
from alzmri.inference.scope import TRAINING_IMAGES, Scope, digest
from alzmri.models import saved
from alzmri.models.device import choose


def fit(directory: Path, prepared: Prepared, seed: int) -> tuple[Scope, dict[str, Any]]:
    """The scope of the model in ``directory``, and the content of ``metrics/scope.json``.

    Training slices give the Gaussian, validation slices the threshold, test slices the rate of
    false alarms with its 95 % interval over people (bootstrap with ``seed``).

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
    scope = Scope.fit(known, held_out, digest(directory))
    flagged = (scope.score(unseen) > 1).astype(np.int64)
    people = [prepared.rows[index].subject for index in test]
    right = bootstrap(np.zeros_like(flagged), flagged, people, 2, seed)["accuracy"]
    return scope, {
        "false_alarms": float(flagged.mean()),
        "ci95": {"false_alarms": [1 - right[1], 1 - right[0]]},
        "slices": len(test),
        "people": len(set(people)),
        "validation": {"false_alarms": float((scope.score(held_out) > 1).mean())},
        "directions": len(scope.directions),
    }


def headline(metrics: dict[str, Any]) -> str:
    """One line for the terminal, of the content of ``metrics/scope.json``."""
    low, high = metrics["ci95"]["false_alarms"]
    return (
        f"{metrics['false_alarms']:.1%} [{low:.1%}, {high:.1%}] of the {metrics['slices']} test"
        " slices are flagged as unlike the training slices, though they are of the same kind"
    )

"""A trained model that turns images into calibrated probabilities, and the report of these.

It always runs on the CPU, so that probabilities are the same everywhere, up to rounding.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from alzmri.data import images
from alzmri.data.images import Pixels
from alzmri.data.prepared import short
from alzmri.errors import UserError
from alzmri.inference import NOTICE
from alzmri.inference.inputs import InputSlice
from alzmri.models import saved
from alzmri.models.forward import MEAN, STD, probabilities
from alzmri.models.saved import Card
from alzmri.models.validation import COLDEST, HOTTEST, Floats
from alzmri.ood import features
from alzmri.ood.detector import FILE, Detector, Features
from alzmri.terminal import Update

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Prediction:
    """Predictions for ``n`` slices. Research software: no diagnosis."""

    probabilities: Floats  # [n, classes], calibrated with the card's temperature
    ood_score: Floats  # [n], how unlike the training slices; 1 is the threshold
    in_distribution: NDArray[np.bool_]  # [n]; where False, the probabilities mean nothing

    def described(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Each slice as in JSON; out of distribution it has no predicted class."""
        columns = self.in_distribution.tolist(), self.ood_score.tolist()
        return [
            {**_described(chances, classes, inside), "in_distribution": inside, "ood_score": score}
            for chances, inside, score in zip(self.probabilities, *columns, strict=True)
        ]


def _described(
    chances: Floats | None, classes: Sequence[str], inside: bool = True
) -> dict[str, Any]:
    if chances is None:
        return {"predicted": None, "probabilities": None}
    return {
        "predicted": classes[int(chances.argmax())] if inside else None,
        "probabilities": dict(zip(classes, chances.tolist(), strict=True)),
    }


def interpret(logits: Floats, activations: Features, card: Card, detector: Detector) -> Prediction:
    """Predictions from `WithFeatures`: float64 ``[n, classes]`` and float32 ``[n, width]``."""
    distance = detector.score(activations)
    return Prediction(probabilities(logits / card.temperature), distance, distance <= 1)


@dataclass(frozen=True)
class Predictor:
    """A model in memory, with its card and its OOD detector.

    ``version`` is its registered version, such as ``alzmri@v0.1.0``, or None.
    """

    model: features.WithFeatures
    card: Card
    detector: Detector
    version: str | None = None

    @classmethod
    def load(cls, folder: Path = saved.MODELS, version: str | None = None) -> "Predictor":
        """Load the model in ``folder``, from the stages train and ood; registered as ``version``.

        Raises :class:`UserError` when a file is missing or damaged, or files do not fit together.
        """
        model, card = saved.load(folder)
        detector = Detector.load(folder, saved.digest(folder))
        fit = card.preprocessing.get("fit")
        known = {"fit": fit, "channels": 1, "mean": MEAN, "std": STD}
        if fit not in ("pad", "stretch") or card.preprocessing != known:
            raise UserError(
                f"the model was trained with another preprocessing ({card.preprocessing}) than this"
                " version of alzmri has: use the version in its model.json"
            )
        found = cls(features.WithFeatures(model), card, detector, version)
        blank = np.zeros((1, found.side, found.side), np.uint8)
        logits, activations = features.run(found.model, blank, np.arange(1), CPU)
        expected, width = len(detector.mean), activations.shape[1]
        if width != expected:
            raise UserError(
                f"{FILE} has {expected} features, but the model has {width}: run `dvc repro ood`"
            )
        if not (np.isfinite(logits).all() and np.isfinite(activations).all()):
            raise UserError("the model's outputs are not finite: run `dvc repro -f train`")
        if not COLDEST <= card.temperature <= HOTTEST:
            raise UserError(f"model.json: the temperature {card.temperature:g} is impossible")
        if not all(re.fullmatch(r"[^\W_][\w .+()'-]{0,39}", name) for name in card.classes):
            raise UserError("model.json: a class has an impossible name")
        try:
            fine = card.parameters["split"]["unit"] in ("subject", "slice")
            fine &= isinstance(card.parameters["data"]["source"], str)
        except (KeyError, TypeError):
            fine = False
        if not fine:
            raise UserError("model.json: data.source or split.unit is missing or impossible")
        return found

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the probabilities, least severe first."""
        return self.card.classes

    @property
    def side(self) -> int:
        """The side of the model's input in pixels."""
        side: int = self.card.architecture["image_size"]
        return side

    def preprocess(self, pixels: Pixels) -> Pixels:
        """Turn a slice, uint8 ``[height, width]``, into the model's input ``[side, side]``."""
        return images.fit(pixels, self.side, self.card.preprocessing["fit"])

    def predict(self, slices: Pixels, progress: Update | None = None) -> Prediction:
        """Predictions for preprocessed slices, uint8 ``[n, side, side]``."""
        outputs = features.run(self.model, slices, np.arange(len(slices)), CPU, progress)
        return interpret(*outputs, self.card, self.detector)


@dataclass(frozen=True)
class PredictedSubject:
    """One subject."""

    name: str  # the folder, NIfTI file or series
    members: tuple[int, ...]  # indices of the slices in distribution
    slices: int  # number of all slices
    probabilities: Floats | None  # [classes], mean over members; None without members


@dataclass(frozen=True)
class PredictionReport:
    """Slices and their predictions in the same order; path and reason of refused inputs."""

    predictor: Predictor
    slices: Sequence[InputSlice]
    prediction: Prediction
    refused: Sequence[tuple[str, str]]

    @cached_property
    def subjects(self) -> list[PredictedSubject]:
        """The known subjects, in order of appearance."""
        subjects = []
        for name in dict.fromkeys(item.subject for item in self.slices if item.subject is not None):
            own = [number for number, item in enumerate(self.slices) if item.subject == name]
            used = [number for number in own if self.prediction.in_distribution[number]]
            mean = self.prediction.probabilities[used].mean(axis=0) if used else None
            subjects.append(PredictedSubject(name, tuple(used), len(own), mean))
        return subjects

    def as_json(self) -> dict[str, Any]:
        """The content of ``--json``."""
        card, classes = self.predictor.card, self.predictor.classes
        said = zip(self.slices, self.prediction.described(classes), strict=True)
        return {
            "notice": NOTICE,
            "model": {
                **card.architecture,
                "collection": card.parameters["data"]["source"],
                "weights": self.predictor.detector.weights,
            },
            "slices": [
                {"path": item.source, "subject": item.subject, "mm_below_top": item.depth, **row}
                for item, row in said
            ],
            "subjects": [
                {
                    "subject": subject.name,
                    **_described(subject.probabilities, classes),
                    "slices": subject.slices,
                    "slices_in_distribution": len(subject.members),
                }
                for subject in self.subjects
            ],
            "refused": [{"path": path, "reason": reason} for path, reason in self.refused],
        }

    def as_csv(self) -> Iterator[list[object]]:
        """The rows of ``--csv``: a header and one row per slice."""
        classes = self.predictor.classes
        yield ["path", "subject", "mm_below_top", "predicted", *classes, "ood_score", "notice"]
        for row in self.as_json()["slices"]:
            *where, called, chances, _, score = row.values()
            cells = [f"{chance:.6f}" for chance in chances.values()]
            yield [*where, called or "out of distribution", *cells, f"{score:.4f}", NOTICE]

    def table(self) -> Table:
        """The table for a terminal: the slices, then the subjects' means."""
        content, classes = self.as_json(), self.predictor.classes
        above = os.path.commonpath([Path(item.source).absolute().parent for item in self.slices])
        table = Table(f"slice in {os.path.relpath(above)}", "class")
        table.columns[0].overflow = "fold"
        for name in (*classes, "OOD score"):
            table.add_column(short(name), justify="right", no_wrap=True)

        def add(name: str, row: dict[str, Any], last: str) -> None:
            cells = ["[yellow]OOD[/]", *["–"] * len(classes)]  # the probabilities mean nothing
            if row["predicted"]:
                called = short(row["predicted"])
                cells = [f"[bold]{called}[/]", *map("{:.3f}".format, row["probabilities"].values())]
            table.add_row(escape(name), *cells, last)

        for row in content["slices"]:
            depth = "" if row["mm_below_top"] is None else f" at -{row['mm_below_top']} mm"
            add(os.path.relpath(row["path"], above) + depth, row, f"{row['ood_score']:.2f}")
        table.add_section()
        for row in content["subjects"]:
            used = f"{row['slices_in_distribution']} of {row['slices']} slices"
            add(f"mean of {row['subject']}", row, used)
        return table

"""Predictions as tables, JSON and CSV. Each form states that it is not a diagnosis."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from alzmri.inference import NOTICE
from alzmri.inference.inputs import InputSlice
from alzmri.inference.predictor import Prediction, Predictor

OUT_OF_DISTRIBUTION = "out of distribution"


@dataclass(frozen=True)
class PredictedSubject:
    """One subject."""

    name: str  # the folder, NIfTI file or series
    members: tuple[int, ...]  # indices of the slices in distribution
    slices: int  # number of all slices
    probabilities: NDArray[np.float64] | None  # [classes], mean over members; None without members


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
        """The content of ``--json``. A slice out of distribution has no predicted class."""
        card, found = self.predictor.card, self.prediction
        slices = []
        for number, item in enumerate(self.slices):
            inside = bool(found.in_distribution[number])
            slices.append(
                {
                    "path": item.source,
                    "subject": item.subject,
                    "mm_below_top": item.depth,
                    **self._said(found.probabilities[number], inside),
                    "in_distribution": inside,
                    "ood_score": float(found.ood_score[number]),
                }
            )
        return {
            "notice": NOTICE,
            "model": {
                **card.architecture,
                "collection": card.parameters["data"]["source"],
                "weights": self.predictor.detector.weights,
            },
            "slices": slices,
            "subjects": [
                {
                    "subject": subject.name,
                    **self._said(subject.probabilities),
                    "slices": subject.slices,
                    "slices_in_distribution": len(subject.members),
                }
                for subject in self.subjects
            ],
            "refused": [{"path": path, "reason": reason} for path, reason in self.refused],
        }

    def _said(self, chances: NDArray[np.float64] | None, inside: bool = True) -> dict[str, Any]:
        if chances is None:
            return {"predicted": None, "probabilities": None}
        classes = self.predictor.classes
        return {
            "predicted": classes[int(chances.argmax())] if inside else None,
            "probabilities": dict(zip(classes, chances.tolist(), strict=True)),
        }

    def as_csv(self) -> Iterator[list[object]]:
        """The rows of ``--csv``: a header and one row per slice."""
        classes = self.predictor.classes
        yield ["path", "subject", "mm_below_top", "predicted", *classes, "ood_score", "notice"]
        for row in self.as_json()["slices"]:
            *where, called, chances, _, score = row.values()
            cells = [f"{chance:.6f}" for chance in chances.values()]
            yield [*where, called or OUT_OF_DISTRIBUTION, *cells, f"{score:.4f}", NOTICE]

    def tables(self) -> Iterator[Table]:
        """The tables for a terminal: the slices, then the subjects."""
        content, rows = self.as_json(), []
        above = os.path.commonpath([Path(item.source).absolute().parent for item in self.slices])
        for row in content["slices"]:
            depth = "" if row["mm_below_top"] is None else f" at -{row['mm_below_top']} mm"
            name = os.path.relpath(row["path"], above) + depth
            rows.append((name, row, f"{row['ood_score']:.2f}"))
        yield self._table(f"slice in {os.path.relpath(above)}", "OOD score", rows)
        if self.subjects:
            rows = [
                (row["subject"], row, f"{row['slices_in_distribution']} of {row['slices']}")
                for row in content["subjects"]
            ]
            yield self._table("subject: mean of the slices in distribution", "slices", rows)

    def _table(self, first: str, last: str, rows: list[tuple[str, dict[str, Any], str]]) -> Table:
        classes = [name.removesuffix(" Demented") for name in self.predictor.classes]
        table = Table(first, "class")
        table.columns[0].overflow = "fold"
        for name in (*classes, last):
            table.add_column(name, justify="right", no_wrap=True)
        for name, row, cell in rows:
            cells = ["[yellow]OOD[/]", *["–"] * len(classes)]  # the probabilities mean nothing
            if row["predicted"]:
                called = row["predicted"].removesuffix(" Demented")
                cells = [f"[bold]{called}[/]", *map("{:.3f}".format, row["probabilities"].values())]
            table.add_row(escape(name), *cells, cell)
        return table

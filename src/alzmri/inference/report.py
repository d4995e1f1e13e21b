"""What was predicted, for a person and for programs. Each form says that it is no diagnosis."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from alzmri.inference import NOTICE
from alzmri.inference.inputs import Slice
from alzmri.inference.predictor import Prediction, Predictor

OUT_OF_DISTRIBUTION = "out of distribution"


@dataclass(frozen=True)
class Subject:
    """One subject.

    Attributes:
        name: the folder, NIfTI file or series.
        members: the places of their slices in distribution.
        slices: how many they have in all.
        probabilities: float64 ``[classes]``, the mean over ``members``; None without any.
    """

    name: str
    members: tuple[int, ...]
    slices: int
    probabilities: NDArray[np.float64] | None


@dataclass(frozen=True)
class Report:
    """Slices and what the model says of them, in the same order; what could not be used."""

    predictor: Predictor
    slices: Sequence[Slice]
    prediction: Prediction
    refused: Sequence[tuple[str, str]]

    def called(self, probabilities: NDArray[np.float64] | None) -> str | None:
        """The most probable class; None for None."""
        if probabilities is None:
            return None
        return self.predictor.classes[int(probabilities.argmax())]

    def of_slice(self, number: int) -> NDArray[np.float64] | None:
        """The probabilities of a slice; None when it is out of distribution."""
        return (
            self.prediction.probabilities[number]
            if self.prediction.in_distribution[number]
            else None
        )

    @property
    def subjects(self) -> list[Subject]:
        """The subjects whose slices are known to be theirs, in order of appearance."""
        names = dict.fromkeys(item.subject for item in self.slices if item.subject is not None)
        people = []
        for name in names:
            all_of_them = [i for i, item in enumerate(self.slices) if item.subject == name]
            used = [number for number in all_of_them if self.prediction.in_distribution[number]]
            mean = self.prediction.probabilities[used].mean(axis=0) if used else None
            people.append(Subject(name, tuple(used), len(all_of_them), mean))
        return people

    def as_json(self) -> dict[str, Any]:
        """For ``--json``. A slice out of distribution has no predicted class."""
        card = self.predictor.card
        return {
            "notice": NOTICE,
            "model": {
                **card.architecture,
                "collection": card.parameters["data"]["source"],
                "weights": self.predictor.detector.weights,
            },
            "slices": [
                {
                    "path": item.source,
                    "subject": item.subject,
                    "mm_below_top": item.depth,
                    "predicted": self.called(self.of_slice(number)),
                    "probabilities": self._named(self.prediction.probabilities[number]),
                    "in_distribution": bool(self.prediction.in_distribution[number]),
                    "ood_score": float(self.prediction.ood_score[number]),
                }
                for number, item in enumerate(self.slices)
            ],
            "subjects": [
                {
                    "subject": person.name,
                    "predicted": self.called(person.probabilities),
                    "probabilities": self._named(person.probabilities),
                    "slices": person.slices,
                    "slices_in_distribution": len(person.members),
                }
                for person in self.subjects
            ],
            "refused": [{"path": path, "reason": reason} for path, reason in self.refused],
        }

    def _named(self, probabilities: NDArray[np.float64] | None) -> dict[str, float] | None:
        if probabilities is None:
            return None
        return dict(zip(self.predictor.classes, map(float, probabilities), strict=True))

    def as_csv(self) -> Iterator[list[object]]:
        """For ``--csv``: a header and a row per slice."""
        classes = self.predictor.classes
        yield ["path", "subject", "mm_below_top", "predicted", *classes, "ood_score", "notice"]
        for number, item in enumerate(self.slices):
            yield [
                item.source,
                item.subject,
                item.depth,
                self.called(self.of_slice(number)) or OUT_OF_DISTRIBUTION,
                *(f"{p:.6f}" for p in self.prediction.probabilities[number]),
                f"{self.prediction.ood_score[number]:.4f}",
                NOTICE,
            ]

    def tables(self) -> Iterator[Table]:
        """For a terminal: the slices, then the subjects."""
        above = os.path.commonpath([Path(item.source).absolute().parent for item in self.slices])
        table = self._table(f"slice in {os.path.relpath(above)}", "OOD score")
        for number, item in enumerate(self.slices):
            name = os.path.relpath(item.source, above)
            name += "" if item.depth is None else f" at -{item.depth} mm"
            self._add(
                table, name, self.of_slice(number), f"{self.prediction.ood_score[number]:.2f}"
            )
        yield table
        if self.subjects:
            table = self._table("subject: mean of the slices in distribution", "slices")
            for person in self.subjects:
                count = f"{len(person.members)} of {person.slices}"
                self._add(table, person.name, person.probabilities, count)
            yield table

    def _table(self, first: str, last: str) -> Table:
        table = Table(first, "class")
        table.columns[0].overflow = "fold"
        for name in (*map(_short, self.predictor.classes), last):
            table.add_column(name, justify="right", no_wrap=True)
        return table

    def _add(
        self, table: Table, name: str, probabilities: NDArray[np.float64] | None, last: str
    ) -> None:
        called = self.called(probabilities)
        if probabilities is None or called is None:
            nothing = ["–"] * len(self.predictor.classes)
            table.add_row(escape(name), "[yellow]OOD[/]", *nothing, last)
            return
        cells = [f"{value:.3f}" for value in probabilities]
        table.add_row(escape(name), f"[bold]{_short(called)}[/]", *cells, last)


def _short(name: str) -> str:
    return name.removesuffix(" Demented")

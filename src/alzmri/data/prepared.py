"""``data/prepared``: packed images and their manifest, which ``prepare`` writes."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alzmri.errors import UserError
from alzmri.files import write_csv
from alzmri.params import Params

PREPARED = Path("data/prepared")

PARTS = ("train", "val", "test")
"""Values of ``split`` in the manifest."""
COPY = "copy"
"""The value for images of no part: copies of scored images, see :func:`splits.parts`."""
UNKNOWN = "?"
"""Prefix of a placeholder for an unknown subject; each image has its own placeholder."""


@dataclass(frozen=True)
class Row:
    """One line of ``manifest.csv``."""

    index: int
    path: str
    label: str
    subject: str
    split: str
    sha256: str


def write_manifest(path: Path, rows: list[Row]) -> None:
    """Write ``rows`` as CSV with a header."""
    write_csv(path, [field.name for field in fields(Row)], map(astuple, rows))


def relevant(params: Params) -> dict[str, Any]:
    """The parameters of ``data/prepared``, which ``params.json`` records."""
    return params.model_dump(mode="json", include={"data", "split"})


@dataclass(frozen=True)
class Prepared:
    """The packed collection: uint8 ``[n, side, side]``, memory-mapped; the manifest: row ``i``
    describes ``images[i]``; the class names in severity order."""

    images: NDArray[np.uint8]
    rows: tuple[Row, ...]
    classes: tuple[str, ...]

    @classmethod
    def open(cls, params: Params, directory: Path = PREPARED) -> "Prepared":
        """Open ``directory``; `UserError` when ``prepare`` has not run, ran with other parameters
        than ``params``, or its output is damaged."""
        try:
            made_from = json.loads((directory / "params.json").read_bytes())
            classes = tuple(json.loads((directory / "summary.json").read_bytes())["classes"])
            images = np.load(directory / "images.npy", mmap_mode="r")
            with (directory / "manifest.csv").open(newline="", encoding="utf-8") as handle:
                lines = csv.reader(handle)
                next(lines)
                rows = tuple(Row(int(index), *rest) for index, *rest in lines)
            if len(images) != len(rows):
                raise ValueError("images and manifest do not belong together")
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} not found: run `dvc repro prepare` first") from None
        except (ValueError, TypeError, KeyError, StopIteration, EOFError) as error:
            raise UserError(
                f"{directory} is damaged ({str(error) or 'empty manifest.csv'}):"
                " run `dvc repro --force prepare`"
            ) from None
        if made_from != relevant(params):
            raise UserError(
                f"{directory} was made with other parameters (data, split) than those of"
                " params.yaml: run `dvc repro prepare`"
            )
        return cls(images, rows, classes)

    def indices(self, part: str) -> NDArray[np.int64]:
        """The rows of one part of the split (``train``, ``val`` or ``test``)."""
        return np.array([row.index for row in self.rows if row.split == part], dtype=np.int64)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class of every row, 0 for the least severe."""
        return np.array([self.classes.index(row.label) for row in self.rows], dtype=np.int64)

    @property
    def subjects_known(self) -> bool:
        """False under ``split.subjects: unknown``."""
        return not self.rows[0].subject.startswith(UNKNOWN)

    def subjects(self, part: str) -> set[str]:
        """The subjects in one part of the split."""
        return {row.subject for row in self.rows if row.split == part}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over pixels, classes, labels, subjects and split."""
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        for row in self.rows:
            digest.update(repr(astuple(row)).encode())
        return digest.hexdigest()


def short(name: str) -> str:
    """The name of a class where there is little room, such as ``Mild``."""
    return name.removesuffix(" Demented")


def numbered(classes: Sequence[str]) -> tuple[str, ...]:
    """Labels such as ``0 Non Demented``, for renderers that sort by letter (Vega, W&B)."""
    return tuple(f"{index} {name}" for index, name in enumerate(classes))

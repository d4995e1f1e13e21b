"""One style for every figure: the width of a paper's column, colour-blind safe, reproducible."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from alzmri.files import replacing

SEVERITY = ("#0072b2", "#56b4e9", "#e69f00", "#d55e00")
"""One colour per stage, least to most severe: Okabe and Ito's palette (2008)."""


def severity(classes: int) -> list[str]:
    """A colour for each of ``classes`` (2 or more), from blue to red; `SEVERITY` for 4."""
    scale = LinearSegmentedColormap.from_list("severity", SEVERITY)
    return [to_hex(scale(index / (classes - 1))) for index in range(classes)]


_STYLE: Any = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure (``width`` by ``height`` inches) that becomes the PNG at ``path``."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        yield figure
        with replacing(path) as temporary:
            # Without matplotlib's version: an upgrade must not change the bytes.
            figure.savefig(
                temporary, format="png", metadata={"Software": None}, bbox_inches="tight"
            )

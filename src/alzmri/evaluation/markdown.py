"""Write Markdown."""

from collections.abc import Iterable, Mapping, Sequence


def table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; cells become text, None a dash."""
    cells = (["–" if cell is None else str(cell) for cell in row] for row in rows)
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def records(rows: Sequence[Mapping[str, object]]) -> str:
    """A table of ``rows``, at least one, whose keys are the header."""
    return table(list(rows[0]), (row.values() for row in rows))


def interval(value: float | None, bounds: Sequence[float] | None) -> str:
    """Text such as ``0.518 [0.459, 0.575]``; a dash for None, no brackets without ``bounds``."""
    if value is None:
        return "–"
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else f"{value:.3f}"

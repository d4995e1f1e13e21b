"""A page that compares experiments."""

import html
from collections.abc import Sequence
from pathlib import Path

from alzmri.experiments.runs import Finished
from alzmri.files import write_bytes


def write(finished: Sequence[Finished], name: str, metric: str) -> Path:
    """Write ``reports/NAME/index.html``, a table of ``metric``; return its path."""
    rows = "".join(
        f"<tr><td>{html.escape(run.name)}</td><td>{run.metrics('evaluate')[metric]:.3f}</td></tr>"
        for run in finished
    )
    page = Path("reports") / name / "index.html"
    write_bytes(page, f"<!doctype html><title>{name}</title><table>{rows}</table>".encode())
    return page

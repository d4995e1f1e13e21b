"""A report: Markdown with its pictures beside it, and one HTML file that contains them."""

import base64
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
from markdown_it import MarkdownIt
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from alzmri import terminal
from alzmri.evaluation import figures
from alzmri.experiments.finished_runs import METRICS, Group
from alzmri.figure import SEVERITY, drawing
from alzmri.files import replacing_directory

REPORTS = Path("reports")  # the folder of all reports; git ignores it

Role = Literal["other", "baseline", "new", "best"]
Curve = tuple[Group, Role]
"""A group in a diagram by epoch, and its role in the report; the last role is drawn on top."""
_ROLES: Sequence[Role] = ("other", "baseline", "new", "best")
_DASHES = ("-", "--", ":", "-.")  # for this many others; more share one legend entry

_TEMPLATE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  html { background: #fff; }
  @media (prefers-color-scheme: dark) { html { filter: invert(1) hue-rotate(180deg); } }
  body { font: 16px/1.55 system-ui, sans-serif; color: #1b1f23; max-width: 80rem; padding: 0 1rem;
         margin: 1.5rem auto; overflow-wrap: anywhere; }
  p, ul { max-width: 46rem; }
  p:has(> img) { max-width: none; display: flex; flex-wrap: wrap; gap: 1.2rem; }
  img { max-width: 100%; height: auto; zoom: .72; }
  blockquote { margin: 0; padding: .1rem 1.1rem; background: #f4f6f8; }
  table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .86rem; }
  th { text-align: left; color: #59636e; }
  th, td { padding: .35rem 1rem .35rem 0; border-bottom: 1px solid #d8dde2; white-space: nowrap; }
</style></head>
<body>$body</body></html>
""")


class Page:
    """A report in the making: Markdown, ``content`` for programs, and pictures.

    ``figures`` has the function that draws each PNG, by its path in the folder of the report.
    """

    def __init__(
        self, title: str, conclusion: str, warnings: Sequence[str], **facts: object
    ) -> None:
        self.title, self.text = title, f"# {title}\n\n> {conclusion}\n"
        plain = [text.replace("**", "").replace("`", "") for text in (conclusion, *warnings)]
        self.content = {"conclusion": plain[0], "warnings": plain[1:], **facts}
        self.figures: dict[str, Callable[[Path], None]] = {}
        self.add("Warnings", "\n".join(f"- {warning}" for warning in warnings))

    def add(self, heading: str, *blocks: str) -> None:
        """Add a section with the non-empty ``blocks``, or nothing if all are empty."""
        if written := [block for block in blocks if block]:
            self.text += "\n" + "\n\n".join((f"## {heading}", *written)) + "\n"

    def picture(self, path: str, alt: str, draw: Callable[[Path], None]) -> str:
        """Add a picture with the alternative text ``alt``; return its Markdown."""
        self.figures[path] = draw
        return f"![{alt}](<{path}>)"

    def add_charts(self, curves: Sequence[Curve], matrices: Sequence[Group]) -> None:
        """Add validation scores by epoch, and the confusion matrices; the best group is first."""
        epochs, confusions = [], []
        for name, key in (("macro-f1", "val_macro_f1"), ("loss", "val_loss")):
            draw = partial(_draw_epochs, curves, key)
            epochs.append(self.picture(f"{name}.png", f"{METRICS[key]} by epoch", draw))
        for group in matrices:
            path, alt = f"{folder_name(group.name)}/confusion.png", f"confusion of {group.name}"
            confusions.append(self.picture(path, alt, partial(_draw_confusion, group)))
        self.add("Validation, epoch by epoch", "\n".join(epochs))
        self.add("Confusion on the test subjects", "\n".join(confusions))

    def write(self, name: str) -> dict[str, Any]:
        """Replace the folder ``name`` of ``REPORTS``: index.html, README.md, the pictures.

        Returns ``content``, and the paths of all files as ``written``.
        """
        markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        with replacing_directory(REPORTS / name) as folder:

            def inside(found: re.Match[str]) -> str:
                content = (folder / unquote(found[1])).read_bytes()
                return f'<img src="data:image/png;base64,{base64.b64encode(content).decode()}"'

            for path, draw in self.figures.items():
                draw(folder / path)
            body = re.sub(r'<img src="([^"]*)"', inside, markdown.render(self.text))
            html = _TEMPLATE.substitute(title=escape(self.title), body=body)
            for path, text in (("README.md", self.text), ("index.html", html)):
                (folder / path).write_text(text, encoding="utf-8")
        paths = ("index.html", "README.md", *self.figures)
        return {**self.content, "written": [str(REPORTS / name / path) for path in paths]}


def say(content: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print a report: everything as JSON, or the conclusion and the path."""
    if as_json:
        terminal.say(json.dumps(content, indent=2, default=str))
    else:
        page = content["written"][0]
        terminal.say(f"{content['conclusion']}\nwritten: {page} and README.md beside it")


def folder_name(name: str) -> str:
    """``name`` without characters that are awkward in a path.

    >>> folder_name("origin/main~1")
    'origin-main-1'
    """
    return re.sub(r"[^\w.-]+", "-", name).lstrip("-.")


def code(name: object) -> str:
    """``name`` as Markdown code, also within a table."""
    return f"`{str(name).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _draw_confusion(group: Group, path: Path) -> None:
    tests = [run.predictions for run in group.runs]
    truth = np.concatenate([test.truth for test in tests])
    predicted = np.concatenate([test.predicted for test in tests])
    tested = f"this split {group.leaks}" if group.leaks else f"{len(truth)} test slices"
    title = f"{textwrap.fill(group.name, 36)}\n{tested}"
    figures.confusion(path, truth, predicted, tests[0].classes, title, small=True)


def _draw_epochs(curves: Sequence[Curve], column: str, path: Path) -> None:
    with drawing(path, 4.3, 3.3) as figure:
        plot_epochs(figure, curves, column)


def plot_epochs(figure: FigureBase, curves: Sequence[Curve], column: str) -> None:
    """Draw ``column`` of plots/history.csv: each group's mean, and the range if it has a role."""
    others = [group for group, role in curves if role == "other"]
    axes, leaking = figure.add_subplot(), sum(bool(group.leaks) for group in others)
    crowd = f"{len(others)} others" + f", {leaking} of them LEAK or MAY LEAK" * bool(leaking)
    for group, role in [one for role in _ROLES for one in curves[::-1] if one[1] == role]:
        scores, colour = group.history(column), SEVERITY[3 if role == "baseline" else 0]
        epochs, place = np.arange(1, scores.shape[1] + 1), len(axes.lines)
        name = group.name + f" ({role})" * (role not in ("other", group.name))
        style: Any = {"color": colour, "lw": 2.2, "label": f"{name} {group.leaks}".rstrip()}
        if role == "other":
            style |= {"lw": 1.1, "color": "#8a9199", "ls": _DASHES[place % len(_DASHES)]}
            if len(others) > len(_DASHES):
                style |= {"ls": "-", "label": None if place else crowd}
        elif len(scores) > 1:
            axes.fill_between(epochs, scores.min(0), scores.max(0), color=colour, alpha=0.15, lw=0)
        axes.plot(epochs, scores.mean(axis=0), marker="o" if len(epochs) == 1 else None, **style)
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.25, lw=0.6)
    axes.set_title(METRICS[column], fontsize=9.5)
    # The legend is below the axes, because names are longer than gaps between curves.
    handles, labels = axes.get_legend_handles_labels()
    below: Any = {"loc": "outside lower left", "fontsize": 8.5, "labelcolor": "linecolor"}
    figure.legend(handles[::-1], labels[::-1], **below)

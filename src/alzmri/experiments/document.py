"""One text, twice: Markdown with its pictures beside it, and one HTML file that needs no network.

The HTML is the Markdown, rendered. Pictures are drawn for light and for dark pages; the HTML has
both inside, the Markdown the light ones.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import matplotlib.pyplot as plt
from markdown_it import MarkdownIt

from alzmri import terminal
from alzmri.errors import UserError
from alzmri.files import replacing_directory

REPORTS = Path("reports")
"""Where reports are written; git ignores it."""

_PAPER, _INK, _LINE = "#14171a", "#e4e6e8", "#8a9199"
_DARK: Any = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), _PAPER),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), _LINE),
}


class Page:
    """A report that is being written; ``conclusion`` and ``warnings`` are Markdown.

    Attributes:
        text: Markdown, all of it.
        content: conclusion, warnings and other ``facts``, for a program to read.
        figures: what draws each picture as a PNG, by its path in the folder of the report.
    """

    def __init__(
        self, title: str, conclusion: str, warnings: Sequence[str], **facts: object
    ) -> None:
        self.title, self.text = title, f"# {title}\n\n> {conclusion}\n"
        self.content: dict[str, Any] = {
            "conclusion": plain(conclusion),
            "warnings": list(map(plain, warnings)),
            **facts,
        }
        self.figures: dict[str, Callable[[Path], None]] = {}
        self.add("Warnings", "\n".join(f"- {warning}" for warning in warnings))

    def add(self, heading: str, *blocks: str) -> None:
        """Add a section of those of ``blocks`` that have text; nothing where none has."""
        if written := [block for block in blocks if block]:
            self.text += "\n" + "\n\n".join((f"## {heading}", *written)) + "\n"

    def picture(self, path: str, alt: str, draw: Callable[[Path], None]) -> str:
        """Add a picture; ``alt`` says what it shows to those who cannot see it."""
        self.figures[path] = draw
        return f"![{alt}](<{path}>)"

    def write(self, name: str) -> dict[str, Any]:
        """Write the folder ``name`` of ``REPORTS`` anew: index.html, README.md, the pictures.

        Returns ``content``, and the paths of all files as ``written``.
        """
        folder, markdown = REPORTS / name, MarkdownIt("commonmark", {"html": True}).enable("table")
        template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
        with replacing_directory(folder) as light, TemporaryDirectory() as temporary:
            dark = Path(temporary)
            for path, draw in self.figures.items():
                draw(light / path)
                with plt.rc_context(_DARK):
                    draw(dark / path)
            (light / "README.md").write_text(self.text, encoding="utf-8")
            body = self._with_pictures(markdown.render(self.text), light, dark)
            html = template.substitute(title=escape(self.title), body=body)
            (light / "index.html").write_text(html, encoding="utf-8")
        written = [str(folder / path) for path in ("index.html", "README.md", *self.figures)]
        return {**self.content, "written": written}

    def _with_pictures(self, html: str, light: Path, dark: Path) -> str:
        """``html`` with its pictures inside; a name that has a picture of its own links to it."""

        def inside(found: re.Match[str]) -> str:
            path = Path(unquote(found["path"]))
            bright, dim = (
                f"data:image/png;base64,{base64.b64encode((paper / path).read_bytes()).decode()}"
                for paper in (light, dark)
            )
            anchor = f' id="{escape(str(path.parent))}"' if path.parent != Path() else ""
            return (
                f'<span class="figure"{anchor}><picture>'
                f'<source media="(prefers-color-scheme: dark)" srcset="{dim}">'
                f'<img src="{bright}" alt="{found["alt"]}"></picture></span>'
            )

        for name in {escape(str(Path(path).parent)) for path in self.figures}:
            html = html.replace(
                f"<code>{name}</code>", f'<a href="#{name}"><code>{name}</code></a>'
            )
        return re.sub(r'<img src="(?P<path>[^"]*)" alt="(?P<alt>[^"]*)" />', inside, html)


def say(content: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print a report: everything as JSON, or the conclusion and the path."""
    if as_json:
        terminal.say(json.dumps(content, indent=2, default=str))
    else:
        page = content["written"][0]
        terminal.say(f"{content['conclusion']}\nwritten: {page} and README.md beside it")


def plain(text: str) -> str:
    """``text`` without its Markdown."""
    return text.replace("**", "").replace("`", "")


def folder_name(name: str) -> str:
    """``name``, such as ``origin/main~1``, less the characters that a path should not have."""
    return re.sub(r"[^\w.-]+", "-", name).lstrip("-.")


def folder(name: str | None, usual: str) -> str:
    """``name``, the user's, for a folder of ``reports``; without, what is made of ``usual``."""
    if name and not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"--name {name}: letters, digits, dots, - and _ only")
    return name or folder_name(usual)


def code(name: object) -> str:
    """``name`` as it is, whatever characters it has, also in a table."""
    return f"`{str(name).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def folded(summary: str, text: str) -> str:
    """``text`` behind ``summary``, opened by a click."""
    return f"<details><summary>{escape(summary)}</summary>\n\n{text}\n\n</details>"

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

import matplotlib.pyplot as plt
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

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
    """A report in the making.

    Attributes:
        text: Markdown.
        figures: what draws each picture as a PNG, by its path in the folder of the report.
    """

    def __init__(self, title: str, conclusion: str, warnings: Sequence[str]) -> None:
        self.title, self.text = title, f"# {title}\n\n> {conclusion}\n"
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

    def write(self, folder: Path) -> list[str]:
        """Write index.html, README.md and the pictures into ``folder``; return their paths.

        ``folder`` is replaced as a whole.
        """
        template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
        page = MarkdownIt("commonmark", {"html": True}, renderer_cls=_Renderer).enable("table")
        anchors = {str(Path(path).parent) for path in self.figures}
        with replacing_directory(folder) as light, TemporaryDirectory() as temporary:
            dark = Path(temporary)
            for path, draw in self.figures.items():
                draw(light / path)
                with plt.rc_context(_DARK):
                    draw(dark / path)
            (light / "README.md").write_text(self.text, encoding="utf-8")
            body = page.render(self.text, {"light": light, "dark": dark, "anchors": anchors})
            html = template.substitute(title=escape(self.title), body=body)
            (light / "index.html").write_text(html, encoding="utf-8")
        return [str(folder / name) for name in ("index.html", "README.md", *self.figures)]


def say(content: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print what a report says: all of it as JSON, or its conclusion and where it is."""
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
    """``name``, the user's, for a folder of ``reports``; without, what is made of ``usual``.

    Raises:
        UserError: when the user's is not fit for one.
    """
    if name and not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"--name {name}: letters, digits, dots, - and _ only")
    return name or folder_name(usual)


def code(name: object) -> str:
    """``name`` as it is, whatever characters it has, also in a table."""
    return f"`{str(name).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def folded(summary: str, text: str) -> str:
    """``text`` behind ``summary``, opened by a click."""
    return f"<details><summary>{escape(summary)}</summary>\n\n{text}\n\n</details>"


class _Renderer(RendererHTML):
    """Pictures inside the page, the name of their folder their anchor; that name a link to it."""

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        path = Path(str(tokens[idx].attrs["src"]))
        alt = escape(self.renderInlineAsText(tokens[idx].children, options, env))
        anchor = f' id="{escape(str(path.parent))}"' if path.parent != Path() else ""
        light, dark = (
            f"data:image/png;base64,{base64.b64encode((env[paper] / path).read_bytes()).decode()}"
            for paper in ("light", "dark")
        )
        return (
            f'<span class="figure"{anchor}><picture>'
            f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
            f'<img src="{light}" alt="{alt}"></picture></span>'
        )

    def code_inline(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        shown, name = super().code_inline(tokens, idx, options, env), tokens[idx].content
        return f'<a href="#{escape(name)}">{shown}</a>' if name in env["anchors"] else shown

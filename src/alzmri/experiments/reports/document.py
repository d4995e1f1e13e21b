"""One text, twice: Markdown with its pictures beside it, and one HTML file that needs no network.

The HTML is the Markdown, rendered. Pictures are drawn for light and for dark pages; the HTML has
both inside, the Markdown the light ones.
"""

import base64
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

from alzmri.errors import UserError
from alzmri.files import replacing_directory

REPORTS = Path("reports")
"""Where reports are written; git ignores it."""

Draw = Callable[[Path], None]
"""Draws one figure as the PNG at a path."""

_PAPER, _INK, _LINE = "#14171a", "#e4e6e8", "#8a9199"
_DARK: Any = {
    "figure.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _LINE,
}


def write(folder: Path, title: str, text: str, figures: Mapping[str, Draw]) -> Path:
    """Write ``folder/README.md``, its pictures and ``folder/index.html``, in place of a former one.

    Args:
        folder: is replaced as a whole.
        title: of the page.
        text: Markdown; shows the pictures by their paths in ``figures``.
        figures: what draws each picture, by its path in ``folder``.

    Returns:
        The path of the HTML.
    """
    with replacing_directory(folder) as draft, TemporaryDirectory() as temporary:
        dark = Path(temporary)
        for path, draw in figures.items():
            draw(draft / path)
            with plt.rc_context(_DARK):
                draw(dark / path)
        (draft / "README.md").write_text(text, encoding="utf-8")
        template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
        anchors = {str(Path(path).parent) for path in figures}
        page = MarkdownIt("commonmark", {"html": True}, renderer_cls=_Renderer).enable("table")
        body = page.render(text, {"light": draft, "dark": dark, "anchors": anchors})
        (draft / "index.html").write_text(
            template.substitute(title=escape(title), body=body), encoding="utf-8"
        )
    return folder / "index.html"


def check_name(name: str) -> str:
    """``name``, fit for a folder of ``reports``.

    Raises:
        UserError: when it is not.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"--name {name}: letters, digits, dots, - and _ only")
    return name


def conclusion(page: Path) -> str:
    """What a report concludes, as plain text; ``page`` is what :func:`write` returned."""
    lines = page.with_name("README.md").read_text(encoding="utf-8").splitlines()
    quoted = next(line.removeprefix("> ") for line in lines if line.startswith("> "))
    return quoted.replace("**", "").replace("`", "")


def code(name: object) -> str:
    """``name`` as it is, whatever characters it has, also in a table."""
    return f"`{str(name).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def picture(path: str, alt: str) -> str:
    """The picture at ``path``; ``alt`` says what it shows to those who cannot see it."""
    return f"![{alt}](<{path}>)"


def folded(summary: str, text: str) -> str:
    """``text`` behind ``summary``, opened by a click."""
    return f"<details><summary>{escape(summary)}</summary>\n\n{text}\n\n</details>"


class _Renderer(RendererHTML):
    """Pictures inlined, the name of their folder their anchor; that name, wherever said, a link."""

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        path = Path(str(tokens[idx].attrs["src"]))
        alt = escape(self.renderInlineAsText(tokens[idx].children, options, env))
        anchor = f' id="{escape(str(path.parent))}"' if path.parent != Path() else ""
        return (
            f'<span class="figure"{anchor}><picture>'
            f'<source media="(prefers-color-scheme: dark)" srcset="{_data(env["dark"] / path)}">'
            f'<img src="{_data(env["light"] / path)}" alt="{alt}"></picture></span>'
        )

    def code_inline(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        shown = super().code_inline(tokens, idx, options, env)
        name = tokens[idx].content
        if name not in env["anchors"]:
            return shown
        return f'<a href="#{escape(name)}">{shown}</a>'


def _data(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"

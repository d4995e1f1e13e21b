"""A report is Markdown beside its pictures, and the same as one HTML file."""

import base64
import re
from pathlib import Path

import pytest

from alzmri.errors import UserError
from alzmri.experiments.reports import document
from alzmri.figure import drawing

TEXT = f"""\
# title

> **Merge {document.code("a<script>|b`")}.** It is better.

| name | score |
| --- | --- |
| {document.code("x")} | 1 |
| {document.code("a<script>|b`")} | 2 |

{document.folded("more & more", "*inside*")}

{document.picture("x/one.png", "the picture of <x>")}
"""


def _draw(path: Path) -> None:
    with drawing(path, 1, 1) as figure:
        figure.text(0.5, 0.5, "x")


@pytest.fixture
def report(tmp_path):
    """The folder of a report of ``TEXT``."""
    page = document.write(tmp_path / "report", "<title>", TEXT, {"x/one.png": _draw})
    assert page == tmp_path / "report/index.html"
    return page.parent


def test_the_page_has_all_inside_and_nothing_of_a_name_is_markup(report):
    html = (report / "index.html").read_text()
    assert "<script>" not in html
    assert "<title>&lt;title&gt;</title>" in html
    assert "<code>a&lt;script&gt;|b'</code>" in html
    assert html.count("<tr>") == 3
    assert "<summary>more &amp; more</summary>" in html
    assert "<em>inside</em>" in html
    assert '<a href="#x"><code>x</code></a>' in html
    assert 'id="x"' in html
    assert 'alt="the picture of &lt;x&gt;"' in html
    dark, light = re.findall(r"base64,([^\"]+)", html)
    assert base64.b64decode(light) == (report / "x/one.png").read_bytes()
    assert dark != light


def test_the_markdown_shows_its_pictures_and_begins_with_the_conclusion(report):
    text = (report / "README.md").read_text()
    assert text == TEXT
    for path in re.findall(r"\(<(.+?)>\)", text):
        assert (report / path).exists()
    said = document.conclusion(report / "index.html")
    assert said.startswith("Merge a<script>")
    assert said.endswith("It is better.")


def test_a_report_replaces_the_one_before(report):
    document.write(report, "again", "> nothing\n", {})
    assert sorted(path.name for path in report.iterdir()) == ["README.md", "index.html"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-flag", ".hidden", "a b"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(UserError, match="letters, digits"):
        document.check_name(name)

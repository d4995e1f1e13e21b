"""A report is Markdown beside its pictures, and the same as one HTML file."""

import base64
import re
from pathlib import Path

import pytest

from alzmri.errors import UserError
from alzmri.experiments import document
from alzmri.figure import drawing


def _draw(path: Path) -> None:
    with drawing(path, 1, 1) as figure:
        figure.text(0.5, 0.5, "x")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page, and the folder of its report."""
    name = document.code("a<script>|b`")
    page = document.Page("<title>", f"**Merge {name}.** It is better.", ["first", "second"])
    page.add("Nothing", "")
    page.add(
        "Scores",
        f"| name | score |\n| --- | --- |\n| {document.code('x')} | 1 |\n| {name} | 2 |",
        document.folded("more & more", "*inside*"),
        page.picture("x/one.png", "the picture of <x>", _draw),
    )
    folder = tmp_path_factory.mktemp("reports") / "report"
    folder.mkdir()
    (folder / "of the report before").touch()
    written = page.write(str(folder))["written"]
    assert written == [f"{folder}/{name}" for name in ("index.html", "README.md", "x/one.png")]
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "index.html", "x"]
    return page, folder


def test_the_page_has_all_inside_and_nothing_of_a_name_is_markup(report):
    _, folder = report
    html = (folder / "index.html").read_text()
    assert "<script>" not in html
    assert "<title>&lt;title&gt;</title>" in html
    assert "<code>a&lt;script&gt;|b'</code>" in html
    assert html.count("<tr>") == 3
    assert html.count("<li>") == 2
    assert "<summary>more &amp; more</summary>" in html
    assert "<em>inside</em>" in html
    assert '<a href="#x"><code>x</code></a>' in html
    assert 'id="x"' in html
    assert 'alt="the picture of &lt;x&gt;"' in html
    dark, light = re.findall(r"base64,([^\"]+)", html)
    assert base64.b64decode(light) == (folder / "x/one.png").read_bytes()
    assert dark != light


def test_the_markdown_shows_its_pictures_and_begins_with_the_conclusion(report):
    page, folder = report
    text = (folder / "README.md").read_text()
    assert text == page.text
    assert "# <title>\n\n> **Merge `a<script>\\|b'`.** It is better.\n" in text
    assert "\n## Warnings\n\n- first\n- second\n\n## Scores\n\n| name" in text
    assert "Nothing" not in text
    for path in re.findall(r"\(<(.+?)>\)", text):
        assert (folder / path).exists()


def test_names_of_branches_and_commits_become_folders():
    assert document.folder_name("sweep-origin/main~1") == "sweep-origin-main-1"
    assert document.folder(None, "../up") == "up"


@pytest.mark.parametrize("name", ["../up", "a/b", "-flag", ".hidden", "a b"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(UserError, match="letters, digits"):
        document.folder(name, "usual")

"""A report is Markdown beside its pictures, and the same as one HTML file."""

import base64
import re
from pathlib import Path

from matplotlib.figure import Figure

from alzmri.experiments import report_page
from alzmri.experiments.comparison import BASELINE
from alzmri.experiments.finished_runs import Group
from alzmri.figure import drawing


def _draw(path: Path) -> None:
    with drawing(path, 1, 1) as figure:
        figure.text(0.5, 0.5, "x")


def test_a_page_has_all_inside_and_nothing_of_a_name_is_markup(tmp_path):
    name = report_page.code("a<script>|b`")
    page = report_page.Page("<title>", f"**Merge {name}.** It is better.", ["first", "second"])
    page.add("Nothing", "")
    picture = page.picture("x/one.png", "the picture of <x>", _draw)
    page.add("Scores", f"| name | score |\n| --- | --- |\n| {name} | 2 |", picture)
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "of the report before").touch()
    written = page.write(str(folder))["written"]
    assert written == [f"{folder}/{name}" for name in ("index.html", "README.md", "x/one.png")]
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "index.html", "x"]
    html = (folder / "index.html").read_text()
    assert "<script>" not in html
    assert "<title>&lt;title&gt;</title>" in html
    assert "<code>a&lt;script&gt;|b'</code>" in html
    assert (html.count("<tr>"), html.count("<li>")) == (2, 2)
    assert 'alt="the picture of &lt;x&gt;"' in html
    (picture,) = re.findall(r"base64,([^\"]+)", html)
    assert base64.b64decode(picture) == (folder / "x/one.png").read_bytes()
    text = (folder / "README.md").read_text()
    assert text == page.text
    assert "# <title>\n\n> **Merge `a<script>\\|b'`.** It is better.\n" in text
    assert "\n## Warnings\n\n- first\n- second\n\n## Scores\n\n| name" in text
    assert "(<x/one.png>)" in text
    assert "Nothing" not in text
    assert report_page.folder_name("../sweep-origin/main~1") == "sweep-origin-main-1"


def test_the_legend_names_what_leaks_also_in_a_crowd(make_run):
    names = [(Group(f"g{n}", [make_run(f"g{n}", 0.5)]), "other") for n in range(5)]
    slices = make_run("slices", 0.9, split={"unit": "slice"}, shared=38)
    leak = (Group("slices", [slices]), "other")
    assert _legend([*names, leak]) == ["6 others, 1 of them LEAK or MAY LEAK"]
    assert _legend([*names[:3], leak]) == ["g0", "g1", "g2", "slices LEAKS"]
    assert _legend([(leak[0], "best")]) == ["slices (best) LEAKS"]
    best, baseline = (names[0][0], "best"), (names[1][0], "baseline")
    assert _legend([best, *names[2:4], baseline]) == ["g0 (best)", "g1 (baseline)", "g2", "g3"]
    assert _legend([(Group(BASELINE, baseline[0].runs), "baseline")]) == [BASELINE]


def _legend(curves):
    figure = Figure(layout="constrained")
    report_page.plot_epochs(figure, curves, "val_loss")
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]

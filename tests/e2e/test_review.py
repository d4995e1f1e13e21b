"""Experiments that really ran, compared and reviewed; the pages in a real browser, no network."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ..processes import limit

GRID = {"sweep-lr0.05": "train.lr=0.05", "slices": "split.unit=slice"}
PROBE = """<script>addEventListener("load", () => { document.title = JSON.stringify({
  pictures: [...document.images].map(image => image.naturalWidth),
  wider: document.documentElement.scrollWidth - innerWidth,
  filter: getComputedStyle(document.documentElement).filter,
})})</script>"""


@pytest.fixture(scope="module")
def ran(repro, tmp_path_factory):
    """The tiny clone after two experiments."""
    clone = repro.copy(tmp_path_factory.mktemp("review") / "alzmri")
    for name, setting in GRID.items():
        clone.run("dvc", "exp", "run", "--temp", "--name", name, "-S", setting)
    return clone


@pytest.fixture(scope="module")
def compared(ran):
    """The same after `alzmri compare`, and what that said."""
    return ran, ran.run("alzmri", "compare").stdout


def _markdown(root, folder):
    return (root / "reports" / folder / "README.md").read_text()


def test_the_experiments_and_the_committed_run_are_on_one_page(compared):
    ran, said = compared
    assert "written: reports/experiments/index.html" in said
    text = _markdown(ran.root, "experiments")
    table = text[text.index("| experiment |") :].split("\n\n")[0]
    assert len(table.splitlines()) == 2 + 3
    for name in ("sweep-lr0.05", "baseline", "slices"):
        assert f"`{name}`" in table
        assert f"(<{name}/confusion.png>)" in text
    assert "`slices` **LEAKS**" in table.splitlines()[-1]
    evaluation = ran.load("models/evaluation.json")
    low, high = evaluation["ci95"]["macro_f1"]
    assert f" | {low:.3f}–{high:.3f} | " in text
    pictures = re.findall(r"\(<(.+?)>\)", text)
    assert len(pictures) == 2 + 3
    for path in pictures:
        assert (ran.root / "reports/experiments" / path).stat().st_size > 5_000
    # The same again, byte for byte, and for a program.
    page = (ran.root / "reports/experiments/index.html").read_bytes()
    content = ran.json("alzmri", "compare", "--json")
    assert (ran.root / "reports/experiments/index.html").read_bytes() == page
    assert said.startswith(content["conclusion"])
    assert {one["name"] for one in content["experiments"]} == {"baseline", *GRID}
    assert set(content["written"]) >= {f"reports/experiments/{path}" for path in pictures}
    assert not ran.run("git", "status", "--porcelain").stdout


def test_a_browser_without_a_network_shows_the_page_wide_and_narrow_light_and_dark(
    compared, tmp_path
):
    html = (compared[0].root / "reports/experiments/index.html").read_text()
    assert re.findall(r"""(?:src|href|srcset)=["'](?!data:|#)""", html) == []
    assert "<script" not in html
    (tmp_path / "page.html").write_text(html + PROBE)
    shown = {
        (width, scheme): _browse(tmp_path / "page.html", width, scheme, tmp_path)
        for width, scheme in ((1280, "light"), (390, "dark"))
    }
    for page in shown.values():
        assert len(page["pictures"]) == 2 + 3
        assert min(page["pictures"]) > 300
        assert page["wider"] <= 0
    light, dark = shown.values()
    assert (light["filter"], dark["filter"]) == ("none", "invert(1) hue-rotate(180deg)")


def _browse(page: Path, width: int, scheme: str, profile: Path):
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    assert browser, f"none of {', '.join(names)} is installed"
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--proxy-server=127.0.0.1:9",
            f"--user-data-dir={profile / scheme}",
            f"--blink-settings=preferredColorScheme={('dark', 'light').index(scheme)}",
            f"--window-size={width},2000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=limit(120),
        check=True,
    )
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title, done.stdout[-500:]
    return json.loads(title[1])


def test_a_review_says_what_changed_and_whether_to_merge(ran):
    content = ran.json("alzmri", "review", "main", "sweep-lr0.05", "--json")
    text = _markdown(ran.root, "review-main-sweep-lr0.05")
    assert text.splitlines()[2].replace("*", "").replace("`", "") == f"> {content['conclusion']}"
    assert content["parameters"] == {"train.lr": {"base": 0.0001, "head": 0.05}}
    assert content["code"] == {}
    assert content["scores"]["macro_f1"]["base"] == ran.metrics("evaluate")["macro_f1"]
    assert "| `train.lr` | 0.0001 | 0.05 |" in text
    assert "The same in both: 84 images of 28 subjects." in text

    said = ran.run("alzmri", "review", "main", "slices").stdout
    assert said.startswith("Do not merge slices for its score: it LEAKS.")
    text = _markdown(ran.root, "review-main-slices")
    assert "**`slices` LEAKS (" in text
    assert "**Not comparable with `slices`**: `main` (other test subjects" in text
    assert " → " in text[text.index("## Images (subjects)") : text.index("## Code")]


def test_a_review_of_nothing_of_a_stale_workspace_and_of_edited_code(ran, tmp_path):
    clone = ran.copy(tmp_path / "alzmri")
    assert "Nothing changed." in clone.run("alzmri", "review", "main").stdout
    source = clone.root / "src/alzmri/evaluation/figures.py"
    source.write_text(source.read_text() + "\n# edited\n")
    said = clone.run("alzmri", "review", "main").stdout
    assert said.startswith(
        "No conclusion. The results of workspace do not belong to its parameters and"
    )
    assert "code: evaluate ran with others." in said
    clone.run("dvc", "repro")
    assert "every prediction is the same class" in clone.run("alzmri", "review", "main").stdout
    text = _markdown(clone.root, "review-main-workspace")
    assert "| `evaluate` | `src/alzmri/evaluation` |" in text


def test_what_is_missing_is_said_in_one_sentence_and_four_small_files_are_enough(ran, tmp_path):
    clone = ran.copy(tmp_path / "alzmri")
    shutil.rmtree(clone.root / "reports", ignore_errors=True)
    clone.run("dvc", "remote", "add", "--default", "shared", str(tmp_path / "store"))
    clone.run("dvc", "push")
    shutil.rmtree(clone.root / ".dvc/cache")
    for words, message in (
        (("review", "nowhere"), "nowhere: no such experiment or revision"),
        (("review", "main"), "own run the baseline, `make repro` and `git commit"),
        (("review", "main~1"), "main~1 has no dvc.lock: run `dvc repro` there"),
        (("compare", "sweep"), "dvc exp remove sweep-lr0.05"),
    ):
        done = clone.run("alzmri", *words, code=2)
        assert message in done.stderr
        assert "fetch" not in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (clone.root / "reports").exists()

    workflow = YAML(typ="safe").load((clone.root / ".github/workflows/review.yml").read_text())
    files = workflow["jobs"]["review"]["env"]["FILES"].split()
    clone.run("dvc", "fetch", *files)
    assert "Nothing changed." in clone.run("alzmri", "review", "main").stdout
    fetched = [path for path in (clone.root / ".dvc/cache").rglob("*") if path.is_file()]
    assert len(fetched) == len(files) + 1  # and the listing of data/prepared


def test_experiments_are_found_from_a_later_commit(ran, tmp_path):
    clone = ran.copy(tmp_path / "alzmri")
    clone.run("git", "commit", "--quiet", "--allow-empty", "--message", "later")
    assert "no experiment started from this commit" in clone.run("alzmri", "compare", code=2).stderr
    content = clone.json("alzmri", "compare", "sweep", "main~1", "--json")
    assert [sorted(one["runs"]) for one in content["experiments"]] in (
        [["main~1"], ["sweep-lr0.05"]],
        [["sweep-lr0.05"], ["main~1"]],
    )
    assert content["baseline"] == "main~1"

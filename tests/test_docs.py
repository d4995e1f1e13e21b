"""README and docs quote the committed run, whatever was run in the workspace since."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from alzmri import __version__

ROOT = Path(__file__).parent.parent
REMEDY = (
    "the commit has another run: run `make docs`, correct README.md and docs/, commit all together"
)


def _md5(text: str) -> str:
    """The digest of a file that ``original`` has read, a picture too."""
    content = text.encode(errors="surrogateescape")
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def locked(original):
    """The digest of every output file in dvc.lock."""
    stages = YAML(typ="safe").load(original("dvc.lock"))["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def test_committed_metrics_are_those_of_the_committed_lock(original, locked):
    metrics = [path for path in locked if path.startswith("metrics/")]
    assert {"metrics/train.json", "metrics/evaluate.json"} <= set(metrics)
    for path in metrics:
        assert _md5(original(path)) == locked[path], (
            "run `dvc repro`, then commit metrics/ and dvc.lock"
        )


@pytest.mark.parametrize(
    "path",
    ["plots/confusion.png", "plots/mistakes.png", "models/evaluation.json", "models/ood.json"],
)
def test_copies_in_the_docs_are_those_of_the_committed_lock(original, locked, path):
    """DVC has these files; git has copies, for readers and for the tests below."""
    assert _md5(original(f"docs/{Path(path).name}")) == locked[path], REMEDY


def test_numbers_in_the_readme_are_those_of_the_committed_run(original):
    scores = json.loads(original("docs/evaluation.json"))
    low, high = scores["ci95"]["macro_f1"]
    readme = original("README.md")
    assert f"macro F1 {scores['macro_f1']:.3f} [{low:.3f}, {high:.3f}]" in readme, REMEDY
    assert f"accuracy {scores['accuracy']:.3f}" in readme, REMEDY


def test_false_alarms_in_the_docs_are_those_of_the_committed_run(original):
    measured = json.loads(original("docs/ood.json"))
    low, high = (100 * bound for bound in measured["ci95"]["false_alarms"])
    claim = f"{100 * measured['false_alarms']:.1f} % [{low:.1f} %, {high:.1f} %]"
    assert claim in original("docs/inference.md"), REMEDY


def test_honest_numbers_in_the_readme_are_those_of_the_results(original):
    readme = original("README.md")
    quote = readme[readme.index("> **Read this") : readme.index("<img")]
    claimed = re.findall(r"0\.\d{3}", quote)
    assert len(claimed) >= 8
    results = original("docs/results.md")
    assert [number for number in claimed if number not in results] == []


def test_the_table_has_every_parameter_with_its_default(original):
    page = original("docs/params.md")
    table = dict(re.findall(r"^\| `(\w+\.\w+)` \| (.*?) \|", page, re.MULTILINE))
    expected = {
        f"{section}.{key}": value
        for section, values in YAML(typ="safe").load(original("params.yaml")).items()
        for key, value in values.items()
    }
    assert {key: YAML(typ="safe").load(text) for key, text in table.items()} == expected


def test_the_notebook_has_no_outputs_and_ends_at_the_table_of_experiments():
    cells = json.loads((ROOT / "notebooks/first_experiment.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert cells[-1]["source"][0].startswith("!dvc exp show")


def test_the_citation_and_the_changelog_name_the_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_every_link_in_the_documentation_leads_somewhere():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests/README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links {target}"


def test_every_make_target_in_the_documentation_exists():
    makefile = (ROOT / "Makefile").read_text()
    pages = (ROOT / "README.md").read_text() + (ROOT / "tests/README.md").read_text()
    targets = re.findall(r"(?:^|`)make ([a-z]+)", pages, re.MULTILINE)
    assert {"repro", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_folder_in_the_page_on_tests_exists():
    named = re.findall(r"`(tests/[\w/]+)`", (ROOT / "tests/README.md").read_text())
    assert "tests/e2e" in named
    assert [folder for folder in named if not (ROOT / folder).exists()] == []

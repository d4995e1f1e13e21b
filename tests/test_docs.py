"""What the repository says about itself is what was measured."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def locked():
    """The digest of every output file in dvc.lock."""
    stages = YAML(typ="safe").load((ROOT / "dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate", "scope"])
def test_committed_metrics_are_those_of_the_committed_lock(locked, stage):
    path = f"metrics/{stage}.json"
    assert _md5(ROOT / path) == locked[path], "run `dvc repro`, then commit metrics/ and dvc.lock"


@pytest.mark.parametrize("name", ["confusion", "mistakes"])
def test_pictures_in_the_docs_are_those_of_the_committed_lock(locked, name):
    assert _md5(ROOT / f"docs/{name}.png") == locked[f"plots/{name}.png"], "run `make docs`"


def test_numbers_in_the_readme_are_those_of_the_committed_run():
    scores = json.loads((ROOT / "metrics/evaluate.json").read_text())
    low, high = scores["ci95"]["macro_f1"]
    assert f"macro F1 {scores['macro_f1']:.3f} [{low:.3f}, {high:.3f}]" in README
    assert f"accuracy {scores['accuracy']:.3f}" in README


def test_false_alarms_in_the_docs_are_those_of_the_committed_run():
    measured = json.loads((ROOT / "metrics/scope.json").read_text())
    low, high = (100 * bound for bound in measured["ci95"]["false_alarms"])
    claim = f"{100 * measured['false_alarms']:.1f} % [{low:.1f} %, {high:.1f} %]"
    assert claim in (ROOT / "docs/inference.md").read_text()


def test_honest_numbers_in_the_readme_are_those_of_the_results():
    quote = README[README.index("> **Read this") : README.index("<img")]
    claimed = re.findall(r"0\.\d{3}", quote)
    assert len(claimed) >= 8
    results = (ROOT / "docs/results.md").read_text()
    assert [number for number in claimed if number not in results] == []


def test_the_readmes_table_has_every_parameter_with_its_default():
    table = dict(re.findall(r"^\| `(\w+\.\w+)` \| (.*?) \|", README, re.MULTILINE))
    expected = {
        f"{section}.{key}": value
        for section, values in YAML(typ="safe")
        .load((ROOT / "tests/params.yaml").read_text())
        .items()
        for key, value in values.items()
    }
    assert {key: YAML(typ="safe").load(text) for key, text in table.items()} == expected


def test_every_link_in_the_documentation_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links {target}"


def test_every_make_target_in_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)
    assert {"repro", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

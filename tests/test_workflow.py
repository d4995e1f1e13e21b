"""The workflow on GitHub types commands that exist, and keeps secrets from strangers."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from alzmri.cli import app

ROOT = Path(__file__).parent.parent
ON_THE_RUNNER = {"gh"}
"""Programs of GitHub's machines that this one need not have."""


@pytest.fixture(scope="module")
def workflow():
    """The parsed file; its trigger is under the key ``on``."""
    return YAML(typ="safe").load((ROOT / ".github/workflows/review.yml").read_text())


def _scripts(workflow):
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if "run" in step:
                yield step["run"]


def test_every_command_exists(workflow):
    makefile = (ROOT / "Makefile").read_text()
    commands = get_command(app).commands
    typed = set()
    for script in _scripts(workflow):
        whole = script.replace("\\\n", " ")
        assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0
        for program, word in re.findall(r"^\s*(?:if )?([a-z]+) ([a-z-]+)", whole, re.MULTILINE):
            typed.add((program, word))
            if program == "make":
                assert re.search(rf"^{word}:", makefile, re.MULTILINE), word
            elif program == "alzmri":
                assert word in commands
            elif program not in ON_THE_RUNNER | {"echo", "cd"}:
                assert shutil.which(program), program
    assert {("make", "test"), ("make", "setup"), ("alzmri", "review"), ("dvc", "fetch")} <= typed


def test_the_files_that_a_review_reads_are_fetched_for_both_sides(workflow):
    lines = "\n".join(_scripts(workflow)).splitlines()
    base = lines.index('git switch --quiet --detach "$BASE"')
    assert lines[base + 1 : base + 4] == [
        "dvc fetch $FILES",
        "git switch --quiet --detach -",
        "dvc fetch $FILES",
    ]
    assert workflow["jobs"]["review"]["env"]["FILES"].split() == [
        *("plots/history.csv", "plots/predictions.csv"),
        *("models/evaluation.json", "data/prepared/summary.json"),
    ]


def test_code_of_a_pull_request_never_meets_a_token_that_may_write(workflow):
    assert "pull_request_target" not in str(workflow["on"])
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        uses = [step.get("uses", "") for step in job["steps"]]
        for action in filter(None, uses):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), f"{name}: {action} is not pinned"
        runs_its_code = any("checkout" in action for action in uses)
        assert ("write" in job["permissions"].values()) != runs_its_code, name
        if "secrets." in str(job):
            assert "head.repo.full_name == github.repository" in job["if"], name


def test_the_comment_shows_the_pictures_by_their_address(workflow, tmp_path):
    (tmp_path / "review").mkdir()
    (tmp_path / "review/README.md").write_text("> **Merge**\n\n![b](<a-b/c.png>)\n![d](<d.png>)\n")
    (script,) = [script for script in _scripts(workflow) if "comment.md" in script]
    subprocess.run(
        ["bash", "-c", script.splitlines()[0]],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "ASSETS": "https://github.com/o/r/raw/1f/pull-7"},
        check=True,
    )
    assert (tmp_path / "comment.md").read_text().splitlines() == [
        "<!-- alzmri review -->",
        "> **Merge**",
        "",
        "![b](<https://github.com/o/r/raw/1f/pull-7/a-b/c.png>)",
        "![d](<https://github.com/o/r/raw/1f/pull-7/d.png>)",
    ]

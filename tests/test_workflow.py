"""The workflows on GitHub type commands that exist, and keep secrets from strangers."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from alzmri.cli import app

ROOT = Path(__file__).parent.parent
ON_THE_RUNNER = {"curl", "gh"}
"""Programs of GitHub's machines that this one need not have."""
WORKFLOWS = sorted(path.name for path in (ROOT / ".github/workflows").iterdir())


def _read(name):
    """The parsed file of `.github`; a workflow's trigger is under the key ``on``."""
    return YAML(typ="safe").load((ROOT / ".github" / name).read_text())


@pytest.fixture(params=WORKFLOWS)
def workflow(request):
    return _read(f"workflows/{request.param}")


@pytest.fixture(scope="module")
def tests():
    return _read("workflows/tests.yml")


@pytest.fixture(scope="module")
def review():
    return _read("workflows/review.yml")


def _scripts(*jobs):
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_every_command_exists(workflow):
    makefile = (ROOT / "Makefile").read_text()
    commands = get_command(app).commands
    scripts = _scripts(*workflow["jobs"].values())
    assert scripts
    for script in scripts:
        whole = script.replace("\\\n", " ")
        assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0
        for program, word in re.findall(r"^\s*(?:if )?([a-z]+) ([a-z-]+)", whole, re.MULTILINE):
            if program == "make":
                assert re.search(rf"^{word}:", makefile, re.MULTILINE), word
            elif program == "alzmri":
                assert word in commands
            elif program not in ON_THE_RUNNER | {"echo", "cd"}:
                assert shutil.which(program), program


def test_tests_run_once_for_a_push_a_pull_request_and_every_week(tests, review):
    assert set(tests["on"]) >= {"push", "pull_request", "schedule"}
    assert tests["concurrency"]["cancel-in-progress"] is True
    assert "make test ARGS=--durations=25" in _scripts(tests["jobs"]["test"])
    assert not any("make test" in script for script in _scripts(*review["jobs"].values()))


def test_lint_and_types_are_those_of_make_check_and_wait_for_nothing(tests):
    (check,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    job = tests["jobs"]["check"]
    typed = [script.replace(" --output-format github", "") for script in _scripts(job)]
    assert set(check.replace("\t@", "").splitlines()) <= set(typed)
    assert "needs" not in job


def test_packages_are_cached_by_their_pins(workflow):
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if "setup-python" in step.get("uses", ""):
                assert step["with"]["cache"] == "pip"
                assert step["with"]["cache-dependency-path"] == "requirements.txt"


def test_the_files_that_a_review_reads_are_fetched_for_both_sides(review):
    lines = "\n".join(_scripts(*review["jobs"].values())).splitlines()
    base = lines.index('git switch --quiet --detach "$BASE"')
    assert lines[base + 1 : base + 4] == [
        "dvc fetch $FILES",
        "git switch --quiet --detach -",
        "dvc fetch $FILES",
    ]
    assert review["jobs"]["review"]["env"]["FILES"].split() == [
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
        if "pull_request" not in workflow["on"]:
            continue
        runs_its_code = any("checkout" in action for action in uses)
        assert ("write" in job["permissions"].values()) != runs_its_code, name
        if "secrets." in str(job):
            assert "head.repo.full_name == github.repository" in job["if"], name


def test_updates_come_weekly_in_one_pull_request_a_kind():
    content = _read("dependabot.yml")
    assert content["version"] == 2
    kinds = {update["package-ecosystem"]: update for update in content["updates"]}
    assert set(kinds) == {"pip", "github-actions"}
    for update in kinds.values():
        assert update["schedule"]["interval"] == "weekly"
        assert [group["patterns"] for group in update["groups"].values()] == [["*"]]
    for folder in kinds["pip"]["directories"]:
        assert (ROOT / folder.lstrip("/") / "requirements.txt").is_file()


def test_the_comment_shows_the_pictures_by_their_address(review, tmp_path):
    (tmp_path / "review").mkdir()
    (tmp_path / "review/README.md").write_text("> **Merge**\n\n![b](<a-b/c.png>)\n![d](<d.png>)\n")
    scripts = _scripts(*review["jobs"].values())
    (script,) = [script for script in scripts if "comment.md" in script]
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


@pytest.mark.parametrize(
    ("known", "conclusion", "agrees"),
    [
        ("better", "Merge it", True),
        ("the same", "Nothing changed.", True),
        ("not significantly different", "Keep it", True),
        ("worse", "Keep it: worse", False),
        ("not comparable", "No conclusion about it", False),
        ("better", "No conclusion. The results are not of its parameters", False),
    ],
)
def test_what_gets_the_stage_prod_is_deployed_once_a_review_agrees(known, conclusion, agrees):
    workflow = _read("workflows/deploy.yml")
    assert workflow["on"] == {"push": {"tags": ["alzmri#prod#*"]}}
    assert (
        "gto assign alzmri --version v0.1.0 --stage prod" in (ROOT / "docs/registry.md").read_text()
    )
    *_, review, deploy = workflow["jobs"]["deploy"]["steps"]
    assert "alzmri sagemaker deploy $OPTIONS" in deploy["run"]
    assert 'alzmri review "$before" --json > review.json\n' in review["run"]
    said = json.dumps({"conclusion": conclusion, "verdict": {"known": known}})
    done = subprocess.run(
        [sys.executable, "-c", review["env"]["AGREES"]],
        input=said,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == agrees
    assert (conclusion in done.stderr) != agrees

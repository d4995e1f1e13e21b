"""What docs/sagemaker.md says can be typed."""

import json
import re
from pathlib import Path

from alzmri.sagemaker.cli import sagemaker_app

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "sagemaker.md").read_text()


def test_sagemaker_page_names_the_commands_that_there_are():
    named = set(re.findall(r"alzmri sagemaker (\w+)", PAGE))
    table = re.search(r"\| `submit`.*?\n\n", PAGE, re.DOTALL)[0]
    for cell in re.findall(r"^\| (.*?) \|", table, re.MULTILINE):
        named.update(word.split()[0] for word in re.findall(r"`(.*?)`", cell))
    commands = {c.name or c.callback.__name__ for c in sagemaker_app.registered_commands}
    assert named == commands


def test_sagemaker_policies_are_whole():
    for who in ("role", "trust", "user"):
        policy = json.loads((DOCS / f"sagemaker-{who}.json").read_text())
        assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
        assert f"](sagemaker-{who}.json)" in PAGE

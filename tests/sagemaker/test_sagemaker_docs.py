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
    (person,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    role = (DOCS / "sagemaker-role.json").read_text()
    trust = (DOCS / "sagemaker-trust.json").read_text()
    for text in (person, role, trust):
        assert {s["Effect"] for s in json.loads(text)["Statement"]} == {"Allow"}
    assert "sagemaker-role.json" in PAGE

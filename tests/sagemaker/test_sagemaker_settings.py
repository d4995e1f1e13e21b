"""sagemaker.yaml: the committed one, its faults, what the environment adds; the documentation."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from alzmri.errors import UserError
from alzmri.sagemaker.job_request import SETTINGS_FILE, TO_TRAIN, VARIABLES, load_settings
from alzmri.sagemaker.sagemaker_commands import sagemaker_app

COMMITTED = SETTINGS_FILE.resolve()
DOCS = Path(__file__).parents[2] / "docs"
ROLE = "arn:aws:iam::123456789012:role/alzmri"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A function that writes the committed file with some values changed, and reads it."""
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)

    def load(needed=(), **values):
        content = YAML(typ="safe").load(COMMITTED.read_text()) | values
        with (tmp_path / "sagemaker.yaml").open("w") as handle:
            YAML().dump(content, handle)
        return load_settings(needed)

    return load


def test_sagemaker_settings_of_the_account_come_from_the_file_or_the_environment(
    load, monkeypatch, tmp_path
):
    with pytest.raises(UserError) as refused:
        load(TO_TRAIN)
    lines = str(refused.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["region", "role", "bucket"]
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n")
    assert load().region == "eu-west-1"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv(VARIABLES["role"], ROLE)
    monkeypatch.setenv(VARIABLES["bucket"], "ours")
    found = load(TO_TRAIN, bucket="mine")
    assert (found.region, found.role, found.bucket) == ("eu-central-1", ROLE, "mine")


def test_sagemaker_settings_report_every_fault_at_once_and_repeat_no_key(load):
    with pytest.raises(UserError) as refused:
        load(role="admin", instance_type="g5.xlarge", spots=True)
    assert [line.strip().split(":")[0] for line in str(refused.value).splitlines()[1:]] == [
        "role = 'admin'",
        "instance_type = 'g5.xlarge'",
        "spots",
    ]
    assert "did you mean spot?" in str(refused.value)
    key = "0123456789abcdef" * 2 + "01234567"
    with pytest.raises(UserError, match="looks like the key itself") as refused:
        load(wandb_secret=key)
    assert key not in str(refused.value)


def test_sagemaker_page_names_the_commands_that_there_are_and_policies_are_whole():
    page = (DOCS / "sagemaker.md").read_text()
    named = set(re.findall(r"alzmri sagemaker (\w+)", page))
    table = re.search(r"\| `submit`.*?\n\n", page, re.DOTALL)[0]
    for cell in re.findall(r"^\| (.*?) \|", table, re.MULTILINE):
        named.update(word.split()[0] for word in re.findall(r"`(.*?)`", cell))
    assert named == {c.name or c.callback.__name__ for c in sagemaker_app.registered_commands}
    for who in ("role", "trust", "user"):
        policy = json.loads((DOCS / f"sagemaker-{who}.json").read_text())
        assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
        assert f"](sagemaker-{who}.json)" in page

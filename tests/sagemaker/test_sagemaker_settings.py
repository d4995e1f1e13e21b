"""sagemaker.yaml: the committed one, its faults, and what the environment adds."""

import pytest
from ruamel.yaml import YAML

from alzmri.errors import UserError
from alzmri.sagemaker import settings

COMMITTED = settings.SETTINGS_FILE.resolve()
ROLE = "arn:aws:iam::123456789012:role/alzmri"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes the committed file with some values changed, and reads it."""
    for variable in ("AWS_REGION", *settings.VARIABLES.values()):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    def write(**values):
        content = YAML(typ="safe").load(COMMITTED.read_text()) | values
        with (tmp_path / "sagemaker.yaml").open("w") as handle:
            YAML().dump(content, handle)
        return settings.load(tmp_path / "sagemaker.yaml")

    return write


def test_sagemaker_settings_of_the_account_come_from_the_file_or_the_environment(
    write, monkeypatch, tmp_path
):
    with pytest.raises(UserError) as refused:
        settings.require(write())
    assert [line.split(":")[0].strip() for line in str(refused.value).splitlines()[1:]] == [
        "region",
        "role",
        "bucket",
    ]
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n")
    assert write().region == "eu-west-1"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv(settings.VARIABLES["role"], ROLE)
    monkeypatch.setenv(settings.VARIABLES["bucket"], "ours")
    found = write(bucket="mine")
    assert (found.region, found.role, found.bucket) == ("eu-central-1", ROLE, "mine")
    settings.require(found)


def test_sagemaker_settings_report_every_fault_at_once(write):
    with pytest.raises(UserError) as refused:
        write(role="admin", instance_type="g5.xlarge", spots=True, max_hours=72)
    assert [line.strip().split(":")[0] for line in str(refused.value).splitlines()[1:]] == [
        "role = 'admin'",
        "instance_type = 'g5.xlarge'",
        "max_wait_hours = 48",
        "spots",
    ]
    assert "did you mean spot?" in str(refused.value)
    assert write(spot=False, max_hours=72).max_hours == 72
    assert write(max_hours=48).max_wait_hours == 48


def test_sagemaker_settings_do_not_repeat_a_key_in_place_of_a_secrets_name(write):
    key = "0123456789abcdef" * 2 + "01234567"
    with pytest.raises(UserError, match="looks like the key itself") as refused:
        write(wandb_secret=key)
    assert key not in str(refused.value)

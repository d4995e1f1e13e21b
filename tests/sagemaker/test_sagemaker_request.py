"""What the service is asked for follows sagemaker.yaml and params.yaml, and nothing secret does."""

import json
import re

import pytest

from alzmri.errors import UserError
from alzmri.sagemaker import request
from alzmri.sagemaker.bundle import Bundle
from alzmri.sagemaker.settings import Settings

BUNDLE = Bundle(b"", "c0de" * 16, "0123456789abcdef0123456789abcdef01234567", [])


@pytest.fixture
def make_settings():
    """``make_settings(spot=False)``: an account's settings with some values changed."""

    def make(**changes) -> Settings:
        values = {
            "region": "eu-central-1",
            "role": "arn:aws:iam::123456789012:role/alzmri",
            "bucket": "ours",
            "prefix": "team/study",
            "image": "",
            "instance_type": "ml.g5.xlarge",
            "instance_count": 2,
            "volume_gb": 30,
            "spot": True,
            "max_hours": 1.5,
            "max_wait_hours": 4.0,
            "wandb_secret": "",
            "tags": {"team": "mri"},
        }
        return Settings(**{**values, **changes})

    return make


@pytest.fixture
def build(make_settings, make_params, monkeypatch):
    """``build(spot=False)``: the request for a job."""
    for variable in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(variable, raising=False)

    def make(bundle=BUNDLE, **changes):
        settings, params = make_settings(**changes), make_params()
        places = request.addresses(settings, params, bundle, "da7a" * 16)
        return request.build(settings, params, bundle, places, "alzmri-job")

    return make


def test_sagemaker_request_waits_for_spot_capacity_and_computes_as_long_as_the_settings_say(build):
    spot, on_demand = build(), build(spot=False)
    assert spot["EnableManagedSpotTraining"]
    assert spot["StoppingCondition"] == {
        "MaxRuntimeInSeconds": 5400,
        "MaxWaitTimeInSeconds": 14_400,
    }
    # The service refuses a time to wait without spot.
    assert not on_demand["EnableManagedSpotTraining"]
    assert on_demand["StoppingCondition"] == {"MaxRuntimeInSeconds": 5400}


def test_sagemaker_request_says_on_what_and_for_whom(build):
    made = build(wandb_secret="team/wandb")
    assert made["ResourceConfig"] == {
        "InstanceType": "ml.g5.xlarge",
        "InstanceCount": 2,
        "VolumeSizeInGB": 30,
    }
    assert made["RoleArn"] == "arn:aws:iam::123456789012:role/alzmri"
    assert made["Environment"] == {
        "DVC_EXP_NAME": "alzmri-job",
        "DVC_EXP_BASELINE_REV": BUNDLE.commit,
        "ALZMRI_WANDB_SECRET": "team/wandb",
    }
    tags = {tag["Key"]: tag["Value"] for tag in made["Tags"]}
    assert tags == {"team": "mri", "alzmri:commit": BUNDLE.commit}
    changed = Bundle(b"", BUNDLE.digest, BUNDLE.commit, [" M src/train.py"])
    tags = {tag["Key"]: tag["Value"] for tag in build(changed)["Tags"]}
    assert tags["alzmri:commit"] == f"{BUNDLE.commit}-changed"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"instance_type": "ml.g5.xlarge"}, "-cu"),
        ({"instance_type": "ml.p4d.24xlarge"}, "-cu"),
        ({"instance_type": "ml.c7i.4xlarge"}, "-cpu-"),
        ({"instance_type": "ml.c7i.4xlarge", "image": "registry/ours:1"}, "registry/ours:1"),
    ],
)
def test_sagemaker_request_names_the_image_for_the_instance(build, changes, expected):
    assert expected in build(**changes)["AlgorithmSpecification"]["TrainingImage"]


def test_sagemaker_request_trains_there_with_these_parameters(make_params):
    params = make_params(train={"lr": 1e-5}, compute={"train_on": "sagemaker"})
    sent = request.hyperparameters(params)
    assert json.loads(sent["train.lr"]) == 1e-5
    assert json.loads(sent["split.fractions"]) == params.split.fractions
    # Or the job would ask for another job.
    assert not [key for key in sent if key.startswith("compute.")]


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("data", {"source": "kaggle"}),
        ("split", {"seed": 1}),
        ("augment", {"p": 0.5}),
        ("model", {"dropout": 0.1}),
        ("train", {"lr": 0.02}),
    ],
)
def test_sagemaker_checkpoints_of_other_parameters_lie_elsewhere(
    make_settings, make_params, section, change
):
    def places(settings=None, prepared="da7a" * 16, code="c0de", **sections):
        bundle = Bundle(b"", code * 16, BUNDLE.commit, [])
        return request.addresses(
            settings or make_settings(), make_params(**sections), bundle, prepared
        )

    own = places()
    assert places(track={"mode": "offline"}) == own
    assert own.code.startswith("s3://ours/team/study/code/")
    others = [
        places(**{section: change}),
        places(prepared="0" * 64),
        places(code="beef"),
        places(make_settings(image="registry/ours:1")),
    ]
    for other in others:
        assert other.checkpoints != own.checkpoints
    for address in vars(own).values():
        assert address.endswith("/")  # or the service fetches what merely begins alike


@pytest.mark.parametrize("label", ["", "a", "sweep_lr=0.1", "x" * 100, "-" * 60])
def test_sagemaker_finds_a_name_that_the_service_takes(monkeypatch, label):
    monkeypatch.setenv("DVC_EXP_NAME", label)
    name = request.job_name(BUNDLE.commit)
    assert len(name) <= 63
    assert re.fullmatch(request.NAME, name)
    assert re.search(r"-\d{8}-\d{6}$", name)


@pytest.mark.parametrize("label", ["", "a b", "a_b", "-", "a-", "x" * 57])
def test_sagemaker_names_that_the_service_would_refuse(label):
    with pytest.raises(UserError, match="letters, digits and hyphens"):
        request.named(label)


@pytest.mark.parametrize("label", ["a", "a-b", "alzmri-a", "x" * 56])
def test_sagemaker_names_that_the_service_takes(label):
    assert request.named(label) == f"alzmri-{label.removeprefix('alzmri-')}"

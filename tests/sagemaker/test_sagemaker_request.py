"""What the service is asked for follows sagemaker.yaml and params.yaml, and nothing secret does."""

import json
import re
from dataclasses import replace

import pytest

from alzmri.errors import UserError
from alzmri.sagemaker import request
from alzmri.sagemaker.bundle import Code
from alzmri.sagemaker.request import Work
from alzmri.sagemaker.settings import Settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = Code(COMMIT, COMMIT, [], "a11" * 16, "c0de" * 16)


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
            "serve_image": "",
            "serve_instance_type": "ml.c7i.large",
            "serve_instance_count": 1,
            "serverless_memory_mb": 3072,
            "serverless_concurrency": 5,
        }
        return Settings(**{**values, **changes})

    return make


@pytest.fixture
def build(make_settings, make_params, monkeypatch):
    """``build(spot=False)``: the request for a job."""
    for variable in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(variable, raising=False)

    def make(code=CODE, **changes):
        settings = make_settings(**changes)
        sent, image = request.hyperparameters(make_params()), request.image(settings)
        return request.build(settings, Work(code, "da7a" * 16, sent, image), "alzmri-job")

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
        "DVC_EXP_BASELINE_REV": COMMIT,
        "ALZMRI_CODE": CODE.training,
        "ALZMRI_DATA": "da7a" * 16,
        "ALZMRI_WANDB_SECRET": "team/wandb",
    }
    tags = {tag["Key"]: tag["Value"] for tag in made["Tags"]}
    assert tags == {"team": "mri", "alzmri:commit": COMMIT}
    changed = replace(CODE, changes=[" M src/train.py"])
    tags = {tag["Key"]: tag["Value"] for tag in build(changed)["Tags"]}
    assert tags["alzmri:commit"] == f"{COMMIT}-changed"


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
    def made(settings=None, prepared="da7a" * 16, code=CODE, **sections):
        settings = settings or make_settings()
        sent = request.hyperparameters(make_params(**sections))
        work = Work(code, prepared, sent, request.image(settings))
        return request.build(settings, work, "alzmri-job")

    def checkpoints(*words, **changes):
        return made(*words, **changes)["CheckpointConfig"]["S3Uri"]

    own = checkpoints()
    assert checkpoints(track={"mode": "offline"}) == own
    assert checkpoints(code=replace(CODE, digest="beef")) == own
    others = [
        checkpoints(**{section: change}),
        checkpoints(prepared="0" * 64),
        checkpoints(code=replace(CODE, training="beef")),
        checkpoints(make_settings(image="registry/ours:1")),
    ]
    assert own not in others
    work = Work(CODE, "da7a" * 16, request.hyperparameters(make_params()), "image")
    channels = request.channels(make_settings(), work)
    assert channels["code"].startswith("s3://ours/team/study/code/")
    for address in (own, *channels.values()):
        assert address.endswith("/")  # or the service fetches what merely begins alike


def test_sagemaker_every_difference_between_a_job_and_what_is_here_is_named(make_params):
    there = {
        "HyperParameters": request.hyperparameters(make_params(track={"mode": "offline"})),
        "Environment": {"ALZMRI_CODE": CODE.training, "ALZMRI_DATA": "da7a"},
    }
    here = Work(CODE, "da7a", request.hyperparameters(make_params()), "image")
    assert here.differences(there) == []
    assert len(here.differences({})) == 2, "no job of ours"
    changed = request.hyperparameters(make_params(train={"lr": 0.2}, data={"source": "kaggle"}))
    other = Work(replace(CODE, training="beef"), "0", changed, "image")
    assert [line.partition(",")[0].partition(":")[0] for line in other.differences(there)] == [
        'data.source = "phantom"',
        "train.lr = 0.0001",
        "data/prepared",
        "the code",
    ]


@pytest.mark.parametrize("label", ["", "a", "sweep_lr=0.1", "x" * 100, "-" * 60])
def test_sagemaker_finds_a_name_that_the_service_takes(monkeypatch, label):
    monkeypatch.setenv("DVC_EXP_NAME", label)
    name = request.job_name(Work(CODE, "da7a", {}, "image"))
    assert len(name) <= 63 - len("-100")
    assert re.fullmatch(request.NAME, name)


@pytest.mark.parametrize("label", ["", "a b", "a_b", "-", "a-", "x" * 57])
def test_sagemaker_names_that_the_service_would_refuse(label):
    with pytest.raises(UserError, match="letters, digits and hyphens"):
        request.named(label)


@pytest.mark.parametrize("label", ["a", "a-b", "alzmri-a", "x" * 56])
def test_sagemaker_names_that_the_service_takes(label):
    assert request.named(label) == f"alzmri-{label.removeprefix('alzmri-')}"

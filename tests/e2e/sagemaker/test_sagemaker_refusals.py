"""What AWS refuses, in its own words, and what we make of it."""

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from alzmri.errors import EnvironmentFault, UserError
from alzmri.params import load
from alzmri.sagemaker import faults, job, request, settings, storage
from alzmri.sagemaker.bundle import Code
from alzmri.sagemaker.request import Work
from alzmri.sagemaker.service import Service

from .namespaces import serve
from .simulator import ACCOUNT, REGION, Simulator

REFUSALS = {
    "ExpiredTokenException: The security token included in the request is expired": (
        "has expired: sign in again"
    ),
    "UnrecognizedClientException: The security token included in the request is invalid.": (
        "AWS does not know the key"
    ),
    "AccessDeniedException: User: arn:aws:iam::123456789012:user/me is not authorized to perform:"
    " sagemaker:CreateTrainingJob": (
        "docs/sagemaker.md has the least policy (AWS: User: arn:aws:iam::123456789012:user/me is"
    ),
    "ValidationException: Could not assume role arn:aws:iam::123456789012:role/no. Please ensure"
    " that the role exists and allows principal 'sagemaker.amazonaws.com' to assume the role.": (
        "it must exist in this account and trust sagemaker.amazonaws.com"
    ),
    "ValidationException: Cannot find repository: pytorch in registry ID: 763104351884 Please check"
    " if your ECR repository exists and role has proper pull permissions for SageMaker.": (
        "the image is not to be had in this region: set image"
    ),
    "ResourceLimitExceeded: The account-level service limit 'ml.g5.xlarge for spot training job"
    " usage' is 0 Instances, with current utilization of 0 Instances and a request delta of 1": (
        "Service Quotas"
    ),
    "ValidationException: The S3 bucket ours is in region eu-west-1, not in region us-east-1": (
        "in another region than the job"
    ),
}


@pytest.fixture
def simulator(tmp_path, monkeypatch):
    """The services without instances."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    simulator = Simulator(tmp_path, None, "")
    server = serve(simulator.answer, ("127.0.0.1", 0))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield simulator
    server.shutdown()
    server.server_close()


def _request(**changes):
    account = {"region": REGION, "role": f"arn:aws:iam::{ACCOUNT}:role/a", "bucket": "ours"}
    wanted = settings.load().model_copy(update=account | changes)
    code = Code("0" * 40, "0" * 40, [], "0" * 64, "0" * 64)
    work = Work(code, "1" * 64, request.hyperparameters(load()), request.image(wanted))
    return request.build(wanted, work, "alzmri-one")


def _create(**changes):
    with faults.explained():
        Service(REGION).client("sagemaker").create_training_job(**_request(**changes))


@pytest.mark.parametrize(("refusal", "said"), REFUSALS.items())
def test_sagemaker_refusals_are_one_sentence_with_the_remedy(simulator, refusal, said):
    simulator.refusals["CreateTrainingJob"] = tuple(refusal.split(": ", 1))
    with pytest.raises(UserError, match=re.escape(said)):
        _create()


def test_sagemaker_too_busy_is_no_fault_of_the_users(simulator):
    simulator.refusals["DescribeTrainingJob"] = ("ThrottlingException", "Rate exceeded")
    with pytest.raises(EnvironmentFault, match="AWS is too busy just now"):
        job.describe(Service(REGION), "alzmri-one")


def test_sagemaker_refuses_what_its_model_does_not_allow(simulator):
    with pytest.raises(UserError, match="there is no such instance type"):
        _create(instance_type="ml.z9.xlarge")
    with pytest.raises(UserError, match=r"max_wait_hours .* must be at least max_hours"):
        _create(max_wait_hours=1.0)
    with pytest.raises(UserError, match="there is no such job in this account and region"):
        job.describe(Service(REGION), "alzmri-none")
    with pytest.raises(UserError, match="no job named alzmri"):
        job.latest(Service(REGION))


def test_sagemaker_without_credentials_or_network_says_so(simulator, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UserError, match="aws configure --profile NAME"):
        job.latest(Service(REGION))
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(EnvironmentFault, match="AWS does not answer"):
        job.latest(Service(REGION))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match="no AWS credentials"):
        job.latest(Service(REGION))


def test_sagemaker_a_bucket_in_another_region_is_refused_before_anything_is_sent(
    simulator, monkeypatch
):
    class Bucket(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("x-amz-bucket-region", "eu-west-1")
            self.end_headers()

        def log_message(self, *_):
            """Nothing to see."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(UserError, match="the bucket ours is in another region than the job"):
        storage.require_bucket(Service(REGION).client("s3"), "ours", REGION)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("CapacityError: Unable to provision requested ML compute capacity.", "submit again later"),
        ("ClientError: CannotPullContainerError: not found", "look at image"),
        ("AlgorithmError: No space left on device: x, exit code: 1", "raise volume_gb"),
        ("ClientError: AccessDenied on s3://ours/data", "the role lacks a permission"),
    ],
)
def test_sagemaker_failures_have_a_remedy(reason, remedy):
    assert remedy in faults.remedy(reason)


def test_sagemaker_the_request_has_what_spot_and_several_hosts_need():
    asked = _request(instance_type="ml.g5.12xlarge", instance_count=2)
    assert asked["CheckpointConfig"]["S3Uri"].endswith("/")
    assert asked["EnableManagedSpotTraining"]
    assert asked["AlgorithmSpecification"]["TrainingImage"] == (
        f"763104351884.dkr.ecr.{REGION}.amazonaws.com/pytorch:2.13-cu133-amzn2023-sagemaker"
    )
    assert (
        "2.13-cpu-"
        in _request(instance_type="ml.c7i.xlarge")["AlgorithmSpecification"]["TrainingImage"]
    )
    on_demand = _request(spot=False)
    assert set(on_demand["StoppingCondition"]) == {"MaxRuntimeInSeconds"}
    assert all(isinstance(value, str) for value in asked["HyperParameters"].values())

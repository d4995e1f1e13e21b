"""What the simulated service refuses, and who speaks with it: no jobs, no S3."""

from threading import Thread

import pytest

from alzmri.errors import EnvironmentFault, UserError
from alzmri.params import load
from alzmri.sagemaker import aws, job, request, settings
from alzmri.sagemaker.bundle import Code
from alzmri.sagemaker.request import Work

from .namespaces import serve
from .simulator import ACCOUNT, REGION, Simulator


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


@aws.explained()
def _create(**changes):
    account = {"region": REGION, "role": f"arn:aws:iam::{ACCOUNT}:role/a", "bucket": "ours"}
    wanted = settings.load().model_copy(update=account | changes)
    code = Code("0" * 40, "0" * 40, [], "0" * 64, "0" * 64)
    work = Work(code, "1" * 64, request.hyperparameters(load()), request.image(wanted))
    asked = request.build(wanted, work, "alzmri-one")
    aws.session(REGION).client("sagemaker").create_training_job(**asked)


def test_sagemaker_refuses_what_its_model_does_not_allow(simulator):
    with pytest.raises(UserError, match="there is no such instance type"):
        _create(instance_type="ml.z9.xlarge")
    with pytest.raises(UserError, match=r"AWS refuses: .*MaxWaitTimeInSeconds"):
        _create(max_wait_hours=1.0)
    with pytest.raises(UserError, match="there is no such job in this account and region"):
        job.describe(aws.session(REGION), "alzmri-none")
    with pytest.raises(UserError, match="no job named alzmri"):
        job.latest(aws.session(REGION))


def test_sagemaker_without_credentials_or_network_says_so(simulator, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UserError, match=r"no AWS credentials .*nobody"):
        job.latest(aws.session(REGION))
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(EnvironmentFault, match="AWS does not answer"):
        job.latest(aws.session(REGION))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match="no AWS credentials"):
        job.latest(aws.session(REGION))

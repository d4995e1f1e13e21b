"""What the simulated service refuses, and who speaks with it: no jobs, no S3."""

from threading import Thread

import pytest

from alzmri import aws
from alzmri.errors import EnvironmentFault, UserError
from alzmri.params import load
from alzmri.sagemaker import job_request, training_job
from alzmri.sagemaker.job_request import Work

from .namespaces import serve
from .simulator import ACCOUNT, REGION, Simulator


@aws.explained()
def _create(**changes):
    account = {"region": REGION, "role": f"arn:aws:iam::{ACCOUNT}:role/a", "bucket": "ours"}
    wanted = job_request.load_settings([]).model_copy(update=account | changes)
    work = Work("0" * 40, "0" * 40, [], "0", "1", job_request.hyperparameters(load()))
    asked = job_request.build(wanted, work, "alzmri-one")
    aws.session(REGION).client("sagemaker").create_training_job(**asked)


def test_sagemaker_refuses_what_its_model_does_not_allow(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    server = serve(Simulator(tmp_path, None, "").answer, ("127.0.0.1", 0))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(UserError, match="this region has no such instance type"):
        _create(instance_type="ml.z9.xlarge")
    with pytest.raises(
        UserError, match="max_wait_hours includes the training: make it at least max_hours"
    ):
        _create(max_wait_hours=1.0)
    with pytest.raises(UserError, match="no such job in this region"):
        training_job.find(aws.session(REGION), "alzmri-none")
    with pytest.raises(UserError, match=r"no job in .*`alzmri sagemaker submit`"):
        training_job.find(aws.session(REGION), None)
    server.shutdown()
    server.server_close()

    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UserError, match=r"no AWS credentials .*nobody"):
        aws.session(REGION)
    monkeypatch.delenv("AWS_PROFILE")
    with pytest.raises(EnvironmentFault, match="no answer"):
        training_job.find(aws.session(REGION), None)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match="no AWS credentials"):
        training_job.find(aws.session(REGION), None)

"""What AWS's errors mean; uploads; how jobs ended, what they cost, which one is taken again."""

import io
import shutil
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from botocore.stub import Stubber

from alzmri import aws
from alzmri.errors import EnvironmentFault, UserError
from alzmri.sagemaker import training_job
from alzmri.sagemaker.container import OUTPUTS
from alzmri.sagemaker.job_request import Work

REFUSALS = {
    "ExpiredTokenException: The security token included in the request is expired": (
        "has expired: sign in again"
    ),
    "UnrecognizedClientException: The security token included in the request is invalid.": (
        "the key is wrong or was revoked"
    ),
    "AccessDeniedException: User: arn:aws:iam::123456789012:user/me is not authorized to perform:"
    " sagemaker:CreateTrainingJob": (
        "a permission is missing: docs/sagemaker.md lists them (AccessDeniedException: User"
    ),
    "ValidationException: Could not assume role arn:aws:iam::123456789012:role/no. Please ensure"
    " that the role exists and allows principal 'sagemaker.amazonaws.com' to assume the role.": (
        "it must exist in this account and trust sagemaker.amazonaws.com"
    ),
    "ValidationException: Cannot find repository: pytorch in registry ID: 763104351884 Please check"
    " if your ECR repository exists and role has proper pull permissions for SageMaker.": (
        "correct image in sagemaker.yaml"
    ),
    "ResourceLimitExceeded: The account-level service limit 'ml.g5.xlarge for spot training job"
    " usage' is 0 Instances, with current utilization of 0 Instances and a request delta of 1": (
        "Service Quotas"
    ),
    "NoSuchBucket: The specified bucket does not exist": "the bucket does not exist: create it",
    "ValidationException: The S3 bucket ours is in region eu-west-1, not in region us-east-1": (
        "in another region"
    ),
    "ValidationException: Requested resource not found.": "no such job in this region",
    "ValidationException: Endpoint alzmri of account 123456789012 not found.": (
        "no such endpoint in this region"
    ),
    "ValidationException: unknown": (
        "the service refused the request (ValidationException: unknown)"
    ),
}
REASONS = {
    "CapacityError: Unable to provision requested ML compute capacity.": "submit again later",
    "ClientError: CannotPullContainerError: not found": "correct image",
    "AlgorithmError: No space left on device: x, exit code: 1": "raise volume_gb",
    "AlgorithmError: the loss is not finite, exit code: 1": "",
}


@aws.explained()
def _raise(said, status=400):
    code, message = said.split(": ", 1)
    error = {"Code": code, "Message": message}
    raise ClientError(
        {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, "CreateTrainingJob"
    )


def test_sagemaker_errors_are_one_sentence_with_the_remedy():
    for refusal, expected in REFUSALS.items():
        with pytest.raises(UserError) as refused:
            _raise(refusal)
        assert expected in str(refused.value)
    for reason, remedy in REASONS.items():
        assert remedy in aws.meaning(reason)
        assert bool(remedy) == bool(aws.meaning(reason))
    for said, status in [
        ("InternalServerError: x", 500),
        ("SlowDown: x", 503),
        ("ThrottlingException: Rate exceeded", 400),
    ]:
        with pytest.raises(EnvironmentFault, match="the service failed"):
            _raise(said, status)
    with pytest.raises(EnvironmentFault, match="no answer"), aws.explained():
        raise EndpointConnectionError(endpoint_url="x")
    with pytest.raises(UserError, match="no AWS credentials"), aws.explained():
        raise NoCredentialsError


def test_sagemaker_finds_in_the_bucket_what_is_there_by_its_whole_name(tmp_path):
    client = boto3.client(
        "s3", region_name="eu-central-1", aws_access_key_id="none", aws_secret_access_key="none"
    )
    (tmp_path / "data.csv").write_text("abc")
    sent = []
    client.upload_fileobj = lambda *words, **_: sent.append(words[1:])
    session = SimpleNamespace(client=lambda _: client)
    keys = ["p/data.csv.part"]
    with Stubber(client) as answers:
        for _ in range(2):
            found = {"Contents": [{"Key": key} for key in keys]}
            asked = {"Bucket": "ours", "Prefix": "p/data.csv"}
            answers.add_response("list_objects_v2", found, asked)
            aws.upload(session, tmp_path / "data.csv", "s3://ours/p/data.csv")
            keys.append("p/data.csv")
    assert sent == [("ours", "p/data.csv")]


def _job(status="Completed", **described):
    return {
        "TrainingJobName": "alzmri-a",
        "TrainingJobStatus": status,
        "SecondaryStatus": status,
        "CreationTime": datetime(2026, 1, 1, 12, tzinfo=UTC),
        "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.g5.xlarge"},
        **described,
    }


def test_sagemaker_only_a_completed_job_is_a_success():
    training_job.require_success(_job())
    with pytest.raises(EnvironmentFault, match="alzmri-a failed: AWS gives no reason"):
        training_job.require_success(_job("Failed"))
    why = "CapacityError: Unable to provision requested ML compute capacity."
    with pytest.raises(EnvironmentFault, match=r"capacity\. \(no such instance is free now"):
        training_job.require_success(_job("Failed", FailureReason=why))
    transitions = [{"Status": "Training"}, {"Status": "MaxRuntimeExceeded"}]
    with pytest.raises(EnvironmentFault, match=r"was stopped \(MaxRuntimeExceeded\)"):
        training_job.require_success(_job("Stopped", SecondaryStatusTransitions=transitions))


def test_sagemaker_status_says_what_spot_has_saved_and_what_was_interrupted():
    facts = training_job.facts(
        _job(
            TrainingTimeInSeconds=1000,
            BillableTimeInSeconds=300,
            SecondaryStatusTransitions=[{"Status": "Training"}, {"Status": "Interrupted"}],
        )
    )
    assert facts["billed"] == "300 s for 1000 s"
    assert facts["interrupted"] == "Interrupted"
    assert "billed" not in training_job.facts(_job())


@pytest.mark.parametrize(
    ("jobs", "taken"),
    [
        ([("x-2", "Failed"), ("x", "Completed")], "x"),
        ([("x-2", "InProgress"), ("x", "Completed")], "x-2"),
        ([], "{}lr-0-1"),
        ([("x", "Stopping")], "{}lr-0-1-2"),
        ([("x-2", "Failed"), ("x", "Stopped")], "{}lr-0-1-3"),
    ],
)
def test_sagemaker_a_job_under_way_or_done_is_taken_and_any_other_made_again(
    monkeypatch, jobs, taken
):
    work = Work("0" * 40, "0" * 40, [], "da7a", "d1ce", {})
    asked, made = [], []

    def list_training_jobs(**words):
        asked.append(words)
        found = [{"TrainingJobName": name, "TrainingJobStatus": status} for name, status in jobs]
        return {"TrainingJobSummaries": found}

    client = SimpleNamespace(
        list_training_jobs=list_training_jobs,
        create_training_job=lambda **words: made.append(words["name"]),
    )
    session = SimpleNamespace(client=lambda _: client, region_name="eu-central-1")
    monkeypatch.setenv("DVC_EXP_NAME", "lr_0.1")
    monkeypatch.setattr(training_job.aws, "upload", lambda *_: None)
    for part, answer in {"pack": None, "channels": {"code": "", "prepared": ""}}.items():
        monkeypatch.setattr(training_job.job_request, part, lambda *_, answer=answer: answer)
    monkeypatch.setattr(training_job.job_request, "build", lambda *words: {"name": words[2]})
    name = training_job.submit(session, None, work)
    assert name == taken.format(work.names)
    assert made == ([name] if "{}" in taken else [])
    assert (asked[0]["NameContains"], asked[0]["SortOrder"]) == (work.names, "Descending")


def test_sagemaker_takes_of_an_archive_what_the_container_wrote_or_refuses_it(
    tmp_path, monkeypatch
):
    scores = b'{"best_epoch": 1}'
    files = {f"./{name.rpartition('/')[2]}": scores for name in OUTPUTS}

    def pack(name, files):
        path = tmp_path / name
        with tarfile.open(path, "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return path

    def bring(archive):
        client = SimpleNamespace(download_file=lambda _, __, path: shutil.copy(archive, path))
        session = SimpleNamespace(client=lambda _: client)
        found = _job(ModelArtifacts={"S3ModelArtifacts": "s3://ours/model.tar.gz"})
        work = Work("0" * 40, "0" * 40, [], "da7a", "d1ce", {})
        found["TrainingJobName"] = f"{work.names}x"
        return training_job.bring(session, found, work)

    monkeypatch.chdir(tmp_path)
    whole = pack("whole", files)
    (tmp_path / "cut").write_bytes(whole.read_bytes()[:100])
    for damaged in (pack("escapes", files | {"../../escaped": b"x"}), tmp_path / "cut"):
        with pytest.raises(EnvironmentFault, match="the archive is damaged"):
            bring(damaged)
        assert not (tmp_path / "models").exists()
    assert bring(whole) == {"best_epoch": 1}
    assert {Path(name).read_bytes() for name in OUTPUTS} == {scores}


def test_sagemaker_lines_that_come_late_and_in_no_order_are_printed_once(capsys):
    class NotFoundError(Exception):
        """Before a container has started."""

    delivered = None

    def paginate(**asked):
        if delivered is None:
            raise NotFoundError
        yield {"events": [one for one in delivered if one["timestamp"] >= asked["startTime"]]}

    logs = SimpleNamespace(
        get_paginator=lambda _: SimpleNamespace(paginate=paginate),
        exceptions=SimpleNamespace(ResourceNotFoundException=NotFoundError),
    )

    def event(number, seconds, host="algo-1"):
        stream = {"logStreamName": f"alzmri-a/{host}-17", "message": f"line {number}\n"}
        return {**stream, "eventId": str(number), "timestamp": 1000 * seconds}

    seen = {}
    assert not training_job.say_lines(logs, "alzmri-a", seen)
    delivered = [event(1, 1000)]
    assert training_job.say_lines(logs, "alzmri-a", seen)
    delivered.append(event(2, 940, "algo-2"))  # a minute older
    assert training_job.say_lines(logs, "alzmri-a", seen)
    assert not training_job.say_lines(logs, "alzmri-a", seen)
    assert capsys.readouterr().out.splitlines() == ["line 1", "[algo-2] line 2"]


def test_sagemaker_fetches_only_a_complete_job_of_this_checkout():
    work = Work("0" * 40, "0" * 40, [], "da7a", "d1ce", {})
    mine = f"{work.names}x"
    for name, status, message in (
        (mine, "InProgress", "is InProgress: `alzmri sagemaker logs"),
        ("alzmri-c0ffee-x", "Completed", "trained with other parameters, data or code than this"),
    ):
        with pytest.raises(UserError, match=message):  # before it asks for anything
            training_job.bring(None, _job(status) | {"TrainingJobName": name}, work)

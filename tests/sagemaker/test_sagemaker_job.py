"""Jobs as the service describes them: how they ended, what they cost, which one is taken again."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from alzmri.errors import EnvironmentFault, UserError
from alzmri.sagemaker import faults, stage
from alzmri.sagemaker.job import Job, latest, require_success

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _job(status="Completed", **described):
    return Job(
        {
            "TrainingJobName": "alzmri-a",
            "TrainingJobStatus": status,
            "SecondaryStatus": status,
            "CreationTime": START,
            "TrainingEndTime": START + timedelta(seconds=90),
            "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.g5.xlarge"},
            **described,
        }
    )


def test_sagemaker_only_a_completed_job_is_a_success():
    require_success(_job())
    with pytest.raises(EnvironmentFault, match="alzmri-a failed: AWS gives no reason"):
        require_success(_job("Failed"))
    transitions = [{"Status": "Training"}, {"Status": "MaxRuntimeExceeded"}]
    with pytest.raises(EnvironmentFault, match=r"was stopped \(MaxRuntimeExceeded\)"):
        require_success(_job("Stopped", SecondaryStatusTransitions=transitions))
    assert [_job(status).ended for status in ("InProgress", "Stopping")] == [False, False]
    assert [_job(status).ended for status in ("Completed", "Failed", "Stopped")] == [True] * 3


def test_sagemaker_status_says_what_spot_has_saved_and_what_was_interrupted():
    job = _job(
        EnableManagedSpotTraining=True,
        TrainingTimeInSeconds=1000,
        BillableTimeInSeconds=300,
        SecondaryStatusTransitions=[{"Status": "Training"}, {"Status": "Interrupted"}],
    )
    lines = dict(job.lines())
    assert lines["on"].endswith("spot: 300 s billed for 1000 s, 70% saved")
    assert lines["status"] == "Completed (Completed), 0:01:30"
    assert lines["interrupted"].startswith("1 time(s)")
    assert dict(_job().lines())["on"].endswith(", on demand")


class _Jobs:
    """In place of the service: its list of jobs, the newest first."""

    def __init__(self, *found):
        self.found = [
            {"TrainingJobName": name, "TrainingJobStatus": status} for name, status in found
        ]
        self.asked = []

    def list_training_jobs(self, **words):
        self.asked.append(words)
        return {"TrainingJobSummaries": self.found}

    def describe_training_job(self, **words):
        return {"TrainingJobName": words["TrainingJobName"], "TrainingJobStatus": "InProgress"}


@pytest.mark.parametrize(
    ("jobs", "taken"),
    [
        ([], None),
        ([("alzmri-x-2", "Failed"), ("alzmri-x", "Stopped")], None),
        ([("alzmri-x", "Stopping")], None),
        ([("alzmri-x-2", "Failed"), ("alzmri-x", "Completed")], "alzmri-x"),
        ([("alzmri-x-2", "InProgress"), ("alzmri-x", "Completed")], "alzmri-x-2"),
    ],
)
def test_sagemaker_stage_takes_a_job_under_way_or_done_and_no_other(jobs, taken):
    service = SimpleNamespace(sagemaker=_Jobs(*jobs), region="eu-central-1")
    found = stage._taken(service, "x")
    assert (found and found.name) == taken
    assert service.sagemaker.asked[0]["NameContains"] == "alzmri-x"
    assert service.sagemaker.asked[0]["SortOrder"] == "Descending"


def test_sagemaker_without_a_job_says_how_to_make_one():
    with pytest.raises(UserError, match="alzmri sagemaker submit"):
        latest(SimpleNamespace(sagemaker=_Jobs(), region="eu-central-1"))


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (500, "InternalServerError", EnvironmentFault, "try again"),
        (503, "SlowDown", EnvironmentFault, "try again"),
        (400, "ThrottlingException", EnvironmentFault, "try again"),
        (403, "AccessDeniedException", UserError, "docs/sagemaker.md"),
        (400, "ExpiredTokenException", UserError, "sign in again"),
        (400, "ResourceLimitExceeded", UserError, "Service Quotas"),
        (400, "ValidationException", UserError, "AWS refuses: ValidationException: why"),
    ],
)
def test_sagemaker_errors_blame_the_right_one_and_name_the_remedy(status, code, kind, words):
    response = {
        "Error": {"Code": code, "Message": "why"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    with pytest.raises(kind, match=words), faults.explained():
        raise ClientError(response, "CreateTrainingJob")


def test_sagemaker_that_does_not_answer_is_a_fault_of_the_environment():
    with pytest.raises(EnvironmentFault, match="does not answer"), faults.explained():
        raise EndpointConnectionError(endpoint_url="x")

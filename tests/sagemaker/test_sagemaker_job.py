"""Jobs as the service describes them: how they ended, what they cost, which one is taken again."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from alzmri.errors import EnvironmentFault, UserError
from alzmri.sagemaker import job
from alzmri.sagemaker.bundle import Code
from alzmri.sagemaker.request import Work

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _job(status="Completed", **described):
    return {
        "TrainingJobName": "alzmri-a",
        "TrainingJobStatus": status,
        "SecondaryStatus": status,
        "CreationTime": START,
        "TrainingEndTime": START + timedelta(seconds=90),
        "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.g5.xlarge"},
        **described,
    }


def test_sagemaker_only_a_completed_job_is_a_success():
    job.require_success(_job())
    with pytest.raises(EnvironmentFault, match="alzmri-a failed: AWS gives no reason"):
        job.require_success(_job("Failed"))
    why = "CapacityError: Unable to provision requested ML compute capacity."
    with pytest.raises(EnvironmentFault, match=r"capacity\. \(no such instance is free just now"):
        job.require_success(_job("Failed", FailureReason=why))
    transitions = [{"Status": "Training"}, {"Status": "MaxRuntimeExceeded"}]
    with pytest.raises(EnvironmentFault, match=r"was stopped \(MaxRuntimeExceeded\)"):
        job.require_success(_job("Stopped", SecondaryStatusTransitions=transitions))


def test_sagemaker_status_says_what_spot_has_saved_and_what_was_interrupted():
    found = _job(
        EnableManagedSpotTraining=True,
        TrainingTimeInSeconds=1000,
        BillableTimeInSeconds=300,
        SecondaryStatusTransitions=[{"Status": "Training"}, {"Status": "Interrupted"}],
    )
    lines = dict(job.facts(found))
    assert lines["on"].endswith("spot: 300 s billed for 1000 s, 70% saved")
    assert lines["status"] == "Completed (Completed), 0:01:30"
    assert lines["interrupted"].startswith("1 time(s)")
    assert dict(job.facts(_job()))["on"].endswith(", on demand")


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


def _service(*jobs):
    listed = _Jobs(*jobs)
    return SimpleNamespace(client=lambda _: listed, region_name="eu-central-1")


WORK = Work(Code("0" * 40, "0" * 40, [], "c0de", "c0de"), "da7a", {}, "image")


@pytest.mark.parametrize(
    ("jobs", "taken"),
    [
        ([("alzmri-x-2", "Failed"), ("alzmri-x", "Completed")], "alzmri-x"),
        ([("alzmri-x-2", "InProgress"), ("alzmri-x", "Completed")], "alzmri-x-2"),
    ],
)
def test_sagemaker_a_job_under_way_or_done_is_taken(jobs, taken):
    service = _service(*jobs)
    assert job.submit(service, None, WORK) == taken
    assert service.client("sagemaker").asked[0]["NameContains"] == f"alzmri-{WORK.digest[:8]}-"
    assert service.client("sagemaker").asked[0]["SortOrder"] == "Descending"


@pytest.mark.parametrize(
    ("jobs", "suffix"),
    [
        ([], ""),
        ([("alzmri-x", "Stopping")], "-2"),
        ([("alzmri-x-2", "Failed"), ("alzmri-x", "Stopped")], "-3"),
    ],
)
def test_sagemaker_a_job_that_ended_otherwise_is_made_again_under_another_name(
    monkeypatch, jobs, suffix
):
    class Made(Exception):
        """With its name."""

    def build(settings, work, name):
        raise Made(name)

    monkeypatch.setenv("DVC_EXP_NAME", "lr_0.1")
    monkeypatch.setattr(job.request, "build", build)
    service = _service(*jobs)
    with pytest.raises(Made, match=f"^alzmri-{WORK.digest[:8]}-lr-0-1{suffix}$"):
        job.submit(service, None, WORK)


def test_sagemaker_without_a_job_says_how_to_make_one():
    with pytest.raises(UserError, match="alzmri sagemaker submit"):
        job.latest(_service())

"""Jobs, as the service has them."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from alzmri.errors import EnvironmentFault, UserError
from alzmri.sagemaker import faults
from alzmri.sagemaker.request import OURS
from alzmri.sagemaker.settings import SETTINGS_FILE

POLL_SECONDS = 2
ENDED = ("Completed", "Failed", "Stopped")


class Service:
    """AWS in one region, with the user's own credentials.

    Raises:
        UserError: when its package is not installed.
    """

    def __init__(self, region: str) -> None:
        if find_spec("boto3") is None:
            raise UserError("boto3 is missing: `pip install 'alzmri[sagemaker]'`, or `make setup`")
        self.region = region

    @cached_property
    def sagemaker(self) -> Any:
        """The client of SageMaker's interface."""
        return self._client("sagemaker")

    @cached_property
    def s3(self) -> Any:
        """The client of S3's."""
        return self._client("s3")

    @cached_property
    def logs(self) -> Any:
        """The client of CloudWatch Logs'."""
        return self._client("logs")

    @cached_property
    def runtime(self) -> Any:
        """The client of endpoints'."""
        return self._client("sagemaker-runtime")

    def wait(
        self, name: str, on_answer: Callable[[Mapping[str, Any]], None] | None = None, **words: str
    ) -> Mapping[str, Any]:
        """Wait with boto3's waiter ``name`` until all is over, well or not; the last answer.

        Args:
            name: of the waiter, such as ``endpoint_in_service``.
            on_answer: called with each answer that the waiter gets.
            words: which resource.
        """
        from botocore.exceptions import ClientError, WaiterError

        answer: Mapping[str, Any] = {}

        def note(parsed: Mapping[str, Any], **_: object) -> None:
            nonlocal answer
            if "Error" not in parsed:
                answer = parsed
                if on_answer:
                    on_answer(parsed)

        client = self._client("sagemaker")  # of its own: what is registered ends with it
        client.meta.events.register("after-call.sagemaker", note)
        config = {"Delay": POLL_SECONDS, "MaxAttempts": sys.maxsize}
        with faults.explained():
            try:
                client.get_waiter(name).wait(WaiterConfig=config, **words)
            except WaiterError as error:
                if "Error" in error.last_response:
                    raise ClientError(error.last_response, name) from error
        return answer

    def _client(self, name: str) -> Any:
        import boto3
        from botocore.config import Config

        # Attempts wait longer each time: a throttled call is no reason to give up on a long job.
        config = Config(
            connect_timeout=10,
            read_timeout=30,
            retries={"mode": "standard", "total_max_attempts": 4},
        )
        return boto3.Session().client(name, region_name=self.region, config=config)


@dataclass(frozen=True)
class Job:
    """One training job, from what the service describes."""

    description: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.description["TrainingJobName"])

    @property
    def status(self) -> str:
        """InProgress, Stopping, or one of `ENDED`."""
        return str(self.description["TrainingJobStatus"])

    @property
    def ended(self) -> bool:
        """Whether it is over, in whatever way."""
        return self.status in ENDED

    @property
    def phases(self) -> list[str]:
        """What happened so far, such as Downloading, Training, Interrupted; with AWS's words."""
        steps = self.description.get("SecondaryStatusTransitions", [])
        return [": ".join(filter(None, (s["Status"], s.get("StatusMessage", "")))) for s in steps]

    @property
    def reason(self) -> str:
        """Why it failed, with the remedy if there is one; empty when it did not."""
        said = str(self.description.get("FailureReason", "")).strip()
        remedy = faults.remedy(said)
        return f"{said} ({remedy})" if remedy else said

    @property
    def artifact(self) -> str:
        """The address of model.tar.gz; empty when there is none."""
        return str(self.description.get("ModelArtifacts", {}).get("S3ModelArtifacts", ""))

    @property
    def age(self) -> timedelta:
        """From its creation to its end, or to now."""
        end = self.description.get("TrainingEndTime") or datetime.now(UTC)
        length: timedelta = end - self.description["CreationTime"]
        return timedelta(seconds=max(0, round(length.total_seconds())))

    def lines(self) -> Iterator[tuple[str, str]]:
        """What `alzmri sagemaker status` says: pairs of a word and its value."""
        said = self.description
        yield "job", self.name
        yield "status", f"{self.status} ({said['SecondaryStatus']}), {self.age}"
        if self.reason:
            yield "reason", self.reason
        where = said["ResourceConfig"]
        yield "on", f"{where['InstanceCount']} × {where['InstanceType']}{_spot(said)}"
        interruptions = sum(phase.startswith("Interrupted") for phase in self.phases)
        if interruptions:
            yield "interrupted", f"{interruptions} time(s), then went on from the checkpoint"
        for metric in said.get("FinalMetricDataList", []):
            yield metric["MetricName"], f"{metric['Value']:g}"
        yield "checkpoints", said.get("CheckpointConfig", {}).get("S3Uri", "none")
        if self.artifact:
            yield "model", self.artifact


def _spot(description: Mapping[str, Any]) -> str:
    if not description.get("EnableManagedSpotTraining"):
        return ", on demand"
    trained = description.get("TrainingTimeInSeconds")
    billed = description.get("BillableTimeInSeconds")
    if not trained or billed is None:
        return ", spot"
    return f", spot: {billed} s billed for {trained} s, {1 - billed / trained:.0%} saved"


def create(service: Service, request: Mapping[str, Any]) -> None:
    """Ask the service for a job."""
    with faults.explained():
        service.sagemaker.create_training_job(**request)


def describe(service: Service, name: str) -> Job:
    """The job ``name``; `UserError` when there is none."""
    with faults.explained():
        return Job(service.sagemaker.describe_training_job(TrainingJobName=name))


def stop(service: Service, name: str) -> None:
    """Have the job save its checkpoint and end, which takes up to two minutes."""
    with faults.explained():
        service.sagemaker.stop_training_job(TrainingJobName=name)


def recent(service: Service, count: int) -> list[Mapping[str, Any]]:
    """Summaries of our latest jobs, the newest first."""
    return with_name(service, "", count)


def with_name(service: Service, label: str, count: int = 100) -> list[Mapping[str, Any]]:
    """Those of our jobs whose names go on with ``label``, the newest first."""
    with faults.explained():
        listed = service.sagemaker.list_training_jobs(
            NameContains=OURS + label,
            SortBy="CreationTime",
            SortOrder="Descending",
            MaxResults=count,
        )
    return list(listed["TrainingJobSummaries"])


def latest(service: Service) -> str:
    """The name of our newest job; `UserError` when there is none."""
    found = recent(service, 1)
    if not found:
        raise UserError(
            f"no job named {OURS}… in {service.region}: `alzmri sagemaker submit` makes one, region"
            f" in {SETTINGS_FILE} says where to look"
        )
    return str(found[0]["TrainingJobName"])


def require_success(job: Job) -> None:
    """Raise `EnvironmentFault` when ``job`` ended otherwise than completed."""
    if job.status == "Failed":
        raise EnvironmentFault(f"{job.name} failed: {job.reason or 'AWS gives no reason'}")
    if job.status == "Stopped":
        phase = job.phases[-1] if job.phases else "Stopped"
        raise EnvironmentFault(
            f"{job.name} was stopped ({phase}): its checkpoint is kept, and `alzmri sagemaker"
            " submit` with the same code, data and parameters goes on from there"
        )


def console(region: str, name: str) -> str:
    """The job's page in AWS's console."""
    return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/jobs/{name}"

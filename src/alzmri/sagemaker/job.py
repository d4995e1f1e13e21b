"""Jobs: made, followed, listed, as the service has them."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from alzmri import terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.sagemaker import bundle, faults, request, storage
from alzmri.sagemaker.request import OURS, Work
from alzmri.sagemaker.service import POLL_SECONDS, Answer, Service
from alzmri.sagemaker.settings import SETTINGS_FILE, Settings

GROUP = "/aws/sagemaker/TrainingJobs"
_EPOCH = re.compile(r"epoch +(\d+)/(\d+) ")


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
        """InProgress, Stopping, Completed, Failed or Stopped."""
        return str(self.description["TrainingJobStatus"])

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

    def require_success(self) -> None:
        """Raise `EnvironmentFault` when it ended otherwise than completed."""
        if self.status == "Failed":
            raise EnvironmentFault(f"{self.name} failed: {self.reason or 'AWS gives no reason'}")
        if self.status == "Stopped":
            phase = self.phases[-1] if self.phases else "Stopped"
            raise EnvironmentFault(
                f"{self.name} was stopped ({phase}): its checkpoint is kept, and `alzmri sagemaker"
                " submit` with the same code, data and parameters goes on from there"
            )


def _spot(description: Mapping[str, Any]) -> str:
    if not description.get("EnableManagedSpotTraining"):
        return ", on demand"
    trained = description.get("TrainingTimeInSeconds")
    billed = description.get("BillableTimeInSeconds")
    if not trained or billed is None:
        return ", spot"
    return f", spot: {billed} s billed for {trained} s, {1 - billed / trained:.0%} saved"


def submit(service: Service, settings: Settings, work: Work, label: str | None = None) -> Job:
    """The job that does ``work``: one that is under way or complete, else a new one.

    Args:
        label: asks for a new job of that name, whatever others do.

    Raises:
        UserError: the code may hold a secret, or the account does not allow it.
    """
    name = request.named(label) if label else request.job_name(work)
    if not label:
        same = listed(service, request.job_name_start(work))
        for found in same:
            if found["TrainingJobStatus"] in ("InProgress", "Completed"):
                return describe(service, found["TrainingJobName"])
        name += f"-{len(same) + 1}" if same else ""
    wanted, code = request.build(settings, work, name), bundle.pack(work.code)
    places, s3 = request.addresses(wanted), service.client("s3")
    storage.require_bucket(s3, settings.bucket, settings.region)
    storage.upload(s3, places["prepared"], request.PREPARED_FILES)
    storage.upload(s3, places["code"], {"code.tar.gz": code})
    with faults.explained():
        service.client("sagemaker").create_training_job(**wanted)
    return describe(service, name)


def describe(service: Service, name: str) -> Job:
    """The job ``name``; `UserError` when there is none."""
    with faults.explained():
        return Job(service.client("sagemaker").describe_training_job(TrainingJobName=name))


def stop(service: Service, name: str) -> None:
    """Have the job save its checkpoint and end, which takes up to two minutes."""
    with faults.explained():
        service.client("sagemaker").stop_training_job(TrainingJobName=name)


def listed(service: Service, start: str = OURS, count: int = 100) -> list[Mapping[str, Any]]:
    """Summaries of the jobs whose names contain ``start``, the newest first."""
    with faults.explained():
        answer = service.client("sagemaker").list_training_jobs(
            NameContains=start, SortBy="CreationTime", SortOrder="Descending", MaxResults=count
        )
    return list(answer["TrainingJobSummaries"])


def latest(service: Service) -> str:
    """The name of our newest job; `UserError` when there is none."""
    found = listed(service, count=1)
    if not found:
        raise UserError(
            f"no job named {OURS}… in {service.region}: `alzmri sagemaker submit` makes one, region"
            f" in {SETTINGS_FILE} says where to look"
        )
    return str(found[0]["TrainingJobName"])


def console(region: str, name: str) -> str:
    """The job's page in AWS's console."""
    return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/jobs/{name}"


def follow(service: Service, name: str) -> Job:
    """Print phases and lines as they come, with a bar of epochs on a terminal; the completed job.

    Raises:
        EnvironmentFault: it failed or was stopped.
    """
    log = Log(service, name)
    phases = 0
    with terminal.progress("epochs", in_log=False) as progress:

        def say_lines() -> bool:
            said = False
            for line in log.new_lines():
                terminal.say(line)
                said = True
                if epoch := _EPOCH.match(line):
                    progress(int(epoch[1]), int(epoch[2]))
            return said

        def say_news(description: Answer) -> None:
            nonlocal phases
            for phase in Job(description).phases[phases:]:
                terminal.say(f"-- {phase}")
                phases += 1
            say_lines()

        try:
            waiter = "training_job_completed_or_stopped"
            job = Job(service.wait(waiter, say_news, TrainingJobName=name))
            while say_lines():  # CloudWatch delivers late
                time.sleep(POLL_SECONDS)
        except BaseException:
            terminal.err.print(
                f"the job goes on: `alzmri sagemaker logs {name} --follow`, or `… stop {name}`",
                markup=False,
            )
            raise
    job.require_success()
    return job


class Log:
    """What the containers of one job print, each line given once."""

    def __init__(self, service: Service, name: str) -> None:
        self._service, self._name = service, name
        self._since = 0
        self._seen: set[str] = set()

    def new_lines(self) -> Iterator[str]:
        """Lines that came since the last call, by time; of several hosts each says which."""
        pages = (
            self._service.client("logs")
            .get_paginator("filter_log_events")
            .paginate(
                logGroupName=GROUP, logStreamNamePrefix=f"{self._name}/", startTime=self._since
            )
        )
        with faults.explained():
            try:
                events = [event for page in pages for event in page["events"]]
            except self._service.client("logs").exceptions.ResourceNotFoundException:
                return  # no container has started
        for event in events:
            if event["eventId"] in self._seen:
                continue
            self._seen.add(event["eventId"])
            # CloudWatch delivers late and out of order: the last minutes are asked for again.
            self._since = max(self._since, event["timestamp"] - 120_000)
            host = event["logStreamName"].partition("/")[2].rpartition("-")[0]
            line = event["message"].rstrip()
            yield line if host in ("", "algo-1") else f"[{host}] {line}"

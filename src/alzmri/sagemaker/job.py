"""Jobs: made, followed, listed, as the service describes them."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alzmri import terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.sagemaker import aws, bundle, request
from alzmri.sagemaker.aws import POLL_SECONDS, Answer
from alzmri.sagemaker.request import OURS, Work
from alzmri.sagemaker.settings import SETTINGS_FILE, Settings

GROUP = "/aws/sagemaker/TrainingJobs"
_EPOCH = re.compile(r"epoch +(\d+)/(\d+) ")


def submit(session: Any, settings: Settings, work: Work, label: str | None = None) -> str:
    """The name of the job that does ``work``: one under way or complete, else a new one.

    Args:
        label: asks for a new job of that name, whatever others do.

    Raises:
        UserError: the code may hold a secret, or the account does not allow it.
    """
    name = request.named(label) if label else request.job_name(work)
    if not label:
        same = listed(session, request.job_name_start(work))
        for found in same:
            if found["TrainingJobStatus"] in ("InProgress", "Completed"):
                return str(found["TrainingJobName"])
        name += f"-{len(same) + 1}" if same else ""
    wanted = request.build(settings, work, name)
    places, s3 = request.channels(settings, work), session.client("s3")
    with TemporaryDirectory(prefix="alzmri-") as temporary:
        code = Path(temporary) / "code.tar.gz"
        bundle.pack(work.code, code)
        aws.require_bucket(s3, settings.bucket, settings.region)
        files = [("code", code), *(("prepared", path) for path in request.PREPARED_FILES)]
        for channel, path in files:
            if aws.lacks(s3, address := places[channel] + path.name):
                aws.upload(s3, path, address)
    with aws.explained():
        session.client("sagemaker").create_training_job(**wanted)
    return name


@aws.explained()
def describe(session: Any, name: str) -> Answer:
    """What the service says of the job ``name``; `UserError` when there is none."""
    found: Answer = session.client("sagemaker").describe_training_job(TrainingJobName=name)
    return found


@aws.explained()
def stop(session: Any, name: str) -> None:
    """Have the job save its checkpoint and end, which takes up to two minutes."""
    session.client("sagemaker").stop_training_job(TrainingJobName=name)


@aws.explained()
def listed(session: Any, start: str = OURS, count: int = 100) -> list[Answer]:
    """Summaries of the jobs whose names contain ``start``, the newest first."""
    answer = session.client("sagemaker").list_training_jobs(
        NameContains=start, SortBy="CreationTime", SortOrder="Descending", MaxResults=count
    )
    return list(answer["TrainingJobSummaries"])


def latest(session: Any) -> str:
    """The name of our newest job; `UserError` when there is none."""
    found = listed(session, count=1)
    if not found:
        raise UserError(
            f"no job named {OURS}… in {session.region_name}: `alzmri sagemaker submit` makes one,"
            f" region in {SETTINGS_FILE} says where to look"
        )
    return str(found[0]["TrainingJobName"])


def console(region: str, name: str) -> str:
    """The job's page in AWS's console."""
    return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/jobs/{name}"


def phases(job: Answer) -> list[str]:
    """What happened so far, such as Downloading, Training, Interrupted; with AWS's words."""
    steps = job.get("SecondaryStatusTransitions", [])
    return [": ".join(filter(None, (s["Status"], s.get("StatusMessage", "")))) for s in steps]


def age(job: Answer) -> timedelta:
    """From its creation to its end, or to now."""
    length: timedelta = (job.get("TrainingEndTime") or datetime.now(UTC)) - job["CreationTime"]
    return timedelta(seconds=max(0, round(length.total_seconds())))


def reason(job: Answer) -> str:
    """Why it failed, with the remedy if there is one; empty when it did not."""
    said = str(job.get("FailureReason", "")).strip()
    remedy = aws.meaning(said)
    return f"{said} ({remedy})" if remedy else said


def artifact(job: Answer) -> str:
    """The address of its model.tar.gz; empty when there is none."""
    return str(job.get("ModelArtifacts", {}).get("S3ModelArtifacts", ""))


def facts(job: Answer) -> Iterator[tuple[str, str]]:
    """What `alzmri sagemaker status` says: pairs of a word and its value."""
    yield "job", job["TrainingJobName"]
    yield "status", f"{job['TrainingJobStatus']} ({job['SecondaryStatus']}), {age(job)}"
    if why := reason(job):
        yield "reason", why
    where = job["ResourceConfig"]
    yield "on", f"{where['InstanceCount']} × {where['InstanceType']}, {_billing(job)}"
    interruptions = sum(phase.startswith("Interrupted") for phase in phases(job))
    if interruptions:
        yield "interrupted", f"{interruptions} time(s), then went on from the checkpoint"
    for metric in job.get("FinalMetricDataList", []):
        yield metric["MetricName"], f"{metric['Value']:g}"
    yield "checkpoints", job.get("CheckpointConfig", {}).get("S3Uri", "none")
    if address := artifact(job):
        yield "model", address


def _billing(job: Answer) -> str:
    if not job.get("EnableManagedSpotTraining"):
        return "on demand"
    trained, billed = job.get("TrainingTimeInSeconds"), job.get("BillableTimeInSeconds")
    if not trained or billed is None:
        return "spot"
    return f"spot: {billed} s billed for {trained} s, {1 - billed / trained:.0%} saved"


def require_success(job: Answer) -> None:
    """Raise `EnvironmentFault` when it ended otherwise than completed."""
    name, status = job["TrainingJobName"], job["TrainingJobStatus"]
    if status == "Failed":
        raise EnvironmentFault(f"{name} failed: {reason(job) or 'AWS gives no reason'}")
    if status == "Stopped":
        raise EnvironmentFault(
            f"{name} was stopped ({[status, *phases(job)][-1]}): its checkpoint is kept, and"
            " `alzmri sagemaker submit` with the same code, data and parameters goes on from there"
        )


def follow(session: Any, name: str) -> Answer:
    """Print phases and lines as they come, with a bar of epochs on a terminal; the completed job.

    Raises:
        EnvironmentFault: it failed or was stopped.
    """
    log, said = Log(session, name), 0
    with terminal.progress("epochs", in_log=False) as progress:

        def say_lines() -> bool:
            lines = list(log.new_lines())
            for line in lines:
                terminal.say(line)
                if epoch := _EPOCH.match(line):
                    progress(int(epoch[1]), int(epoch[2]))
            return bool(lines)

        def say_news(job: Answer) -> None:
            nonlocal said
            for phase in phases(job)[said:]:
                terminal.say(f"-- {phase}")
                said += 1
            say_lines()

        try:
            waiter, client = "training_job_completed_or_stopped", session.client("sagemaker")
            job = aws.wait(client, waiter, say_news, TrainingJobName=name)
            while say_lines():  # CloudWatch delivers late
                time.sleep(POLL_SECONDS)
        except BaseException:
            terminal.err.print(
                f"the job goes on: `alzmri sagemaker logs {name} --follow`, or `… stop {name}`",
                markup=False,
            )
            raise
    require_success(job)
    return job


class Log:
    """What the containers of one job print, each line given once."""

    def __init__(self, session: Any, name: str) -> None:
        self._client, self._name = session.client("logs"), name
        self._since = 0
        self._seen: set[str] = set()

    def new_lines(self) -> Iterator[str]:
        """Lines that came since the last call, by time; of several hosts each says which."""
        prefix = f"{self._name}/"
        pages = self._client.get_paginator("filter_log_events").paginate(
            logGroupName=GROUP, logStreamNamePrefix=prefix, startTime=self._since
        )
        with aws.explained():
            try:
                events = [event for page in pages for event in page["events"]]
            except self._client.exceptions.ResourceNotFoundException:
                return  # no container has started
        for event in events:
            if event["eventId"] in self._seen:
                continue
            self._seen.add(event["eventId"])
            # CloudWatch delivers late and out of order: the last minutes are asked for again.
            self._since = max(self._since, event["timestamp"] - 120_000)
            host = event["logStreamName"].removeprefix(prefix).rpartition("-")[0]
            line = event["message"].rstrip()
            yield line if host in ("", "algo-1") else f"[{host}] {line}"

"""Submit the stage train as a job, follow it, and fetch its model."""

import json
import shutil
import tarfile
import time
import zlib
from contextlib import suppress
from gzip import BadGzipFile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alzmri import aws, terminal
from alzmri.aws import POLL_SECONDS, Answer
from alzmri.errors import EnvironmentFault, UserError
from alzmri.files import replacing
from alzmri.params import Params
from alzmri.sagemaker import job_request
from alzmri.sagemaker.container import OUTPUTS
from alzmri.sagemaker.job_request import OURS, SagemakerSettings, Work

GROUP = "/aws/sagemaker/TrainingJobs"


def train_there(params: Params) -> None:
    """Run the stage train as a job, for ``compute.train_on: sagemaker``.

    A repeated stage follows the same job again. A stopped stage does not stop its job.
    """
    settings = job_request.load_settings(job_request.TO_TRAIN)
    session = aws.session(settings.region)
    work = job_request.gather(params)
    name = submit(session, settings, work)
    terminal.say(f"job {name}: {console(settings.region, name)}")
    bring(session, follow(session, name), work)


def submit(session: Any, settings: SagemakerSettings, work: Work) -> str:
    """The name of the job for ``work``: a running or complete one, else a new one."""
    same = listed(session, work.names)
    for found in same:
        if found["TrainingJobStatus"] in ("InProgress", "Completed"):
            return str(found["TrainingJobName"])
    name = job_request.job_name(work) + (f"-{len(same) + 1}" if same else "")
    places = job_request.channels(settings, work)
    with TemporaryDirectory(prefix="alzmri-") as temporary:
        code = Path(temporary) / "code.tar.gz"
        job_request.pack(work, code)
        aws.upload(session, code, places["code"] + code.name)
    for file in job_request.PREPARED_FILES:
        aws.upload(session, Path("data/prepared", file), places["prepared"] + file)
    with aws.explained():
        request = job_request.build(settings, work, name)
        session.client("sagemaker").create_training_job(**request)
    return name


@aws.explained()
def find(session: Any, name: str | None) -> Answer:
    """The service's description of the job ``name``, or of the newest; `UserError` if none."""
    if not name:
        if not (newest := listed(session, count=1)):
            raise UserError(f"no job in {session.region_name}: `alzmri sagemaker submit` makes one")
        name = newest[0]["TrainingJobName"]
    return dict(session.client("sagemaker").describe_training_job(TrainingJobName=name))


@aws.explained()
def listed(session: Any, start: str = OURS, count: int = 100) -> list[Answer]:
    """Summaries of the jobs whose names contain ``start``, the newest first."""
    answer = session.client("sagemaker").list_training_jobs(
        NameContains=start, SortBy="CreationTime", SortOrder="Descending", MaxResults=count
    )
    return list(answer["TrainingJobSummaries"])


def console(region: str, name: str) -> str:
    """The job's page in AWS's console."""
    return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/jobs/{name}"


def phases(job: Answer) -> list[str]:
    """The phases so far, such as Downloading, Training, Interrupted, with AWS's messages."""
    steps = job.get("SecondaryStatusTransitions", [])
    return [": ".join(filter(None, (s["Status"], s.get("StatusMessage")))) for s in steps]


def facts(job: Answer) -> dict[str, str]:
    """The lines of `alzmri sagemaker status` for a job, by their first word."""
    where, trained = job["ResourceConfig"], job.get("TrainingTimeInSeconds")
    said = str(job.get("FailureReason", ""))
    found = {
        "job": job["TrainingJobName"],
        "status": f"{job['TrainingJobStatus']} ({job['SecondaryStatus']})",
        "reason": f"{said} ({remedy})" if (remedy := aws.meaning(said)) else said,
        "created": f"{job['CreationTime'].astimezone():%Y-%m-%d %H:%M}",
        "on": f"{where['InstanceCount']} × {where['InstanceType']}",
        "billed": f"{job.get('BillableTimeInSeconds')} s for {trained} s" if trained else "",
        "interrupted": "; ".join(p for p in phases(job) if p.startswith("Interrupted")),
        "model": job.get("ModelArtifacts", {}).get("S3ModelArtifacts", ""),
    }
    for metric in job.get("FinalMetricDataList", []):
        found[metric["MetricName"]] = f"{metric['Value']:g}"
    return {word: value for word, value in found.items() if value}


def require_success(job: Answer) -> None:
    """Raise `EnvironmentFault` when it failed or was stopped."""
    name, status = job["TrainingJobName"], job["TrainingJobStatus"]
    if status == "Failed":
        why = facts(job).get("reason", "AWS gives no reason")
        raise EnvironmentFault(f"{name} failed: {why}")
    if status == "Stopped":
        raise EnvironmentFault(
            f"{name} was stopped ({[status, *phases(job)][-1]}): its checkpoint is kept, and"
            " `alzmri sagemaker submit` with the same code, data and parameters continues from it"
        )


def follow(session: Any, name: str) -> Answer:
    """Print phases and lines until the job ends; return it, or raise `EnvironmentFault`."""
    logs, seen, said = session.client("logs"), dict[str, int](), 0

    def say_news(job: Answer) -> bool:
        nonlocal said
        for phase in phases(job)[said:]:
            terminal.say(f"-- {phase}")
            said += 1
        return say_lines(logs, name, seen)

    try:
        waiter = "training_job_completed_or_stopped"
        aws.wait(session, waiter, say_news, TrainingJobName=name)
        while say_news(job := find(session, name)):  # CloudWatch delivers late
            time.sleep(POLL_SECONDS)
    except BaseException:
        hint = f"the job continues: `alzmri sagemaker logs {name} --follow`, or `… stop {name}`"
        terminal.err.print(hint, markup=False)
        raise
    require_success(job)
    return job


@aws.explained()
def say_lines(logs: Any, name: str, seen: dict[str, int]) -> bool:
    """Print new lines of the job's containers; return whether there were any.

    ``seen`` has the times, in ms, of earlier events by their id.
    """
    before = len(seen)
    # CloudWatch delivers late and out of order, so ask for the last minutes again.
    since = max([120_000, *seen.values()]) - 120_000
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName=GROUP, logStreamNamePrefix=f"{name}/", startTime=since
    )
    with suppress(logs.exceptions.ResourceNotFoundException):  # no container has started
        for event in (event for page in pages for event in page["events"]):
            if event["eventId"] not in seen:
                seen[event["eventId"]] = event["timestamp"]
                host = event["logStreamName"].removeprefix(f"{name}/").rpartition("-")[0]
                mark = "" if host in ("", "algo-1") else f"[{host}] "
                terminal.say(mark + event["message"].rstrip())
    return len(seen) > before


def bring(session: Any, found: Answer, work: Work) -> Answer:
    """Fetch the outputs of the job ``found`` into the working tree; return its scores.

    `UserError` if the job is not complete or its work is not ``work``, that of this checkout.
    """
    name, status = found["TrainingJobName"], found["TrainingJobStatus"]
    require_success(found)
    if status != "Completed":
        raise UserError(f"{name} is {status}: `alzmri sagemaker logs {name} --follow`")
    if not name.startswith(work.names):
        raise UserError(
            f"{name} trained with other parameters, data or code than this checkout has: `git"
            " checkout` the commit in its tags, and `dvc repro prepare`"
        )
    place, key = aws.split(found["ModelArtifacts"]["S3ModelArtifacts"])
    with TemporaryDirectory(prefix="alzmri-") as temporary:
        archive = Path(temporary, "model.tar.gz")
        terminal.say(f"downloading {archive.name}")
        with aws.explained():
            session.client("s3").download_file(place, key, str(archive))
        try:
            shutil.unpack_archive(archive, temporary, filter="data")
        except (shutil.ReadError, tarfile.TarError, EOFError, zlib.error, BadGzipFile) as error:
            raise EnvironmentFault(f"the archive is damaged ({error}): fetch again") from error
        for output in map(Path, OUTPUTS):
            with replacing(output) as draft:
                shutil.move(archive.with_name(output.name), draft)
    return dict(json.loads(Path("metrics/train.json").read_bytes()))

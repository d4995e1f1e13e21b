"""Submit the stage train as a job, follow it, and fetch its model."""

import gzip
import json
import shutil
import tarfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alzmri import aws, terminal
from alzmri.aws import POLL_SECONDS, Answer
from alzmri.errors import EnvironmentFault, UserError
from alzmri.files import replacing
from alzmri.params import Params
from alzmri.sagemaker import job_request, sagemaker_settings
from alzmri.sagemaker.container import OUTPUTS
from alzmri.sagemaker.job_request import OURS, Work
from alzmri.sagemaker.sagemaker_settings import SagemakerSettings

GROUP = "/aws/sagemaker/TrainingJobs"


def train_there(params: Params) -> None:
    """Run the stage train as a job, for ``compute.train_on: sagemaker``.

    A repeated stage follows the same job again. A stopped stage does not stop its job.

    Raises:
        UserError, EnvironmentFault: see :func:`submit`, :func:`follow` and :func:`bring`.
    """
    settings = sagemaker_settings.load(sagemaker_settings.TO_TRAIN)
    session = aws.session(settings.region)
    work = job_request.gather(params)
    name = submit(session, settings, work)
    terminal.say(f"job {name}: {console(settings.region, name)}")
    bring(session, follow(session, name), work)


def submit(session: Any, settings: SagemakerSettings, work: Work) -> str:
    """The name of the job for ``work``: a running or complete one, else a new one.

    Raises:
        UserError: the code may contain a secret, or the account does not allow the job.
    """
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
    for path in job_request.PREPARED_FILES:
        aws.upload(session, path, places["prepared"] + path.name)
    with aws.explained():
        request = job_request.build(settings, work, name)
        session.client("sagemaker").create_training_job(**request)
    return name


@aws.explained()
def find(session: Any, name: str | None) -> Answer:
    """The service's description of the job ``name``, or of the newest; `UserError` if none."""
    newest = [] if name else listed(session, count=1)
    if not name and not newest:
        raise UserError(
            f"no job named {OURS}… in {session.region_name}: make one with `alzmri sagemaker"
            " submit`, or correct region in sagemaker.yaml"
        )
    name = name or newest[0]["TrainingJobName"]
    found: Answer = session.client("sagemaker").describe_training_job(TrainingJobName=name)
    return found


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
    return [": ".join(filter(None, (s["Status"], s.get("StatusMessage", "")))) for s in steps]


def facts(job: Answer) -> dict[str, str]:
    """The lines of `alzmri sagemaker status` for a job, by their first word."""
    where = job["ResourceConfig"]
    trained, billed = job.get("TrainingTimeInSeconds"), job.get("BillableTimeInSeconds")
    saved = f"{1 - billed / trained:.0%} saved" if trained and billed is not None else ""
    found = {
        "job": job["TrainingJobName"],
        "status": f"{job['TrainingJobStatus']} ({job['SecondaryStatus']})",
        "reason": _reason(job),
        "created": f"{job['CreationTime'].astimezone():%Y-%m-%d %H:%M}",
        "on": f"{where['InstanceCount']} × {where['InstanceType']}",
        "billed": f"{billed} s for {trained} s, {saved}" if saved else "",
        "interrupted": "; ".join(p for p in phases(job) if p.startswith("Interrupted")),
        "model": job.get("ModelArtifacts", {}).get("S3ModelArtifacts", ""),
    }
    for metric in job.get("FinalMetricDataList", []):
        found[metric["MetricName"]] = f"{metric['Value']:g}"
    return {word: value for word, value in found.items() if value}


def _reason(job: Answer) -> str:
    """The reason why it failed, with a remedy if known; empty when it did not fail."""
    said = str(job.get("FailureReason", ""))
    return f"{said} ({remedy})" if (remedy := aws.meaning(said)) else said


def require_success(job: Answer) -> None:
    """Raise `EnvironmentFault` when it failed or was stopped."""
    name, status = job["TrainingJobName"], job["TrainingJobStatus"]
    if status == "Failed":
        raise EnvironmentFault(f"{name} failed: {_reason(job) or 'AWS gives no reason'}")
    if status == "Stopped":
        raise EnvironmentFault(
            f"{name} was stopped ({[status, *phases(job)][-1]}): its checkpoint is kept, and"
            " `alzmri sagemaker submit` with the same code, data and parameters continues from it"
        )


def follow(session: Any, name: str) -> Answer:
    """Print phases and lines until the job ends; return the completed job.

    Raises:
        EnvironmentFault: it failed or was stopped.
    """
    logs, seen, said = session.client("logs"), dict[str, int](), 0

    def say_lines() -> bool:
        lines = new_lines(logs, name, seen)
        for line in lines:
            terminal.say(line)
        return bool(lines)

    def say_news(job: Answer) -> None:
        nonlocal said
        for phase in phases(job)[said:]:
            terminal.say(f"-- {phase}")
            said += 1
        say_lines()

    try:
        waiter = "training_job_completed_or_stopped"
        job = aws.wait(session, waiter, say_news, TrainingJobName=name)
        while say_lines():  # CloudWatch delivers late
            time.sleep(POLL_SECONDS)
    except BaseException:
        hint = f"the job continues: `alzmri sagemaker logs {name} --follow`, or `… stop {name}`"
        terminal.err.print(hint, markup=False)
        raise
    require_success(job)
    return job


@aws.explained()
def new_lines(logs: Any, name: str, seen: dict[str, int]) -> list[str]:
    """New lines of the job's containers, with the host's name if there are several.

    ``seen`` has the times, in ms, of earlier events by their id.
    """
    # CloudWatch delivers late and out of order, so ask for the last minutes again.
    since = max([120_000, *seen.values()]) - 120_000
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName=GROUP, logStreamNamePrefix=f"{name}/", startTime=since
    )
    lines = []
    with suppress(logs.exceptions.ResourceNotFoundException):  # no container has started
        for event in (event for page in pages for event in page["events"]):
            if event["eventId"] not in seen:
                seen[event["eventId"]] = event["timestamp"]
                host = event["logStreamName"].removeprefix(f"{name}/").rpartition("-")[0]
                mark = "" if host in ("", "algo-1") else f"[{host}] "
                lines.append(mark + event["message"].rstrip())
    return lines


def bring(session: Any, found: Answer, work: Work) -> Answer:
    """Fetch the outputs of the job ``found`` into the working tree; return its scores.

    Raises:
        UserError: the job is not complete, its archive is damaged, or its work differs from
            ``work``, that of this checkout. Nothing is changed then.
        EnvironmentFault: the job failed.
    """
    name, status = found["TrainingJobName"], found["TrainingJobStatus"]
    require_success(found)
    if status != "Completed":
        raise UserError(f"{name} is {status}: `alzmri sagemaker logs {name} --follow`")
    if not name.startswith(work.names):
        there, here = job_request.shaping(found.get("HyperParameters", {})), work.hyperparameters
        changed = [
            f"\n  {key} = {value}, but {here.get(key)} in params.yaml"
            for key, value in there.items()
            if value != here.get(key)
        ]
        raise UserError(
            f"{name} trained with other parameters, data or code than this checkout has: `git"
            f" checkout` the commit in its tags, and `dvc repro prepare`{''.join(changed)}"
        )
    temporary = Path(".dvc/tmp")
    temporary.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="sagemaker-", dir=temporary) as place:
        archive = Path(place) / "model.tar.gz"
        aws.download(session, found["ModelArtifacts"]["S3ModelArtifacts"], archive)
        for output, path in unpack(archive).items():
            with replacing(Path(output)) as draft:
                shutil.move(path, draft)
    scores: Answer = json.loads(Path("metrics/train.json").read_bytes())
    return scores


def unpack(archive: Path) -> dict[str, Path]:
    """Unpack the stage's outputs beside ``archive``; `UserError` when some are missing."""
    outputs = {name: archive.parent / "model" / Path(name).name for name in OUTPUTS}
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(archive.parent / "model", filter="data")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{archive.name} is damaged ({error}): fetch it again") from error
    if missing := [name for name, path in outputs.items() if not path.is_file()]:
        raise UserError(f"{archive.name} has no {', '.join(missing)}: no alzmri job made it")
    return outputs

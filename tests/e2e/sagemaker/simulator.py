"""SageMaker on one machine: its interface, and jobs that really run.

The interface is JSON over HTTP as boto3 speaks it; botocore's own model of the service validates
requests. A container is a set of namespaces: file system, network, process numbers and host name of
its own, the entry point as process 1, no way out but the job's own network. Data, code, checkpoints
and models go through a real S3.
"""

import json
import os
import re
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.validate import ParamValidator

from ... import forks
from .endpoints import OPERATION, Endpoints
from .namespaces import Containers, Host, Refused

ACCOUNT = "123456789012"
REGION = "us-east-1"
ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}"
GRACE_SECONDS = 120
HOLD = Path(__file__).with_name("hold")


def complaints(shape: Any, value: Any, where: str = "") -> list[str]:
    """What is wrong with ``value`` by its shape's patterns, enumerations and lengths.

    botocore sends what breaks these; the service refuses it.
    """
    if shape.type_name == "list":
        return [fault for part in value for fault in complaints(shape.member, part, where)]
    if shape.type_name in ("structure", "map"):
        found = []
        for key, part in value.items():
            if shape.type_name == "map":
                found += complaints(shape.key, key, f"{where}.{key}")
                found += complaints(shape.value, part, f"{where}.{key}")
            elif key in shape.members:
                found += complaints(shape.members[key], part, f"{where}.{key}")
        return found
    if shape.type_name != "string":
        return []
    # Java's classes of letters, which Python has as \w.
    pattern = re.sub(r"\\p\{[LZN]\}", r"\\w ", shape.metadata.get("pattern", ".*"))
    if shape.enum and value not in shape.enum:
        rule = f"Member must satisfy enum value set: [{', '.join(shape.enum[:3])}, ...]"
    elif not re.fullmatch(pattern, value, re.DOTALL):
        rule = f"Member must satisfy regular expression pattern: {pattern}"
    elif len(value) > shape.metadata.get("max", len(value)):
        rule = f"Member must have length less than or equal to {shape.metadata['max']}"
    else:
        return []
    return [f"Value '{value}' at '{where}' failed to satisfy constraint: {rule}"]


@dataclass
class Job:
    """One job: the request, what became of it, and what is called at the line where it is held."""

    request: dict[str, Any]
    status: str = "InProgress"
    phases: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    artifact: str = ""
    lines: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    created: float = field(default_factory=time.time)
    stop: bool = False
    containers: Containers | None = None
    hold: tuple[str, Callable[["Job"], object]] | None = None

    @property
    def name(self) -> str:
        return self.request["TrainingJobName"]

    def enter(self, phase: str, message: str = "") -> None:
        self.phases.append({"Status": phase, "StartTime": time.time(), "StatusMessage": message})
        if phase in ("Stopped", "Failed", "Completed"):
            self.status, self.reason = phase, message

    def description(self) -> dict[str, Any]:
        metrics = [{"MetricName": name, "Value": value} for name, value in self.metrics.items()]
        return {
            **{key: value for key, value in self.request.items() if key != "Tags"},
            "TrainingJobArn": f"{ARN}:training-job/{self.name}",
            "TrainingJobStatus": self.status,
            "SecondaryStatus": self.phases[-1]["Status"],
            "SecondaryStatusTransitions": self.phases,
            "CreationTime": self.created,
            "FailureReason": self.reason[:1024],
            "ModelArtifacts": {"S3ModelArtifacts": self.artifact},
            "FinalMetricDataList": [{**metric, "Timestamp": time.time()} for metric in metrics],
        }


class Simulator:
    """The services, their jobs, and what tests may do to them.

    Attributes:
        secrets: of Secrets Manager, by name.
        holds: for each start of a job's containers to come: a line at which its trainer waits for a
            signal, by its beginning, and what is called with the job then.
    """

    def __init__(self, folder: Path, s3: Any, path: str) -> None:
        self.jobs: dict[str, Job] = {}
        self.secrets: dict[str, str] = {}
        self.holds: list[tuple[str, Callable[[Job], object]]] = []
        self._folder, self._s3, self._path = folder, s3, path
        self._model = botocore.session.get_session().get_service_model("sagemaker")
        self._events: list[dict[str, Any]] = []
        self._threads: list[threading.Thread] = []
        environment = {**forks.environment(), "PATH": path}
        self.endpoints = Endpoints(folder / "endpoints", environment, ARN, self._download)

    def answer(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the services answer; raises `Refused`."""
        if found := OPERATION.fullmatch(operation):
            self._check(operation, body)
            return self.endpoints.answer(*found.groups(), body)
        return getattr(self, f"_{operation}")(body)

    def _check(self, operation: str, body: dict[str, Any], *more: str) -> None:
        """Refuse what the service's own model does not allow."""
        shape = self._model.operation_model(operation).input_shape
        report = ParamValidator().validate(body, shape).generate_report()
        if faults := [*complaints(shape, body), *more, *filter(None, [report])]:
            raise Refused("ValidationException", "; ".join(faults))

    def end(self) -> None:
        """Kill what still runs."""
        self.endpoints.end()
        for job in self.jobs.values():
            if job.containers:
                job.containers.kill()
        for thread in self._threads:
            thread.join(30)

    # What boto3 calls, by the names of the services' operations.

    def _CreateTrainingJob(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        limits = body["StoppingCondition"]
        waits, runs = limits.get("MaxWaitTimeInSeconds", 0), limits["MaxRuntimeInSeconds"]
        short = body.get("EnableManagedSpotTraining") and waits < runs
        why = "Invalid MaxWaitTimeInSeconds. It should be greater than or equal to"
        self._check("CreateTrainingJob", body, *[f"{why} MaxRuntimeInSeconds"] * bool(short))
        if body["TrainingJobName"] in self.jobs:
            raise Refused("ResourceInUse", "Training job names must be unique within an account")
        job = self.jobs[body["TrainingJobName"]] = Job(body)
        job.enter("Starting")
        self._threads.append(threading.Thread(target=self._run, args=(job,), daemon=True))
        self._threads[-1].start()
        return {"TrainingJobArn": job.description()["TrainingJobArn"]}

    def _DescribeTrainingJob(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return self._job(body).description()

    def _StopTrainingJob(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        job = self._job(body)
        job.status, job.stop = "Stopping", True
        return {}

    def _ListTrainingJobs(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = [job for job in self.jobs.values() if body.get("NameContains", "") in job.name]
        found.sort(key=lambda job: job.created, reverse=True)
        keys = ("TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingJobStatus")
        shown = [job.description() for job in found[: body["MaxResults"]]]
        return {"TrainingJobSummaries": [{key: job[key] for key in keys} for job in shown]}

    def _FilterLogEvents(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        prefix, since = body["logStreamNamePrefix"], body.get("startTime", 0)
        events = [event for event in self._events if event["logStreamName"].startswith(prefix)]
        if not events:
            raise Refused("ResourceNotFoundException", "The specified log group does not exist.")
        return {"events": [event for event in events if event["timestamp"] >= since]}

    def _GetSecretValue(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if body["SecretId"] not in self.secrets:
            raise Refused("ResourceNotFoundException", "Secrets Manager can't find the secret.")
        return {"Name": body["SecretId"], "SecretString": self.secrets[body["SecretId"]]}

    def _job(self, body: dict[str, Any]) -> Job:
        if body["TrainingJobName"] not in self.jobs:
            raise Refused("ValidationException", "Requested resource not found.")
        return self.jobs[body["TrainingJobName"]]

    # What happens to a job.

    def _run(self, job: Job) -> None:
        try:
            while True:
                job.enter("Downloading", "Downloading input data")
                job.hold = self.holds.pop(0) if self.holds else None
                hosts = self._instances(job)
                job.enter("Training", "Training image download completed.")
                if not self._train(job, hosts):
                    break
                job.enter("Interrupted", "Spot instances are being reclaimed")
            job.enter("Uploading", "Uploading generated training model")
            self._upload(job, hosts)
            failures = [h.ml / "output/failure" for h in hosts if h.status]
            if job.stop:
                job.enter("Stopped")
            elif failures:
                why = next((path.read_text() for path in failures if path.exists()), "")
                worst = max(host.status or 0 for host in hosts)
                job.enter("Failed", f"AlgorithmError: {why[:1024]}, exit code: {worst}")
            else:
                job.enter("Completed")
        except Exception as error:
            job.enter("Failed", f"InternalServerError: {error!r}")
            raise

    def _instances(self, job: Job) -> list[Host]:
        """New instances: empty disks, then the channels and the checkpoints."""
        resources = job.request["ResourceConfig"]
        names = [f"algo-{number + 1}" for number in range(resources["InstanceCount"])]
        # What a user's environment would have of AWS must not be needed in the container.
        environment = {
            "PATH": self._path,
            "HOME": "/opt/ml",
            "TMPDIR": "/opt/ml",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            **forks.COMPUTING,  # so that a job's bytes can be compared with those of a run here
            "TRAINING_JOB_NAME": job.name,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "AKIAOFTHEROLE",
            "AWS_SECRET_ACCESS_KEY": "of the role",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": Containers.SERVICES,
            **({"PYTHONPATH": str(HOLD), "HOLD": job.hold[0]} if job.hold else {}),
            **job.request.get("Environment", {}),
        }
        hosts = []
        for name in names:
            host = Host(self._folder / job.name / name, name, len(hosts) + 1)
            host.lay_out(environment, names)
            for channel in job.request["InputDataConfig"]:
                source = channel["DataSource"]["S3DataSource"]
                self._download(source["S3Uri"], host.ml / "input/data" / channel["ChannelName"])
            self._download(job.request["CheckpointConfig"]["S3Uri"], host.ml / "checkpoints")
            for file, content in {
                "hyperparameters": job.request["HyperParameters"],
                "resourceconfig": {"current_host": name, "hosts": names},
            }.items():
                (host.ml / f"input/config/{file}.json").write_text(json.dumps(content))
            hosts.append(host)
        return hosts

    def _train(self, job: Job, hosts: list[Host]) -> bool:
        """Run the containers; whether they were interrupted."""
        command = job.request["AlgorithmSpecification"]["ContainerEntrypoint"]
        job.containers = Containers(
            hosts, command, lambda host, line: self._line(job, host, line), self.answer
        )
        synced: dict[Path, int] = {}
        with job.containers as containers:
            while containers.running():
                self._sync(job, hosts, synced)
                if job.stop or containers.interrupted or any(host.status for host in hosts):
                    containers.terminate(GRACE_SECONDS)
                    break
                time.sleep(0.02)
        self._sync(job, hosts, synced)
        return containers.interrupted and not job.stop

    def _line(self, job: Job, host: str, line: str) -> None:
        job.lines.append(line)
        self._events.append(
            {
                "logStreamName": f"{job.name}/{host}-{round(job.created)}",
                "timestamp": round(time.time() * 1000),
                "message": line,
                "eventId": str(len(self._events)),
            }
        )
        for metric in job.request["AlgorithmSpecification"]["MetricDefinitions"]:
            if found := re.search(metric["Regex"], line):
                job.metrics[metric["Name"]] = float(found[1])
        if job.hold and line.startswith(job.hold[0]):
            (_, at_line), job.hold = job.hold, None
            at_line(job)

    # S3, as the service uses it.

    def _download(self, address: str, folder: Path) -> None:
        """All that begins with ``address``: without a slash at its end, more than one folder."""
        bucket, prefix = _split(address)
        folder.mkdir(parents=True, exist_ok=True)
        for item in self._s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
            name = item["Key"].removeprefix(prefix).lstrip("/")
            path = folder / (name or item["Key"].rpartition("/")[2])
            path.parent.mkdir(parents=True, exist_ok=True)
            self._s3.download_file(bucket, item["Key"], str(path))

    def _sync(self, job: Job, hosts: list[Host], synced: dict[Path, int]) -> None:
        """New and changed checkpoints to S3; what was removed stays there."""
        bucket, prefix = _split(job.request["CheckpointConfig"]["S3Uri"])
        for host in hosts:
            folder = host.ml / "checkpoints"
            # Meanwhile the trainer removes what it needs no more: os.walk takes that as it comes.
            for path in [Path(root) / name for root, _, names in os.walk(folder) for name in names]:
                with suppress(FileNotFoundError):
                    changed = path.stat().st_mtime_ns
                    if synced.get(path) != changed:
                        key = prefix + str(path.relative_to(folder))
                        self._s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
                        synced[path] = changed

    def _upload(self, job: Job, hosts: list[Host]) -> None:
        bucket, prefix = _split(job.request["OutputDataConfig"]["S3OutputPath"])
        archive = self._folder / job.name / "model.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for host in hosts:
                for path in sorted((host.ml / "model").iterdir()):
                    tar.add(path, arcname=path.name)
        key = f"{prefix.rstrip('/')}/{job.name}/output/model.tar.gz"
        self._s3.upload_file(str(archive), bucket, key)
        job.artifact = f"s3://{bucket}/{key}"


def _split(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    return parts.netloc, parts.path.lstrip("/")

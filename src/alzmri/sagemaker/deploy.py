"""A trained model as an endpoint: on instances of its own, or serverless."""

import hashlib
import json
import mimetypes
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alzmri import registry, terminal
from alzmri.errors import EnvironmentFault, LeakError, UserError
from alzmri.sagemaker import faults, storage
from alzmri.sagemaker.request import LONGEST
from alzmri.sagemaker.service import Service
from alzmri.sagemaker.settings import Settings

NEEDED = ("model.json", "model.safetensors", "ood.safetensors")
"""Files of a model's folder without which the server does not start."""
SHOWN = "MODEL_CARD.md"
ARCHIVE = "model.tar.gz"


@dataclass(frozen=True)
class Deployment:
    """What the service is asked for, in this order; nothing is sent yet.

    Attributes:
        folder: of the model.
        model, configuration, endpoint: the requests, with nothing secret in them. Their names are
            made of their contents: what is the same has the same name.
        address: of the folder in the bucket where the archive goes.
    """

    folder: Path
    model: dict[str, Any]
    configuration: dict[str, Any]
    endpoint: dict[str, Any]
    address: str

    @property
    def name(self) -> str:
        """Of the endpoint."""
        return str(self.endpoint["EndpointName"])


def registered(version: str | None, stage: str | None, folder: Path) -> None:
    """Fetch the model of a registered version, or of the one that has a stage, into ``folder``.

    Raises:
        UserError: DVC does not find it, with DVC's own words.
    """
    chosen = ["--rev", version] if version else ["--stage", str(stage)]
    words = [sys.executable, "-m", "dvc", "artifacts", "get", ".", registry.NAME, *chosen]
    done = subprocess.run(
        [*words, "--out", str(folder), "--quiet"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["dvc failed"])[0].removeprefix("ERROR: ")
        raise UserError(
            f"{version or stage}: {said}; `gto show {registry.NAME}` lists what there is"
        )


def prepare(
    settings: Settings, folder: Path, name: str, *, serverless: bool, leaking: bool
) -> Deployment:
    """The requests for serving the model in ``folder`` as the endpoint ``name``.

    Args:
        leaking: whether a model whose test subjects were trained on is wanted all the same.

    Raises:
        UserError: files are missing or damaged.
        LeakError: the model's split leaks, and that is not wanted.
    """
    files = {file: folder / file for file in NEEDED}
    if absent := [str(path) for path in files.values() if not path.is_file()]:
        raise UserError(f"no {', '.join(absent)}: run `dvc repro`, or `dvc pull models`")
    run, leaks = _about(folder)
    if leaks and not leaking:
        raise LeakError(
            "this model's split LEAKS: its scores come from subjects that it was trained on, and"
            " say nothing about new ones; train with split.unit=subject, or give --allow-leak"
        )

    address = f"{settings.root}/models/{_digest(files)[:16]}/"
    tags = {**settings.tags, "alzmri:run": run}
    common = {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
    model: dict[str, Any] = {
        "ExecutionRoleArn": settings.role,
        "PrimaryContainer": {
            "Image": settings.serve_image,
            "ModelDataUrl": address + ARCHIVE,
            "Environment": {"ALZMRI_SERVE_MODEL": "/opt/ml/model"},
        },
        # The server asks nobody. Serverless endpoints cannot be cut off.
        "EnableNetworkIsolation": not serverless,
        **common,
    }
    model = {"ModelName": _named(name, model), **model}
    variant: dict[str, Any] = {"VariantName": "all", "ModelName": model["ModelName"]}
    if serverless:
        variant["ServerlessConfig"] = {
            "MemorySizeInMB": settings.serverless_memory_mb,
            "MaxConcurrency": settings.serverless_concurrency,
        }
    else:
        variant["InstanceType"] = settings.serve_instance_type
        variant["InitialInstanceCount"] = settings.serve_instance_count
    configuration: dict[str, Any] = {"ProductionVariants": [variant], **common}
    configuration = {"EndpointConfigName": _named(name, configuration), **configuration}
    chosen = {"EndpointConfigName": configuration["EndpointConfigName"]}
    endpoint = {"EndpointName": name, **chosen, **common}
    return Deployment(folder, model, configuration, endpoint, address)


def _about(folder: Path) -> tuple[str, bool]:
    """The training run of a model, and whether its split leaks."""
    try:
        card = json.loads((folder / "model.json").read_bytes())
        scores = folder / "evaluation.json"
        split = json.loads(scores.read_bytes())["split"] if scores.is_file() else {}
        leaks = card["parameters"]["split"]["unit"] == "slice" or split.get("shared_subjects")
        return str(card["run"]), bool(leaks)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the model in {folder} is damaged ({error!r}): `dvc checkout`") from None


def _digest(files: Mapping[str, Path]) -> str:
    """SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for name, path in files.items():
        with path.open("rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _named(name: str, content: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([name, content], sort_keys=True).encode()).hexdigest()[:12]
    return f"{name[: LONGEST - len(digest) - 1]}-{digest}"


def deploy(service: Service, settings: Settings, wanted: Deployment) -> bool:
    """Make the endpoint, or have the one of that name serve this; whether there was need to.

    An endpoint that serves goes on until the new model does. What the last one served is removed
    once it has been replaced.

    Raises:
        UserError: the endpoint cannot be changed now, or the account does not allow it.
        EnvironmentFault: the endpoint did not come up; a new one's remains are named, one that
            served before goes on as it was.
    """
    client, name = service.client("sagemaker"), wanted.name
    before = _endpoint(service, name)
    if before and before["EndpointStatus"] == "InService":
        if before["EndpointConfigName"] == wanted.endpoint["EndpointConfigName"]:
            return False
    elif before:
        status = before["EndpointStatus"]
        raise UserError(
            f"endpoint {name} is {status}: wait, or remove it with `alzmri sagemaker undeploy`"
        )
    s3 = service.client("s3")
    storage.require_bucket(s3, settings.bucket, settings.region)
    if ARCHIVE not in storage.names(s3, wanted.address):
        with TemporaryDirectory(prefix="alzmri-") as temporary:
            archive = Path(temporary) / ARCHIVE
            pack(wanted.folder, archive)
            storage.upload(s3, wanted.address, {ARCHIVE: archive})
    # What is there from a time before is the same, as its name says.
    with _unless("already existing"):
        client.create_model(**wanted.model)
    with _unless("already existing"):
        client.create_endpoint_config(**wanted.configuration)
    with faults.explained():
        if before:
            chosen = {key: wanted.endpoint[key] for key in ("EndpointName", "EndpointConfigName")}
            client.update_endpoint(**chosen)
        else:
            client.create_endpoint(**wanted.endpoint)
    after = _await(service, name)
    if after["EndpointStatus"] != "InService":
        raise EnvironmentFault(
            f"endpoint {name} failed: {after.get('FailureReason', 'AWS gives no reason')}; its log"
            f" is /aws/sagemaker/Endpoints/{name}, `alzmri sagemaker undeploy` removes what is left"
        )
    if after["EndpointConfigName"] != wanted.endpoint["EndpointConfigName"]:
        raise EnvironmentFault(
            f"endpoint {name} serves the model from before, the new one failed:"
            f" {after.get('FailureReason', 'AWS gives no reason')}"
        )
    if before:
        _remove_configuration(service, before["EndpointConfigName"], wanted.model["ModelName"])
    return True


def pack(folder: Path, archive: Path) -> None:
    """Write all that serving needs of the model in ``folder``, as ONNX too: starts are quick then.

    Raises:
        UserError: the files are damaged, or do not belong together.
    """
    from alzmri.inference import export
    from alzmri.inference.predictor import Predictor

    Predictor.load(folder)
    graph = archive.with_name("model.onnx")
    export.write(folder, graph)
    with tarfile.open(archive, "w:gz") as tar:
        for path in (*(folder / name for name in (*NEEDED, SHOWN)), graph):
            if path.is_file():
                tar.add(path, path.name, filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Readable for the server's user, with nothing of this machine's."""
    member.mode, member.mtime = 0o644, 0
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _await(service: Service, name: str) -> Mapping[str, Any]:
    """Wait until the endpoint serves or has failed, and say each new status."""
    last = ""

    def say(said: Mapping[str, Any]) -> None:
        nonlocal last
        if said["EndpointStatus"] != last:
            last = said["EndpointStatus"]
            terminal.say(f"-- {last}")
        if last in ("OutOfService", "UpdateRollbackFailed"):  # the waiter would wait for ever
            raise EnvironmentFault(f"endpoint {name} is {last}: `alzmri sagemaker undeploy`")

    try:
        with terminal.progress(f"endpoint {name}", in_log=False):
            return service.wait("endpoint_in_service", say, EndpointName=name)
    except KeyboardInterrupt:
        terminal.err.print("AWS goes on: `alzmri sagemaker undeploy` removes it", markup=False)
        raise


@contextmanager
def _unless(words: str) -> Iterator[None]:
    """Turn AWS's errors into ours, but one that says ``words``: that is well."""
    from botocore.exceptions import ClientError

    with faults.explained():
        try:
            yield
        except ClientError as error:
            if words not in str(error):
                raise


def _endpoint(service: Service, name: str) -> dict[str, Any]:
    """What the service says of an endpoint; nothing where there is none."""
    said: dict[str, Any] = {}
    with _unless("Could not find"):
        said.update(service.client("sagemaker").describe_endpoint(EndpointName=name))
    return said


def undeploy(service: Service, name: str) -> None:
    """Remove an endpoint, with its configuration and model; the archive stays in the bucket.

    Raises:
        UserError: there is no such endpoint, or it cannot be removed now.
    """
    found = _endpoint(service, name)
    if not found:
        raise UserError(f"there is no endpoint {name} in {service.region}")
    with faults.explained():
        service.client("sagemaker").delete_endpoint(EndpointName=name)
    with terminal.progress(f"removing {name}", in_log=False):
        service.wait("endpoint_deleted", lambda _: None, EndpointName=name)
    _remove_configuration(service, found["EndpointConfigName"])


def _remove_configuration(service: Service, name: str, but: str = "") -> None:
    """Remove a configuration and its models ``but`` one, as far as they are there."""
    client = service.client("sagemaker")
    with _unless("Could not find"):
        said = client.describe_endpoint_config(EndpointConfigName=name)
        client.delete_endpoint_config(EndpointConfigName=name)
        for model in {variant["ModelName"] for variant in said["ProductionVariants"]} - {but}:
            with _unless("Could not find"):
                client.delete_model(ModelName=model)


def invoke(service: Service, name: str, image: Path) -> dict[str, Any]:
    """What the endpoint says of one image file.

    Raises:
        UserError: no file, no such endpoint, or the model refuses the image, with its reason.
        EnvironmentFault: the endpoint does not answer.
    """
    try:
        content = image.read_bytes()
    except OSError as error:
        raise UserError(f"{image}: {error.strerror}: name an image file") from None
    kind = mimetypes.guess_type(image.name)[0] or ""
    with faults.explained():
        answer = service.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=name,
            ContentType=kind if kind.startswith("image/") else "application/octet-stream",
            Body=content,
        )
        said: dict[str, Any] = json.load(answer["Body"])
    return said

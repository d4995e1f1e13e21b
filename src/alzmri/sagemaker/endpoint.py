"""Serve a trained model as an endpoint, on instances or serverless."""

import hashlib
import json
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alzmri import aws, git, terminal
from alzmri.aws import Answer
from alzmri.errors import EnvironmentFault, LeakError, UserError
from alzmri.evaluation import leak
from alzmri.sagemaker.job_request import SagemakerSettings

NEEDED = ("model.json", "model.safetensors", "ood.safetensors")
"""Files of a model's folder without which the server does not start."""

Requests = dict[str, dict[str, Any]]  # for CreateModel, CreateEndpointConfig, CreateEndpoint


def registered(version: str | None, stage: str | None, folder: Path) -> None:
    """Fetch the model of a registered version, or of the version with a stage, into ``folder``."""
    from dvc.api import DVCFileSystem, artifacts_show
    from dvc.exceptions import DvcException

    try:
        found = artifacts_show(git.ARTIFACT, version=version, stage=stage)
        DVCFileSystem(".", rev=found["rev"]).get(found["path"], str(folder), recursive=True)
    except Exception as error:  # the remote's client raises its own
        kind, hint = EnvironmentFault, "`alzmri store status` says whether the remote answers"
        if isinstance(error, DvcException):
            kind, hint = UserError, f"`gto show {git.ARTIFACT}` lists versions and stages"
        said = str(error).partition("\n")[0]
        raise kind(f"{version or stage}: {said}; {hint}") from error


def build(
    settings: SagemakerSettings, folder: Path, *, serverless: bool, allow_leak: bool
) -> Requests:
    """The requests to serve the model in ``folder``, without secrets.

    Model and configuration share a name, which contains a digest of them. Raises `UserError` for
    missing or damaged files, `LeakError` if the model may have seen subjects of its test.
    """
    files = [folder / file for file in NEEDED]
    if absent := [str(path) for path in files if not path.is_file()]:
        raise UserError(f"no {', '.join(absent)}: run `dvc repro`, or `dvc pull models`")
    try:
        card = json.loads(files[0].read_bytes())
        leaks = leak.of_model(folder, card["parameters"]["split"]["unit"])
        tags = settings.tagged("alzmri:run", str(card["run"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the model in {folder} is damaged ({error!r}): `dvc checkout`") from None
    if leaks and not allow_leak:
        raise LeakError(
            f"this model's split {leaks}: subjects of its test were, or may have been, in training,"
            " so its scores say nothing about new subjects; train with split.unit=subject, or give"
            " --allow-leak"
        )
    contents = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    model: dict[str, Any] = {
        "ExecutionRoleArn": settings.role,
        "PrimaryContainer": {
            "Image": settings.serve_image,
            "ModelDataUrl": f"{settings.root}/models/{contents[:16]}/model.tar.gz",
            "Environment": {"ALZMRI_SERVE_MODEL": "/opt/ml/model"},
        },
        # The server needs no network. Serverless endpoints cannot be isolated.
        "EnableNetworkIsolation": not serverless,
        "Tags": tags,
    }
    memory, copies = settings.serverless_memory_mb, settings.serverless_concurrency
    instance, instances = settings.serve_instance_type, settings.serve_instance_count
    where: dict[str, Any] = {"InstanceType": instance, "InitialInstanceCount": instances}
    if serverless:
        where = {"ServerlessConfig": {"MemorySizeInMB": memory, "MaxConcurrency": copies}}
    digest = hashlib.sha256(json.dumps([model, where]).encode()).hexdigest()
    name = f"{settings.endpoint}-{digest[:12]}"
    variant = {"VariantName": "all", "ModelName": name, **where}
    config = {"EndpointConfigName": name}
    return {
        "CreateModel": {"ModelName": name, **model},
        "CreateEndpointConfig": {**config, "ProductionVariants": [variant], "Tags": tags},
        "CreateEndpoint": {"EndpointName": settings.endpoint, **config, "Tags": tags},
    }


def deploy(session: Any, folder: Path, requests: Requests) -> bool:
    """Make the endpoint serve the model in ``folder``; return False if it does already.

    A previous model serves until the new one is ready, and goes on if it fails, which raises
    `EnvironmentFault`.
    """
    client = session.client("sagemaker")
    model, config, endpoint = requests.values()
    name, configuration = endpoint["EndpointName"], endpoint["EndpointConfigName"]
    before = _tolerant("Could not find", client.describe_endpoint, EndpointName=name)
    if before and (status := before["EndpointStatus"]) != "InService":
        raise UserError(f"endpoint {name} is {status}: wait, or `alzmri sagemaker undeploy` it")
    if before.get("EndpointConfigName") == configuration:
        return False
    with TemporaryDirectory(prefix="alzmri-") as temporary:
        archive = Path(temporary) / "model.tar.gz"
        pack(folder, archive)
        aws.upload(session, archive, model["PrimaryContainer"]["ModelDataUrl"])
    # An existing one is equal, because its name contains the digest.
    _tolerant("already existing", client.create_model, **model)
    _tolerant("already existing", client.create_endpoint_config, **config)
    with aws.explained():
        if before:
            client.update_endpoint(EndpointName=name, EndpointConfigName=configuration)
        else:
            client.create_endpoint(**endpoint)
    terminal.say("AWS needs minutes, and continues after Ctrl-C")
    after: Answer = {}

    def say(found: Answer) -> None:
        nonlocal after
        if found["EndpointStatus"] != after.get("EndpointStatus"):
            terminal.say(f"-- {found['EndpointStatus']}")
        after = found

    aws.wait(session, "endpoint_in_service", say, EndpointName=name)
    if (after["EndpointStatus"], after["EndpointConfigName"]) != ("InService", configuration):
        why = after.get("FailureReason", "AWS gives no reason")
        rest = "the previous model serves" if before else "remove it: alzmri sagemaker undeploy"
        log = f"/aws/sagemaker/Endpoints/{name}"
        raise EnvironmentFault(f"endpoint {name} failed: {why}; its log is {log}; {rest}")
    if before:
        _remove(client, before["EndpointConfigName"])
    return True


def pack(folder: Path, archive: Path) -> None:
    """Write the files that serving needs from ``folder``, and the model as ONNX for fast starts."""
    from alzmri.inference import onnx_export

    graph = archive.with_name("model.onnx")
    onnx_export.write(folder, graph)  # raises UserError for damaged files
    with tarfile.open(archive, "w:gz") as tar:
        names = (*NEEDED, "MODEL_CARD.md", "evaluation.json")
        for path in (*(folder / name for name in names), graph):
            if path.is_file():
                # Make it readable for the server's user.
                tar.add(path, path.name, filter=lambda item: item.replace(mode=0o644, deep=False))


def undeploy(session: Any, name: str) -> None:
    """Remove an endpoint, with its configuration and model; the archive stays in the bucket."""
    client = session.client("sagemaker")
    found = _tolerant("Could not find", client.describe_endpoint, EndpointName=name)
    if not found:
        raise UserError(f"there is no endpoint {name} in {session.region_name}")
    with aws.explained():
        client.delete_endpoint(EndpointName=name)
    aws.wait(session, "endpoint_deleted", lambda _: None, EndpointName=name)
    _remove(client, found["EndpointConfigName"])


def invoke(session: Any, name: str, image: Path) -> dict[str, Any]:
    """The endpoint's answer for one image file; `UserError` with its reason if it refuses."""
    if not image.is_file():
        raise UserError(f"{image} is not a file: give an image file")
    client = session.client("sagemaker-runtime")
    with aws.explained(), image.open("rb") as body:
        try:
            answer = client.invoke_endpoint(
                EndpointName=name, ContentType="application/octet-stream", Body=body
            )
        except client.exceptions.ModelError as error:
            said = str(error.response.get("OriginalMessage") or error)
            with suppress(ValueError, KeyError, TypeError):  # the server's message
                said = str(json.loads(said)["error"])
            raise UserError(f"the endpoint refused the image: {said}") from None
        return dict(json.load(answer["Body"]))


def _remove(client: Any, name: str) -> None:
    """Remove a configuration and its model, if they exist."""
    _tolerant("Could not find", client.delete_endpoint_config, EndpointConfigName=name)
    _tolerant("Could not find", client.delete_model, ModelName=name)


@aws.explained()
def _tolerant(words: str, call: Callable[..., Answer], **request: Any) -> Answer:
    """The answer to a call; empty if AWS refuses it with a message that contains ``words``."""
    from botocore.exceptions import ClientError

    try:
        return call(**request)
    except ClientError as error:
        if words not in str(error):
            raise
        return {}

"""A trained model as an endpoint: on instances of its own, or serverless."""

import hashlib
import json
import mimetypes
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alzmri import registry, terminal
from alzmri.errors import EnvironmentFault, LeakError, UserError
from alzmri.sagemaker import aws
from alzmri.sagemaker.aws import Answer
from alzmri.sagemaker.request import LONGEST, tags
from alzmri.sagemaker.settings import Settings

NEEDED = ("model.json", "model.safetensors", "ood.safetensors")
"""Files of a model's folder without which the server does not start."""
SHOWN = "MODEL_CARD.md"


Requests = dict[str, dict[str, Any]]
"""By operation, in their order: CreateModel, CreateEndpointConfig, CreateEndpoint."""


def registered(version: str | None, stage: str | None, folder: Path) -> None:
    """Fetch the model of a registered version, or of the one that has a stage, into ``folder``.

    Raises:
        UserError: DVC does not find it, with DVC's own words.
    """
    chosen = ["--rev", version] if version else ["--stage", str(stage)]
    words = [sys.executable, "-m", "dvc", "artifacts", "get", ".", registry.NAME, *chosen]
    words += ["--out", str(folder), "--quiet"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["dvc failed"])[0].removeprefix("ERROR: ")
        raise UserError(
            f"{version or stage}: {said}; `gto show {registry.NAME}` lists what there is"
        )


def prepare(
    settings: Settings, folder: Path, name: str, *, serverless: bool, leaking: bool
) -> Requests:
    """What is asked for to serve the model in ``folder`` as the endpoint ``name``; no secret.

    Names of model and configuration are made of their contents: what is the same has the same.

    Args:
        leaking: whether a model whose test subjects were trained on is wanted all the same.

    Raises:
        UserError: files are missing or damaged.
        LeakError: the model's split leaks, and that is not wanted.
    """
    files = [folder / file for file in NEEDED]
    if absent := [str(path) for path in files if not path.is_file()]:
        raise UserError(f"no {', '.join(absent)}: run `dvc repro`, or `dvc pull models`")
    run, leaks = _about(folder)
    if leaks and not leaking:
        raise LeakError(
            "this model's split LEAKS: its scores come from subjects that it was trained on, and"
            " say nothing about new ones; train with split.unit=subject, or give --allow-leak"
        )

    contents = _digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    common = {"Tags": tags(settings, "alzmri:run", run)}
    model: dict[str, Any] = {
        "ExecutionRoleArn": settings.role,
        "PrimaryContainer": {
            "Image": settings.serve_image,
            "ModelDataUrl": f"{settings.root}/models/{contents[:16]}/model.tar.gz",
            "Environment": {"ALZMRI_SERVE_MODEL": "/opt/ml/model"},
        },
        # The server asks nobody. Serverless endpoints cannot be cut off.
        "EnableNetworkIsolation": not serverless,
        **common,
    }
    model["ModelName"] = _named(name, model)
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
    configuration["EndpointConfigName"] = _named(name, configuration)
    chosen = {"EndpointName": name, "EndpointConfigName": configuration["EndpointConfigName"]}
    return {
        "CreateModel": model,
        "CreateEndpointConfig": configuration,
        "CreateEndpoint": {**chosen, **common},
    }


def _about(folder: Path) -> tuple[str, bool]:
    """The training run of a model, and whether its split leaks."""
    try:
        card = json.loads((folder / "model.json").read_bytes())
        scores = folder / "evaluation.json"
        split = json.loads(scores.read_bytes())["split"] if scores.is_file() else {}
        unknown_or_some = split.get("shared_subjects", 0) != 0
        return str(card["run"]), card["parameters"]["split"]["unit"] == "slice" or unknown_or_some
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the model in {folder} is damaged ({error!r}): `dvc checkout`") from None


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _named(name: str, content: Mapping[str, Any]) -> str:
    digest = _digest([name, content])[:12]
    return f"{name[: LONGEST - len(digest) - 1]}-{digest}"


def deploy(session: Any, settings: Settings, folder: Path, wanted: Requests) -> bool:
    """Make the endpoint for the model in ``folder``; whether there was need to.

    Another model that the endpoint serves goes on until this one does, and is then removed.

    Raises:
        UserError: the endpoint cannot be changed now, or the account does not allow it.
        EnvironmentFault: the endpoint did not come up; a new one's remains are named, one that
            served before goes on as it was.
    """
    client, s3 = session.client("sagemaker"), session.client("s3")
    model, endpoint = wanted["CreateModel"], wanted["CreateEndpoint"]
    name, configuration = endpoint["EndpointName"], endpoint["EndpointConfigName"]
    before = _endpoint(client, name)
    if before and (status := before["EndpointStatus"]) != "InService":
        raise UserError(
            f"endpoint {name} is {status}: wait, or remove it with `alzmri sagemaker undeploy`"
        )
    if before.get("EndpointConfigName") == configuration:
        return False
    aws.require_bucket(s3, settings.bucket, settings.region)
    if aws.lacks(s3, address := model["PrimaryContainer"]["ModelDataUrl"]):
        with TemporaryDirectory(prefix="alzmri-") as temporary:
            archive = Path(temporary) / "model.tar.gz"
            pack(folder, archive)
            aws.upload(s3, archive, address)
    # What is there from a time before is the same, as its name says.
    with _unless("already existing"):
        client.create_model(**model)
    with _unless("already existing"):
        client.create_endpoint_config(**wanted["CreateEndpointConfig"])
    with aws.explained():
        if before:
            client.update_endpoint(EndpointName=name, EndpointConfigName=configuration)
        else:
            client.create_endpoint(**endpoint)
    after = _await(client, name)
    why = after.get("FailureReason", "AWS gives no reason")
    if after["EndpointStatus"] != "InService":
        raise EnvironmentFault(
            f"endpoint {name} failed: {why}; its log is /aws/sagemaker/Endpoints/{name}, `alzmri"
            " sagemaker undeploy` removes what is left"
        )
    if after["EndpointConfigName"] != configuration:
        raise EnvironmentFault(
            f"endpoint {name} serves the model from before, the new one failed: {why}"
        )
    if before:
        _remove_configuration(client, before["EndpointConfigName"], model["ModelName"])
    return True


def pack(folder: Path, archive: Path) -> None:
    """Write all that serving needs of the model in ``folder``, as ONNX too: starts are quick then.

    Raises:
        UserError: the files are damaged, or do not belong together.
    """
    from alzmri.inference import onnx_export
    from alzmri.inference.predictor import Predictor

    Predictor.load(folder)
    graph = archive.with_name("model.onnx")
    onnx_export.write(folder, graph)
    with tarfile.open(archive, "w:gz") as tar:
        for path in (*(folder / name for name in (*NEEDED, SHOWN)), graph):
            if path.is_file():
                # Readable for the server's user, whoever owns it here.
                tar.add(
                    path, path.name, filter=lambda member: member.replace(mode=0o644, deep=False)
                )


def _await(client: Any, name: str) -> Answer:
    """Wait until the endpoint serves or has failed, and say each new status."""
    last = ""

    def say(found: Answer) -> None:
        nonlocal last
        if found["EndpointStatus"] != last:
            last = found["EndpointStatus"]
            terminal.say(f"-- {last}")
        if last in ("OutOfService", "UpdateRollbackFailed"):  # the waiter would wait for ever
            raise EnvironmentFault(f"endpoint {name} is {last}: `alzmri sagemaker undeploy`")

    try:
        with terminal.progress(f"endpoint {name}", in_log=False):
            return aws.wait(client, "endpoint_in_service", say, EndpointName=name)
    except KeyboardInterrupt:
        terminal.err.print("AWS goes on: `alzmri sagemaker undeploy` removes it", markup=False)
        raise


@contextmanager
def _unless(words: str) -> Iterator[None]:
    """Turn AWS's errors into ours, but one that says ``words``: that is well."""
    from botocore.exceptions import ClientError

    with aws.explained():
        try:
            yield
        except ClientError as error:
            if words not in str(error):
                raise


def _endpoint(client: Any, name: str) -> dict[str, Any]:
    """What the service says of an endpoint; nothing where there is none."""
    found: dict[str, Any] = {}
    with _unless("Could not find"):
        found.update(client.describe_endpoint(EndpointName=name))
    return found


def undeploy(session: Any, name: str) -> None:
    """Remove an endpoint, with its configuration and model; the archive stays in the bucket.

    Raises:
        UserError: there is no such endpoint, or it cannot be removed now.
    """
    client = session.client("sagemaker")
    found = _endpoint(client, name)
    if not found:
        raise UserError(f"there is no endpoint {name} in {session.region_name}")
    with aws.explained():
        client.delete_endpoint(EndpointName=name)
    with terminal.progress(f"removing {name}", in_log=False):
        aws.wait(client, "endpoint_deleted", lambda _: None, EndpointName=name)
    _remove_configuration(client, found["EndpointConfigName"])


def _remove_configuration(client: Any, name: str, but: str = "") -> None:
    """Remove a configuration and its models ``but`` one, as far as they are there."""
    with _unless("Could not find"):
        found = client.describe_endpoint_config(EndpointConfigName=name)
        client.delete_endpoint_config(EndpointConfigName=name)
        for model in {variant["ModelName"] for variant in found["ProductionVariants"]} - {but}:
            with _unless("Could not find"):
                client.delete_model(ModelName=model)


def invoke(session: Any, name: str, image: Path) -> dict[str, Any]:
    """What the endpoint says of one image file.

    Raises:
        UserError: no file, no such endpoint, or the model refuses the image, with its reason.
        EnvironmentFault: the endpoint does not answer.
    """
    from botocore.exceptions import ClientError

    try:
        content = image.read_bytes()
    except OSError as error:
        raise UserError(f"{image}: {error.strerror}: name an image file") from None
    kind = mimetypes.guess_type(image.name)[0] or ""
    kind = kind if kind.startswith("image/") else "application/octet-stream"
    with aws.explained():
        try:
            answer = session.client("sagemaker-runtime").invoke_endpoint(
                EndpointName=name, ContentType=kind, Body=content
            )
        except ClientError as error:
            if error.response["Error"].get("Code") != "ModelError":
                raise
            said = str(error.response.get("OriginalMessage") or error)
            with suppress(ValueError, KeyError, TypeError):  # the server's own words
                said = str(json.loads(said)["error"])
            raise UserError(f"the endpoint refuses: {said}") from None
        found: dict[str, Any] = json.load(answer["Body"])
    return found

"""A finished job's model into its place, as if the stage train had run here."""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

from alzmri.data.prepared import Prepared
from alzmri.errors import EnvironmentFault, UserError
from alzmri.files import replacing
from alzmri.params import Params
from alzmri.sagemaker import staging
from alzmri.sagemaker.container import OUTPUTS
from alzmri.sagemaker.job import Job, Service, require_success

MANIFEST = "fetch.json"
LIMIT = 10_000_000_000
"""Bytes, unpacked: more than any model with its optimiser, less than a disk."""


def fetch(service: Service, job: Job, params: Params) -> Mapping[str, Any]:
    """:func:`bring`, and tell DVC; the scores.

    Raises:
        EnvironmentFault: also when DVC fails.
    """
    scores = bring(service, job, params)
    _commit()
    return scores


def bring(service: Service, job: Job, params: Params) -> Mapping[str, Any]:
    """Bring the outputs of ``job`` into the working tree; its scores and number of epochs.

    Raises:
        UserError: when the job is not done, its archive is not what our container writes, or it
            trained with other data, parameters or code than are here. Nothing is changed then.
        EnvironmentFault: when the job failed.
    """
    if not job.ended:
        raise UserError(f"{job.name} is {job.status}: `alzmri sagemaker logs {job.name} --follow`")
    require_success(job)
    temporary = Path(".dvc/tmp")
    temporary.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="sagemaker-", dir=temporary) as name:
        folder = Path(name)
        staging.download(service.s3, job.artifact, folder / "model.tar.gz")
        outputs, code = unpack(folder / "model.tar.gz", folder)
        card = json.loads(outputs["models/model.json"].read_bytes())
        differences = [
            *_other_parameters(card["parameters"], params.model_dump(mode="json")),
            *_other_data(card["data_sha256"], params),
            *_other_code(code),
        ]
        if differences:
            lines = [f"  {difference}" for difference in differences]
            raise UserError("\n".join([f"{job.name} trained with something else:", *lines]))
        scores = json.loads(outputs["metrics/train.json"].read_bytes())
        epochs = card["training"]["epochs"]
        for name, path in outputs.items():
            with replacing(Path(name)) as draft:
                shutil.move(path, draft)
    return {**scores, "epochs": epochs}


def unpack(archive: Path, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The stage's outputs from ``archive``, in ``folder``; and the digests of the code.

    Only the files that our container writes are taken, by name, so that no member can leave
    ``folder``; each must have the digest that the container gave it.

    Raises:
        UserError: when there is anything else in the archive, or something is missing or damaged.
    """
    names = {Path(name).name: name for name in OUTPUTS}
    found: dict[str, Path] = {}
    size = 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if member.isdir() and name in ("", "."):
                    continue
                size += member.size
                if not member.isreg() or name not in {*names, MANIFEST} or name in found:
                    raise UserError(
                        f"model.tar.gz holds {member.name!r}, which no job of ours makes"
                    )
                if size > LIMIT:
                    raise UserError("model.tar.gz unpacks to more than any model has")
                source = tar.extractfile(member)
                assert source is not None
                found[name] = folder / name
                with source, found[name].open("wb") as target:
                    shutil.copyfileobj(source, target)
        manifest = json.loads(found.pop(MANIFEST).read_bytes())
        digests, code = dict(manifest["outputs"]), dict(manifest["code"])
        outputs = {names[name]: path for name, path in found.items()}
        damaged = [name for name in OUTPUTS if _sha256(outputs[name]) != digests[name]]
    except (tarfile.TarError, EOFError, zlib.error, ValueError, TypeError, KeyError) as error:
        raise UserError(f"model.tar.gz is not whole, or not ours ({error!r})") from error
    if damaged:
        raise UserError(f"model.tar.gz is damaged: {', '.join(damaged)}; fetch it again")
    return outputs, code


def _other_parameters(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [
        f"{section}.{key} = {value!r}, but {here.get(section, {}).get(key)!r} in params.yaml"
        for section, values in there.items()
        for key, value in values.items()
        if value != here.get(section, {}).get(key)
    ]


def _other_data(there: str, params: Params) -> list[str]:
    if Prepared.open(params).digest == there:
        return []
    return ["data/prepared: `dvc repro prepare` with the data of that time"]


def _other_code(there: Mapping[str, str]) -> list[str]:
    """The files that DVC would record as what trained this model, but were not."""
    stages = YAML(typ="safe").load(Path("dvc.yaml").read_bytes())["stages"]
    declared = [name for name in stages["train"]["deps"] if str(name).startswith("src/")]
    files: set[str] = set()
    for name in declared:
        here = Path(name)
        files.update(map(str, here.rglob("*.py")) if here.is_dir() else [name])
        files.update(path for path in there if path.startswith(f"{name}/"))
    return [
        f"{name}: `git checkout` the commit that was submitted (it is among the job's tags)"
        for name in sorted(files)
        if not Path(name).is_file() or _sha256(Path(name)) != there.get(name)
    ]


def _commit() -> None:
    """Have DVC record the outputs, and as their dependencies what is here: it is the job's."""
    words = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet", "train"]
    if subprocess.run(words, check=False).returncode:
        raise EnvironmentFault(
            "the model is in its place, but `dvc commit --force train` failed (see above): mend"
            " that, and type it again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

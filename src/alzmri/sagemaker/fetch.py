"""A finished job's model into its place, as if the stage train had run here."""

import gzip
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

from alzmri import terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.files import replacing
from alzmri.params import Params
from alzmri.sagemaker import aws, job, request, settings
from alzmri.sagemaker.aws import Answer
from alzmri.sagemaker.container import OUTPUTS
from alzmri.sagemaker.request import Work


def train_there(params: Params) -> None:
    """The stage train as a job: what ``compute.train_on: sagemaker`` does.

    A job of the same code, data and parameters that is under way or complete is taken, not made
    again: killed and started again, the stage goes on following. Stopped, it leaves the job.

    Raises:
        UserError: when sagemaker.yaml lacks something.
        EnvironmentFault: when the job failed or was stopped.
    """
    wanted = settings.require(settings.load())
    session = aws.session(wanted.region)
    work = request.gather(wanted, params)
    name = job.submit(session, wanted, work)
    terminal.say(f"job {name}: {job.console(wanted.region, name)}")
    bring(session, job.follow(session, name), work)


def fetch(session: Any, found: Answer, work: Work) -> Mapping[str, Any]:
    """:func:`bring`, and have DVC record it as made of what is here; the scores.

    Raises:
        EnvironmentFault: also when DVC fails.
    """
    scores = bring(session, found, work)
    words = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet", "train"]
    if subprocess.run(words, check=False).returncode:
        raise EnvironmentFault(
            "the model is in its place, but `dvc commit --force train` failed (see above): correct"
            " that, and type it again"
        )
    return scores


def bring(session: Any, found: Answer, work: Work) -> Mapping[str, Any]:
    """Bring the outputs of the job ``found`` into the working tree; its scores.

    Raises:
        UserError: when the job is not done, its archive is damaged, or it trained with other data,
            parameters or code than ``work``, which is here. Nothing is changed then.
        EnvironmentFault: when the job failed.
    """
    name, status = found["TrainingJobName"], found["TrainingJobStatus"]
    job.require_success(found)
    if status != "Completed":
        raise UserError(f"{name} is {status}: `alzmri sagemaker logs {name} --follow`")
    if differences := work.differences(dict(found)):
        lines = [f"  {difference}" for difference in differences]
        raise UserError("\n".join([f"{name} trained with something else:", *lines]))
    temporary = Path(".dvc/tmp")
    temporary.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="sagemaker-", dir=temporary) as place:
        folder = Path(place)
        aws.download(session.client("s3"), job.artifact(found), folder / "model.tar.gz")
        for output, path in unpack(folder / "model.tar.gz", folder).items():
            with replacing(Path(output)) as draft:
                shutil.move(path, draft)
    scores: dict[str, Any] = json.loads(Path("metrics/train.json").read_bytes())
    return scores


def unpack(archive: Path, folder: Path) -> dict[str, Path]:
    """The stage's outputs from ``archive``, in ``folder``, each under its last name.

    Only files of these names are taken, so that no member can leave ``folder``.

    Raises:
        UserError: when something is missing or damaged.
    """
    outputs = {name: folder / Path(name).name for name in OUTPUTS}
    try:
        with gzip.open(archive) as content, tarfile.open(fileobj=content) as tar:
            for member in tar:
                path = folder / member.name.removeprefix("./")
                if member.isreg() and path in outputs.values():
                    source = tar.extractfile(member)
                    assert source is not None
                    with source, path.open("wb") as target:
                        shutil.copyfileobj(source, target)
            while content.read(1 << 20):
                pass  # to its checksum
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"model.tar.gz is damaged ({error}): fetch it again") from error
    if missing := [name for name, path in outputs.items() if not path.is_file()]:
        raise UserError(f"model.tar.gz has no {', '.join(missing)}: no job of ours made it")
    return outputs

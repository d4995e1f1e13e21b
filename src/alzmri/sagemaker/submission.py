"""From the working tree to a running job: what is sent, and the sending."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alzmri.errors import UserError
from alzmri.params import Params
from alzmri.sagemaker import bundle, request, staging
from alzmri.sagemaker.bundle import Bundle
from alzmri.sagemaker.job import Service, create
from alzmri.sagemaker.request import Addresses
from alzmri.sagemaker.settings import Settings


@dataclass(frozen=True)
class Submission:
    """All that one job needs, gathered and checked; nothing is sent yet.

    Attributes:
        request: for the service.
        places: where the parts go.
        code: the packed code.
        prepared: the files of data/prepared that training reads.
    """

    request: dict[str, Any]
    places: Addresses
    code: Bundle
    prepared: dict[str, Path]

    @property
    def name(self) -> str:
        """Of the job."""
        return str(self.request["TrainingJobName"])


def gather(settings: Settings, params: Params, label: str | None) -> Submission:
    """What the job ``label`` of this repository sends; a name is found when there is none.

    Raises:
        UserError: when data/prepared is not there or of other parameters, the code may hold a
            secret, the service would not take the name, or training starts from another model.
    """
    if params.train.init:
        raise UserError(
            f"train.init = {params.train.init}: a job on SageMaker cannot start from another model:"
            " set it to '', or train here"
        )
    prepared = staging.prepared_files(params)
    code = bundle.pack(Path())
    places = request.addresses(settings, params, code, staging.digest(prepared))
    name = request.named(label) if label is not None else request.job_name(code.commit)
    return Submission(request.build(settings, params, code, places, name), places, code, prepared)


def send(service: Service, settings: Settings, wanted: Submission) -> None:
    """Upload what is not there yet, then make the job."""
    staging.require_bucket(service.s3, settings.bucket, settings.region)
    staging.upload(service.s3, wanted.places.prepared, wanted.prepared)
    entry = Path(__file__).with_name("entry.py").read_bytes()
    code: dict[str, Path | bytes] = {"code.tar.gz": wanted.code.archive, "entry.py": entry}
    staging.upload(service.s3, wanted.places.code, code)
    create(service, wanted.request)

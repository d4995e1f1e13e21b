"""The model that a training starts from: ``train.init``."""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from alzmri.data.prepared import Prepared
from alzmri.errors import LeakError, UserError
from alzmri.models import saved
from alzmri.params import Params


@dataclass(frozen=True)
class Initial:
    """A model to start from."""

    card: saved.Card
    weights: dict[str, Tensor]  # by name, on the CPU; without the last layer for other classes
    digest: str  # SHA-256 of its model.safetensors
    description: str  # one line


def find(params: Params, prepared: Prepared) -> Initial | None:
    """The model that ``train.init`` names: in a folder, else in a revision of the repository.

    A revision is an experiment's name, a registered version such as ``alzmri@v0.1.0``, or any other
    name that git knows. Returns None if ``train.init`` is empty.

    Raises:
        UserError: there is no such model, or it has another architecture or input size.
        LeakError: it was trained on subjects of the validation or test part.
    """
    if not params.train.init:
        return None
    name = f"train.init = {params.train.init}"
    # The repository, even if the experiment runs in a temporary copy.
    root = Path(os.environ.get("DVC_ROOT", "")).resolve()
    folder = (root / Path(params.train.init).expanduser()).resolve()
    if folder in (root / saved.MODELS, saved.MODELS.resolve()):
        raise UserError(
            f"{name}: training overwrites that folder: copy it and name the copy, or name its"
            " experiment"
        )
    with TemporaryDirectory() as temporary:
        if not (folder / "model.json").is_file():
            folder = Path(temporary)
            _fetch(root, params.train.init, folder)
        model, card = saved.load(folder)
        digest = saved.digest(folder)
    architecture, size = card.architecture["name"], card.architecture["image_size"]
    if (architecture, size) != (params.model.name, params.data.image_size):
        raise UserError(
            f"{name}: that model is {architecture} for {size} pixels, but this training is"
            f" {params.model.name} for {params.data.image_size}: set model.name={architecture} and"
            f" data.image_size={size}, or start from another"
        )
    held_out = prepared.subjects("val") | prepared.subjects("test")
    shared = card.shared_subjects(held_out)
    if shared and params.split.unit == "subject":
        raise LeakError(
            f"{name}: {shared} of {len(held_out)} validation and test subjects have the names of"
            " subjects that this model was trained on: the scores would measure recognition of"
            " them. Start from a model of the same split or of other subjects"
        )
    weights = model.state_dict()
    description = f"starts from {params.train.init} (weights {digest[:16]})"
    if card.classes != list(prepared.classes):
        last = f"classifier.{len(model.classifier) - 1}"
        del weights[f"{last}.weight"], weights[f"{last}.bias"]
        description += f"; the last layer is new, as its classes were {', '.join(card.classes)}"
    return Initial(card, weights, digest, description)


def _fetch(root: Path, revision: str, folder: Path) -> None:
    """Copy the model of ``revision`` from DVC's cache, or else from its remote."""
    from dvc.api import DVCFileSystem  # takes a second
    from dvc.exceptions import DvcException

    try:
        files = DVCFileSystem(str(root), rev=revision)
        for file in ("model.json", "model.safetensors"):
            files.get_file(f"{saved.MODELS}/{file}", str(folder / file))
    except (DvcException, OSError) as error:
        raise UserError(
            f"train.init = {revision}: no folder, experiment, registered version or other revision"
            f" of that name has a model ({str(error).splitlines()[0]}): see `dvc exp list` and `gto"
            " show`; `dvc fetch` and `dvc pull` fetch missing files"
        ) from None

"""A trained model on disk: ``model.safetensors`` and ``model.json``, never a pickle."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from alzmri.errors import UserError
from alzmri.files import write_bytes, write_json
from alzmri.models.architectures import STRIDE_AND_PADDING, Network, build

MODELS = Path("models")


def subject_digest(subject: str) -> str:
    """The subject's digest for ``model.json``, which may be published, unlike names."""
    return hashlib.sha256(subject.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Card:
    """``model.json``: everything needed to use the weights and to know their origin."""

    architecture: dict[str, Any]  # the arguments of `build`
    # The order of the model's outputs, least severe first.
    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    preprocessing: dict[str, Any]  # the steps from a slice to the model's input
    parameters: dict[str, Any]  # the validated params.yaml of the run
    training_subjects: list[str]  # digests, sorted
    data_sha256: str  # digest of the prepared data
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]  # divides the logits
    versions: dict[str, str]  # of the packages that computed the weights
    run: str = ""  # the fingerprint of the training, its id on W&B; empty in older models
    # Epochs, the best one, number of weights, the model that it started from, device, precision.
    training: dict[str, Any] = field(default_factory=dict)

    def shared_subjects(self, subjects: Iterable[str]) -> int:
        """The number of ``subjects`` that the model was trained on."""
        return len(set(map(subject_digest, subjects)) & set(self.training_subjects))


def save(directory: Path, weights: dict[str, Tensor], card: Card) -> None:
    """Write both files, each atomically."""
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    # safetensors' own file writing raises another kind of error on a full disk.
    write_bytes(directory / "model.safetensors", serialize(contiguous))
    write_json(directory / "model.json", asdict(card))


def digest(directory: Path = MODELS) -> str:
    """SHA-256 of the weights in ``directory``."""
    with (directory / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(directory: Path = MODELS) -> tuple[Network, Card]:
    """The model in ``directory``, on the CPU, and its card.

    Raises:
        UserError: there is no model, a value is impossible, or the two files do not belong
            together.
    """
    try:
        card = TypeAdapter(Card).validate_json((directory / "model.json").read_bytes())
        outputs, size = card.architecture["classes"], card.architecture["image_size"]
        if not outputs == len(card.classes) == len(set(card.classes)):
            raise ValueError(f"model.json: {outputs} outputs for the classes {card.classes}")
        if size not in STRIDE_AND_PADDING:  # another architecture may take any amount of memory
            raise ValueError(f"model.json: image_size {size}")
        if not 0 <= card.architecture["dropout"] <= 1:
            raise ValueError(f"model.json: dropout {card.architecture['dropout']}")
        model = build(**card.architecture)
        expected, weights = model.state_dict(), load_file(directory / "model.safetensors")
        for name, tensor in weights.items():
            if tensor.dtype != expected.get(name, tensor).dtype:
                raise ValueError(f"model.safetensors: {name} has the type {tensor.dtype}")
            least = tensor.min() if name.endswith("running_var") else 0
            if not torch.isfinite(tensor).all() or least < 0:
                raise ValueError(f"model.safetensors: {name} has NaN or infinite values")
        model.load_state_dict(weights)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"no trained model in {directory}/: run `dvc repro train`, or `dvc pull` to fetch one"
        ) from None
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"model.json: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(
            f"the model in {directory}/ is damaged ({reason}): run `dvc checkout -f models`"
            " or `dvc repro -f train`"
        ) from None
    return model, card

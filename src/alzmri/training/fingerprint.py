"""What identifies a training run."""

import hashlib
import json
from pathlib import Path

import torch

import alzmri
from alzmri.data.prepared import Prepared
from alzmri.models.device import bfloat16
from alzmri.params import Params
from alzmri.training.initial import Initial

CODE = ("training", "models", "data/prepared.py")
"""What shapes the weights: after a change here a run starts from zero, by another name."""


def fingerprint(
    params: Params, prepared: Prepared, device: torch.device, initial: Initial | None = None
) -> str:
    """What identifies a run, 16 hexadecimal digits.

    Of parameters, data, code, device, precision, and the weights and classes of ``initial``.

    Runs alike in all of them end with the same weights on the same machine, so that one may go on
    where the other stopped. How often to checkpoint, what to keep and who computes does not matter.
    """
    matters = params.model_dump(
        mode="json",
        include={"data", "split", "augment", "model", "train", "compute"},
        exclude={"train": {"checkpoint_every", "keep_last"}, "compute": {"train_on"}},
    )
    digest = hashlib.sha256()
    machine = (torch.__version__, device.type, bfloat16(params.train.precision, device))
    start = initial and (initial.digest, initial.card.classes)
    for part in (matters, prepared.digest, *machine, start):
        digest.update(json.dumps(part, sort_keys=True).encode())
    package = Path(alzmri.__file__).parent
    for name in CODE:
        path = package / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]

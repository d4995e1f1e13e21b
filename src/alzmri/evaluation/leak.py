"""Whether scores leak: one rule for the card, figures, reports, the server and the endpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alzmri.errors import UserError

WORDS = ("", "MAY LEAK", "LEAKS")  # the worst last


def leaks(split: Mapping[str, Any]) -> str:
    """One of ``WORDS``; ``split`` is that of ``models/evaluation.json``, from `check_leak`.

    ``LEAKS``: test subjects were in training, or subjects are unknown; ``MAY LEAK``: a subject may
    be in several groups of images.
    """
    if split.get("several_groups"):
        return "MAY LEAK"
    return "LEAKS" * (split.get("unit") == "slice" or split.get("shared_subjects", 0) != 0)


def of_model(folder: Path, unit: str) -> str:
    """:func:`leaks` for the model in ``folder``; ``unit`` is that of its split.

    Raises UserError if its ``evaluation.json``, which may be missing, is damaged.
    """
    path = folder / "evaluation.json"
    try:
        split = json.loads(path.read_bytes())["split"] if path.is_file() else {}
        return leaks({**split, "unit": unit})
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{path} is damaged: run `dvc checkout -f models`") from None

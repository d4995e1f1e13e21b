"""The run in this workspace, as one table."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from alzmri import registry, terminal
from alzmri.errors import UserError


def show(root: Path = Path()) -> None:
    """Print the metrics of the workspace and where its plots are.

    Raises:
        UserError: when the pipeline has not run here.
    """
    prepare, train, evaluate = (
        _read(root / "metrics" / f"{stage}.json") for stage in ("prepare", "train", "evaluate")
    )
    try:
        _show(prepare, train, evaluate)
    except (KeyError, TypeError):
        raise UserError("metrics/ is of another version: run `dvc repro`") from None


def _show(prepare: Any, train: Any, evaluate: Any) -> None:
    leaks = evaluate["split"]["unit"] == "slice"
    table = Table(title="Test set" + (" (slice split: LEAKS)" if leaks else ""))
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column("95 % over people", justify="right")
    for key, name in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        low, high = evaluate["ci95"][key]
        table.add_row(name, f"{evaluate[key]:.3f}", f"{low:.3f} to {high:.3f}")
    table.add_row("balanced accuracy", f"{evaluate['balanced_accuracy']:.3f}")
    table.add_row("loss", f"{evaluate['loss']:.3f}")
    subject = evaluate["subject"]
    low, high = subject["ci95"]["macro_f1"]
    table.add_row(
        f"macro F1 per person (n={subject['n']})",
        f"{subject['macro_f1']:.3f}",
        f"{low:.3f} to {high:.3f}",
    )
    terminal.out.print(table)
    calibration = evaluate["calibration"]
    before, after = calibration["before"]["ece"], calibration["after"]["ece"]
    _right, neighbouring, *further = (off["slices"] for off in evaluate["stages_off"].values())
    terminal.out.print(
        f"calibration error {before:.3f}; {after:.3f} at temperature"
        f" {calibration['temperature']:.2f}, fitted on validation\n"
        f"mistakes: {neighbouring} slices in a neighbouring stage, {sum(further)} further off"
    )
    shared = evaluate["split"]["shared_subjects"]
    terminal.out.print(
        f"{prepare['images']} images of {prepare['subjects']} people;"
        f" best epoch {train['best_epoch']} of {train['epochs']};"
        f" test people seen in training: {shared}"
    )
    if version := registry.version():
        terminal.out.print(f"registered as {version}")
    terminal.out.print(
        "plots/   confusion.png  roc.png  reliability.png  mistakes.png  classes.png"
        "  subjects.png\n"
        "metrics/ evaluate.json  train.json  prepare.json     models/ MODEL_CARD.md\n"
        "next:    . .venv/bin/activate && dvc exp run -S train.lr=0.0005 -S train.momentum=0.85"
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} not found: run `dvc repro` first, in the root of the repository"
        ) from None
    except ValueError:
        raise UserError(f"{path} is not valid JSON: run `dvc repro` again") from None

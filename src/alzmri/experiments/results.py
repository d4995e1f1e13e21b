"""The run in this workspace, as one table."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from alzmri import registry, terminal
from alzmri.errors import UserError
from alzmri.experiments.metrics import METRICS, number
from alzmri.experiments.runs import Workspace

_SHOWN = ("macro_f1", "accuracy", "balanced_accuracy", "loss", "macro_auc", "subject.macro_f1")
_NEXT = """\
plots:   plots/*.png; in a browser with the curves: dvc plots show; the model: models/MODEL_CARD.md
next:    . .venv/bin/activate && dvc exp run -S train.lr=0.0005 -S train.momentum=0.85
         alzmri review HEAD says whether that is better; dvc exp show --only-changed lists them"""


def show(*, as_json: bool = False) -> None:
    """Print the numbers of the workspace, and where its plots are.

    Raises:
        UserError: when the pipeline has not run here.
    """
    run = Workspace()
    try:
        test, prepare = run.evaluation, run.summary
        content = {
            "scores": {key: number(run.score(key)) for key in METRICS},
            "ci95": test["ci95"]
            | {f"subject.{key}": bounds for key, bounds in test["subject"]["ci95"].items()},
            "leaks": run.leaks,
            "test_subjects": test["subject"]["n"],
            "test_subjects_in_training": test["split"]["shared_subjects"],
            "images": prepare["images"],
            "subjects": prepare["subjects"],
            "best_epoch": run.training["best_epoch"],
            "calibration": test["calibration"],
            "stages_off": test["stages_off"],
            "version": registry.version(Path("models")),
        }
    except (LookupError, TypeError, ValueError):
        raise UserError("the results are damaged or of another version: run `dvc repro`") from None
    if as_json:
        terminal.say(json.dumps(content, indent=2))
    else:
        _show(content)


def _show(content: dict[str, Any]) -> None:
    table = Table(title="Test set" + (" (this split LEAKS)" if content["leaks"] else ""))
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column("95 % over subjects", justify="right")
    for key in _SHOWN:
        value, bounds = content["scores"][key], content["ci95"].get(key)
        shown = f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else ""
        table.add_row(METRICS[key], "undefined" if value is None else f"{value:.3f}", shown)
    terminal.out.print(table)
    calibration = content["calibration"]
    before, after = calibration["before"]["ece"], calibration["after"]["ece"]
    _right, neighbouring, *further = (off["slices"] for off in content["stages_off"].values())
    terminal.out.print(
        f"calibration error {before:.3f}; {after:.3f} at temperature"
        f" {calibration['temperature']:.2f}, fitted on validation\n"
        f"mistakes: {neighbouring} slices in a neighbouring stage, {sum(further)} further off\n"
        f"{content['images']} images of {content['subjects']} subjects; best epoch"
        f" {content['best_epoch']}; {content['test_subjects']} test subjects,"
        f" {content['test_subjects_in_training']} of them seen in training"
    )
    if content["version"]:
        terminal.out.print(f"registered as {content['version']}")
    terminal.out.print(_NEXT)

"""The run in this workspace: its scores, and whether it equals the committed run."""

import json
import platform

from rich.table import Table

from alzmri import git, terminal
from alzmri.errors import UserError
from alzmri.experiments.finished_runs import METRICS, FinishedRun, Workspace, number

_SHOWN = ("macro_f1", "accuracy", "balanced_accuracy", "loss", "macro_auc", "subject.macro_f1")
_NEXT = """\
plots:   plots/*.png; in a browser with the curves: dvc plots show; the model: models/MODEL_CARD.md
next:    . .venv/bin/activate && dvc exp run -S train.lr=0.0005 -S train.momentum=0.85
         alzmri review HEAD says whether it is better; dvc exp show --only-changed lists them"""
_COMMIT = (
    '\ncommit:  `git commit -am "my baseline"` makes this run your baseline for `dvc metrics'
    " diff`, `dvc plots diff` and `alzmri review`"
)


def show(*, as_json: bool = False) -> None:
    """Print the scores of the workspace and the paths of its plots."""
    run = Workspace()
    try:
        test, subject = run.evaluation, run.evaluation["subject"]
        content = {
            "scores": {key: number(run.score(key)) for key in METRICS},
            "ci95": test["ci95"] | {f"subject.{k}": ends for k, ends in subject["ci95"].items()},
            "leaks": bool(run.leaks),
            "test_subjects": subject["n"],
            "test_subjects_in_training": run.shared_subjects,
            "images": run.summary["images"],
            "subjects": run.summary["subjects"],
            "best_epoch": run.training["best_epoch"],
            "version": git.version(),
        }
    except (LookupError, TypeError, ValueError):
        raise UserError("the results are damaged or of another version: run `dvc repro`") from None
    if as_json:
        terminal.say(json.dumps(content, indent=2))
        return
    title, over, whose = "Test set", "subjects", f"{content['subjects']} subjects"
    seen = "unknown how many" if run.shared_subjects is None else run.shared_subjects
    tested = f"{subject['n']} test subjects, {seen} of them seen in training"
    if run.leaks:
        unknown = "subjects unknown, " * (subject["n"] is None)
        title += f" ({unknown}this split {run.leaks})"
    if subject["n"] is None:
        over, whose, tested = "slices", "unknown subjects", "nothing is known about new subjects"
    table = Table("score", "value", f"95 % over {over}", title=title)
    for key in _SHOWN:
        value, ends = content["scores"][key], content["ci95"].get(key)
        bounds = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
        table.add_row(METRICS[key], "undefined" if value is None else f"{value:.3f}", bounds)
    terminal.out.print(table)
    version = f"\nregistered as {content['version']}" if content["version"] else ""
    terminal.out.print(
        f"{content['images']} images of {whose}; best epoch {content['best_epoch']}; {tested}"
        f"{version}\n{_NEXT}"
    )


def verdict() -> str:
    """The last lines of `make repro`: whether this is the committed run, or why not."""
    if git.show("HEAD", "dvc.lock") is None:
        return f"no run is committed yet.{_COMMIT.replace('`git', '`git add --all && git', 1)}"
    before, here = FinishedRun("HEAD", git.head(), is_experiment=False), Workspace()
    changed = {
        f"the command of {stage}" if name == "cmd" else name
        for stage, found in before.changes(here, parameters=True).items()
        for name in found
    }
    if changed:
        names = ", ".join(sorted(changed))
        return f"this run differs from the committed one: {names} changed.{_COMMIT}"
    files = [path for path, md5 in here.outputs.items() if before.outputs.get(path) != md5]
    if not files:
        return f"the committed run ({before.commit[:7]}) was reproduced byte for byte"
    shown = ", ".join(files[:4]) + f" and {len(files) - 4} more" * (len(files) > 4)
    device = json.loads(here.read("models/model.json"))["training"]["device"]
    return (
        f"the committed experiment gave other bytes here: {shown}.\n"
        f"why:     this is {platform.machine()}, and the training ran on {device}. Bytes agree on"
        " x86-64 without a GPU, with compute.portable and the versions of requirements.txt:"
        f" `make portable` tests this machine.{_COMMIT}"
    )

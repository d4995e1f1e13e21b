"""Studies that the documentation reports; one is the published protocol, which LEAKS.

They set every value that matters, so that a new default in params.yaml changes no reported result.
"""

import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from alzmri import git, params, terminal
from alzmri.classes import CLASSES
from alzmri.evaluation.markdown import records
from alzmri.experiments import runner
from alzmri.experiments.finished_runs import METRICS, FinishedRun, Group, finished
from alzmri.experiments.report_page import Role, plot_epochs
from alzmri.experiments.runner import Experiment, Runner, Settings
from alzmri.figure import drawing
from alzmri.files import write_bytes
from alzmri.models.architectures import build
from alzmri.params import Params

PAGE = Path("docs/results.md")

COMMON = """\
data.fit=pad data.permute_labels=false split.subjects=auto split.seed=0 augment.p=0.2
augment.shift=0.05 augment.scale=0.05 augment.rotate=15 model.name=alexnet model.dropout=0.5
train.weight_decay=0.0001 train.warmup=0 train.label_smoothing=0.0 train.ema=0.0
train.precision=auto train.patience=0 train.seed=0 train.init='' evaluate.temperature=true """

Scale = tuple[Settings, str]  # settings for the size of a study, and their description on the page
PROTOCOL_SCALES: Mapping[str, Scale] = {
    "full": ({"data.image_size": 224, "train.batch_size": 128, "train.epochs": 100}, ""),
    "scaled": (
        {"data.image_size": 128, "train.batch_size": 32, "train.epochs": 15},
        "Scaled for a machine without a GPU: 128 px instead of 224; batches of 32 instead of 128"
        " and 15 epochs instead of 100, which are 0.6 of the steps on 15 % of the images.",
    ),
}
PROTOCOL = """\
data.merge=none split.unit=slice split.folds=0 train.schedule=constant train.class_weights=none"""
VARIANTS: Mapping[Role, Settings] = {
    "baseline": {"train.lr": 0.0001, "train.momentum": 0.9},
    "best": {"train.lr": 0.0005, "train.momentum": 0.85},
}
"""The protocol's two settings; all others are equal."""

_CORE, _GPU = 6_000, 1_000_000
"""Images per second that a core or a GPU trains on, times the image size: roughly."""
_OTHER_SECONDS, _OTHER_BYTES = 40, 1_500_000
"""Seconds and bytes per experiment besides training and model: other stages; pictures, tables."""


class Study(NamedTuple):
    """The request for a study: collection, size, the user's settings, concurrent ``jobs``."""

    source: str
    scale: Scale
    overrides: Settings
    jobs: int = 1

    def settings(self, usual: str) -> dict[str, object]:
        """The settings of all experiments: ``COMMON``, the study's ``usual`` ones, the user's."""
        ours = {"data.source": self.source, **runner.parse_settings((COMMON + usual).split())}
        return {**ours, **self.scale[0], **self.overrides}

    def run(self, experiments: Sequence[Experiment]) -> list[FinishedRun]:
        """Print the cost of ``experiments``, run the missing ones; return all, in order.

        It replaces experiments of the same name with other parameters or code. Raises UserError
        before anything runs when settings are wrong, EnvironmentFault at the end when some failed.
        """
        running = Runner(self.jobs, len(experiments), "macro_f1")
        start = f"refs/exps/{running.baseline[:2]}/{running.baseline[2:]}"
        outdated = running.outdated({one.name: one for one in experiments})
        done = finished(running.baseline).keys() - {*outdated}
        missing = [one.params for one in experiments if one.name not in done]
        for name in outdated:
            git.run("update-ref", "-d", f"{start}/{name}")
        count, jobs = len(missing), self.jobs
        terminal.say(f"{len(experiments)} experiments, {count} of them to run, {jobs} at once")
        for line in (missing and _cost(missing[0], count, jobs), self.scale[1]):
            if line:
                terminal.say(line)
        results = running.run(experiments)
        running.complain()
        return results

    def report(self, name: str, title: str, done: Sequence[FinishedRun], *paragraphs: str) -> None:
        """Write the results of the study ``name``, its ``done`` runs, as a section of ``PAGE``."""
        heading = (f"## {self.source}: {title}", f"{_provenance(done)} {self.scale[1]}".strip())
        write_section(f"{name} {self.source}", "\n\n".join((*heading, *paragraphs)))
        tables = [paragraph for paragraph in paragraphs if paragraph.startswith("|")]
        terminal.out.print(tables[0], markup=False)
        figure = f"docs/{name}-{self.source}.png"
        terminal.say(f"written: {PAGE}, {figure}; the experiments: dvc exp show")


def asked(
    source: str | None, size: str, scales: Mapping[str, Scale], jobs: int, words: Sequence[str]
) -> Study:
    """Read the command line; ``size`` is full, scaled, or auto: full on a GPU."""
    source = source or params.load().data.source
    runner.require_source(source)
    if size == "auto":
        size = "full" if torch.cuda.is_available() else "scaled"
    overrides = {**runner.on_this_machine(jobs), **runner.parse_settings(words)}
    sizes, said = scales[size]
    # The user's own sizes stand in the command, which the page quotes.
    return Study(source, (sizes, "" if sizes.keys() & overrides.keys() else said), overrides, jobs)


def _cost(used: Params, count: int, jobs: int) -> str:
    """The time and disk space of ``count`` experiments like ``used``, in words."""
    size, source = used.data.image_size, used.data.source
    tracked = Path(f"data/{source}.dvc")
    if source == "phantom":
        images = 4 * used.phantom.subjects * used.phantom.slices
    elif tracked.exists():
        images = sum(map(int, re.findall(r"nfiles: (\d+)", tracked.read_text())))
    else:
        images = sum(path.is_file() for path in Path("data", source).rglob("*"))
    # Any usual number of classes will do: the last layer is a small part of the weights.
    model = build(used.model.name, classes=len(CLASSES), image_size=size, dropout=0.0)
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    speed = (_GPU if torch.cuda.is_available() else _CORE * (os.cpu_count() or 1)) / size
    training = images * used.split.fractions[0] * used.train.epochs / speed
    hours, minutes = divmod(round(count * (training + _OTHER_SECONDS / jobs) / 60) or 1, 60)
    return (
        f"roughly {f'{hours} h ' * bool(hours)}{minutes} min on this machine; DVC's cache grows"
        f" by about {(count * (weights + _OTHER_BYTES) + images * size**2) / 1e9:.1f} GB"
    )


def write_section(name: str, content: str, page: Path = PAGE) -> None:
    """Replace the section ``name`` of ``page`` by ``content``; add it at the end if it is new."""
    begin, end = f"<!-- {name}: written by a command, do not edit -->", f"<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    before, known, rest = text.partition(begin)
    before = before if known else f"{text.rstrip()}\n\n"
    after = rest.partition(end)[2] if known else "\n"
    write_bytes(page, f"{before}{begin}\n{content.strip()}\n{end}{after}".encode())


def _provenance(done: Sequence[FinishedRun]) -> str:
    """Command, date, code, machine and versions of the runs, in one sentence."""
    # Not HEAD: the last commit of a user is often only the import of a collection.
    commit = git.run("log", "-1", "--format=%h", "--", "src", "dvc.yaml").strip()
    date = max(git.run("show", "-s", "--format=%cs", *(run.commit for run in done)).split())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    split, training = (
        ", ".join(map(str, sorted({run.settings[key] for run in done})))
        for key in ("split.seed", "train.seed")
    )
    return (
        f"`{shlex.join(['alzmri', *sys.argv[1:]])}`, {date}, code of commit {commit},"
        f" {os.cpu_count()} CPU cores ({platform.machine()}, {gpu}), torch {torch.__version__},"
        f" seed of split {split}, of training {training}."
    )


def protocol_planned(study: Study) -> list[Experiment]:
    """The protocol's experiments, in the order of ``VARIANTS``; what the user sets wins."""
    usual = study.settings(PROTOCOL)
    return [
        Experiment(f"protocol-{study.source}-{name}", {**usual, **values, **study.overrides})
        for name, values in VARIANTS.items()
    ]


def protocol(study: Study) -> None:
    """Run the missing variants, write the section of docs/results.md."""
    done = study.run(protocol_planned(study))
    figure = Path(f"docs/protocol-{study.source}.png")
    curves = [(Group(name, [run]), name) for name, run in zip(VARIANTS, done, strict=True)]
    with drawing(figure, 7.2, 3.3) as whole:
        parts: Any = whole.subfigures(1, 2)
        for part, column in zip(parts, ("val_accuracy", "val_macro_f1"), strict=True):
            plot_epochs(part, curves, column)
    study.report(
        "protocol",
        "the protocol, which LEAKS",
        done,
        "Slices are split 70/15/15, not subjects: the test subjects are in training too. Only for"
        " comparison with the literature.",
        records([_protocol_row(name, run) for name, run in zip(VARIANTS, done, strict=True)]),
        f"![Validation scores by epoch: this split leaks]({figure.name})",
    )


def _protocol_row(name: str, run: FinishedRun) -> dict[str, str]:
    tested = sum(count["images"] for count in run.summary["split"]["test"].values())
    near = run.summary["leak"]["test_images_with_training_near_duplicate"]
    known = f"{run.shared_subjects} of {run.evaluation['subject']['n']}"
    known = "subjects unknown" if run.shared_subjects is None else known
    lr, momentum = run.settings["train.lr"], run.settings["train.momentum"]
    return {
        "slice split, LEAKS": f"{name}: lr {lr:g}, momentum {momentum:g}",
        **{METRICS[metric]: run.shown(metric) for metric in ("accuracy", "macro_f1", "loss")},
        "best epoch": run.best_epoch,
        "test subjects also in training": known,
        "test slices with a near-duplicate in training": f"{near} of {tested}",
    }

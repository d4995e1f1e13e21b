"""Studies that the documentation reports: what they run, and the page that they write.

Every value that matters is spelt out: a default that changes in params.yaml must not change what
the documentation reports.
"""

import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from alzmri import git, params, terminal
from alzmri.classes import CLASSES
from alzmri.experiments import runs
from alzmri.experiments.runner import Runner
from alzmri.experiments.runs import Experiment, FinishedRun, Settings, parse_settings
from alzmri.files import write_bytes
from alzmri.models.architectures import build
from alzmri.params import Params

PAGE = Path("docs/results.md")

COMMON = """\
data.fit=pad data.permute_labels=false split.subjects=auto split.seed=0 augment.p=0.2
augment.shift=0.05 augment.scale=0.05 augment.rotate=15 model.name=alexnet model.dropout=0.5
train.weight_decay=0.0001 train.warmup=0 train.label_smoothing=0.0 train.ema=0.0
train.precision=auto train.patience=0 train.seed=0 train.init='' evaluate.temperature=true """

_CORE, _GPU = 6_000, 1_000_000
"""Images that one of these trains on in a second, divided by the image's size: roughly."""
_OTHER_SECONDS, _OTHER_BYTES = 40, 1_500_000
"""What each experiment takes besides training and model: other stages; pictures and tables."""


class Scale(NamedTuple):
    """How large a study is run, and what its page says of that."""

    settings: Settings
    note: str = ""


Scales = Mapping[Literal["full", "scaled"], Scale]


class Study(NamedTuple):
    """What a study is asked for: its collection, size, what the user sets, and ``jobs`` at once."""

    source: str
    scale: Scale
    overrides: Settings
    jobs: int = 1

    def settings(self, usual: str) -> dict[str, object]:
        """What all experiments set: ``COMMON``, what is ``usual`` in the study, and the user's."""
        ours = {"data.source": self.source, **parse_settings((COMMON + usual).split())}
        return {**ours, **self.scale.settings, **self.overrides}

    def run(self, experiments: Sequence[Experiment]) -> list[FinishedRun]:
        """Say what ``experiments`` take, run those that are missing; return all, in order.

        One of such a name with other parameters or code is replaced.

        Raises:
            UserError: before anything runs, with all that is wrong with the settings.
            EnvironmentFault: at the end, when experiments failed.
        """
        runner = Runner(self.jobs, len(experiments), "macro_f1")
        finished, missing = runs.finished(runner.baseline), []
        for name, used in [(experiment.name, experiment.params) for experiment in experiments]:
            if name not in finished or not finished[name].is_of(used):
                missing.append(used)
                start = f"refs/exps/{runner.baseline[:2]}/{runner.baseline[2:]}"
                git.lines("update-ref", "-d", f"{start}/{name}")  # where there is one
        count = len(missing)
        terminal.say(f"{len(experiments)} experiments, {count} of them to run, {self.jobs} at once")
        for line in (missing and _cost(missing[0], count, self.jobs), self.scale.note):
            if line:
                terminal.say(line)
        results = runner.run(experiments)
        runner.complain()
        return results

    def report(self, name: str, title: str, done: Sequence[FinishedRun], *paragraphs: str) -> None:
        """Write what the study ``name`` found in its ``done`` runs as a section of ``PAGE``."""
        heading = (f"## {self.source}: {title}", f"{_provenance(done)} {self.scale.note}".strip())
        write_section(f"{name} {self.source}", "\n\n".join((*heading, *paragraphs)))
        tables = [paragraph for paragraph in paragraphs if paragraph.startswith("|")]
        terminal.out.print(tables[0], markup=False)
        figure = f"docs/{name}-{self.source}.png"
        terminal.say(f"written: {PAGE}, {figure}; the experiments: dvc exp show")


def study(
    source: str | None, size: str, scales: Scales, jobs: int, settings: Sequence[str] | None
) -> Study:
    """Read the command line; ``size`` is full, scaled, or auto: full on a GPU.

    Raises:
        UserError: when there is no such collection, or a setting is not KEY=VALUE.
    """
    source = source or params.load().data.source
    runs.require_source(source)
    full = size == "full" or (size == "auto" and torch.cuda.is_available())
    overrides = {**runs.on_this_machine(jobs), **parse_settings(settings or [])}
    return Study(source, scales["full" if full else "scaled"], overrides, jobs)


def _cost(used: Params, count: int, jobs: int) -> str:
    """Say what ``count`` experiments like ``used`` take."""
    size, source = used.data.image_size, used.data.source
    tracked = Path(f"data/{source}.dvc")
    if source == "phantom":
        images = 4 * used.phantom.subjects * used.phantom.slices
    elif tracked.exists():
        images = sum(map(int, re.findall(r"nfiles: (\d+)", tracked.read_text())))
    else:
        images = sum(path.is_file() for path in Path("data", source).rglob("*"))
    # As many classes as most collections have: the last layer is a small part of the weights.
    model = build(used.model.name, classes=len(CLASSES), image_size=size, dropout=0.0)
    weights = sum(weight.numel() for weight in model.parameters()) * 4
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
    section = f"{begin}\n{content.strip()}\n{end}"
    text = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}{end}\n"
    before, after = text.split(begin)[0], text.partition(begin)[2].partition(end)[2]
    write_bytes(page, f"{before}{section}{after}".encode())


def _provenance(done: Sequence[FinishedRun]) -> str:
    """Date, code, machine and versions of what the runs measured, in one sentence."""
    # Not HEAD: where the collection is committed, others do not have it.
    commit = git.run("log", "-1", "--format=%h", "--", "src", "params.yaml").strip()
    # The day of the newest run, such as 2026-11-23.
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

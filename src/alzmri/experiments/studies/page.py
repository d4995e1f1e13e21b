"""Sections of docs/results.md that a command writes, between two comments that name it."""

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from alzmri import git, terminal
from alzmri.experiments.runs import Run
from alzmri.files import write_bytes

PAGE = Path("docs/results.md")


def write_section(name: str, content: str, page: Path = PAGE) -> None:
    """Replace the section ``name`` of ``page`` by ``content``; add it at the end if it is new."""
    begin, end = f"<!-- {name}: written by a command, do not edit -->", f"<!-- end of {name} -->"
    section = f"{begin}\n{content.strip()}\n{end}"
    text = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(text):
        text = pattern.sub(lambda _: section, text)
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    write_bytes(page, text.encode())


def report(name: str, scores: str, figure: Path, *paragraphs: str) -> None:
    """Write ``paragraphs`` as the section ``name``, print ``scores``, and say what is written."""
    write_section(name, "\n\n".join(paragraphs))
    terminal.out.print(scores, markup=False)
    terminal.say(f"written: {PAGE}, {figure}; the experiments: dvc exp show")


def provenance(command: str, runs: Sequence[Run], note: str) -> str:
    """Date, code, machine and versions of what ``runs`` measured, in one sentence; ``note``."""
    # Not HEAD: where the collection is committed, others do not have it.
    commit = git.run("log", "-1", "--format=%h", "--", "src", "params.yaml").strip()
    # The day of the newest run, such as 2026-11-23.
    *_, date = sorted(git.run("show", "-s", "--format=%cs", *(run.commit for run in runs)).split())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    split, training = (
        ", ".join(map(str, sorted({run.settings[key] for run in runs})))
        for key in ("split.seed", "train.seed")
    )
    return (
        f"`{command}`, {date}, code of commit {commit},"
        f" {os.cpu_count()} CPU cores ({platform.machine()}, {gpu}), torch {torch.__version__},"
        f" seed of split {split}, of training {training}. {note}"
    ).strip()

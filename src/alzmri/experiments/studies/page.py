"""Sections of docs/results.md that a command writes, between two comments that name it."""

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from alzmri import git
from alzmri.experiments.runs import Run
from alzmri.files import write_bytes

PAGE = Path("docs/results.md")


def write(name: str, *paragraphs: str) -> None:
    """Replace the section ``name`` of docs/results.md by ``paragraphs``."""
    write_section(name, "\n\n".join(paragraphs))


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


def _date(run: Run) -> str:
    return git.run("log", "-1", "--format=%cs", run.commit).strip()


def provenance(command: str, runs: Sequence[Run]) -> str:
    """Date, code, machine and versions of what ``runs`` measured, in one sentence."""
    # Not HEAD: where the collection is committed, others do not have it.
    commit = git.run("log", "-1", "--format=%h", "--", "src", "params.yaml").strip()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    split, training = (
        ", ".join(map(str, sorted({getattr(run.params, part).seed for run in runs})))
        for part in ("split", "train")
    )
    return (
        f"`{command}`, {max(map(_date, runs))}, code of commit {commit},"
        f" {os.cpu_count()} CPU cores ({platform.machine()}, {gpu}), torch {torch.__version__},"
        f" seed of split {split}, of training {training}."
    )

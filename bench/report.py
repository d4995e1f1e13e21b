"""Measured figures: as a table, as JSON, as a section of docs/performance.md."""

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.table import Table

from alzmri import terminal
from alzmri.evaluation import markdown
from alzmri.experiments.studies import write_section
from alzmri.files import write_json

PAGE = Path(__file__).parent.parent / "docs/performance.md"


@dataclass(frozen=True)
class Figure:
    """One line of the table: a measured ratio, or what ``scale`` says.

    Attributes:
        unit: of ``rounds``, which hold both sides' values in the order measured.
        ratio: first side over second, of the medians unless ``name`` says otherwise.
        target: the ratio to reach, or with ``at_most`` to stay below; None where there is none.
        scale: the unit of ``ratio`` and ``target``.
    """

    name: str
    unit: str
    rounds: dict[str, list[float]]
    ratio: float
    target: float | None = None
    at_most: bool = False
    scale: str = "×"

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def cells(self) -> list[str]:
        sides = [
            f"{side}: {' '.join(f'{value:.4g}' for value in values)}"
            for side, values in self.rounds.items()
        ]
        sign = "≤" if self.at_most else "≥"
        target = "" if self.target is None else f"{sign} {self.target:.3g} {self.scale}"
        verdict = {True: "met", False: "NOT met", None: ""}[self.met]
        values = f"{'; '.join(sides)} {self.unit}"
        return [self.name, f"{self.ratio:.3f} {self.scale}", target, verdict, values]


HEADER = ("figure", "ratio", "target", "verdict", "measured, by round")


def machine(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    processor = torch.cpu.get_capabilities()
    extensions = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16")
    return {
        "cpu": processor.get("cpu_name") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "instruction_set": [name for name in extensions if processor.get(name)],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": threads,
    }


def show(figures: Sequence[Figure]) -> None:
    """Print the table: drawn on a terminal, Markdown in a pipe."""
    rows = [figure.cells() for figure in figures]
    if terminal.out.is_terminal:
        table = Table(*HEADER)
        for row in rows:
            table.add_row(*row)
        terminal.out.print(table, soft_wrap=False)
    else:
        terminal.say(markdown.table(HEADER, rows))


def conclude(figures: Sequence[Figure], strict: bool) -> None:
    """Say which targets were missed; with ``strict`` that ends the program with status 1."""
    missed = [figure.name for figure in figures if figure.met is False]
    terminal.say(f"NOT met: {'; '.join(missed)}" if missed else "every target met")
    if missed and strict:
        sys.exit(1)


def command(name: str, parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """What was typed: ``name``, with whatever option is not at its default."""
    words = [
        f"--{key}" if value is True else f"--{key} {value}"
        for key, value in vars(options).items()
        if value != parser.get_default(key) and key != "strict"
    ]
    return f"{name} ARGS='{' '.join(words)}'" if words else name


def write(
    figures: Sequence[Figure],
    machine: dict[str, Any],
    command: str,
    json: Path,
    section: str,
) -> None:
    """Write ``json`` and the ``section`` of ``docs/performance.md``."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    content = {
        "date": date,
        "command": command,
        "machine": machine,
        "figures": [{**asdict(figure), "met": figure.met} for figure in figures],
    }
    write_json(json, content)
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    said = (
        f"`{command}`, {date}: {where} ({', '.join(machine['instruction_set'])}),"
        f" {machine['memory_gib']} GiB, {machine['threads']} threads, torch {machine['torch']},"
        " seed 0."
    )
    # What was measured in each round is in ``json``.
    lines = [said, "", markdown.table(HEADER[:-1], (figure.cells()[:-1] for figure in figures))]
    write_section(section, "\n".join(lines), PAGE)

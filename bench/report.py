"""Measured figures: printed as soon as known, as JSON, as a section of docs/performance.md."""

import argparse
import datetime
import os
import platform
import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from training import ROOT, THREADS

from alzmri import terminal
from alzmri.evaluation import markdown
from alzmri.experiments.studies import write_section
from alzmri.files import write_json


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    unit: str  # of `rounds`
    rounds: dict[str, list[float]]  # both sides' values, in the order measured
    ratio: float  # first side over second, of the medians unless `name` says otherwise
    target: float | None = None
    at_most: bool = False  # whether `target` is an upper limit
    scale: str = "×"  # the unit of `ratio` and `target`

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def cells(self) -> list[str]:
        sign = "≤" if self.at_most else "≥"
        target = "" if self.target is None else f"{sign} {self.target:.3g} {self.scale}"
        verdict = {True: "met", False: "NOT met", None: ""}[self.met]
        return [self.name, f"{self.ratio:.3f} {self.scale}", target, verdict]


def compared(
    name: str, unit: str, rounds: dict[str, list[float]], target: float | None = None
) -> Figure:
    """The medians of two sides, the first over the second."""
    first, second = map(statistics.median, rounds.values())
    return Figure(name, unit, rounds, first / second, target)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options of every bench."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is not met")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: see that it works")
    return parser


def record(figures: Iterable[Figure], command: str, name: str, options: argparse.Namespace) -> None:
    """Print each of ``figures`` when it is measured, and at the end the targets that were missed.

    With ``--strict``, exit with status 1 when a target is missed. Unless ``--quick``, write
    bench/NAME.json and a section of docs/performance.md after each figure.
    """
    words = [word for word in sys.argv[1:] if word != "--strict"]
    if words:
        command += f" ARGS='{' '.join(words)}'"
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    content = {"date": date, "command": command, "machine": _machine()}
    done: list[Figure] = []
    for figure in figures:
        done.append(figure)
        terminal.say("  " + ", ".join(cell for cell in figure.cells() if cell))
        if not options.quick:
            content["figures"] = [{**asdict(each), "met": each.met} for each in done]
            write_json(ROOT / f"bench/{name}.json", content)
            section = name.replace("results", "bench").replace("-", " ")
            write_section(section, _section(content, done), ROOT / "docs/performance.md")
    missed = [figure.name for figure in done if figure.met is False]
    terminal.say(f"NOT met: {'; '.join(missed)}" if missed else "every target met")
    if options.strict and missed:
        sys.exit(1)


def _machine() -> dict[str, Any]:
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
        "threads": THREADS,
    }


def _section(content: dict[str, Any], figures: list[Figure]) -> str:
    machine = content["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    return (
        f"`{content['command']}`, {content['date']}: {where}"
        f" ({', '.join(machine['instruction_set'])}), {machine['memory_gib']} GiB,"
        f" {machine['threads']} threads, torch {machine['torch']}, seed 0.\n\n"
        + markdown.table(("figure", "ratio", "target", "verdict"), (f.cells() for f in figures))
    )

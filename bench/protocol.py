"""On a GPU: how soon the slice split, which LEAKS, reaches 0.99; and the protocol's 100 epochs.

    python bench/protocol.py [SOURCE] [--only recipe protocol]

SOURCE is a collection in data/, as after ``alzmri data import``; without it the embedded, simulated
one is drawn. Prepares it and trains what ``alzmri fast`` compares: the fast recipe, and the better
of the protocol's two settings. Keeps each run in bench/results-protocol.json. Needs a GPU: on
two cores the 100 epochs take hours. The score is the validation macro F1 of a split that puts the
same people on both sides; it says how fast training is, nothing about new people.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import collection
import commands
import report
import torch
from training import ROOT

from alzmri import terminal
from alzmri.errors import EnvironmentFault
from alzmri.experiments.series import plans
from alzmri.experiments.series.fast import GOAL
from alzmri.files import write_json
from alzmri.params import PARAMS_FILE, Params

RESULTS = ROOT / "bench/results-protocol.json"
_EPOCH = re.compile(r"epoch +(\d+)/\d+ .*macro F1 (\d\.\d+)")


def measure(folder: Path, settings: Params) -> dict[str, float | int | None]:
    """Prepare and train in ``folder``, which holds ``data/collection``."""
    (folder / PARAMS_FILE).write_text(settings.model_dump_json(indent=1))
    subprocess.run([sys.executable, ROOT / "src/prepare.py"], cwd=folder, check=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    begin = time.perf_counter()
    reached: tuple[int, float] | None = None
    best = 0.0
    with subprocess.Popen(
        commands.alone(), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            terminal.say(line.rstrip())
            if found := _EPOCH.search(line):
                best = max(best, float(found[2]))
                if reached is None and best >= GOAL:
                    reached = int(found[1]), time.perf_counter() - begin
    if process.returncode:
        raise EnvironmentFault(f"training ended with status {process.returncode}: see above")
    return {
        "image_size": settings.data.image_size,
        "batch_size": settings.train.batch_size,
        "epochs": settings.train.epochs,
        "seconds": time.perf_counter() - begin,
        "best_leaking_macro_f1": best,
        "epochs_to_goal": reached and reached[0],
        "seconds_to_goal": reached and reached[1],
    }


def main() -> None:
    planned = plans.fast("collection", plans.FULL, {"track.mode": "disabled"})
    names = {"recipe": "recipe, seed 0", "protocol": "the protocol's best"}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", nargs="?", help="a collection in data/; default: simulated")
    parser.add_argument("--only", nargs="+", choices=names, default=list(names))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise EnvironmentFault("bench/protocol.py needs a GPU, and torch sees none here")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    said = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "source": options.source or "phantom",
        "split": "slice, LEAKS",
        "seed": 0,
        "machine": report.machine(torch.get_num_threads()),
    }
    with tempfile.TemporaryDirectory(prefix="alzmri-bench-") as folder:
        source = Path(folder) / "data/collection"
        source.parent.mkdir()
        if options.source:
            source.symlink_to(ROOT / "data" / options.source)
        else:
            collection.draw(source)
        for name in options.only:
            results[name] = said | measure(Path(folder), planned[names[name]].params)
            write_json(RESULTS, results)
    for name in options.only:
        figures = results[name]
        reached, seconds = figures["epochs_to_goal"], figures["seconds_to_goal"]
        goal = f"epoch {reached}, {seconds:.0f} s" if reached else "not reached"
        terminal.say(
            f"{name}: {figures['epochs']} epochs in {figures['seconds']:.0f} s; macro F1 {GOAL} of"
            f" the slice split, which LEAKS: {goal}, best {figures['best_leaking_macro_f1']:.4f}"
        )


if __name__ == "__main__":
    sys.exit(terminal.run(main))

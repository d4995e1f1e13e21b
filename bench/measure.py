"""Every figure of docs/performance.md but those of serving, as ratios from one run: ``make bench``.

What is compared takes turns (A B A B), after a first turn that does not count. Data are simulated
slices. Writes bench/results.json (``--gpu``: bench/results-gpu.json) figure by figure, and
docs/performance.md, but not with ``--quick``. ``--gpu`` ends after 560 s with what it has by then.
"""

import argparse
import copy
import multiprocessing
import os
import shlex
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import report
import torch
import training
from report import Figure
from training import FIRST_STEP, TRAIN, Training, params

from alzmri import terminal
from alzmri.data import images
from alzmri.data.packing import pack
from alzmri.data.prepared import PREPARED, Prepared
from alzmri.errors import EnvironmentFault
from alzmri.models.forward import bfloat16
from alzmri.training.checkpoints import Checkpoints

# Of the published protocol: 70 % and 15 % of the public collection's 6400 slices.
PROTOCOL_BATCH, PROTOCOL_IMAGES, PROTOCOL_VALIDATION = 128, 4480, 960
GPU_SECONDS = 560  # a GPU may be lent for ten minutes


@dataclass(frozen=True)
class Plan:
    """What is measured with."""

    folder: Path  # holds `phantom`, and for each image size a place to train in
    rounds: int  # turns of each side that count
    threads: int
    batch: int  # images in a step
    fast: str  # the precision that `auto` means on this machine, fp32 or bf16
    gpu: bool

    def training(self, image_size: int, precision: str) -> Training:
        place = self.folder / str(image_size)
        return Training(place, image_size, self.batch, precision, self.threads)


def compared(
    name: str, unit: str, sides: dict[str, list[float]], target: float | None = None
) -> Figure:
    """The medians of two ``sides``, the first over the second."""
    first, second = map(statistics.median, sides.values())
    return Figure(name, unit, sides, first / second, target)


@contextmanager
def process() -> Iterator[Callable[..., Any]]:
    """Yield what calls a function, always in the same new process.

    Allocator and kernels are chosen for a whole process.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def steps(plan: Plan, image_size: int, precision: str) -> Figure | None:
    """End to end over the bare step."""
    if precision not in ("fp32", plan.fast):
        return None
    ours = plan.training(image_size, precision)
    # Twice as often as the rest, which takes longer.
    turns = [ours.alternating(ours.images // plan.batch) for _ in range(2 * plan.rounds + 1)][1:]
    bare, whole = ([ours.images / seconds for seconds in side] for side in zip(*turns, strict=True))
    name = f"training end to end over the bare step, {image_size} px, {precision}"
    return compared(name, "images/s", {"end to end": whole, "bare": bare}, 0.97)


def checkpoints(plan: Plan) -> Figure:
    """What a checkpoint costs, of the time between two."""
    ours = plan.training(224, plan.fast)
    kept = Checkpoints(str(plan.folder / "checkpoints"), "bench")
    # As from the first validation on.
    ours.run.best_weights = copy.deepcopy(ours.run.model.state_dict())
    # Enough to go on for as long as the writing.
    count = 512 if plan.gpu else 4 if plan.fast == "fp32" else 10
    turns: list[tuple[float, float, float]] = []
    for _ in range(plan.rounds + 1):
        without = ours.timed(ours.bare_steps(count))
        begin = time.perf_counter()
        kept.save(ours.run.saved(ours.run.loss))
        ours.timed(ours.bare_steps(count))
        kept.wait()
        seconds = time.perf_counter() - begin
        turns.append((seconds, without, kept.affordable_from - time.monotonic()))
    beside, alone, rests = (list(side) for side in zip(*turns[1:], strict=True))
    epoch = PROTOCOL_IMAGES / PROTOCOL_BATCH * statistics.median(alone) / count
    between = max(epoch, statistics.median(rests))  # shorter epochs go without one
    cost = statistics.median(a - b for a, b in zip(beside, alone, strict=True))
    name = (
        f"a checkpoint's cost as a ratio of the {between:.0f} s between two (the protocol's epoch:"
        f" {epoch:.0f} s), {plan.fast}"
    )
    sides = {"with a checkpoint": beside, "without": alone}
    return Figure(name, f"s for {count} steps", sides, max(cost, 0.0) / between, 0.02, True)


def protocol(plan: Plan) -> Figure | None:
    """``python src/train.py`` for the protocol's 100 epochs, start and validation included."""
    if not plan.gpu:
        return None  # it takes hours
    place, settings = plan.folder / "protocol", params(224, PROTOCOL_BATCH, "auto")
    phantom = plan.folder / "phantom"
    training.prepare(phantom, place, settings, PROTOCOL_IMAGES, PROTOCOL_VALIDATION)
    seconds, _ = training.run(TRAIN, place)
    name = f"the protocol's 100 epochs, 224 px, {plan.fast}"
    return Figure(name, "s", {"training": [seconds]}, seconds, 60, at_most=True, scale="s")


def processes(plan: Plan) -> Figure | None:
    """Two processes on the one card, if NCCL allows that."""
    if not plan.gpu:
        return None
    place = plan.folder / "224"
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    # torchrun would give the second one another card.
    worker = ("--no-python", "sh", "-c", f"LOCAL_RANK=0 {shlex.join(TRAIN)}")
    try:
        two, _ = training.run(("timeout", "90", *torchrun, *worker), place)
    except EnvironmentFault as error:
        reasons = [line for line in str(error).splitlines() if "NCCL" in line or "GPU" in line]
        reason = (reasons or str(error).splitlines())[-1].strip()
        terminal.say(f"  two processes do not train on the one card: {reason}")
        return None
    sides = {"one process": [training.run(TRAIN, place)[0]], "two": [two]}
    return compared("two processes on the one card by NCCL over one, 224 px, fp32", "s", sides)


def race(plan: Plan, *, careful: bool) -> Figure:
    """Ours over Lightning as its tutorials set it up, or set up with care.

    The number of loading processes is the fastest in the turn that does not count.
    """
    import peer  # and Lightning, which takes seconds

    # Tutorials say 4 to 10; DataLoader itself warns of more than there are processors.
    workers, how, target = [min(4, plan.threads)], "as in its tutorials", 1.15
    if careful:
        # Loading has the processors to itself only where a GPU trains.
        workers = [min(4, plan.threads), plan.threads] if plan.gpu else [0, 1]
        how, target = "set up with care", 1.0
    files = plan.folder / "files"
    if not files.exists():
        settings = params(224, plan.batch, "fp32")
        peer.write_files(Prepared.open(settings, plan.folder / "224" / PREPARED), files)
    rates = {n: (peer.rate, files, plan.batch, plan.threads, n, careful) for n in workers}
    with ExitStack() as stack:
        ours = stack.enter_context(process())
        theirs = {number: stack.enter_context(process()) for number in workers}
        ours(our_rate, plan)
        uncounted = {number: theirs[number](*rates[number]) for number in workers}
        best = max(workers, key=uncounted.__getitem__)
        sides: dict[str, list[float]] = {"ours": [], "lightning": []}
        for _ in range(plan.rounds):
            sides["ours"].append(ours(our_rate, plan))
            sides["lightning"].append(theirs[best](*rates[best]))
    name = f"ours over lightning, {how} ({best} loading processes)"
    return compared(name, "images/s", sides, target)


def our_rate(plan: Plan) -> float:
    """Images per second of an epoch from the end of its first step, see ``peer.rate``."""
    ours = _made(plan)
    epoch = ours.epoch()
    next(epoch)
    return (ours.images - plan.batch) / ours.timed(epoch)


@cache
def _made(plan: Plan) -> Training:
    return plan.training(224, "fp32")


def prepare(plan: Plan) -> Figure:
    """All of ``prepare`` over a bare loop that reads and resizes the same files on every core."""
    source, settings = plan.folder / "phantom", params(64, plan.batch, "fp32")
    files = sorted(path for path in source.rglob("*") if path.suffix in images.SUFFIXES)

    def read(path: Path) -> None:
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        images.fit(np.asarray(pixels, np.uint8), 64, "pad")

    sides: dict[str, list[float]] = {"prepare": [], "imread and resize": []}
    for number in range(plan.rounds + 1):
        with tempfile.TemporaryDirectory(dir=plan.folder) as target:
            begin = time.perf_counter()
            pack(source, Path(target), settings)
            whole = time.perf_counter() - begin
        begin = time.perf_counter()
        with ThreadPoolExecutor(plan.threads) as pool:
            list(pool.map(read, files))
        bare = time.perf_counter() - begin
        if number:
            sides["prepare"].append(len(files) / whole)
            sides["imread and resize"].append(len(files) / bare)
    return compared("prepare over a bare loop of imread and resize, 64 px", "files/s", sides)


def resume(plan: Plan) -> Figure:
    """From the start of ``python src/train.py`` to the end of its first step, resumed and fresh."""
    place = plan.folder / "224"
    sides: dict[str, list[float]] = {"resumed": [], "fresh": []}
    for _ in range(plan.rounds):
        shutil.rmtree(place / ".checkpoints", ignore_errors=True)
        for side in ("fresh", "resumed"):  # the second continues what the first has saved
            _, said = training.run((sys.executable, "-c", FIRST_STEP), place)
            sides[side].append(float(said.rpartition("first step:")[2].split()[0]))
    return compared("start to first step: resumed over fresh, 224 px, fp32", "s", sides)


# The most important first, because time may run out.
FIGURES: dict[str, Callable[[Plan], Figure | None]] = {
    **{
        f"{size} px in {precision}": partial(steps, image_size=size, precision=precision)
        for size in (224, 64)
        for precision in ("fp32", "bf16")
    },
    "a checkpoint": checkpoints,
    "the protocol": protocol,
    "Lightning": partial(race, careful=False),
    "Lightning with care": partial(race, careful=True),
    "two processes": processes,
    "prepare": prepare,
    "resuming": resume,
}


def figures(options: argparse.Namespace) -> Iterator[Figure]:
    """All, each measured in a new process, in a temporary folder."""
    batch = 4 if options.quick else PROTOCOL_BATCH
    count = batch * (3 if options.quick else 32 if options.gpu else 5)
    fast = bfloat16("auto", torch.device("cuda" if options.gpu else "cpu"))
    with tempfile.TemporaryDirectory(prefix="alzmri-bench-") as name:
        folder, precision = Path(name), "bf16" if fast else "fp32"
        plan = Plan(folder, options.rounds, options.threads, batch, precision, options.gpu)
        training.draw(folder / "phantom")
        for image_size, number in ((224, count), (64, 4 * count)):
            settings = params(image_size, batch, "fp32")
            training.prepare(folder / "phantom", folder / str(image_size), settings, number)
        for name, measure in FIGURES.items():
            terminal.say(f"measuring: {name}")
            with process() as call:
                if figure := call(measure, plan):
                    yield figure


def main() -> None:
    parser = report.arguments(__doc__, rounds=2)
    parser.add_argument("--gpu", action="store_true", help="measure on the GPU (needs one)")
    options = parser.parse_args()
    if options.gpu and not torch.cuda.is_available():
        raise EnvironmentFault("--gpu: torch sees no GPU here; without it the CPU is measured")
    if not options.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # What a shell may have set for other work would be measured too.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    kept = None if options.quick else f"results{'-gpu' * options.gpu}"
    seconds = GPU_SECONDS if options.gpu else 0
    report.record(figures(options), "make bench", kept, options, seconds)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(terminal.run(main))

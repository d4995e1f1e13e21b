"""Every figure of docs/performance.md but those of serving, as ratios from one run: ``make bench``.

    python bench/measure.py [--gpu] [--strict] [--quick] [--rounds N] [--only NAME ...]

What is compared takes turns (A B A B), after a first turn that does not count. Data are simulated
slices. Writes bench/results.json (``--gpu``: bench/results-gpu.json) figure by figure, and
docs/performance.md, but not with ``--only`` or ``--quick``. ``--gpu`` ends after 560 s with what it
has by then.
"""

import argparse
import multiprocessing
import os
import shlex
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import report
import torch
import training
from report import Figure
from training import TRAIN, Training, params

from alzmri import terminal
from alzmri.data import images
from alzmri.data.packing import pack
from alzmri.data.prepared import PREPARED, Prepared
from alzmri.errors import EnvironmentFault
from alzmri.models.device import bfloat16
from alzmri.training.checkpoints import Checkpoints

PROTOCOL_BATCH, PROTOCOL_IMAGES, PROTOCOL_VALIDATION = 128, 4480, 960
"""Of the published protocol: 70 % and 15 % of the public collection's 6400 slices."""
GPU_SECONDS = 560
"""All that ``--gpu`` takes: a GPU may be lent for ten minutes."""


@dataclass(frozen=True)
class Plan:
    """What is measured with.

    Attributes:
        folder: holds ``phantom`` and a place to train in for each size.
        rounds: turns of each side that count.
        batch: images in a step.
        precisions: fp32, and bf16 where ``precision: auto`` means it on this machine.
        gpu: whether that is what is measured.
    """

    folder: Path
    rounds: int
    threads: int
    batch: int
    precisions: Sequence[str]
    gpu: bool

    def place(self, image_size: int) -> Path:
        return self.folder / str(image_size)


def compared(
    name: str, unit: str, sides: dict[str, list[float]], target: float | None = None
) -> Figure:
    """The medians of two ``sides``, the first over the second."""
    first, second = map(statistics.median, sides.values())
    return Figure(name, unit, sides, first / second, target)


@contextmanager
def process() -> Iterator[Callable[..., Any]]:
    """Yield what calls a function, always in the same process of its own.

    Allocator and kernels are chosen for a whole process.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def steps(plan: Plan) -> Iterator[Figure]:
    """End to end over the bare step."""
    for image_size in (224, 64):
        for precision in plan.precisions:
            with process() as call:
                yield call(step_figure, plan, image_size, precision)


def step_figure(plan: Plan, image_size: int, precision: str) -> Figure:
    place = plan.place(image_size)
    ours = Training(place, image_size, plan.batch, precision, plan.threads)
    count = ours.images // plan.batch
    # Twice as often as the rest, which takes longer.
    turns = [ours.alternating(count) for _ in range(2 * plan.rounds + 1)][1:]
    bare, whole = ([ours.images / seconds for seconds in side] for side in zip(*turns, strict=True))
    name = f"training end to end over the bare step, {image_size} px, {precision}"
    return compared(name, "images/s", {"end to end": whole, "bare": bare}, 0.97)


def checkpoints(plan: Plan) -> Iterator[Figure]:
    """What a checkpoint costs, of the time between two."""
    with process() as call:
        yield call(checkpoint_figure, plan)


def checkpoint_figure(plan: Plan) -> Figure:
    precision = plan.precisions[-1]
    ours = Training(plan.place(224), 224, plan.batch, precision, plan.threads)
    kept = Checkpoints(str(plan.folder / "checkpoints"), "bench")
    ours.run.best_weights = ours.run.state()["model"]  # as from the first validation on
    # Enough to go on for as long as the writing.
    count = 512 if plan.gpu else 4 if precision == "fp32" else 10
    turns: list[tuple[float, float, float]] = []
    for _ in range(plan.rounds + 1):
        without = ours.timed(ours.bare_steps(count))
        begin = time.perf_counter()
        kept.save(ours.run.state())
        ours.timed(ours.bare_steps(count))
        kept.wait()
        turns.append((time.perf_counter() - begin, without, kept.rest))
    beside, alone, rests = (list(side) for side in zip(*turns[1:], strict=True))
    epoch = PROTOCOL_IMAGES / PROTOCOL_BATCH * statistics.median(alone) / count
    # Shorter epochs than this go without one.
    between = max(epoch, statistics.median(rests))
    cost = statistics.median(a - b for a, b in zip(beside, alone, strict=True))
    return Figure(
        f"a checkpoint's cost as a ratio of the {between:.0f} s between two (the protocol's epoch:"
        f" {epoch:.0f} s), {precision}",
        f"s for {count} steps",
        {"with a checkpoint": beside, "without": alone},
        max(cost, 0.0) / between,
        0.02,
        at_most=True,
    )


def protocol(plan: Plan) -> Iterator[Figure]:
    """``python src/train.py`` for the protocol's 100 epochs, start and validation included."""
    place, settings = plan.folder / "protocol", params(224, PROTOCOL_BATCH, "auto")
    phantom = plan.folder / "phantom"
    training.prepare(phantom, place, settings, PROTOCOL_IMAGES, PROTOCOL_VALIDATION)
    seconds = training.run(TRAIN, place)
    name = f"the protocol's 100 epochs, 224 px, {plan.precisions[-1]}"
    yield Figure(name, "s", {"training": [seconds]}, seconds, 60, at_most=True, scale="s")


def processes(plan: Plan) -> Iterator[Figure]:
    """Two processes on the one card, if NCCL allows that."""
    place = plan.place(224)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    # It would have the second one take a card of its own.
    worker = ("--no-python", "sh", "-c", f"LOCAL_RANK=0 {shlex.join(TRAIN)}")
    try:
        two = training.run(("timeout", "90", *torchrun, *worker), place)
    except EnvironmentFault as error:
        reasons = [line for line in str(error).splitlines() if "NCCL" in line or "GPU" in line]
        reason = (reasons or str(error).splitlines())[-1].strip()
        terminal.say(f"  two processes do not train on the one card: {reason}")
        return
    sides = {"one process": [training.run(TRAIN, place)], "two": [two]}
    yield compared("two processes on the one card by NCCL over one, 224 px, fp32", "s", sides)


def tutorial(plan: Plan) -> Iterator[Figure]:
    """Ours over Lightning as its tutorials set it up."""
    # They say 4 to 10; DataLoader itself warns of more than there are processors.
    yield race(plan, [min(4, plan.threads)], "as in its tutorials", 1.15)


def careful(plan: Plan) -> Iterator[Figure]:
    """Ours over Lightning set up with care."""
    # Loading has the processors to itself only where a GPU trains.
    workers = [min(4, plan.threads), plan.threads] if plan.gpu else [0, 1]
    yield race(plan, workers, "set up with care", 1.0, careful=True)


def race(
    plan: Plan, workers: Sequence[int], how: str, target: float, *, careful: bool = False
) -> Figure:
    """Of ``workers`` the number that is fastest in the turn that does not count goes on."""
    import peer  # and Lightning, which takes seconds

    files = plan.folder / "files"
    if not files.exists():
        settings = params(224, plan.batch, "fp32")
        peer.write_files(Prepared.open(settings, plan.place(224) / PREPARED), files)
    settings = {n: peer.Setting(files, plan.batch, plan.threads, n, careful) for n in workers}
    with ExitStack() as stack:
        ours = stack.enter_context(process())
        theirs = {number: stack.enter_context(process()) for number in workers}
        ours(our_rate, plan)
        uncounted = {number: theirs[number](peer.rate, settings[number]) for number in workers}
        best = max(workers, key=uncounted.__getitem__)
        sides: dict[str, list[float]] = {"ours": [], "lightning": []}
        for _ in range(plan.rounds):
            sides["ours"].append(ours(our_rate, plan))
            sides["lightning"].append(theirs[best](peer.rate, settings[best]))
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
    return Training(plan.place(224), 224, plan.batch, "fp32", plan.threads)


def prepare(plan: Plan) -> Iterator[Figure]:
    """All of ``prepare`` over a bare loop that reads and resizes the same files on every core."""
    source, settings = plan.folder / "phantom", params(64, plan.batch, "fp32")
    files = sorted(path for path in source.rglob("*") if path.suffix in images.SUFFIXES)

    def read(first: int) -> None:
        for path in files[first :: plan.threads]:
            pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            images.fit(np.asarray(pixels, np.uint8), 64, "pad")

    sides: dict[str, list[float]] = {"prepare": [], "imread and resize": []}
    for _ in range(plan.rounds + 1):
        with tempfile.TemporaryDirectory(dir=plan.folder) as target:
            begin = time.perf_counter()
            pack(source, Path(target), settings)
            sides["prepare"].append(len(files) / (time.perf_counter() - begin))
        begin = time.perf_counter()
        with ThreadPoolExecutor(plan.threads) as pool:
            list(pool.map(read, range(plan.threads)))
        sides["imread and resize"].append(len(files) / (time.perf_counter() - begin))
    counted = {side: rates[1:] for side, rates in sides.items()}
    yield compared("prepare over a bare loop of imread and resize, 64 px", "files/s", counted)


def resume(plan: Plan) -> Iterator[Figure]:
    """From the start of ``python src/train.py`` to its first step, resumed and fresh."""
    place = plan.place(224)
    sides: dict[str, list[float]] = {"resumed": [], "fresh": []}
    for _ in range(plan.rounds):
        shutil.rmtree(place / ".checkpoints", ignore_errors=True)
        for side in ("fresh", "resumed"):  # the second goes on from what the first has saved
            sides[side].append(training.seconds_to_first_step(place))
    yield compared("start to first step: resumed over fresh, 224 px, fp32", "s", sides)


# In the order of their worth, should time run out.
FIGURES: dict[str, Callable[[Plan], Iterator[Figure]]] = {
    "steps": steps,
    "checkpoints": checkpoints,
    "protocol": protocol,
    "tutorial": tutorial,
    "careful": careful,
    "processes": processes,
    "prepare": prepare,
    "resume": resume,
}
ON_GPUS = ("protocol", "processes")
"""On a CPU the one takes hours, the other has no target."""


def figures(names: Sequence[str], options: argparse.Namespace) -> Iterator[Figure]:
    """Those of ``names``, measured in a temporary folder."""
    batch = 4 if options.quick else PROTOCOL_BATCH
    count = batch * (3 if options.quick else 32 if options.gpu else 5)
    fast = bfloat16("auto", torch.device("cuda" if options.gpu else "cpu"))
    precisions = ("fp32", "bf16") if fast else ("fp32",)
    with tempfile.TemporaryDirectory(prefix="alzmri-bench-") as name:
        folder = Path(name)
        plan = Plan(folder, options.rounds, options.threads, batch, precisions, options.gpu)
        terminal.say("drawing and packing slices")
        training.draw(folder / "phantom")
        for image_size, number in ((224, count), (64, 4 * count)):
            settings = params(image_size, batch, "fp32")
            training.prepare(folder / "phantom", plan.place(image_size), settings, number)
        for name in names:
            terminal.say(f"measuring: {name}")
            yield from FIGURES[name](plan)


def main() -> None:
    parser = report.arguments(__doc__, rounds=2)
    parser.add_argument("--gpu", action="store_true", help="measure on the GPU (needs one)")
    parser.add_argument("--only", nargs="+", choices=FIGURES)
    options = parser.parse_args()
    if options.gpu and not torch.cuda.is_available():
        raise EnvironmentFault("--gpu: torch sees no GPU here; without it the CPU is measured")
    if not options.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # What a shell may have set for other work would be measured too.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    names = options.only or [name for name in FIGURES if options.gpu or name not in ON_GPUS]
    kept = None if options.only or options.quick else f"results{'-gpu' * options.gpu}"
    seconds = GPU_SECONDS if options.gpu else 0
    report.record(figures(names, options), "make bench", kept, options, seconds)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(terminal.run(main))

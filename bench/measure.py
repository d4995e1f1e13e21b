"""Every figure of docs/performance.md but those of serving, from one run: ``make bench``.

What is compared takes turns (A B A B), after a first turn that does not count. Data are simulated
slices. Writes bench/results.json (``--gpu``: bench/results-gpu.json) and docs/performance.md figure
by figure, but not with ``--quick``.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import report
import torch
import training
from report import Figure, compared
from training import THREADS, Training, params

from alzmri import terminal
from alzmri.data.packing import pack
from alzmri.data.prepared import PREPARED, Prepared
from alzmri.errors import EnvironmentFault
from alzmri.models.forward import bfloat16
from alzmri.training.checkpoints import Checkpoints
from alzmri.training.loop import TrainingState

ROUNDS = 2  # turns of each side that count
# Of the published protocol: 70 % and 15 % of the public collection's 6400 slices.
PROTOCOL_BATCH, PROTOCOL_IMAGES, PROTOCOL_VALIDATION = 128, 4480, 960
GPU_SECONDS = 440  # no figure starts later: a GPU may be lent for ten minutes


@dataclass(frozen=True)
class Plan:
    """What is measured with."""

    folder: Path  # holds `phantom`, and for each image size a place to train in
    batch: int  # images in a step
    fast: str  # the precision that `auto` means on this machine, fp32 or bf16
    gpu: bool

    def training(self, image_size: int, precision: str) -> Training:
        return Training(self.folder / str(image_size), image_size, self.batch, precision)


def turns(sides: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """The values of each side, which take turns."""
    rounds = [{side: measure() for side, measure in sides.items()} for _ in range(ROUNDS + 1)]
    return {side: [values[side] for values in rounds[1:]] for side in sides}


def seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


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
    pairs = [ours.alternating(ours.images // plan.batch) for _ in range(2 * ROUNDS + 1)][1:]
    bare, whole = ([ours.images / taken for taken in side] for side in zip(*pairs, strict=True))
    name = f"training end to end over the bare step, {image_size} px, {precision}"
    return compared(name, "images/s", {"end to end": whole, "bare": bare}, 0.97)


def checkpoints(plan: Plan) -> Figure:
    """What a checkpoint costs, of the time between two."""
    ours = plan.training(224, plan.fast)
    kept = Checkpoints(str(plan.folder / "checkpoints"), "bench")
    # As from the first validation on.
    ours.run.best_weights = ours.run.model.state_dict()
    # Enough to go on for as long as the writing.
    count = 512 if plan.gpu else 4 if plan.fast == "fp32" else 10
    rests: list[float] = []

    def with_checkpoint() -> None:
        kept.save(ours.run.saved(ours.run.loss))
        ours.timed(ours.bare_steps(count))
        kept.wait()
        rests.append(kept.affordable_from - time.monotonic())

    sides = turns(
        {
            "without": lambda: ours.timed(ours.bare_steps(count)),
            "with a checkpoint": lambda: seconds(with_checkpoint),
        }
    )
    alone, beside = sides.values()
    epoch = PROTOCOL_IMAGES / PROTOCOL_BATCH * statistics.median(alone) / count
    between = max(epoch, statistics.median(rests[1:]))  # shorter epochs go without one
    cost = statistics.median(a - b for a, b in zip(beside, alone, strict=True))
    what = f"a checkpoint's cost as a ratio of the {between:.0f} s between two"
    name = f"{what} (the protocol's epoch: {epoch:.0f} s), {plan.fast}"
    return Figure(name, f"s for {count} steps", sides, max(cost, 0.0) / between, 0.02, True)


def protocol(plan: Plan) -> Figure | None:
    """``python src/train.py`` for the protocol's 100 epochs, start and validation included."""
    if not plan.gpu:
        return None  # it takes hours
    place, settings = plan.folder / "protocol", params(224, PROTOCOL_BATCH, "auto")
    phantom = plan.folder / "phantom"
    training.prepare(phantom, place, settings, PROTOCOL_IMAGES, PROTOCOL_VALIDATION)
    taken = seconds(lambda: training.run_stage("train", place))
    name = f"the protocol's 100 epochs, 224 px, {plan.fast}"
    return Figure(name, "s", {"training": [taken]}, taken, 60, at_most=True, scale="s")


def race(plan: Plan, *, careful: bool) -> Figure:
    """Ours over Lightning as its tutorials set it up, or set up with care.

    The number of loading processes is the fastest in a turn that does not count.
    """
    import peer  # and Lightning, which takes seconds

    # Tutorials say 4 to 10; DataLoader itself warns of more than there are processors.
    workers, how, target = [min(4, THREADS)], "as in its tutorials", 1.15
    if careful:
        # Loading has the processors to itself only where a GPU trains.
        workers = [min(4, THREADS), THREADS] if plan.gpu else [0, 1]
        how, target = "set up with care", 1.0
    files = plan.folder / "files"
    if not files.exists():
        settings = params(224, plan.batch, "fp32")
        peer.write_files(Prepared.open(settings, plan.folder / "224" / PREPARED), files)
    with process() as ours, process() as theirs:

        def lightning(number: int) -> float:
            return float(theirs(peer.rate, files, plan.batch, number, careful))

        best = max(workers, key=lightning)
        sides = turns({"ours": lambda: ours(our_rate, plan), "lightning": lambda: lightning(best)})
    name = f"ours over lightning, {how} ({best} loading processes)"
    return compared(name, "images/s", sides, target)


def our_rate(plan: Plan) -> float:
    """Images per second of an epoch from the end of its first step, see ``peer.rate``."""
    ours = plan.training(224, "fp32")
    epoch = ours.epoch()
    next(epoch)
    return (ours.images - plan.batch) / ours.timed(epoch)


def prepare(plan: Plan) -> Figure:
    """Files per second of all of ``prepare``."""
    source, settings = plan.folder / "phantom", params(64, plan.batch, "fp32")
    files, figure = len(list(source.rglob("*.jpg"))), plan.folder / "subjects.png"

    def whole() -> float:
        with tempfile.TemporaryDirectory(dir=plan.folder) as target:
            return files / seconds(lambda: pack(source, Path(target), settings, figure))

    rates = turns({"prepare": whole})
    speed = statistics.median(rates["prepare"])
    return Figure("prepare, 64 px", "files/s", rates, speed, scale="files/s")


def resume(plan: Plan) -> Figure:
    """A training's state from a checkpoint over a new one."""
    kept = Checkpoints(str(plan.folder / "checkpoints"), "resume")

    def new() -> TrainingState:
        return plan.training(224, plan.fast).run

    kept.save(new().saved(torch.zeros(())))
    kept.wait()
    sides = turns(
        {
            "resumed": lambda: seconds(lambda: new().restore(kept.load() or {})),
            "new": lambda: seconds(new),
        }
    )
    return compared(f"start of a training: resumed over new, 224 px, {plan.fast}", "s", sides)


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
    "prepare": prepare,
    "resuming": resume,
}


def figures(options: argparse.Namespace) -> Iterator[Figure]:
    """All, each measured in a new process, in a temporary folder; what failed is raised last."""
    begin, failed = time.monotonic(), list[str]()
    batch = 4 if options.quick else PROTOCOL_BATCH
    count = batch * (3 if options.quick else 32 if options.gpu else 5)
    fast = bfloat16("auto", torch.device("cuda" if options.gpu else "cpu"))
    with tempfile.TemporaryDirectory(prefix="alzmri-bench-") as name:
        folder = Path(name)
        plan = Plan(folder, batch, "bf16" if fast else "fp32", options.gpu)
        training.draw(source := folder / "phantom")
        for size, number in ((224, count), (64, 4 * count)):
            training.prepare(source, folder / str(size), params(size, batch, "fp32"), number)
        for name, measure in FIGURES.items():
            if options.gpu and time.monotonic() > begin + GPU_SECONDS:
                failed.append(f"{GPU_SECONDS} s are over: from {name} on, nothing is measured")
                break
            terminal.say(f"measuring: {name}")
            try:
                with process() as call:
                    if figure := call(measure, plan):
                        yield figure
            except Exception as error:  # noqa: BLE001 - whatever it is, the rest can be measured
                failed.append(f"{name} failed: {error!r}")
    if failed:
        raise EnvironmentFault("; ".join(failed))


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--gpu", action="store_true", help="measure on the GPU (needs one)")
    options = parser.parse_args()
    if options.gpu and not torch.cuda.is_available():
        raise EnvironmentFault("--gpu: torch sees no GPU here; without it the CPU is measured")
    if not options.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # What a shell may have set for other work would be measured too.
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    report.record(figures(options), "make bench", f"results{'-gpu' * options.gpu}", options)


if __name__ == "__main__":
    terminal.start(main)

"""Every figure of docs/performance.md, as ratios from one run: ``make bench``.

    python bench/measure.py [--gpu] [--strict] [--quick] [--rounds N] [--only NAME ...]

What is compared takes turns (A B A B), after a first turn that does not count. Data are simulated
slices. Writes bench/results.json (``--gpu``: bench/results-gpu.json) and docs/performance.md, but
not with ``--only`` or ``--quick``.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import collection
import commands
import decode
import report
import torch
from contest import Contender, contest
from flops import flops_per_slice
from peers import Setting
from report import Figure
from training import Training, params

from alzmri import terminal
from alzmri.classes import CLASSES
from alzmri.data import images
from alzmri.data.packing import pack
from alzmri.errors import EnvironmentFault
from alzmri.models.device import bfloat16
from alzmri.training.checkpoints import Checkpoints

PROTOCOL_BATCH, PROTOCOL_IMAGES = 128, 4480
"""Of the published protocol; 4480 training slices are 70 % of the public collection."""


@dataclass(frozen=True)
class Plan:
    """What is measured with.

    Attributes:
        rounds: turns of each side that count.
        batch: images in a step.
        product: side of the square matrices whose product says what the machine can do.
        fast_bfloat16: whether ``precision: auto`` means it on this machine.
        gpu: whether that is what is measured.
    """

    folder: Path
    rounds: int
    threads: int
    batch: int
    product: int
    fast_bfloat16: bool
    gpu: bool

    def place(self, image_size: int) -> Path:
        return self.folder / str(image_size)

    @property
    def precisions(self) -> list[str]:
        return ["fp32", "bf16"] if self.fast_bfloat16 else ["fp32"]


def median_ratio(first: list[float], second: list[float]) -> float:
    return statistics.median(first) / statistics.median(second)


def alternating(
    training: Training, steps: int, at_once: int, product: Callable[[], object]
) -> tuple[float, float, float]:
    """Seconds that ``steps`` bare steps take, an epoch of as many, and as many ``product``.

    They take turns after ``at_once`` of each: a machine that others share changes its speed while
    an epoch runs. A GPU has to be waited for after each turn, which costs an epoch some of what the
    next step's start hides behind it.
    """
    alone = in_epoch = products = 0.0
    epoch = training.epoch()
    for done in range(0, steps, at_once):
        alone += training.timed(training.bare_steps(at_once))
        last = done + at_once >= steps
        in_epoch += training.timed(epoch if last else islice(epoch, at_once))
        products += training.timed(product() for _ in range(at_once))
    return alone, in_epoch, products


def step_figures(plan: Plan, image_size: int, precision: str) -> list[Figure]:
    """End to end over the bare step; at 224 pixels also the bare step over the matrix product."""
    torch.set_num_threads(plan.threads)
    training = Training(plan.place(image_size), image_size, plan.batch, precision)
    steps = training.images // plan.batch
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    factors = torch.randn(2, plan.product, plan.product, device=training.device, dtype=dtype)

    def product() -> torch.Tensor:
        return factors[0] @ factors[1]

    whole: list[float] = []
    bare: list[float] = []
    peak: list[float] = []
    # Twice as often as the rest, which takes longer.
    for number in range(2 * plan.rounds + 1):
        at_once = steps if plan.gpu else 1
        alone, in_epoch, products = alternating(training, steps, at_once, product)
        turn = (
            steps * plan.batch / alone,
            steps * plan.batch / in_epoch,
            steps * 2 * plan.product**3 / products / 1e9,
        )
        if number:
            for values, value in zip((bare, whole, peak), turn, strict=True):
                values.append(value)
    where = f"{image_size} px, {precision}"
    target = 0.97
    figures = [
        Figure(
            f"training end to end over the bare step, {where}",
            "images/s",
            {"end to end": whole, "bare": bare},
            median_ratio(whole, bare),
            target,
        )
    ]
    if image_size == 224:
        flops = flops_per_slice("alexnet", len(CLASSES), image_size) / 1e9
        used = [rate * flops for rate in bare]
        figures.append(
            Figure(
                f"bare step over matrix product, {where}",
                "GFLOP/s",
                {"bare step": used, f"product of {plan.product}²": peak},
                median_ratio(used, peak),
                0.84 if precision == "fp32" and not plan.gpu else None,
            )
        )
    return figures


def steps(plan: Plan) -> Iterator[Figure]:
    for image_size in (224, 64):
        for precision in plan.precisions:
            yield from in_process(step_figures, plan, image_size, precision)


def _ours(plan: Plan) -> Setting:
    return Setting(plan.place(224), 224, plan.batch, plan.threads)


def _tutorial_workers(plan: Plan) -> int:
    # Tutorials say 4 to 10; DataLoader itself warns of more than there are processors.
    return min(4, plan.threads)


def peers(plan: Plan) -> Iterator[Figure]:
    """Ours over each of the others, as their tutorials set them up."""
    base = _ours(plan)
    theirs = replace(base, workers=_tutorial_workers(plan))
    plain = [
        ("ours", base),
        *((name, theirs) for name in ("pytorch", "lightning", "monai", "keras")),
    ]
    default = [("ours", replace(base, precision="auto"))] if plan.fast_bfloat16 else []
    yield from _over_each(plan, [*plain, *default], "as in their tutorials", 1.15)


def careful_peers(plan: Plan) -> Iterator[Figure]:
    """Ours over each of the others that can be, set up with care."""
    base = _ours(plan)
    # Loading has the processors to itself only where a GPU trains.
    few, many = (_tutorial_workers(plan), plan.threads) if plan.gpu else (0, 1)
    careful = replace(base, careful=True, workers=few)
    tuned = [("ours", base)]
    for name in ("pytorch", "lightning", "monai"):
        tuned += [(name, careful), (name, replace(careful, workers=many))]
    yield from _over_each(plan, tuned, "set up with care", 1.0)


def _over_each(
    plan: Plan, entries: list[tuple[str, Setting]], how: str, target: float
) -> Iterator[Figure]:
    ours, *others = contest(entries, plan.rounds)
    theirs = [other for other in others if other.name != "ours"]
    theirs.sort(key=lambda other: -statistics.median(other.rates))
    for other in theirs:
        yield _over(
            ours, other, f"ours over {other.name}, {how}", target if other is theirs[0] else None
        )
    for default in others:
        if default.name == "ours":
            name = f"ours as it is by default (bf16) over {theirs[0].name}, {how}"
            yield _over(default, theirs[0], name, None)


def _over(ours: Contender, other: Contender, name: str, target: float | None) -> Figure:
    return Figure(
        f"{name} ({other.setting.workers} loading processes)",
        "images/s",
        {"ours": ours.rates, other.name: other.rates},
        median_ratio(ours.rates, other.rates),
        target,
    )


def prepare(plan: Plan) -> Iterator[Figure]:
    """``prepare`` and its decoding over the bare loops of bench/decode.py, all on every core."""
    source, settings = plan.folder / "phantom", params(64, plan.batch, "fp32")
    files = sorted(path for path in source.rglob("*") if path.suffix in images.SUFFIXES)

    def packing() -> float:
        with tempfile.TemporaryDirectory(dir=plan.folder) as target:
            begin = time.perf_counter()
            pack(source, Path(target), settings, lambda *_: None)
            return len(files) / (time.perf_counter() - begin)

    def loop(work: Callable[[Path], None]) -> float:
        return decode.rate(work, files, plan.threads)

    turns = [
        (loop(decode.bare), loop(decode.bare_fitted), loop(decode.fitted), packing())
        for _ in range(plan.rounds + 1)
    ]
    bare, bare_fitted, fitted, packed = (list(values) for values in zip(*turns[1:], strict=True))
    yield Figure(
        "validating, decoding and resizing over a bare loop of imread and resize, 64 px",
        "files/s",
        {"decode + fit": fitted, "imread + fit": bare_fitted},
        median_ratio(fitted, bare_fitted),
    )
    yield Figure(
        "all of prepare over a bare loop of imread, 64 px",
        "files/s",
        {"prepare": packed, "imread": bare},
        median_ratio(packed, bare),
    )


def checkpoint_figures(plan: Plan) -> list[Figure]:
    """Steps with a checkpoint written meanwhile, and without, over the protocol's epoch."""
    torch.set_num_threads(plan.threads)
    precision = plan.precisions[-1]
    training = Training(plan.place(224), 224, plan.batch, precision)
    checkpoints = Checkpoints(str(plan.folder / "checkpoints"), "bench")
    run, clock = training.run, time.perf_counter
    run.best_weights = run.state()["model"]  # as from the first validation on
    # Enough to go on for as long as the writing.
    count = 512 if plan.gpu else 4 if precision == "fp32" else 10

    without: list[float] = []
    with_one: list[float] = []
    blocked: list[float] = []
    rests: list[float] = []
    for number in range(plan.rounds + 1):
        alone = training.timed(training.bare_steps(count))
        begin = clock()
        checkpoints.save(run.state())
        stopped = clock() - begin
        beside = stopped + training.timed(training.bare_steps(count))
        begin = clock()
        checkpoints.wait()
        rests.append(checkpoints.rest)
        if number:
            without.append(alone)
            with_one.append(beside + clock() - begin)
            blocked.append(stopped)
    epoch = PROTOCOL_IMAGES / PROTOCOL_BATCH * statistics.median(without) / count
    cost = statistics.median(a - b for a, b in zip(with_one, without, strict=True))
    # Shorter epochs than this go without one.
    between = max(epoch, statistics.median(rests))
    said = f"of the {between:.0f} s between two (the protocol's epoch: {epoch:.0f} s), {precision}"
    return [
        Figure(
            f"a checkpoint's cost as a ratio {said}",
            f"s for {count} steps",
            {"with a checkpoint": with_one, "without": without},
            max(cost, 0.0) / between,
            0.02,
            at_most=True,
        ),
        Figure(
            f"training blocked by a checkpoint as a ratio {said}",
            "s",
            {"blocked": blocked},
            statistics.median(blocked) / between,
        ),
    ]


def checkpoints(plan: Plan) -> Iterator[Figure]:
    yield from in_process(checkpoint_figures, plan)


def resume(plan: Plan) -> Iterator[Figure]:
    """From the start of ``python src/train.py`` to its first step, resumed and fresh."""
    place = plan.place(224)
    collection.write_params(place, 224, plan.batch, "fp32")
    fresh: list[float] = []
    resumed: list[float] = []
    for _ in range(plan.rounds):
        commands.forget(place)
        for seconds in (fresh, resumed):
            seconds.append(min(commands.seconds_to_steps(commands.alone(), place, 1).values()))
    commands.forget(place)
    yield Figure(
        "start to first step: resumed over fresh, 224 px, fp32",
        "s",
        {"resumed": resumed, "fresh": fresh},
        median_ratio(resumed, fresh),
    )


FIGURES: dict[str, Callable[[Plan], Iterator[Figure]]] = {
    "steps": steps,
    "peers": peers,
    "careful": careful_peers,
    "prepare": prepare,
    "checkpoints": checkpoints,
    "resume": resume,
}


def in_process(function: Callable[..., list[Figure]], *arguments: Any) -> list[Figure]:
    """Call it in a process of its own: allocator and kernels are chosen for a whole process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def workplace(images: int, batch: int) -> Iterator[Path]:
    """A temporary folder with the data."""
    folder = Path(tempfile.mkdtemp(prefix="alzmri-bench-"))
    try:
        terminal.say("drawing and packing slices")
        collection.draw(folder / "phantom")
        for image_size, count in ((224, images), (64, 4 * images)):
            place = folder / str(image_size)
            collection.prepare(folder / "phantom", place, image_size, batch, count)
        collection.write_files(folder / "224", 224, batch)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="measure on the GPU (needs one)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is not met")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: see that it works")
    parser.add_argument("--rounds", type=int, default=2, help="counted turns of each")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES))
    options = parser.parse_args()
    if options.gpu and not torch.cuda.is_available():
        raise EnvironmentFault("--gpu: torch sees no GPU here; without it the CPU is measured")
    if not options.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # What a shell may have set for other work would be measured too.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    machine = report.machine(options.threads)
    figures = []
    batch = 4 if options.quick else PROTOCOL_BATCH
    product = 256 if options.quick else 8192 if options.gpu else 4096
    steps_per_epoch = 3 if options.quick else 32 if options.gpu else 5
    with workplace(steps_per_epoch * batch, batch) as folder:
        fast = bfloat16("auto", torch.device("cuda" if options.gpu else "cpu"))
        plan = Plan(folder, options.rounds, options.threads, batch, product, fast, options.gpu)
        for name in options.only:
            terminal.say(f"measuring: {name}")
            for figure in FIGURES[name](plan):
                figures.append(figure)
                terminal.say(f"  {figure.name}: {figure.ratio:.3f} ×")
    report.show(figures)
    if options.only == list(FIGURES) and not options.quick:
        json = report.PAGE.parent.parent / f"bench/results{'-gpu' * options.gpu}.json"
        command = report.command("make bench", parser, options)
        section = f"bench{' gpu' * options.gpu}"
        report.write(figures, machine, command, json, section)
    report.conclude(figures, options.strict)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(terminal.run(main))

"""What serving costs over the bare model, as ratios from one run: ``make bench-serving``.

    python bench/serving.py [--strict] [--quick] [--rounds N] [--threads N]

A fresh AlexNet (the weights cost no time) behind `alzmri serve`; clients on the same machine send
simulated slices as JPEG. What is compared takes turns, after a first turn that does not count.
Writes bench/results-serving.json and its section of docs/performance.md, but not with ``--quick``.
"""

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import collection
import numpy as np
import onnxruntime
import psutil
import report
import torch
from load import Request, request, send
from report import Figure
from training import params

from alzmri import terminal
from alzmri.classes import CLASSES
from alzmri.data import images
from alzmri.data.packing import pack
from alzmri.data.prepared import PREPARED, Prepared
from alzmri.errors import EnvironmentFault
from alzmri.inference import export
from alzmri.inference.engine import INPUT, OUTPUTS
from alzmri.models import build, saved
from alzmri.models.forward import MEAN, STD
from alzmri.ood import features
from alzmri.ood import fit as ood_fit

CLIENTS = 64
BATCH = 32
"""Images in a run of the bare model: the largest that the server makes."""
PAIRS = 4
"""Comparisons of one slice's latency in a turn."""
TOGETHER = 16
"""Slices in a form, to tell what a request costs from what a slice costs."""
AN_HOUR = 18_000
"""Requests of the soak: an hour's at five a second."""


@dataclass(frozen=True)
class Plan:
    """What is measured with; ``seconds`` is about the length of one turn of one side."""

    folder: Path
    rounds: int
    threads: int
    seconds: float
    soak: int


@dataclass(frozen=True)
class Server:
    """`alzmri serve`, running: its port, its process, seconds until it answered."""

    port: int
    process: psutil.Popen
    start: float


def make(folder: Path, image_size: int) -> None:
    """A model in ``folder/models`` as the stages train and ood leave it, but not trained."""
    settings = params(image_size, BATCH, "fp32")
    directory = folder / PREPARED
    directory.mkdir(parents=True)
    pack(folder.parent / "phantom", directory, settings, lambda *_: None)
    collection.write_params(folder, image_size, BATCH, "fp32")
    prepared = Prepared.open(settings, directory)
    torch.manual_seed(0)
    shape = {"name": "alexnet", "classes": len(CLASSES), "image_size": image_size, "dropout": 0.5}
    card = saved.Card(
        architecture=shape,
        classes=list(CLASSES),
        preprocessing={"fit": settings.data.fit, "channels": 1, "mean": MEAN, "std": STD},
        parameters=settings.model_dump(mode="json"),
        training_subjects=[],
        data_sha256=prepared.digest,
        temperature=1.0,
        versions={},
    )
    saved.save(folder / "models", build(**shape).state_dict(), card)
    detector, _ = ood_fit.fit(folder / "models", prepared, seed=0)
    detector.save(folder / "models")


@contextmanager
def serving(folder: Path, threads: int) -> Iterator[Server]:
    """Start the server in ``folder``; yield when it answers."""
    log = folder / "serve.log"
    code = "from alzmri import terminal; from alzmri.cli import app; terminal.start(app)"
    words = [sys.executable, "-c", code, "serve", "--port", "0", "--threads", str(threads)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    begin = time.perf_counter()
    with log.open("w") as output:
        process = psutil.Popen(
            words, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        while not (found := re.search(r"^serving .*:(\d+) ", log.read_text(), re.MULTILINE)):
            if process.poll() is not None:
                raise EnvironmentFault(f"alzmri serve failed:\n{log.read_text()[-2000:]}")
            time.sleep(0.005)
        port = int(found[1])
        urllib.request.urlopen(f"http://127.0.0.1:{port}/ping").close()
        yield Server(port, process, time.perf_counter() - begin)
    finally:
        process.terminate()
        process.wait()


def jpegs(folder: Path, count: int) -> list[bytes]:
    """Slices as files."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in images.SUFFIXES)
    return [path.read_bytes() for path in paths[:: len(paths) // count][:count]]


def form(bodies: Sequence[bytes]) -> Request:
    """Slices in one request."""
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="slice.jpg"\r\n\r\n'
    content = b"".join(head + body + b"\r\n" for body in bodies) + b"--x--\r\n"
    return request("/predict", content, "multipart/form-data; boundary=x")


def batched(items: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    """``items`` in groups of ``size``."""
    return (items[start : start + size] for start in range(0, len(items), size))


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Bare: ONNX Runtime's own defaults."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def repeated(work: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, for about ``seconds`` in all."""
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return times


def speed(plan: Plan, image_size: int) -> Iterator[Figure]:
    """Throughput, latency and memory of the server, and the bare model in both libraries."""
    folder = plan.folder / str(image_size)
    torch.set_num_threads(plan.threads)
    model, _ = saved.load(folder / "models")
    network = features.WithFeatures(model)
    slices = np.random.default_rng(0).integers(0, 256, (BATCH, image_size, image_size), np.uint8)
    on_torch = torch.from_numpy(slices)
    good = [request("/invocations", body, "image/jpeg") for body in jpegs(plan.folder, 64)]
    forms = [form(group) for group in batched(jpegs(plan.folder, 64), TOGETHER)]
    bare = session(folder / "models/model.onnx", plan.threads)

    def onnx_run(count: int, seconds: float) -> float:
        runs = repeated(lambda: bare.run(OUTPUTS, {INPUT: slices[:count]}), seconds)
        return statistics.median(runs)

    @torch.inference_mode()
    def torch_runs() -> list[float]:
        return repeated(lambda: network(on_torch), plan.seconds)

    sides = ("server", "server, forms", "ONNX Runtime", "PyTorch")
    rates: dict[str, list[float]] = {side: [] for side in sides}
    latencies: dict[str, list[float]] = {"server": [], "ONNX Runtime": []}
    overheads: list[float] = []
    with serving(folder, plan.threads) as server:
        expected = int(plan.seconds * BATCH / onnx_run(BATCH, plan.seconds))
        for number in range(plan.rounds + 1):
            batch = onnx_run(BATCH, plan.seconds)
            # Longer than the others: its first and last batches leave a processor without work.
            crowd = max(3 * expected, 2 * CLIENTS)
            many = send(server.port, good, crowd, CLIENTS)
            together = send(server.port, forms, max(crowd // TOGETHER, 20), CLIENTS // TOGETHER * 2)
            # Pairs, each one right after the other: the difference is small beside what a machine
            # drifts by.
            singles, ones = [], []
            for _ in range(PAIRS):
                singles.append(1000 * onnx_run(1, plan.seconds / PAIRS))
                ones.append(send(server.port, good, max(expected // (4 * PAIRS), 20), 1))
            rival = statistics.median(torch_runs())
            if wrong := sum(sent.wrong for sent in (many, together, *ones)):
                raise EnvironmentFault(f"{wrong} requests were not answered")
            if number:
                rates["ONNX Runtime"].append(BATCH / batch)
                rates["server"].append(len(many.latencies) / many.seconds)
                rates["server, forms"].append(TOGETHER * len(together.latencies) / together.seconds)
                rates["PyTorch"].append(BATCH / rival)
                answered = [1000 * statistics.median(one.latencies) for one in ones]
                latencies["server"].append(statistics.median(answered))
                latencies["ONNX Runtime"].append(statistics.median(singles))
                overheads += [ours - theirs for ours, theirs in zip(answered, singles, strict=True)]
        memory = server.process.memory_info().rss / 2**20
    weights = (folder / "models/model.safetensors").stat().st_size / 2**20
    median = {side: statistics.median(values) for side, values in rates.items()}
    pair = {side: rates[side] for side in ("server", "ONNX Runtime")}
    yield Figure(
        f"server, {CLIENTS} clients with one slice each, over ONNX Runtime in batches of {BATCH},"
        f" {image_size} px",
        "images/s",
        pair,
        median["server"] / median["ONNX Runtime"],
        0.9,
    )
    yield Figure(
        f"server, {CLIENTS // TOGETHER * 2} clients with forms of {TOGETHER} slices, over ONNX"
        f" Runtime in batches of {BATCH}, {image_size} px",
        "images/s",
        {side: rates[side] for side in ("server, forms", "ONNX Runtime")},
        median["server, forms"] / median["ONNX Runtime"],
    )
    yield Figure(
        f"latency of one slice, server less ONNX Runtime, {image_size} px",
        "ms",
        latencies,
        statistics.median(overheads),
        3,
        at_most=True,
        scale="ms",
    )
    yield Figure(
        f"ONNX Runtime over PyTorch, batches of {BATCH}, {image_size} px, fp32",
        "images/s",
        {side: rates[side] for side in ("ONNX Runtime", "PyTorch")},
        median["ONNX Runtime"] / median["PyTorch"],
    )
    yield Figure(
        f"resident memory of the server over the weights, {image_size} px",
        "MiB",
        {"server": [memory], "weights": [weights]},
        memory / weights,
    )


def starts(plan: Plan, image_size: int) -> Iterator[Figure]:
    """From the start of the process to its first answer, the first time and from then on."""
    folder = plan.folder / str(image_size)
    seconds: dict[str, list[float]] = {"first, which exports": [], "later": []}
    for _ in range(plan.rounds):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        with moved_away(folder / "models/model.onnx"):
            for values in seconds.values():
                with serving(folder, plan.threads) as server:
                    values.append(server.start)
    yield Figure(
        f"cold start to the first answer, {image_size} px",
        "s",
        seconds,
        statistics.median(seconds["later"]),
        scale="s",
    )


@contextmanager
def moved_away(path: Path) -> Iterator[None]:
    """Without ``path`` for a while."""
    aside = path.with_suffix(".aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def soak(plan: Plan, image_size: int) -> Iterator[Figure]:
    """An hour's requests, a third of them bad, as fast as they are answered."""
    bodies = jpegs(plan.folder, 64)
    noise = np.random.default_rng(0).bytes(2000)
    mixture: list[Request] = []
    for number, body in enumerate(bodies):
        mixture.append(request("/invocations", body, "image/jpeg"))
        mixture.append(request("/invocations", body, "application/octet-stream"))
        bad = (
            request("/invocations", body[: len(body) // 2], "image/jpeg", 400),
            request("/invocations", noise, "image/png", 400),
            request("/invocations", body, "text/plain", 415),
            request("/predict", b"", "multipart/form-data; boundary=x", 422),
        )
        mixture.append(bad[number % len(bad)])
    megabytes: list[float] = []
    wrong = 0
    with serving(plan.folder / str(image_size), plan.threads) as server:
        for _ in range(4):
            wrong += send(server.port, mixture, plan.soak // 4, CLIENTS).wrong
            megabytes.append(server.process.memory_info().rss / 2**20)
    yield Figure(
        f"{plan.soak} requests, a third of them bad: answered otherwise than they deserve",
        "MiB resident after each quarter",
        {"server": megabytes},
        wrong,
        0,
        at_most=True,
        scale="requests",
    )
    yield Figure(
        f"{plan.soak} requests, a third of them bad: memory at the end over after a quarter",
        "MiB resident after each quarter",
        {"server": megabytes},
        megabytes[-1] / megabytes[0],
        1.05,
        at_most=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is not met")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: see that it works")
    parser.add_argument("--rounds", type=int, default=3, help="counted turns of each")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    machine = report.machine(options.threads)
    figures: list[Figure] = []
    folder = Path(tempfile.mkdtemp(prefix="alzmri-bench-"))
    seconds, count = (0.2, 200) if options.quick else (4, AN_HOUR)
    plan = Plan(folder, options.rounds, options.threads, seconds, count)
    try:
        terminal.say("drawing slices, making models")
        collection.draw(folder / "phantom")
        for image_size in (224, 64):
            place = folder / str(image_size)
            make(place, image_size)
            export.write(place / "models", place / "models/model.onnx")
            for measure in (speed, starts):
                for figure in measure(plan, image_size):
                    figures.append(figure)
                    terminal.say(f"  {figure.name}: {figure.ratio:.3f} {figure.scale}")
        figures += soak(plan, 64)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.show(figures)
    if not options.quick:
        json = report.PAGE.parent.parent / "bench/results-serving.json"
        command = report.command("make bench-serving", parser, options)
        report.write(figures, machine, command, json, "bench serving")
    report.conclude(figures, options.strict)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(terminal.run(main))

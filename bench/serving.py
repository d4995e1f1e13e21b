"""What serving costs over the bare model, as ratios from one run: ``make bench-serving``.

`alzmri serve` has an AlexNet of one epoch (its weights cost no time); clients on the same machine
send simulated slices as JPEG. What is compared takes turns, after a first turn that does not count.
Writes bench/results-serving.json and its section of docs/performance.md, but not with ``--quick``.
"""

import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import report
import torch
import training
import uvloop
from report import Figure, compared
from training import THREADS

from alzmri import terminal
from alzmri.data import images
from alzmri.errors import EnvironmentFault
from alzmri.inference import onnx_export
from alzmri.inference.onnx_export import INPUT, OUTPUTS

ROUNDS = 3  # turns of each side that count
CLIENTS = 64
BATCH = 32  # images in a run of the bare model: the largest that the server makes
PAIRS = 4  # comparisons of one slice's latency in a turn
HEAD = (
    b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    b"Content-Length: %d\r\n\r\n"
)
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def send(port: int, images: Sequence[bytes], count: int, clients: int) -> list[float]:
    """Send ``count`` images, round and round, by ``clients`` at once; the seconds of each.

    Clients are as cheap as possible, because they share the server's processors. A refusal raises
    EnvironmentFault.
    """
    requests = [HEAD % len(image) + image for image in images]
    latencies: list[float] = []
    numbers = iter(range(count))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            begin = time.perf_counter()
            writer.write(requests[number % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            found = LENGTH.search(head)
            if not found or head.split(maxsplit=2)[1] != b"200":
                raise EnvironmentFault(f"a request was refused: {head.decode()}")
            await reader.readexactly(int(found[1]))
            latencies.append(time.perf_counter() - begin)
        writer.close()

    async def everyone() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(everyone())
    return latencies


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Start `alzmri serve` in ``folder``; yield its port when it answers."""
    log = folder / "serve.log"
    words = [sys.executable, "-m", "alzmri", "serve", "--port", "0", "--threads", str(THREADS)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    with log.open("w") as output:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        while not (found := re.search(r"^serving .*:(\d+) ", log.read_text(), re.MULTILINE)):
            if process.poll() is not None:
                raise EnvironmentFault(f"alzmri serve failed:\n{log.read_text()[-2000:]}")
            time.sleep(0.005)
        urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/ping").close()
        yield int(found[1])
    finally:
        process.terminate()
        process.wait()


def speed(phantom: Path, folder: Path, image_size: int, seconds: float) -> Iterator[Figure]:
    """Throughput and latency of the server over ONNX Runtime alone, with its own defaults.

    One turn of one side takes about ``seconds``.
    """
    import onnxruntime  # by now alzmri has turned its telemetry off

    training.packed(phantom, folder, training.params(image_size, BATCH, "fp32", epochs=1))
    for stage in ("train", "ood"):
        training.run_stage(stage, folder)
    onnx_export.write(folder / "models", folder / "models/model.onnx")
    paths = sorted(path for path in phantom.rglob("*") if path.suffix in images.SUFFIXES)
    files = [path.read_bytes() for path in paths[:: len(paths) // CLIENTS][:CLIENTS]]
    slices = np.random.default_rng(0).integers(0, 256, (BATCH, image_size, image_size), np.uint8)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = THREADS
    model = str(folder / "models/model.onnx")
    bare = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])

    def run(count: int, seconds: float) -> float:
        """The median of the seconds of each run of ``count`` slices, for ``seconds`` in all."""
        times: list[float] = []
        while sum(times) < seconds or len(times) < 3:
            begin = time.perf_counter()
            bare.run(OUTPUTS, {INPUT: slices[:count]})
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    rates: list[tuple[float, float]] = []
    latencies: list[tuple[float, float]] = []
    with serving(folder) as port:
        expected = int(seconds * BATCH / run(BATCH, seconds))
        for _ in range(ROUNDS + 1):
            batch = run(BATCH, seconds)
            # Longer than the other: its first and last batches leave a processor without work.
            crowd, begin = max(3 * expected, 2 * CLIENTS), time.perf_counter()
            send(port, files, crowd, CLIENTS)
            rates.append((crowd / (time.perf_counter() - begin), BATCH / batch))
            # Pairs, each one right after the other: the difference is small beside what a machine
            # drifts by.
            for _ in range(PAIRS):
                single = run(1, seconds / PAIRS)
                answered = send(port, files, max(expected // (4 * PAIRS), 20), 1)
                latencies.append((1000 * statistics.median(answered), 1000 * single))
    name = f"server, {CLIENTS} clients with one slice each, over ONNX Runtime in batches of {BATCH}"
    yield compared(f"{name}, {image_size} px", "images/s", _sides(rates[1:]), 0.9)
    name = f"latency of one slice, server less ONNX Runtime, {image_size} px"
    overhead = statistics.median(server - alone for server, alone in latencies[PAIRS:])
    yield Figure(name, "ms", _sides(latencies[PAIRS:]), overhead, 3, at_most=True, scale="ms")


def _sides(pairs: list[tuple[float, float]]) -> dict[str, list[float]]:
    server, bare = map(list, zip(*pairs, strict=True))
    return {"server": server, "ONNX Runtime": bare}


def main() -> None:
    options = report.arguments(__doc__).parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory(prefix="alzmri-bench-") as name:
        folder, seconds = Path(name), 0.2 if options.quick else 4
        training.draw(folder / "phantom")
        sizes = (speed(folder / "phantom", folder / str(n), n, seconds) for n in (224, 64))
        figures = chain.from_iterable(sizes)
        report.record(figures, "make bench-serving", "results-serving", options)


if __name__ == "__main__":
    terminal.start(main)

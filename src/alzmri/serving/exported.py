"""The model as ONNX for serving, exported first when nobody has."""

import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from alzmri import terminal
from alzmri.errors import EnvironmentFault
from alzmri.inference.engine import Engine
from alzmri.inference.predictor import CPU, Predictor
from alzmri.ood import features


def load(folder: Path, predictor: Predictor, threads: int) -> Engine:
    """The engine of the model in ``folder``, which is also ``predictor``'s.

    ``folder/model.onnx`` is used when it says what ``predictor`` says. Otherwise the model is
    exported into the user's cache, where it stays for the next start. The caller is :func:`alone`.
    """
    kept = cache(folder) / "model.onnx"
    for path in (folder / "model.onnx", kept):
        if path.is_file() and (engine := _engine(path, threads, predictor)):
            return engine
    terminal.say(f"exporting the model to {kept} (once for each training)")
    # In a process of its own: what the exporter loads would stay in the server's memory.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(_export, folder, kept).result()
    return Engine.load(kept, threads)


def _engine(path: Path, threads: int, predictor: Predictor) -> Engine | None:
    """The engine of ``path``; None when it is damaged, another model's or another version's."""
    side = predictor.preprocessing.image_size
    noise = np.random.default_rng(0).integers(0, 256, (2, side, side), np.uint8)
    try:
        engine = Engine.load(path, threads)
        if engine.about["weights"] != predictor.detector.weights:
            return None
        found = engine.run(noise)
    except EnvironmentFault:
        raise
    except Exception:  # noqa: BLE001 - a damaged file can make the runtime raise anything
        return None
    expected = features.run(predictor.model, noise, np.arange(2), CPU)
    pairs: zip[tuple[NDArray[Any], NDArray[Any]]] = zip(found, expected, strict=True)
    same = all(
        ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()
        for ours, theirs in pairs
    )
    return engine if same else None


def _export(folder: Path, path: Path) -> None:
    from alzmri.inference import export

    export.write(folder, path)


def cache(folder: Path) -> Path:
    """Where what was computed about the model in ``folder`` is kept: one place for each folder.

    A new training overwrites what was kept of the last; the place may be deleted at any time.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "alzmri" / "serve" / hashlib.sha256(bytes(folder.resolve())).hexdigest()[:16]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Of servers that start at the same time, one computes what is kept of ``folder``."""
    lock = FileLock(cache(folder) / "lock")
    try:
        cache(folder).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:  # a container may have no place to write, nor any need for it
        pass
    try:
        yield
    finally:
        lock.release()

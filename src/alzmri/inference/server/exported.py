"""The model as ONNX for serving, exported first when nobody has."""

import hashlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alzmri import terminal
from alzmri.errors import EnvironmentFault
from alzmri.inference.engine import Engine
from alzmri.inference.predictor import CPU, Predictor
from alzmri.ood import features


def load(folder: Path, predictor: Predictor, threads: int) -> Engine:
    """The engine of the model in ``folder``, which is also ``predictor``'s.

    ``folder/model.onnx`` is used when it says what ``predictor`` says. Otherwise the model is
    exported into the user's cache, where it stays for the next start.
    """
    kept = cache(folder) / "model.onnx"
    for path in (folder / "model.onnx", kept):
        if (engine := _engine(path, threads)) and _agree(engine, predictor):
            return engine
    terminal.say(f"exporting the model to {kept} (once for each training)")
    # In a process of its own: what the exporter loads would stay in the server's memory.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(_export, folder, kept).result()
    return Engine.load(kept, threads)


def _agree(engine: Engine, predictor: Predictor) -> bool:
    """Whether both are of the same weights and compute the same: an older version's may not."""
    if engine.about["weights"] != predictor.detector.weights:
        return False
    side = predictor.preprocessing.image_size
    noise = np.random.default_rng(0).integers(0, 256, (2, side, side), np.uint8)
    expected = features.run(predictor.model, noise, np.arange(2), CPU)
    pairs: zip[tuple[NDArray[Any], NDArray[Any]]] = zip(engine.run(noise), expected, strict=True)
    return all(
        ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()
        for ours, theirs in pairs
    )


def _export(folder: Path, path: Path) -> None:
    from alzmri.inference import export

    export.write(folder, path)


def _engine(path: Path, threads: int) -> Engine | None:
    """The engine of a file of ours; None when there is none, or it is damaged or another's."""
    if not path.is_file():
        return None
    try:
        return Engine.load(path, threads)
    except EnvironmentFault:
        raise
    except Exception:  # noqa: BLE001 - a damaged file can make the runtime raise anything
        return None


def cache(folder: Path) -> Path:
    """Where what was computed about the model in ``folder`` is kept: one place for each folder.

    A new training overwrites what was kept of the last; the place may be deleted at any time.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "alzmri" / "serve" / hashlib.sha256(bytes(folder.resolve())).hexdigest()[:16]

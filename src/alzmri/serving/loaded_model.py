"""Load the model with everything that the server reads once, and compare it with known slices.

Training slices are the nearest examples; test slices show how often each class was right.
"""

import hashlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from alzmri import __version__, params, terminal
from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.evaluation import leak
from alzmri.files import replacing
from alzmri.inference import onnx_export
from alzmri.inference.onnx_export import Engine
from alzmri.inference.predictor import Predictor
from alzmri.models.forward import probabilities
from alzmri.ood.detector import share_interval
from alzmri.serving.answers import ClassFrequency, NearestSlices

NEAREST = 10  # number of training slices to show
WINDOW = 60  # number of test slices with the most similar probability


@dataclass(frozen=True)
class KnownSlices:
    """The model's outputs for the ``n`` training and ``m`` test slices of the prepared data."""

    prepared: Prepared
    features: NDArray[np.float32]  # of training slices, [n, width], each of length 1
    probabilities: NDArray[np.float64]  # of test slices, calibrated, [m, classes]

    def nearest(self, features: NDArray[np.float32]) -> NearestSlices:
        """The training slices whose features are most similar to ``features`` ``[width]``.

        Similarity is the cosine of the model's features, as in deep k-nearest neighbours (Papernot
        and McDaniel, 2018), and not what the eye sees.
        """
        similarity = self.features @ (features / np.linalg.norm(features))
        order = np.argsort(-similarity, kind="stable")[:NEAREST]
        rows = [self.prepared.rows[index] for index in self.prepared.indices("train")[order]]
        subjects = len({row.subject for row in rows})
        return NearestSlices(classes=[row.label for row in rows], subjects=subjects)

    def observed(self, probabilities: NDArray[np.float64]) -> dict[str, ClassFrequency]:
        """Frequencies of the classes in test slices with similar ``probabilities`` ``[classes]``.

        The interval is Clopper and Pearson's, with subjects as trials, because slices of one brain
        are not independent.
        """
        result = {}
        test = self.prepared.indices("test")
        for label, name in enumerate(self.prepared.classes):
            distance = np.abs(self.probabilities[:, label] - probabilities[label])
            window = test[np.argsort(distance, kind="stable")[:WINDOW]]
            share = float((self.prepared.labels[window] == label).mean())
            subjects = len({self.prepared.rows[index].subject for index in window})
            low, high = share_interval(share, subjects)
            result[name] = ClassFrequency(
                share=share, low=low, high=high, slices=len(window), subjects=subjects
            )
        return result


@dataclass(frozen=True)
class LoadedModel:
    """A model with everything that the server reads once, at its start."""

    folder: Path
    predictor: Predictor
    engine: Engine  # the model, with all threads for one batch
    narrow: Engine  # the same with one thread
    known: KnownSlices | None
    absent: str | None  # reason why there are no known slices
    leaks: str  # ``LEAKS``, ``MAY LEAK`` or empty


def load(folder: Path, threads: int) -> LoadedModel:
    """Load the model in ``folder``, and compute known slices if data/prepared is its own data.

    The user's cache keeps the results. Raises :class:`UserError` without a usable model.
    """
    predictor = Predictor.load(folder)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alzmri/serve"
    cache = root / hashlib.sha256(bytes(folder.resolve())).hexdigest()[:16]
    known = absent = None
    with ExitStack() as stack:
        # One of several servers that start together computes. A container may be unable to write,
        # and needs no lock.
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(cache / "lock"))
        engine = _engine(folder, cache / "model.onnx", predictor, threads)
        narrow = engine if threads == 1 else Engine(engine.path, 1)
        try:
            prepared = Prepared.open(params.load())
            if prepared.digest != predictor.card.data_sha256:
                raise UserError("the model was not trained on this data/prepared")
            known = compare(prepared, engine, predictor.card.temperature, cache / "known.npz")
        except UserError as error:
            absent = str(error)
    leaks = leak.of_model(folder, predictor.card.parameters["split"]["unit"])
    return LoadedModel(folder, predictor, engine, narrow, known, absent, leaks)


def _engine(folder: Path, kept: Path, predictor: Predictor, threads: int) -> Engine:
    """``folder/model.onnx`` or ``kept`` if it predicts like ``predictor``; else a new export."""
    for path in (folder / "model.onnx", kept):
        with suppress(Exception):  # a damaged file can make the runtime raise anything
            engine = Engine(path, threads)
            same = engine.about["weights"] == predictor.detector.weights
            if same and onnx_export.difference(predictor, engine) < onnx_export.TOLERANCE:
                return engine
    terminal.say(f"exporting the model to {kept} (once for each training)")
    # In another process, because the exporter's modules would stay in the server's memory.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(onnx_export.write, folder, kept).result()
    return Engine(kept, threads)


def compare(prepared: Prepared, engine: Engine, temperature: float, kept: Path) -> KnownSlices:
    """Run the model on training and test slices, or read the results ``kept`` before."""
    key = f"{__version__} {engine.about['weights']} {prepared.digest} {temperature}"
    with suppress(OSError, ValueError, KeyError, TypeError, BadZipFile), np.load(kept) as arrays:
        if str(arrays["key"]) == key:
            return KnownSlices(prepared, arrays["features"], arrays["probabilities"])
    train, test = prepared.indices("train"), prepared.indices("test")
    with terminal.progress("comparing with known slices") as update:
        logits, features = engine.run(prepared.images[np.concatenate([train, test])], update)
    features = features[: len(train)]
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    chances = probabilities(logits[len(train) :] / temperature)
    with suppress(OSError), replacing(kept) as temporary, temporary.open("wb") as handle:
        # A read-only container cannot keep them.
        np.savez(handle, key=key, features=features, probabilities=chances)
    return KnownSlices(prepared, features, chances)

"""Export the model as ONNX for other programs, and check it against PyTorch."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alzmri.data.images import Pixels
from alzmri.data.prepared import Prepared
from alzmri.errors import EnvironmentFault, UserError, require
from alzmri.files import replacing
from alzmri.inference import NOTICE
from alzmri.inference.predictor import Predictor, interpret
from alzmri.models import saved
from alzmri.models.forward import MEAN, STD
from alzmri.terminal import Update

INPUT, OUTPUTS = "images", ["logits", "features"]  # names in the graph
TOLERANCE = 1e-4  # largest difference of probabilities between ONNX Runtime and PyTorch
_METADATA = "alzmri"  # the key of ``Engine.about`` in the file
_BATCH_SIZE = 32  # images per run; ONNX Runtime keeps the memory of the largest one


class Engine:
    """Runs the ONNX file ``path`` by ONNX Runtime on the CPU, without PyTorch.

    ``about`` is what :func:`write` recorded of the model.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load ``path`` to run with ``threads`` (0: one per core)."""
        runtime = require("onnxruntime", "export")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads spin only during a run; after it, other threads need the cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Without memory plans: batches come in every size, and one plan each would add up.
        options.enable_mem_pattern = False
        self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.path, self.about = path, json.loads(metadata[_METADATA])

    def run(
        self, images: Pixels, progress: Update | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Logits ``[n, classes]`` and features ``[n, width]`` of uint8 ``[n, side, side]``.

        ``progress(done, total)`` counts images.
        """
        batches = []
        for start in range(0, len(images), _BATCH_SIZE):
            chosen = images[start : start + _BATCH_SIZE]
            batches.append(self._session.run(OUTPUTS, {INPUT: chosen}))
            if progress:
                progress(start + len(chosen), len(images))
        logits, activations = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return logits.astype(np.float64), activations


def write(directory: Path, path: Path, images: Pixels | None = None) -> float:
    """Write the model in ``directory`` to ``path``; return its :func:`difference` from PyTorch.

    The graph turns packed slices, uint8 ``[n, side, side]`` for any ``n``, into logits and
    features. Raises :class:`UserError` for an unusable model, and :class:`EnvironmentFault` for a
    missing package or results that differ by more than ``TOLERANCE``.
    """
    onnx = require("onnx", "export")
    predictor = Predictor.load(directory)
    require("onnxscript", "export")
    # The exporter warns about every operation of torchvision, which is not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    side = predictor.side
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about itself
        exported = torch.onnx.export(
            predictor.model,
            (torch.zeros(2, side, side, dtype=torch.uint8),),
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    program = exported.model_proto
    for node in program.graph.node:
        # Remove traces of source files, whose paths would change the bytes on every machine.
        del node.metadata_props[:]
    entry = program.metadata_props.add()
    card = predictor.card
    about = {
        "notice": NOTICE,
        "card": {key: value for key, value in vars(card).items() if key != "training_subjects"},
        "preprocessing": [
            "decode, turn upright by EXIF, to 8-bit gray",
            "pad with black to a square" if card.preprocessing["fit"] == "pad" else "no padding",
            f"resize to {side} pixels a side by area averages",
            f"in the graph: (value / 255 - {MEAN}) / {STD}",
        ],
        "output": f"softmax of logits / {card.temperature}",
        "weights": predictor.detector.weights,
    }
    entry.key, entry.value = _METADATA, json.dumps(about)
    with replacing(path) as temporary:
        onnx.save_model(program, temporary)
        largest = difference(predictor, Engine(temporary), images)
        if not largest < TOLERANCE:
            raise EnvironmentFault(
                f"ONNX Runtime's results differ from PyTorch's by {largest:.1e}, more than"
                f" {TOLERANCE:.0e}: use other versions of torch and onnxruntime"
            )
    return largest


def difference(predictor: Predictor, engine: Engine, images: Pixels | None = None) -> float:
    """The largest difference of a probability or of a tenth of an OOD score's ratio.

    ``images`` are uint8 ``[n, side, side]``; by default they are noise.
    """
    if images is None:
        shape = 3, predictor.side, predictor.side
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = predictor.predict(images)
    found = interpret(*engine.run(images), predictor.card, predictor.detector)
    chances = np.abs(found.probabilities - expected.probabilities)
    scores = np.abs(found.ood_score / expected.ood_score - 1)
    return float(max(chances.max(), scores.max() / 10))


def export(directory: Path, path: Path, prepared: Prepared) -> tuple[dict[str, Any], str]:
    """:func:`write` the model, compared with PyTorch on every test slice.

    Returns the content of ``models/export.onnx.json`` and one line for the terminal. Also raises
    :class:`UserError` if the model was trained on other data.
    """
    _, card = saved.load(directory)
    if card.data_sha256 != prepared.digest:
        raise UserError(
            f"the model in {directory}/ was trained on other data or another split than"
            " data/prepared: run `dvc repro train`"
        )
    images = prepared.images[prepared.indices("test")]
    largest, size = write(directory, path, images), path.stat().st_size
    # To one digit, because the next ones depend on the processor.
    found = {"largest_difference": float(f"{largest:.0e}"), "slices": len(images), "bytes": size}
    return found, (
        f"{path}: {size / 1e6:.0f} MB; on {len(images)} test slices the results differ from"
        f" PyTorch's by at most {largest:.0e}"
    )

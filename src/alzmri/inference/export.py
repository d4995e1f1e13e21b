"""The model as ONNX: what other programs run, checked against PyTorch before it is written."""

import json
import logging
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from alzmri.data.prepared import Prepared
from alzmri.errors import EnvironmentFault, UserError
from alzmri.files import replacing
from alzmri.inference import NOTICE
from alzmri.inference.engine import INPUT, METADATA, OUTPUTS, Engine
from alzmri.inference.extras import require
from alzmri.inference.predictor import CPU, Predictor, Preprocessing, interpret
from alzmri.models import saved
from alzmri.models.forward import MEAN, STD, probabilities
from alzmri.models.saved import Card
from alzmri.models.validation import macro_f1
from alzmri.ood.features import WithFeatures, run

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-4
"""Of probabilities, between ONNX Runtime and PyTorch."""


def write(directory: Path, path: Path) -> float:
    """Write the model in ``directory`` to ``path``; return how far it is from PyTorch's.

    The graph takes packed slices, uint8 ``[n, side, side]`` for any ``n``, normalises them, and
    gives the logits and the features. How to make a packed slice of an image is in
    its metadata, under ``alzmri``. The returned number is the largest difference of a probability
    on images of noise, for which no data are needed; see also :func:`export`.

    Raises:
        UserError: when there is no usable model.
        EnvironmentFault: when the packages are missing, or the difference is above ``TOLERANCE``.
    """
    onnx = require("onnx", "export")
    model, card = saved.load(directory)
    network = WithFeatures(model)
    side = Preprocessing.of(card).image_size
    program = _program(network, side)
    for node in program.graph.node:
        # Where in whose source tree it was traced: of no use, and other bytes on every machine.
        del node.metadata_props[:]
    entry = program.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(_about(card, saved.digest(directory)))
    noise = np.random.default_rng(0).integers(0, 256, (3, side, side), np.uint8)
    with replacing(path) as temporary:
        onnx.save_model(program, temporary)
        difference = _difference(network, Engine.load(temporary), noise, card.temperature)
        _check(difference)
    return difference


def _check(difference: float) -> None:
    """Refuse a model that differs from PyTorch's by more than ``TOLERANCE``."""
    if not difference < TOLERANCE:
        raise EnvironmentFault(
            f"ONNX Runtime's probabilities differ from PyTorch's by {difference:.1e}, more than"
            f" {TOLERANCE:.0e}: these versions of torch and onnxruntime cannot be used"
        )


def _program(network: WithFeatures, side: int) -> "onnx.ModelProto":
    require("onnxscript", "export")
    # It warns of every operation of torchvision's, which is not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    example = torch.zeros(2, side, side, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about itself
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _about(card: Card, weights: str) -> dict[str, Any]:
    public = {name: value for name, value in vars(card).items() if name != "training_subjects"}
    return {
        "notice": NOTICE,
        "card": public,
        "preprocessing": [
            "decode, turn upright by EXIF, to 8-bit gray",
            "pad with black to a square" if card.preprocessing["fit"] == "pad" else "no padding",
            f"resize to {card.architecture['image_size']} pixels a side by area averages",
            f"in the graph: (value / 255 - {MEAN}) / {STD}",
        ],
        "output": f"softmax of logits / {card.temperature}",
        "weights": weights,
    }


def _difference(
    network: WithFeatures, engine: Engine, images: NDArray[np.uint8], temperature: float
) -> float:
    """The largest of a probability, on uint8 ``[n, side, side]``."""
    expected, _ = run(network, images, np.arange(len(images)), CPU)
    found, _ = engine.run(images)
    first, second = (probabilities(logits / temperature) for logits in (expected, found))
    return float(np.abs(first - second).max())


def export(directory: Path, path: Path, prepared: Prepared) -> dict[str, Any]:
    """Write the model in ``directory`` to ``path``; return how it does on the test slices.

    The probabilities must be PyTorch's on every test slice.

    Raises:
        UserError: when there is no usable model, or it was trained on other data.
        EnvironmentFault: see :func:`write`.
    """
    predictor = Predictor.load(directory)
    if predictor.card.data_sha256 != prepared.digest:
        raise UserError(
            f"{directory}/ was trained on other data or another split than data/prepared: run"
            " `dvc repro train`"
        )
    with replacing(path) as temporary:
        write(directory, temporary)
        metrics = _compare(predictor, Engine.load(temporary), prepared)
        _check(metrics["largest_difference"])
        return {**metrics, "bytes": temporary.stat().st_size}


def _compare(predictor: Predictor, engine: Engine, prepared: Prepared) -> dict[str, Any]:
    """The content of ``models/export.onnx.json``: the test slices, by both."""
    indices = prepared.indices("test")
    images, truth = prepared.images[indices], prepared.labels[indices]
    expected = predictor.predict(images)
    found = interpret(*engine.run(images), predictor.card, predictor.detector)
    difference = float(np.abs(found.probabilities - expected.probabilities).max())
    scores = [macro_f1(truth, item.probabilities.argmax(axis=1)) for item in (expected, found)]
    return {
        # Upward to one digit: the next ones are the processor's, not the model's.
        "largest_difference": _one_digit_up(difference),
        "macro_f1": round(scores[1], 6),
        "lost_macro_f1": round(scores[0] - scores[1], 6),
        "slices": len(images),
        "other_ood": int((found.in_distribution != expected.in_distribution).sum()),
    }


def _one_digit_up(value: float) -> float:
    if value == 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / unit) * unit:.0e}")


def headline(metrics: dict[str, Any]) -> str:
    """One line for the terminal, of what :func:`export` returns."""
    before = metrics["macro_f1"] + metrics["lost_macro_f1"]
    return (
        f"{metrics['bytes'] / 1e6:.0f} MB; on {metrics['slices']} test slices probabilities differ"
        f" from PyTorch's by at most {metrics['largest_difference']:.0e}, macro F1"
        f" {metrics['macro_f1']:.3f} instead of {before:.3f}"
    )

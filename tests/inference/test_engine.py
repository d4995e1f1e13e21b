"""An exported model answers for as many slices as are asked about, in their order."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from alzmri.inference.engine import BATCH_SIZE, INPUT, METADATA, OUTPUTS, Engine


@pytest.fixture
def engine(tmp_path):
    """A graph whose logits are each slice's pixels, and whose features their doubles."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["pixels"], [OUTPUTS[0]]),
            helper.make_node("Add", [OUTPUTS[0], OUTPUTS[0]], [OUTPUTS[1]]),
        ],
        "doubled",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", 2, 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in OUTPUTS],
    )
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(program, {METADATA: json.dumps({"weights": "w"})})
    onnx.save_model(program, tmp_path / "model.onnx")
    return Engine.load(tmp_path / "model.onnx", 1)


@pytest.mark.parametrize("count", [1, BATCH_SIZE, BATCH_SIZE + 1, 2 * BATCH_SIZE + 3])
def test_every_slice_has_its_own_outputs(engine, count):
    images = np.random.default_rng(0).integers(0, 256, (count, 2, 2), np.uint8)
    logits, features = engine.run(images)
    assert (logits.dtype, features.dtype) == (np.float64, np.float32)
    np.testing.assert_array_equal(logits, images.reshape(count, 4))
    np.testing.assert_array_equal(features, 2.0 * images.reshape(count, 4))
    assert engine.about == {"weights": "w"}

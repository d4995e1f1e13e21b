"""The exported model, run by ONNX Runtime: without PyTorch, with the same results."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alzmri.inference.extras import require

if TYPE_CHECKING:
    import onnxruntime

INPUT, OUTPUTS = "images", ["logits", "features"]
"""Names in the graph."""
METADATA = "alzmri"
"""Under this key the file says how images are prepared and what the outputs mean."""
BATCH_SIZE = 64
"""Images in one run; no result depends on it."""


@dataclass(frozen=True)
class Engine:
    """An ONNX file, loaded.

    Attributes:
        path: of the file.
        session: of ONNX Runtime.
        about: what :func:`export.write` recorded: ``card`` (less the training subjects),
            ``preprocessing`` in words, ``weights`` (SHA-256 of ``model.safetensors``), ``notice``.
    """

    path: Path
    session: "onnxruntime.InferenceSession"
    about: dict[str, Any]

    @classmethod
    def load(cls, path: Path, threads: int = 0) -> "Engine":
        """Load ``path`` for the CPU, with so many ``threads`` (0: one per core)."""
        runtime = require("onnxruntime", "export")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait for more by spinning are for a run only: then others have work to do.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Batches come in every size; a plan of memory kept for each would add up.
        options.enable_mem_pattern = False
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        about = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        return cls(path, session, about)

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Logits ``[n, classes]`` and features ``[n, width]`` of uint8 ``[n, side, side]``."""
        batches = [
            self.session.run(OUTPUTS, {INPUT: images[start : start + BATCH_SIZE]})
            for start in range(0, len(images), BATCH_SIZE)
        ]
        logits, features = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return logits.astype(np.float64), features

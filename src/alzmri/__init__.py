"""alzmri: classify four stages of Alzheimer's disease from 2D brain MRI slices."""

import os

__version__ = "1.0.0"

# These stop packages from contacting their makers, and must be set before the imports: ONNX Runtime
# sends a device id, paths and error texts, W&B its own errors; Albumentations checks its version.
os.environ.update(
    ORT_DISABLE_TELEMETRY="1",
    WANDB_ERROR_REPORTING="false",
    NO_ALBUMENTATIONS_UPDATE="1",
)

"""alzmri: four stages of Alzheimer's disease from 2D brain MRI slices, honestly scored."""

import os

__version__ = "1.0.0"

# Some packages report to their makers unless this is set before they are imported: ONNX Runtime a
# device id, paths and error texts; W&B its own errors; Albumentations asks for its newest version.
os.environ.update(
    ORT_DISABLE_TELEMETRY="1",
    WANDB_ERROR_REPORTING="false",
    NO_ALBUMENTATIONS_UPDATE="1",
)

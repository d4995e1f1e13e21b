"""Evaluation: metrics, intervals over subjects, calibration, figures, the model card."""

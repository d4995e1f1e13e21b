"""Honest numbers: metrics, intervals over subjects, calibration, figures."""

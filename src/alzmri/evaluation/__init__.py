"""Honest numbers: metrics, intervals over people, calibration, figures."""

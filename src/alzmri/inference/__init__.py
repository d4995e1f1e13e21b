"""Use a trained model: predict, explain, export."""

NOTICE = "Research software. Not a medical device, not for clinical use, no diagnosis."
"""The notice in every output."""

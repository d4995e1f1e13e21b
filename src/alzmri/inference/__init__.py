"""A trained model at work: predict, explain, export."""

NOTICE = "Research software. Not a medical device, not for clinical use, no diagnosis."
"""What every output says."""

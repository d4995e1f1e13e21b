"""Run experiments, compare them, and show the results of this workspace."""

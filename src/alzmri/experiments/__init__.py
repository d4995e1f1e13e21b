"""Looking at experiments: the results of the run in this workspace."""

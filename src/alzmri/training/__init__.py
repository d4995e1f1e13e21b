"""The training loop, with batches, schedule and checkpoints."""

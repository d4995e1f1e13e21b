"""The training loop and what it needs: order of samples, schedule, averaged weights."""

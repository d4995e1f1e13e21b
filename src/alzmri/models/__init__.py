"""The architectures, their forward pass, and trained models on disk."""

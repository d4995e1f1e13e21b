"""Where to compute, and always the same way."""

import os

import torch


def choose() -> torch.device:
    """The GPU when there is one, else the CPU, with torch's deterministic kernels either way."""
    # cuBLAS promises repeatable sums only with a fixed workspace.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

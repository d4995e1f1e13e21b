"""The forward pass from packed pixels to class probabilities, and the device that computes it."""

import ctypes
import os
import platform
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alzmri.terminal import Update

MEAN, STD = 0.5, 0.5
"""The protocol's normalisation of pixel values from 0..1 to -1..1."""

BATCH_SIZE = 256
"""Images per forward pass without gradients; no score depends on it."""


def normalise(images: Tensor) -> Tensor:
    """Turn uint8 ``[n, side, side]`` into model input, float32 ``[n, 1, side, side]``, -1 to 1."""
    return (images.unsqueeze(1) * (1 / 255 / STD)).sub_(MEAN / STD)


@torch.inference_mode()
def outputs(
    model: Callable[[Tensor], Sequence[Tensor]],
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    device: torch.device,
    progress: Update | None = None,
) -> list[NDArray[np.float32]]:
    """The outputs of ``model``, float32 ``[len(indices), ...]``, in batches of ``BATCH_SIZE``.

    ``images`` is uint8 ``[n, side, side]`` and may be memory-mapped; ``model`` takes those at
    ``indices``, on ``device``. ``progress(done, total)`` counts images.
    """
    found = []
    for start in range(0, len(indices), BATCH_SIZE):
        chosen = torch.from_numpy(images[indices[start : start + BATCH_SIZE]]).to(device)
        found.append([output.cpu().numpy() for output in model(chosen)])
        if progress:
            progress(start + len(chosen), len(indices))
    return [np.concatenate(batches) for batches in zip(*found, strict=True)]


def predict(
    model: nn.Module, images: NDArray[np.uint8], indices: NDArray[np.int64], device: torch.device
) -> NDArray[np.float64]:
    """Logits, float64 ``[len(indices), classes]``, as :func:`outputs`."""
    model.eval()
    (logits,) = outputs(lambda chosen: [model(normalise(chosen))], images, indices, device)
    return logits.astype(np.float64)


def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def choose() -> torch.device:
    """The GPU if there is one, else the CPU, with torch's deterministic kernels.

    Under ``torchrun``, each process of a host gets its own GPU.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for repeatable sums of cuBLAS
    # use_deterministic_algorithms does the same, but imports torch's compiler, for 1.4 s.
    torch.set_deterministic_debug_mode("error")
    # Otherwise torch first fills new memory with NaN.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if platform.libc_ver()[0] == "glibc":
        # Reuse memory between steps, because the system would clear its pages. The parameters of
        # mallopt(3) are the thresholds for taking memory from the system and for returning it.
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)
        libc.mallopt(-1, (1 << 31) - 1)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def bfloat16(precision: str, device: torch.device) -> bool:
    """Whether ``train.precision`` means bfloat16 products on ``device``.

    ``auto`` uses them where they are several times faster: on GPUs with bfloat16, and on CPUs with
    AMX unless ``compute.portable`` forbids it.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capped = torch.backends.cpu.get_cpu_capability() == "AVX2"
    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and not capped

"""The device and its precision, with deterministic kernels."""

import ctypes
import os
import platform

import torch

# Parameters of mallopt(3): from which size memory comes from the system, and when it goes back.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def choose() -> torch.device:
    """The GPU when there is one, else the CPU, with torch's deterministic kernels either way.

    Under ``torchrun`` each process of a host takes its own GPU.
    """
    # cuBLAS promises repeatable sums only with a fixed workspace.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Not use_deterministic_algorithms, which imports torch's compiler for the same: 1.4 s.
    torch.set_deterministic_debug_mode("error")
    # Or torch fills memory with NaN before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _keep_freed_memory()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def bfloat16(precision: str, device: torch.device) -> bool:
    """Whether ``train.precision`` means bfloat16 products on ``device``.

    ``auto`` takes them where they are several times faster: GPUs that have them, and CPUs with AMX
    unless ``compute.portable`` forbids that.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capped = torch.backends.cpu.get_cpu_capability() == "AVX2"
    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and not capped


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The products of a training step as ``train.precision`` has them."""
    enabled = bfloat16(precision, device)
    # A weight is used once in a step: no cache.
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def generator(device: torch.device) -> torch.Generator:
    """The generator that dropout on ``device`` draws from.

    ``torch.manual_seed`` seeds it too, and takes 0.2 ms of a step for devices that are not there.
    """
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index]
    return torch.default_generator


def _keep_freed_memory() -> None:
    """Let the C library reuse memory from step to step: the system would clear its pages again."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)

"""How a stage uses the processor, so that its results have the same bytes on every x86-64 one.

This module imports neither torch nor NumPy: they read these variables when they are imported. Each
stage that computes sets them before that.
"""

import os
import platform

from alzmri import params
from alzmri.errors import UserError
from alzmri.params import Compute

CAPS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # its convolutions
    "MKL_CBWR": "COMPATIBLE",  # its matrix products; MKL's AVX2 differs between Intel and AMD
    "OPENBLAS_CORETYPE": "Haswell",  # those of NumPy and SciPy
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # NumPy's sums
    "OPENCV_IPP": "avx2",  # Intel's image kernels in OpenCV
}
"""With these every x86-64 processor since 2015 runs the same instructions."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""A sum depends on how many threads share it."""


def environment() -> dict[str, str]:
    """The variables that ``compute`` in ``params.yaml`` asks for; they win over the caller's.

    Empty where ``params.yaml`` cannot be read: the stage says so when it reads it.
    """
    try:
        return variables(params.load().compute)
    except UserError:
        return {}


def variables(compute: Compute) -> dict[str, str]:
    """The variables for ``compute``; of several processes on a host, each has its share."""
    chosen: dict[str, str] = {}
    if compute.portable and platform.machine() in ("x86_64", "AMD64"):
        chosen |= CAPS
    if compute.threads:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        chosen |= dict.fromkeys(THREADS, str(max(1, compute.threads // processes)))
        # Or MKL takes fewer where two threads share a core.
        chosen["MKL_DYNAMIC"] = "FALSE"
        # A thread that waits sleeps: on a busy machine spinning made a step four times as slow.
        chosen["OMP_WAIT_POLICY"] = "PASSIVE"
    return chosen


def idle_cores(threads: int) -> str:
    """What a training with ``threads`` leaves unused, and the settings that use it; else empty."""
    import psutil

    cores = psutil.cpu_count(logical=False) or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    if threads >= cores:
        return ""
    return f" of {cores} cores; -S compute.portable=false -S compute.threads=0 uses them all"

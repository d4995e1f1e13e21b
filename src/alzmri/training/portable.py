"""Settings of the processor that give a stage's results the same bytes on every x86-64 machine.

Each stage that computes sets them before it imports torch and NumPy: this module imports neither.
"""

import os
import platform

from alzmri import params
from alzmri.errors import UserError
from alzmri.params import Compute

# With these limits, every x86-64 processor with AVX2 runs the same instructions.
CAPS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # its convolutions
    "MKL_CBWR": "COMPATIBLE",  # its matrix products; MKL's AVX2 differs between Intel and AMD
    "OPENBLAS_CORETYPE": "Haswell",  # matrix products of NumPy and SciPy
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # NumPy's sums
    "OPENCV_IPP": "avx2",  # Intel's image kernels in OpenCV
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # sums depend on these


def environment() -> dict[str, str]:
    """The variables for ``params.yaml``; none if it is unreadable, which the stage reports."""
    try:
        return variables(params.load().compute)
    except UserError:
        return {}


def variables(compute: Compute) -> dict[str, str]:
    """The variables for ``compute``; processes on one host share its cores."""
    chosen: dict[str, str] = {}
    if compute.portable and platform.machine() in ("x86_64", "AMD64"):
        chosen |= CAPS
    if compute.threads:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        chosen |= dict.fromkeys(THREADS, str(max(1, compute.threads // processes)))
        chosen["MKL_DYNAMIC"] = "FALSE"  # or MKL uses fewer threads if two share a core
        chosen["OMP_WAIT_POLICY"] = "PASSIVE"  # on a busy machine, spinning is four times slower
    return chosen


def idle_cores(threads: int) -> str:
    """Text on cores that ``threads`` leave unused, and settings that use them; else empty."""
    import psutil

    cores = psutil.cpu_count(logical=False) or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    if threads >= cores:
        return ""
    return f" of {cores} cores; -S compute.portable=false -S compute.threads=0 uses them all"

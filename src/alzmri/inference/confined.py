"""For processes that read what comes from outside."""

import logging
import resource
import warnings

import psutil


def confine(memory: int) -> None:
    """Bound what this process may take beyond what it has, bytes; let no library log headers."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = psutil.Process().memory_info().vms + memory
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))

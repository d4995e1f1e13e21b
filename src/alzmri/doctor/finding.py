"""What one check of `alzmri doctor` found."""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How much a finding matters: only FAIL stops a run."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One line of the report, with what mends it unless all is well."""

    level: Level
    subject: str
    message: str
    remedy: str = ""


def ok(subject: str, message: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, subject, message)


def warn(subject: str, message: str, remedy: str) -> Finding:
    """A run succeeds, but something is not as it should be."""
    return Finding(Level.WARN, subject, message, remedy)


def fail(subject: str, message: str, remedy: str = "") -> Finding:
    """A run would stop, or do the wrong thing; no ``remedy`` where the message names it."""
    return Finding(Level.FAIL, subject, message, remedy)

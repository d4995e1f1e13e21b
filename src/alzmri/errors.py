"""The errors that a command reports. Each message says what, where, and the remedy."""

import importlib
from typing import Any


class UserError(Exception):
    """A mistake that the user can correct. Exit status 2."""

    exit_code = 2


class EnvironmentFault(Exception):
    """The machine, the network or the store does not work. Exit status 1."""

    exit_code = 1


class LeakError(UserError):
    """Test subjects are in training, and ``split.unit`` is not ``slice``."""


def require(module: str, extra: str) -> Any:
    """Import a module that only some commands need.

    Raises:
        EnvironmentFault: it is not installed; the message names the ``extra`` that has it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise EnvironmentFault(f"{module} is not installed: pip install -e '.[{extra}]'") from None

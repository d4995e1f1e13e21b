"""Packages that only some of the commands need."""

import importlib
from typing import Any

from alzmri.errors import EnvironmentFault


def require(module: str, extra: str) -> Any:
    """Import ``module``.

    Raises:
        EnvironmentFault: it is not installed; the message names the ``extra`` that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise EnvironmentFault(f"{module} is not installed: pip install -e '.[{extra}]'") from None

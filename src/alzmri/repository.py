"""Find the repository, so that commands work in each of its folders, as git does."""

import os
from contextlib import suppress
from pathlib import Path

import typer

from alzmri.errors import UserError


def find(start: Path | None = None) -> Path:
    """The root of the DVC repository around ``start``, by default the current directory.

    Raises:
        UserError: there is none.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / ".dvc" / "config").is_file():
            return folder
    raise UserError(f"{here} is not inside a DVC repository: go to the folder with dvc.yaml")


def enter(context: typer.Context) -> None:
    """Change to the root, if there is one, and keep the user's folder for `located`."""
    context.obj = Path.cwd()
    with suppress(UserError):
        os.chdir(find())


def located(
    context: typer.Context, parameter: typer.CallbackParam, value: Path | None
) -> Path | None:
    """Option callback: make ``value`` relative to the current directory.

    A path from the user is relative to the user's folder, a default to the root.
    """
    here = Path.cwd()
    base = context.find_root().obj or here
    source = context.get_parameter_source(parameter.name or "")
    if source is None or source.name == "DEFAULT":
        with suppress(UserError):
            base = find(base)
    if value is None or value.is_absolute() or base == here:
        return value
    return Path(os.path.relpath(base / value, here))

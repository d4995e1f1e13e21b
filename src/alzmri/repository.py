"""Where the repository is: our commands work in any of its folders, as git's do."""

import os
from pathlib import Path

import typer

from alzmri.errors import UserError


def find(start: Path | None = None) -> Path:
    """The root of the DVC repository around ``start``, by default the current directory.

    Raises:
        UserError: outside of one.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / ".dvc" / "config").is_file():
            return folder
    raise UserError(f"{here} is not inside a DVC repository: go to the folder with dvc.yaml")


def enter(context: typer.Context) -> None:
    """Go to the root, and remember for `located` where the user is. Outside, stay there."""
    context.obj = Path.cwd()
    root = _around(context.obj)
    if root != context.obj:
        os.chdir(root)


def located(
    context: typer.Context, parameter: typer.CallbackParam, value: Path | None
) -> Path | None:
    """A path as it is called in the current directory: the callback of options and arguments.

    What the user gave is meant from where the user is, a default from the root.
    """
    here = Path.cwd()
    typed_in = context.find_root().obj or here
    source = context.get_parameter_source(str(parameter.name))
    given = source is not None and source.name != "DEFAULT"
    base = typed_in if given else _around(typed_in)
    if value is None or value.is_absolute() or base == here:
        return value
    return Path(os.path.relpath(base / value, here))


def _around(folder: Path) -> Path:
    try:
        return find(folder)
    except UserError:
        return folder

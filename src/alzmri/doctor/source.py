"""Checks of what a run starts from: params.yaml and the collection that it names."""

import os
from collections.abc import Iterator
from pathlib import Path

from alzmri.doctor.finding import Finding, fail, ok, warn
from alzmri.errors import UserError
from alzmri.params import load

_MADE_BY_THE_PIPELINE = "phantom"
_SHOWN = 3


def parameters(root: Path) -> Finding:
    """params.yaml is what every stage will accept."""
    try:
        load(root / "params.yaml")
    except UserError as error:
        return fail("params", str(error))
    return ok("params", "params.yaml is sound")


def collection(root: Path) -> Finding | None:
    """data/NAME is there and DVC can read it; None while `parameters` finds no NAME.

    DVC takes the digest of every file before our code runs: it waits for ever on a pipe, and
    crashes on a link to nothing and on a name that is not UTF-8. Only names are looked at here,
    so that a large collection takes no time.
    """
    try:
        name = load(root / "params.yaml").data.source
    except UserError:
        return None
    folder = root / "data" / name
    if not folder.is_dir():
        return _absent(folder)
    unreadable, links = [], 0
    for entry in _below(folder):
        if _stops_dvc(entry):
            unreadable.append(repr(os.path.relpath(entry.path, root)))
            if len(unreadable) > _SHOWN:
                break
        links += entry.is_symlink()
    if unreadable:
        names = ", ".join(unreadable[:_SHOWN]) + (" …" if len(unreadable) > _SHOWN else "")
        message = f"neither readable files nor folders with UTF-8 names, so DVC stops: {names}"
        return fail("data", message, "move them away")
    if links:
        message = f"data/{name} has {links} symbolic links, which are no images"
        return warn("data", message, "put the files themselves there")
    return ok("data", f"data/{name} can be read")


def _absent(folder: Path) -> Finding:
    name = folder.name
    if os.path.lexists(folder):
        return fail("data", f"data/{name} is no folder", "move it away")
    if name == _MADE_BY_THE_PIPELINE:
        return ok("data", f"the pipeline makes data/{name}")
    if folder.with_name(f"{name}.dvc").is_file():
        message = f"data/{name} is known to DVC, but not here"
        return fail("data", message, f"run `dvc pull data/{name}`")
    message = f"params.yaml has data.source {name}, but there is no data/{name}"
    return fail("data", message, f"run `alzmri data import SOURCE --name {name}`")


def _below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in ``folder``, at any depth; links are not followed."""
    pending = [os.fspath(folder)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def _stops_dvc(entry: os.DirEntry[str]) -> bool:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return True
    # A folder or file says so without being asked; a link has to be followed.
    if entry.is_symlink():
        target = Path(entry.path)
        return not (target.is_file() or target.is_dir())
    return not (entry.is_file() or entry.is_dir())

"""Whether the run in this workspace is the committed one, byte for byte; if not, why."""

import json
import platform
import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from alzmri import git, params
from alzmri.errors import UserError
from alzmri.experiments.lock import Lock

COMMIT = 'git commit -am "my baseline"'
_SHOWN = 4
"""So many names in a line; the others are counted."""

PACKAGES = ("torch", "numpy", "scipy", "opencv-python-headless", "albumentations", "matplotlib")
"""The packages whose version can change a byte."""


def verdict() -> str:
    """What `make repro` says in the end, a few lines; it reads the current directory.

    Raises:
        UserError: when ``dvc.lock`` is not here.
    """
    committed = git.show("HEAD", "dvc.lock")
    if committed is None:
        return _advice("no run is committed yet.", f"git add --all && {COMMIT}")
    try:
        before, here = Lock(committed), Lock(Path("dvc.lock").read_text("utf-8"))
    except FileNotFoundError:
        raise UserError("dvc.lock not found: run `dvc repro` first") from None
    if before.stages == here.stages:
        return f"the committed run ({git.head()[:7]}) was reproduced byte for byte"
    if changed := sorted({*_differing(before, here)}):
        return _advice(f"this is another run than the committed one: {_some(changed)} changed.")
    files = [path for path, md5 in here.outputs.items() if before.outputs.get(path) != md5]
    why = list(_reasons()) or [
        "no reason is known: `make portable` tests what can be tested here, and a report of this"
        " processor is welcome"
    ]
    return _advice(
        f"the same experiment as the committed one gave other bytes: {_some(files)}.\n"
        f"why:     {'; '.join(why)}."
    )


def _advice(first: str, commit: str = COMMIT) -> str:
    return (
        f"{first}\n"
        f"commit:  `{commit}` makes this run your baseline, which `dvc metrics diff`,"
        " `dvc plots diff` and `alzmri review` compare with"
    )


def _differing(before: Lock, here: Lock) -> Iterator[str]:
    """Names of the parameters, code and data that the stages of the two ran with."""
    for stage in {**before.stages, **here.stages}:
        if stage not in before.stages or stage not in here.stages:
            yield f"the stage {stage}"
            continue
        one, other = ({**lock.inputs(stage), **lock.parameters(stage)} for lock in (before, here))
        for name in {**one, **other}:
            if one.get(name) != other.get(name):
                yield f"the command of {stage}" if name == "cmd" else name


def _reasons() -> Iterator[str]:
    """What is known to change bytes, and is so here."""
    if platform.machine() not in ("x86_64", "AMD64"):
        yield f"processors of the kind {platform.machine()} round otherwise than x86-64"
    model = Path("models/model.json")
    if model.exists() and json.loads(model.read_bytes())["training"]["device"] != "cpu":
        yield "a GPU trained, which rounds otherwise than a processor"
    if not params.load().compute.portable:
        yield "compute.portable is false, so the bytes are those of this kind of processor"
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", Path("requirements.txt").read_text(), re.M))
    for name in PACKAGES:
        found = metadata.version(name).partition("+")[0]
        if found != pins[name].partition("+")[0]:
            yield f"{name} is {found} instead of {pins[name]}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

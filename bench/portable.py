"""Does a tiny run have the same bytes on other processors? `make portable` runs this.

The stages that compute run here, and again on emulated processors (qemu's user mode) with another
vendor, other instruction sets and cache sizes. Every file that they write must have the same
SHA-256. qemu emulates no AVX-512: a machine that has it must run this itself.
"""

import hashlib
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from training import ROOT, changed, run

from alzmri import terminal
from alzmri.errors import EnvironmentFault
from alzmri.params import PARAMS_FILE

PROCESSORS = ("Haswell", "EPYC-Milan")
WRITTEN = ("models", "metrics", "plots")
TINY: dict[str, dict[str, object]] = {  # two steps: emulated, each takes some hundred times as long
    "phantom": {"subjects": 7, "slices": 1},
    "data": {"source": "phantom", "image_size": 32},
    "train": {"epochs": 1, "batch_size": 12, "precision": "fp32"},
    "compute": {"train_on": "here", "portable": True, "threads": 2},
    "track": {"mode": "disabled"},
}
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # it is the processor's bytes that are compared
    "OMP_WAIT_POLICY": "passive",  # emulated threads that spin take the time from each other
}


def main() -> None:
    """Compare; exit with 1 when any file differs."""
    if shutil.which("qemu-x86_64") is None:
        raise EnvironmentFault("no qemu-x86_64: install it (Debian: apt install qemu-user)")
    with tempfile.TemporaryDirectory(prefix="alzmri-portable-") as name:
        start = Path(name) / "start"
        shutil.copytree(ROOT / "src", start / "src")
        (start / PARAMS_FILE).write_text(changed(TINY).model_dump_json(indent=1))  # JSON is YAML
        for stage in ("phantom", "prepare"):
            run([sys.executable, f"src/{stage}.py"], start, **ENVIRONMENT)
        with ThreadPoolExecutor() as pool:
            here, *others = pool.map(partial(_computed, start), ("", *PROCESSORS))
    terminal.say(f"{len(here)} files; weights {here['models/model.safetensors'][:16]}")
    for processor, there in zip(PROCESSORS, others, strict=True):
        differ = sorted(path for path in {*here, *there} if here.get(path) != there.get(path))
        terminal.say(f"{processor}: {', '.join(differ) or 'the same bytes'}")
    raise SystemExit(any(there != here for there in others))


def _computed(start: Path, processor: str) -> dict[str, str]:
    """The digests of all that the stages write on ``processor``; "" is this machine's own."""
    folder = start.with_name(processor or "here")
    shutil.copytree(start, folder)
    emulator = ["qemu-x86_64", "-cpu", processor] if processor else []
    for stage in ("train", "ood", "evaluate"):
        run([*emulator, sys.executable, f"src/{stage}.py"], folder, **ENVIRONMENT)
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for part in WRITTEN
        for file in sorted((folder / part).rglob("*"))
        if file.is_file()
    }


if __name__ == "__main__":
    terminal.start(main)

"""Does a tiny run have the same bytes on other processors? `make portable` runs this.

    python bench/portable.py [--processor Haswell --processor EPYC-Milan]

The stages that compute run here, and again on each emulated processor (qemu's user mode), which
shows them another vendor, other instruction sets and other cache sizes. Every file that they write
must have the same SHA-256. qemu emulates no AVX-512: a machine that has it must run this itself.
"""

import argparse
import hashlib
import shlex
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ruamel.yaml import YAML
from training import ROOT, run

from alzmri import params, terminal
from alzmri.errors import EnvironmentFault

PROCESSORS = ("Haswell", "EPYC-Milan")
WRITTEN = ("models", "metrics", "plots")
TINY: dict[str, dict[str, object]] = {
    "phantom": {"subjects": 7, "slices": 1},
    "data": {"source": "phantom", "image_size": 32},
    "train": {"epochs": 1, "batch_size": 12, "precision": "fp32"},
    "compute": {"train_on": "here", "portable": True, "threads": 2},
    "track": {"mode": "disabled"},
}
"""AlexNet, two steps: emulated, a step takes some hundred times as long."""
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # it is the processor's bytes that are compared
    "OMP_WAIT_POLICY": "passive",  # emulated threads that spin take the time from each other
    "PYTHONDONTWRITEBYTECODE": "1",
}


def main() -> None:
    """Compare; exit with 1 when any file differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processor", action="append", help="As `qemu-x86_64 -cpu help` has it.")
    processors = parser.parse_args().processor or PROCESSORS
    if shutil.which("qemu-x86_64") is None:
        raise EnvironmentFault("no qemu-x86_64: install it (Debian: apt install qemu-user)")
    with tempfile.TemporaryDirectory(prefix="alzmri-portable-") as name:
        start = Path(name) / "start"
        _prepare(start)
        with ThreadPoolExecutor() as pool:
            runs = [pool.submit(_computed, start, cpu) for cpu in (None, *processors)]
            here, *others = (run.result() for run in runs)
    terminal.say(f"{len(here)} files; weights {here['models/model.safetensors'][:16]}")
    for processor, there in zip(processors, others, strict=True):
        differ = sorted(path for path in {*here, *there} if here.get(path) != there.get(path))
        terminal.say(f"{processor}: {', '.join(differ) or 'the same bytes'}")
    raise SystemExit(any(there != here for there in others))


def _prepare(folder: Path) -> None:
    """Make ``folder`` a tiny repository with packed data, by this machine's own processor."""
    shutil.copytree(ROOT / "src", folder / "src")
    content = params.load(ROOT / params.PARAMS_FILE).model_dump()
    for section, values in TINY.items():
        content[section].update(values)
    text = params.check(content, "bench/portable.py").model_dump_json(indent=1)
    (folder / params.PARAMS_FILE).write_text(text)  # JSON is YAML
    for stage in ("phantom", "prepare"):
        run([sys.executable, f"src/{stage}.py"], folder, **ENVIRONMENT)


def _computed(start: Path, processor: str | None) -> dict[str, str]:
    """The digests of all that the stages write on ``processor``; None is this machine's own."""
    folder = start.with_name(processor or "here")
    shutil.copytree(start, folder)
    emulator = ["qemu-x86_64", "-cpu", processor] if processor else []
    seconds = 0.0
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        if "compute.portable" in stage.get("params", ()):
            _, *arguments = shlex.split(stage["cmd"])
            seconds += run([*emulator, sys.executable, *arguments], folder, **ENVIRONMENT)
    terminal.say(f"{processor or 'this processor'}: {seconds:.0f} s")
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for part in WRITTEN
        for file in sorted((folder / part).rglob("*"))
        if file.is_file()
    }


if __name__ == "__main__":
    terminal.start(main)

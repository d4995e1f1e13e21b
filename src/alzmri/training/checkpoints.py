"""Training state that outlives the process: written whole, verified, found by fingerprint."""

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import torch
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem

import alzmri
from alzmri import terminal
from alzmri.data.prepared import Prepared
from alzmri.errors import EnvironmentFault, UserError
from alzmri.files import write_bytes
from alzmri.models.device import bfloat16
from alzmri.params import Params
from alzmri.training.initial import Initial

CODE = ("training", "models", "data/prepared.py")
"""What shapes the weights: after a change here a run starts from zero, by another name."""

STORE_VARIABLE = "ALZMRI_CHECKPOINTS"
"""Names another store, such as ``s3://bucket/prefix``: where training resumes on any machine."""

KEPT = 2
"""Checkpoints of a run: should the latest be damaged, the one before it is used."""

SHARE = 0.015
"""Of the time that writing may take where nobody asked for a checkpoint at that very step."""

State = dict[str, Any]


def fingerprint(
    params: Params, prepared: Prepared, device: torch.device, initial: Initial | None = None
) -> str:
    """What identifies a run, 16 hexadecimal digits.

    Of parameters, data, code, device, precision, and the weights and classes of ``initial``. Runs
    alike in all of them end with the same weights on the same machine, so that one may go on where
    the other stopped. How often to checkpoint, what to keep and who computes does not matter.
    """
    matters = params.model_dump(
        mode="json",
        include={"data", "split", "augment", "model", "train", "compute"},
        exclude={"train": {"checkpoint_every", "keep_last"}, "compute": {"train_on"}},
    )
    digest = hashlib.sha256()
    machine = (torch.__version__, device.type, bfloat16(params.train.precision, device))
    start = initial and (initial.digest, initial.card.classes)
    for part in (matters, prepared.digest, *machine, start):
        digest.update(json.dumps(part, sort_keys=True).encode())
    package = Path(alzmri.__file__).parent
    for name in CODE:
        path = package / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def default_store() -> str:
    """``ALZMRI_CHECKPOINTS``, else a folder of the repository that an experiment started from."""
    return os.environ.get(STORE_VARIABLE) or str(_local_folder())


def _local_folder() -> Path:
    # DVC runs queued experiments in temporary copies and deletes them when they fail; its DVC_ROOT
    # is the repository itself.
    return Path(os.environ.get("DVC_ROOT", Path.cwd())).resolve() / ".checkpoints"


class Checkpoints:
    """The checkpoints of one run, in ``store``: a folder, or any address that fsspec opens.

    A file is named after the epoch and the steps done in it, and the SHA-256 of its content. They
    are written in the background, one at a time. One that cannot be written costs a warning.
    """

    def __init__(self, store: str, run: str) -> None:
        self._store, self._run = store, run
        try:
            self._files, folder = fsspec.url_to_fs(f"{store.rstrip('/')}/{run}")
        except (ValueError, ImportError) as error:
            raise UserError(f"{STORE_VARIABLE}={store}: {error}") from None
        self._folder = PurePosixPath(folder)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._affordable_from = 0.0

    def load(self) -> State | None:
        """The latest state that is whole; what is not is set aside with a warning.

        Raises:
            EnvironmentFault: the store cannot be read.
        """
        try:
            for path in reversed(self._paths()):
                try:
                    return self._read(path)
                except ValueError as error:
                    used = "set aside, the one before it is used"
                    terminal.warn(f"checkpoint {path} is {error}: {used}")
                    self._files.mv(path, f"{path}.bad")
        except Exception as error:  # whatever the store's client raises
            raise EnvironmentFault(
                f"the checkpoint store {self._store} cannot be read ({error}): repair it, or unset"
                f" {STORE_VARIABLE} to train from zero with local checkpoints"
            ) from error
        return None

    def save(self, state: State) -> None:
        """Write ``state``, which the caller does not change any more."""
        self.wait()
        self._writing = self._writer.submit(self._write, state)

    @property
    def affordable(self) -> bool:
        """Whether nothing is being written, and writing would keep within its ``SHARE``."""
        return (self._writing is None or self._writing.done()) and self.rest <= 0

    @property
    def rest(self) -> float:
        """Seconds until the CPU time of the last one is its ``SHARE`` of the time."""
        return self._affordable_from - time.monotonic()

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def clear(self) -> None:
        """Remove all: the run is complete. What cannot be removed costs a warning, and no harm."""
        self.wait()
        try:
            if self._files.exists(str(self._folder)):
                self._files.rm(str(self._folder), recursive=True)
        except Exception as error:  # noqa: BLE001
            terminal.warn(
                f"the checkpoints of this run, which is complete, could not be removed ({error}):"
                f" remove {self._store.rstrip('/')}/{self._run}"
            )

    def _paths(self) -> list[str]:
        self._files.invalidate_cache()
        return sorted(self._files.glob(str(self._folder / "*.checkpoint")))

    def _read(self, path: str) -> State:
        """The state in ``path``; ValueError says what it is instead."""
        content = self._files.cat_file(path)
        if hashlib.sha256(content).hexdigest() != PurePosixPath(path).stem.rpartition("-")[2]:
            raise ValueError("damaged: its checksum is not the one in its name")
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if saved["run"] != self._run:
            raise ValueError("of another run")
        state: State = saved["state"]
        return state

    def _write(self, state: State) -> None:
        began = time.thread_time()
        place = f"{state['epoch']:06}-{state['steps']:06}"
        try:
            buffer = io.BytesIO()
            torch.save({"run": self._run, "state": state}, buffer)
            content = buffer.getvalue()
            path = self._folder / f"{place}-{hashlib.sha256(content).hexdigest()}.checkpoint"
            if isinstance(self._files, LocalFileSystem):
                # By one name for all: what a kill leaves of a draft is overwritten.
                draft = Path(path).with_name("draft")
                write_bytes(draft, content)
                draft.replace(path)
            else:
                self._files.pipe_file(str(path), content)
            for old in self._paths()[:-KEPT]:
                self._files.rm_file(old)
        except Exception as error:  # noqa: BLE001 - training is worth more than its safety net
            terminal.warn(f"checkpoint {place} could not be written ({error}): training goes on")
        self._affordable_from = time.monotonic() + (time.thread_time() - began) / SHARE


@contextmanager
def alone(run: str) -> Iterator[None]:
    """Hold the lock of ``run`` on this machine; wait while another process trains the same.

    DVC may be killed and leave its trainer behind; the next ``dvc repro`` would start a second.
    """
    lock = FileLock(_local_folder() / f"{run}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        terminal.warn("this very run is being trained by another process: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        # Removed while it is held: whoever gets the lock of a file that has lost its name knows by
        # that, and FileLock starts over with a new file.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()

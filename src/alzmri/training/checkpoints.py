"""Checkpoints of a training: written atomically, verified, and found by fingerprint."""

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from threading import Thread
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
from alzmri.models.forward import bfloat16
from alzmri.params import Params
from alzmri.training.initial import Initial

CODE = ("training", "models", "data/prepared.py")
"""Code that determines the weights: after a change to it, a run starts anew, with another name."""
STORE_VARIABLE = "ALZMRI_CHECKPOINTS"
"""Variable for another store, such as ``s3://bucket/prefix``, from which any machine resumes."""
KEPT = 2  # of a run: if the latest is damaged, training uses the previous one
SHARE = 0.015  # of the time at most, except for checkpoints due at a certain step
State = dict[str, Any]


def fingerprint(
    params: Params, prepared: Prepared, device: torch.device, initial: Initial | None = None
) -> str:
    """The identity of a run, 16 hexadecimal digits.

    Runs with the same one end with the same weights on the same machine, so that one can continue
    another. Only the settings of checkpoints, of kept files and of the machine do not count.
    """
    matters = params.model_dump(
        mode="json",
        include={"data", "split", "augment", "model", "train", "compute"},
        exclude={"train": {"checkpoint_every", "keep_last"}, "compute": {"train_on"}},
    )
    release = torch.__version__.partition("+")[0]  # its builds (+cpu, +cu130) compute the same
    machine = (release, device.type, bfloat16(params.train.precision, device))
    start = initial and (initial.digest, initial.card.classes)
    identity = json.dumps((matters, prepared.digest, machine, start), sort_keys=True)
    digest = hashlib.sha256(identity.encode())
    for path in (Path(alzmri.__file__).parent / name for name in CODE):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def default_store() -> str:
    """``ALZMRI_CHECKPOINTS``, or a folder in the repository that an experiment started from."""
    return os.environ.get(STORE_VARIABLE) or str(_local_folder())


def _local_folder() -> Path:
    """In the repository itself, because DVC deletes the temporary copies of failed experiments."""
    return Path(os.environ.get("DVC_ROOT", "")).resolve() / ".checkpoints"


class Checkpoints:
    """The checkpoints of one run, in ``store``: a folder, or any address that fsspec opens.

    The name of a file has the epoch, the steps done in it, and the SHA-256 of its content.
    """

    def __init__(self, store: str, run: str) -> None:
        self._store, self._run = store.rstrip("/"), run
        try:
            self._files, folder = fsspec.url_to_fs(f"{self._store}/{run}")
        except (ValueError, ImportError) as error:
            raise UserError(f"{STORE_VARIABLE}={store}: {error}") from None
        self._folder = PurePosixPath(folder)
        self._writing: Thread | None = None
        self.affordable_from = 0.0  # when the CPU time of the last one is within `SHARE`

    def load(self) -> State | None:
        """The latest undamaged state; renames damaged ones, with a warning.

        Raises:
            EnvironmentFault: the store cannot be read.
        """
        try:
            for path in reversed(self._paths()):
                content = self._files.cat_file(path)
                whole = hashlib.sha256(content).hexdigest() == PurePosixPath(path).stem[-64:]
                saved = torch.load(io.BytesIO(content), "cpu", weights_only=True) if whole else {}
                if saved.get("run") == self._run:
                    return saved
                terminal.warn(f"{path} is damaged or of another run: set aside, using the previous")
                self._files.mv(path, f"{path}.bad")
        except Exception as error:  # the store's client may raise anything
            raise EnvironmentFault(
                f"the checkpoint store {self._store} cannot be read ({error}): repair it, or unset"
                f" {STORE_VARIABLE} to train from zero with local checkpoints"
            ) from error
        return None

    def save(self, state: State) -> None:
        """Write ``state``, which the caller must not change afterwards."""
        self.wait()
        self._writing = Thread(target=self._write, args=(state,))
        self._writing.start()

    @property
    def affordable(self) -> bool:
        """Whether no checkpoint is being written, and another is within ``SHARE``."""
        writing = self._writing and self._writing.is_alive()
        return not writing and time.monotonic() >= self.affordable_from

    def wait(self) -> None:
        """Wait until no checkpoint is being written."""
        if self._writing:
            self._writing.join()

    def clear(self) -> None:
        """Remove all checkpoints of the complete run; warn if that fails."""
        self.wait()
        try:
            if self._files.exists(str(self._folder)):
                self._files.rm(str(self._folder), recursive=True)
        except Exception as error:  # noqa: BLE001
            terminal.warn(
                f"this run is complete, but its checkpoints could not be removed ({error}): remove"
                f" {self._store}/{self._run}"
            )

    def _paths(self) -> list[str]:
        self._files.invalidate_cache()
        return sorted(self._files.glob(str(self._folder / "*.checkpoint")))

    def _write(self, state: State) -> None:
        began = time.thread_time()
        place = f"{state['epoch']:06}-{state['steps']:06}"
        try:
            buffer = io.BytesIO()
            torch.save({**state, "run": self._run}, buffer)
            content = buffer.getvalue()
            path = self._folder / f"{place}-{hashlib.sha256(content).hexdigest()}.checkpoint"
            if isinstance(self._files, LocalFileSystem):
                # All drafts have one name, so that a later one overwrites the rest of a killed one.
                draft = Path(path).with_name("draft")
                write_bytes(draft, content)
                draft.replace(path)
            else:
                self._files.pipe_file(str(path), content)
            for old in self._paths()[:-KEPT]:
                self._files.rm_file(old)
        except Exception as error:  # noqa: BLE001 - a lost checkpoint must not end training
            terminal.warn(f"checkpoint {place} could not be written ({error}): training continues")
        self.affordable_from = time.monotonic() + (time.thread_time() - began) / SHARE


@contextmanager
def alone(run: str) -> Iterator[None]:
    """Hold the lock of ``run`` on this machine; wait while another process trains the same run.

    A killed DVC may leave its trainer running, and the next ``dvc repro`` starts a second one.
    """
    lock = FileLock(_local_folder() / f"{run}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        terminal.warn("another process trains this very run: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        # Removed while it is held: FileLock starts over with a new file when it is gone.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()

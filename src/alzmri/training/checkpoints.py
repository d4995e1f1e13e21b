"""Training state that outlives the process: written whole, verified, found again by fingerprint."""

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
import torch
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem
from torch.utils.serialization import config

import alzmri
from alzmri import terminal
from alzmri.data.prepared import Prepared
from alzmri.errors import EnvironmentFault, UserError
from alzmri.models.device import bfloat16
from alzmri.params import Params

STORE_VARIABLE = "ALZMRI_CHECKPOINTS"
"""Names another store, such as ``s3://bucket/prefix``: where training resumes on any machine."""

FORMAT = 2
KEPT = 2
"""Checkpoints of a run: should the latest be damaged, the one before it is used."""

SHARE = 0.015
"""Of the time that writing may take where nobody asked for a checkpoint at that very step.

It costs training a little more than it takes: cores that share a step wait for the one that writes.
"""

HEADER = 256
"""Bytes before the state: a line of JSON, filled up with blanks."""

CODE = ("training", "models", "data/prepared.py")
"""What shapes the weights: after a change here a run starts from zero, by another name."""

State = dict[str, Any]


def fingerprint(params: Params, prepared: Prepared, device: torch.device) -> str:
    """What identifies a run, 16 hexadecimal digits: parameters, data, code, device, precision.

    Runs alike in all of them end with the same weights on the same machine, so that one may go on
    where the other stopped. How often to checkpoint, what to keep and who computes does not matter.
    """
    matters = params.model_dump(
        mode="json",
        include={"data", "split", "augment", "model", "train", "compute"},
        exclude={"train": {"checkpoint_every", "keep_last"}, "compute": {"train_on"}},
    )
    digest = hashlib.sha256()
    machine = (torch.__version__, device.type, bfloat16(params.train.precision, device))
    for part in (matters, prepared.digest, *machine, FORMAT):
        digest.update(json.dumps(part, sort_keys=True).encode())
    package = Path(alzmri.__file__).parent
    for name in CODE:
        path = package / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def default_store() -> str:
    """``ALZMRI_CHECKPOINTS``, else a folder of the repository that an experiment started from.

    DVC runs queued experiments in temporary copies and deletes them when they fail; its
    ``DVC_ROOT`` is the repository itself.
    """
    return os.environ.get(STORE_VARIABLE) or str(_local_folder())


def _local_folder() -> Path:
    return Path(os.environ.get("DVC_ROOT", Path.cwd())).resolve() / ".checkpoints"


class Checkpoints:
    """The checkpoints of one run, in ``store``: a folder, or any address that fsspec opens.

    They are written in the background, one at a time. One that cannot be written costs a warning,
    not the run.
    """

    def __init__(self, store: str, run: str) -> None:
        self._store, self._run = store, run
        try:
            self._files, folder = fsspec.url_to_fs(f"{store.rstrip('/')}/{run}")
        except (ValueError, ImportError) as error:
            raise UserError(f"{STORE_VARIABLE}={store}: {error}") from None
        self._folder = PurePosixPath(folder)
        self._is_local = isinstance(self._files, LocalFileSystem)
        # One name, not one for each checkpoint: a draft that a kill leaves behind is overwritten.
        self._draft = (
            Path(folder) / ".draft" if self._is_local else _local_folder() / f"{run}.draft"
        )
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
                    with self._files.open(path, "rb") as file:
                        return _read(file, self._run)
                except ValueError as error:
                    terminal.warn(
                        f"checkpoint {path} is {error}: set aside, the one before it is used"
                    )
                    self._files.mv(path, f"{path}.bad")
        except Exception as error:  # whatever the store's client raises
            raise EnvironmentFault(
                f"the checkpoint store {self._store} cannot be read ({error}): mend it, or unset"
                f" {STORE_VARIABLE} to train from zero with local checkpoints"
            ) from error
        return None

    def save(self, position: int, state: State) -> None:
        """Write ``state``, which nobody changes any more, as that after step ``position``."""
        self.wait()
        self._writing = self._writer.submit(self._write, position, state)

    @property
    def affordable(self) -> bool:
        """Whether nothing is being written, and writing would keep within its ``SHARE``."""
        idle = self._writing is None or self._writing.done()
        return idle and self.rest <= 0

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
        """Remove all: the run is complete. What cannot be removed costs a warning.

        Left behind it does no harm: the same run again goes on from its end.
        """
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

    def _write(self, position: int, state: State) -> None:
        path = self._folder / f"{position:012}.checkpoint"
        began = time.thread_time()
        try:
            self._draft.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._draft.open("wb") as file:
                    _dump(state, self._run, file)
                if self._is_local:
                    self._draft.replace(path)
                else:
                    self._files.put_file(str(self._draft), str(path))
            finally:
                self._draft.unlink(missing_ok=True)
            for old in self._paths()[:-KEPT]:
                self._files.rm_file(old)
        except Exception as error:  # noqa: BLE001
            # Whatever the store's client raises: training is worth more than its safety net.
            terminal.warn(f"checkpoint {path} could not be written ({error}): training goes on")
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


class _Measured:
    """Hands on what ``torch.save`` writes, and measures it: the state is never in memory twice."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.length = 0
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, part: memoryview) -> None:
        """Hand on ``part``; an error is kept, for torch would make another of it."""
        if self.error is None:
            try:
                self._file.write(part)
            except OSError as error:
                self.error = error
        self.sha256.update(part)
        self.length += len(part)

    def flush(self) -> None:
        """Nothing is held back here."""


def _dump(state: State, run: str, file: IO[bytes]) -> None:
    """Write ``state`` to an empty ``file``, down to the disk."""
    file.write(b" " * HEADER)
    content = _Measured(file)
    # The file has a better checksum, of all of it.
    with config.patch({"save.compute_crc32": False}):  # type: ignore[attr-defined]
        torch.save(state, content)  # type: ignore[arg-type]  # it needs no more than these two
    if content.error:
        raise content.error
    header = {
        "format": FORMAT,
        "run": run,
        "length": content.length,
        "sha256": content.sha256.hexdigest(),
    }
    file.seek(0)
    file.write(json.dumps(header).ljust(HEADER - 1).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _read(file: IO[bytes], run: str) -> State:
    """The state in ``file``; ValueError says what it is instead."""
    head = file.read(HEADER)
    try:
        header = json.loads(head)
        expected = (header["format"], header["run"], header["length"], header["sha256"])
    except (ValueError, KeyError, TypeError):
        raise ValueError("no checkpoint") from None
    if expected[0] != FORMAT:
        raise ValueError(f"of another format ({expected[0]})")
    if expected[1] != run:
        raise ValueError("of another run")
    content = io.BytesIO(file.read())  # torch.load misreads a file that does not start with it
    length = content.getbuffer().nbytes
    if expected[2] != length:
        raise ValueError(f"cut off: {length} of {expected[2]} bytes")
    if expected[3] != hashlib.sha256(content.getbuffer()).hexdigest():
        raise ValueError("damaged: its checksum is wrong")
    state: State = torch.load(content, map_location="cpu", weights_only=True)
    return state

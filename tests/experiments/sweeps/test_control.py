"""What a killed process leaves behind does not stop DVC's queue."""

import os

import pytest
from dulwich.file import GitFile
from dvc.utils.serialize import load_json

from alzmri.errors import EnvironmentFault
from alzmri.experiments.sweeps import control
from alzmri.experiments.sweeps.queue import State, Task


def test_a_lock_that_a_killed_process_left_is_taken_away(tmp_path):
    reference, lock = tmp_path / "failed", tmp_path / "failed.lock"
    lock.touch()
    tries = []

    def write():
        tries.append(lock.exists())
        with GitFile(os.fsencode(reference), "wb") as file:
            file.write(b"0")

    os.utime(lock, (0, 0))
    control._patiently(write, "write")
    assert tries == [True, False]
    assert reference.read_bytes() == b"0"


def test_a_file_that_a_killed_process_left_half_written_is_taken_away(tmp_path):
    """DVC writes over it in place: killed meanwhile, it leaves nothing in it."""
    torn = tmp_path / "experiment.run"
    torn.touch()
    tries = []

    def read():
        tries.append(torn.exists())
        if torn.exists():
            load_json(torn)

    os.utime(torn, (0, 0))
    control._patiently(read, "read")
    assert tries == [True, False]


def test_a_file_of_the_users_that_cannot_be_read_is_named_and_left(tmp_path):
    mine = tmp_path / "dvc.json"
    mine.write_text("{")
    os.utime(mine, (0, 0))
    with pytest.raises(EnvironmentFault, match=r"DVC cannot queue it: .*dvc\.json"):
        control._patiently(lambda: load_json(mine), "queue it")
    assert mine.exists()


def test_the_workspace_of_a_killed_task_is_found_though_its_file_is_empty(tmp_path):
    experiments = tmp_path / ".dvc/tmp/exps"
    for rev in ("mine", "another"):
        merged = experiments / f"tmp{rev}/.git/refs/exps/exec/EXEC_MERGE"
        merged.parent.mkdir(parents=True)
        merged.write_text(f"{rev}\n")
    file = experiments / "run/mine/mine.run"
    file.parent.mkdir(parents=True)
    file.touch()
    task = Task(tmp_path, "id", "name", "mine", "", State.RUNNING)
    assert task.workspace == experiments / "tmpmine"
    file.unlink()
    (experiments / "tmpmine/.git/refs/exps/exec/EXEC_MERGE").unlink()
    assert task.workspace is None

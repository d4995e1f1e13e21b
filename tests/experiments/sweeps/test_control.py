"""What a killed process leaves behind does not stop DVC's queue."""

import os

from dulwich.file import GitFile

from alzmri.experiments.sweeps import control


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

"""A repository to track in, and the real client as it is at the start of a stage."""

import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from alzmri.tracking import tracker as tracking

from ..processes import limit

KEY = "0123456789" * 4
RUN = "0123456789abcdef"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository to run in, without a key. Waiting takes as long as it does on a busy machine."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "DVC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    # What the client sets itself.
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    assert tracking.COMPLETE_SECONDS <= 15
    monkeypatch.setattr(tracking, "COMPLETE_SECONDS", limit(tracking.COMPLETE_SECONDS))
    root = tmp_path / "repository"
    root.mkdir()
    subprocess.run(("git", "init", "--quiet", "--initial-branch", "main"), cwd=root, check=True)
    monkeypatch.chdir(root)
    yield root
    monkeypatch.undo()  # tests take it out of there
    if "wandb" in sys.modules:
        with suppress(OSError):  # its core was killed
            sys.modules["wandb"].teardown()


@pytest.fixture
def follow(root, make_params):
    """A function that follows a training of the given epochs, with something after the first.

    Whatever W&B does, the stage loses at most 15 s, from its start to its end.
    """

    def run(*epochs, between=lambda: None, **track):
        begin = time.monotonic()
        with tracking.following(make_params(track=track), RUN, "0" * 64) as tracked:
            for epoch in epochs:
                tracked.epoch({"epoch": epoch, "val_loss": 1 / epoch})
                if epoch == epochs[0]:
                    paused = time.monotonic()
                    between()
                    begin += time.monotonic() - paused
        assert time.monotonic() - begin < limit(15)

    return run

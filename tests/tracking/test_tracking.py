"""Whatever happens to W&B, the stage goes on and says one thing. The client is the real one."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from alzmri.tracking import tracker as tracking

from ..processes import limit
from .conftest import KEY, RUN
from .transactions import records, values

SOURCES = Path(tracking.__file__).parents[2]


def history(root):
    """The epochs on disk, in the order in which `wandb sync` uploads them."""
    return [
        values(record.history.item)["epoch"]
        for path in sorted(root.glob(f"wandb/offline-run-*-{RUN}*/*.wandb"))
        for record in records(path)
        if record.HasField("history")
    ]


@pytest.fixture
def warning(capsys):
    """A function that returns what was said, which must be one warning."""

    def read():
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("warning: W&B: ")
        assert shown.err.count("\n") == 1, shown.err
        return shown.err

    return read


@pytest.mark.parametrize("accept", [True, False], ids=["never answers", "is not there"])
def test_a_server_that_does_not_take_it_costs_one_warning(
    follow, root, warning, monkeypatch, accept
):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        if not accept:
            listener.close()
        follow(1, 2)
    said = warning()
    assert said.startswith("warning: W&B: not reached (")
    assert said.endswith(f"; to upload it: wandb sync wandb/offline-run-*-{RUN}\n")
    assert history(root) == [1, 2]
    files = [path for path in root.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_a_key_that_is_none_costs_one_warning(follow, root, warning, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short-secret")
    follow(1, 2)
    assert "short-secret" not in warning()
    assert history(root) == [1, 2]


def test_without_a_key_it_is_kept_offline_and_one_line_says_how_to_upload_it(follow, root, capsys):
    follow(1, 2)
    follow(1, 2, 3)  # a training that resumes reports it all
    shown = capsys.readouterr()
    line = f"W&B: main is kept offline; to upload it: wandb sync wandb/offline-run-*-{RUN}"
    assert shown.out.splitlines() == [line, line]
    assert shown.err == ""
    assert history(root) == [1, 2, 3]


@pytest.mark.parametrize("by", ["parameters", "environment"])
def test_disabled_starts_nothing(root, make_params, monkeypatch, by):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    if by == "environment":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    params = make_params(track={"mode": "disabled" if by == "parameters" else "auto"})
    with tracking.following(params, RUN, "0" * 64) as tracked:
        tracked.epoch({"epoch": 1})
        assert type(tracked) is tracking.Tracker
    assert not (root / "wandb").exists()


def test_a_client_that_cannot_be_imported_costs_one_warning(follow, warning, monkeypatch):
    """As in an environment that lacks it."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    follow(1, 2)
    assert "tracking stopped early (import of wandb" in warning()


def test_what_stops_the_stage_is_raised_and_the_run_is_whole_all_the_same(follow, root, capsys):
    """As on SIGTERM. The exit status says that the run did not complete."""
    tracking.STOP_SECONDS, before = limit(tracking.STOP_SECONDS), tracking.STOP_SECONDS
    try:
        with pytest.raises(SystemExit):
            follow(1, 2, between=lambda: sys.exit(128 + signal.SIGTERM))
    finally:
        tracking.STOP_SECONDS = before
    assert history(root) == [1]
    (path,) = root.glob("wandb/offline-run-*/*.wandb")
    assert [r.exit.exit_code for r in records(path) if r.HasField("exit")] == [1]
    assert capsys.readouterr() == ("", "")


def test_on_a_full_disk_it_costs_one_warning(follow, warning, tmp_path, monkeypatch):
    """On a real, small file system; a user's own WANDB_DIR is where the client writes."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=4k", "none", str(small))
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    try:
        (small / "full").write_bytes(bytes(4096))
        monkeypatch.setenv("WANDB_DIR", str(small))
        follow(1, 2)
    finally:
        subprocess.run(("umount", "--lazy", str(small)), check=True)
    warning()


STAGE = """
import sys
from pathlib import Path
from alzmri import params
from alzmri.tracking import tracker as tracking
tracking.COMPLETE_SECONDS = 2
with tracking.following(params.load(Path(sys.argv[1])), "0123456789abcdef", "0" * 64) as tracked:
    tracked.epoch({"epoch": 1})
    print("began", flush=True)
    sys.stdin.read()
"""


def _cores(process):
    return [child for child in process.children() if child.name() == "wandb-core"]


@pytest.mark.parametrize("killed", ["core stops", "stage is killed"])
def test_nothing_is_left_behind_and_nothing_waits_for_ever(root, committed, eventually, killed):
    """The client's core answers no more; or the stage ends without a word to it."""
    environment = {"WANDB_MODE": "offline", "PYTHONPATH": str(SOURCES)}
    stage = psutil.Popen(
        (sys.executable, "-P", "-c", STAGE, committed("params.yaml")),
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: _cores(stage) and list(root.glob("wandb/offline-run-*/training")))
    (core,) = _cores(stage)
    if killed == "stage is killed":
        stage.kill()
        stage.communicate(timeout=limit(10))
    else:
        core.suspend()
        began = time.monotonic()
        _, said = stage.communicate("", timeout=limit(15))
        assert time.monotonic() - began < limit(5)
        assert stage.returncode == 0
        assert "W&B: tracking is incomplete (not done after 2 s)" in said
        assert said.count("\n") == 1
    eventually(lambda: not core.is_running() or core.status() == psutil.STATUS_ZOMBIE)

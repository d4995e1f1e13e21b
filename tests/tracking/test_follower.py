"""Whatever happens to W&B, the stage goes on and says one thing. The client is the real one."""

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from alzmri import tracking
from alzmri.tracking.transactions import records, steps, values

KEY = "0123456789" * 4
RUN = "0123456789abcdef"


@pytest.fixture
def closed():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def silent():
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository to run in, without a key."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "DVC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    root = tmp_path / "repository"
    root.mkdir()
    subprocess.run(("git", "init", "--quiet", "--initial-branch", "main"), cwd=root, check=True)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def follow(root, make_params):
    """A function that follows two epochs, with something in between them."""

    def run(between=lambda: None, first=1, **track):
        with tracking.following(make_params(track=track), RUN, "0" * 64) as tracked:
            tracked.epoch({"epoch": first, "val_loss": 1.5})
            between()
            tracked.epoch({"epoch": first + 1, "val_loss": 1.25})

    return run


@pytest.mark.parametrize("server", ["closed", "silent"])
def test_a_server_that_does_not_take_it_costs_one_warning(
    follow, root, server, request, monkeypatch, capsys
):
    port = request.getfixturevalue(server)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    follow()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("warning: W&B: not reached (")
    assert shown.err.endswith(f"; to upload it: wandb sync wandb/offline-run-*-{RUN}\n")
    assert shown.err.count("\n") == 1
    assert steps(root / "wandb", RUN) == {1, 2}
    assert [path for path in root.rglob("*") if path.is_file() and KEY in _text(path)] == []


def _text(path):
    return path.read_bytes().decode(errors="replace")


def test_a_key_that_is_none_costs_one_warning(follow, root, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "short-secret")
    follow()
    shown = capsys.readouterr().err
    assert shown.startswith("warning: W&B: ")
    assert shown.count("\n") == 1
    assert "short-secret" not in shown
    assert steps(root / "wandb", RUN) == {1, 2}


def test_without_a_key_it_is_kept_offline_and_one_line_says_how_to_upload_it(follow, root, capsys):
    follow()
    follow(first=2)  # resumed where a kill came before the checkpoint: epoch 2 again
    shown = capsys.readouterr()
    line = f"W&B: main is kept offline; to upload it: wandb sync wandb/offline-run-*-{RUN}"
    assert shown.out.splitlines() == [line, line]
    assert shown.err == ""
    history = [
        values(record.history.item)["epoch"]
        for path in sorted(root.glob(f"wandb/offline-run-*-{RUN}*/*.wandb"))
        for record in records(path)
        if record.HasField("history")
    ]
    assert history == [1, 2, 3]


def test_the_environment_decides_where_the_parameters_leave_it_open(follow, root, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    follow()
    assert steps(root / "wandb", RUN) == {1, 2}


@pytest.mark.parametrize("by", ["parameters", "environment"])
def test_disabled_starts_nothing(root, make_params, monkeypatch, by):
    if by == "environment":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    params = make_params(track={"mode": "disabled" if by == "parameters" else "auto"})
    with tracking.following(params, RUN, "0" * 64) as tracked:
        assert tracked is None
        assert _clients() == []
    assert not (root / "wandb").exists()


def _clients():
    """Of this process, which may have other children."""
    children = psutil.Process().children()
    return [child for child in children if "alzmri.tracking.client" in child.cmdline()]


def test_a_client_that_is_killed_costs_one_warning(follow, capsys):
    follow(between=lambda: _clients()[0].kill())
    assert capsys.readouterr().err.startswith("warning: W&B: its client was ended")


def test_what_stops_the_stage_does_not_stop_the_client(follow, root, eventually, capsys):
    """As on SIGTERM: the exception goes on, and the file is whole all the same."""
    with pytest.raises(SystemExit):
        follow(between=lambda: sys.exit(128 + signal.SIGTERM))
    eventually(lambda: _ended(root) == 1)
    assert steps(root / "wandb", RUN) == {1}
    assert capsys.readouterr() == ("", "")


def _ended(root):
    """The exit status in the run's file, None while there is none."""
    for path in root.glob("wandb/offline-run-*/*.wandb"):
        for record in records(path):
            if record.HasField("exit"):
                return record.exit.exit_code
    return None


def test_a_client_that_cannot_be_imported_costs_one_warning(follow, monkeypatch, tmp_path, capsys):
    """As in an environment that lacks it."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text("import sys; sys.modules['wandb'] = None")
    starts = subprocess.Popen

    class Without(starts):
        def __init__(self, command, *, env, **rest):
            env = {**env, "PYTHONPATH": f"{broken}{os.pathsep}{env['PYTHONPATH']}"}
            super().__init__(command, env=env, **rest)

    monkeypatch.setattr(subprocess, "Popen", Without)
    follow()
    shown = capsys.readouterr().err
    assert shown.startswith("warning: W&B: this run is not tracked to its end (import of wandb")
    assert shown.count("\n") == 1


def test_on_a_full_disk_it_costs_one_warning(follow, tmp_path, monkeypatch, capsys):
    """On a real, small file system; a person's own WANDB_DIR is where the client writes."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=4k", "none", str(small))
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    try:
        (small / "full").write_bytes(bytes(4096))
        monkeypatch.setenv("WANDB_DIR", str(small))
        follow()
    finally:
        subprocess.run(("umount", "--lazy", str(small)), check=True)
    shown = capsys.readouterr().err
    assert shown.startswith("warning: W&B: ")
    assert shown.count("\n") == 1

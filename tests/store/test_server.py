"""The local server: started once, found, stopped, and never mistaken for another."""

import json
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from alzmri.errors import EnvironmentFault
from alzmri.store import remotes, server

from ..processes import limit

WITHOUT_VOLUMES = """#!/bin/sh
for word; do
  shift
  case $word in -dir=*|-ip=*|-ip.bind=*|-[fms]*.port=*|-[fms]*.port.grpc=*) set -- "$@" $word;; esac
done
exec {weed} server -master.peers=none -volume=false -filer -s3 "$@"
"""


def test_one_server_from_its_first_start_to_its_move(new_repo, free_block, tmp_path, monkeypatch):
    repo = new_repo("repo")
    private = repo.root / ".dvc" / "config.local"
    before = private.read_bytes()
    with socket.socket() as other:
        other.bind(("127.0.0.1", repo.port + 2))
        other.listen()
        refused = repo.store("up")
    assert refused.returncode == 1
    assert f"port {repo.port + 2} on 127.0.0.1 is taken by another program" in refused.stderr
    assert int(refused.stderr.split("--port ")[1].split("`")[0]) != repo.port
    assert private.read_bytes() == before

    both = [repo.start(*repo.command("up")) for _ in range(2)]
    assert [process.wait(limit(60)) for process in both] == [0, 0]
    data = f"-dir={repo.root / '.store' / 'data'}"
    servers = [p for p in psutil.process_iter(["cmdline"]) if data in (p.info["cmdline"] or [])]
    assert len(servers) == 1
    assert "already up" in repo.store("up").stdout
    repo.track("data", 1000, 2000)
    expected = repo.contents("data")
    assert repo.run("dvc", "push").returncode == 0
    moved = str(free_block())
    refused = repo.store("up", "--port", moved)
    assert refused.returncode == 2
    assert "alzmri store down" in refused.stderr

    keyed = private.read_text()
    private.write_bytes(before)  # lost keys are noticed
    refused = repo.store("up")
    assert refused.returncode == 1
    assert "alzmri store down" in refused.stderr
    private.write_text(keyed)
    assert "stopped" in repo.store("down").stdout
    assert server.find(repo.root) is None
    assert "was not running" in repo.store("down").stdout
    status = repo.store("status", "--json")
    assert status.returncode == 1
    found = json.loads(status.stdout)
    assert (found["process"], found["answers"]) == (None, False)
    assert "alzmri store up" in found["error"]
    assert "alzmri store up" in status.stderr

    # The real server without its volume server, as it is at first in one start of ten.
    without = tmp_path / "weed"
    without.write_text(WITHOUT_VOLUMES.format(weed=server._weed()))
    without.chmod(0o700)
    with monkeypatch.context() as patched:
        patched.setattr(server, "_weed", lambda: without)
        patched.setattr(server, "START_SECONDS", 8)
        with pytest.raises(EnvironmentFault, match="its volume server is not up"):
            server.up(repo.root)
    assert server.find(repo.root) is None

    assert repo.store("up", "--port", moved).returncode == 0
    repo.forget("data")
    pulled = repo.run("dvc", "pull")
    assert pulled.returncode == 0, pulled.stderr
    assert repo.contents("data") == expected
    after = remotes.default(repo.root)
    assert after.endpoint == f"http://127.0.0.1:{moved}"
    assert after.keys[0] in keyed, "keys are made once"


def test_status_names_the_open_filer_port_and_keys_stay_in_one_private_file(shared_store):
    said = shared_store.store("status").stdout
    assert f"filer port  {shared_store.port + 1}\n" in said
    assert f"http://127.0.0.1:{shared_store.port}" in said
    found = json.loads(shared_store.store("status", "--json").stdout)
    assert (found["filer_port"], found["answers"]) == (shared_store.port + 1, True)
    private = shared_store.root / ".dvc" / "config.local"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    remote = remotes.default(shared_store.root)
    running = server.find(shared_store.root)
    said += (shared_store.root / ".store" / "log").read_text()
    assert stat.S_IMODE((shared_store.root / ".store").stat().st_mode) == 0o700
    for key in remote.keys:
        assert key not in said
        assert key not in " ".join(running.process.cmdline())
        assert key not in repr(remote)
    assert not shared_store.run("git", "status", "--porcelain").stdout
    with socket.create_connection(("127.0.0.1", shared_store.port), timeout=limit(5)) as connection:
        connection.sendall(b"GET /alzmri?list-type=2 HTTP/1.0\r\n\r\n")
        assert b" 403 " in connection.recv(100)


def test_crash_at_start_shows_why(new_repo):
    repo = new_repo("repo")
    data = repo.root / ".store" / "data"
    data.mkdir(parents=True)
    (data / "filerldb2").write_text("not a folder")
    crashed = repo.store("up")
    assert crashed.returncode == 1
    assert "filerldb2" in crashed.stderr
    assert "Traceback" not in crashed.stderr
    assert server.find(repo.root) is None


def test_a_stranger_is_never_stopped(new_repo):
    repo = new_repo("repo")
    data = repo.root / ".store" / "data"
    with subprocess.Popen(
        [sys.executable, "-c", "input()", f"-dir={data}"], stdin=subprocess.PIPE
    ) as stranger:
        assert "was not running" in repo.store("down").stdout
        assert stranger.poll() is None
        stranger.communicate(b"\n")
    assert stranger.returncode == 0


def test_copied_checkout_shares_the_server_and_cannot_stop_it(shared_store, tmp_path: Path):
    other = shared_store.clone(tmp_path / "other")
    shutil.copytree(shared_store.root / ".store", other.root / ".store")
    shared = other.store("up")
    assert shared.returncode == 0
    assert "another checkout" in shared.stdout
    other.track("data", 1000)
    assert other.run("dvc", "push").returncode == 0
    assert "was not running" in other.store("down").stdout
    assert server.find(shared_store.root) is not None


def test_what_stops_a_start_is_one_message_and_names_the_place(new_repo):
    repo = new_repo("repo")
    path = repo.root / ".dvc" / "config.local"
    before = path.read_text()
    for endpoint in ("http://127.0.0.1:abc", "http://127.0.0.1:99999", "http://[::1"):
        path.write_text(f"['remote \"store\"']\nendpointurl = {endpoint}\n")
        refused = repo.store("up")
        assert refused.returncode == 2
        assert "the endpointurl of DVC's remote 'store' is not valid: write" in refused.stderr
        assert refused.stderr.count("\n") == 1
    path.write_text(before)
    proxied = repo.store("up", http_proxy="http://127.0.0.1:9", no_proxy="")
    assert proxied.returncode == 1
    assert "NO_PROXY" in proxied.stderr
    assert server.find(repo.root) is None
    (repo.root / ".dvc" / "config").unlink()
    refused = repo.store("up")
    assert refused.returncode == 2
    assert "not inside a DVC repository" in refused.stderr

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
from alzmri.store import server, settings

WITHOUT_VOLUMES = """#!/bin/sh
for word; do
  shift
  case $word in -dir=*|-ip=*|-ip.bind=*|-[fms]*.port=*|-[fms]*.port.grpc=*) set -- "$@" $word;; esac
done
exec {weed} server -master.peers=none -volume=false -filer -s3 "$@"
"""


def test_up_and_down_do_nothing_twice_nor_both_of_two_at_once(new_repo):
    repo = new_repo("repo")
    both = [repo.start(*repo.command("up")) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    data = f"-dir={repo.root / '.store' / 'data'}"
    servers = [p for p in psutil.process_iter(["cmdline"]) if data in (p.info["cmdline"] or [])]
    assert len(servers) == 1
    assert "already up" in repo.store("up").stdout
    assert repo.store("status").returncode == 0
    assert "stopped" in repo.store("down").stdout
    assert server.find(repo.root) is None
    assert "was not running" in repo.store("down").stdout
    status = repo.store("status", "--json")
    assert status.returncode == 1
    assert "alzmri store up" in status.stderr
    found = json.loads(status.stdout)
    assert (found["process"], found["answers"]) == (None, False)
    assert "alzmri store up" in found["error"]


def test_status_names_the_open_filer_port(shared_store):
    text = shared_store.store("status").stdout
    assert f"port {shared_store.port + 1} (the filer) asks for no key" in text
    assert f"http://127.0.0.1:{shared_store.port}" in text
    found = json.loads(shared_store.store("status", "--json").stdout)
    assert (found["filer_port"], found["answers"]) == (shared_store.port + 1, True)
    assert found["bytes"] > 0


def test_keys_stay_in_one_private_file(shared_store):
    private = shared_store.root / ".dvc" / "config.local"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    remote = settings.default(shared_store.root)
    assert remote.key
    assert remote.secret
    running = server.find(shared_store.root)
    assert running is not None
    said = shared_store.store("status").stdout + (shared_store.root / ".store" / "log").read_text()
    assert stat.S_IMODE((shared_store.root / ".store").stat().st_mode) == 0o700
    for key in (remote.key, remote.secret):
        assert key not in said
        assert key not in " ".join(running.process.cmdline())
        assert key not in repr(remote)
    assert not shared_store.run("git", "status", "--porcelain").stdout


def test_nobody_gets_in_without_the_key(shared_store):
    with socket.create_connection(("127.0.0.1", shared_store.port), timeout=5) as connection:
        connection.sendall(b"GET /alzmri?list-type=2 HTTP/1.0\r\n\r\n")
        assert b" 403 " in connection.recv(100)


def test_taken_port_is_named_with_a_free_one(new_repo):
    repo = new_repo("repo")
    before = (repo.root / ".dvc" / "config.local").read_bytes()
    with socket.socket() as other:
        other.bind(("127.0.0.1", repo.port + 2))
        other.listen()
        refused = repo.store("up")
    assert refused.returncode == 1
    assert f"port {repo.port + 2} on 127.0.0.1 is taken" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert (repo.root / ".dvc" / "config.local").read_bytes() == before
    suggestion = refused.stderr.split("--port ")[1].split("`")[0]
    assert repo.store("up", "--port", suggestion).returncode == 0


def test_moved_store_keeps_its_data(store_repo, new_repo):
    store_repo.track("data", 1000, 2000)
    expected = store_repo.contents("data")
    assert store_repo.run("dvc", "push").returncode == 0
    refused = store_repo.store("up", "--port", str(new_repo("ports").port))
    assert refused.returncode == 2
    assert "alzmri store down" in refused.stderr
    before = settings.default(store_repo.root)
    store_repo.store("down")
    moved = new_repo("more").port
    assert store_repo.store("up", "--port", str(moved)).returncode == 0
    store_repo.forget("data")
    pulled = store_repo.run("dvc", "pull")
    assert pulled.returncode == 0, pulled.stderr
    assert store_repo.contents("data") == expected
    # Keys are made once.
    assert settings.default(store_repo.root) == before.at_port(moved)


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


def test_it_is_not_up_before_its_objects_can_be_read(store_repo, tmp_path, monkeypatch):
    """The real server without its volume server, as it is at first in one start of ten."""
    store_repo.track("data", 1000)
    assert store_repo.run("dvc", "push").returncode == 0
    store_repo.store("down")
    without = tmp_path / "weed"
    without.write_text(WITHOUT_VOLUMES.format(weed=server._weed()))
    without.chmod(0o700)
    monkeypatch.setattr(server, "_weed", lambda: without)
    monkeypatch.setattr(server, "START_SECONDS", 10)
    with pytest.raises(EnvironmentFault, match="its volume server is not there"):
        server.up(store_repo.root)
    assert server.find(store_repo.root) is None


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


def test_lost_keys_are_noticed_and_mended(store_repo):
    (store_repo.root / ".dvc" / "config.local").write_text(
        f"['remote \"store\"']\n    endpointurl = http://127.0.0.1:{store_repo.port}\n"
    )
    refused = store_repo.store("up")
    assert refused.returncode == 1
    assert "alzmri store down" in refused.stderr
    store_repo.store("down")
    assert "store started" in store_repo.store("up").stdout


def test_endpoint_that_cannot_be_used_names_its_file(new_repo):
    repo = new_repo("repo")
    path = repo.root / ".dvc" / "config.local"
    for endpoint in ("http://127.0.0.1:abc", "http://127.0.0.1:99999", "http://[::1"):
        path.write_text(f"['remote \"store\"']\nendpointurl = {endpoint}\n")
        refused = repo.store("up")
        assert refused.returncode == 2
        assert f"{path.parent}: endpointurl of remote 'store'" in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_file_in_the_place_of_the_folder(new_repo):
    repo = new_repo("repo")
    (repo.root / ".store").touch()
    refused = repo.store("up")
    assert refused.returncode == 2
    assert f"{repo.root / '.store'} is no folder" in refused.stderr
    assert "move it away" in refused.stderr


def test_proxy_for_loopback_is_named(new_repo):
    refused = new_repo("repo").store("up", http_proxy="http://127.0.0.1:9", no_proxy="")
    assert refused.returncode == 1
    assert "NO_PROXY" in refused.stderr


def test_outside_a_repository(new_repo, tmp_path: Path):
    repo = new_repo("repo")
    (repo.root / ".dvc" / "config").unlink()
    refused = repo.store("up")
    assert refused.returncode == 2
    assert "not inside a DVC repository" in refused.stderr

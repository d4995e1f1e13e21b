"""Containers without Docker: Linux namespaces, a bridge between them, process 1 as given."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

SCRIPT = Path(__file__).with_name("container.sh")
OWN = ("unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child")


def refused() -> str:
    """Why namespaces cannot be had here; empty when they can."""
    probe = subprocess.run(
        [*OWN, "ip", "link", "add", "one", "type", "veth", "peer", "name", "two"],
        capture_output=True,
        text=True,
        check=False,
    )
    return probe.stderr.strip()


class Refused(Exception):
    """The service's answer is an error: its code and message."""


class Host:
    """One instance: its disk under ``folder``, its name, its number in the network."""

    def __init__(self, folder: Path, name: str, number: int) -> None:
        self.folder, self.name = folder, name
        self.address = f"10.77.0.{number}"
        self.ml = folder / "ml"
        self.process: subprocess.Popen[str] | None = None
        self.first = 0

    @property
    def status(self) -> int | None:
        """The exit status of its first process, once that has ended."""
        return self.process.poll() if self.process else None

    def lay_out(self, environment: dict[str, str], names: list[str]) -> None:
        """An empty /opt/ml, and what the container finds."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("ml", "opt"):
            (self.folder / name).mkdir(parents=True)
        for name in ("input/config", "input/data", "model", "output/data"):
            (self.ml / name).mkdir(parents=True)
        lines = [f"10.77.0.{number} {name}\n" for number, name in enumerate(names, start=1)]
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
        pairs = (f"{key}={value}\0" for key, value in environment.items())
        (self.folder / "environment").write_text("".join(pairs))


class Containers:
    """The running containers of one job. Leaving kills what is left of them.

    Attributes:
        interrupted: set by :meth:`interrupt`.
    """

    SERVICES = "http://10.77.0.254:8080"
    """Where the containers reach the services."""

    def __init__(
        self,
        hosts: Sequence[Host],
        command: Sequence[str],
        on_line: Callable[[str, str], None],
        answer: Callable[[str, dict[str, Any]], dict[str, Any]],
    ) -> None:
        self.interrupted = False
        self._hosts, self._command = hosts, command
        self._on_line, self._answer = on_line, answer
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Containers":
        # A process that does nothing keeps the network that joins the others.
        self._switch = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        _until(lambda: _network(self._switch.pid) != _network(os.getpid()))
        self._in_switch("ip", "link", "add", "bridge", "type", "bridge")
        self._in_switch("ip", "addr", "add", "10.77.0.254/24", "dev", "bridge")
        self._in_switch("ip", "link", "set", "bridge", "up")
        self._services = self._serve()
        for host in self._hosts:
            self._start(host)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for thread in self._threads:
            thread.join()
        self._services.shutdown()
        self._services.server_close()
        self._switch.kill()
        self._switch.wait()

    def running(self) -> bool:
        """Whether any first process still runs."""
        return any(host.status is None for host in self._hosts)

    def interrupt(self) -> None:
        """Reclaim the instances, without the notice that is not promised."""
        self.interrupted = True
        self.kill()

    def terminate(self, seconds: float) -> None:
        """SIGTERM to each first process, SIGKILL to those that are there ``seconds`` later."""
        for host in self._hosts:
            if host.status is None:
                with suppress(ProcessLookupError):
                    os.kill(host.first, signal.SIGTERM)
        with suppress(TimeoutError):
            _until(lambda: not self.running(), seconds)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to each first process, which takes all of its container along."""
        for host in self._hosts:
            if host.process and host.status is None:
                with suppress(ProcessLookupError):
                    os.kill(host.first, signal.SIGKILL)
                host.process.wait()

    def kill_trainers(self) -> None:
        """SIGKILL to what the entry points started, as the system does when memory runs out."""
        for host in self._hosts:
            for process in psutil.Process(host.first).children(recursive=True):
                process.kill()

    def _start(self, host: Host) -> None:
        words = [*OWN, "--mount-proc", str(SCRIPT), str(host.folder), host.name, host.address]
        host.process = subprocess.Popen(
            [*words, *self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        children = Path(f"/proc/{host.process.pid}/task/{host.process.pid}/children")
        _until(lambda: children.read_text().strip())
        host.first = int(children.read_text())
        _until(lambda: _network(host.first) != _network(os.getpid()))
        end = f"host{host.address.rpartition('.')[2]}"
        peer = ("peer", "name", "eth0", "netns", str(host.first))
        self._in_switch("ip", "link", "add", end, "type", "veth", *peer)
        self._in_switch("ip", "link", "set", end, "master", "bridge", "up")
        thread = threading.Thread(target=self._read, args=(host,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _read(self, host: Host) -> None:
        assert host.process is not None
        assert host.process.stdout is not None
        for line in host.process.stdout:
            self._on_line(host.name, line.rstrip("\n"))

    def _in_switch(self, *words: str) -> None:
        enter = ("nsenter", "-t", str(self._switch.pid), "-n")
        subprocess.run([*enter, *words], check=True)

    def _serve(self) -> ThreadingHTTPServer:
        """The services, listening inside the job's network."""
        server = serve(self._answer, ("10.77.0.254", 8080), bind=False)

        def listen() -> None:  # a thread of its own: it stays in that network
            with Path(f"/proc/{self._switch.pid}/ns/net").open() as network:
                assert ctypes.CDLL(None).setns(network.fileno(), 0) == 0
            server.socket = socket.create_server(("10.77.0.254", 8080))

        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


def serve(
    answer: Callable[[str, dict[str, Any]], dict[str, Any]],
    address: tuple[str, int],
    invoke: Callable[[str, str, bytes], tuple[int, str, dict[str, Any]]] | None = None,
    *,
    bind: bool = True,
) -> ThreadingHTTPServer:
    """A server that speaks AWS's JSON protocol; ``invoke`` answers what is sent to an endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body, kind = self.rfile.read(int(self.headers["Content-Length"])), ""
            if invoke and self.path.startswith("/endpoints/"):
                name = self.path.split("/")[2]
                status, kind, said = invoke(name, self.headers["Content-Type"], body)
            else:
                try:
                    operation = self.headers["X-Amz-Target"].rpartition(".")[2]
                    status, said = 200, answer(operation, json.loads(body or b"{}"))
                except Refused as error:
                    status, said = 400, {"__type": error.args[0], "message": error.args[1]}
            content = json.dumps(said).encode()
            self.send_response(status)
            if kind:
                self.send_header("x-amzn-ErrorType", kind)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Tests read what matters."""

    return ThreadingHTTPServer(address, Handler, bind_and_activate=bind)


def _network(process: int) -> str:
    return str(Path(f"/proc/{process}/ns/net").readlink())


def _until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)

"""SageMaker's endpoints on one machine: its interface, and servers that really answer."""

import http.client
import json
import re
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...processes import limit
from .namespaces import Refused

KINDS = ("Model", "EndpointConfig", "Endpoint")
OPERATION = re.compile(rf"(Create|Update|Describe|Delete)({'|'.join(KINDS)})")


class Endpoints:
    """Models, configurations and endpoints.

    Attributes:
        there: what was created, by kind and name.
        broken: why no server starts any more; empty when they do.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        arn: str,
        download: Callable[[str, Path], None],
    ) -> None:
        self.there: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.broken = ""
        # What Dockerfile sets. The port, which it leaves as it is, is another for each server here.
        self._environment = {**environment, "ALZMRI_SERVE_HOST": "0.0.0.0"}  # noqa: S104
        self._folder, self._arn, self._download = folder, arn, download
        self._servers: dict[str, Server] = {}

    def answer(self, verb: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the service answers to one of its operations; raises `Refused`."""
        name, kept = body[f"{kind}Name"], self.there[kind]
        arn = f"{self._arn}:{kind.lower()}/{name}"
        if verb == "Create" and name in kept:
            raise Refused("ValidationException", f'Cannot create already existing {kind} "{arn}".')
        if verb != "Create" and name not in kept:
            raise Refused("ValidationException", f'Could not find {kind} "{arn}".')
        if verb == "Delete":
            del kept[name]
            if kind == "Endpoint" and (server := self._servers.pop(name, None)):
                server.end()
            return {}
        if verb == "Create":
            kept[name] = {**body, f"{kind}Arn": arn, "CreationTime": time.time()}
        if kind == "Endpoint" and verb != "Describe":
            kept[name] |= {"EndpointStatus": verb[:-1] + "ing", "LastModifiedTime": time.time()}
            kept[name].pop("FailureReason", None)
            words = (kept[name], body["EndpointConfigName"])
            threading.Thread(target=self._serve, args=words, daemon=True).start()
        return kept[name]

    def invoke(self, name: str, kind: str, body: bytes) -> tuple[int, str, dict[str, Any]]:
        """What the runtime answers: status, kind of error, and the server's answer or an error."""
        if name not in self._servers:
            return 400, "ValidationError", {"Message": f"Endpoint {name} of account x not found."}
        status, said = self._servers[name].ask("POST", "/invocations", body, kind)
        if status == 200:
            return 200, "", json.loads(said)
        message = f'Received client error ({status}) from all with message "{said}".'
        return 424, "ModelError", {"Message": message, "OriginalMessage": said}

    def end(self) -> None:
        """Kill what still runs."""
        for server in self._servers.values():
            server.end()

    def _serve(self, endpoint: dict[str, Any], configuration: str) -> None:
        """Start a server; once it answers, it takes the place of the one before."""
        name = endpoint["EndpointName"]
        (variant,) = self.there["EndpointConfig"][configuration]["ProductionVariants"]
        container = self.there["Model"][variant["ModelName"]]["PrimaryContainer"]
        folder = self._folder / variant["ModelName"]
        shutil.rmtree(folder, ignore_errors=True)
        try:
            if self.broken:
                raise ValueError(self.broken)
            self._download(container["ModelDataUrl"], folder / "archive")
            with tarfile.open(folder / "archive" / "model.tar.gz") as archive:
                archive.extractall(folder / "model", filter="data")
            # Without a mount: the folder is named as it is outside.
            there = {
                key: value.replace("/opt/ml/model", str(folder / "model"))
                for key, value in container["Environment"].items()
            }
            server = Server(folder, {**self._environment, **there})
        except Exception as error:  # noqa: BLE001
            endpoint["FailureReason"] = f"The primary container did not pass the ping: {error}"
            endpoint["EndpointStatus"] = "InService" if name in self._servers else "Failed"
            return
        if before := self._servers.get(name):
            before.end()
        self._servers[name] = server
        endpoint |= {"EndpointStatus": "InService", "EndpointConfigName": configuration}


class Server:
    """`docker run IMAGE serve`, as far as the image's entry point goes. It answers a ping."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["alzmri", "serve", "--port", "0"],
            cwd=folder,
            # All have one cache: the first exports the model for all.
            env={**environment, "XDG_CACHE_HOME": str(folder.parent), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if line.startswith("serving "):
                address = next(word for word in line.split() if word.startswith("http://"))
                self._port = urlsplit(address).port
                break
        else:
            self.end()
            raise ValueError("".join(said))
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        status, _ = self.ask("GET", "/ping")
        assert status == 200

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = ""
    ) -> tuple[int, str]:
        """Status and text of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port or 0, timeout=limit(60))
        connection.request(method, path, body, {"Content-Type": kind} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def end(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        self._process.wait()

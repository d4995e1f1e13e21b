"""SageMaker's endpoints on one machine: its interface, and servers that really answer."""

import http.client
import json
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .namespaces import Refused

KINDS = {
    "model": ("ModelName", "ModelArn"),
    "endpoint-config": ("EndpointConfigName", "EndpointConfigArn"),
    "endpoint": ("EndpointName", "EndpointArn"),
}


class Endpoints:
    """Models, configurations and endpoints, by the names of the service's operations.

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

    def CreateModel(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return self._keep("model", body)

    def CreateEndpointConfig(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        for variant in body["ProductionVariants"]:
            self._kept("model", variant)
        return self._keep("endpoint-config", body)

    def CreateEndpoint(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._kept("endpoint-config", body)
        made = self._keep("endpoint", body)
        self._begin(body, "Creating")
        return made

    def UpdateEndpoint(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._kept("endpoint-config", body)
        self._begin(body, "Updating")
        return {"EndpointArn": self._kept("endpoint", body)["EndpointArn"]}

    def DescribeEndpoint(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return self._kept("endpoint", body)

    def DeleteModel(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return self._remove("model", body)

    def DeleteEndpointConfig(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return self._remove("endpoint-config", body)

    def DeleteEndpoint(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._remove("endpoint", body)
        if server := self._servers.pop(body["EndpointName"], None):
            server.end()
        return {}

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

    def _keep(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        name, arn = KINDS[kind]
        own = f"{self._arn}:{kind}/{body[name]}"
        if body[name] in self.there[kind]:
            raise Refused("ValidationException", f'Cannot create already existing {kind} "{own}".')
        self.there[kind][body[name]] = {**body, arn: own, "CreationTime": time.time()}
        return {arn: own}

    def _kept(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        name = body[KINDS[kind][0]]
        if name not in self.there[kind]:
            own = f"{self._arn}:{kind}/{name}"
            raise Refused("ValidationException", f'Could not find {kind} "{own}".')
        return self.there[kind][name]

    def _remove(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        del self.there[kind][self._kept(kind, body)[KINDS[kind][0]]]
        return {}

    def _begin(self, body: dict[str, Any], status: str) -> None:
        endpoint = self._kept("endpoint", body)
        endpoint |= {"EndpointStatus": status, "LastModifiedTime": time.time()}
        words = (endpoint, body["EndpointConfigName"])
        threading.Thread(target=self._serve, args=words, daemon=True).start()

    def _serve(self, endpoint: dict[str, Any], configuration: str) -> None:
        """Start a server; once it answers, it takes the place of the one before."""
        name = endpoint["EndpointName"]
        (variant,) = self.there["endpoint-config"][configuration]["ProductionVariants"]
        container = self.there["model"][variant["ModelName"]]["PrimaryContainer"]
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
            env={**environment, "HOME": str(folder), "PYTHONUNBUFFERED": "1"},
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
        connection = http.client.HTTPConnection("127.0.0.1", self._port or 0, timeout=60)
        connection.request(method, path, body, {"Content-Type": kind} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def end(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        self._process.wait()

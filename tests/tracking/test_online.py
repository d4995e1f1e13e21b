"""What goes over the wire. W&B cannot run here: a server that knows what the client asks for."""

import json
import re
import subprocess
import sys
import threading
import time
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .conftest import KEY, RUN
from .transactions import records, values


class Server(BaseHTTPRequestHandler):
    """Keeps the runs' histories, and says how far they are to a client that resumes."""

    protocol_version = "HTTP/1.1"
    runs: dict

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Basic {b64encode(f'api:{KEY}'.encode()).decode()}":
            return self._answer({"errors": [{"message": "user is not logged in"}]}, 401)
        if self.path != "/graphql":
            history = body.get("files", {}).get("wandb-history.jsonl")
            run = self.runs[self.path.split("/")[-2]]
            if history:
                run["lines"][history["offset"] :] = map(json.loads, history["content"])
            return self._answer({})
        (operation,) = re.findall(r"^\s*(?:query|mutation)\s+(\w+)", body["query"])
        answer = getattr(self, f"_{operation}", lambda _: {})(body.get("variables"))
        return self._answer({"data": answer})

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def _RunResumeStatus(self, asked):  # noqa: N802
        if not (run := self.runs.get(asked["name"])):
            return {"model": None}
        found = self._run(asked["name"]) | {
            "historyTail": json.dumps([json.dumps(line) for line in run["lines"][-1:]]),
            "historyLineCount": len(run["lines"]),
            "summaryMetrics": "{}",
            "config": "{}",
            "eventsTail": "[]",
            "eventsLineCount": 0,
            "logLineCount": 0,
            "tags": [],
            "wandbConfig": '{"t": 1}',
        }
        return {"model": self._project(asked) | {"bucket": found}}

    def _UpsertBucket(self, asked):  # noqa: N802
        new = asked["name"] not in self.runs
        run = self.runs.setdefault(asked["name"], {"lines": [], "names": set()})
        run["names"].add(asked["displayName"])
        bucket = self._run(asked["name"]) | {"project": self._project(asked), "config": "{}"}
        bucket |= {"historyLineCount": len(run["lines"])}
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def _run(self, name):
        return {"id": name, "name": name, "displayName": "main", "description": "", "notes": ""}

    def _project(self, asked):
        entity = {"id": "1", "name": "team"}
        return {"id": "1", "name": asked["project"], "entity": entity}

    def _CreateRunFiles(self, asked):  # noqa: N802
        address = f"http://127.0.0.1:{self.server.server_address[1]}/files/"
        files = [{"name": name, "uploadUrl": address + name} for name in asked["files"]]
        return {"createRunFiles": {"runID": RUN, "uploadHeaders": [], "files": files}}

    def _answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(root, monkeypatch):
    """A server that the client is to use, and a key for it."""
    handler = type("Handler", (Server,), {"runs": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server
        server.shutdown()


@pytest.fixture
def runs(server):
    """The runs on the server."""
    return server.RequestHandlerClass.runs


def _epochs(runs):
    return [line["epoch"] for line in runs[RUN]["lines"]]


def test_a_resumed_run_is_the_same_one_and_has_no_epoch_twice(runs, follow, capsys):
    follow(1, 2, 3)
    follow(1, 2, 3, 4, 5)  # a training that resumes reports all of its epochs
    assert list(runs) == [RUN]
    assert _epochs(runs) == [1, 2, 3, 4, 5]
    assert [line["_step"] for line in runs[RUN]["lines"]] == [1, 2, 3, 4, 5]
    shown = capsys.readouterr()
    assert "warning" not in shown.err  # the server's own complaints of closed connections are there
    assert shown.out.count("W&B: main is at http://127.0.0.1:") == 2
    assert KEY not in shown.out


def test_what_was_kept_offline_is_uploaded_in_order_by_the_line_that_was_said(
    runs, follow, eventually, capsys
):
    follow(1, 2, 3, mode="offline")
    second = int(time.time())  # folders are in order of the seconds in their names
    eventually(lambda: time.time() > second + 1)
    follow(1, 2, 3, 4, 5, mode="offline")
    assert runs == {}
    said = capsys.readouterr().out.splitlines()[-1]
    program, command, pattern = said.partition("to upload it: ")[2].split()
    assert program == "wandb"
    paths = list(map(str, Path().glob(pattern)))
    subprocess.run((Path(sys.executable).with_name(program), command, *paths), check=True)
    assert list(runs) == [RUN]
    assert _epochs(runs) == [1, 2, 3, 4, 5]


def test_a_key_that_is_refused_costs_one_warning(runs, follow, monkeypatch, capsys):
    refused = KEY[::-1]
    monkeypatch.setenv("WANDB_API_KEY", refused)
    follow(1, 2)
    assert runs == {}
    said, out = _warning(capsys)
    assert "W&B: not reached (" in said
    assert said.endswith(f"; to upload it: wandb sync wandb/offline-run-*-{RUN}")
    assert out == ""
    assert refused not in said


def test_a_server_that_drops_the_connection_costs_one_warning(
    server, runs, follow, eventually, capsys
):
    def drop():
        eventually(lambda: RUN in runs)
        server.RequestHandlerClass.do_POST = lambda self: self.connection.close()

    follow(1, 2, between=drop)
    said, out = _warning(capsys)
    assert "the upload did not finish within 8 s; to upload it: wandb sync wandb/run-*" in said
    assert "W&B: main is at http://127.0.0.1:" in out
    (path,) = Path().glob(f"wandb/run-*-{RUN}/*.wandb")
    kept = [values(r.history.item)["epoch"] for r in records(path) if r.HasField("history")]
    assert kept == [1, 2]


def _warning(capsys):
    """The only warning, and what else was said; the server complains of closed connections."""
    shown = capsys.readouterr()
    (warning,) = (line for line in shown.err.splitlines() if line.startswith("warning"))
    return warning, shown.out

"""What goes over the wire. W&B cannot run here: a server that knows what the client asks for."""

import json
import re
import subprocess
import sys
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from alzmri import tracking
from alzmri.tracking import transactions

KEY = "0123456789" * 4
RUN = "0123456789abcdef"


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
def runs(tmp_path, monkeypatch):
    """The runs on a server that the client is to use, and a key for it."""
    runs = {}
    handler = type("Handler", (Server,), {"runs": runs})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
        for name in ("WANDB_MODE", "WANDB_DIR", "DVC_ROOT", "DVC_EXP_NAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(tmp_path)
        subprocess.run(("git", "init", "--quiet", "--initial-branch", "main"), check=True)
        yield runs
        server.shutdown()


def _follow(params, epochs):
    with tracking.following(params, RUN, "0" * 64) as tracked:
        for epoch in epochs:
            tracked.epoch({"epoch": epoch, "val_loss": 1 / epoch})


def _epochs(runs):
    return [line["epoch"] for line in runs[RUN]["lines"]]


def test_a_resumed_run_is_the_same_one_and_has_no_epoch_twice(runs, make_params, capsys):
    _follow(make_params(), (1, 2, 3))
    _follow(make_params(), (3, 4, 5))  # killed before the checkpoint of the third
    assert list(runs) == [RUN]
    assert _epochs(runs) == [1, 2, 3, 4, 5]
    assert [line["_step"] for line in runs[RUN]["lines"]] == [1, 2, 3, 4, 5]
    shown = capsys.readouterr()
    assert "warning" not in shown.err  # the server's own complaints of closed connections are there
    assert shown.out.count("W&B: main is at http://127.0.0.1:") == 2
    assert KEY not in shown.out


def test_what_was_kept_offline_is_uploaded_in_order_by_the_line_that_was_said(
    runs, make_params, capsys
):
    _follow(make_params(track={"mode": "offline"}), (1, 2, 3))
    _follow(make_params(track={"mode": "offline"}), (3, 4, 5))
    assert runs == {}
    said = capsys.readouterr().out.splitlines()[-1]
    program, command, pattern = said.partition("to upload it: ")[2].split()
    assert program == "wandb"
    paths = list(map(str, Path().glob(pattern)))
    subprocess.run((Path(sys.executable).with_name(program), command, *paths), check=True)
    assert list(runs) == [RUN]
    assert _epochs(runs) == [1, 2, 3, 4, 5]


def test_a_key_that_is_refused_costs_one_warning(runs, make_params, monkeypatch, capsys):
    refused = KEY[::-1]
    monkeypatch.setenv("WANDB_API_KEY", refused)
    _follow(make_params(), (1, 2))
    assert runs == {}
    shown = capsys.readouterr()
    (warning,) = (line for line in shown.err.splitlines() if line.startswith("warning"))
    assert "W&B: not reached (" in warning
    assert warning.endswith(f"; to upload it: wandb sync wandb/offline-run-*-{RUN}")
    assert shown.out == ""
    assert refused not in shown.err
    assert transactions.steps(Path("wandb"), RUN) == {1, 2}

"""What the benches read from others stays readable, and the page shows what they wrote."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alzmri.errors import EnvironmentFault

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")


@pytest.mark.parametrize("program", ["measure", "serving"])
def test_no_package_is_imported_before_its_messages_to_its_maker_are_off(program):
    check = f"import sys, {program}; print(*sys.modules)"
    path = os.pathsep.join([f"{ROOT}/bench", f"{ROOT}/src"])
    done = subprocess.run(
        [sys.executable, "-c", check],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = done.stdout.split()
    before = modules[: modules.index("alzmri")]
    assert not {"onnxruntime", "albumentations", "wandb"} & set(before)


def test_a_command_that_fails_is_reported_with_its_last_words(bench, tmp_path):
    from training import run

    with pytest.raises(EnvironmentFault, match="no such folder"):
        run([sys.executable, "-c", "raise SystemExit('no such folder')"], tmp_path)


@pytest.mark.parametrize(
    ("ratio", "at_most", "met"),
    [(0.97, False, True), (0.96, False, False), (0.97, True, True), (0.98, True, False)],
)
def test_the_verdict_goes_by_the_targets_direction(bench, ratio, at_most, met):
    from report import Figure

    figure = Figure("one over the other", "s", {"one": [1.0]}, ratio, 0.97, at_most)
    assert figure.met is met
    assert ("NOT met" in figure.cells()) is not met


def test_each_figure_is_kept_when_it_is_measured(bench, tmp_path, monkeypatch):
    import report

    def measured():
        yield report.Figure("a", "s", {"one": [1.0]}, 2.0, 1.0)
        raise EnvironmentFault("no time for the rest")

    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", "--strict", "--gpu"])
    options = report.arguments("a bench").parse_known_args()[0]
    (tmp_path / "bench").mkdir()
    (tmp_path / "docs").mkdir()
    with pytest.raises(EnvironmentFault):
        report.record(measured(), "make bench", "results-gpu", options)
    content = json.loads((tmp_path / "bench/results-gpu.json").read_text())
    assert content["command"] == "make bench ARGS='--gpu'"
    assert [(figure["name"], figure["met"]) for figure in content["figures"]] == [("a", True)]
    assert "| a | 2.000 × |" in (tmp_path / "docs/performance.md").read_text()
    missed = report.Figure("b", "s", {"one": [1.0]}, 0.5, 1.0)
    with pytest.raises(SystemExit, match="1"):
        report.record([missed], "make bench", "results-gpu", options)


def test_a_figure_that_fails_does_not_end_the_rest(bench, monkeypatch):
    import measure

    def fails(_):
        raise ZeroDivisionError("of this one")

    @contextmanager
    def here():
        yield lambda function, *arguments: function(*arguments)

    kept = measure.Figure("kept", "s", {"one": [1.0]}, 1.0)
    named = {"first": fails, "not here": lambda _: None, "last": lambda _: kept}
    monkeypatch.setattr(measure, "FIGURES", named)
    monkeypatch.setattr(measure, "process", here)
    for name in ("draw", "prepare"):
        monkeypatch.setattr(measure.training, name, lambda *_: None)
    found = measure.figures(SimpleNamespace(quick=True, gpu=False))
    assert next(found) is kept
    with pytest.raises(EnvironmentFault, match="first failed: ZeroDivisionError"):
        next(found)
    monkeypatch.setattr(measure, "GPU_SECONDS", -1)  # none of it is left
    with pytest.raises(EnvironmentFault, match="from first on, nothing is measured"):
        next(measure.figures(SimpleNamespace(quick=True, gpu=True)))


def test_a_client_sends_all_and_does_not_pass_over_a_refusal(bench):
    from serving import send

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200 if body == b"good" else 503)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert len(send(server.server_port, [b"good"], 30, 4)) == 30
        with pytest.raises(EnvironmentFault, match="503"):
            send(server.server_port, [b"good", b"bad"], 30, 4)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("name", ["results", "results-serving"])
def test_the_page_shows_the_committed_results(name):
    page = (ROOT / "docs/performance.md").read_text()
    content = json.loads((ROOT / f"bench/{name}.json").read_text())
    missing = [
        figure["name"]
        for figure in content["figures"]
        if f"| {figure['name']} | {figure['ratio']:.3f} {figure.get('scale', '×')} |" not in page
    ]
    assert content["date"] in page
    assert missing == [], "run `make bench` or `make bench-serving`"


def test_every_cell_of_the_coverage_table_is_simulated_with_its_truth(bench):
    import coverage

    assert coverage.scores(coverage.TWO.rates)["accuracy"] == pytest.approx(0.695)
    for kind in coverage.KINDS:
        cell = (kind.models[0], kind.subjects[-1], kind.slices)
        found = [score for seed in range(3) for score in kind.simulate(seed, *cell)]
        # Any of them may miss by chance, most do not; and none holds everything.
        assert np.mean([held for _, held, _ in found]) > 0.5, kind.title
        assert all(0 < width < 0.9 for *_, width in found), kind.title

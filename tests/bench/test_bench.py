"""What the benches read from others stays readable, and the page shows what they wrote."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from alzmri.errors import EnvironmentFault

ROOT = Path(__file__).parents[2]
STEPS = """
import time
from alzmri import terminal

with terminal.progress("training", in_log=False) as on_step:
    for done in range(3, 100):
        on_step(done, 100)
        time.sleep(0.3)
"""


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")


def test_steps_are_read_from_the_live_bar(bench, tmp_path):
    from commands import seconds_to_steps

    seconds = seconds_to_steps([sys.executable, "-c", STEPS], tmp_path, 3)
    # A machine under load may not draw every one.
    assert len(seconds) >= 3
    assert list(seconds) == sorted(seconds)
    assert min(seconds) >= 3
    assert list(seconds.values()) == sorted(seconds.values())


def test_a_command_that_ends_early_is_reported_with_its_last_words(bench, tmp_path):
    from commands import seconds_to_steps

    command = [sys.executable, "-c", "raise SystemExit('no such folder')"]
    with pytest.raises(EnvironmentFault, match="no such folder"):
        seconds_to_steps(command, tmp_path, 3)


@pytest.mark.parametrize(
    ("ratio", "at_most", "met"),
    [(0.97, False, True), (0.96, False, False), (0.97, True, True), (0.98, True, False)],
)
def test_the_verdict_goes_by_the_targets_direction(bench, ratio, at_most, met):
    from report import Figure

    figure = Figure("one over the other", "s", {"one": [1.0]}, ratio, 0.97, at_most)
    assert figure.met is met
    assert ("NOT met" in figure.cells()) is not met


def test_clients_count_what_is_answered_otherwise_than_it_deserves(bench):
    from load import request, send

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200 if body == b"good" else 400)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        asked = [request("/", body, "text/plain") for body in (b"good", b"bad", b"good")]
        outcome = send(server.server_port, asked, 30, 4)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert outcome.wrong == 10
    assert len(outcome.latencies) == 30
    assert 0 < max(outcome.latencies) <= outcome.seconds


@pytest.mark.parametrize("name", ["results", "results-avx2"])
def test_the_page_shows_the_committed_results(name):
    page = (ROOT / "docs/performance.md").read_text()
    content = json.loads((ROOT / f"bench/{name}.json").read_text())
    missing = [
        figure["name"]
        for figure in content["figures"]
        if (name == "results" or figure["target"] is not None)
        and f"| {figure['name']} | {figure['ratio']:.3f} × |" not in page
    ]
    assert content["date"] in page
    assert missing == [], "run `make bench`"


def test_flops_are_three_passes_less_the_gradient_of_the_pixels(bench):
    from flops import flops_per_slice

    # Multiply-adds of a forward pass at 32 px, by the table in AlexNet's docstring.
    first = 32 * 32 * 64 * 11 * 11
    others = (
        15 * 15 * 192 * 64 * 5 * 5
        + 7 * 7 * 9 * (384 * 192 + 256 * 384 + 256 * 256)
        + 256 * 3 * 3 * 4096
        + 4096 * 4096
        + 4096 * 4
    )
    assert flops_per_slice("alexnet", 4, 32) == 2 * (3 * others + 2 * first)


def test_every_cell_of_the_coverage_table_is_simulated_with_its_truth(bench):
    import coverage

    assert coverage.scores(coverage.TWO.rates)["accuracy"] == pytest.approx(0.695)
    for kind in coverage.KINDS:
        cell = (kind.models[0], kind.subjects[-1], kind.slices)
        found = [score for seed in range(3) for score in kind.simulate(seed, *cell)]
        # Any of them may miss by chance, most do not; and none holds everything.
        assert np.mean([held for _, held, _ in found]) > 0.5, kind.title
        assert all(0 < width < 0.9 for *_, width in found), kind.title

"""What the benches read from others stays readable, and the page shows what they wrote."""

import json
import sys
from pathlib import Path

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


def test_the_page_shows_the_committed_results():
    page = (ROOT / "docs/performance.md").read_text()
    content = json.loads((ROOT / "bench/results.json").read_text())
    missing = [
        figure["name"]
        for figure in content["figures"]
        if f"| {figure['name']} | {figure['ratio']:.3f} × |" not in page
    ]
    assert content["date"] in page
    assert missing == [], "run `make bench`"

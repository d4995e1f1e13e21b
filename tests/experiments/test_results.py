"""The table of results says what the metrics say, and admits a leak."""

import json
import shutil
from pathlib import Path

import pytest

from alzmri.errors import UserError
from alzmri.experiments.results import show

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """A folder with the committed metrics."""
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    return tmp_path


def test_the_table_shows_the_scores_and_their_intervals(run, capsys):
    scores = json.loads((run / "metrics/evaluate.json").read_text())
    show(run)
    shown = capsys.readouterr().out
    low, high = scores["ci95"]["macro_f1"]
    assert f"{scores['macro_f1']:.3f}" in shown
    assert f"{low:.3f} to {high:.3f}" in shown
    low, high = scores["subject"]["ci95"]["macro_f1"]
    (line,) = (line for line in shown.splitlines() if "macro F1 per person" in line)
    assert f"(n={scores['subject']['n']})" in line
    assert f"{scores['subject']['macro_f1']:.3f}" in line
    assert f"{low:.3f} to {high:.3f}" in line
    assert "LEAKS" not in shown
    off = [count["slices"] for count in scores["stages_off"].values()]
    assert f"mistakes: {off[1]} slices in a neighbouring stage, {off[2] + off[3]} further" in shown
    assert f"at temperature {scores['calibration']['temperature']:.2f}" in shown


def test_a_leaking_score_is_labelled(run, capsys):
    path = run / "metrics/evaluate.json"
    scores = json.loads(path.read_text())
    scores["split"] = {"unit": "slice", "shared_subjects": 41}
    path.write_text(json.dumps(scores))
    show(run)
    shown = capsys.readouterr().out
    assert "slice split: LEAKS" in shown
    assert "test people seen in training: 41" in shown


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"split": {}}', "{"])
def test_metrics_of_another_version_name_the_remedy(run, content):
    (run / "metrics/evaluate.json").write_text(content)
    with pytest.raises(UserError, match="dvc repro"):
        show(run)


def test_without_a_run_it_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="dvc repro"):
        show(tmp_path)

"""The table of results says what the metrics say, and admits a leak."""

import json

import pytest

from alzmri.errors import UserError
from alzmri.experiments.results import show


@pytest.fixture
def workspace(tmp_path, make_run, monkeypatch):
    """A folder with the results of a run."""
    files = {
        **make_run("here", 0.7).files,
    }
    evaluation = json.loads(files["models/evaluation.json"])
    evaluation["calibration"] = {
        "temperature": 0.5,
        "before": {"ece": 0.125},
        "after": {"ece": 0.0625},
    }
    files["models/evaluation.json"] = json.dumps(evaluation)
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_table_shows_the_scores_and_their_intervals(workspace, make_run, capsys):
    run = make_run("here", 0.7)
    show()
    shown = capsys.readouterr().out
    for metric, name in (("macro_f1", "macro F1"), ("subject.macro_f1", "subject-level macro F1")):
        value, low, high = run.shown(metric).replace("[", "").replace(",", "").strip("]").split()
        assert f"│ {name}" in shown
        assert value in shown
        assert f"{low} to {high}" in shown
    assert "LEAKS" not in shown
    off = [count["slices"] for count in run.evaluation["stages_off"].values()]
    assert f"mistakes: {off[1]} slices in a neighbouring stage, {off[2] + off[3]} further" in shown
    assert "calibration error 0.125; 0.062 at temperature 0.50" in shown
    assert "360 images of 120 subjects; best epoch 2; 40 test subjects, 0 of them seen" in shown
    assert "dvc exp run -S train.lr=0.0005" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_a_script_reads_the_same(workspace, make_run, capsys):
    run = make_run("here", 0.7)
    show(as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert content["scores"]["subject.accuracy"] == run.score("subject.accuracy")
    assert content["scores"]["val_loss"] == run.score("val_loss")
    assert content["ci95"]["macro_f1"] == run.evaluation["ci95"]["macro_f1"]
    assert content["ci95"]["subject.macro_f1"] == run.evaluation["subject"]["ci95"]["macro_f1"]
    assert content["leaks"] is False


@pytest.mark.parametrize(("unit", "shared"), [("slice", 0), ("slice", 41), ("subject", 1)])
def test_a_leaking_score_is_labelled(workspace, capsys, unit, shared):
    path = workspace / "models/evaluation.json"
    evaluation = json.loads(path.read_text())
    path.write_text(json.dumps(evaluation | {"split": {"unit": unit, "shared_subjects": shared}}))
    show()
    shown = capsys.readouterr().out
    assert "this split LEAKS" in shown
    assert f"{shared} of them seen in training" in shown


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"split": {}}', "{"])
def test_results_of_another_version_name_the_remedy(workspace, content):
    (workspace / "models/evaluation.json").write_text(content)
    with pytest.raises(UserError, match="dvc repro"):
        show()


def test_without_a_run_it_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="dvc repro"):
        show()

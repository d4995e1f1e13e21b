"""The scores of the workspace, and what `make repro` says of the committed run."""

import json
import subprocess

import pytest
from ruamel.yaml import YAML

from alzmri import git
from alzmri.errors import UserError
from alzmri.experiments.workspace_results import show, verdict


@pytest.fixture
def workspace(tmp_path, make_run, monkeypatch):
    """A folder with the results of a run."""
    for path, content in make_run("here", 0.7).files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_table_shows_the_scores_and_their_intervals_and_a_script_reads_them(
    workspace, make_run, capsys
):
    run = make_run("here", 0.7)
    show()
    shown = capsys.readouterr().out
    for metric, name in (("macro_f1", "macro F1"), ("subject.macro_f1", "subject-level macro F1")):
        value, low, high = run.shown(metric).replace("[", "").replace(",", "").strip("]").split()
        assert f"│ {name}" in shown
        assert value in shown
        assert f"{low} to {high}" in shown
    assert "LEAKS" not in shown
    assert "360 images of 120 subjects; best epoch 2; 40 test subjects, 0 of them seen" in shown
    assert "dvc exp run -S train.lr=0.0005" in shown
    assert max(map(len, shown.splitlines())) <= 100
    show(as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert content["scores"]["subject.accuracy"] == run.score("subject.accuracy")
    assert content["scores"]["val_loss"] == run.score("val_loss")
    assert content["ci95"]["macro_f1"] == run.evaluation["ci95"]["macro_f1"]
    assert content["ci95"]["subject.macro_f1"] == run.evaluation["subject"]["ci95"]["macro_f1"]
    assert content["leaks"] is False


@pytest.mark.parametrize(
    ("unit", "shared"), [("slice", 0), ("subject", 1), ("slice", None), ("subject", None)]
)
def test_a_leaking_score_is_labelled(workspace, capsys, unit, shared):
    """Subjects are unknown, or (the last) a subject may have several names."""
    path = workspace / "models/evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["split"] = {"unit": unit, "shared_subjects": shared}
    if unknown := (unit, shared) == ("slice", None):
        evaluation["subject"]["n"] = None
    path.write_text(json.dumps(evaluation))
    show()
    shown = capsys.readouterr().out
    assert "this split LEAKS" in shown
    if unknown:
        assert "360 images of unknown subjects" in shown
        assert "95 % over slices" in shown
    else:
        seen = "unknown how many" if shared is None else shared
        assert f"{seen} of them seen in training" in shown


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"split": {}}', "{", None])
def test_without_a_run_or_with_one_of_another_version_it_names_the_remedy(workspace, content):
    path = workspace / "models/evaluation.json"
    path.write_text(content) if content else path.unlink()
    with pytest.raises(UserError, match="dvc repro"):
        show()


@pytest.fixture
def run(tmp_path, monkeypatch, make_params):
    """A function that writes the files of a run into a git repository, the current directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@localhost")
    subprocess.run(["git", "init", "--quiet"], check=True)
    (tmp_path / "models").mkdir()

    def write(weights="w0", portable=True, code="c0", device="cpu", commit=False):
        compute = {"compute": {"portable": portable, "threads": 2}}
        (tmp_path / "params.yaml").write_text(make_params(**compute).model_dump_json())
        model = {"training": {"device": device}}
        (tmp_path / "models/model.json").write_text(json.dumps(model))
        train = {
            "cmd": "python src/train.py",
            "deps": [{"path": "src/train.py", "md5": code}],
            "params": {"params.yaml": {"compute.portable": portable, "train": {"lr": 0.1}}},
            "outs": [{"path": "models/model.safetensors", "md5": weights}],
        }
        evaluate = {
            "cmd": "python src/evaluate.py",
            "deps": [{"path": "models/model.safetensors", "md5": weights}],
            "outs": [{"path": f"plots/{n}.png", "md5": f"{weights}{n}"} for n in range(4)],
        }
        with (tmp_path / "dvc.lock").open("w") as file:
            YAML().dump({"stages": {"train": train, "evaluate": evaluate}}, file)
        if commit:
            subprocess.run(["git", "add", "--all"], check=True)
            subprocess.run(["git", "commit", "--quiet", "--message", "a run"], check=True)

    return write


def test_what_was_changed_is_named_rather_than_what_came_of_it(run, tmp_path):
    run()
    assert "`git add --all && git commit" in verdict()  # not even a commit
    run(commit=True)
    run()
    assert "was reproduced byte for byte" in verdict()
    assert "commit:" not in verdict()
    run(weights="w1", portable=False, code="c1")
    said = verdict()
    assert "this run differs from the committed one: compute.portable, src/train.py changed" in said
    assert "why:" not in said
    assert 'git commit -am "my baseline"' in said
    (tmp_path / "dvc.lock").unlink()
    with pytest.raises(UserError, match="dvc repro"):
        verdict()


def test_other_bytes_of_the_same_experiment_are_explained(run, monkeypatch):
    run(commit=True, device="cuda")
    run(weights="w1", device="cuda")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    first, why, commit = verdict().splitlines()
    assert "models/model.safetensors, plots/0.png, plots/1.png, plots/2.png and 1 more" in first
    assert "this is aarch64, and the training ran on cuda" in why
    assert "`make portable`" in why
    assert 'git commit -am "my baseline"' in commit


def test_a_model_has_the_version_under_which_its_lock_file_is_tagged(run, tmp_path):
    run(commit=True)
    assert git.version() is None
    for tag in ("alzmri@v0.9.0", "alzmri@v0.10.0", "alzmri#prod#1", "other@v1.0.0"):
        subprocess.run(["git", "tag", "--message", tag, tag], check=True)
    assert git.version() == "alzmri@v0.10.0"
    assert git.version(tmp_path / "elsewhere") is None
    run(weights="w1")
    assert git.version() is None

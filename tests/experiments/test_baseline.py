"""`make repro` ends with whether it was the committed run, why not, and what to type then."""

import json
import subprocess
from importlib import metadata

import pytest
from ruamel.yaml import YAML

from alzmri import registry
from alzmri.errors import UserError
from alzmri.experiments.results import PACKAGES, verdict


@pytest.fixture
def run(tmp_path, monkeypatch, make_params):
    """A function that writes the files of a run into a git repository, the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@localhost")
    subprocess.run(["git", "init", "--quiet"], check=True)
    (tmp_path / "requirements.txt").write_text(_pins())
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


def _pins(torch=None):
    versions = {name: metadata.version(name).partition("+")[0] for name in PACKAGES}
    versions["torch"] = torch or versions["torch"]
    return "".join(f"{name}=={version}\n" for name, version in versions.items())


def test_the_same_lock_file_is_the_committed_run(run):
    run(commit=True)
    run()
    assert "was reproduced byte for byte" in verdict()
    assert "commit:" not in verdict()


def test_what_was_changed_is_named_rather_than_what_came_of_it(run):
    run(commit=True)
    run(weights="w1", portable=False, code="c1")
    said = verdict()
    assert "this run differs from the committed one: compute.portable, src/train.py changed" in said
    assert "why:" not in said
    assert 'git commit -am "my baseline"' in said


@pytest.mark.parametrize(
    ("files", "machine", "torch", "reason"),
    [
        ({}, "x86_64", None, "the reason is unknown: `make portable`"),
        ({}, "aarch64", None, "aarch64 processors"),
        ({"device": "cuda"}, "x86_64", None, "the training ran on a GPU"),
        ({"portable": False}, "x86_64", None, "compute.portable is false"),
        ({}, "x86_64", "1.0.0", "instead of 1.0.0"),
    ],
)
def test_other_bytes_of_the_same_experiment_are_explained(
    run, tmp_path, monkeypatch, files, machine, torch, reason
):
    run(commit=True, **files)
    run(weights="w1", **files)
    monkeypatch.setattr("platform.machine", lambda: machine)
    (tmp_path / "requirements.txt").write_text(_pins(torch))
    first, why, commit = verdict().splitlines()
    assert "models/model.safetensors, plots/0.png, plots/1.png, plots/2.png and 1 more" in first
    assert reason in why
    assert ";" not in why
    assert 'git commit -am "my baseline"' in commit


def test_without_a_committed_run_the_first_one_is_offered_as_the_baseline(run, tmp_path):
    run()
    assert "`git add --all && git commit" in verdict()  # not even a commit
    subprocess.run(["git", "commit", "--quiet", "--allow-empty", "--message", "start"], check=True)
    assert "no run is committed yet" in verdict()
    run(commit=True)
    (tmp_path / "dvc.lock").unlink()
    with pytest.raises(UserError, match="dvc repro"):
        verdict()


def test_a_model_has_the_version_under_which_its_lock_file_is_tagged(run, tmp_path):
    run(commit=True)
    assert registry.version() is None
    for tag in ("alzmri@v0.9.0", "alzmri@v0.10.0", "alzmri#prod#1", "other@v1.0.0"):
        subprocess.run(["git", "tag", "--message", tag, tag], check=True)
    assert registry.version() == "alzmri@v0.10.0"
    assert registry.version(tmp_path / "elsewhere") is None
    run(weights="w1")
    assert registry.version() is None
    run()
    (tmp_path / "notes.txt").write_text("a commit that leaves the model as it is")
    run(commit=True)
    assert registry.version() == "alzmri@v0.10.0"

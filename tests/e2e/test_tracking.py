"""A training and its evaluation are one run on W&B, killed or not, by the client's own files."""

import csv
import json
import signal
from pathlib import Path

from ruamel.yaml import YAML

from .. import forks
from ..processes import limit
from ..tracking.transactions import records, values


def _files(root: Path):
    return sorted((root / "wandb").glob("offline-run-*/*.wandb"))


def _of(kind, *paths):
    """All records of one kind."""
    return [
        getattr(record, kind) for path in paths for record in records(path) if record.HasField(kind)
    ]


def _history(*paths):
    return [values(history.item) for history in _of("history", *paths)]


def test_an_experiment_is_one_run_by_its_name(clone):
    """In a temporary copy, as the queue does it: what is tracked is in the repository itself."""
    baseline = clone.run("git", "rev-parse", "HEAD").stdout.strip()
    settings = ("track.mode=offline", "split.unit=slice", "train.epochs=2")
    said = clone.run(
        "dvc", "exp", "run", "--temp", "--name", "bold", *(f"-S{value}" for value in settings)
    ).stdout
    clone.run("dvc", "exp", "apply", "bold")
    card = json.loads((clone.root / "models/model.json").read_bytes())
    assert "track" not in card["parameters"]
    upload = f"wandb sync wandb/offline-run-*-{card['run']}"
    assert f"W&B: bold is kept offline; to upload it: {upload}\n" in said

    training, evaluation = files = _files(clone.root)
    for run in _of("run", *files):
        assert (run.run_id, run.display_name, run.run_group) == (card["run"], "bold", baseline[:7])
        assert (run.job_type, list(run.tags)) == ("train", ["LEAKS"])
        config = values(run.config.update)
        assert config["git_commit"] == baseline
        assert config["data_sha256"] == card["data_sha256"]
        assert config["train"] == card["parameters"]["train"]
    with (clone.root / "plots/history.csv").open() as file:
        expected = list(csv.DictReader(file))
    logged = [{key: f"{row[key]:.6g}" for key in expected[0]} for row in _history(training)]
    assert logged == expected

    (media,) = _history(evaluation)
    assert media["_step"] == 3
    assert media["mistakes._type"] == "image-file"
    (table,) = evaluation.parent.glob("files/media/table/confusion_matrix_*.json")
    assert json.loads(table.read_bytes())["data"][0][:2] == ["0 Non Demented"] * 2
    summary = {}
    for record in _of("summary", evaluation):
        summary |= values(record.update)
    metrics = clone.load("models/evaluation.json")
    assert summary["accuracy"] == metrics["accuracy"]
    assert summary["ci95"] == metrics["ci95"]
    assert summary["per_class"] == metrics["per_class"]

    (model,) = (a for a in _of("artifact", evaluation) if a.type == "model")
    stages = YAML(typ="safe").load((clone.root / "dvc.lock").read_text())["stages"]
    digests = {out["path"]: out["md5"] for out in stages["train"]["outs"]}
    for entry in model.manifest.contents:
        digest = digests[f"models/{entry.path}"]
        assert entry.ref == f"s3://alzmri/dvc/files/md5/{digest[:2]}/{digest[2:]}"
        assert not entry.local_path
    assert len(model.manifest.contents) == 2


def test_how_it_is_tracked_retrains_nothing(clone):
    path = clone.root / "params.yaml"
    path.write_text(path.read_text().replace("mode: disabled", "mode: offline"))
    assert "up to date" in clone.run("dvc", "repro").stdout
    assert not (clone.root / "wandb").exists()


def test_a_killed_run_goes_on_in_the_same_one_and_no_epoch_is_there_twice(clone, eventually):
    path = clone.root / "params.yaml"
    path.write_text(
        path.read_text()
        .replace("mode: disabled", "mode: offline")
        .replace("epochs: 3 ", "epochs: 300 ")
    )
    train = ("python", "src/train.py")
    marks: set[Path] = set()
    for number, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        process = clone.start(*train, forked=True)
        clone.read_until(process, "epoch")
        eventually(lambda seen=marks: _marks(clone.root) - seen)
        marks = _marks(clone.root)
        (trainer,) = forks.find(clone.root, "train.py")
        trainer.send_signal(number)  # not to W&B's own process, which it has started
        process.communicate(timeout=limit(60))
        assert process.returncode == status
    said = clone.run(*train).stdout
    assert "resuming in epoch" in said
    # What the stopped and the killed one left is gone, for it was reported again.
    (file,) = _files(clone.root)
    assert [row["epoch"] for row in _history(file)] == list(range(1, 301))


def _marks(root: Path) -> set[Path]:
    """One in the folder of each training."""
    return set((root / "wandb").glob("offline-run-*/training"))

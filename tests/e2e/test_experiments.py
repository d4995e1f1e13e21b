"""Experiments, the queue and the plots page, through DVC itself."""

import re

from alzmri.inference.onnx_export import TOLERANCE


def test_an_experiment_changes_the_numbers_and_the_diffs_show_it(clone, tmp_path):
    """It also switches on the stage export, which is off."""
    assert "export" not in clone.run("dvc", "stage", "list").stdout
    settings = ("train.lr=0.02", "train.epochs=6", "export.formats=[onnx]")
    clone.run("dvc", "exp", "run", *(word for value in settings for word in ("-S", value)))
    changed = clone.run("git", "diff", "--numstat", "--", "params.yaml").stdout.split()
    assert changed == ["4", "3", "params.yaml"]  # an item of a list has its own line
    plain = clone.load("models/export.onnx.json")
    assert plain["largest_difference"] < TOLERANCE
    assert (clone.root / "models/model.onnx").stat().st_size == plain["bytes"]
    assert "Running stage" not in clone.run("dvc", "repro").stdout
    (changes,) = [
        change
        for path, change in clone.json("dvc", "metrics", "diff", "--json").items()
        if path.endswith("evaluate.json")
    ]
    assert changes["loss"]["old"] != changes["loss"]["new"]
    params = clone.json("dvc", "params", "diff", "--json")
    assert params["params.yaml"]["train.lr"]["new"] == 0.02
    clone.run("dvc", "plots", "diff", "HEAD", "-o", str(tmp_path / "page"))
    page = (tmp_path / "page/index.html").read_text()
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', page) == []
    for title in ("Confusion matrix", "Loss", "Validation scores"):
        assert title in page
    images = {path.name for path in (tmp_path / "page/static").iterdir()}
    for name in ("confusion", "roc", "reliability", "mistakes", "classes"):
        assert sum(name in image for image in images) == 2, name


def test_a_queued_grid_runs_edited_source(clone, eventually):
    source = clone.root / "src/alzmri/training/__init__.py"
    source.write_text(source.read_text() + '\nprint("EDITED SOURCE RAN")\n')
    grid = ("-S", "train.lr=0.001,0.01", "-S", "train.momentum=0.85")
    clone.run("dvc", "exp", "run", "--queue", *grid, "train")
    clone.run("dvc", "queue", "start", "--jobs", "1")
    # Asking DVC all the time would take the processor from what is waited for.
    done = ("git", "for-each-ref", "--format=%(refname)", "refs/exps/??/*/*")
    eventually(lambda: len(clone.run(*done).stdout.split()) == 2, 240)
    eventually(lambda: clone.run("dvc", "queue", "status").stdout.count("Success") == 2, 60)
    status = clone.run("dvc", "queue", "status").stdout
    names = re.findall(r"^(\S+).*Success", status, re.MULTILINE)
    assert len(names) == 2, status
    for name in names:
        assert "EDITED SOURCE RAN" in clone.run("dvc", "queue", "logs", name).stdout
    shown = clone.json("dvc", "exp", "show", "--json")
    rates = {
        (
            experiment["revs"][0]["data"]["params"]["params.yaml"]["data"]["train"]["lr"],
            experiment["revs"][0]["data"]["params"]["params.yaml"]["data"]["train"]["momentum"],
        )
        for baseline in shown
        for experiment in baseline.get("experiments") or []
    }
    assert rates == {(0.001, 0.85), (0.01, 0.85)}

"""`dvc repro` as a user runs it: everything there, nothing twice, mistakes explained."""

import csv
import re
import shutil

import torch
import vl_convert

OUTPUTS = (
    "data/phantom/subjects.csv",
    "data/prepared/images.npy",
    "data/prepared/manifest.csv",
    "data/prepared/rejected.csv",
    "data/prepared/params.json",
    "data/prepared/summary.json",
    "models/model.safetensors",
    "models/model.json",
    "models/last.pt",
    "models/MODEL_CARD.md",
    "models/evaluation.json",
    "models/ood.json",
    "models/ood.safetensors",
    "plots/classes.csv",
    "plots/classes.png",
    "plots/subjects.png",
    "plots/history.csv",
    "plots/confusion.csv",
    "plots/confusion.png",
    "plots/predictions.csv",
    "plots/reliability.png",
    "plots/roc.png",
    "plots/mistakes.png",
    "metrics/train.json",
    "metrics/evaluate.json",
)


def test_every_output_of_the_contract_is_there(repro):
    assert [path for path in OUTPUTS if not (repro.root / path).stat().st_size] == []
    assert not torch.load(repro.root / "models/last.pt")  # without train.keep_last


def test_columns_are_those_of_the_contract(repro):
    headers = {
        "data/prepared/manifest.csv": "index,path,label,subject,split,sha256",
        "plots/history.csv": "epoch,lr,train_loss,val_loss,val_accuracy,val_macro_f1",
        "plots/confusion.csv": "actual,predicted",
        "plots/predictions.csv": "path,subject,actual,predicted,ood,Non Demented,"
        "Very Mild Demented,Mild Demented,Moderate Demented",
    }
    for path, header in headers.items():
        assert (repro.root / path).read_text().splitlines()[0] == header


def test_metrics_have_the_keys_of_the_contract(repro):
    train, evaluate = (repro.metrics(name) for name in ("train", "evaluate"))
    assert list(train) == ["best_epoch", "val_loss", "val_accuracy", "val_macro_f1"]
    assert list(evaluate) == [
        *("macro_f1", "accuracy", "loss", "macro_auc", "ece"),
        *("subject_macro_f1", "subject_accuracy", "shared_subjects"),
    ]
    assert {path.name for path in (repro.root / "metrics").iterdir()} == {
        "train.json",
        "evaluate.json",
    }
    for value in (*train.values(), *evaluate.values()):
        assert value == round(value, 6)


def test_the_rest_is_in_cached_files(repro):
    scores, details = repro.metrics("evaluate"), repro.load("models/evaluation.json")
    assert {name: details[name] for name in scores} == scores
    assert {"balanced_accuracy", "brier", "ci95", "subject", "per_class"} <= set(details)
    assert {"calibration", "stages_off"} <= set(details)
    assert details["split"] == {"unit": "subject", "shared_subjects": 0}
    assert details["ci95"]["macro_f1"][0] <= scores["macro_f1"] <= details["ci95"]["macro_f1"][1]
    summary = repro.load("data/prepared/summary.json")
    assert summary["images"] == 4 * 7 * 3
    assert summary["subjects"] == 4 * 7
    assert "test_images_with_training_near_duplicate" in summary["leak"]
    assert repro.load("models/model.json")["training"]["epochs"] == 3
    alarms = repro.load("models/ood.json")
    assert alarms["ci95"]["false_alarms"][0] <= alarms["false_alarms"]


def test_a_class_that_is_never_predicted_keeps_its_column_in_dvcs_plot(clone):
    table = clone.root / "plots/confusion.csv"
    rows = table.read_text().splitlines()
    actual = sorted({row.split(",")[0] for row in rows[1:]})
    assert len(actual) == 4
    table.unlink()  # it may be a link into DVC's cache
    table.write_text("\n".join([rows[0], *(f"{name},{actual[2]}" for name in actual)]) + "\n")
    drawn = vl_convert.vegalite_to_svg(
        clone.json("dvc", "plots", "show", "--show-vega", "plots/confusion.csv")
    )
    cells = set(re.findall(r"predicted: ([^;]+); actual: ([^;]+); slices: (\d+)", drawn))
    expected = {(p, a, str(int(p == actual[2]))) for p in actual for a in actual}
    assert cells == expected


def test_tested_people_were_not_trained_on(repro):
    with (repro.root / "data/prepared/manifest.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    people = {
        part: {r["subject"] for r in rows if r["split"] == part} for part in ("train", "test")
    }
    assert people["train"]
    assert people["test"]
    assert not people["train"] & people["test"]


def test_a_second_run_does_nothing(repro):
    again = repro.run("dvc", "repro")
    assert "Running stage" not in again.stdout
    assert repro.run("git", "status", "--porcelain").stdout == ""


def _experiment(clone, *settings):
    return clone.run("dvc", "exp", "run", *(word for value in settings for word in ("-S", value)))


def test_the_protocol_runs_and_is_labelled_as_leaking(clone):
    """AlexNet on the slice split, on three classes that are permuted."""
    size = ("model.name=alexnet", "data.image_size=64", "train.epochs=1", "train.keep_last=true")
    kind = ("split.unit=slice", "split.seed=3", "data.merge=three-class", "data.fit=stretch")
    done = _experiment(clone, *size, *kind, "data.permute_labels=true")
    assert "THIS SPLIT LEAKS" in done.stdout
    assert "with PERMUTED LABELS" in done.stdout
    assert clone.metrics("evaluate")["shared_subjects"] > 0
    evaluation = clone.load("models/evaluation.json")
    assert evaluation["split"]["unit"] == "slice"
    names = ["Non Demented", "Very Mild Demented", "Mild or Moderate Demented"]
    assert list(evaluation["per_class"]) == names
    assert torch.load(clone.root / "models/last.pt", weights_only=True)
    assert "LEAKS" in clone.run("alzmri", "results").stdout
    architecture = clone.load("models/model.json")["architecture"]
    assert (architecture["name"], architecture["image_size"]) == ("alexnet", 64)


def test_a_collection_with_classes_of_its_own_and_of_unknown_subjects(clone, write, tmp_path):
    for number in range(30):
        write(tmp_path / "adni" / ("AD", "CN", "MCI")[number % 3] / f"{number}.jpg", number)
    source = ("alzmri", "data", "import", str(tmp_path / "adni"), "--name", "adni")
    assert "--classes 'CN,MCI,AD'" in clone.run(*source, code=2).stderr
    brought = clone.run(*source, "--classes", "CN,MCI,AD")
    assert "split.subjects=unknown" in brought.stderr
    clone.commit("The collection")
    unknown = ("data.source=adni", "split.unit=slice", "split.subjects=unknown")
    done = _experiment(clone, *unknown, "split.fractions=[0.5,0.25,0.25]", "train.epochs=1")
    assert "subjects unknown, THIS SPLIT LEAKS" in done.stdout
    predictions = (clone.root / "plots/predictions.csv").read_text().splitlines()
    assert predictions[0] == "path,subject,actual,predicted,ood,CN,MCI,AD"
    classes = [row.split(",")[0] for row in (clone.root / "plots/classes.csv").open()]
    assert classes == ["class", *(name for name in ("0 CN", "1 MCI", "2 AD") for _ in range(3))]
    assert list(clone.load("models/evaluation.json")["per_class"]) == ["CN", "MCI", "AD"]
    scores = clone.metrics("evaluate")
    assert {name for name, value in scores.items() if value is None} == {
        *("subject_macro_f1", "subject_accuracy", "shared_subjects"),
    }
    assert "subjects unknown" in " ".join(clone.run("alzmri", "results").stdout.split())
    assert "subjects unknown: it leaks" in (clone.root / "models/MODEL_CARD.md").read_text()
    clone.run("alzmri", "review", "HEAD")
    review = (clone.root / "reports/review-HEAD-workspace/README.md").read_text()
    assert "`workspace` LEAKS (subjects unknown)" in review
    image = str(clone.root / "data/adni" / predictions[1].split(",")[0])
    (slice_,) = clone.json("alzmri", "predict", "--json", image)["slices"]
    assert set(slice_["probabilities"]) == {"CN", "MCI", "AD"}


def test_a_wrong_parameter_stops_before_any_work_and_names_everything(clone):
    lock = (clone.root / "dvc.lock").read_bytes()
    params = clone.root / "params.yaml"
    params.write_text(params.read_text().replace("momentum:", "momentun:"))
    stage = clone.run("python", "src/train.py", code=2)
    assert "train.momentun: no such key; did you mean train.momentum?" in stage.stderr
    assert "Traceback" not in stage.stderr
    clone.run("git", "restore", "params.yaml")
    failed = clone.run("dvc", "exp", "run", "-S", "train.lr=-1", code=255)
    assert "train.lr = -1: input should be greater than 0" in failed.stderr
    assert "git restore . && dvc checkout" in failed.stderr
    assert (clone.root / "dvc.lock").read_bytes() == lock
    clone.run("git", "restore", ".")
    clone.run("dvc", "checkout")
    assert clone.run("git", "status", "--porcelain").stdout == ""
    assert "up to date" in clone.run("dvc", "status").stdout


def test_a_folder_of_malformed_files_stops_prepare_and_leaves_nothing(clone):
    bad = clone.root / "data/bad/NonDemented"
    bad.mkdir(parents=True)
    (bad / "empty.jpg").touch()
    (bad / "text.png").write_text("not an image")
    shutil.rmtree(clone.root / "data/prepared")
    params = clone.root / "params.yaml"
    params.write_text(params.read_text().replace("source: phantom", "source: bad"))
    done = clone.run("python", "src/prepare.py", code=2)
    assert "empty.jpg: empty file" in done.stderr
    assert "text.png: not an image" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (clone.root / "data").iterdir()) == ["bad", "phantom"]


def test_a_leak_is_refused_by_the_stage_itself(clone):
    """The subjects are divided anew, but the model is the old one."""
    params = clone.root / "params.yaml"
    text = params.read_text()
    before, after = text.split("\nsplit:")
    params.write_text(before + "\nsplit:" + after.replace("seed: 0", "seed: 5", 1))
    clone.run("python", "src/prepare.py")
    done = clone.run("python", "src/evaluate.py", code=2)
    assert "were in this model's training" in done.stderr

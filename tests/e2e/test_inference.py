"""From a model to a person: the commands on the tiny clone's model, files and mistakes."""

import csv
import io
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

from alzmri.cli import app
from alzmri.data import images
from alzmri.data.images import fit
from alzmri.errors import EnvironmentFault, UserError
from alzmri.inference import NOTICE
from alzmri.inference import onnx_export as exporting
from alzmri.inference.onnx_export import Engine
from alzmri.inference.predictor import Predictor, interpret

SIDE = 32


@pytest.fixture(scope="module")
def manifest(repro):
    with (repro.root / "data/prepared/manifest.csv").open() as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def packed(repro):
    return np.load(repro.root / "data/prepared/images.npy")


@pytest.fixture(scope="module")
def predictor(repro):
    return Predictor.load(repro.root / "models")


@pytest.fixture
def alzmri(repro, monkeypatch):
    """``alzmri(*words)`` in the clone, in this process; returns what it printed on stdout."""
    monkeypatch.chdir(repro.root)

    def run(*words, code=0):
        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.stdout

    return run


def test_preprocessing_is_exactly_that_of_training(repro, manifest, packed, predictor):
    for row in manifest:
        pixels = images.decode(repro.root / "data/phantom" / row["path"]).pixels
        assert np.array_equal(predictor.preprocess(pixels), packed[int(row["index"])])


def test_what_is_predicted_is_what_the_evaluation_scored(repro, manifest, alzmri):
    """And subjects have their mean."""
    with (repro.root / "plots/predictions.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    classes = list(rows[0])[5:]
    folder = repro.root / "test subjects"
    for row in rows:
        (folder / row["subject"]).mkdir(parents=True, exist_ok=True)
        shutil.copy(repro.root / "data/phantom" / row["path"], folder / row["subject"])
    said = json.loads(alzmri("predict", folder, "--by-folder", "--json"))
    shutil.rmtree(folder)
    assert said["notice"] == NOTICE
    assert len(said["slices"]) == len(rows)
    by_name = {Path(item["path"]).name: item for item in said["slices"]}
    for row in rows:
        item = by_name[Path(row["path"]).name]
        found = [item["probabilities"][name] for name in classes]
        assert found == pytest.approx([float(row[name]) for name in classes], abs=1e-4)
        assert item["in_distribution"] == (row["ood"] == "0")
    actual = {row["subject"]: row["actual"] for row in rows}
    right = [
        person["predicted"] == actual[Path(person["subject"]).name] for person in said["subjects"]
    ]
    if all(person["slices_in_distribution"] for person in said["subjects"]):
        assert np.mean(right) == pytest.approx(
            repro.load("metrics/evaluate.json")["subject_accuracy"], abs=1e-6
        )
    for person in said["subjects"]:
        used = [
            i for i in said["slices"] if i["subject"] == person["subject"] and i["in_distribution"]
        ]
        assert len(used) == person["slices_in_distribution"]
        mean = np.mean([list(item["probabilities"].values()) for item in used], axis=0)
        assert list(person["probabilities"].values()) == pytest.approx(mean)


def _strange(packed):
    """Images that are no axial slice around the ventricles, by what they are."""
    rng = np.random.default_rng(0)
    head = packed[0]
    photographs = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in load_sample_images().images]
    text = np.full((208, 176), 255, np.uint8)
    for line in range(10):
        cv2.putText(text, "not a scan", (5, 15 + 20 * line), 0, 0.8, 0, 1)
    leg = np.zeros((208, 176), np.uint8)
    cv2.circle(leg, (88, 104), 60, 180, -1)
    cv2.circle(leg, (80, 100), 18, 30, -1)
    half = cv2.resize(head, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    return {
        "noise": rng.integers(0, 256, (SIDE, SIDE), np.uint8),
        "a photograph of a building": fit(photographs[0], SIDE, "pad"),
        "a photograph of a flower": fit(photographs[1], SIDE, "pad"),
        "text": fit(text, SIDE, "pad"),
        "nearly empty": rng.integers(0, 3, (SIDE, SIDE), np.uint8),
        "a leg": fit(leg, SIDE, "pad"),
        "inverted": 255 - head,
        "shuffled pixels": rng.permutation(head.ravel()).reshape(SIDE, SIDE),
        "a head on its side": np.rot90(head),
        "a head upside down": np.rot90(head, 2),
        "a head at half the scale": np.pad(half, SIDE // 4),
        "a head at twice the scale": fit(head[8:-8, 8:-8], SIDE, "pad"),
    }


def test_what_is_no_such_slice_is_flagged_and_held_out_people_are_not(
    repro, manifest, packed, predictor, alzmri, tmp_path
):
    strange = _strange(packed)
    judged = predictor.predict(np.stack(list(strange.values())))
    assert [name for name, fine in zip(strange, judged.in_distribution, strict=True) if fine] == []
    test = [int(row["index"]) for row in manifest if row["split"] == "test"]
    flagged = ~predictor.predict(packed[test]).in_distribution
    assert flagged.mean() == pytest.approx(repro.load("models/ood.json")["false_alarms"], abs=1e-6)
    assert flagged.mean() < 0.5
    Image.fromarray(strange["text"]).save(tmp_path / "text.png")
    (item,) = json.loads(alzmri("predict", tmp_path / "text.png", "--json"))["slices"]
    assert item["predicted"] is None
    assert not item["in_distribution"]
    shown = alzmri("predict", tmp_path / "text.png")
    assert "│ OOD" in shown
    assert NOTICE in shown


def test_a_bad_file_is_reported_the_rest_goes_on_and_the_exit_status_says_so(
    repro, manifest, tmp_path
):
    """As a process, for the streams and statuses that a script sees."""
    good = repro.root / "data/phantom" / manifest[0]["path"]
    shutil.copy(good, tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.nii.gz").write_text("no volume")
    (tmp_path / "text.dcm").write_text("no slice")
    (tmp_path / "readme.txt").write_text("none of our business")
    Image.new("L", (5000, 5000)).save(tmp_path / "bomb.png")
    done = repro.run("alzmri", "predict", str(tmp_path), "--json", code=1)
    said = json.loads(done.stdout)
    assert [Path(item["path"]).name for item in said["slices"]] == ["good.jpg"]
    reasons = {Path(item["path"]).name: item["reason"] for item in said["refused"]}
    assert set(reasons) == {"cut.jpg", "empty.png", "text.nii.gz", "text.dcm", "bomb.png"}
    for name, reason in reasons.items():
        assert f"{name}: {reason}" in done.stderr
    (tmp_path / "good.jpg").unlink()
    nothing = repro.run("alzmri", "predict", str(tmp_path), code=2)
    assert "none of the 5 inputs can be used" in nothing.stderr
    assert nothing.stdout == ""
    assert "Traceback" not in nothing.stderr


def test_what_a_name_means(repro, manifest, alzmri):
    one = f"data/phantom/{manifest[0]['path']}"
    everything = json.loads(alzmri("predict", "data/phantom", one, "--json"))
    assert len(everything["slices"]) == len(manifest)
    by_glob = list(csv.DictReader(io.StringIO(alzmri("predict", "data/**/*_01.jpg", "--csv"))))
    assert {Path(item["path"]).name for item in by_glob} == {
        Path(row["path"]).name for row in manifest if row["path"].endswith("_01.jpg")
    }
    assert {item["notice"] for item in by_glob} == {NOTICE}
    for name, reason in (("nowhere.jpg", "no such file"), ("metrics", "has no image")):
        with pytest.raises(UserError, match=reason):
            alzmri("predict", name)


def test_a_model_without_its_detector_or_with_another_is_refused(clone):
    detector = clone.root / "models/ood.safetensors"
    kept = detector.read_bytes()
    detector.unlink()
    with pytest.raises(UserError, match="dvc repro ood"):
        Predictor.load(clone.root / "models")
    detector.write_bytes(kept)
    card = clone.root / "models/model.json"
    written = card.read_text()
    card.unlink()
    card.write_text(written.replace('"mean": 0.5', '"mean": 0.4'))
    with pytest.raises(UserError, match="another preprocessing"):
        Predictor.load(clone.root / "models")


def test_explanations_are_written_per_slice(repro, manifest, alzmri, tmp_path):
    out = tmp_path / "why"
    slices = [f"data/phantom/{row['path']}" for row in manifest[:2]]
    alzmri("explain", *slices, "--class", "Mild Demented", "--out", out)
    with (out / "index.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["path"] for row in rows] == slices
    for row in rows:
        assert row["class"] == "Mild Demented"
        assert row["notice"] == NOTICE
        found = np.load(out / row["map"])
        assert found.shape == (SIDE, SIDE)
        assert found.dtype == np.float32
        with Image.open(out / row["overlay"]) as picture:
            assert picture.size == (256, 256)
            assert picture.text["Description"] == NOTICE
    with pytest.raises(UserError, match="the model's classes are Non Demented"):
        alzmri("explain", *slices, "--class", "Healthy", "--out", out)


def test_the_exported_model_says_the_same_for_any_number_of_slices(
    packed, predictor, alzmri, tmp_path, monkeypatch
):
    path = tmp_path / "model.onnx"
    assert "test slices the results differ" in alzmri("export", "--out", path)
    engine = Engine(path, threads=1)
    for number in (1, 2, 7, len(packed)):
        expected = predictor.predict(packed[:number])
        found = interpret(*engine.run(packed[:number]), predictor.card, predictor.detector)
        assert np.abs(found.probabilities - expected.probabilities).max() < exporting.TOLERANCE
        assert found.ood_score == pytest.approx(expected.ood_score, rel=1e-3)
    assert engine.about["notice"] == NOTICE
    assert engine.about["weights"] == predictor.detector.weights
    assert engine.about["card"]["preprocessing"] == predictor.card.preprocessing
    assert "training_subjects" not in engine.about["card"]
    before = path.read_bytes()
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    with pytest.raises(EnvironmentFault, match="differ from PyTorch's"):
        alzmri("export", "--out", path)
    assert path.read_bytes() == before

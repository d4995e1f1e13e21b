"""What is planned fits the schema and means what the tables say; folds are pooled by subject."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from alzmri.classes import CLASSES
from alzmri.errors import LeakError, UserError
from alzmri.evaluation import assessment
from alzmri.experiments import honest_study, studies
from alzmri.experiments.honest_study import TaskResults, planned
from alzmri.experiments.runner import parse_settings
from alzmri.experiments.studies import Study, protocol_planned, write_section


def study(scales, size="scaled", **overrides):
    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    return Study("phantom", scales[size], settings)


def cross_validation(**overrides):
    return study(honest_study.SCALES, **overrides)


def protocol(size="scaled", **overrides):
    planned_ = protocol_planned(study(studies.PROTOCOL_SCALES, size, **overrides))
    return dict(zip(studies.VARIANTS, planned_, strict=True))


def test_folds_differ_in_nothing_but_the_fold():
    *cross, slices = planned(cross_validation(), "binary", 5)
    parameters = [experiment.params for experiment in cross]
    for fold, used in enumerate(parameters):
        assert (used.split.unit, used.split.folds, used.split.fold) == ("subject", 5, fold)
    alike = {used.model_copy(update={"split": None}).model_dump_json() for used in parameters}
    assert len(alike) == 1
    leaking = slices.params
    assert leaking.split.unit == "slice"
    assert {leaking.model_copy(update={"split": None}).model_dump_json()} == alike


def test_the_studies_at_full_size_are_the_published_protocol_and_the_documented_validation():
    for variant, (lr, momentum) in {"baseline": (1e-4, 0.9), "best": (5e-4, 0.85)}.items():
        used = protocol("full")[variant].params
        assert (used.train.lr, used.train.momentum) == (lr, momentum)
        assert (used.train.batch_size, used.train.epochs) == (128, 100)
        assert (used.data.image_size, used.split.unit) == (224, "slice")
        assert used.split.fractions == [0.70, 0.15, 0.15]
        assert used.train.weight_decay == 1e-4
        augment = used.augment
        assert (augment.p, augment.shift, augment.scale, augment.rotate) == (0.2, 0.05, 0.05, 15)
    used = planned(cross_validation(size="full"), "none", 5)[-1].params
    train = used.train
    assert (train.lr, train.momentum, train.schedule) == (0.004, 0.9, "onecycle")
    assert (train.batch_size, train.epochs, train.class_weights) == (32, 20, "sqrt")
    assert used.data.image_size == 224


def test_the_task_is_what_the_table_calls_it_and_seeds_have_names_of_their_own():
    asked = cross_validation(data__merge="none", train__seed=7)
    found = planned(asked, "binary", 3, seeds=2)
    assert {one.params.data.merge for one in found} == {"binary"}
    names = [f"honest-phantom-2classes-{part}" for part in ("fold0", "fold1", "fold2", "slices")]
    assert [one.name for one in found] == [*names[:3], *(f"{n}-seed8" for n in names[:3]), names[3]]
    assert [one.params.train.seed for one in found] == [7, 7, 7, 8, 8, 8, 7]


def test_settings_of_the_user_win_and_are_checked(tmp_path, monkeypatch):
    used = protocol(train__lr=0.5, data__image_size=32)["best"].params
    assert (used.train.lr, used.data.image_size) == (0.5, 32)
    with pytest.raises(UserError, match=r"train\.epoch: no such key; did you mean train\.epochs"):
        _ = protocol(train__epoch=2)["best"].params
    for word in ("train.lr", "=1", "train.lr=["):
        with pytest.raises(UserError, match=re.escape(f"-S {word}: ")):
            parse_settings([word])
    (tmp_path / "params.yaml").write_text("train: [")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"params\.yaml is not valid YAML"):
        _ = protocol()["best"].params


def _table(*rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _head(number, stage):
    """uint8 ``[48, 48]``: a brain with ventricles that grow with the stage, no two alike."""
    y, x = np.mgrid[:48, :48] - 23.5
    distance = np.hypot(x, y)
    return np.select(
        [distance < 2 + stage + number % 5 / 5, distance < 20, distance < 21], [20, 120, 200], 0
    ).astype(np.uint8)


@pytest.fixture
def fold(make_run):
    """``fold(stages, slices, first)``: a run that tests a subject per stage, with so many slices.

    One slice of three is wrong where ``wrong``, so that the mean over a subject is right.
    """

    def make(stages, slices, first=0, wrong=False):
        names = np.repeat([f"P{first + n}" for n in range(len(stages))], slices)
        truth = np.repeat(stages, slices)
        guess = np.where(wrong & (np.arange(len(truth)) % 3 == 0), (truth + 1) % 4, truth)
        probabilities = 0.6 * np.eye(4)[guess] + 0.1
        # The images of all folds are the same; each tests its own subjects.
        everyone = {**{f"P{n}": n % 4 for n in range(60)}, **dict(zip(names, truth, strict=True))}
        heads = np.stack([_head(n, stage) for n, stage in enumerate(everyone.values())])
        run = replace(make_run(f"fold{first}", 0.5, shared=3), pixels=heads)
        run.files["plots/predictions.csv"] = _table(
            ("path", "subject", "actual", "predicted", *CLASSES),
            *(
                (f"{name}_{n:03}.png", name, CLASSES[a], CLASSES[g], *row)
                for n, (name, a, g, row) in enumerate(
                    zip(names, truth, guess, probabilities, strict=True)
                )
            ),
        )
        run.files["data/prepared/manifest.csv"] = _table(
            ("index", "label", "subject", "split"),
            *(
                (n, CLASSES[stage], name, "test" if name in names else "train")
                for n, (name, stage) in enumerate(everyone.items())
            ),
        )
        tested = truth, probabilities, names.tolist()
        run.evaluation.update(assessment.score(*tested, CLASSES, 0, np.ones(len(truth), bool)))
        return run

    return make


def test_the_ceiling_is_counted_in_subjects(fold):
    # Six subjects of class 0 with a slice each; two of class 1 and three of each other, with ten.
    run = fold([0] * 6 + [1, 1, 2, 2, 2, 3, 3, 3], [1] * 6 + [10] * 8)
    row = TaskResults("4 classes", [run, fold([2], [1], 50)], run).row()
    assert row["subjects"] == "15"
    assert row["at most"] == "0.750"  # two subjects cannot be in all three parts
    assert row["seeds"] == "one"
    assert row["subject-level accuracy"].startswith("1.000")
    assert row["slice split, subject-level macro F1: LEAKS"] == "1.000 (3 of 14 subjects known)"


def test_folds_are_one_test_of_all_subjects_scored_by_the_mean_of_their_slices(fold):
    stages = np.arange(20) % 4
    folds = [fold(stages, 3), fold(stages, 3, first=20, wrong=True)]
    task = TaskResults("4 classes", folds, folds[0], [folds[::-1]])
    assert task.scores["subject"]["n"] == 40
    assert task.scores["accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert task.scores["subject"]["accuracy"] == 1
    low, high = task.new
    assert 0.7 < low < high == 1
    assert task.by_fold == task.by_seed == [1, 1]
    assert task.row()["seeds"] == "± 0.000 (2)"
    twice = [fold([0, 1, 2, 3], 3), fold([0, 1, 2, 3], 3, first=2)]
    with pytest.raises(LeakError, match="2 subjects are tested in several folds"):
        TaskResults("4 classes", twice, folds[0])


def test_subjects_in_several_groups_are_at_most_so_many(fold):
    runs = [fold([0, 1, 2, 3], 3, first=20 * number) for number in range(2)]
    summary = json.loads(runs[0].files["data/prepared/summary.json"])
    summary["people"] = {"from": "pixels", "cut": 0.39, "gap": None}
    runs[0].files["data/prepared/summary.json"] = json.dumps(summary)
    task = TaskResults("4 classes", runs, runs[0])
    assert task.several
    assert task.row()["subjects"] == "at most 8"


def test_the_confusion_of_subjects_has_sensitivity_and_specificity(fold):
    """Two of six healthy subjects are called very mild, both very mild ones mild."""
    folds = [fold([0, 0, 0, 1], 1, first=4 * number, wrong=True) for number in range(2)]
    healthy, ill = TaskResults("4 classes", folds, folds[0]).class_rows()
    assert [row["subjects"] for row in (healthy, ill)] == [6, 2]
    named = [row["predicted as each class, in this order"] for row in (healthy, ill)]
    assert named == ["4, 2, 0, 0", "0, 0, 2, 0"]
    assert healthy["sensitivity"] == ill["specificity"] == "0.667 [0.223, 0.957]"
    assert ill["sensitivity"] == "0.000 [0.000, 0.842]"


def test_floors_are_found_in_pixels_and_compared_with_the_network(fold, monkeypatch):
    """Ventricles that grow with the stage: the numbers find it, permuted labels are not found."""
    monkeypatch.setattr(honest_study, "PERMUTATIONS", 5)
    stages = np.arange(20) % 4
    folds = [fold(stages, 3, first=20 * number) for number in range(3)]
    task = TaskResults("4 classes", folds, folds[0])
    network, both, five, alone, frequent, guesses, permuted = task.floor_rows()
    assert network["macro F1"].startswith("1.000 [0.")
    assert network["network − this"] == ""
    for floor in (both, five, alone):
        assert float(floor["macro F1"][:5]) > 0.9
        assert floor["network − this"][0] in "+-"
    assert frequent["macro F1"] == "0.100 [0.100, 0.100]"  # the same answer is right by no luck
    low = float(network["macro F1"][7:12]) - 0.1
    assert frequent["network − this"] == f"+0.900 [+{low:.3f}, +0.900]"
    for row in (guesses, permuted):
        assert 0.15 < float(row["macro F1"].removeprefix("mean ")[:5]) < 0.35
    assert permuted["macro F1"].endswith("p = 0.167")


def test_late_fusion_corrects_the_network_where_the_numbers_are_sure(fold, monkeypatch):
    monkeypatch.setattr(honest_study, "PERMUTATIONS", 1)
    stages = np.arange(30) % 2 * 3
    folds = [fold(stages, 1, first=30 * number, wrong=True) for number in range(2)]
    network, both, five, *_ = TaskResults("2 classes", folds, folds[0]).floor_rows()
    score = [float(row["macro F1"][:5]) for row in (network, both, five)]
    assert score[0] < score[1] <= score[2]
    assert both["network − this"].startswith("-")
    assert network["network and five numbers − this"].startswith("+")


@pytest.mark.parametrize("sizes", [(12, 12), (12, 9, 1)])
def test_a_floor_finds_two_classes_and_those_of_a_single_subject(sizes):
    labels = np.repeat(range(len(sizes)), sizes)
    numbers = labels[:, np.newaxis] + np.linspace(0, 0.1, len(labels))[:, np.newaxis]
    found = honest_study.floor(numbers, labels, np.arange(len(labels)) % 3)
    assert (found.argmax(axis=1) == labels)[: sizes[0] + sizes[1]].all()


def test_a_section_is_added_once_and_replaced_in_its_place(tmp_path):
    page = tmp_path / "docs/results.md"
    write_section("honest a", "first", page)
    assert "first" in page.read_text()
    page.write_text("# Results\n\nWritten by hand.\n")
    write_section("honest a", "first", page)
    write_section("honest b", "other", page)
    page.write_text(page.read_text() + "\nMore by hand.\n")
    write_section("honest a", "second \\1 with a backslash", page)
    text = page.read_text()
    assert "first" not in text
    assert text.index("second \\1 with") < text.index("other") < text.index("More by hand")
    assert text.startswith("# Results\n\nWritten by hand.\n")
    write_section("honest a", "second \\1 with a backslash", page)
    assert page.read_text() == text


def test_slices_out_of_distribution_have_no_share_in_the_score_of_a_study(fold):
    """One slice of three is wrong; where the other two do not count, the whole subject is."""
    folds = [fold([0, 1, 2, 3], 3, first=first, wrong=True) for first in (0, 20)]
    assert TaskResults("4 classes", folds, folds[0]).scores["subject"]["accuracy"] == 1
    folds = [fold([0, 1, 2, 3], 3, first=first, wrong=True) for first in (0, 20)]
    for run in folds:
        rows = list(csv.DictReader(io.StringIO(run.files["plots/predictions.csv"])))
        marked = [{**row, "ood": int(row["actual"] == row["predicted"])} for row in rows]
        run.files["plots/predictions.csv"] = _table(marked[0], *(row.values() for row in marked))
    task = TaskResults("4 classes", folds, folds[0])
    assert task.scores["subject"]["accuracy"] == 0
    assert task.by_seed == [0]


def test_a_study_says_that_it_is_scaled_unless_the_user_sets_the_size(monkeypatch):
    def asked(size, *words):
        return studies.asked("phantom", size, studies.PROTOCOL_SCALES, 1, words)

    scaled = asked("scaled", "train.lr=0.5")
    assert scaled.scale == studies.PROTOCOL_SCALES["scaled"]
    assert scaled.overrides["train.lr"] == 0.5
    own = asked("scaled", "train.epochs=3")
    assert own.scale == (scaled.scale[0], "")
    assert own.settings(studies.PROTOCOL)["train.epochs"] == 3
    for gpu, sides in ((True, 224), (False, 128)):
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        assert asked("auto").scale[0]["data.image_size"] == sides

"""params.yaml is checked once, and every fault is reported at once."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from alzmri import params
from alzmri.errors import UserError


@pytest.fixture
def ours(committed):
    return committed("params.yaml")


@pytest.fixture
def write(tmp_path, ours):
    """``write({"train.lr": 1})``: the committed file with changes; None removes a key."""

    def save(changes: dict[str, Any]) -> Path:
        content = YAML(typ="safe").load(ours.read_text())
        for key, value in changes.items():
            section, name = key.split(".")
            if value is None:
                del content[section][name]
            else:
                content[section][name] = value
        path = tmp_path / "params.yaml"
        with path.open("w") as handle:
            YAML().dump(content, handle)
        return path

    return save


def test_the_committed_file_is_the_protocols_baseline(ours):
    loaded = params.load(ours)
    assert (loaded.train.lr, loaded.train.momentum, loaded.train.weight_decay) == (1e-4, 0.9, 1e-4)
    assert loaded.split.fractions == [0.70, 0.15, 0.15]
    assert (loaded.augment.p, loaded.augment.shift, loaded.augment.rotate) == (0.2, 0.05, 15)
    assert loaded.split.unit == "subject"


def test_every_key_carries_a_comment_in_the_form_that_dvc_writes(original):
    """So that `dvc exp run -S KEY=VALUE` changes the line of that key and no other."""
    text = original("params.yaml")
    for line in text.splitlines():
        if line.startswith("  ") and not line.startswith("  - "):
            assert "  # " in line, line
    yaml = YAML()  # as dvc.utils.serialize has it
    yaml.default_flow_style = False
    content = yaml.load(text)
    for section in content.values():
        for key, value in section.items():
            if isinstance(value, list):
                section[key] = list(value)  # DVC knows no style of a list
    written = io.StringIO()
    yaml.dump(content, written)
    assert written.getvalue() == text


@pytest.mark.parametrize("spelling", ["1e-4", "0.0001", "1.0E-4"])
def test_a_number_is_a_number_however_yaml_reads_it(write, spelling):
    path = write({})
    text = path.read_text()
    assert "lr: 0.0001" in text
    path.write_text(text.replace("lr: 0.0001", f"lr: {spelling}"))
    assert params.load(path).train.lr == 1e-4
    path.write_text(text.replace("lr: 0.0001", f"lr: '{spelling}'"))
    assert params.load(path).train.lr == 1e-4


@pytest.mark.parametrize("written", ["1e5", "0123", "2026-11-29", "true", "0x1f", "'1e5'"])
def test_a_text_that_looks_like_a_number_is_text(ours, written):
    text = ours.read_text().replace("project: alzmri", f"project: {written}")
    assert params.parse(text, "params.yaml").track.project == written.strip("'")


FAULTS = [
    ("train.lr", "fast", "train.lr = 'fast'"),
    ("train.lr", True, "train.lr = True"),
    ("train.lr", float("nan"), "finite"),
    ("train.batch_size", 1.5, "valid integer"),
    ("data.image_size", 65, "allowed are 32, 64, 96, 128, 160 or 224"),
    ("data.source", "../secret", "data.source"),
    ("data.source", "prepared", "an output of the pipeline"),
    ("data.merge", "two", "'binary'"),
    ("split.unit", "person", "'subject' or 'slice'"),
    ("split.subjects", "unknown", "or set split.unit=slice, which LEAKS"),
    ("split.fractions", [0.7, 0.2, 0.2], "sum to 1"),
    ("split.fractions", [1.0, 0.0, 0.0], "above 0"),
    ("split.fractions", [0.5, 0.5], "at least 3 items"),
    ("split.fold", 1, "below split.folds"),
    ("train.warmup", 5, "below train.epochs"),
    ("train.keep_last", "yes", "valid boolean"),
    ("export.formats", ["onnx", "onnx"], "at most 1 item"),
    ("track.mode", "on", "'auto', 'online', 'offline' or 'disabled'"),
    ("track.project", "a/b", "track.project = 'a/b'"),
]


def test_a_value_out_of_range_is_named_with_what_is_allowed(write):
    for key, value, expected in FAULTS:
        with pytest.raises(UserError) as caught:
            params.load(write({key: value}))
        assert key in str(caught.value)
        assert expected in str(caught.value)


BOUNDS = [
    ("phantom.subjects", (3, 10_000), (2, 10_001)),
    ("phantom.slices", (1, 32), (0, 33)),
    ("phantom.difficulty", (0, 2), (-0.1, 2.1)),
    ("data.max_rejected", (0, 1), (-0.1, 1.1)),
    ("split.folds", (0, 3, 100), (-1, 1, 2, 101)),
    ("split.seed", (0, 2**32 - 1), (-1, 2**32)),
    ("augment.p", (0, 1), (-0.1, 1.1)),
    ("augment.shift", (0, 0.5), (-0.1, 0.6)),
    ("augment.scale", (0, 0.5), (-0.1, 0.6)),
    ("augment.rotate", (0, 180), (-1, 181)),
    ("model.dropout", (0, 0.99), (-0.1, 1)),
    ("train.lr", (1e-9, 10), (0, -1, 10.1)),
    ("train.momentum", (0, 0.99), (-0.1, 1)),
    ("train.weight_decay", (0, 1), (-0.1, 1.1)),
    ("train.batch_size", (2, 65_536), (1, 65_537)),
    ("train.epochs", (1, 100_000), (0, 100_001)),
    ("train.warmup", (0, 0.9, 4.9), (-0.1, 5)),
    ("train.label_smoothing", (0, 0.99), (-0.1, 1)),
    ("train.ema", (0, 0.999), (-0.1, 1)),
    ("train.seed", (0, 2**32 - 1), (-1, 2**32)),
    ("train.checkpoint_every", (0, 1), (-1,)),
    ("train.patience", (0, 1), (-1,)),
]


def test_the_bounds_of_every_number_are_where_they_are_documented(ours):
    content = YAML(typ="safe").load(ours.read_text())
    for key, usable, refused in BOUNDS:
        section, name = key.split(".")
        for value in usable:
            changed = {**content, section: {**content[section], name: value}}
            checked = params.validated(params.Params, changed, "x")
            assert getattr(getattr(checked, section), name) == value
        for value in refused:
            changed = {**content, section: {**content[section], name: value}}
            with pytest.raises(UserError, match=re.escape(f"{key} = {value!r}: ")):
                params.validated(params.Params, changed, "x")


def test_all_faults_come_in_one_message(write):
    with pytest.raises(UserError) as caught:
        params.load(
            write(
                {"train.lr": "x", "train.momentun": 0.9, "data.fit": None, "split.fold": 7}
                | {"data.shuffle_labels": True}
            )
        )
    message = str(caught.value)
    assert "5 fault(s)" in message
    assert "data.shuffle_labels: is now called data.permute_labels" in message
    assert "train.momentun: no such key; did you mean train.momentum?" in message
    assert "data.fit: missing" in message
    assert "split.fold = 7" in message


@pytest.mark.parametrize(
    "text",
    [
        *("train: [", "- a\n- b", "", "train: {lr: 1, lr: 2}", "train: {seed: 2001-99-99}"),
        *(f"train: {{seed: {'9' * 5000}}}", 'train: !!int "abc"', "[" * 30_000),
    ],
)
def test_a_file_that_is_no_mapping_is_a_users_mistake(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml"):
        params.load(path)


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(UserError, match="root of the repository"):
        params.load(tmp_path / "params.yaml")

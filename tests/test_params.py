"""params.yaml is checked once, and every fault is reported at once."""

import io
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from alzmri import params
from alzmri.errors import UserError

ROOT = Path(__file__).parent.parent
PLAIN = ROOT / "tests/params.yaml"
"""What the committed file says, whatever a user has made of that since."""


@pytest.fixture
def write(tmp_path):
    """``write({"train.lr": 1})``: the parameters of the tests with changes; None removes a key."""

    def save(changes: dict[str, Any]) -> Path:
        content = YAML(typ="safe").load(PLAIN.read_text())
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


def test_the_committed_file_is_the_protocols_baseline():
    loaded = params.load(PLAIN)
    assert (loaded.train.lr, loaded.train.momentum, loaded.train.weight_decay) == (1e-4, 0.9, 1e-4)
    assert loaded.split.fractions == [0.70, 0.15, 0.15]
    assert (loaded.augment.p, loaded.augment.shift, loaded.augment.rotate) == (0.2, 0.05, 15)
    assert loaded.split.unit == "subject"


def test_the_committed_file_has_a_comment_for_every_key_and_the_form_that_dvc_writes():
    """So that `dvc exp run -S KEY=VALUE` changes the line of that key and no other."""
    text = (ROOT / "params.yaml").read_text()
    if params.parse(text, "params.yaml") != params.load(PLAIN):
        pytest.skip("params.yaml has been edited here")
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


def test_parameters_from_before_runs_were_tracked_are_still_read():
    text = PLAIN.read_text()
    old = params.parse(text[: text.index("\ntrack:")], "params.yaml of an experiment")
    assert old == params.load(PLAIN)


def test_a_text_that_looks_like_a_number_is_a_text(write):
    loaded = params.load(write({"data.source": 2024, "track.project": 7, "track.group": "007"}))
    assert (loaded.data.source, loaded.track.project, loaded.track.group) == ("2024", "7", "007")
    with pytest.raises(UserError, match=r"track.entity = 1000.0: is a text: put it in quotes"):
        params.load(write({"track.entity": 1e3}))


@pytest.mark.parametrize("spelling", ["1e-4", "0.0001", "1.0E-4"])
def test_a_number_is_a_number_however_yaml_reads_it(write, spelling):
    path = write({})
    text = path.read_text()
    assert "lr: 0.0001" in text
    path.write_text(text.replace("lr: 0.0001", f"lr: {spelling}"))
    assert params.load(path).train.lr == 1e-4
    path.write_text(text.replace("lr: 0.0001", f"lr: '{spelling}'"))
    assert params.load(path).train.lr == 1e-4


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.lr", 0, "greater than 0"),
        ("train.lr", "fast", "train.lr = 'fast'"),
        ("train.lr", True, "train.lr = True"),
        ("train.lr", float("nan"), "finite"),
        ("train.batch_size", 1.5, "valid integer"),
        ("train.epochs", -1, "greater than or equal to 1"),
        ("train.warmup", 10, "below train.epochs"),
        ("data.image_size", 65, "allowed are 32, 64, 96, 128, 160 or 224"),
        ("data.source", "../secret", "data.source"),
        ("data.source", "prepared", "what the pipeline makes"),
        ("data.merge", "two", "'binary'"),
        ("split.unit", "person", "'subject' or 'slice'"),
        ("split.fractions", [0.7, 0.2, 0.2], "sum to 1"),
        ("split.fractions", [1.0, 0.0, 0.0], "above 0"),
        ("split.fractions", [0.5, 0.5], "at least 3 items"),
        ("split.folds", 2, "at least 3"),
        ("split.fold", 1, "below split.folds"),
        ("model.dropout", 1, "less than 1"),
        ("train.keep_last", "yes", "valid boolean"),
        ("track.mode", "on", "'auto', 'online', 'offline' or 'disabled'"),
        ("track.project", "a/b", "track.project = 'a/b'"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(write, key, value, expected):
    with pytest.raises(UserError) as caught:
        params.load(write({key: value}))
    assert key in str(caught.value)
    assert expected in str(caught.value)


def test_all_faults_come_in_one_message(write):
    with pytest.raises(UserError) as caught:
        params.load(
            write({"train.lr": "x", "train.momentun": 0.9, "data.fit": None, "split.fold": 7})
        )
    message = str(caught.value)
    assert "4 fault(s)" in message
    assert "train.momentun: no such key; did you mean train.momentum?" in message
    assert "data.fit: missing" in message
    assert "split.fold = 7" in message


@pytest.mark.parametrize(
    "text",
    [
        *("train: [", "- a\n- b", "", "train: {lr: 1, lr: 2}", "train: {seed: 2001-99-99}"),
        *(f"train: {{seed: {'9' * 5000}}}", 'train: !!int "abc"', "[" * 20_000),
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

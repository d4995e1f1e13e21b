"""A checkpoint is whole or set aside, and a run goes on from it to the same bit."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import alzmri
from alzmri.errors import UserError
from alzmri.training.checkpoints import Checkpoints, alone, fingerprint
from alzmri.training.loop import train

CPU = torch.device("cpu")


class Cut(Exception):
    """Stands for whatever ends a process between two steps."""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """For drafts and locks."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.fixture
def store(tmp_path):
    return lambda: Checkpoints(str(tmp_path / "checkpoints"), "run")


@pytest.fixture
def names(tmp_path):
    """The epochs and steps of the checkpoints that there are."""
    return lambda: sorted(file.name[:13] for file in (tmp_path / "checkpoints/run").iterdir())


@pytest.fixture
def quick(make_params):
    def make(**train):
        settings = {"lr": 0.02, "epochs": 4, "batch_size": 16, "checkpoint_every": 1, **train}
        return make_params(train=settings, model={"name": "lenet"}, data={"image_size": 32})

    return make


def _run(prepared, params, device, checkpoints, cut_after=None):
    def on_step(done, _):
        if done == cut_after:
            checkpoints.wait()
            raise Cut

    return train(prepared, params, device, checkpoints, on_step)


def _same(one, other):
    assert one.history == other.history
    assert one.temperature == other.temperature
    for name, tensor in one.best_weights.items():
        assert torch.equal(tensor, other.best_weights[name]), name
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.integers(1, 19), min_size=1, max_size=3, unique=True))
def test_a_run_cut_anywhere_ends_with_the_same_bytes(prepared, quick, device, cuts):
    params = quick(ema=0.9, batch_size=14)  # an epoch has four whole batches and a smaller one
    whole = _run(prepared, params, device, Checkpoints("memory://whole", "run"))
    Checkpoints("memory://whole", "run").clear()
    for cut in sorted(cuts):
        with pytest.raises(Cut):
            _run(prepared, params, device, Checkpoints("memory://cut", "run"), cut)
    _same(whole, _run(prepared, params, device, Checkpoints("memory://cut", "run")))
    Checkpoints("memory://cut", "run").clear()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
        lambda _: b"",
    ],
    ids=["halved", "a flipped bit", "emptied"],
)
def test_what_is_damaged_is_set_aside_and_the_one_before_is_used(
    store, names, tmp_path, capsys, spoil
):
    kept = store()
    for steps in (1, 2, 3):
        kept.save({"epoch": 1, "steps": steps, "weights": torch.arange(steps)})
    kept.wait()
    assert names() == ["000001-000002", "000001-000003"]
    files = sorted((tmp_path / "checkpoints/run").iterdir())
    for file in files:
        assert file.stem[14:] == hashlib.sha256(file.read_bytes()).hexdigest()
    files[1].write_bytes(spoil(files[1].read_bytes()))
    assert store().load()["steps"] == 2
    assert "damaged" in capsys.readouterr().err.replace("\n", " ")
    assert not files[1].exists()
    kept.clear()  # after success nothing is left
    assert list((tmp_path / "checkpoints").iterdir()) == []
    # One of another run is set aside too.
    other = Checkpoints(str(tmp_path / "checkpoints"), "other")
    other.save({"epoch": 9, "steps": 1})
    other.wait()
    (tmp_path / "checkpoints/other").rename(tmp_path / "checkpoints/run")
    assert store().load() is None
    assert "of another run" in capsys.readouterr().err.replace("\n", " ")


def test_writing_keeps_within_its_share_of_the_time_unless_it_is_asked_for(
    store, names, quick, prepared
):
    """The first of a process is written at once, the next when fifty times its cost has passed."""
    kept = store()
    assert kept.affordable
    kept.save({"epoch": 1, "steps": 1, "weights": torch.zeros(10_000_000)})
    kept.wait()
    assert not kept.affordable
    kept.clear()
    with pytest.raises(Cut):
        _run(prepared, quick(checkpoint_every=1), CPU, store(), cut_after=7)
    assert names() == ["000002-000001", "000002-000002"]


def test_a_lock_ends_with_its_holder_and_two_never_hold_it(tmp_path):
    folder = tmp_path / ".checkpoints"
    taken = folder / "taken"

    def hold(_):
        with alone("run"):
            taken.touch(exist_ok=False)
            taken.unlink()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(hold, range(100)))
    assert list(folder.iterdir()) == []
    (folder / "run.lock").touch()  # as a killed process leaves it
    hold(0)
    assert list(folder.iterdir()) == []


def test_a_store_that_cannot_be_written_costs_a_warning_and_an_unknown_one_is_named(
    tmp_path, capsys
):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    blocked = Checkpoints(str(tmp_path / "checkpoints"), "run")
    blocked.save({"epoch": 1, "steps": 1})
    blocked.wait()
    assert "training continues" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(UserError, match="ALZMRI_CHECKPOINTS=carrier-pigeon://x"):
        Checkpoints("carrier-pigeon://x", "run")


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_parameter_that_shapes_the_weights_changes_the_fingerprint(prepared, quick):
    """Or a run would go on from the checkpoint of another one."""
    params = quick()
    own = fingerprint(params, prepared, CPU)
    free = {("train", "checkpoint_every"), ("train", "keep_last"), ("compute", "train_on")}
    for section in ("data", "split", "augment", "model", "train", "compute"):
        values = getattr(params, section)
        for key in type(values).model_fields:
            # Not a valid value, but another one: which it is does not matter to a fingerprint.
            other = values.model_copy(update={key: f"not {getattr(values, key)}"})
            changed = params.model_copy(update={section: other})
            alike = fingerprint(changed, prepared, CPU) == own
            assert alike == ((section, key) in free), f"{section}.{key}"


def test_other_data_device_and_precision_change_the_fingerprint(prepared, quick):
    params = quick(precision="fp32")
    spoiled = prepared.images.copy()
    spoiled[0, 0, 0] ^= 1
    other_split = (replace(prepared.rows[0], split="val"), *prepared.rows[1:])
    prints = {
        fingerprint(params, prepared, CPU),
        fingerprint(params, prepared, torch.device("cuda")),
        fingerprint(params, replace(prepared, images=spoiled), CPU),
        fingerprint(params, replace(prepared, rows=other_split), CPU),
        fingerprint(quick(precision="bf16"), prepared, CPU),
    }
    assert len(prints) == 5


def test_a_change_of_the_code_that_shapes_the_weights_changes_the_fingerprint(
    prepared, make_params, tmp_path, monkeypatch
):
    copy = tmp_path / "alzmri"
    shutil.copytree(Path(alzmri.__file__).parent, copy, ignore=shutil.ignore_patterns("*.pyc"))
    monkeypatch.setattr(alzmri, "__file__", str(copy / "__init__.py"))
    own = fingerprint(make_params(), prepared, CPU)
    for name in ("training/loop.py", "models/forward.py", "data/prepared.py", "ood/features.py"):
        with (copy / name).open("a") as file:
            file.write("# changed\n")
        before, own = own, fingerprint(make_params(), prepared, CPU)
        assert (own != before) == (name != "ood/features.py")

"""Checkpoints in S3 are those of a folder: the same code, a real server that comes and goes."""

from collections.abc import Callable

import pytest
import torch
from s3fs import S3FileSystem

from alzmri.errors import EnvironmentFault
from alzmri.store import settings
from alzmri.training.checkpoints import Checkpoints


@pytest.fixture
def in_s3(store_repo, monkeypatch) -> Callable[[], Checkpoints]:
    remote = settings.default(store_repo.root)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", remote.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", remote.secret)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{store_repo.port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("DVC_ROOT", str(store_repo.root))
    S3FileSystem.clear_instance_cache()  # which remembers the store of the test before
    return lambda: Checkpoints("s3://alzmri/checkpoints", "run")


def test_the_latest_two_are_kept_and_the_latest_is_loaded(in_s3):
    kept = in_s3()
    for position in (1, 2, 3):
        kept.save({"epoch": 1, "steps": position, "weights": torch.arange(1000) * position})
    kept.wait()
    again = in_s3()
    state = again.load()
    assert state["steps"] == 3
    assert torch.equal(state["weights"], torch.arange(1000) * 3)
    assert len(again._paths()) == 2
    again.clear()
    assert in_s3().load() is None


def test_what_is_cut_off_in_the_store_is_set_aside(in_s3, capsys):
    kept = in_s3()
    for position in (1, 2):
        kept.save({"epoch": 1, "steps": position})
    kept.wait()
    latest = kept._paths()[-1]
    kept._files.pipe_file(latest, kept._files.cat_file(latest)[:-10])
    assert in_s3().load()["steps"] == 1
    assert "damaged" in capsys.readouterr().err.replace("\n", " ")


def test_a_store_that_is_down_for_a_while_costs_a_warning(in_s3, store_repo, capsys):
    kept = in_s3()
    kept.save({"epoch": 1, "steps": 1})
    kept.wait()
    assert store_repo.store("down").returncode == 0
    kept.save({"epoch": 1, "steps": 2})
    kept.wait()
    assert "training goes on" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(EnvironmentFault, match=r"s3://alzmri/checkpoints cannot be read.*ALZMRI_"):
        in_s3().load()
    kept.clear()
    assert "could not be removed" in capsys.readouterr().err.replace("\n", " ")
    assert store_repo.store("up").returncode == 0
    kept.save({"epoch": 1, "steps": 3})
    kept.wait()
    assert in_s3().load()["steps"] == 3

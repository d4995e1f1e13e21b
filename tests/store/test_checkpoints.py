"""Checkpoints in S3 are those of a folder: the same code, a real server that comes and goes."""

import pytest
import torch
from s3fs import S3FileSystem

from alzmri.errors import EnvironmentFault
from alzmri.store import remotes
from alzmri.training.checkpoints import Checkpoints


def _in_s3() -> Checkpoints:
    return Checkpoints("s3://alzmri/checkpoints", "run")


def test_the_latest_whole_one_is_loaded_and_a_store_that_is_down_costs_a_warning(
    store_repo, monkeypatch, capsys
):
    remote = remotes.default(store_repo.root)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", remote.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", remote.keys[1])
    monkeypatch.setenv("AWS_ENDPOINT_URL", remote.endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("DVC_ROOT", str(store_repo.root))
    S3FileSystem.clear_instance_cache()
    kept = _in_s3()
    for position in (1, 2, 3):
        kept.save({"epoch": 1, "steps": position, "weights": torch.arange(1000) * position})
    kept.wait()
    again = _in_s3()
    state = again.load()
    assert state["steps"] == 3
    assert torch.equal(state["weights"], torch.arange(1000) * 3)
    assert len(again._paths()) == 2

    latest = kept._paths()[-1]
    kept._files.pipe_file(latest, kept._files.cat_file(latest)[:-10])
    assert _in_s3().load()["steps"] == 2
    assert "damaged" in capsys.readouterr().err.replace("\n", " ")

    assert store_repo.store("down").returncode == 0
    kept.save({"epoch": 1, "steps": 4})
    kept.wait()
    assert "training continues" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(EnvironmentFault, match=r"s3://alzmri/checkpoints cannot be read.*ALZMRI_"):
        _in_s3().load()
    kept.clear()
    assert "could not be removed" in capsys.readouterr().err.replace("\n", " ")
    assert store_repo.store("up").returncode == 0
    kept.save({"epoch": 1, "steps": 5})
    kept.wait()
    assert _in_s3().load()["steps"] == 5
    _in_s3().clear()
    assert _in_s3().load() is None

"""What is asked for an endpoint, and which models are refused."""

import json

import pytest

from alzmri.errors import LeakError, UserError
from alzmri.sagemaker import deploy, settings


@pytest.fixture
def folder(tmp_path):
    """A model's folder, as far as requests depend on it."""
    write(tmp_path / "model.json", {"run": "1f", "parameters": {"split": {"unit": "subject"}}})
    for name in ("model.safetensors", "ood.safetensors"):
        (tmp_path / name).write_text(name)
    return tmp_path


def write(path, content):
    path.write_text(json.dumps(content))


def prepare(folder, **changes):
    known = {"role": "arn:aws:iam::123456789012:role/a", "bucket": "ours", "serve_image": "our:1"}
    wanted = settings.load().model_copy(update=known | changes.pop("settings", {}))
    choice = {"name": "alzmri", "serverless": False, "leaking": False} | changes
    return deploy.prepare(wanted, folder, choice.pop("name"), **choice)


def test_sagemaker_a_model_that_leaks_is_deployed_only_when_asked_for(folder):
    prepare(folder)
    write(folder / "evaluation.json", {"split": {"shared_subjects": 0}})
    prepare(folder)
    write(folder / "evaluation.json", {"split": {"shared_subjects": 1}})
    with pytest.raises(LeakError, match="--allow-leak"):
        prepare(folder)
    (folder / "evaluation.json").unlink()
    write(folder / "model.json", {"run": "1f", "parameters": {"split": {"unit": "slice"}}})
    with pytest.raises(LeakError, match="LEAKS"):
        prepare(folder)
    prepare(folder, leaking=True)


def test_sagemaker_an_archive_without_the_detector_is_never_sent(folder):
    (folder / "ood.safetensors").unlink()
    with pytest.raises(UserError, match=r"no .*ood\.safetensors: run `dvc repro`"):
        prepare(folder)
    (folder / "ood.safetensors").touch()
    (folder / "model.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        prepare(folder)


def test_sagemaker_the_same_model_has_the_same_names_and_another_has_others(folder):
    first = prepare(folder)
    assert prepare(folder) == first
    others = [
        prepare(folder, serverless=True),
        prepare(folder, name="alzmri-other"),
        prepare(folder, settings={"serve_instance_count": 2}),
        prepare(folder, settings={"serve_image": "our:2"}),
    ]
    (folder / "ood.safetensors").write_text("another detector")
    others.append(prepare(folder))
    names = {o["CreateEndpoint"]["EndpointConfigName"] for o in (first, *others)}
    assert len(names) == 6
    assert others[2]["CreateModel"] == first["CreateModel"]
    (variant,) = first["CreateEndpointConfig"]["ProductionVariants"]
    assert variant == {
        "VariantName": "all",
        "ModelName": first["CreateModel"]["ModelName"],
        "InstanceType": "ml.c7i.large",
        "InitialInstanceCount": 1,
    }
    # The server asks nobody; AWS cannot cut serverless endpoints off.
    assert first["CreateModel"]["EnableNetworkIsolation"]
    assert not others[0]["CreateModel"]["EnableNetworkIsolation"]

"""What is asked for an endpoint, and which models are refused."""

import json
from types import SimpleNamespace

import dvc.api
import pytest
from botocore.exceptions import EndpointConnectionError
from dvc.exceptions import ArtifactNotFoundError

from alzmri.errors import EnvironmentFault, LeakError, UserError
from alzmri.sagemaker import endpoint, job_request


@pytest.fixture
def folder(tmp_path):
    """A model's folder, as far as requests depend on it."""
    _write(tmp_path / "model.json", {"run": "1f", "parameters": {"split": {"unit": "subject"}}})
    for name in ("model.safetensors", "ood.safetensors"):
        (tmp_path / name).write_text(name)
    return tmp_path


def _write(path, content):
    path.write_text(json.dumps(content))


def _build(folder, *, serverless=False, allow_leak=False, **settings):
    known = {"role": "arn:aws:iam::123456789012:role/a", "bucket": "ours", "serve_image": "our:1"}
    wanted = job_request.load_settings([]).model_copy(update=known | settings)
    return endpoint.build(wanted, folder, serverless=serverless, allow_leak=allow_leak)


def test_sagemaker_a_model_that_leaks_or_is_not_whole_is_not_deployed(folder):
    scores = folder / "evaluation.json"
    for shared in (0, 1, None):
        _write(scores, {"split": {"shared_subjects": shared}})
        if shared == 0:
            _build(folder)
            continue
        with pytest.raises(LeakError, match="LEAKS"):
            _build(folder)
    scores.unlink()
    _write(folder / "model.json", {"run": "1f", "parameters": {"split": {"unit": "slice"}}})
    with pytest.raises(LeakError, match="--allow-leak"):
        _build(folder)
    _build(folder, allow_leak=True)
    (folder / "ood.safetensors").unlink()
    with pytest.raises(UserError, match=r"no .*ood\.safetensors: run `dvc repro`"):
        _build(folder)
    (folder / "ood.safetensors").touch()
    (folder / "model.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        _build(folder)


def test_sagemaker_the_same_model_has_the_same_name_and_another_has_another(folder):
    first = _build(folder)
    assert _build(folder) == first
    others = [
        _build(folder, serverless=True),
        _build(folder, prefix="other"),
        _build(folder, serve_instance_count=2),
        _build(folder, serve_image="our:2"),
    ]
    (folder / "ood.safetensors").write_text("another detector")
    others.append(_build(folder))
    assert len({o["CreateEndpoint"]["EndpointConfigName"] for o in (first, *others)}) == 6
    assert {o["CreateEndpoint"]["EndpointName"] for o in others} == {"alzmri", "other"}
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


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (ArtifactNotFoundError("alzmri", version="v9"), UserError, "v9: .*`gto show alzmri` lists"),
        (
            FileNotFoundError(2, "No storage files"),
            EnvironmentFault,
            "v9: .*`alzmri store",
        ),
        (
            EndpointConnectionError(endpoint_url="x"),
            EnvironmentFault,
            "v9: .*`alzmri store",
        ),
    ],
)
def test_sagemaker_a_registered_model_that_cannot_be_had_is_one_sentence(
    monkeypatch, tmp_path, raised, expected, said
):
    def show(*_, **__):
        raise raised

    monkeypatch.setattr(dvc.api, "artifacts_show", show)
    with pytest.raises(expected, match=said) as refused:
        endpoint.registered("v9", None, tmp_path)
    assert "\n" not in str(refused.value)


def test_sagemaker_a_new_model_replaces_the_one_before_which_is_then_removed(folder, monkeypatch):
    """And the one that serves already is not made again; one under way is not disturbed."""
    requests = _build(folder)
    name = requests["CreateEndpoint"]["EndpointConfigName"]
    found, calls = {"EndpointStatus": "InService", "EndpointConfigName": "before"}, []

    def record(call, answer=None):
        def called(**words):
            calls.append((call, *words.values()))
            return answer or {}

        return called

    makes = ("create_model", "create_endpoint_config", "create_endpoint", "update_endpoint")
    client = SimpleNamespace(
        describe_endpoint=lambda **_: found,
        **{call: record(call) for call in (*makes, "delete_endpoint_config", "delete_model")},
    )
    session = SimpleNamespace(client=lambda _: client)
    monkeypatch.setattr(endpoint, "pack", lambda *_: None)
    monkeypatch.setattr(endpoint.aws, "upload", lambda *_: None)
    after = {"EndpointStatus": "InService", "EndpointConfigName": name}
    monkeypatch.setattr(endpoint.aws, "wait", lambda _, __, say, **___: say(after))
    assert endpoint.deploy(session, folder, requests)
    assert [call for call, *_ in calls[:2]] == ["create_model", "create_endpoint_config"]
    assert calls[2:] == [
        ("update_endpoint", "alzmri", name),
        ("delete_endpoint_config", "before"),
        ("delete_model", "before"),
    ]
    calls.clear()
    # One that fails leaves the one before: nothing of it is removed.
    after["EndpointConfigName"] = "before"
    with pytest.raises(EnvironmentFault, match=r"AWS gives no reason.*the previous model serves"):
        endpoint.deploy(session, folder, requests)
    assert not [call for call, *_ in calls if call.startswith("delete")]
    calls.clear()
    found["EndpointConfigName"] = name
    assert not endpoint.deploy(session, folder, requests)
    found["EndpointStatus"] = "Updating"
    with pytest.raises(UserError, match="endpoint alzmri is Updating: wait"):
        endpoint.deploy(session, folder, requests)
    assert calls == []

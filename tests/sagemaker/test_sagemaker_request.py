"""What the service is asked for follows sagemaker.yaml, params.yaml and git; no secret does."""

import json
import os
import re
import subprocess
import tarfile
from dataclasses import replace
from types import SimpleNamespace

import pytest

from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.sagemaker import job_request
from alzmri.sagemaker.job_request import SagemakerSettings, Work
from alzmri.tracking.tracker import Tracker
from alzmri.training import results
from alzmri.training.loop import Epoch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WORK = Work(COMMIT, COMMIT, [], "da7a" * 16, "c0de" * 16, {})


def _settings(**changes):
    values = {
        "region": "eu-central-1",
        "role": "arn:aws:iam::123456789012:role/alzmri",
        "bucket": "ours",
        "prefix": "team/study",
        "image": "",
        "instance_type": "ml.g5.xlarge",
        "instance_count": 2,
        "volume_gb": 30,
        "spot": True,
        "max_hours": 1.5,
        "max_wait_hours": 4.0,
        "wandb_secret": "",
        "tags": {"team": "mri"},
        "serve_image": "",
        "serve_instance_type": "ml.c7i.large",
        "serve_instance_count": 1,
        "serverless_memory_mb": 3072,
        "serverless_concurrency": 5,
    }
    return SagemakerSettings(**{**values, **changes})


def _build(work=WORK, **changes):
    return job_request.build(_settings(**changes), work, "alzmri-job")


@pytest.fixture(autouse=True)
def _no_experiment(monkeypatch):
    for variable in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(variable, raising=False)


def test_sagemaker_request_waits_for_spot_capacity_and_computes_as_long_as_the_settings_say():
    spot, on_demand = _build(), _build(spot=False)
    assert spot["EnableManagedSpotTraining"]
    assert spot["StoppingCondition"] == {
        "MaxRuntimeInSeconds": 5400,
        "MaxWaitTimeInSeconds": 14_400,
    }
    # The service refuses a time to wait without spot.
    assert not on_demand["EnableManagedSpotTraining"]
    assert on_demand["StoppingCondition"] == {"MaxRuntimeInSeconds": 5400}


def test_sagemaker_request_says_on_what_and_for_whom():
    made = _build(wandb_secret="team/wandb")
    resources = {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30}
    assert made["ResourceConfig"] == resources
    assert made["RoleArn"] == "arn:aws:iam::123456789012:role/alzmri"
    assert made["Environment"] == {
        "DVC_EXP_NAME": "alzmri-job",
        "DVC_EXP_BASELINE_REV": COMMIT,
        "ALZMRI_WANDB_SECRET": "team/wandb",
    }
    for changes, suffix in (([], ""), ([" M src/train.py"], "-changed")):
        tags = {tag["Key"]: tag["Value"] for tag in _build(replace(WORK, changes=changes))["Tags"]}
        assert tags == {"team": "mri", "alzmri:commit": COMMIT + suffix}
    for instance, image, expected in (
        ("ml.p4d.24xlarge", "", "-cu"),
        ("ml.g5.xlarge", "", "-cu"),
        ("ml.c7i.4xlarge", "", "-cpu-"),
        ("ml.c7i.4xlarge", "registry/ours:1", "registry/ours:1"),
    ):
        asked = _build(instance_type=instance, image=image)["AlgorithmSpecification"]
        assert expected in asked["TrainingImage"]
    assert _settings().endpoint == "team-study"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with a little code, committed."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name, content in {
        "src/train.py": "print('x')\n",
        "src/alzmri/__init__.py": "",
        "requirements.txt": "torch==2.13.0\n",
        "dvc.yaml": "stages: {train: {deps: [data/prepared, src/train.py]}}\n",
        "docs/page.md": "not for the job\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "add", "--all")
    _git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "start")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Prepared, "open", lambda _: SimpleNamespace(digest="da7a"))
    return tmp_path


def _git(folder, *words):
    subprocess.run(["git", *words], cwd=folder, check=True)


def test_sagemaker_jobs_of_other_parameters_data_or_code_have_other_names_and_checkpoints(
    repository, make_params, monkeypatch
):
    def made(**sections):
        return job_request.gather(make_params(**sections))

    base = made()
    own = _build(base)["CheckpointConfig"]["S3Uri"]
    assert json.loads(base.hyperparameters["train.lr"]) == make_params().train.lr
    # Or the job would ask for another job.
    assert not [key for key in base.hyperparameters if key.startswith("compute.")]
    same = made(track={"mode": "offline"})
    assert (same.names, _build(same)["CheckpointConfig"]["S3Uri"]) == (base.names, own)
    others = [
        made(data={"source": "kaggle"}),
        made(split={"seed": 1}),
        made(augment={"p": 0.5}),
        made(model={"dropout": 0.1}),
        made(train={"lr": 0.02}),
    ]
    monkeypatch.setattr(Prepared, "open", lambda _: SimpleNamespace(digest="0"))
    others.append(made())
    assert len({work.names for work in (base, *others)}) == 7
    assert len({_build(work)["CheckpointConfig"]["S3Uri"] for work in (base, *others)}) == 7
    channels = job_request.channels(_settings(), base)
    assert channels["code"].startswith("s3://ours/team/study/code/")
    for address in (own, *channels.values()):
        assert address.endswith("/")  # or the service fetches what merely begins alike
    for label in ("", "a", "sweep_lr=0.1", "x" * 100, "-" * 60):
        monkeypatch.setenv("DVC_EXP_NAME", label)
        name = job_request.job_name(base)
        assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", name + "-100")
        assert name.startswith(base.names)


def test_sagemaker_bundle_is_the_tracked_code_as_it_is_here(
    repository, make_params, tmp_path_factory
):
    gather, archive = job_request.gather, tmp_path_factory.mktemp("packed") / "code.tar.gz"
    first = gather(make_params())
    assert first.snapshot == first.commit
    os.utime(repository / "src/train.py", (0, 0))
    (repository / "src/alzmri/__init__.py").write_text("changed = True\n")
    other = gather(make_params())  # of code that shapes no model
    assert (other.digest, other.snapshot != first.snapshot) == (first.digest, True)
    (repository / "src/train.py").write_text("print('changed')\n")
    (repository / "src/notes.txt").write_text("unknown to git")
    work = gather(make_params())
    assert work.digest != first.digest
    assert (work.commit, work.changes) == (
        first.commit,
        [" M src/alzmri/__init__.py", " M src/train.py", "?? src/notes.txt"],
    )
    assert subprocess.check_output(["git", "stash", "list"]) == b""
    job_request.pack(work, archive)
    with tarfile.open(archive) as tar:
        found = {item.name: tar.extractfile(item).read() for item in tar if item.isfile()}
    assert found == {
        "requirements.txt": b"torch==2.13.0\n",
        "src/alzmri/__init__.py": b"changed = True\n",
        "src/train.py": b"print('changed')\n",
    }
    with pytest.raises(UserError, match="starts from no other model"):
        gather(make_params(train={"init": "models-of-another-run"}))


def test_sagemaker_bundle_refuses_keys(repository, make_params):
    key = "key = 'AKIA" + "ABCDEFGHIJKLMNOP'"
    secrets = {
        **dict.fromkeys(["src/.env", "src/a/.env.local", "src/secrets.env", "src/deploy.pem"], "x"),
        **dict.fromkeys(["src/.aws/credentials", "src/a/.ssh/config", "src/id_ed25519"], "x"),
        "src/.dvc/config.local": "x",
        "src/a.py": key,
        "src/alzmri/b.py": "-----BEGIN RSA " + "PRIVATE KEY-----",
    }
    for name, content in secrets.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(content)
        _git(repository, "add", "--force", name)
        with pytest.raises(UserError, match=f"{name} looks like a key, or contains") as refused:
            job_request.gather(make_params())
        assert key not in str(refused.value)
        _git(repository, "rm", "--quiet", "--force", name)


def test_sagemaker_charts_the_scores_that_an_epochs_line_has(
    prepared, make_params, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    params = make_params(train={"epochs": 20, "batch_size": 16})
    epoch = Epoch(3, 1e-5, 1.25, 0.75, 0.5, 0.375)
    state = SimpleNamespace(best=epoch, history=[epoch], epoch=4, steps=0)
    with results.reporting(params.train, prepared, Tracker()) as (_, on_epoch):
        on_epoch(state, True)
    line = capsys.readouterr().out
    made = _build()["AlgorithmSpecification"]["MetricDefinitions"]
    assert {one["Name"]: float(re.search(one["Regex"], line)[1]) for one in made} == {
        "epoch": 3,
        "train:loss": 1.25,
        "validation:loss": 0.75,
        "validation:accuracy": 0.5,
        "validation:macro_f1": 0.375,
    }

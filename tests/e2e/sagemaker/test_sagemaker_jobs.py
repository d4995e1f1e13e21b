"""A job from submission to a model that DVC takes for its own, through every interruption."""

import json

import pytest

from .conftest import SECRET, environments

EPOCHS = 30
COMPLETE = """
import sys; sys.path.insert(0, "src")
from alzmri.training.checkpoints import Checkpoints
Checkpoints.affordable, Checkpoints.clear = True, Checkpoints.wait
import train; train.main()
"""
"""The stage, with a checkpoint after every epoch, which stay: as if it died while it cleared up."""


@pytest.fixture(scope="module")
def interrupted(cloud):
    """What an undisturbed local run wrote; and what was said about a job interrupted twice."""
    cloud.edit("params.yaml", train__epochs=EPOCHS)
    cloud.edit("sagemaker.yaml", wandb_secret="team/wandb")
    cloud.clone.commit("longer")
    cloud.clone.run("env", f"ALZMRI_CHECKPOINTS={cloud.root}/.kept", "python", "-c", COMPLETE)
    local = cloud.digests()
    cloud.forget()
    cloud.simulator.secrets["team/wandb"] = SECRET
    seen = []

    def disturb(job, line):
        if line.startswith("epoch") and not seen:
            seen.append(any(e.get("WANDB_API_KEY") == SECRET for e in environments()))
            job.containers.interrupt(grace=True)
        elif line.startswith("resuming") and len(seen) == 1:
            seen.append(line)
            job.containers.interrupt(grace=False)

    cloud.simulator.on_line = disturb
    done = cloud.sagemaker("submit", "--wait")
    (job,) = cloud.simulator.jobs.values()
    assert seen[0], "the secret never reached the trainer"
    return local, done, job


def test_sagemaker_a_job_is_followed_to_its_end(interrupted):
    _, done, job = interrupted
    assert f"job      {job.name}" in done.stdout
    assert f"/sagemaker/home?region=us-east-1#/jobs/{job.name}" in done.stdout
    assert done.stdout.count("-- Interrupted") == 2
    assert done.stdout.count("resuming in epoch") == 2
    assert f"epoch {EPOCHS}/{EPOCHS}" in done.stdout
    assert done.stdout.count(f"epoch {EPOCHS}/{EPOCHS}") == 1
    assert "completed in" in done.stdout
    assert job.metrics["epoch"] == EPOCHS
    assert set(job.metrics) == {
        "epoch",
        "train:loss",
        "validation:loss",
        "validation:accuracy",
        "validation:macro_f1",
    }


def test_sagemaker_fetches_the_bytes_of_a_local_run_and_dvc_goes_on_from_them(cloud, interrupted):
    local, _, job = interrupted
    assert "validation macro F1" in cloud.sagemaker("fetch").stdout
    assert cloud.digests() == local
    repro = cloud.clone.run("dvc", "repro").stdout
    assert "Stage 'train' didn't change" in repro
    assert "Running stage 'evaluate'" in repro
    cloud.clone.run("dvc", "exp", "save", "--name", job.name)
    refs = cloud.clone.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout
    (experiment,) = (ref for ref in refs.split() if ref.endswith(f"/{job.name}"))
    saved = cloud.clone.run("git", "show", f"{experiment}:metrics/train.json").stdout
    assert saved == (cloud.root / "metrics/train.json").read_text()


def test_sagemaker_the_same_again_finds_its_run_complete(cloud, interrupted):
    local, _, first = interrupted
    cloud.simulator.on_line = lambda *_: None
    folder = first.request["CheckpointConfig"]["S3Uri"].removeprefix("s3://alzmri/")
    for path in (cloud.root / ".kept").rglob("*.checkpoint"):
        key = folder + str(path.relative_to(cloud.root / ".kept"))
        cloud.s3.upload_file(str(path), "alzmri", key)
    done = cloud.sagemaker("submit", "--wait", "--name", "again")
    assert f"resuming in epoch {EPOCHS + 1}" in done.stdout
    cloud.forget()
    cloud.sagemaker("fetch", "alzmri-again")
    assert cloud.digests() == local
    requests = [cloud.simulator.jobs[name].request for name in (first.name, "alzmri-again")]
    assert requests[0]["InputDataConfig"] == requests[1]["InputDataConfig"]
    assert "exists already" in cloud.sagemaker("submit", "--name", "again", code=2).stderr
    assert "Completed" in cloud.sagemaker("status").stdout
    assert first.name in cloud.sagemaker("list").stdout
    listed = json.loads(cloud.sagemaker("list", "--json").stdout)
    assert {"job": "alzmri-again", "state": "Completed"}.items() <= listed[0].items()


def test_sagemaker_fetch_refuses_a_model_of_something_else(cloud, interrupted):
    before = cloud.digests()
    cloud.edit("params.yaml", train__lr=0.0005)
    with (cloud.root / "src/alzmri/training/schedule.py").open("a") as file:
        file.write("# changed\n")
    refused = cloud.sagemaker("fetch", code=2).stderr
    assert "  train.lr = 0.0001, but 0.0005 in params.yaml" in refused
    assert "  src/alzmri/training/schedule.py: `git checkout` the commit" in refused
    assert cloud.digests() == before
    cloud.edit("params.yaml", split__seed=1)
    assert "dvc repro prepare" in cloud.sagemaker("fetch", code=2).stderr
    cloud.clone.run("git", "checkout", "--quiet", "params.yaml", "src")
    assert cloud.clone.run("dvc", "status", "train").stdout.startswith("Data and pipelines are up")


def test_sagemaker_dry_run_prints_the_request_and_sends_nothing(cloud, interrupted):
    """Where nothing says which account; what is missing is marked."""
    _, _, job = interrupted
    before = cloud.objects(), len(cloud.simulator.jobs)
    cloud.edit("sagemaker.yaml", region="", role="", bucket="")
    secrets = {"WANDB_API_KEY": "hunter2secret", "AWS_SECRET_ACCESS_KEY": "verysecretkey"}
    heavy = "{'torch', 'boto3', 'scipy', 'sklearn', 'dvc'}"
    code = (
        "import sys; from alzmri.cli import app;"
        "app(['sagemaker', 'submit', '--dry-run'], standalone_mode=False);"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    variables = [f"{key}={value}" for key, value in secrets.items()]
    unset = ["-u", "ALZMRI_SAGEMAKER_ROLE", "-u", "ALZMRI_SAGEMAKER_BUCKET"]
    done = cloud.clone.run(
        "env", *unset, "AWS_CONFIG_FILE=/dev/null", *variables, "python", "-c", code
    )
    cloud.clone.run("git", "checkout", "--quiet", "sagemaker.yaml")
    asked = json.loads(done.stdout)
    assert asked["CheckpointConfig"]["S3Uri"].startswith("s3://<bucket>/sm/checkpoints/")
    assert asked["RoleArn"] == "<role>"
    assert asked["HyperParameters"] == job.request["HyperParameters"]
    assert done.stderr.count("is not set in sagemaker.yaml") == 3
    assert not any(value in done.stdout + done.stderr for value in secrets.values())
    assert before == (cloud.objects(), len(cloud.simulator.jobs))


def test_sagemaker_no_secret_is_in_a_request_a_bucket_or_a_log(cloud, interrupted):
    _, done, job = interrupted
    assert job.request["Environment"]["ALZMRI_WANDB_SECRET"] == "team/wandb"
    places = [json.dumps(job.description()), job.said, done.stdout, done.stderr]
    for secret in (SECRET, cloud.environment["AWS_SECRET_ACCESS_KEY"]):
        assert not any(secret in place for place in places)
        assert not [key for key, content in cloud.objects().items() if secret.encode() in content]

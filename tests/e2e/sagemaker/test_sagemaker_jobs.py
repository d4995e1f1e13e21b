"""Jobs from submission to a model that DVC takes for its own, and all ways in which they end;
the model as an endpoint, where the real server answers.

The tests share one simulated cloud and its jobs, and run in their order.
"""

import json
import signal

import pytest

from ...processes import limit
from .conftest import SECRET, environments

EPOCHS = 3
SECRETS = {"AWS_SECRET_ACCESS_KEY": "verysecretkey", "WANDB_API_KEY": "hunter2secret"}


@pytest.fixture(scope="module")
def local(cloud):
    """The digests of what the stage train writes here."""
    cloud.clone.run("python", "src/train.py")
    return cloud.digests()


@pytest.fixture(scope="module")
def jobs(cloud, local):
    """What was said of three jobs for the same work, and the jobs.

    The first was interrupted and then killed, the second was stopped, the third completed.
    """
    cloud.forget()
    cloud.edit("sagemaker.yaml", wandb_secret="team/wandb")
    cloud.simulator.secrets["team/wandb"] = SECRET
    keys = []

    def reclaim(job):
        keys.append([e for e in environments() if e.get("WANDB_API_KEY") == SECRET])
        job.containers.interrupt()

    cloud.simulator.holds = [
        ("epoch 1/", reclaim),
        ("resuming in epoch", lambda job: job.containers.kill_trainers()),
        ("epoch 2/", lambda _: None),
    ]
    failed = cloud.sagemaker("submit", "--wait", code=1)
    status = json.loads(cloud.sagemaker("status", "--json", code=1).stdout)
    waiting = cloud.start("submit", "--wait")
    cloud.clone.read_until(waiting, "epoch 2/")
    assert "-2 is InProgress" in cloud.sagemaker("fetch", code=2).stderr
    waiting.send_signal(signal.SIGINT)
    left, _ = waiting.communicate(timeout=limit(60))
    assert waiting.returncode == 130
    assert "the job continues" in left
    assert "-2 is stopping" in cloud.sagemaker("stop").stdout
    stopped = cloud.sagemaker("logs", "--follow", code=1)
    done = cloud.sagemaker("submit", "--wait")
    cloud.restore()
    assert keys[0], "the secret never reached the trainer"
    return failed, status, stopped, done, *cloud.simulator.jobs.values()


@pytest.fixture
def quiet(cloud):
    """The cloud, with what a test changes of it put back."""
    yield cloud
    cloud.simulator.holds = []
    cloud.restore()


def test_sagemaker_a_job_is_followed_to_its_end_whatever_that_is(cloud, jobs):
    failed, status, stopped, done, first, second, third = jobs
    assert [second.name, third.name] == [f"{first.name}-2", f"{first.name}-3"]
    assert f"job      {first.name}" in failed.stdout
    assert f"/sagemaker/home?region=us-east-1#/jobs/{first.name}" in failed.stdout
    assert failed.stdout.count("-- Interrupted") == 1
    why = "AlgorithmError: the container ended without a message, as when memory runs out"
    assert f"{first.name} failed: {why}" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (status["state"], status["job"]) == ("Failed", first.name)
    assert status["reason"].startswith(why)
    assert status["interrupted"].startswith("Interrupted: Spot instances")
    assert f"{second.name} was stopped (Stopped): its checkpoint is kept" in stopped.stderr
    assert done.stdout.count("resuming in epoch") == 1
    assert done.stdout.count(f"epoch {EPOCHS}/{EPOCHS}") == 1
    assert third.metrics["epoch"] == EPOCHS
    assert {"train:loss", "validation:loss", "validation:accuracy"} < third.metrics.keys()
    assert "validation:macro_f1" in third.metrics

    assert first.request["Environment"]["ALZMRI_WANDB_SECRET"] == "team/wandb"
    places = [json.dumps(first.description()), *first.lines, failed.stdout, done.stdout]
    objects = cloud.objects()
    for secret in (SECRET, cloud.environment["AWS_SECRET_ACCESS_KEY"]):
        assert not any(secret in place for place in places)
        assert not [key for key, content in objects.items() if secret.encode() in content]


def test_sagemaker_fetches_the_bytes_of_a_local_run_and_dvc_goes_on_from_them(quiet, jobs, local):
    job = jobs[-1]
    assert "validation macro F1" in quiet.sagemaker("fetch").stdout
    assert quiet.digests() == local
    assert quiet.clone.run("dvc", "status", "train").stdout.startswith("Data and pipelines are up")
    quiet.clone.run("dvc", "exp", "save", "--name", job.name)
    refs = quiet.clone.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout
    (experiment,) = (ref for ref in refs.split() if ref.endswith(f"/{job.name}"))
    saved = quiet.clone.run("git", "show", f"{experiment}:metrics/train.json").stdout
    assert saved == (quiet.root / "metrics/train.json").read_text()

    quiet.edit("params.yaml", train__lr=0.0005)
    refused = quiet.sagemaker("fetch", code=2).stderr
    assert "trained with other parameters, data or code than this checkout" in refused
    assert quiet.digests() == local


def test_sagemaker_the_same_again_is_not_paid_twice(quiet, jobs):
    """Neither by hand, after a change of code that shapes no model, nor by a sweep's stage."""
    before = list(quiet.simulator.jobs)
    words = ("alzmri", "sweep", "train.lr=0.0001", "--on", "sagemaker")
    assert "written: reports/sweep-lr/index.html" in quiet.run(*words).stdout
    with (quiet.root / "src/alzmri/sagemaker/__init__.py").open("a") as file:
        file.write("# changed\n")
    done = quiet.sagemaker("submit")
    assert f"job      {before[-1]}" in done.stdout
    assert " M src/alzmri/sagemaker/__init__.py" in done.stderr
    assert list(quiet.simulator.jobs) == before
    listed = json.loads(quiet.sagemaker("list", "--json").stdout)
    assert [(item["job"], item["state"]) for item in listed] == [
        (before[2], "Completed"),
        (before[1], "Stopped"),
        (before[0], "Failed"),
    ]
    quiet.edit("sagemaker.yaml", role="")
    refused = quiet.run("alzmri", "sweep", "train.lr=0.1", "--on", "sagemaker", code=2)
    assert "role: write it there" in refused.stderr


def test_sagemaker_dry_run_prints_the_request_and_sends_nothing(quiet, jobs):
    """Where nothing says which account; what is missing is marked."""
    before = set(quiet.objects()), len(quiet.simulator.jobs)
    quiet.edit("sagemaker.yaml", region="", role="", bucket="")
    heavy = "{'torch', 'boto3', 'scipy', 'sklearn', 'dvc'}"
    code = (
        "import sys; from alzmri.cli import app;"
        "app(['sagemaker', 'submit', '--dry-run'], standalone_mode=False);"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    done = quiet.clone.run("python", "-c", code, AWS_CONFIG_FILE="/dev/null", **SECRETS)
    asked = json.loads(done.stdout)
    assert asked["CheckpointConfig"]["S3Uri"].startswith("s3://<bucket>/sm/checkpoints/")
    assert asked["RoleArn"] == "<role>"
    assert asked["HyperParameters"] == jobs[-1].request["HyperParameters"]
    assert done.stderr.count("is not set in sagemaker.yaml") == 3
    assert not any(value in done.stdout + done.stderr for value in SECRETS.values())
    assert before == (set(quiet.objects()), len(quiet.simulator.jobs))


def test_sagemaker_two_hosts_end_as_two_processes_here(quiet, jobs):
    """A bucket that is not there costs nothing; a secret that is not there costs a warning only."""
    quiet.edit("sagemaker.yaml", instance_count=2, wandb_secret="nobody/knows", bucket="nobodys")
    quiet.edit("params.yaml", train__seed=1, train__epochs=1)
    done = quiet.sagemaker("submit", code=2)
    assert done.stderr.startswith("error: the bucket does not exist: create it")
    assert len(quiet.simulator.jobs) == 3
    quiet.edit("sagemaker.yaml", bucket="alzmri")
    quiet.clone.run("torchrun", "--nproc-per-node", "2", "src/train.py")
    local = quiet.digests()
    done = quiet.sagemaker("submit", "--wait")
    assert "(2 processes, 1 threads)" in done.stdout
    warning = "warning: no W&B key, the run is not tracked: secret nobody/knows"
    assert warning in done.stdout
    quiet.sagemaker("fetch")
    assert quiet.digests() == local


def test_sagemaker_deploy_dry_run_prints_the_requests_without_an_account(quiet):
    quiet.clone.run("dvc", "checkout", "--force")
    quiet.edit("sagemaker.yaml", region="", role="", bucket="", serve_image="")
    words = ("alzmri", "sagemaker", "deploy", "--serverless", "--dry-run")
    done = quiet.clone.run(*words, AWS_CONFIG_FILE="/dev/null", **SECRETS)
    asked = json.loads(done.stdout)
    (variant,) = asked["CreateEndpointConfig"]["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 3072, "MaxConcurrency": 5}
    assert "InstanceType" not in variant
    assert variant["ModelName"] == asked["CreateModel"]["ModelName"]
    address = asked["CreateModel"]["PrimaryContainer"]["ModelDataUrl"]
    assert address.startswith("s3://<bucket>/sm/models/")
    assert done.stderr.count("is not set in sagemaker.yaml") == 4
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS.values())


def test_sagemaker_endpoint_answers_as_predict_does_and_is_replaced_without_a_gap(cloud):
    cloud.clone.run("gto", "register", "alzmri", "--version", "v0.1.0")
    cloud.clone.run("gto", "assign", "alzmri", "--version", "v0.1.0", "--stage", "prod")
    refused = cloud.sagemaker("deploy", "--stage", "none", code=2).stderr
    assert refused.startswith("error: none: ")
    assert "`gto show alzmri` lists versions" in refused
    made = cloud.sagemaker("deploy", "--stage", "prod").stdout
    assert "-- Creating\n-- InService\nendpoint sm serves\n" in made

    image = str(sorted((cloud.root / "data/phantom").rglob("*.jpg"))[0])
    said = json.loads(cloud.sagemaker("invoke", image).stdout)
    here = json.loads(cloud.clone.run("alzmri", "predict", "--json", image).stdout)
    (expected,) = here["slices"]
    for key in ("predicted", "in_distribution"):
        assert said[key] == expected[key]
    assert said["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-3)
    refused = cloud.sagemaker("invoke", "params.yaml", code=2)
    assert refused.stderr.startswith("error: the endpoint refused the image: ")
    assert "give an image file" in cloud.sagemaker("invoke", "none.jpg", code=2).stderr

    assert "serves it already" in cloud.sagemaker("deploy").stdout
    endpoints = cloud.simulator.endpoints
    before = endpoints.there["Endpoint"]["sm"]["EndpointConfigName"]
    endpoints.broken = "no memory"
    failed = cloud.sagemaker("deploy", "--serverless", code=1).stderr
    assert "endpoint sm failed: The primary container did not pass the ping" in failed
    assert "the previous model serves" in failed
    assert endpoints.there["Endpoint"]["sm"]["EndpointConfigName"] == before
    endpoints.broken = ""
    assert "-- Updating" in cloud.sagemaker("deploy", "--serverless").stdout
    assert endpoints.there["Endpoint"]["sm"]["EndpointConfigName"] != before
    assert [len(kept) for kept in endpoints.there.values()] == [1, 1, 1]
    assert cloud.sagemaker("undeploy").stdout == "endpoint sm is removed\n"
    assert not any(endpoints.there.values())
    assert "there is no endpoint sm" in cloud.sagemaker("undeploy", code=2).stderr
    assert "no such endpoint" in cloud.sagemaker("invoke", image, code=2).stderr

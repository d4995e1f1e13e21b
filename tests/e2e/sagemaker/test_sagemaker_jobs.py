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
def interrupted(cloud, local):
    """What was said about a job that was interrupted without notice; the job."""
    cloud.forget()
    cloud.edit("sagemaker.yaml", wandb_secret="team/wandb")
    cloud.simulator.secrets["team/wandb"] = SECRET
    keys = []

    def reclaim(job):
        keys.append([e for e in environments() if e.get("WANDB_API_KEY") == SECRET])
        job.containers.interrupt()

    cloud.simulator.holds = [("epoch 2/", reclaim)]
    done = cloud.sagemaker("submit", "--wait")
    cloud.restore()
    assert keys[0], "the secret never reached the trainer"
    (job,) = cloud.simulator.jobs.values()
    return done, job


@pytest.fixture
def quiet(cloud):
    """The cloud, with what a test changes of it put back."""
    yield cloud
    cloud.simulator.holds = []
    cloud.restore()


def test_sagemaker_a_job_is_followed_to_its_end(interrupted):
    done, job = interrupted
    assert f"job      {job.name}" in done.stdout
    assert f"/sagemaker/home?region=us-east-1#/jobs/{job.name}" in done.stdout
    assert done.stdout.count("-- Interrupted") == 1
    assert done.stdout.count("resuming in epoch") == 1
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


def test_sagemaker_fetches_the_bytes_of_a_local_run_and_dvc_goes_on_from_them(
    quiet, interrupted, local
):
    _, job = interrupted
    assert "validation macro F1" in quiet.sagemaker("fetch").stdout
    assert quiet.digests() == local
    assert quiet.clone.run("dvc", "status", "train").stdout.startswith("Data and pipelines are up")
    quiet.clone.run("dvc", "exp", "save", "--name", job.name)
    refs = quiet.clone.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout
    (experiment,) = (ref for ref in refs.split() if ref.endswith(f"/{job.name}"))
    saved = quiet.clone.run("git", "show", f"{experiment}:metrics/train.json").stdout
    assert saved == (quiet.root / "metrics/train.json").read_text()


def test_sagemaker_the_same_again_is_not_paid_twice(cloud, interrupted):
    """Not even after a change of code that shapes no model."""
    _, job = interrupted
    with (cloud.root / "src/alzmri/figure.py").open("a") as file:
        file.write("# changed\n")
    done = cloud.sagemaker("submit")
    assert f"job      {job.name}" in done.stdout
    assert " M src/alzmri/figure.py" in done.stderr
    assert list(cloud.simulator.jobs) == [job.name]
    label = job.name.removeprefix("alzmri-")
    assert "exists already" in cloud.sagemaker("submit", "--name", label, code=2).stderr
    cloud.restore()
    assert "Completed" in cloud.sagemaker("status").stdout
    assert job.name in cloud.sagemaker("list").stdout
    listed = json.loads(cloud.sagemaker("list", "--json").stdout)
    assert {"job": job.name, "state": "Completed"}.items() <= listed[0].items()


def test_sagemaker_fetch_refuses_a_model_of_something_else(quiet, interrupted):
    before = quiet.digests()
    quiet.edit("params.yaml", train__lr=0.0005)
    with (quiet.root / "src/alzmri/training/schedule.py").open("a") as file:
        file.write("# changed\n")
    refused = quiet.sagemaker("fetch", code=2).stderr
    assert "  train.lr = 0.0001, but 0.0005 in params.yaml" in refused
    assert "  the code: `git checkout` the commit" in refused
    assert quiet.digests() == before
    quiet.edit("params.yaml", split__seed=1)
    assert "dvc repro prepare" in quiet.sagemaker("fetch", code=2).stderr


def test_sagemaker_dry_run_prints_the_request_and_sends_nothing(quiet, interrupted):
    """Where nothing says which account; what is missing is marked."""
    _, job = interrupted
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
    assert asked["HyperParameters"] == job.request["HyperParameters"]
    assert done.stderr.count("is not set in sagemaker.yaml") == 3
    assert not any(value in done.stdout + done.stderr for value in SECRETS.values())
    assert before == (set(quiet.objects()), len(quiet.simulator.jobs))


def test_sagemaker_no_secret_is_in_a_request_a_bucket_or_a_log(cloud, interrupted):
    done, job = interrupted
    assert job.request["Environment"]["ALZMRI_WANDB_SECRET"] == "team/wandb"
    places = [json.dumps(job.description()), job.said, done.stdout, done.stderr]
    for secret in (SECRET, cloud.environment["AWS_SECRET_ACCESS_KEY"]):
        assert not any(secret in place for place in places)
        assert not [key for key, content in cloud.objects().items() if secret.encode() in content]


def test_sagemaker_a_stage_takes_a_job_that_is_complete(quiet, interrupted, local):
    _, job = interrupted
    quiet.forget()
    quiet.edit("params.yaml", compute__train_on="sagemaker")
    assert f"job {job.name}" in quiet.run("python", "src/train.py").stdout
    assert quiet.digests() == local
    assert list(quiet.simulator.jobs) == [job.name]


def test_sagemaker_a_sweep_trains_there(quiet, interrupted):
    before = set(quiet.simulator.jobs)
    words = ("alzmri", "sweep", "train.lr=0.01", "--on", "sagemaker", "-j", "2")
    assert "written: reports/sweep-lr/index.html" in quiet.run(*words).stdout
    (made,) = set(quiet.simulator.jobs) - before
    assert made.endswith("-sweep-lr-lr0-01")
    quiet.edit("sagemaker.yaml", role="")
    refused = quiet.run("alzmri", "sweep", "train.lr=0.1", "--on", "sagemaker", code=2)
    assert "role: write its ARN there" in refused.stderr
    assert not (quiet.root / ".dvc/tmp/sweep/sweep-lr-lr0.1.log").exists()


def test_sagemaker_two_hosts_end_as_two_processes_here(quiet):
    quiet.edit("params.yaml", train__seed=1)
    quiet.clone.run("torchrun", "--nproc-per-node", "2", "src/train.py")
    local = quiet.digests()
    quiet.edit("sagemaker.yaml", instance_count=2)
    done = quiet.sagemaker("submit", "--wait", "--name", "two-hosts")
    assert "(2 processes, 1 threads)" in done.stdout
    quiet.sagemaker("fetch", "alzmri-two-hosts")
    assert quiet.digests() == local


def test_sagemaker_a_stopped_job_is_taken_up_by_the_next_which_is_killed(quiet):
    """A failed job says why; a secret that is not there costs a warning only."""
    quiet.edit("sagemaker.yaml", wandb_secret="nobody/knows")
    quiet.edit("params.yaml", train__seed=2)
    quiet.simulator.holds = [
        ("epoch 1/", lambda _: None),
        ("resuming in epoch 2", lambda job: job.containers.kill_trainers()),
    ]
    waiting = quiet.start("submit", "--wait")
    quiet.clone.read_until(waiting, "epoch 1/")
    name = list(quiet.simulator.jobs)[-1]
    assert f"{name} is InProgress" in quiet.sagemaker("fetch", code=2).stderr
    waiting.send_signal(signal.SIGINT)
    left, _ = waiting.communicate(timeout=limit(60))
    assert waiting.returncode == 130
    assert "the job goes on" in left
    assert f"{name} is stopping" in quiet.sagemaker("stop").stdout
    stopped = quiet.sagemaker("logs", "--follow", code=1).stderr
    assert f"{name} was stopped (Stopped): its checkpoint is kept" in stopped
    assert "was stopped" in quiet.sagemaker("fetch", code=1).stderr

    done = quiet.sagemaker("submit", "--wait", code=1)
    why = "AlgorithmError: the container ended without a word, as when memory runs out"
    assert f"{name}-2 failed: {why}" in done.stderr
    assert "Traceback" not in done.stderr
    warning = "warning: no W&B key, the run is not tracked online: secret nobody/knows"
    assert warning in quiet.sagemaker("logs").stdout
    found = json.loads(quiet.sagemaker("status", "--json", code=1).stdout)
    assert (found["state"], found["job"]) == ("Failed", f"{name}-2")
    assert found["reason"].startswith(why)
    assert found["last_lines"][-1].startswith("failed: the container ended without a word")


def test_sagemaker_a_bucket_that_is_not_there_costs_nothing(quiet):
    quiet.edit("sagemaker.yaml", bucket="nobodys")
    done = quiet.sagemaker("submit", "--name", "homeless", code=2)
    assert done.stderr.startswith("error: there is no bucket nobodys: make it")
    assert "alzmri-homeless" not in quiet.simulator.jobs


@pytest.fixture(scope="module")
def endpoint(cloud):
    """What `deploy` said of the model in production, on an instance."""
    cloud.clone.run("git", "restore", ".")
    cloud.clone.run("dvc", "checkout", "--force")
    cloud.clone.run("gto", "register", "alzmri", "--version", "v0.1.0")
    cloud.clone.run("gto", "assign", "alzmri", "--version", "v0.1.0", "--stage", "prod")
    return cloud.sagemaker("deploy", "--stage", "prod")


def test_sagemaker_deploy_dry_run_prints_the_requests_without_an_account(cloud):
    cloud.edit("sagemaker.yaml", region="", role="", bucket="", serve_image="")
    words = ("alzmri", "sagemaker", "deploy", "--serverless", "--dry-run")
    done = cloud.clone.run(*words, AWS_CONFIG_FILE="/dev/null", **SECRETS)
    cloud.clone.run("git", "checkout", "--quiet", "sagemaker.yaml")
    asked = json.loads(done.stdout)
    (variant,) = asked["CreateEndpointConfig"]["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 3072, "MaxConcurrency": 5}
    assert "InstanceType" not in variant
    assert variant["ModelName"] == asked["CreateModel"]["ModelName"]
    address = asked["CreateModel"]["PrimaryContainer"]["ModelDataUrl"]
    assert address.startswith("s3://<bucket>/sm/models/")
    assert done.stderr.count("is not set in sagemaker.yaml") == 4
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS.values())


def test_sagemaker_endpoint_answers_as_predict_does(cloud, endpoint):
    assert "-- Creating" in endpoint.stdout
    assert "-- InService" in endpoint.stdout
    assert "endpoint alzmri serves" in endpoint.stdout
    image = sorted((cloud.root / "data/phantom").rglob("*.jpg"))[0]
    said = json.loads(cloud.sagemaker("invoke", str(image)).stdout)
    here = json.loads(cloud.clone.run("alzmri", "predict", "--json", str(image)).stdout)
    (expected,) = here["slices"]
    assert (said["predicted"], said["in_distribution"]) == (
        expected["predicted"],
        expected["in_distribution"],
    )
    assert said["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-3)
    refused = cloud.sagemaker("invoke", "params.yaml", code=2)
    assert refused.stderr.startswith("error: the endpoint refuses: ")
    assert "name an image file" in cloud.sagemaker("invoke", "none.jpg", code=2).stderr


def test_sagemaker_endpoint_is_replaced_without_a_gap_and_leaves_nothing(cloud, endpoint):
    endpoints = cloud.simulator.endpoints
    assert "serves it already" in cloud.sagemaker("deploy").stdout
    before = endpoints.there["endpoint"]["alzmri"]["EndpointConfigName"]
    endpoints.broken = "no memory"
    failed = cloud.sagemaker("deploy", "--serverless", code=1).stderr
    assert "serves the model from before, the new one failed: The primary container" in failed
    assert endpoints.there["endpoint"]["alzmri"]["EndpointConfigName"] == before
    failed = cloud.sagemaker("deploy", "--name", "other", code=1).stderr
    assert "endpoint alzmri-other failed: The primary container did not pass the ping" in failed
    assert "is Failed: wait, or" in cloud.sagemaker("deploy", "--name", "other", code=2).stderr
    cloud.sagemaker("undeploy", "--name", "other")
    endpoints.broken = ""

    assert "-- Updating" in cloud.sagemaker("deploy", "--serverless").stdout
    assert endpoints.there["endpoint"]["alzmri"]["EndpointConfigName"] != before
    assert [len(kept) for kept in endpoints.there.values()] == [1, 1, 1]
    assert cloud.sagemaker("undeploy").stdout == "endpoint alzmri is removed\n"
    assert not any(endpoints.there.values())
    assert "there is no endpoint alzmri" in cloud.sagemaker("undeploy", code=2).stderr
    image = next((cloud.root / "data/phantom").rglob("*.jpg"))
    assert "there is no such endpoint" in cloud.sagemaker("invoke", str(image), code=2).stderr


def test_sagemaker_deploy_says_which_version_there_is_not(cloud):
    refused = cloud.sagemaker("deploy", "--version", "v9.9.9", code=2).stderr
    assert refused.startswith("error: v9.9.9: ")
    assert "`gto show alzmri` lists what there is" in refused

"""A model as an endpoint: made, asked, replaced and removed; the real server answers."""

import json

import pytest

SECRETS = {"AWS_SECRET_ACCESS_KEY": "verysecretkey", "WANDB_API_KEY": "hunter2secret"}


@pytest.fixture(scope="module")
def endpoint(cloud):
    """What `deploy` said of the model in production, on an instance."""
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
    assert (said["predicted"], said["in_scope"]) == (expected["predicted"], expected["in_scope"])
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

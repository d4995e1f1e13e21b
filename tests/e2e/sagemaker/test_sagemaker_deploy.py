"""A model as an endpoint: made, asked, replaced and removed; the real server answers."""

import json

import pytest

SECRETS = {"AWS_SECRET_ACCESS_KEY": "verysecretkey", "WANDB_API_KEY": "hunter2secret"}


@pytest.fixture(scope="module")
def endpoint(cloud):
    """What `deploy` said of an endpoint on an instance."""
    return cloud.sagemaker("deploy")


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

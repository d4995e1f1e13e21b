"""What AWS's errors mean, and that what is in the bucket is not sent again."""

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from botocore.stub import Stubber

from alzmri.errors import EnvironmentFault, UserError
from alzmri.sagemaker import aws

REFUSALS = {
    "ExpiredTokenException: The security token included in the request is expired": (
        "has expired: sign in again"
    ),
    "UnrecognizedClientException: The security token included in the request is invalid.": (
        "AWS does not know the key"
    ),
    "AccessDeniedException: User: arn:aws:iam::123456789012:user/me is not authorized to perform:"
    " sagemaker:CreateTrainingJob": (
        "docs/sagemaker.md has the least that is needed (AWS: User: arn:aws:iam::123456789012:user"
    ),
    "ValidationException: Could not assume role arn:aws:iam::123456789012:role/no. Please ensure"
    " that the role exists and allows principal 'sagemaker.amazonaws.com' to assume the role.": (
        "it must exist in this account and trust sagemaker.amazonaws.com"
    ),
    "ValidationException: Cannot find repository: pytorch in registry ID: 763104351884 Please check"
    " if your ECR repository exists and role has proper pull permissions for SageMaker.": (
        "correct image in sagemaker.yaml"
    ),
    "ResourceLimitExceeded: The account-level service limit 'ml.g5.xlarge for spot training job"
    " usage' is 0 Instances, with current utilization of 0 Instances and a request delta of 1": (
        "Service Quotas"
    ),
    "ValidationException: The S3 bucket ours is in region eu-west-1, not in region us-east-1": (
        "in another region than the job"
    ),
    "ResourceInUse: Training job names must be unique": "give another --name",
    "ValidationException: Requested resource not found.": "there is no such job",
    "ValidationException: Endpoint alzmri of account 123456789012 not found.": (
        "there is no such endpoint"
    ),
    "ValidationException: of another kind": "AWS refuses: ValidationException: of another kind",
}
REASONS = {
    "CapacityError: Unable to provision requested ML compute capacity.": "submit again later",
    "ClientError: CannotPullContainerError: not found": "correct image",
    "AlgorithmError: No space left on device: x, exit code: 1": "raise volume_gb",
    "ClientError: AccessDenied on s3://ours/data": "docs/sagemaker.md",
    "AlgorithmError: the loss is not finite, exit code: 1": "",
}


def _raise(said, status=400):
    code, message = said.split(": ", 1)
    response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    with aws.explained():
        raise ClientError(response, "CreateTrainingJob")


def test_sagemaker_refusals_are_one_sentence_with_the_remedy():
    for refusal, expected in REFUSALS.items():
        with pytest.raises(UserError) as refused:
            _raise(refusal)
        assert expected in str(refused.value)


def test_sagemaker_failures_have_a_remedy():
    for reason, remedy in REASONS.items():
        found = aws.meaning(reason)
        assert remedy in found
        assert bool(remedy) == bool(found)


def test_sagemaker_a_service_that_is_busy_or_silent_is_no_fault_of_the_users():
    for said, status in [
        ("InternalServerError: x", 500),
        ("SlowDown: x", 503),
        ("ThrottlingException: Rate exceeded", 400),
    ]:
        with pytest.raises(EnvironmentFault, match="AWS is too busy just now"):
            _raise(said, status)
    with pytest.raises(EnvironmentFault, match="does not answer"), aws.explained():
        raise EndpointConnectionError(endpoint_url="x")


@pytest.fixture
def s3():
    """A client of S3 that answers what a test says, and is asked for nothing else."""
    client = boto3.client(
        "s3", region_name="eu-central-1", aws_access_key_id="none", aws_secret_access_key="none"
    )
    with Stubber(client) as answers:
        yield client, answers
        answers.assert_no_pending_responses()


def test_sagemaker_finds_in_the_bucket_what_is_there_by_its_whole_name(s3):
    client, answers = s3
    found = {"Contents": [{"Key": "p/data.csv.part", "Size": 3}]}
    answers.add_response("list_objects_v2", found, {"Bucket": "ours", "Prefix": "p/data.csv"})
    assert aws.lacks(client, "s3://ours/p/data.csv")
    found["Contents"].append({"Key": "p/data.csv", "Size": 3})
    answers.add_response("list_objects_v2", found, {"Bucket": "ours", "Prefix": "p/data.csv"})
    assert not aws.lacks(client, "s3://ours/p/data.csv")


def test_sagemaker_a_bucket_in_another_region_or_none_is_refused(s3):
    client, answers = s3
    elsewhere = {"x-amz-bucket-region": "eu-west-1"}
    answers.add_response("head_bucket", {"ResponseMetadata": {"HTTPHeaders": elsewhere}})
    with pytest.raises(UserError, match="ours: the bucket is in another region than the job"):
        aws.require_bucket(client, "ours", "eu-central-1")
    answers.add_client_error("head_bucket", "404", "Not Found", 404)
    with pytest.raises(UserError, match="there is no bucket ours: make it"):
        aws.require_bucket(client, "ours", "eu-central-1")

"""What lies in the bucket is addressed by its content, and sent unless it is there whole."""

import boto3
import pytest
from botocore.stub import Stubber

from alzmri.sagemaker import storage


@pytest.fixture
def s3():
    """A client of S3 that answers what a test says, and is asked for nothing else."""
    client = boto3.client(
        "s3", region_name="eu-central-1", aws_access_key_id="none", aws_secret_access_key="none"
    )
    with Stubber(client) as answers:
        yield client, answers
        answers.assert_no_pending_responses()


def test_sagemaker_sends_what_is_not_there(s3):
    client, answers = s3
    answers.add_response(
        "list_objects_v2",
        {"Contents": [{"Key": "p/there", "Size": 3}]},
        {"Bucket": "ours", "Prefix": "p/"},
    )
    answers.add_response("put_object", {}, {"Bucket": "ours", "Key": "p/absent", "Body": b"abc"})
    storage.upload(client, "s3://ours/p/", dict.fromkeys(("there", "absent"), b"abc"))

"""What lies in the bucket is addressed by its content, and sent unless it is there whole."""

import boto3
import pytest
from botocore.stub import Stubber

from alzmri.sagemaker import staging


@pytest.fixture
def s3():
    """A client of S3 that answers what a test says, and is asked for nothing else."""
    client = boto3.client(
        "s3", region_name="eu-central-1", aws_access_key_id="none", aws_secret_access_key="none"
    )
    with Stubber(client) as answers:
        yield client, answers
        answers.assert_no_pending_responses()


def test_sagemaker_sends_what_is_absent_or_of_another_size_only(s3):
    client, answers = s3
    listed = [{"Key": "p/whole", "Size": 3}, {"Key": "p/cut", "Size": 2}]
    answers.add_response(
        "list_objects_v2", {"Contents": listed}, {"Bucket": "ours", "Prefix": "p/"}
    )
    for name in ("cut", "absent"):
        sent = {"Bucket": "ours", "Key": f"p/{name}", "Body": b"abc"}
        answers.add_response("put_object", {}, sent)
    files = dict.fromkeys(("whole", "cut", "absent"), b"abc")
    assert staging.upload(client, "s3://ours/p/", files) == 6


def test_sagemaker_digest_is_of_names_and_contents(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    digests = {
        staging.digest({"a": first, "b": second}),
        staging.digest({"a": second, "b": first}),
        staging.digest({"a": first, "c": second}),
        staging.digest({"a": first}),
    }
    assert len(digests) == 4
    assert staging.digest({"b": second, "a": first}) in digests

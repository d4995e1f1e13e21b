"""The bucket: what is the same goes there once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alzmri import terminal
from alzmri.errors import UserError
from alzmri.sagemaker import faults


def require_bucket(s3: Any, bucket: str, region: str) -> None:
    """Raise `UserError` unless ``bucket`` is there, ours to use, and in ``region``."""
    from botocore.exceptions import ClientError

    with faults.explained():
        try:
            answer = s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"].get("Code") == "404":
                raise UserError(
                    f"there is no bucket {bucket}: make it (`aws s3 mb s3://{bucket} --region"
                    f" {region}`), or correct bucket in sagemaker.yaml"
                ) from error
            raise
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    if headers.get("x-amz-bucket-region", region) != region:
        raise UserError(faults.BUCKET_REGION.format(bucket=f"{bucket} "))


def names(s3: Any, address: str) -> set[str]:
    """Of what is at ``address``, which ends with a slash."""
    bucket, prefix = split(address)
    with faults.explained():
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = (item["Key"] for page in pages for item in page.get("Contents", []))
        return {key.removeprefix(prefix) for key in found}


def upload(s3: Any, address: str, files: Mapping[str, Path | bytes]) -> None:
    """Send those of ``files`` that are not at ``address`` yet, which is by their content.

    An object appears in S3 whole or not at all: what is there is what would be sent.
    """
    bucket, prefix = split(address)
    for name in files.keys() - names(s3, address):
        content = files[name]
        if isinstance(content, bytes):
            with faults.explained():
                s3.put_object(Bucket=bucket, Key=prefix + name, Body=content)
        else:
            with _progress(f"uploading {name}", content.stat().st_size) as advance:
                s3.upload_file(str(content), bucket, prefix + name, Callback=advance)


def download(s3: Any, address: str, path: Path) -> None:
    """Fetch the object at ``address`` into ``path``."""
    bucket, key = split(address)
    with faults.explained():
        size = s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
    with _progress(f"downloading {path.name}", size) as advance:
        s3.download_file(bucket, key, str(path), Callback=advance)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield what boto3 calls with each number of bytes that it has moved."""
    moved = 0
    with terminal.progress(f"{what} (bytes)") as progress, faults.explained():

        def advance(count: int) -> None:
            nonlocal moved
            moved += count
            progress(moved, total)

        yield advance


def split(address: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    parts = urlsplit(address)
    return parts.netloc, parts.path.lstrip("/")

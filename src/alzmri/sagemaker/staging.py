"""The bucket: what a job needs goes there once, by content."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alzmri import terminal
from alzmri.data.prepared import PREPARED, Prepared
from alzmri.errors import UserError
from alzmri.params import Params
from alzmri.sagemaker import faults

_READ_IN_TRAINING = ("images.npy", "manifest.csv", "params.json", "summary.json")


def prepared_files(params: Params) -> dict[str, Path]:
    """The files of data/prepared that training reads.

    Raises:
        UserError: when they are not there, damaged, or made with other parameters.
    """
    Prepared.open(params)
    return {name: PREPARED / name for name in _READ_IN_TRAINING}


def digest(files: Mapping[str, Path]) -> str:
    """SHA-256 over names and contents."""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


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
                    f" {region}`), or mend bucket in sagemaker.yaml"
                ) from error
            raise
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    if headers.get("x-amz-bucket-region", region) != region:
        raise UserError(faults.BUCKET_REGION.format(bucket=f"{bucket} "))


def upload(s3: Any, address: str, files: Mapping[str, Path | bytes]) -> int:
    """Send those of ``files`` that are not at ``address`` yet; how many bytes that was.

    An object appears in S3 whole or not at all, and addresses are by content: one of the right
    size is the right one.
    """
    bucket, prefix = split(address)
    with faults.explained():
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        there = {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}
    sizes = {name: _size(content) for name, content in files.items()}
    absent = [name for name in files if there.get(prefix + name) != sizes[name]]
    total, sent = sum(sizes[name] for name in absent), 0
    with terminal.progress("uploading (bytes)") as progress, faults.explained():

        def advance(count: int) -> None:
            nonlocal sent
            sent += count
            progress(sent, total)

        for name in absent:
            content = files[name]
            if isinstance(content, bytes):
                s3.put_object(Bucket=bucket, Key=prefix + name, Body=content)
                advance(len(content))
            else:
                s3.upload_file(str(content), bucket, prefix + name, Callback=advance)
    return total


def download(s3: Any, address: str, path: Path) -> None:
    """Fetch the object at ``address`` into ``path``."""
    bucket, key = split(address)
    with faults.explained(), terminal.progress("downloading (bytes)") as progress:
        total, got = s3.head_object(Bucket=bucket, Key=key)["ContentLength"], 0

        def advance(count: int) -> None:
            nonlocal got
            got += count
            progress(got, total)

        s3.download_file(bucket, key, str(path), Callback=advance)


def split(address: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    parts = urlsplit(address)
    return parts.netloc, parts.path.lstrip("/")


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size

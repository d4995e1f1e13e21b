"""A tiny clone with a store and a simulated SageMaker, used as a user uses them."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import psutil
import pytest
from ruamel.yaml import YAML

from alzmri.sagemaker.container import OUTPUTS
from alzmri.store import remotes

from .namespaces import refused, serve
from .simulator import ACCOUNT, REGION, Simulator

SERVICES = ("SAGEMAKER", "SAGEMAKER_RUNTIME", "CLOUDWATCH_LOGS", "SECRETS_MANAGER")
SECRET = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Cloud:
    """A clone of the repository, and the services that it reaches."""

    clone: Any
    simulator: Simulator
    s3: Any
    environment: dict[str, str]

    @property
    def root(self) -> Path:
        return self.clone.root

    def sagemaker(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Type `alzmri sagemaker …`."""
        return self.run("alzmri", "sagemaker", *words, code=code)

    def run(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command with the account's credentials."""
        return self.clone.run(*words, code=code, **self.environment)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Type it, and do not wait."""
        words = ("alzmri", "sagemaker", *words)
        return self.clone.start(*words, forked=True, **self.environment)

    def edit(self, file: str, **values: Any) -> None:
        """Change values of a YAML file; ``section__key`` is a key in a section."""
        yaml = YAML()
        content = yaml.load((self.root / file).read_text())
        for key, value in values.items():
            section, _, last = key.rpartition("__")
            (content[section] if section else content)[last] = value
        with (self.root / file).open("w") as handle:
            yaml.dump(content, handle)

    def digests(self) -> dict[str, str]:
        """The digests of the outputs of the stage train."""
        return {
            name: hashlib.sha256((self.root / name).read_bytes()).hexdigest() for name in OUTPUTS
        }

    def forget(self) -> None:
        """Remove those outputs."""
        for name in OUTPUTS:
            (self.root / name).unlink()

    def restore(self) -> None:
        """Put what git tracks back."""
        self.clone.run("git", "checkout", "--quiet", ".")

    def objects(self) -> dict[str, bytes]:
        """Everything in the bucket."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket="alzmri")
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {
            key: self.s3.get_object(Bucket="alzmri", Key=key)["Body"].read()
            for key in keys
            if key.startswith("sm/")
        }


@pytest.fixture(scope="session")
def cloud(repro, free_block, tmp_path_factory) -> Iterator[Cloud]:
    """One for all tests, which leave it as they found it, but for what is in the bucket."""
    if why := refused():
        pytest.skip(f"the simulated containers need namespaces, which are refused here: {why}")
    folder = tmp_path_factory.mktemp("sagemaker")
    clone = repro.copy(folder / "alzmri")
    clone.run("alzmri", "store", "up", "--port", str(free_block()))
    remote = remotes.default(clone.root)
    s3 = boto3.client(
        "s3",
        region_name=REGION,
        endpoint_url=remote.endpoint,
        aws_access_key_id=remote.keys[0],
        aws_secret_access_key=remote.keys[1],
    )
    simulator = Simulator(folder / "service", s3, clone.environment["PATH"])
    server = serve(simulator.answer, ("127.0.0.1", 0), simulator.endpoints.invoke)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    environment = {
        "AWS_ACCESS_KEY_ID": remote.keys[0],
        "AWS_SECRET_ACCESS_KEY": remote.keys[1],
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_ENDPOINT_URL_S3": remote.endpoint,
        **{f"AWS_ENDPOINT_URL_{name}": address for name in SERVICES},
    }
    cloud = Cloud(clone, simulator, s3, environment)
    cloud.edit(
        "sagemaker.yaml",
        region=REGION,
        role=f"arn:aws:iam::{ACCOUNT}:role/alzmri",
        bucket="alzmri",
        prefix="sm",
        instance_type="ml.c7i.4xlarge",
        serve_image=f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/alzmri:1",
    )
    # As a job computes, so that its bytes can be compared with those of a run here.
    cloud.edit("params.yaml", compute__portable=False, compute__threads=0)
    cloud.edit("params.yaml", train__checkpoint_every=3)  # steps: for interruptions without notice
    clone.commit("the whole machine, an account")
    yield cloud
    simulator.end()
    server.shutdown()
    server.server_close()
    clone.end()


def environments() -> Iterator[dict[str, str]]:
    """The environment of every process of this machine that we may look at."""
    for process in psutil.process_iter():
        try:
            yield process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue

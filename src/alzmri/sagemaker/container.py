"""The first process of a job's container: runs the stage train on SageMaker's inputs.

Inputs: the channels ``code`` (``code.tar.gz``) and ``prepared``, the hyperparameters, the hosts.
Outputs: ``/opt/ml/model`` with the stage's outputs; ``/opt/ml/output/failure`` with the reason of a
failure; status 0 for success.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html

This module imports only the standard library, because nothing else is installed yet.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType

ML = Path("/opt/ml")
CODE = ML / "code"
ENTRY_POINT = [
    "bash",
    "-c",
    f"mkdir -p {CODE} && tar -xzf {ML}/input/data/code/code.tar.gz -C {CODE}"
    f" && cd {CODE}/src && exec python3 -m alzmri.sagemaker.container",
]
UNSAID = (
    "the container ended without a message, as when memory runs out: lower train.batch_size, or use"
    " a larger instance_type"
)
SECRET_VARIABLE = "ALZMRI_WANDB_SECRET"  # noqa: S105  # the variable with the secret's name
OUTPUTS = (
    "models/model.json",
    "models/model.safetensors",
    "models/last.pt",
    "plots/history.csv",
    "metrics/train.json",
)
NEEDED = (
    *("albumentations", "filelock", "fsspec", "numpy", "opencv-python-headless", "psutil"),
    *("pydantic", "rich", "ruamel.yaml", "safetensors", "scikit-learn", "scipy", "wandb"),
)
"""Packages that the stage train imports besides PyTorch, which the image has."""
RESOLVE_SECONDS = 120  # time until the address of another host must be known


class TrainingFailure(Exception):
    """The job cannot continue; the message is for its owner."""


def main() -> int:
    """Train and deliver the model; return the container's exit status.

    Raises:
        SystemExit: a signal stopped the training; the status is 128 + its number.
    """
    signal.signal(signal.SIGTERM, _leave)  # without a handler the first process ignores it
    failure = ML / "output/failure"
    failure.parent.mkdir(parents=True, exist_ok=True)
    failure.write_text(UNSAID)  # the service shows it if this process is killed
    try:
        train()
    except (TrainingFailure, OSError) as error:
        print(f"failed: {error}", flush=True)
        failure.write_text(str(error)[:1024])
        return 1
    failure.unlink()
    return 0


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def train() -> None:
    """Run this host's part of the stage; the first host delivers the model.

    Raises:
        TrainingFailure: with the reason for the job's owner.
    """
    os.chdir(CODE)
    Path("data").mkdir(exist_ok=True)
    Path("data/prepared").symlink_to(ML / "input/data/prepared")
    hosts, here, interface = _hosts()
    _write_params()
    if wanted := unmet((CODE / "requirements.txt").read_text()):
        print(f"installing {len(wanted)} pinned packages", flush=True)
        # Also as constraints, so that their dependencies have the pinned versions.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        status, last = run([*pip, "--constraint", "requirements.txt", *wanted], dict(os.environ))
        if status:
            why = [status, *last][-1]
            raise TrainingFailure(f"pip install failed: {why}. In a VPC the job needs a NAT")
    environment = _environment(interface, first=here == hosts[0])
    if len(hosts) > 1:
        _await_name(hosts[0])
    status, last = run(_command(hosts, here), environment)
    if status:
        raise TrainingFailure(reason(last, status))
    if here == hosts[0]:
        for name in OUTPUTS:
            shutil.move(name, ML / "model" / Path(name).name)


def run(command: Sequence[str], environment: dict[str, str]) -> tuple[int, Sequence[str]]:
    """Run ``command`` and print its output at once; return its status and its last 200 lines.

    It forwards only the first SIGTERM, so that the trainer saves: a second one would end it at
    once. The status is 128 + n after signal n. Raises `SystemExit` if it failed after SIGTERM.
    """
    child = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    received: int | None = None

    def forward(number: int, _: FrameType | None) -> None:
        nonlocal received
        if not received:
            child.send_signal(number)
        received = number

    signal.signal(signal.SIGTERM, forward)
    assert child.stdout is not None
    last: deque[str] = deque(maxlen=200)
    for line in child.stdout:
        print(line, end="", flush=True)
        last.append(line.rstrip("\n"))
    status = child.wait()
    signal.signal(signal.SIGTERM, _leave)
    if received and status:
        sys.exit(128 + received)
    return (status if status >= 0 else 128 - status), last


def _hosts() -> tuple[list[str], str, str]:
    """All hosts, the first of them first; this host; their network interface."""
    resources = json.loads((ML / "input/config/resourceconfig.json").read_text())
    # By number: algo-10 comes after algo-9.
    hosts = sorted(resources["hosts"], key=lambda host: int(host.rpartition("-")[2]))
    return hosts, resources["current_host"], resources.get("network_interface_name", "eth0")


def _write_params() -> None:
    """Write hyperparameters ``section.key`` to params.yaml; their JSON is valid YAML."""
    content: dict[str, dict[str, object]] = {}
    given: dict[str, str] = json.loads((ML / "input/config/hyperparameters.json").read_text())
    for name, value in given.items():
        section, _, key = name.partition(".")
        content.setdefault(section, {})[key] = json.loads(value)
    (CODE / "params.yaml").write_text(json.dumps(content, indent=1))


def unmet(requirements: str) -> list[str]:
    """The pins among ``requirements`` that training needs and this Python does not have."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", requirements, re.MULTILINE))
    found = {item.name.lower(): item.version for item in metadata.distributions()}
    wanted = [name for name in NEEDED if name in pins and found.get(name) != pins[name]]
    return [f"{name}=={pins[name]}" for name in wanted]


def _environment(interface: str, *, first: bool) -> dict[str, str]:
    """The trainer's environment. Only the first host reports to W&B, and only with a key."""
    key = _wandb_key() if first else None
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "ALZMRI_CHECKPOINTS": str(ML / "checkpoints"),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        # Otherwise the client replaces the run's id, which a resumed training needs.
        "WANDB_SAGEMAKER_DISABLE": "true",
        **({"WANDB_API_KEY": key} if key else {"WANDB_MODE": "disabled"}),
    }


def _wandb_key() -> str | None:
    """The secret that the request names; training continues without it."""
    name = os.environ.get(SECRET_VARIABLE)
    if not name:
        return None
    try:
        from botocore.config import Config
        from botocore.session import Session

        limits = Config(connect_timeout=10, read_timeout=10, retries={"total_max_attempts": 2})
        region = os.environ["AWS_REGION"]
        client = Session().create_client("secretsmanager", region_name=region, config=limits)
        return str(client.get_secret_value(SecretId=name)["SecretString"]).strip()
    except Exception as error:  # noqa: BLE001 - no error here may end the training
        warning = "warning: no W&B key, the run is not tracked online"
        print(f"{warning}: secret {name}: {error}", flush=True)
        return None


def _await_name(host: str) -> None:
    """Wait until ``host`` has an address, without which torch would hang for minutes."""
    deadline = time.monotonic() + RESOLVE_SECONDS
    while True:
        try:
            socket.gethostbyname(host)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise TrainingFailure(f"host {host} has no address: submit it again") from None
            time.sleep(1)


def _command(hosts: list[str], here: str) -> list[str]:
    """The pipeline's command for the stage, through torchrun if several processes share it."""
    processes = max(1, _gpus())
    if len(hosts) * processes == 1:
        return [sys.executable, "src/train.py"]
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        f"--nnodes={len(hosts)}",
        f"--nproc-per-node={processes}",
        f"--node-rank={hosts.index(here)}",
        f"--master-addr={hosts[0]}",
        "--master-port=29500",
        "src/train.py",
    ]


def _gpus() -> int:
    try:
        return subprocess.check_output(["nvidia-smi", "--list-gpus"], text=True).count("GPU ")
    except (OSError, subprocess.CalledProcessError):
        return 0


def reason(lines: Sequence[str], status: int) -> str:
    """Why a program failed: its own last error message, else its exception, else its status."""
    text = "\n".join(lines)
    if messages := re.findall(r"^error: (.*(?:\n  .*)*)", text, re.MULTILINE):
        return str(messages[-1])
    if "SIGKILL" in text or status == 128 + signal.SIGKILL:
        return UNSAID
    # The first one: torchrun adds its own after it.
    if exception := re.search(r"^Traceback(?:.*\n)(?:(?:\s.*)?\n)*(\S.*)", text, re.MULTILINE):
        return exception[1]
    return "\n".join([f"training ended with status {status}", *list(lines)[-5:]])


if __name__ == "__main__":
    sys.exit(main())

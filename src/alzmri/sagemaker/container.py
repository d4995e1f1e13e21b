"""The first process of a job's container, which runs the stage train on SageMaker's inputs.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html describes inputs
and outputs. This module imports only the standard library: nothing else is installed yet.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ML = Path("/opt/ml")
CODE = ML / "code"
ENTRY_POINT = [
    *("bash", "-c"),
    f"mkdir -p {CODE} && tar -xzf {ML}/input/data/code/code.tar.gz -C {CODE}"
    f" && cd {CODE}/src && exec python3 -m alzmri.sagemaker.container",
]
UNSAID = (
    "the container ended without a message, as when memory runs out: lower train.batch_size, or use"
    " a larger instance_type"
)
SECRET_VARIABLE = "ALZMRI_WANDB_SECRET"  # noqa: S105  # the variable with the secret's name
OUTPUTS = (
    *("models/model.json", "models/model.safetensors", "models/last.pt"),
    *("plots/history.csv", "metrics/train.json"),
)
NEEDED = (
    *("albumentations", "filelock", "fsspec", "numpy", "opencv-python-headless", "psutil"),
    *("pydantic", "rich", "ruamel.yaml", "safetensors", "scikit-learn", "scipy", "wandb"),
)
"""Packages that the stage train imports besides PyTorch, which the image has."""


class TrainingFailure(Exception):
    """The job cannot continue; the message is for its owner."""


def main() -> int:
    """Train and deliver the model; return the exit status."""
    # Without a handler the first process ignores it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    failure = ML / "output/failure"
    failure.parent.mkdir(parents=True, exist_ok=True)
    failure.write_text(UNSAID)  # the service shows it if this process is killed
    try:
        train()
    except (TrainingFailure, OSError) as error:
        failure.write_text(str(error)[:1024])
        return 1
    failure.unlink()
    return 0


def train() -> None:
    """Run this host's part of the stage; the first host delivers the model."""
    os.chdir(CODE)
    Path("data").mkdir(exist_ok=True)
    Path("data/prepared").symlink_to(ML / "input/data/prepared")
    hosts, here, interface = _hosts()
    _write_params()
    if wanted := unmet(Path("requirements.txt").read_text()):
        print(f"installing {len(wanted)} pinned packages", flush=True)
        # Also as constraints, so that their dependencies have the pinned versions.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, "-c", "requirements.txt", *wanted], check=False).returncode:
            raise TrainingFailure("pip install failed (see the log): in a VPC the job needs a NAT")
    run(_command(hosts, here), _environment(interface, first=here == hosts[0]))
    if here == hosts[0]:
        for name in OUTPUTS:
            shutil.move(name, ML / "model" / Path(name).name)


def run(command: Sequence[str], environment: dict[str, str]) -> None:
    """Run ``command`` and print its output at once; raise `TrainingFailure` if it fails."""
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    )

    def forward(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would end the trainer at once
        child.send_signal(number)  # it saves a checkpoint and ends

    signal.signal(signal.SIGTERM, forward)
    assert child.stdout is not None
    last: deque[str] = deque(maxlen=200)
    for line in child.stdout:
        print(line, end="", flush=True)
        last.append(line.rstrip("\n"))
    if status := child.wait():
        raise TrainingFailure(reason(last, status))


def _hosts() -> tuple[list[str], str, str]:
    """All hosts by number, as algo-10 comes after algo-9; this host; their network interface."""
    resources = json.loads((ML / "input/config/resourceconfig.json").read_text())
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
    wanted = {name: pin for name, pin in pins.items() if name in NEEDED}
    return [f"{name}=={pin}" for name, pin in wanted.items() if found.get(name) != pin]


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
        print(f"warning: no W&B key, the run is not tracked: secret {name}: {error}", flush=True)
        return None


def _command(hosts: list[str], here: str) -> list[str]:
    """The pipeline's command for the stage, through torchrun if several processes share it."""
    processes = max(1, _gpus())
    if len(hosts) * processes == 1:
        return [sys.executable, "src/train.py"]
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={len(hosts)}"),
        *(f"--nproc-per-node={processes}", f"--node-rank={hosts.index(here)}"),
        *(f"--master-addr={hosts[0]}", "--master-port=29500", "src/train.py"),
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
    if "SIGKILL" in text or status == -signal.SIGKILL:
        return UNSAID
    # The first one: torchrun adds its own after it.
    if exception := re.search(r"^Traceback(?:.*\n)(?:(?:\s.*)?\n)*(\S.*)", text, re.MULTILINE):
        return exception[1]
    return "\n".join([f"training ended with status {status}", *list(lines)[-5:]])


if __name__ == "__main__":
    sys.exit(main())

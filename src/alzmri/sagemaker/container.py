"""What runs inside the container, as its first process: the stage train on what SageMaker gives.

In: the channels ``code`` (``code.tar.gz``) and ``prepared``, the hyperparameters, the hosts. Out:
``/opt/ml/model`` with what the stage writes; ``/opt/ml/output/failure`` with the reason when it
fails; status 0 for success.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html

This module and `program` import the standard library only: nothing else is installed yet.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from alzmri.sagemaker.program import UNSAID, Failure, Program, reason

ML = Path("/opt/ml")
CODE = ML / "code"
ENTRY_POINT = [
    "bash",
    "-c",
    f"mkdir -p {CODE} && tar -xzf {ML}/input/data/code/code.tar.gz -C {CODE}"
    f" && cd {CODE}/src && exec python3 -m alzmri.sagemaker.container",
]
FAILURE_LENGTH = 1024
"""Characters of the failure file that the service shows."""

CODE_VARIABLE, DATA_VARIABLE = "ALZMRI_CODE", "ALZMRI_DATA"
"""They hold the digests of what the job trains with; `fetch` compares them with what is here."""
SECRET_VARIABLE = "ALZMRI_WANDB_SECRET"  # noqa: S105  # names the variable that holds a name

OUTPUTS = (
    "models/model.json",
    "models/model.safetensors",
    "models/last.pt",
    "plots/history.csv",
    "metrics/train.json",
)
NEEDED = (
    "albumentations",
    "filelock",
    "fsspec",
    "numpy",
    "opencv-python-headless",
    "psutil",
    "pydantic",
    "rich",
    "ruamel.yaml",
    "safetensors",
    "scikit-learn",
    "scipy",
    "wandb",
)
"""What the stage train imports besides PyTorch, which the image has; versions as we pin them."""

PORT = 29500
RESOLVE_SECONDS = 120
"""A host's name is known some time after the host is."""

SECRET_SECONDS = 60

_ASK = (
    "import os, sys; from botocore.session import Session;"
    "client = Session().create_client('secretsmanager', region_name=os.environ['AWS_REGION']);"
    "print(client.get_secret_value(SecretId=sys.argv[1])['SecretString'])"
)


def main() -> int:
    """Train, and hand over what came of it; the container's exit status.

    Raises:
        SystemExit: with the signal's status, when told to stop before training was complete.
    """
    program = Program()
    failure = ML / "output/failure"
    try:
        # Takes the room now: a full disk has none. What is written is true should nobody live to.
        failure.parent.mkdir(parents=True, exist_ok=True)
        failure.write_bytes(UNSAID.encode().ljust(FAILURE_LENGTH))
        train(program)
    except (Failure, OSError) as error:
        why = str(error)
        if isinstance(error, OSError):
            why = f"{error.strerror or error}" + f": {error.filename}" * bool(error.filename)
        print(f"failed: {why}", flush=True)
        with failure.open("r+b") as file:
            file.write(why.encode()[:FAILURE_LENGTH])
            file.truncate()
        return 1
    failure.unlink()
    return 0


def train(program: Program) -> None:
    """Run the stage, on every host its part; the first one delivers the model.

    Raises:
        Failure: with the reason for the job's owner.
    """
    os.chdir(CODE)
    Path("data").mkdir(exist_ok=True)
    Path("data/prepared").symlink_to(ML / "input/data/prepared")
    hosts, here, interface = _hosts()
    _write_params()
    _install(program)
    environment = _environment(interface, first=here == hosts[0])
    if len(hosts) > 1:
        _await_name(hosts[0], program)
    if status := program.run(_command(hosts, here), environment):
        program.stop_if_told()
        raise Failure(reason(program.last_lines, status))
    if here == hosts[0]:
        for name in OUTPUTS:
            shutil.move(name, ML / "model" / Path(name).name)


def unmet(requirements: str) -> list[str]:
    """The pins among ``requirements`` that training needs and this Python does not have."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", requirements, re.MULTILINE))
    return [f"{name}=={pins[name]}" for name in NEEDED if name in pins and not _has(name, pins)]


def _has(name: str, pins: dict[str, str]) -> bool:
    try:
        return metadata.version(name) == pins[name]
    except metadata.PackageNotFoundError:
        return False


def _hosts() -> tuple[list[str], str, str]:
    """All hosts, the first of them first; this one; the interface that they talk by."""
    resources = json.loads((ML / "input/config/resourceconfig.json").read_text())
    # Not by letter: algo-10 comes after algo-9.
    hosts = sorted(resources["hosts"], key=lambda host: int(host.rpartition("-")[2]))
    return hosts, resources["current_host"], resources.get("network_interface_name", "eth0")


def _write_params() -> None:
    """Hyperparameters ``section.key`` into params.yaml: JSON is YAML, and no shell sees them."""
    content: dict[str, dict[str, object]] = {}
    given: dict[str, str] = json.loads((ML / "input/config/hyperparameters.json").read_text())
    for name, value in given.items():
        section, _, key = name.partition(".")
        content.setdefault(section, {})[key] = json.loads(value)
    (CODE / "params.yaml").write_text(json.dumps(content, indent=1))


def _install(program: Program) -> None:
    wanted = unmet((CODE / "requirements.txt").read_text())
    if not wanted:
        return
    print(f"installing {len(wanted)} pinned packages", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # As constraints, so that what they bring has our pins too.
    command = [*pip, "--constraint", "requirements.txt", *wanted]
    if program.run(command, dict(os.environ)):
        program.stop_if_told()
        last = program.last_lines[-1] if program.last_lines else "pip said nothing"
        raise Failure(f"packages could not be installed: {last}. In a VPC the job needs a NAT")


def _environment(interface: str, *, first: bool) -> dict[str, str]:
    """The trainer's. Only the first host's speaks to W&B; without a key nobody could sync a run."""
    key = _wandb_key() if first else None
    tracking = {"WANDB_API_KEY": key} if key else {"WANDB_MODE": "disabled"}
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "ALZMRI_CHECKPOINTS": str(ML / "checkpoints"),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        # Else the client replaces the id by which a resumed run is found again.
        "WANDB_SAGEMAKER_DISABLE": "true",
        **tracking,
    }


def _wandb_key() -> str | None:
    """The secret named in the request; training goes on without it."""
    name = os.environ.get(SECRET_VARIABLE)
    if not name:
        return None
    ask = [sys.executable, "-c", _ASK, name]
    try:
        asked = subprocess.run(
            ask, capture_output=True, text=True, timeout=SECRET_SECONDS, check=True
        )
        return asked.stdout.strip()
    except subprocess.TimeoutExpired:
        why = f"no answer in {SECRET_SECONDS} seconds"
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip().splitlines() or ["no answer"])[-1]
    print(f"warning: no W&B key, the run is not tracked online: secret {name}: {why}", flush=True)
    return None


def _await_name(host: str, program: Program) -> None:
    """Return once ``host`` has an address; torch would hang for minutes on one without."""
    deadline = time.monotonic() + RESOLVE_SECONDS
    while True:
        program.stop_if_told()
        try:
            socket.gethostbyname(host)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise Failure(f"host {host} has no address: submit the job again") from None
            time.sleep(1)


def _command(hosts: list[str], here: str) -> list[str]:
    """The stage as the pipeline runs it; by torchrun where several processes share the work."""
    processes = max(1, _gpus())
    if len(hosts) * processes == 1:
        return [sys.executable, "src/train.py"]
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        f"--nnodes={len(hosts)}",
        f"--nproc-per-node={processes}",
        f"--node-rank={hosts.index(here)}",
        f"--master-addr={hosts[0]}",
        f"--master-port={PORT}",
        "src/train.py",
    ]


def _gpus() -> int:
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False
        )
    except OSError:
        return 0
    return listed.stdout.count("GPU ")


if __name__ == "__main__":
    sys.exit(main())

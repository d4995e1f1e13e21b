"""What runs inside the container, as its first process. The standard library only.

In: the channels ``code`` (this file and ``code.tar.gz``) and ``prepared``, the hyperparameters, the
hosts. Out: ``/opt/ml/model`` with what the stage train writes and ``fetch.json``, the digests of it
and of the code; ``/opt/ml/output/failure`` with the reason when it fails; status 0 for success.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html
"""

import collections
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType

ML = Path("/opt/ml")
CODE = ML / "code"
CHECKPOINTS = ML / "checkpoints"
FAILURE = ML / "output" / "failure"
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

REASON_LENGTH = 1024
"""Characters of the failure file that the service shows."""

_UNSAID = (
    "the container ended without a word, as when memory runs out: lower train.batch_size, or take"
    " a larger instance_type"
)
_ASK = (
    "import os, sys; from botocore.session import Session;"
    "client = Session().create_client('secretsmanager', region_name=os.environ['AWS_REGION']);"
    "print(client.get_secret_value(SecretId=sys.argv[1])['SecretString'])"
)


class Failure(Exception):
    """The job cannot go on; the message is what its owner reads."""


class Program:
    """The one child process of the moment; what the container is told, it is told.

    Attributes:
        told: the signal that asked the container to stop, 0 while there is none.
        last_lines: of what was printed.
    """

    def __init__(self) -> None:
        self.told = 0
        self.last_lines: collections.deque[str] = collections.deque(maxlen=200)
        self._child: subprocess.Popen[str] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward)  # the first process of a container has no default

    def run(self, command: Sequence[str], environment: dict[str, str], folder: Path = CODE) -> int:
        """Run ``command``, its output printed as it comes; its status, 128 + n after signal n."""
        self.stop_if_told()
        self._child = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if self.told:  # it came before there was someone to forward it to
            self._child.send_signal(self.told)
        assert self._child.stdout is not None
        for line in self._child.stdout:
            print(line, end="", flush=True)
            self.last_lines.append(line.rstrip("\n"))
        status = self._child.wait()
        return status if status >= 0 else 128 - status

    def stop_if_told(self) -> None:
        """Leave before the next step begins."""
        if self.told:
            sys.exit(128 + self.told)

    def _forward(self, number: int, _: FrameType | None) -> None:
        if self.told:
            return  # a second one would end the trainer before it has saved
        self.told = number
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


def main() -> int:
    """Train, and hand over what came of it; the container's exit status."""
    program = Program()
    _reserve_failure()
    try:
        hosts, here, interface = _hosts()
        _unpack()
        _write_params()
        _install(program)
        environment = _environment(interface, first=here == hosts[0])
        if len(hosts) > 1:
            _await_name(hosts[0], program)
        status = program.run(_command(hosts, here), environment)
        if status:
            program.stop_if_told()
            raise Failure(reason(program.last_lines, status))
        if here == hosts[0]:
            _deliver()
    except Failure as failure:
        return _fail(str(failure))
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}")
    FAILURE.unlink(missing_ok=True)
    return 0


def reason(lines: Sequence[str], status: int) -> str:
    """Why a program failed: its own last error message, else its exception, else its status."""
    lines = list(lines)
    for index in reversed(range(len(lines))):
        if lines[index].startswith("error: "):
            message = [lines[index].removeprefix("error: ")]
            for line in lines[index + 1 :]:
                if not line.startswith("  "):
                    break
                message.append(line)
            return "\n".join(message)
    if "SIGKILL" in "".join(lines) or status == 128 + signal.SIGKILL:
        return _UNSAID
    traces = [i for i, line in enumerate(lines) if line.startswith("Traceback")]
    if traces:  # the first: torchrun adds its own
        for line in lines[traces[0] + 1 :]:
            if line and not line.startswith(" "):
                return line
    return "\n".join([f"training ended with status {status}", *lines[-5:]])


def unmet(requirements: str) -> list[str]:
    """The pins among ``requirements`` that training needs and this Python does not have."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", requirements, re.MULTILINE))
    return [f"{name}=={pins[name]}" for name in NEEDED if name in pins and not _has(name, pins)]


def _has(name: str, pins: dict[str, str]) -> bool:
    try:
        return metadata.version(name) == pins[name]
    except metadata.PackageNotFoundError:
        return False


def _config(name: str) -> dict[str, str]:
    content: dict[str, str] = json.loads((ML / f"input/config/{name}.json").read_text())
    return content


def _hosts() -> tuple[list[str], str, str]:
    """All hosts, the first of them first; this one; the interface that they talk by."""
    resources = json.loads((ML / "input/config/resourceconfig.json").read_text())
    # Not by letter: algo-10 comes after algo-9.
    hosts = sorted(resources["hosts"], key=lambda host: int(host.rpartition("-")[2]))
    return hosts, resources["current_host"], resources.get("network_interface_name", "eth0")


def _unpack() -> None:
    shutil.rmtree(CODE, ignore_errors=True)
    CODE.mkdir(parents=True)
    with tarfile.open(Path(__file__).with_name("code.tar.gz")) as archive:
        archive.extractall(CODE, filter="data")
    (CODE / "data").mkdir()
    (CODE / "data/prepared").symlink_to(ML / "input/data/prepared")


def _write_params() -> None:
    """Hyperparameters ``section.key`` into params.yaml: JSON is YAML, and no shell sees them."""
    content: dict[str, dict[str, object]] = {}
    for name, value in _config("hyperparameters").items():
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
        "ALZMRI_CHECKPOINTS": str(CHECKPOINTS),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        # Else the client replaces the id by which a resumed run is found again.
        "WANDB_SAGEMAKER_DISABLE": "true",
        **tracking,
    }


def _wandb_key() -> str | None:
    """The secret named in the request; training goes on without it."""
    name = os.environ.get("ALZMRI_WANDB_SECRET")
    if not name:
        return None
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, name],
            capture_output=True,
            text=True,
            timeout=SECRET_SECONDS,
            check=True,
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


def _deliver() -> None:
    """Move the stage's outputs to where the service takes them from, with their digests."""
    model = ML / "model"
    digests = {}
    for name in OUTPUTS:
        digests[name] = _sha256(CODE / name)
        shutil.move(CODE / name, model / Path(name).name)
    code = {
        path.relative_to(CODE).as_posix(): _sha256(path)
        for path in sorted((CODE / "src").rglob("*.py"))
    }
    content = {"job": os.environ.get("TRAINING_JOB_NAME", ""), "outputs": digests, "code": code}
    (model / "fetch.json").write_text(json.dumps(content, indent=1))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reserve_failure() -> None:
    """Take the room now: a full disk has none. What is written is true should nobody live to."""
    FAILURE.parent.mkdir(parents=True, exist_ok=True)
    FAILURE.write_bytes(_UNSAID.encode().ljust(REASON_LENGTH))


def _fail(why: str) -> int:
    print(f"failed: {why}", flush=True)
    with FAILURE.open("r+b") as file:
        file.write(why.encode()[:REASON_LENGTH])
        file.truncate()
    return 1


if __name__ == "__main__":
    sys.exit(main())

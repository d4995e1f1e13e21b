"""Run every command and stage in a network namespace of its own, with a name server that writes
down what it is asked: `python -m tests.e2e.lookups`, in a clone. Prints as JSON the names that each
command asked for, and what failed.

`dvc repro` computes all stages anew, in processes of their own. All else is forked from one process
that imports our `alzmri` before what they need, as every program of ours does.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

import boto3
import requests

from alzmri.sagemaker.container import OUTPUTS
from alzmri.store import remotes

from .. import forks
from .sagemaker.namespaces import Host, serve
from .sagemaker.simulator import ACCOUNT, REGION, Job, Simulator

ASKED: list[str] = []
FOUND: dict[str, list[str]] = {}
FAILED: dict[str, str] = {}
CALLER = (
    *("ATEN_CPU_CAPABILITY=default", "OPENBLAS_CORETYPE=Prescott", "MKL_CBWR=AUTO"),
    *("ONEDNN_MAX_CPU_ISA=SSE41", "NPY_DISABLE_CPU_FEATURES=X86_V3", "OMP_NUM_THREADS=2"),
)
"""Variables that stages must not compute by."""
REPRO = ("env", *CALLER, "dvc", "repro", "--force", "--no-run-cache")
PREPARE = """
import importlib, os, sys, __main__
del os.environ["NO_ALBUMENTATIONS_UPDATE"], os.environ["ORT_DISABLE_TELEMETRY"]
import alzmri  # which sets them
for name in __main__.PRELOADED:
    importlib.import_module(name)
del sys.modules["alzmri"]  # which sets them in each fork, too
"""
SWEEP = "alzmri sweep -S evaluate.temperature=false -S export.formats=[onnx] --trials 1"
COMMANDS = f"""\
alzmri store up
alzmri store status
alzmri store run -- dvc push
alzmri doctor
alzmri --version
env _ALZMRI_COMPLETE=complete_bash COMP_WORDS=alzmri COMP_CWORD=1 alzmri
python tests/e2e/inputs.py
alzmri honest --task binary --folds 3 --scale scaled
alzmri protocol --scale scaled
{SWEEP} -S track.mode=auto track.project=a,b
alzmri compare
alzmri review HEAD
alzmri results --baseline
alzmri predict one.jpg
alzmri explain one.jpg --out why
alzmri export
alzmri data check phantom
alzmri data audit phantom
alzmri data import data/phantom --name again
alzmri data slices volumes --name sliced --slices 1
alzmri sagemaker submit
alzmri sagemaker status
alzmri sagemaker logs
alzmri sagemaker list
alzmri sagemaker fetch
alzmri sagemaker stop
alzmri sagemaker deploy
alzmri sagemaker invoke one.jpg
alzmri sagemaker undeploy
alzmri store use s3://alzmri/team --endpoint-url http://127.0.0.1:8333
alzmri store use local
alzmri store down
dvc status
dvc exp show --csv
gto show""".splitlines()


def resolve() -> None:
    """Answer every question with "no such name"."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def answer() -> None:
        while True:
            question, peer = server.recvfrom(512)
            labels, place = [], 12
            while length := question[place]:
                labels.append(question[place + 1 : place + 1 + length].decode())
                place += 1 + length
            ASKED.append(".".join(labels))
            head = question[:2] + b"\x81\x83" + question[4:6] + bytes(6)
            server.sendto(head + question[12 : place + 5], peer)

    threading.Thread(target=answer, daemon=True).start()


def note(command: str, failure: str = "") -> None:
    """Keep what was asked for since the last call, and why the command failed if it did."""
    if ASKED:
        FOUND[command] = sorted({*ASKED})
        ASKED.clear()
    if failure:
        FAILED[command] = failure[-2000:]


def run(command: str, environment: Mapping[str, str]) -> None:
    """Run a command to its end."""
    words = command.split()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    note(command, f"{done.stdout}{done.stderr}\n" * bool(done.returncode))


def service(command: str, environment: Mapping[str, str]) -> None:
    """Run a service until it has been used, and stop it."""
    said, (ready, use) = [], SERVICES[command]
    with subprocess.Popen(
        command.split(),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            if found := re.search(ready, line):
                try:
                    use(found[1])
                finally:
                    process.terminate()
    note(command, "".join(said) * bool(process.returncode))


def ask(address: str) -> None:
    """Ask the server for a prediction, and for its pages."""
    picture, kind = Path("one.jpg").read_bytes(), {"Content-Type": "image/jpeg"}
    requests.post(f"{address}/invocations", picture, headers=kind, timeout=60).raise_for_status()
    for path in ("metrics", "docs", "ping"):
        requests.get(f"{address}/{path}", timeout=60).raise_for_status()


SERVICES = {
    "alzmri serve --threads 1": (r"^serving .* at (\S+) ", ask),
    "alzmri dicom": (r"^series .*: (class|no class)$", len),
}
"""The line by which each says that it is ready, or has done its work; what one does then."""


class Cloud(Simulator):
    """SageMaker, where a job ends at once with the model that is here."""

    def _run(self, job: Job) -> None:
        host = Host(self._folder / job.name, "algo-1", 1)
        (host.ml / "model").mkdir(parents=True)
        for name in OUTPUTS:
            shutil.copy(name, host.ml / "model")
        self._upload(job, [host])
        self._line(job, host.name, "epoch 1/1")
        job.enter("Completed")


def cloud(path: str) -> dict[str, str]:
    """Start it, with the local store; the environment of its user."""
    remote = remotes.default(Path.cwd())
    keys = dict(zip(("aws_access_key_id", "aws_secret_access_key"), remote.keys, strict=True))
    s3 = boto3.client("s3", region_name=REGION, endpoint_url=remote.endpoint, **keys)
    simulator = Cloud(Path("cloud").resolve(), s3, path)
    server = serve(simulator.answer, ("127.0.0.1", 0), simulator.endpoints.invoke)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return {
        **{name.upper(): key for name, key in keys.items()},
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ENDPOINT_URL_S3": remote.endpoint,
        "AWS_REGION": REGION,
        "ALZMRI_SAGEMAKER_ROLE": f"arn:aws:iam::{ACCOUNT}:role/alzmri",
        "ALZMRI_SAGEMAKER_BUCKET": "alzmri",
        "ALZMRI_SAGEMAKER_SERVE_IMAGE": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/alzmri:1",
    }


def main() -> None:
    """All of it."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    resolve()
    done = subprocess.run(REPRO, capture_output=True, text=True, check=False)
    whole = not done.returncode and done.stdout.count("Running stage") == 5
    note("dvc repro", "" if whole else f"{done.stdout}{done.stderr}\n")
    for name in forks.REAL:
        del os.environ[name]
    with closing(forks.Forks(PREPARE)) as server:
        os.environ[forks.FOLDER] = str(server.folder)
        environment = forks.environment()
        up, *others = COMMANDS
        run(up, environment)
        environment |= cloud(environment["PATH"])
        for command in others:
            run(command, environment)
        for command in SERVICES:
            service(command, environment)
    # The control: a name that is asked for is written down.
    with suppress(OSError):
        socket.getaddrinfo("control.example", 80)
    note("control")
    print(json.dumps({"asked": FOUND, "failed": FAILED}))


if __name__ == "__main__":
    main()

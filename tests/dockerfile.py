"""Run the steps of a Dockerfile without Docker, then do what its container does.

    pip download --requirement requirements.txt --dest WHEELS
    python tests/dockerfile.py Dockerfile WHEELS FOLDER
    python tests/dockerfile.py Dockerfile.train WHEELS FOLDER

As root, on Debian with debootstrap; some minutes and 3 GB in FOLDER, which is taken again when it
is there. In the place of the base image is Debian 12 with its own Python 3.11. No step and no
container has a network: pip takes its packages from WHEELS. Dockerfile's container cannot write
its files but /tmp; it must not be root, pass its health check and answer a slice of data/.
Dockerfile.train's must train on data/prepared, by the entry point of a SageMaker job.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from alzmri import params
from alzmri.sagemaker import container, job_request

ROOT = Path(__file__).parents[1]
PACKAGES = "python3-pip,python3-venv,python-is-python3,ca-certificates"
OWN = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "bash", "-ec")
PIP = {
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/wheels",
    "PIP_BREAK_SYSTEM_PACKAGES": "1",  # as nobody would in a container, Debian refuses them
}
READ_ONLY = """
ip link set lo up
mount --bind $0 $0
mount -o remount,bind,ro $0
mount -t tmpfs none $0/tmp
"""
ASK = """
import sys, urllib.request
asked = urllib.request.Request("http://127.0.0.1:8080/invocations", open(sys.argv[1], "rb").read())
asked.add_header("Content-Type", "image/jpeg")
print(urllib.request.urlopen(asked, timeout=30).read().decode())
"""


def steps(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with what it says."""
    whole = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    lines = filter(None, whole.splitlines())
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


class Image:
    """A folder that becomes what the file describes."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder, self.wheels = folder, wheels
        self.place, self.user = Path("/"), "root"
        self.environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        self.said: dict[str, str] = {}

    def apply(self, word: str, rest: str) -> None:
        """Follow one instruction."""
        print(word, rest, flush=True)
        match word:
            case "FROM":
                if not (self.folder / "etc/debian_version").exists():
                    options = ("--variant=minbase", f"--include={PACKAGES}")
                    subprocess.run(["debootstrap", *options, "bookworm", self.folder], check=True)
                (self.folder / "wheels").mkdir(exist_ok=True)
                for line in (self.folder / "etc/passwd").read_text().splitlines():
                    name, _, number = line.split(":")[:3]
                    if 1000 <= int(number) < 60_000:  # a step of the run before has made it
                        remove = ("chroot", self.folder, "/usr/sbin/userdel", name)
                        subprocess.run(remove, check=True)
            case "WORKDIR":
                self.place = Path(rest)
                (self.folder / rest[1:]).mkdir(parents=True, exist_ok=True)
            case "ENV":
                self.environment.update(pair.split("=", 1) for pair in shlex.split(rest))
            case "COPY":
                *sources, target = rest.split()
                path = self.folder / str(self.place / target)[1:]
                for source in sources:
                    if (ROOT / source).is_dir():
                        shutil.copytree(ROOT / source, path, dirs_exist_ok=True)
                    else:
                        (path if target.endswith("/") else path.parent).mkdir(
                            parents=True, exist_ok=True
                        )
                        shutil.copy(ROOT / source, path)
            case "RUN":
                mount = f"mount --bind {shlex.quote(str(self.wheels))} $0/wheels"
                subprocess.run(self.command(["sh", "-ec", rest], mount, PIP), check=True)
            case "USER":
                self.user = rest
            case _:  # what is only said of the container
                self.said[word] = rest

    def command(self, words: list[str], mounts: str, environment: dict[str, str]) -> list[str]:
        """What runs ``words`` in the image, without a network, after ``mounts``."""
        script = f"""
            {mounts}
            mount --bind /dev $0/dev
            mount -t tmpfs none $0/dev/shm
            mount -t proc none $0/proc
            exec chroot --userspec="$1" "$0" env -i --chdir="$2" "${{@:3}}"
        """
        variables = [f"{key}={value}" for key, value in {**self.environment, **environment}.items()]
        return [*OWN, script, str(self.folder), self.user, str(self.place), *variables, *words]


def serve(image: Image) -> None:
    """Start what the image starts, cut off and read-only; ask for its health and for a slice."""
    words = json.loads(image.said["ENTRYPOINT"]) + json.loads(image.said["CMD"])
    health = image.said["HEALTHCHECK"].partition("CMD ")[2]
    process = subprocess.Popen(image.command(words, READ_ONLY, {"HOME": "/nowhere"}))
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60 * float(os.environ.get("ALZMRI_TEST_PATIENCE", "4"))
        while True:
            first = children.read_text().strip()
            enter = ["nsenter", "-t", first, "--net", "--mount", "chroot", str(image.folder)]
            if first and not subprocess.run([*enter, "sh", "-c", health], check=False).returncode:
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("error: it does not pass its health check")
            time.sleep(1)
        (users,) = re.findall(r"^Uid:\s+(.*)", Path(f"/proc/{first}/status").read_text(), re.M)
        assert "0" not in users.split(), f"it runs as root: {users}"
        written = subprocess.run([*enter, "touch", "/srv/alzmri/x"], capture_output=True, text=True)
        assert "Read-only file system" in written.stderr, written
        scan = next((ROOT / "data").rglob("*.jpg"))
        ask = ["nsenter", "-t", first, "--net", sys.executable, "-c", ASK, str(scan)]
        subprocess.run(ask, check=True)
        os.kill(int(first), signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()


def train(image: Image) -> None:
    """Run a job of one epoch as SageMaker would."""
    ml = image.folder / "opt/ml"
    shutil.rmtree(ml, ignore_errors=True)
    for name in ("config", "data/code", "data/prepared"):
        (ml / "input" / name).mkdir(parents=True)
    (ml / "model").mkdir()
    settings = params.load()
    work = replace(
        job_request.gather(settings),
        hyperparameters={
            **job_request.hyperparameters(settings),
            "train.epochs": "1",
            "model.name": '"lenet"',
            "track.mode": '"disabled"',
        },
    )
    job_request.pack(work, ml / "input/data/code/code.tar.gz")
    for name in job_request.PREPARED_FILES:
        shutil.copy(Path("data/prepared", name), ml / "input/data/prepared")
    for name, content in {
        "hyperparameters": work.hyperparameters,
        "resourceconfig": {"hosts": ["algo-1"], "current_host": "algo-1"},
    }.items():
        (ml / f"input/config/{name}.json").write_text(json.dumps(content))
    subprocess.run(image.command(container.ENTRY_POINT, "ip link set lo up", {}), check=True)
    print(*sorted(path.name for path in (ml / "model").iterdir()))
    assert (ml / "model/model.safetensors").exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("file", "wheels", "folder"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    image = Image(given.folder.resolve(), given.wheels.resolve())
    for word, rest in steps(given.file.read_text()):
        image.apply(word, rest)
    (serve if "ENTRYPOINT" in image.said else train)(image)
    print(f"{given.file}: its steps run, and its container does its work")


if __name__ == "__main__":
    main()

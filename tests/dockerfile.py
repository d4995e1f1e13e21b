"""Run the steps of a Dockerfile where there are no images and no Docker, then what it starts.

    python tests/dockerfile.py Dockerfile FOLDER [--bind PATH]

As root, on Debian with debootstrap; some minutes and 4 GB in FOLDER, which is taken again when it
is there. In the place of the base image is Debian with its own Python 3.11. What then runs sees no
network and a file system that it cannot write, but /tmp: it must pass its health check and answer
a slice. --bind makes a folder of packages visible to pip.
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
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = "python3-pip,python3-venv,python-is-python3,ca-certificates"
FROM_HERE = [
    *(Path("/etc", name) for name in ("resolv.conf", "pip.conf", "ssl/certs/ca-certificates.crt")),
    Path.home() / ".config/pip/pip.conf",
]
"""How this machine reaches a package index."""
ASK = """
import sys, urllib.request
image = open(sys.argv[1], "rb").read()
asked = urllib.request.Request("http://127.0.0.1:8080/invocations", image)
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

    def __init__(self, folder: Path, binds: list[Path]) -> None:
        self.folder, self.binds = folder, binds
        self.place, self.user = Path("/"), "root"
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        self.start: dict[str, list[str]] = {"ENTRYPOINT": [], "CMD": []}
        self.health = ""

    def apply(self, word: str, rest: str) -> None:
        """Follow one instruction."""
        print(word, rest, flush=True)
        match word:
            case "FROM":
                if not (self.folder / "etc/debian_version").exists():
                    options = ("--variant=minbase", f"--include={PACKAGES}")
                    subprocess.run(["debootstrap", *options, "bookworm", self.folder], check=True)
                for path in FROM_HERE:
                    if path.exists():
                        self.inside(path).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(path, self.inside(path))
            case "WORKDIR":
                self.place = Path(rest)
                self.inside(self.place).mkdir(parents=True, exist_ok=True)
            case "ENV":
                self.environment.update(pair.split("=", 1) for pair in shlex.split(rest))
            case "COPY":
                *sources, target = rest.split()
                for source in sources:
                    self.copy(ROOT / source, self.inside(self.place / target), target)
            case "RUN":
                # As nobody would in a container, Debian refuses packages beside its own.
                pip = {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
                words = self.words(["sh", "-ec", rest], {"PIP_BREAK_SYSTEM_PACKAGES": "1", **pip})
                subprocess.run(["unshare", "--mount", "bash", "-ec", *words], check=True)
            case "USER":
                self.user = rest
            case "HEALTHCHECK":
                self.health = rest.partition("CMD ")[2]
            case "ENTRYPOINT" | "CMD":
                self.start[word] = json.loads(rest)
            case "EXPOSE":
                pass
            case _:
                raise ValueError(f"{word}: what does it do?")

    def inside(self, path: Path) -> Path:
        """Where ``path`` of the image is."""
        return self.folder / path.relative_to("/")

    def copy(self, source: Path, path: Path, target: str) -> None:
        if source.is_dir():
            shutil.copytree(source, path, dirs_exist_ok=True, ignore=lambda *_: ["__pycache__"])
        else:
            path.mkdir(parents=True, exist_ok=True) if target.endswith("/") else None
            shutil.copy(source, path)

    def words(self, command: list[str], more: dict[str, str], *first: str) -> list[str]:
        """A script, and its arguments, that runs ``command`` in the image."""
        mounts = [f"mount --bind {shlex.quote(str(p))} $0{p}" for p in self.binds if first == ()]
        lines = [
            *("mount --bind /dev $0/dev", "mount -t proc none $0/proc", *mounts),
            *first,
            'exec chroot --userspec="$1" "$0" env -i --chdir="$2" "${@:3}"',
        ]
        for path in self.binds:
            (self.folder / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
        variables = [f"{key}={value}" for key, value in {**self.environment, **more}.items()]
        script = "\n".join(lines)
        return [script, str(self.folder), self.user, str(self.place), *variables, *command]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bind", type=Path, action="append", default=[])
    given = parser.parse_args()
    image = Image(given.folder.resolve(), given.bind)
    for word, rest in steps(given.file.read_text()):
        image.apply(word, rest)
    if image.start["ENTRYPOINT"]:
        serve(image)
    print(f"{given.file} is proven, as far as this goes")
    return 0


def serve(image: Image) -> None:
    """Start what the image starts, cut off and read-only; ask for its health and for a slice."""
    words = image.words(
        image.start["ENTRYPOINT"] + image.start["CMD"],
        {"HOME": "/nowhere"},
        "ip link set lo up",
        "mount -t tmpfs none $0/tmp",
        "mount --bind -o ro $0 $0 && mount -o remount,bind,ro $0",
    )
    own = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child")
    process = subprocess.Popen([*own, "bash", "-ec", *words], start_new_session=True)
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60 * float(os.environ.get("ALZMRI_TEST_PATIENCE", "4"))
        while True:
            enter = ["nsenter", "-t", children.read_text().strip(), "--net"]
            check = ["chroot", str(image.folder), "sh", "-c", image.health]
            if not subprocess.run([*enter, *check], check=False).returncode:
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("error: it does not pass its health check")
            time.sleep(1)
        scan = next((ROOT / "data").rglob("*.jpg"))
        subprocess.run([*enter, sys.executable, "-c", ASK, str(scan)], check=True)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())

"""Run what a user runs, in a network namespace of its own with a name server that writes down
what it is asked: python lookups.py CLONE. Prints as JSON the names asked for and what failed.

`dvc repro` computes all stages anew, in processes of their own. Then one process imports what they
need, and each other command is a fork of it.
"""

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import requests

ASKED: list[str] = []
FAILED: list[str] = []
CALLER = (
    *("ATEN_CPU_CAPABILITY=default", "OPENBLAS_CORETYPE=Prescott", "MKL_CBWR=AUTO"),
    *("ONEDNN_MAX_CPU_ISA=SSE41", "NPY_DISABLE_CPU_FEATURES=X86_V3", "OMP_NUM_THREADS=2"),
)
"""Variables that stages must not compute by."""
COMMON = (
    *("alzmri", "torch", "scipy.stats", "cv2", "nibabel", "captum.attr", "onnxscript"),
    *("matplotlib.pyplot", "sklearn.metrics", "dvc.cli.parser", "dvc.repo", "fastapi"),
)
"""Imported once for all commands: what they ask for when they are imported is seen as well."""
REPRO = ("env", *CALLER, "dvc", "repro", "--force", "--no-run-cache")


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


def forked(name: str, work: Callable[[], object], log: Path) -> int:
    """Start ``work`` in a fork that writes to ``log``; its process."""
    if process := os.fork():
        return process
    status = 1
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(name: str, process: int, log: Path) -> None:
    """Wait for its end; note it when it failed."""
    if os.waitpid(process, 0)[1]:
        FAILED.append(f"{name}: {log.read_text()[-2000:]}")


def alzmri(*words: str) -> Callable[[], object]:
    """`alzmri …`"""

    def work() -> None:
        from alzmri.cli import main

        sys.argv = ["alzmri", *words]
        main()

    return work


def dvc(*words: str) -> Callable[[], object]:
    """`dvc …`"""

    def work() -> None:
        from dvc.cli import main

        sys.exit(main(list(words)))

    return work


def service(log: Path, ready: str, use: Callable[[str], object], *words: str) -> None:
    """A service, used once its log has ``ready``, and stopped."""
    name = words[0]
    process = forked(name, alzmri(*words), log)
    while not (found := re.search(ready, log.read_text(), re.MULTILINE)):
        if os.waitpid(process, os.WNOHANG)[0]:
            FAILED.append(f"{name}: {log.read_text()[-2000:]}")
            return
        time.sleep(0.05)
    use(found[1])
    os.kill(process, signal.SIGTERM)
    wait(name, process, log)


def ask(address: str, picture: Path) -> None:
    """Ask the server for a prediction, and for its pages."""
    kind = {"Content-Type": "image/jpeg"}
    answers = [
        requests.post(f"{address}/invocations", picture.read_bytes(), headers=kind, timeout=60),
        *(requests.get(f"{address}{path}", timeout=60) for path in ("/metrics", "/docs", "/ping")),
    ]
    FAILED.extend(answer.text for answer in answers if not answer.ok)


def main() -> None:
    """All of it."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.chdir(sys.argv[1])
    log = Path("lookups.log")
    log.touch()
    resolve()
    done = subprocess.run(REPRO, capture_output=True, text=True, check=False)
    if done.returncode or done.stdout.count("Running stage") != 5:
        FAILED.append(done.stdout + done.stderr)
    for name in COMMON:  # ours before the others, as in every program of ours
        importlib.import_module(name)
    picture = next(Path("data/phantom").rglob("*.jpg"))
    one = str(picture)
    commands = {
        "predict": alzmri("predict", one),
        "explain": alzmri("explain", one, "--out", "why"),
        "export": alzmri("export"),
        "results": alzmri("results"),
        "review": alzmri("review", "HEAD"),
        "sweep": alzmri("sweep", "evaluate.temperature=false"),
        "compare": alzmri("compare"),
        "data check": alzmri("data", "check", "phantom"),
        "data audit": alzmri("data", "audit", "phantom"),
        "store run": alzmri("store", "run", "--", "true"),
        "exp show": dvc("exp", "show", "--csv"),
        "status": dvc("status"),
    }
    for name, work in commands.items():
        wait(name, forked(name, work, log), log)
    # It is right to complain of this program's Python, and of a store that is down.
    os.waitpid(forked("doctor", alzmri("doctor"), log), 0)
    served = "serve", "--port", "0", "--threads", "1"
    service(log, r"^serving .* at (\S+) ", lambda address: ask(address, picture), *served)
    service(log, r" listens on (\S+)", print, "dicom", "--metrics-port", "0")
    # The control: a name that is asked for is written down.
    with suppress(OSError):
        socket.getaddrinfo("control.example", 80)
    print(json.dumps({"asked": sorted(set(ASKED)), "failed": FAILED}))


if __name__ == "__main__":
    main()

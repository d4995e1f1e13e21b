"""Check of DVC's experiment queue: a task that nobody works on stays "Running" for ever."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import psutil

from alzmri.doctor.finding import Finding, ok, warn

_BROKEN = (ValueError, LookupError, TypeError, OverflowError)
"""What reading a file of the broker raises when it is not as it should be."""


def stranded_tasks(root: Path) -> Finding:
    """Tasks taken from the queue, without a result, while no worker lives.

    Read from the files of the broker: importing it, or asking `dvc queue status`, takes seconds.
    """
    celery = root / ".dvc" / "tmp" / "exps" / "celery"
    names = sorted(_unfinished(celery))
    if not names or _workers(celery):
        return ok("queue", f"{len(names)} experiments running")
    remedy = f"run `dvc queue kill {' '.join(names)}`"
    return warn("queue", f"shown as running, but no worker lives: {', '.join(names)}", remedy)


def _unfinished(celery: Path) -> Iterator[str]:
    for path in (celery / "broker" / "processed").glob("*.celery.msg"):
        try:
            message = json.loads(path.read_text(encoding="utf-8"))
            task = message["headers"]["id"]
            [[entry], *_] = json.loads(base64.b64decode(message["body"]))
            name = str(entry["name"] or entry["stash_rev"][:7])
        except (OSError, *_BROKEN):
            continue  # being written or taken away at this moment, or nobody's task
        if not (celery / "result" / f"celery-task-meta-{task}").exists():
            yield name


def _workers(celery: Path) -> bool:
    for path in celery.glob("dvc-exp-worker-*.json"):
        try:
            pid = int(json.loads(path.read_text(encoding="utf-8"))["pid"])
            if "queue-worker" in psutil.Process(pid).cmdline():
                return True
        except (OSError, psutil.Error, *_BROKEN):
            continue
    return False

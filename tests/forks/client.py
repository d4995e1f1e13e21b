"""`python`, `dvc` or `alzmri` by a fork of the server's; started afresh where that cannot be.

Run by `python -IS`, in hundredths of a second: without pathlib, whose import takes as long as all
else.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

RELAYED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


def _same_world(server):
    """Whether a fork of the server's is in the place that a process of ours would be in."""
    here = {name: os.readlink(f"/proc/self/ns/{name}") for name in server["namespaces"]}
    kept = {k: v for k, v in os.environ.items() if k.startswith(tuple(server["prefixes"]))}
    kept.pop("PYTHONUNBUFFERED", None)
    return here == server["namespaces"] and kept == server["environment"]


def _script(programs, name, words):
    """The script and its arguments; none where options of Python's come first."""
    if name != "python":
        return [os.path.join(programs, name), *words]
    if words[:2] == ["-m", "dvc"]:
        return [os.path.join(programs, "dvc"), *words[2:]]
    return words if words and words[0].endswith(".py") and os.path.isfile(words[0]) else []


def main():
    folder, name, *words = sys.argv[1:]
    with open(os.path.join(folder, "server.json")) as file:
        server = json.load(file)
    programs = os.path.dirname(server["python"])
    unbuffered = name == "python" and words[:1] == ["-u"]
    script = _script(programs, name, words[unbuffered:])
    if not script or "ALZMRI_TEST_REAL" in os.environ or not _same_world(server):
        program = os.path.join(programs, name)
        os.execv(program, [program, *words])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.path.join(folder, "socket"))
    for number in RELAYED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: connection.send(bytes([number])))
    ignored = [n for n in RELAYED if signal.getsignal(n) is signal.SIG_IGN]
    os.umask(mask := os.umask(0o022))
    order = {
        "words": script,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "umask": mask,
        "unbuffered": unbuffered or "PYTHONUNBUFFERED" in os.environ,
        "executable": os.path.join(folder, "bin", "python"),
        "ignored": ignored,
    }
    socket.send_fds(connection, [json.dumps(order).encode() + b"\n"], [0, 1, 2])
    # Whoever reads what we say sees its end when the fork closes it, not when we do.
    for stream in range(3):
        os.close(stream)
    replies = connection.makefile().readlines()
    status = json.loads(replies[-1]).get("status", 1) if replies else 1
    if status < 0:
        with suppress(OSError):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()

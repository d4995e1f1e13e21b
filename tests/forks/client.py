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
    kept = {k: v for k, v in kept.items() if not k.startswith(tuple(server["later"]))}
    return here == server["namespaces"] and kept == server["environment"]


def _script(programs, name, words):
    """The script, or -c and code, and its arguments; none where other options come first."""
    if name != "python":
        return [os.path.join(programs, name), *words]
    if words[:2] == ["-m", "dvc"]:
        return [os.path.join(programs, "dvc"), *words[2:]]
    if words[:1] == ["-c"] and words[1].startswith("from multiprocessing."):
        return words
    return words if words and words[0].endswith(".py") and os.path.isfile(words[0]) else []


def _inherited():
    """Descriptors besides the streams: through them the processes of `multiprocessing` talk."""
    found = [int(name) for name in os.listdir("/proc/self/fd")]
    return [number for number in found if number > 2 and os.path.exists(f"/proc/self/fd/{number}")]


def main():
    folder, name, *words = sys.argv[1:]
    inherited = _inherited()
    with open(os.path.join(folder, "server.json")) as file:
        server = json.load(file)
    programs = os.path.dirname(server["python"])
    options = words[: name == "python" and words[:1] in (["-u"], ["-B"])]
    script = _script(programs, name, words[len(options) :])
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
        "unbuffered": "-u" in options or "PYTHONUNBUFFERED" in os.environ,
        "executable": os.path.join(folder, "bin", "python"),
        "ignored": ignored,
        "descriptors": [0, 1, 2, *inherited],
    }
    said = json.dumps(order).encode() + b"\n"
    socket.send_fds(connection, [said], order["descriptors"])
    # Whoever reads what we say sees its end when the fork closes it, not when we do.
    for descriptor in order["descriptors"]:
        os.close(descriptor)
    status = 1
    for line in connection.makefile():
        reply = json.loads(line)
        status = reply.get("status", status)
        if "folder" in reply:
            with suppress(OSError):
                os.chdir(reply["folder"])
    if status < 0:
        with suppress(OSError):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()

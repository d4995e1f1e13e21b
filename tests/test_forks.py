"""What the server of forks starts is as what Python starts."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from . import forks
from .processes import limit

FACTS = """
import json, os, sys
import beside
said = sys.stdin.read()
mask = os.umask(0)
title = open("/proc/self/cmdline").read().rstrip(chr(0)).split(chr(0))
print(json.dumps([sys.argv, os.getcwd(), dict(os.environ), mask, said, beside.__file__, title[1:],
    __name__, sys.path[0], os.path.basename(sys.executable), sys.stdout.encoding]))
print("and the rest", file=sys.stderr)
"""
ENDS = {
    "pass": 0,
    "import sys; sys.exit()": 0,
    "import sys; sys.exit(7)": 7,
    "import sys; sys.exit('a reason')": 1,
    "1 / 0": 1,
    "raise KeyboardInterrupt": -signal.SIGINT,
    "import os; os._exit(9)": 9,
    "import os; os.kill(os.getpid(), 15)": -signal.SIGTERM,
    "import atexit, os; atexit.register(print, 'at the end')": 0,
}
WAIT = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(33))
print(os.getpid(), flush=True)
signal.pause()
"""

POOLS = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
def imported(name):
    return name in sys.modules
if __name__ == "__main__":
    for kind in ("spawn", "forkserver"):
        with ProcessPoolExecutor(1, multiprocessing.get_context(kind)) as pool:
            print(pool.submit(imported, "torch").result())
"""
MOVES = """
import os, signal
os.chdir("/usr")
print(os.getpid(), flush=True)
signal.pause()
"""


@pytest.fixture
def script(tmp_path):
    """``script(text)`` writes it, beside a module; its path."""
    (tmp_path / "beside.py").touch()

    def write(text):
        path = tmp_path / "script.py"
        path.write_text(text)
        return str(path)

    return write


def _run(*words, **variables):
    return subprocess.run(
        words,
        input="in",
        env={**forks.environment(), "COLOUR": "é", **variables},
        capture_output=True,
        text=True,
        umask=0o027,
        timeout=limit(60),
        check=False,
    )


def test_it_has_all_that_its_caller_has(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script(FACTS)
    said = [_run("python", "script.py", "a b", "", **own) for own in ({}, forks.REAL)]
    forked, real = (json.loads(done.stdout) for done in said)
    assert real[2].pop("ALZMRI_TEST_REAL")
    for facts in (forked, real):
        facts[2].pop("_", None)
    assert forked == real
    assert said[0].stderr == said[1].stderr == "and the rest\n"


@pytest.mark.parametrize("text", ENDS)
def test_it_ends_as_it_would(script, text):
    done = _run("python", script(text))
    assert done.returncode == ENDS[text]
    assert ("at the end" in done.stdout) == ("at the end" in text)
    assert ("a reason" in done.stderr) == ("a reason" in text)
    assert ("ZeroDivisionError" in done.stderr) == (text == "1 / 0")


def test_only_what_it_can_give_is_forked(script):
    """What is imported already tells a fork."""
    path = script("import sys; print('torch' in sys.modules, 'alzmri' in sys.modules)")
    assert _run("python", path).stdout == "True False\n"
    assert _run("python", "-u", path).stdout == "True False\n"
    assert _run("python", path, TORCHELASTIC_RUN_ID="1").stdout == "True False\n"
    for words, variables in (
        (("python", path), {"OMP_NUM_THREADS": "2"}),
        (("python", path), {"ONEDNN_MAX_CPU_ISA": "SSE41"}),
        (("python", path), {"PYTHONPATH": "/nowhere"}),
        (("python", path), forks.REAL),
        (("python", "-I", path), {}),
        (("python", "-c", Path(path).read_text()), {}),
    ):
        assert _run(*words, **variables).stdout == "False False\n"


def test_so_are_processes_of_multiprocessing(script):
    done = _run("python", script(POOLS))
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_its_client_goes_where_it_goes(script, eventually):
    """And only the fork itself is found by what it runs."""
    process = _start(script, MOVES)
    fork = int(process.stdout.readline())
    eventually(lambda: psutil.Process(process.pid).cwd() == "/usr")
    assert fork in [one.pid for one in forks.find(Path("/usr"), "script.py")]
    assert process.pid not in [one.pid for one in forks.find(Path("/usr"), "script.py")]
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 33), (signal.SIGINT, -2)])
def test_signals_reach_it(script, number, status):
    process = _start(script)
    fork = int(process.stdout.readline())
    assert fork != process.pid
    process.send_signal(number)
    process.communicate(timeout=limit(20))
    assert process.returncode == status
    assert not psutil.pid_exists(fork)


def test_it_does_not_outlive_its_caller(script, eventually):
    process = _start(script)
    fork = int(process.stdout.readline())
    process.kill()
    process.communicate()
    eventually(lambda: not psutil.pid_exists(fork))


def test_a_server_that_is_killed_leaves_nothing(script, tmp_path, eventually):
    """As after a crash of pytest's: its forks and its clients end."""
    server = forks.Forks("pass")
    fork = server.start([script(WAIT)], tmp_path, tmp_path / "log", {})
    os.kill(server._server.pid, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(fork.pid))
    server.close()
    assert not server.folder.exists()


def _start(script, text=WAIT):
    return subprocess.Popen(
        ["python", script(text)],
        env={**forks.environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def test_inherited_descriptors_receive_nothing_that_the_program_did_not_write(tmp_path):
    """Not even where the connection to the server had one of their numbers."""
    (tmp_path / "script.py").write_text("import os; os.chdir('/')")
    ours, inherited = socket.socketpair()
    with ours, inherited:
        numbers = " ".join(f"{n}>&{inherited.fileno()}" for n in range(3, inherited.fileno()))
        subprocess.run(
            ["bash", "-c", f"exec python script.py {numbers}"],
            cwd=tmp_path,
            env=forks.environment(),
            pass_fds=[inherited.fileno()],
            timeout=limit(60),
            check=True,
        )
        inherited.close()
        assert ours.recv(100) == b""

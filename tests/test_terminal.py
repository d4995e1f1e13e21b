"""Errors, exit codes and progress, as a subject or a log sees them."""

import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from alzmri import terminal
from alzmri.errors import EnvironmentFault, LeakError, UserError


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (UserError("no [file] here"), 2, "error: no [file] here\n"),
        (LeakError("it leaks"), 2, "error: it leaks\n"),
        (EnvironmentFault("store is down"), 1, "error: store is down\n"),
        (OSError(28, "No space left on device", "x.npy"), 1, "device: x.npy; free some space"),
        (OSError("Invalid data stream"), 1, "error: Invalid data stream\n"),
        (UserError("data/:x:.jpg"), 2, "error: data/:x:.jpg\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_message_and_an_exit_code(error, code, shown, capsys):
    assert terminal.run(lambda: _raise(error)) == code
    printed = capsys.readouterr()
    assert shown in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("error", "go_on"),
    [(UserError("lr = -1"), "correct this"), (KeyboardInterrupt(), "run the same command again")],
)
def test_a_stage_in_the_workspace_says_how_to_go_on_and_how_to_undo(
    error, go_on, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    terminal.run(lambda: _raise(error))
    said = capsys.readouterr().err.splitlines()[-1]
    assert go_on in said
    assert "`git restore . && dvc checkout`" in said
    # An experiment in a folder of its own changes nothing here; DVC_ROOT is the same.
    monkeypatch.setenv("DVC_ROOT", "/home/me/alzmri")
    terminal.run(lambda: _raise(error))
    assert "restore" not in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("ALZMRI_DEBUG", "1")
    with pytest.raises(UserError):
        terminal.run(lambda: _raise(UserError("x")))


def test_a_bug_is_not_dressed_up():
    with pytest.raises(ZeroDivisionError):
        terminal.run(lambda: _raise(ZeroDivisionError()))


def _signalled(number, before):
    """What a program does that sends itself ``number``, started with ``before`` as its handler."""
    code = (
        "import os, signal, sys; number = int(sys.argv[1])\n"
        f"signal.signal(number, signal.{before})\n"
        "from alzmri import terminal\n"
        "def main():\n"
        "    try: os.kill(os.getpid(), number); print('goes on')\n"
        "    finally: print('cleaned')\n"
        "terminal.start(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(int(number))], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds(number):
    assert _signalled(number, "SIG_DFL") == (128 + number, "cleaned\n")


def test_what_nohup_protects_goes_on():
    assert _signalled(signal.SIGHUP, "SIG_IGN") == (0, "goes on\ncleaned\n")


def test_a_name_that_the_terminal_cannot_write_is_escaped():
    code = "from alzmri import terminal; terminal.start(lambda: terminal.out.print('\\u00e9'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"\\xe9\n")


COUNT = (
    "from alzmri import terminal\n"
    "terminal.SECONDS_BETWEEN_LINES = 0\n"
    "with terminal.progress('reading') as update:\n"
    "    update(1, 2); terminal.say('a line'); update(2, 2)\n"
    "terminal.out.print('[red]done[/]')\n"
)


def test_a_log_gets_plain_lines():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert done.stderr == "reading: 1/2\nreading: 2/2\n"
    assert done.stdout == "a line\ndone\n"


def test_a_terminal_gets_colour_and_a_bar_below_the_lines():
    parent, child = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", COUNT],
        stdout=child,
        stderr=child,
        check=True,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(child)
    shown = os.read(parent, 65536).decode()
    os.close(parent)
    assert "2/2" in shown
    assert "\x1b[31mdone" in shown
    # The cursor goes back and the bar is erased before the line is written.
    assert re.search("\r\x1b\\[2K[^\r\n]*a line", shown)

"""The programs that the container runs one after the other, and why one failed."""

import collections
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

_SIGNALS = {signal.SIGTERM, signal.SIGINT}

UNSAID = (
    "the container ended without a word, as when memory runs out: lower train.batch_size, or take"
    " a larger instance_type"
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
        for number in _SIGNALS:
            signal.signal(number, self._forward)

    def run(self, command: Sequence[str], environment: dict[str, str]) -> int:
        """Run ``command``, its output printed as it comes; its status, 128 + n after signal n."""
        self.stop_if_told()
        self._child = subprocess.Popen(
            command,
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
        return UNSAID
    traces = [i for i, line in enumerate(lines) if line.startswith("Traceback")]
    if traces:  # the first: torchrun adds its own
        for line in lines[traces[0] + 1 :]:
            if line and not line.startswith(" "):
                return line
    return "\n".join([f"training ended with status {status}", *lines[-5:]])

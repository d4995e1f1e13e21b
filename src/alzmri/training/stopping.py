"""Stop signals: training finishes the step, saves, and exits with the signal's status."""

import signal
import sys
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """While entered, a first signal is noted and a second one ends the program at once.

    Args:
        insist: pass over the second one. ``torchrun`` repeats to its processes what the terminal
            told them already, and kills them itself when they take too long.

    Attributes:
        wanted: the signal, 0 while there is none.
    """

    def __init__(self, *, insist: bool = False) -> None:
        self.wanted = 0
        self._insist = insist
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def leave(self, number: int) -> None:
        """End the program with the exit status of signal ``number``."""
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    def _note(self, number: int, _: FrameType | None) -> None:
        if not self.wanted:
            self.wanted = number
        elif not self._insist:
            self.leave(number)

"""Being told to stop: training finishes the step, saves, and leaves as the signal would have it."""

import signal
import sys
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """While entered, a first signal is noted and a second one ends the program at once."""

    def __init__(self) -> None:
        self.wanted: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def leave(self) -> None:
        """End the program with the exit status of the signal."""
        if self.wanted == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + (self.wanted or 0))

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.wanted is not None:
            self.leave()
        self.wanted = number

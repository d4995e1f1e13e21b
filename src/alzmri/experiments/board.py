"""Where experiments are: a live table on a terminal, a line per change in a log."""

import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from rich.live import Live
from rich.table import Table

from alzmri import terminal
from alzmri.terminal import SECONDS_BETWEEN_LINES


class Status(StrEnum):
    """Of an experiment; in this order they are shown."""

    RUNNING = "running"
    FAILED = "failed"
    DONE = "done"


_COLOUR = {
    Status.RUNNING: "cyan",
    Status.FAILED: "red",
    Status.DONE: "green",
}
_ORDER = list(Status)


@dataclass(frozen=True)
class Line:
    """One experiment, now.

    Attributes:
        name: of the experiment.
        status: where it is.
        place: how far it is, such as ``epoch 3/10``; may be empty.
        score: its latest, and which that is; may be empty.
    """

    name: str
    status: Status
    place: str = ""
    score: str = ""


class Board:
    """Shows lines while it is entered.

    Args:
        total: how many experiments there will be.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._live = Live(console=terminal.out) if terminal.out.is_terminal else None
        self._lines: dict[str, Line] = {}
        self._said: dict[str, tuple[Line, float]] = {}

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.update(self._table())
            self._live.stop()

    def put(self, line: Line) -> None:
        """Show where one of them is."""
        self._lines[line.name] = line
        if self._live:
            self._live.update(self._table())
            return
        last, since = self._said.get(line.name, (None, 0.0))
        moved = last is None or last.status is not line.status
        if moved or (line != last and time.monotonic() - since >= SECONDS_BETWEEN_LINES):
            self._said[line.name] = line, time.monotonic()
            terminal.say("  ".join(filter(None, (line.name, line.status, line.place, line.score))))

    def say(self, text: str) -> None:
        """Print ``text``, above the table where there is one."""
        terminal.out.print(text, markup=False)

    def _table(self) -> Table:
        counts = Counter(line.status for line in self._lines.values())
        parts = [f"{counts[status]} {status}" for status in Status if counts[status]]
        parts += [f"{self._total - len(self._lines)} to come"] * (self._total > len(self._lines))
        table = Table(
            caption=f"{self._total} experiments: {', '.join(parts)}", caption_justify="left"
        )
        for heading in ("experiment", "", "where", "score"):
            table.add_column(heading, no_wrap=heading != "experiment")
        for line in sorted(self._lines.values(), key=lambda line: _ORDER.index(line.status)):
            colour = _COLOUR[line.status]
            table.add_row(line.name, f"[{colour}]{line.status}[/]", line.place, line.score)
        return table

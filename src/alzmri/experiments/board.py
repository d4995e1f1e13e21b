"""Where experiments are: a live table on a terminal, a line per change in a log."""

import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext

from rich.live import Live
from rich.table import Table

from alzmri import terminal
from alzmri.terminal import SECONDS_BETWEEN_LINES

RUNNING, FAILED, DONE = "running", "failed", "done"
_COLOURS = {RUNNING: "cyan", FAILED: "red", DONE: "green"}


class Board:
    """Where ``total`` experiments are; the table shows while ``live`` is entered."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._rows: dict[str, tuple[str, str, str]] = {}
        self._said: dict[str, tuple[str, float]] = {}
        self.live: AbstractContextManager[object] = nullcontext()
        if terminal.out.is_terminal:
            self.live = Live(console=terminal.out, get_renderable=self._table)

    def put(self, name: str, status: str, where: str, score: str = "") -> None:
        """Show one of them: its status, how far it is, and its latest score."""
        before = self._rows.get(name, ("", "", ""))
        self._rows[name] = row = (status, where or before[1], score or before[2])
        if terminal.out.is_terminal:
            return
        last, since = self._said.get(name, ("", 0.0))
        now = time.monotonic()
        if status != last or (row != before and now - since >= SECONDS_BETWEEN_LINES):
            self._said[name] = status, now
            terminal.say("  ".join(filter(None, (name, *row))))

    def _table(self) -> Table:
        rows = dict(self._rows)  # drawn by a thread of its own
        counts = Counter(status for status, *_ in rows.values())
        parts = [f"{counts[status]} {status}" for status in _COLOURS if counts[status]]
        parts += [f"{self._total - len(rows)} to come"] * (self._total > len(rows))
        caption = f"{self._total} experiments: {', '.join(parts)}"
        table = Table("experiment", "", "where", "score", caption=caption, caption_justify="left")
        for name, (status, *rest) in sorted(
            rows.items(), key=lambda item: list(_COLOURS).index(item[1][0])
        ):
            table.add_row(name, f"[{_COLOURS[status]}]{status}[/]", *rest)
        return table

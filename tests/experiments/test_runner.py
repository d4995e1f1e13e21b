"""Where experiments are, as a terminal and as a log show it."""

import io

from rich.console import Console

from alzmri import terminal
from alzmri.experiments.runner import DONE, FAILED, RUNNING, Board


def _shown(board):
    with board.live:
        board.put("first", RUNNING, "starting")
        board.put("first", RUNNING, "epoch 1/3", "validation macro F1 0.512")
        board.put("first", RUNNING, "")  # between two stages: what is known stays
        board.put("second", FAILED, "exit status 1")
        board.put("third", DONE, "best epoch 3", "macro F1 0.700")


def test_a_terminal_has_one_table_that_is_redrawn(monkeypatch):
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=120, legacy_windows=False)
    monkeypatch.setattr(terminal, "out", console)
    _shown(Board(5))
    last = drawn.getvalue().rpartition("experiment ")[2]
    for words in ("first", "epoch 1/3", "validation macro F1 0.512", "exit status 1", "0.700"):
        assert words in last
    assert "1 of 5 experiments are done" in last
    assert last.index("first") < last.index("second") < last.index("third")


def test_a_log_has_a_line_for_each_change(capsys):
    _shown(Board(5))
    assert capsys.readouterr().out.splitlines() == [
        "first  running  starting",
        "first  running  epoch 1/3  validation macro F1 0.512",
        "second  failed  exit status 1",
        "third  done  best epoch 3  macro F1 0.700",
    ]

"""Where experiments are, as a terminal and as a log show it."""

import io

from rich.console import Console

from alzmri import terminal
from alzmri.experiments.runner import (
    DONE,
    FAILED,
    RUNNING,
    Board,
    _progress,
    on_this_machine,
)


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


def test_experiments_share_the_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    for jobs, threads in ((1, 0), (2, 4), (3, 2), (16, 1)):
        expected = {"compute.portable": False, "compute.threads": threads}
        assert on_this_machine(jobs) == expected


def test_progress_is_of_this_run_and_not_of_the_one_before(tmp_path):
    """Until it trains, the history in its folder is that of the committed run."""
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/history.csv").write_text("epoch,val_macro_f1\n1,0.4\n2,0.5124\n")
    log, shown = "", []
    for stage in ("phantom", "prepare", "train", "evaluate"):
        shown.append(_progress(log, tmp_path, 5))
        log += f"Running stage '{stage}':\n> python src/{stage}.py\n"
    score = "validation macro F1 0.512"
    assert shown == [("starting", ""), ("phantom", ""), ("prepare", ""), ("epoch 2/5", score)]
    assert _progress(log, tmp_path, 5) == ("evaluate", score)
    (tmp_path / "plots/history.csv").unlink()
    assert _progress(log, tmp_path, 5) == ("evaluate", "")

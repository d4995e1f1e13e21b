"""The inbox: limits, and what a kill between two steps leaves."""

import os
import time

import pytest

from alzmri.clinic import inbox as module
from alzmri.clinic.inbox import REMEMBERED, Inbox


@pytest.fixture
def inbox(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_IMAGES", 2)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    made = Inbox(tmp_path / "queue", keep=False)
    made.root.mkdir()
    made.open()
    return made


def _files(inbox):
    return sorted(
        str(path.relative_to(inbox.root)) for path in inbox.root.rglob("*") if path.is_file()
    )


def test_what_is_beyond_a_limit_is_refused_until_there_is_room(inbox):
    assert inbox.store("a", "1", b"x" * 40)
    assert inbox.store("a", "2", b"x" * 40)
    assert not inbox.store("a", "3", b"x")  # a third image
    assert inbox.store("a", "2", b"x" * 10)  # the second again
    assert not inbox.store("b", "1", b"x" * 40)  # bytes
    inbox.complete(0)
    (ready,) = inbox.contents("ready")
    inbox.finish(ready, {})
    inbox.tidy()
    assert inbox.held == 0
    assert inbox.store("b", "1", b"x" * 40)


def test_a_series_is_complete_when_it_is_quiet_and_what_comes_later_is_another(inbox):
    inbox.store("a", "1", b"x")
    inbox.complete(60)
    assert inbox.contents("ready") == []
    inbox.complete(0)
    inbox.store("a", "2", b"y")
    inbox.complete(0)
    assert [
        sorted(path.name for path in series.iterdir()) for series in inbox.contents("ready")
    ] == [
        ["1.dcm"],
        ["2.dcm"],
    ]


def test_after_a_kill_half_written_files_go_and_senders_get_their_time_again(inbox):
    inbox.store("a", "1", b"x")
    old = time.time() - 3600
    (inbox.root / "incoming/b").mkdir()  # before its first image
    (inbox.root / "results/.1.2.dcm.tmp").write_bytes(b"half")
    (inbox.root / "results/1.2.3.dcm").write_bytes(b"sent")
    (inbox.root / "sent/1.2.3").touch()
    (inbox.root / "done/7-b").mkdir()
    (inbox.root / "done/7-b/1.dcm").write_bytes(b"answered")
    os.utime(inbox.root / "incoming/a", (old, old))
    inbox.open()
    assert _files(inbox) == ["incoming/a/1.dcm", "sent/1.2.3"]
    inbox.complete(60)
    assert inbox.contents("ready") == []
    inbox.complete(0)
    assert [series.name[-2:] for series in inbox.contents("ready")] == ["-a"]


def test_an_object_is_sent_once_though_its_series_comes_again(inbox):
    sent = []
    for _ in range(2):
        inbox.store("a", "1", b"x")
        inbox.complete(0)
        inbox.finish(inbox.contents("ready")[0], {"1.2.3": b"result"})
        inbox.tidy()
        for result in inbox.contents("results"):
            sent.append(result.read_bytes())
            inbox.mark_sent(result)
        assert _files(inbox) == ["sent/1.2.3"]
    assert sent == [b"result"]
    old = time.time() - REMEMBERED - 1
    os.utime(inbox.root / "sent/1.2.3", (old, old))
    inbox.tidy()
    assert _files(inbox) == []


def test_what_cannot_be_answered_stays_and_with_keep_so_does_the_rest(inbox):
    inbox.store("a", "1", b"x")
    inbox.complete(0)
    inbox.finish(inbox.contents("ready")[0], None)
    inbox.keep = True
    inbox.store("b", "1", b"y")
    inbox.complete(0)
    inbox.finish(inbox.contents("ready")[0], {"1.2.3": b"result"})
    inbox.mark_sent(inbox.contents("results")[0])
    inbox.tidy()
    found = [path.split("/")[0] + "/" + path.split("/")[-1] for path in _files(inbox)]
    assert found == ["failed/1.dcm", "kept/1.2.3.dcm", "kept/1.dcm", "sent/1.2.3"]

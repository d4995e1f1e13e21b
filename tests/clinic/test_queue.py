"""The queue on disk: limits, and what a kill between two steps leaves."""

import os
import time

import pytest

from alzmri.clinic.queue import REMEMBERED, Queue


@pytest.fixture
def queue(tmp_path):
    made = Queue(tmp_path / "queue", keep=False, max_images=2, max_bytes=100)
    made.root.mkdir()
    made.open()
    return made


def _files(queue):
    return sorted(
        str(path.relative_to(queue.root)) for path in queue.root.rglob("*") if path.is_file()
    )


def test_what_is_beyond_a_limit_is_refused_until_there_is_room(queue):
    assert queue.store("a", "1", b"x" * 40)
    assert queue.store("a", "2", b"x" * 40)
    assert not queue.store("a", "3", b"x")  # a third image
    assert queue.store("a", "2", b"x" * 10)  # the second again
    assert not queue.store("b", "1", b"x" * 40)  # bytes
    queue.complete(0)
    (ready,) = queue.ready()
    queue.finish(ready, {})
    queue.tidy()
    assert queue.held == 0
    assert queue.store("b", "1", b"x" * 40)


def test_a_series_is_complete_when_it_is_quiet_and_what_comes_later_is_another(queue):
    queue.store("a", "1", b"x")
    queue.complete(60)
    assert queue.ready() == []
    queue.complete(0)
    queue.store("a", "2", b"y")
    queue.complete(0)
    assert [sorted(path.name for path in series.iterdir()) for series in queue.ready()] == [
        ["1.dcm"],
        ["2.dcm"],
    ]


def test_after_a_kill_half_written_files_go_and_senders_get_their_time_again(queue):
    queue.store("a", "1", b"x")
    old = time.time() - 3600
    (queue.root / "results/.1.2.dcm.tmp").write_bytes(b"half")
    (queue.root / "done/7-b").mkdir()
    (queue.root / "done/7-b/1.dcm").write_bytes(b"answered")
    os.utime(queue.root / "incoming/a", (old, old))
    queue.open()
    assert _files(queue) == ["incoming/a/1.dcm"]
    queue.complete(60)
    assert queue.ready() == []


def test_an_object_is_sent_once_though_its_series_comes_again(queue):
    sent = []
    for _ in range(2):
        queue.store("a", "1", b"x")
        queue.complete(0)
        queue.finish(queue.ready()[0], {"1.2.3": b"result"})
        queue.tidy()
        for result in queue.results():
            sent.append(result.read_bytes())
            queue.mark_sent(result)
        assert _files(queue) == ["sent/1.2.3"]
    assert sent == [b"result"]
    old = time.time() - REMEMBERED - 1
    os.utime(queue.root / "sent/1.2.3", (old, old))
    queue.tidy()
    assert _files(queue) == []


def test_what_cannot_be_answered_stays_and_with_keep_so_does_the_rest(queue):
    queue.store("a", "1", b"x")
    queue.complete(0)
    queue.finish(queue.ready()[0], None)
    queue.keep = True
    queue.store("b", "1", b"y")
    queue.complete(0)
    queue.finish(queue.ready()[0], {"1.2.3": b"result"})
    queue.mark_sent(queue.results()[0])
    queue.tidy()
    found = [path.split("/")[0] + "/" + path.split("/")[-1] for path in _files(queue)]
    assert found == ["failed/1.dcm", "kept/1.2.3.dcm", "kept/1.dcm", "sent/1.2.3"]

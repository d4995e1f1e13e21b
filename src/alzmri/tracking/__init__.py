"""Report a stage to W&B. The stage waits for W&B only at its end."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

import psutil

from alzmri import terminal
from alzmri.params import Params, Track

COMPLETE_SECONDS, STOP_SECONDS = 14, 5
"""The longest wait for W&B at the end of a stage that is complete, and of one that failed."""


class Tracker:
    """A stage reports to a tracker. This one does nothing: tracking is disabled."""

    def epoch(self, values: Mapping[str, float]) -> None:
        """Report one row of ``plots/history.csv``, by column name."""

    def evaluation(self, classes: Sequence[str], after: int) -> None:
        """Report the outputs of evaluate; ``after`` is the last possible epoch."""

    def end(self, *, complete: bool, seconds: float) -> None:
        """End: wait at most ``seconds`` until everything is saved."""


class Client(Tracker):
    """Report one stage to W&B: a thread executes the orders one by one; see :class:`Run`."""

    def __init__(self, track: Track, mode: str, config: Mapping[str, Any]) -> None:
        self._orders: SimpleQueue[Callable[[Any], None] | None] = SimpleQueue()
        self._done = self._given_up = False
        # A daemon thread, so that the stage can end while it waits.
        self._thread = Thread(target=self._follow, args=(track, mode, config), daemon=True)
        self._thread.start()

    def epoch(self, values: Mapping[str, float]) -> None:
        self._orders.put(lambda run: run.epoch(values))

    def evaluation(self, classes: Sequence[str], after: int) -> None:
        self._orders.put(lambda run: run.evaluation(classes, after + 1))

    def end(self, *, complete: bool, seconds: float) -> None:
        self._orders.put(lambda run: run.finish(complete=complete))
        self._orders.put(None)
        self._thread.join(seconds)
        self._given_up = self._thread.is_alive()
        if self._given_up and complete:
            terminal.warn(f"W&B: this run is not tracked to its end (not done after {seconds} s)")
        if not self._done:
            # Python's exit would wait for the client's core, which saves its file when terminated.
            cores = [core for core in psutil.Process().children() if core.name() == "wandb-core"]
            for core in cores:
                core.terminate()
            for core in psutil.wait_procs(cores, timeout=1)[1]:
                core.kill()
            with suppress(Exception, SystemExit):  # so that Python does not try it again
                sys.modules["wandb"].teardown()

    def _follow(self, track: Track, mode: str, config: Mapping[str, Any]) -> None:
        try:
            from alzmri.tracking.run import Run

            run = Run(track, mode, config)
            for order in iter(self._orders.get, None):
                order(run)
            self._done = True
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the client raises
            if not self._given_up:
                terminal.warn(f"W&B: this run is not tracked to its end ({reason(error)})")


@contextmanager
def following(params: Params, run: str, data_sha256: str) -> Iterator[Tracker]:
    """Yield the tracker of a stage. Its failures are warnings, never exceptions.

    Args:
        params: all parameters; they become the run's config.
        run: the fingerprint, and the run's id on W&B, so that a training that resumes continues
            its run. "" is not tracked: an older model without a fingerprint.
        data_sha256: digest of the prepared data.
    """
    track = params.track
    mode = os.environ.get("WANDB_MODE", "auto") if track.mode == "auto" else track.mode
    tracker = Tracker()
    if mode != "disabled" and run:
        config = params.model_dump(exclude={"track"}) | {"data_sha256": data_sha256, "run": run}
        tracker = Client(track, mode, config)
    try:
        yield tracker
    except BaseException:
        tracker.end(complete=False, seconds=STOP_SECONDS)
        raise
    tracker.end(complete=True, seconds=COMPLETE_SECONDS)


def reason(error: BaseException) -> str:
    """The error as one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__

"""The side of the stages: start the W&B client, hand it what there is to know, never wait long."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import alzmri
from alzmri import terminal
from alzmri.params import Params

PATIENCE = 75
"""Seconds that a stage which is done waits for the client, longer than that takes to give up."""

PATIENCE_TO_STOP = 5
"""Seconds that a stage which was told to stop, or failed, waits. The client goes on without it."""


class Follower:
    """The W&B client in a process of its own, and the pipe to it.

    The process keeps all that may go wrong in there away from training: a server that does not
    answer, an import that fails, threads and exit handlers that hang. It is out of reach of the
    signals that end training, sees the pipe close whatever ended it, and completes its files.

    Args:
        start: the client's first order, see :class:`alzmri.tracking.run.Followed`.
    """

    def __init__(self, start: Mapping[str, object]) -> None:
        self._process = subprocess.Popen(
            # -P: a folder named wandb in the current directory is not the package.
            (sys.executable, "-P", "-m", "alzmri.tracking.client"),
            # The code beside this file, not that of an editable install: see dvc exp run --queue.
            env={**os.environ, "PYTHONPATH": str(Path(alzmri.__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin
        # Should the client hang, the pipe fills up: better to lose a line than to wait.
        os.set_blocking(self._process.stdin.fileno(), False)
        self._reader = Thread(target=self._pass_on, daemon=True)
        self._reader.start()
        self._tell(**start)

    def epoch(self, values: Mapping[str, float]) -> None:
        """Log one line of ``plots/history.csv``, by the names of its columns."""
        self._tell(do="epoch", values=values)

    def evaluation(self, classes: Sequence[str], after: int) -> None:
        """Log what evaluate has written: figures, ``models/evaluation.json``, where the model is.

        Args:
            classes: names in severity order.
            after: the highest epoch that training can have had.
        """
        self._tell(do="evaluation", classes=classes, step=after + 1)

    def finish(self) -> None:
        """The stage is complete: wait until W&B, or the disk, has all."""
        self._tell(do="finish")
        if not self._ended_within(PATIENCE):
            self._process.kill()
            terminal.warn("W&B: its client did not end: this run is not tracked to its end")

    def leave(self) -> None:
        """The stage is not complete: give the client a moment to write down what it has."""
        self._ended_within(PATIENCE_TO_STOP)

    def _tell(self, **order: object) -> None:
        assert self._process.stdin
        with suppress(OSError):  # it ended, and has said why, or it does not read any more
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def _ended_within(self, seconds: float) -> bool:
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join()
        return True

    def _pass_on(self) -> None:
        """Say what the client has to say, as it comes."""
        assert self._process.stdout
        said = None
        for line in self._process.stdout:
            said = json.loads(line)
            (terminal.warn if said["warning"] else terminal.say)(f"W&B: {said['text']}")
        if self._process.wait() and said is None:
            terminal.warn("W&B: its client was ended: this run is not tracked to its end")


@contextmanager
def following(params: Params, run: str, data_sha256: str) -> Iterator[Follower | None]:
    """Yield what follows a stage on W&B, None when nothing does; nothing of it is ever raised.

    Args:
        params: all of ``params.yaml``; ``track`` says where to and how.
        run: the run's fingerprint, which is its id on W&B: started again, it goes on there too.
            Checkpoints are found by the fingerprint, so that they need not keep the id. Empty for
            a model that does not know its run: nothing follows.
        data_sha256: digest of the prepared data.
    """
    track = params.track
    mode = os.environ.get("WANDB_MODE", "auto") if track.mode == "auto" else track.mode
    if mode == "disabled" or not run:
        yield None
        return
    config = params.model_dump(exclude={"track"}) | {"data_sha256": data_sha256, "run": run}
    start = {"track": track.model_dump() | {"mode": mode}, "config": config}
    try:
        follower = Follower(start)
    except OSError as error:
        terminal.warn(f"W&B: its client cannot be started ({error}): this run is not tracked")
        yield None
        return
    try:
        yield follower
    except BaseException:
        follower.leave()
        raise
    follower.finish()

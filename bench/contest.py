"""Contenders, each in a process of its own, that train an epoch on command."""

import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from peers import Gate, Setting

from alzmri.errors import EnvironmentFault

SILENCE = 600
"""Seconds after which one that answers nothing is taken to hang; an epoch takes a tenth of them."""


def _contend(name: str, setting: Setting, driver: Connection, log: Path) -> None:
    """What the process runs; what the libraries print goes to ``log``."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    # Where it hangs, if it does.
    faulthandler.register(signal.SIGTERM, all_threads=True, chain=True)
    # Or its loading processes would be spawned too, which no tutorial does: each a new Python that
    # imports torch and is sent the whole data set, for every epoch.
    multiprocessing.set_start_method(None, force=True)
    torch.set_num_threads(setting.threads)
    importlib.import_module(f"peers.{name}").run(setting, Gate(driver, setting))


@dataclass
class Contender:
    """A peer, or ours, waiting to train; ``rates`` are its images per second so far."""

    name: str
    setting: Setting
    rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        kind = f"{self.name}-{self.setting.precision}-{self.setting.workers}"
        self._log = self.setting.folder / f"{kind}.log"
        # A forked child would inherit threads' locks; and some libraries set what others read.
        spawn = multiprocessing.get_context("spawn")
        self._gate, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_contend, args=(self.name, self.setting, theirs, self._log)
        )
        self._process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until it can train.

        Raises:
            EnvironmentFault: it failed, or hangs.
        """
        self._answer()

    def epoch(self) -> None:
        """Have it train one epoch.

        Raises:
            EnvironmentFault: it failed, or hangs.
        """
        with suppress(OSError):  # it has ended: what it answers says so
            self._gate.send(None)
        self.rates.append(self._answer())
        turn = f"turn {len(self.rates) - 1}" if self.rates[1:] else "uncounted"
        print(f"  {self}: {turn}, {self.rates[-1]:.4g} images/s", file=sys.stderr, flush=True)

    def _answer(self) -> Any:
        try:
            if self._gate.poll(SILENCE):
                return self._gate.recv()
            self._process.terminate()
            self._process.join()
            how = f"said nothing for {SILENCE} s"
        except (EOFError, OSError):
            how = "failed"
        tail = self._log.read_text(errors="replace")[-2000:]
        raise EnvironmentFault(f"bench/peers/{self.name}.py {how}:\n{tail}")

    def close(self) -> None:
        """End it."""
        self._gate.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def same_peer(self, other: "Contender") -> bool:
        return (self.name, self.setting.precision) == (other.name, other.setting.precision)

    def __str__(self) -> str:
        return f"{self.name}, {self.setting.precision}, {self.setting.workers} loading processes"


def contest(entries: Sequence[tuple[str, Setting]], rounds: int) -> list[Contender]:
    """Have all train in turns, ``rounds`` times, after one epoch each that does not count.

    Of several settings of one peer, only the fastest of the uncounted epoch stays.
    """
    contenders: list[Contender] = []
    try:
        for name, setting in entries:
            contenders.append(Contender(name, setting))
        for contender in contenders:
            contender.ready()
        for contender in list(contenders):
            contender.epoch()
            rivals = [other for other in contenders if other.same_peer(contender) and other.rates]
            if len(rivals) == 2:
                slower = min(rivals, key=lambda rival: rival.rates[0])
                slower.close()
                contenders.remove(slower)
        for _ in range(rounds):
            for contender in contenders:
                contender.epoch()
    finally:
        for contender in contenders:
            contender.close()
    for contender in contenders:
        del contender.rates[0]
    return contenders

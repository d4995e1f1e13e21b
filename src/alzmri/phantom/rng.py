"""Random numbers that are the same bits on every machine and with every version of NumPy.

NumPy's ``Generator`` methods may change their streams between versions, and those that use
logarithms differ with the mathematical library. The raw words of PCG64 and the seeding through
``SeedSequence`` are guaranteed by NumPy's compatibility policy (NEP 19), so everything here is
made from raw words with integer arithmetic and one multiplication.
"""

import math

import numpy as np
from numpy.typing import NDArray

_UNIFORM_BITS = 24
"""Bits of a uniform number: as many as a float32 holds exactly."""

_HALFWORDS = 4
"""16-bit parts of one 64-bit word, summed for one approximately normal number."""

_HALFWORD_MEAN = _HALFWORDS * (2**16 - 1) // 2
_HALFWORD_SCALE = math.sqrt(12 / _HALFWORDS) / 2**16


class ExactRandom:
    """A stream of random numbers that depends on nothing but ``key``."""

    def __init__(self, *key: int) -> None:
        self._words = np.random.PCG64(np.random.SeedSequence(key))

    def uniform(self) -> float:
        """One number, uniform in [0, 1)."""
        return (int(self._words.random_raw()) >> (64 - _UNIFORM_BITS)) / 2.0**_UNIFORM_BITS

    def normal(self) -> float:
        """One number of mean 0 and variance 1; see :meth:`normals`."""
        return float(self.normals(1)[0])

    def normals(self, *shape: int) -> NDArray[np.float32]:
        """An array of numbers of mean 0 and variance 1, near normal, never beyond ±3.47.

        Each is the standardised sum of four uniform integers (the Irwin-Hall distribution). Its
        bounded tails are welcome: no subject is ever grotesque.
        """
        words = self._words.random_raw(math.prod(shape)).astype("<u8")
        parts = words.view("<u2").reshape(*shape, _HALFWORDS)
        # An integer sum is exact in any order, whatever the width of the machine's vectors.
        total = parts.sum(axis=-1, dtype=np.int32) - _HALFWORD_MEAN
        numbers: NDArray[np.float32] = (total * _HALFWORD_SCALE).astype(np.float32)
        return numbers

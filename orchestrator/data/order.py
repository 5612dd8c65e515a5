"""Which row comes at which place of the endless order: a pure function of (seed, weights, rows, place).

Two layers. The interleave says from which source a place is drawn, and how many places before it were; within a source,
the count gives the pass (count // rows) and the place in the permutation of that pass. So one number in the ledger, the
cursor, is all that a resume needs, and the cursor of each source follows from it.

The interleave repeats in blocks of W = the sum of the weights as smallest whole numbers W_i. Draw k of source i in a block
may stand in the slots floor(k W / W_i) <= t < ceil((k + 1) W / W_i) only. After n slots, all draws whose window has closed
are made and none whose window has not opened, so the count of source i is floor(n W_i / W) or ceil(n W_i / W): within 1 of
its share, over every prefix, and exact at the end of a block. Such an order exists: the draws whose windows lie within
[a, b) number at most (b - a) W_i / W for source i, hence b - a together (Hall's condition), and taking the open window that
closes first finds it. Then neighbours are exchanged at random, block by block, where both stay in their windows; draws of
one source keep their order, so the bound holds for every seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm

import numpy as np
import numpy.typing as npt

LONGEST_BLOCK = 10_000
"""Slots: weights with up to four decimal places. A block is laid out whole, in some 40 ms at this length."""
_SWEEPS = 16
"""Rounds of exchanges: a draw can wander as many slots, and windows seldom allow more."""
_LAYOUT_STREAM = 2**64 - 1
"""Keeps the exchanges' random numbers apart from those of every source, which are numbered from 0."""

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What stands at a place of the order."""

    source: int
    number: int
    """Pass over the source, from 0."""
    place: int
    """Within the pass, from 0."""


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """The smallest whole numbers in the same proportions; a weight is taken as the decimal that it is written as."""
    fractions = [Fraction(str(weight)) for weight in weights]
    common = lcm(*(fraction.denominator for fraction in fractions))
    numbers = [int(fraction * common) for fraction in fractions]
    divisor = gcd(*numbers)
    return tuple(number // divisor for number in numbers)


class Interleave:
    """at(place) -> (source, how many places before it were drawn from that source)."""

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        self.weights, self._seed = whole_weights(weights), seed
        self._length = sum(self.weights)
        self._first_layout, self._opens, self._closes = _layout(self.weights)
        self._block = lru_cache(maxsize=4)(self._lay_out)

    def at(self, place: int) -> tuple[int, int]:
        block, slot = divmod(place, self._length)
        sources, before = self._block(block)
        source = int(sources[slot])
        return source, block * self.weights[source] + int(before[slot])

    def drawn(self, places: int) -> tuple[int, ...]:
        """By source, how many of the first `places` places were drawn from it: the cursors of the sources."""
        block, slots = divmod(places, self._length)
        within = np.bincount(self._block(block)[0][:slots], minlength=len(self.weights))
        return tuple(block * weight + int(count) for weight, count in zip(self.weights, within, strict=True))

    def places_within(self, limits: Sequence[int]) -> int:
        """The longest prefix that draws at most `limits[i]` from each source i."""
        blocks = min(limit // weight for limit, weight in zip(limits, self.weights, strict=True))
        places = blocks * self._length
        while True:
            source, before = self.at(places)
            if before >= limits[source]:
                return places
            places += 1

    def _lay_out(self, block: int) -> tuple[Int64Array, Int64Array]:
        """[W] source of each slot, and [W] the draws of that source before it in the block."""
        order = np.arange(self._length)
        bits = _random(self._seed, block, _LAYOUT_STREAM, _SWEEPS * self._length) & np.uint64(1)
        for sweep, chance in enumerate(bits.reshape(_SWEEPS, self._length)):
            left = np.arange(sweep % 2, self._length - 1, 2)
            one, other = order[left], order[left + 1]
            apart = self._first_layout[one] != self._first_layout[other]
            allowed = apart & (self._closes[one] > left + 1) & (self._opens[other] <= left) & (chance[left] == 1)
            order[left[allowed]], order[left[allowed] + 1] = other[allowed], one[allowed]
        sources = self._first_layout[order]
        before = np.empty(self._length, np.int64)
        for source, weight in enumerate(self.weights):
            before[sources == source] = np.arange(weight)
        return sources, before


def permutation(seed: int, number: int, size: int, *, source: int = 0) -> Int64Array:
    """[size] the order of one pass over a source: ranks of Philox's raw output under the key (seed, pass).

    Raw output is the same on every machine and, unlike Generator.permutation (NEP 19), in every version of numpy.
    """
    return np.argsort(_random(seed, number, source, size), kind="stable")


def _random(seed: int, number: int, stream: int, size: int) -> npt.NDArray[np.uint64]:
    """[size] raw 64-bit output; streams are 2^192 numbers apart."""
    generator = np.random.Philox(
        key=np.array([seed, number], np.uint64), counter=np.array([0, 0, 0, stream], np.uint64)
    )
    return generator.random_raw(size)


def _layout(weights: Sequence[int]) -> tuple[Int64Array, Int64Array, Int64Array]:
    """[W] each: the source of every slot, the slot in which its window opens, and the first after it has closed."""
    length = sum(weights)
    sources, opens, closes = (np.empty(length, np.int64) for _ in range(3))
    made = [0] * len(weights)
    for slot in range(length):
        windows = [
            (-(-(k + 1) * length // weight), source)
            for source, (k, weight) in enumerate(zip(made, weights, strict=True))
            if k * length // weight <= slot
        ]
        closes[slot], source = min(windows)
        sources[slot], opens[slot] = source, made[source] * length // weights[source]
        made[source] += 1
    return sources, opens, closes

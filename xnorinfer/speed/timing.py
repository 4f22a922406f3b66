"""Times of several calls, taken in turns: what slows the machine for a while slows all of them.

Reported are medians and quartiles over the rounds, and percentiles of single calls.  A timing whose rounds lie far apart
(`UNSTABLE_SPREAD`) is unstable: a ratio of it would be chance.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Call: TypeAlias = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)

#: A measurement repeats its call until it lasts this long, so that the clock and the interpreter do not matter.
SHORTEST_SECONDS = 4e-3

#: With several threads, idle ones of a library (OpenBLAS) spin for about 0.1 s after a call and take the cores from whoever is
#: measured next.
SETTLE_SECONDS = 0.15
#: One call's weights push those of the others out of the caches; each is measured with its own back in.
REFILL_SECONDS = 0.005

#: Rounds (one measurement of every call), within the time that they may take.
FEWEST_ROUNDS, MOST_ROUNDS = 5, 41

#: A timing is unstable where half the distance of its quartiles is more than this share of its median.
UNSTABLE_SPREAD = 0.25


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles over the rounds, each the mean of its calls; p50 and p99 over all single calls
    (of fewer than some hundred calls, p99 is close to the slowest).  least: of the rounds."""

    median: float
    low: float
    high: float
    p50: float
    p99: float
    least: float
    rounds: int
    calls: int

    @classmethod
    def of(cls, rounds: Sequence[NDArray[np.float64]]) -> Timing:
        """rounds: the seconds of every call, for each round."""
        least, low, median, high = np.percentile([calls.mean() for calls in rounds], [0, 25, 50, 75]).tolist()
        single = np.concatenate(rounds)
        p50, p99 = np.percentile(single, [50, 99]).tolist()
        return cls(median, low, high, p50, p99, least, len(rounds), len(single))

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median

    @property
    def unstable(self) -> bool:
        """Whether the rounds lie so far apart that a ratio would be chance."""
        return self.spread > UNSTABLE_SPREAD


def in_turns(
    calls: Mapping[Key, Call],
    seconds: float,
    *,
    settle: float = REFILL_SECONDS,
    around: Mapping[Key, Callable[[], AbstractContextManager[object]]] | None = None,
) -> dict[Key, Timing]:
    """The time of each call, in rounds for about so many seconds.

    settle: seconds of unmeasured calls before each measurement, until what whoever ran before left behind (spinning threads,
    foreign caches) is gone.  around: what holds while a call runs.
    """
    contexts = around or {}
    repeats: dict[Key, int] = {}
    for key, call in calls.items():
        with contexts.get(key, contextlib.nullcontext)():
            call()
            repeats[key] = max(1, int(SHORTEST_SECONDS / max(_timed(call, 1)[0], 1e-7)))
    taken: dict[Key, list[NDArray[np.float64]]] = {key: [] for key in calls}
    begin = time.perf_counter()
    rounds = 0
    while rounds < FEWEST_ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - begin < seconds):
        for key, call in calls.items():
            with contexts.get(key, contextlib.nullcontext)():
                start = time.perf_counter()
                while time.perf_counter() - start < settle:
                    call()
                taken[key].append(_timed(call, repeats[key]))
        rounds += 1
    return {key: Timing.of(found) for key, found in taken.items()}


def _timed(call: Callable[[], object], times: int) -> NDArray[np.float64]:
    """Seconds of so many calls, (times,); looking at the clock, some 50 ns a call, is in."""
    stamps = [time.perf_counter()]
    for _ in range(times):
        call()
        stamps.append(time.perf_counter())
    return np.diff(stamps)

"""Times of several calls, taken in turns: what slows the machine for a while slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

#: One measurement repeats its call until it lasts this long.
SHORTEST_SECONDS = 3e-3

Call = Callable[[], object]


def interleave(
    calls: Mapping[str, Call],
    seconds: float = 1.5,
    rounds: int = 7,
    quantile: float = 0.5,
    shortest: float = SHORTEST_SECONDS,
    settle: float = 0.0,
) -> dict[str, float]:
    """Median seconds (or another quantile) of one call of each, in turns for about `seconds`, at least `rounds` rounds.

    shortest: seconds that one measurement lasts at least.  settle: seconds of unmeasured calls before each measurement: a
    library's idle threads may spin for 100 ms (OpenBLAS) and take the cores from whoever comes next.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        begin = time.perf_counter()
        call()
        repeats[name] = max(1, int(shortest / max(time.perf_counter() - begin, 1e-7)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    turns = 0
    while turns < rounds or time.perf_counter() - begin < seconds:
        for name, call in calls.items():
            start = time.perf_counter()
            while time.perf_counter() - start < settle:
                call()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            taken[name].append((time.perf_counter() - start) / repeats[name])
        turns += 1
    return {name: float(np.quantile(times, quantile)) for name, times in taken.items()}

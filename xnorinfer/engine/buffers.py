"""Where the values of a network lie while it runs: places in one run of bytes, each used again once nothing reads its value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: In place of a place: the value is the network's own, and lies where the caller wants it.
OUTSIDE = -1


class Life(NamedTuple):
    """A value of so many bytes, from the step that writes it to the last one that reads it, both included: a step reads rows
    while it writes others."""

    size: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        """Whether there is a step at which both are needed."""
        return self.first <= other.last and other.first <= self.last


def places_for(lives: Sequence[Life]) -> tuple[list[int], int]:
    """Where each value begins, and the bytes of all.

    The largest first, each in the smallest gap between those that it meets that holds it, else behind them.
    """
    places = [0] * len(lives)
    placed: list[int] = []
    for index in sorted(range(len(lives)), key=lambda one: (-lives[one].size, one)):
        taken = sorted((places[other], lives[other].size) for other in placed if lives[index].meets(lives[other]))
        end, best = 0, None
        for begin, size in taken:
            gap = begin - end
            if gap >= lives[index].size and (best is None or gap < best[0]):
                best = gap, end
            end = max(end, begin + size)
        places[index] = end if best is None else best[1]
        placed.append(index)
    return places, max((place + life.size for place, life in zip(places, lives, strict=True)), default=0)


def most_alive(lives: Sequence[Life]) -> int:
    """The bytes that no places can do without: of the values that one step needs, where they are most."""
    steps = {life.first for life in lives}
    return max((sum(life.size for life in lives if life.first <= step <= life.last) for step in steps), default=0)

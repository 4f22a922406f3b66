"""A network that branches as lanes beside its list of nodes: each value keeps a lane from the node that gives it to the last
one that reads it, so that no line crosses a node.

    ●    stem
    ├─●  sign
    ●─╯  conv      reads the signs and what the stem gives

A line that passes a lane by leaves it whole (`├─│─●`); one that meets it is drawn into it (`├─┼─●`, `┴` where the lane ends).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xnorinfer.graph import INPUT


@dataclass(frozen=True)
class Row:
    """A node among lanes, which are numbered from the left.

    lane: its own.  joins: the lanes of what it reads, but for one that it goes on in, and whether they end here.
    past: lanes of values that others read later.  below: the lanes behind it.
    """

    lane: int
    joins: dict[int, bool]
    past: frozenset[int]
    below: frozenset[int]

    @property
    def width(self) -> int:
        """How many lanes there are to draw."""
        return max(self.lane, *self.joins, *self.past, *self.below, -1) + 1

    def text(self, width: int = 0) -> str:
        """The line of the node, of two characters a lane but for the last; width: of at least so many lanes."""
        lanes = range(max(width, self.width))
        left, right = min(self.lane, *self.joins, self.lane), max(self.lane, *self.joins, self.lane)
        return "".join(self._at(lane, left, right) + ("─" if left <= lane < right else " ") for lane in lanes)[:-1]

    def _at(self, lane: int, left: int, right: int) -> str:
        if lane == self.lane:
            return "●"
        if lane not in self.joins:
            return "│" if lane in self.past else "─" if left < lane < right else " "
        end, ends = "left" if lane == left else "right" if lane == right else "", self.joins[lane]
        return {"left": "├╰", "right": "┤╯", "": "┼┴"}[end][ends]

    def after(self) -> str:
        """The lanes between this line and the next node's."""
        return " ".join("│" if lane in self.below else " " for lane in range(self.width))


def lanes_of(reads: Sequence[Sequence[int]]) -> list[Row]:
    """The row of every node; reads: the numbers of the nodes that each reads, earlier ones or `INPUT`."""
    last = {read: index for index, numbers in enumerate(reads) for read in numbers}
    lanes: list[int | None] = [INPUT]
    return list(_rows(reads, last, lanes))


def _rows(reads: Sequence[Sequence[int]], last: dict[int, int], lanes: list[int | None]) -> Iterator[Row]:
    for index, numbers in enumerate(reads):
        where = {lane: value for lane, value in enumerate(lanes) if value is not None}
        joins = {lane: last[value] == index for lane, value in where.items() if value in numbers}
        past = frozenset(where.keys() - joins.keys())
        ending = [lane for lane, ends in joins.items() if ends]
        if ending:
            lane = min(ending)
            del joins[lane]
        else:
            free = [lane for lane, value in enumerate(lanes) if value is None and lane > max(joins, default=-1)]
            lane = free[0] if free else len(lanes)
            lanes += [None] * (lane + 1 - len(lanes))
        for ended in ending:
            lanes[ended] = None
        lanes[lane] = index if index in last else None
        yield Row(lane, joins, past, frozenset(at for at, value in enumerate(lanes) if value is not None))

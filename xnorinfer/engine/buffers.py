"""Where the values between the nodes of a network lie while it runs: in slots, each used again once nothing reads its value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xnorinfer.graph import Node, users_of

#: In the place of a slot: the value is the network's own, and lies where the caller wants it.
OUTSIDE = -1


@dataclass(frozen=True)
class Slots:
    """taken: the slot of every node's value, `OUTSIDE` for the last one's.  sizes: of every slot."""

    taken: tuple[int, ...]
    sizes: tuple[int, ...]


def slots_for(nodes: Sequence[Node[Any]], sizes: Sequence[int]) -> Slots:
    """Slots for the values of nodes that run one after the other, in order.

    sizes: of the nodes' values.  A node's slot is none of those of its inputs, and none of values that later nodes read; of the
    others, the one that fits best.  A chain passes its values through two.
    """
    users = users_of(nodes)
    taken: list[int] = []
    room: list[int] = []
    free: set[int] = set()
    for index, size in enumerate(sizes[:-1]):
        # The least to add, then the least to waste.
        slot = min(free, key=lambda one: (max(0, size - room[one]), room[one]), default=len(room))
        if slot == len(room):
            room.append(0)
        room[slot] = max(room[slot], size)
        free.discard(slot)
        taken.append(slot)
        free |= {taken[value] for value in range(index + 1) if max(users[value], default=value) == index}
    return Slots((*taken, OUTSIDE), tuple(room))

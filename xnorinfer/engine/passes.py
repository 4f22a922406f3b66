"""What is computed in one pass: a node, and what follows of its numbers while a group of them is at hand.

The steps of the node that reads them, and of the one that reads those, cost next to nothing there, nor do the bits of signs; a
shortcut is added, and a product taken, with numbers that another pass has written.  Numbers are written only where another pass
reads them.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from xnorinfer.engine.buffers import Life
from xnorinfer.graph import INPUT, Node, users_of
from xnorinfer.kernels import Kernel
from xnorinfer.packing.packed import (
    Affine,
    Binarize,
    Dot,
    Elementwise,
    Multiply,
    PackedModel,
    PackedOp,
    Pool,
    Value,
)
from xnorinfer.packing.packedops import MOST_JOINED


@dataclass(frozen=True)
class Pass:
    """A row of the table.

    nodes: the numbers of those that are computed, each from the one before.  signs: those of the `Binarize` whose bits it
    gives, too.  kept: of which nodes the values are written.
    """

    nodes: tuple[int, ...]
    signs: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()

    @property
    def node(self) -> int:
        """The first."""
        return self.nodes[0]

    @property
    def target(self) -> int | None:
        """The node whose value goes where the row says: the last that is written."""
        return self.kept[-1] if self.kept else None

    @property
    def gives(self) -> tuple[int, ...]:
        """The nodes whose values it writes."""
        return self.kept + self.signs

    def takes(self, packed: PackedModel) -> list[int]:
        """The values that it reads, first that of its source."""
        found = list(packed.nodes[self.node].inputs)
        for before, node in pairwise(self.nodes):
            found += beside(packed.nodes[node], before)
        return found


def apart(packed: PackedModel) -> list[Pass]:
    """Every node by itself."""
    return [Pass((index,), (), (index,)) for index in range(len(packed.nodes))]


def together(packed: PackedModel, kernel: Kernel) -> list[Pass]:
    """As few passes as there can be, in an order in which each finds what it reads."""
    return _Groups(packed, kernel).passes()


def beside(node: Node[PackedOp], read: int) -> list[int]:
    """What a node reads beside a value."""
    first = node.inputs.index(read)
    return [*node.inputs[:first], *node.inputs[first + 1 :]]


class _Groups:
    """What goes together, found node by node.  owner: of each node the first of its group."""

    def __init__(self, packed: PackedModel, kernel: Kernel) -> None:
        self.packed, self.kernel = packed, kernel
        self.nodes, self.values, self.users = packed.nodes, packed.values, users_of(packed.nodes)
        self.owner: dict[int, int] = {}
        self.members: dict[int, list[int]] = {}
        self.signs: dict[int, list[int]] = {}
        for index, node in enumerate(self.nodes):
            first = self.found(index, node)
            self.owner[index] = first
            if isinstance(node.op, Binarize) and first != index:
                self.signs[first].append(index)
            else:
                self.members.setdefault(first, []).append(index)
                self.signs.setdefault(first, [])

    def found(self, index: int, node: Node[PackedOp]) -> int:
        """The first of the group of a node, itself if it begins one."""
        for read in sorted(set(node.inputs), reverse=True):
            first = self.owner.get(read, INPUT)
            if first == INPUT or not self.in_rows(first) or self.is_full(first):
                continue
            if isinstance(node.op, Binarize):
                if read in self.members[first]:
                    return first
            elif self.members[first][-1] == read and self.goes_on(node, index, read):
                others = beside(node, read)
                if not any(self.depends(other, first) for other in others):
                    return first
        return index

    def in_rows(self, index: int) -> bool:
        return gives_rows(self.packed, index, self.kernel)

    def is_full(self, first: int) -> bool:
        """Whether a group has no room for more that is read or written."""
        return 2 * len(self.members[first]) + len(self.signs[first]) >= MOST_JOINED - 2

    def goes_on(self, node: Node[PackedOp], index: int, read: int) -> bool:
        """Whether a node computes each number of a value by itself, and may do so from there on."""
        op = node.op
        if self.values[read].shape != self.values[index].shape or node.inputs.count(read) != 1:
            return False
        if isinstance(op, Elementwise):
            return read == node.inputs[0] or op.steps.ops[:1] == ("side",)
        return isinstance(op, Multiply)

    def depends(self, on: int, first: int) -> bool:
        """Whether a value cannot be computed before a group."""
        left, seen = [on], set()
        while left:
            at = left.pop()
            if at == INPUT:
                continue
            group = self.owner[at]
            if group == first:
                return True
            if group not in seen:
                seen.add(group)
                left += [read for member in self.members[group] for read in self.nodes[member].inputs]
        return False

    def passes(self) -> list[Pass]:
        """Each as soon as it can be, those of earlier nodes first."""
        last = len(self.nodes) - 1
        made: dict[int, Pass] = {}
        for first, members in self.members.items():
            own = {*members, *self.signs[first]}
            follows = dict(pairwise(members))
            kept = [
                member
                for member in members
                if member == last
                or any(user not in own or (user in members and follows.get(member) != user) for user in self.users[member])
            ]
            made[first] = Pass(tuple(members), tuple(self.signs[first]), tuple(kept))
        waits = {first: {self.owner[read] for read in one.takes(self.packed) if read != INPUT} for first, one in made.items()}
        after: dict[int, list[int]] = {first: [] for first in made}
        for first, needed in waits.items():
            for other in needed:
                after[other].append(first)
        ready = [first for first in made if not waits[first]]
        heapq.heapify(ready)
        found = []
        while ready:
            first = heapq.heappop(ready)
            found.append(made[first])
            for other in after[first]:
                waits[other].discard(first)
                if not waits[other]:
                    heapq.heappush(ready, other)
        return found


def gives_rows(packed: PackedModel, index: int, kernel: Kernel) -> bool:
    """Whether what a node computes are rows of numbers, in parts that fill bytes of bits."""
    op = packed.nodes[index].op
    if isinstance(op, Pool):
        return packed.values[index].kind == "reals"
    if not isinstance(op, Dot):
        return isinstance(op, Elementwise | Multiply)
    if not isinstance(op.output, Affine):
        return False
    if is_depthwise(op, packed.read_by(packed.nodes[index])):
        return True
    if op.groups > 1:
        return False
    return op.reads == "bits" if op.binary else kernel.floats(op.neurons).panel % 8 == 0


def is_depthwise(op: Dot, read: Value) -> bool:
    """Whether each channel of a map has float weights of its own."""
    return not op.binary and op.window is not None and op.groups == op.neurons == read.shape[-1] and op.groups > 1


def lives_of(
    packed: PackedModel, passes: Sequence[Pass], sizes: Sequence[int], within: Mapping[int, int] = MappingProxyType({})
) -> dict[int, Life]:
    """How long each value that passes pass on is needed, by node; not that of the last one, nor those that lie in others.

    sizes: of every node's value.  within: of the nodes whose values lie in others, whose.
    """
    steps: dict[int, list[int]] = {}
    for step, one in enumerate(passes):
        for node in (*one.gives, *one.takes(packed)):
            steps.setdefault(within.get(node, node), []).append(step)
    for own in (INPUT, len(packed.nodes) - 1):
        steps.pop(own, None)
    return {node: Life(sizes[node], min(found), max(found)) for node, found in steps.items()}

"""The same network with fewer copies: what compares, pools or steps over joined numbers does so over each part.

Signs, and steps of channels, of values side by side are the signs and steps of the values, side by side.  So a layer of a
DenseNet gives the bits that all later layers read of it while its numbers are at hand (`passes`), into their places (`joins`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from xnorinfer.engine.passes import gives_rows
from xnorinfer.graph import INPUT, Node, users_of
from xnorinfer.kernels import Kernel
from xnorinfer.packing.packed import Affine, Binarize, Concat, Dot, Elementwise, PackedModel, PackedOp, Pool, Threshold
from xnorinfer.packing.packedops import MOST_JOINED

#: Nodes that stand for one of a network at most, on average: plans take longer than the nodes are many.
MOST_NODES = 8


def by_sums(packed: PackedModel) -> PackedModel:
    """The same network whose float layers over maps give sums, and other nodes their signs: those are taken beside the sums."""
    nodes: list[Node[PackedOp]] = []
    now: dict[int, int] = {INPUT: INPUT}
    for index, node in enumerate(packed.nodes):
        op, inputs = node.op, tuple(now[read] for read in node.inputs)
        if isinstance(op, Dot) and not op.binary and isinstance(op.output, Threshold) and op.window is not None:
            sums = Affine((), np.zeros((0, 2, op.neurons), np.float32))
            nodes.append(Node(node.name, replace(op, output=sums), inputs))
            op, inputs = Binarize(op.output.limits, np.zeros(op.neurons, np.bool_)), (len(nodes) - 1,)
        nodes.append(replace(node, op=op, inputs=inputs))
        now[index] = len(nodes) - 1
    return packed if len(nodes) == len(packed.nodes) else replace(packed, nodes=tuple(nodes))


def by_parts(packed: PackedModel, kernel: Kernel) -> PackedModel:
    """The same scores, bit for bit, of other nodes; the same object where there is nothing to gain."""
    most = MOST_NODES * len(packed.nodes)
    # What nothing reads any more may leave a joined map to one reader: a second time is enough for what networks have.
    for _ in range(2):
        parts = _Parts(packed, kernel, most)
        if not parts.found:
            break
        packed = replace(packed, nodes=_read_ones(parts.in_order()))
    return packed


class _Parts:
    """A network in whose place nodes on the parts of joined values stand, each right behind its part, while that is in the
    caches, and what joins them in the place of the node; found node by node, so that what reads such a node is, too.

    most: nodes at most, behind which nodes stay as they are.  found: whether there is another node.
    """

    def __init__(self, packed: PackedModel, kernel: Kernel, most: int) -> None:
        self.packed, self.users = packed, users_of(packed.nodes)
        self.found = False
        #: Not in order: `behind` says which follow each, and `places` of each node of the network what stands for it.
        self.nodes: list[Node[PackedOp]] = []
        self.behind: dict[int, list[int]] = {}
        self.places: list[int] = []
        #: Of each node its channels, and whether it gives rows.
        self.channels: list[int] = []
        self.rows: list[bool] = []
        for index, node in enumerate(packed.nodes):
            parts = self.parts(index) if len(self.nodes) < most else []
            inputs = tuple(read if read == INPUT else self.places[read] for read in node.inputs)
            op = node.op
            if parts:
                self.found = True
                inputs, op = tuple(self.split(node, parts)), Concat()
            self.places.append(self.add(Node(node.name, op, inputs), packed.values[index].shape[-1]))
            self.rows[-1] = not parts and gives_rows(packed, index, kernel)

    def add(self, node: Node[PackedOp], channels: int) -> int:
        self.nodes.append(node)
        self.channels.append(channels)
        self.rows.append(not isinstance(node.op, Binarize))
        return len(self.nodes) - 1

    def split(self, node: Node[PackedOp], parts: list[int]) -> Iterator[int]:
        at = 0
        for part in parts:
            channels = self.channels[part]
            own = self.add(Node(node.name, _of_channels(node.op, at, at + channels), (part,)), channels)
            self.behind.setdefault(part, []).append(own)
            at += channels
            yield own

    def parts(self, index: int) -> list[int]:
        """The values that a node compares, pools or steps over, side by side; none where it takes all of them at once."""
        packed, node, gives = self.packed, self.packed.nodes[index], self.packed.values[index]
        if index == len(packed.nodes) - 1 or len(node.inputs) > 1 or not isinstance(node.op, Binarize | Elementwise | Pool):
            return []
        read = node.inputs[0]
        found = self.joined(read if read == INPUT else self.places[read])
        if not 1 < len(found) <= MOST_JOINED or not all(part != INPUT and self.rows[part] for part in found):
            return []
        if isinstance(node.op, Binarize):
            # Parts of whole bytes are written in place.
            return found if all(self.channels[part] % 8 == 0 for part in found[:-1]) else []
        if isinstance(node.op, Pool) and math.prod(gives.shape[:-1]) == 1:
            return []
        return found if all(isinstance(packed.nodes[user].op, Binarize) or user == index for user in self.users[read]) else []

    def joined(self, at: int) -> list[int]:
        """The values that a value is made of, side by side; more than can be joined are of no use."""
        found: list[int] = []
        left = [at]
        while left and len(found) <= MOST_JOINED:
            one = left.pop()
            op = None if one == INPUT else self.nodes[one].op
            if isinstance(op, Concat) and not op.flat:
                left += reversed(self.nodes[one].inputs)
            else:
                found.append(one)
        return found

    def in_order(self) -> list[Node[PackedOp]]:
        """All nodes, each behind what it reads."""
        order: list[int] = []
        for place in self.places:
            left = [place]
            while left:
                order.append(left.pop())
                left += reversed(self.behind.get(order[-1], []))
        now = {INPUT: INPUT} | {index: at for at, index in enumerate(order)}
        return [replace(self.nodes[index], inputs=tuple(now[read] for read in self.nodes[index].inputs)) for index in order]


def _of_channels(op: PackedOp, first: int, last: int) -> PackedOp:
    if isinstance(op, Binarize):
        return Binarize(op.limits[first:last], op.mirrored[first:last])
    if isinstance(op, Pool):
        return replace(op, falling=None if op.falling is None else op.falling[first:last])
    assert isinstance(op, Elementwise)
    return Elementwise(Affine(op.steps.ops, np.ascontiguousarray(op.steps.values[:, :, first:last])))


def _read_ones(nodes: list[Node[PackedOp]]) -> tuple[Node[PackedOp], ...]:
    """The nodes that the last one needs."""
    needed = {len(nodes) - 1}
    for index in reversed(range(len(nodes))):
        if index in needed:
            needed.update(nodes[index].inputs)
    now = {INPUT: INPUT} | {index: place for place, index in enumerate(sorted(needed - {INPUT}))}
    return tuple(
        replace(nodes[index], inputs=tuple(now[read] for read in nodes[index].inputs)) for index in sorted(needed - {INPUT})
    )

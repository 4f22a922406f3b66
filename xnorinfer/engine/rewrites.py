"""The same network with fewer copies: what compares, pools or steps over joined numbers does so over each part.

Signs, and steps of channels, of values side by side are the signs and steps of the values, side by side.  So a layer of a
DenseNet gives the bits that all later layers read of it while its numbers are at hand (`passes`), into their places (`joins`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from xnorinfer.engine.passes import gives_rows
from xnorinfer.graph import INPUT, Node, users_of
from xnorinfer.kernels import Kernel
from xnorinfer.packing.packed import Affine, Binarize, Concat, Dot, Elementwise, PackedModel, PackedOp, Pool, Threshold
from xnorinfer.packing.packedops import MOST_JOINED


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
    while True:
        found = [_parts(packed, index, kernel) for index in range(len(packed.nodes))]
        if not any(found) and all(users_of(packed.nodes)[:-1]):
            return packed
        packed = replace(packed, nodes=_read_ones(_of_parts(packed, found)))


def _of_parts(packed: PackedModel, found: list[list[int]]) -> list[Node[PackedOp]]:
    """Nodes on each part right behind it, while it is in the caches, and what joins them in the place of the node.  found: of
    each node the parts."""
    behind: dict[int, list[tuple[int, int, PackedOp]]] = {}
    for index, (node, parts) in enumerate(zip(packed.nodes, found, strict=True)):
        at = 0
        for number, part in enumerate(parts):
            channels = packed.values[part].shape[-1]
            behind.setdefault(part, []).append((index, number, _of_channels(node.op, at, at + channels)))
            at += channels
    nodes: list[Node[PackedOp]] = []
    now: dict[int, int] = {INPUT: INPUT}
    joined: dict[tuple[int, int], int] = {}
    for index, (node, parts) in enumerate(zip(packed.nodes, found, strict=True)):
        if parts:
            inputs = tuple(joined[index, number] for number in range(len(parts)))
            nodes.append(Node(node.name, Concat(), inputs))
        else:
            nodes.append(replace(node, inputs=tuple(now[read] for read in node.inputs)))
        now[index] = len(nodes) - 1
        for reader, number, op in behind.get(index, []):
            nodes.append(Node(packed.nodes[reader].name, op, (now[index],)))
            joined[reader, number] = len(nodes) - 1
    return nodes


def _parts(packed: PackedModel, index: int, kernel: Kernel) -> list[int]:
    """The values that a node compares, pools or steps over, side by side; none where it takes all of them at once."""
    node, gives = packed.nodes[index], packed.values[index]
    if index == len(packed.nodes) - 1 or len(node.inputs) > 1 or not isinstance(node.op, Binarize | Elementwise | Pool):
        return []
    found = _joined(packed, node.inputs[0])
    if not 1 < len(found) <= MOST_JOINED or not all(part != INPUT and gives_rows(packed, part, kernel) for part in found):
        return []
    if isinstance(node.op, Binarize):
        # Parts of whole bytes are written in place.
        return found if all(packed.values[part].shape[-1] % 8 == 0 for part in found[:-1]) else []
    if isinstance(node.op, Pool) and math.prod(gives.shape[:-1]) == 1:
        return []
    readers = users_of(packed.nodes)[node.inputs[0]]
    return found if all(isinstance(packed.nodes[reader].op, Binarize) or reader == index for reader in readers) else []


def _joined(packed: PackedModel, at: int) -> list[int]:
    """The values that a value is made of, side by side."""
    op = None if at == INPUT else packed.nodes[at].op
    if not isinstance(op, Concat) or op.flat:
        return [at]
    return [part for read in packed.nodes[at].inputs for part in _joined(packed, read)]


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

"""Values that are written where they are joined: into their channels' place of the pixels of a larger map.

What makes a map of numbers by float32 steps can leave gaps from pixel to pixel, and comparisons and steps can read such a map.
So where nothing but those and one concatenation reads a value, it needs no place of its own and is never copied; a joined map
may be part of another one in turn, as all of a stage of a DenseNet are of its last.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xnorinfer.engine.layerrows import Made
from xnorinfer.graph import INPUT, Node, users_of
from xnorinfer.kernels import fields, layout
from xnorinfer.kernels.prepack import Row
from xnorinfer.packing.packed import Affine, Binarize, Concat, Dot, Elementwise, PackedModel, PackedOp, Value


class Home(NamedTuple):
    """Where a value lies: in the pixels of the value of a node, from byte `at` of each on, of `step` bytes."""

    node: int
    at: int
    step: int


def homes_of(packed: PackedModel, kept: set[int]) -> dict[int, Home]:
    """Of the values that lie in others.  kept: the nodes whose values are written."""
    values, users = packed.values, users_of(packed.nodes)
    parents: dict[int, tuple[int, int]] = {}
    for index, node in enumerate(packed.nodes[:-1]):
        if not isinstance(node.op, Concat) or node.op.flat or not _is_map(values[index]):
            continue
        at = 0
        for read in node.inputs:
            alone = node.inputs.count(read) == 1 and read in kept and read not in parents
            if (
                alone
                and _writes(packed.nodes[read])
                and all(user == index or _reads(packed.nodes[user], read) for user in users[read])
            ):
                parents[read] = index, at
            at += 4 * (values[read] if read != INPUT else packed.entry).shape[-1]
    found = {}
    for read, (index, at) in parents.items():
        while index in parents:
            index, more = parents[index]
            at += more
        found[read] = Home(index, at, 4 * values[index].shape[-1])
    return found


def _is_map(value: Value) -> bool:
    return value.kind == "reals" and len(value.shape) == 3 and value.shape[0] * value.shape[1] > 1


def _writes(node: Node[PackedOp]) -> bool:
    """Whether it can leave gaps from pixel to pixel."""
    op = node.op
    if isinstance(op, Dot):
        return isinstance(op.output, Affine) and op.groups == 1 and (not op.binary or op.reads == "bits")
    return isinstance(op, Elementwise) or (isinstance(op, Concat) and not op.flat)


def _reads(node: Node[PackedOp], read: int) -> bool:
    """Whether it can pass over gaps."""
    return isinstance(node.op, Binarize | Elementwise) and node.inputs[0] == read and read not in node.inputs[1:]


def is_done(node: Node[PackedOp], homes: dict[int, Home]) -> bool:
    """Whether all that a node joins is in its place."""
    return isinstance(node.op, Concat) and all(read in homes for read in node.inputs)


def placed(made: Made, packed: PackedModel, index: int, homes: dict[int, Home]) -> Made:
    """The rows of a node, for where it writes and for where its source lies."""
    outer, inner = made
    node, value = packed.nodes[index], packed.values[index]
    pixels = value.shape[0] * value.shape[1] if len(value.shape) == 3 else 1
    own: Row = {}
    of_inner: Row = {}
    if index in homes:
        step = homes[index].step
        own = {fields.OUT_BYTES: pixels * step, fields.LEVEL_BYTES: pixels * step, fields.STEP_BYTES: step}
        own[fields.SIDE_STEP] = of_inner[fields.SIDE_STEP] = 4 * value.shape[-1]
        of_inner |= {fields.OUT_BYTES: step, fields.STEP_BYTES: step}
    if isinstance(node.op, Concat):
        segments = np.asarray(outer[fields.SEGMENTS_AT]).reshape(-1, fields.SEGMENT_FIELDS)
        left = np.array([node.inputs[one] not in homes for one in segments[:, fields.FROM]])
        own |= {fields.SEGMENTS: int(left.sum()), fields.SEGMENTS_AT: layout.kept(segments[left])}
        if index in homes:
            own[fields.PIXEL_BYTES] = homes[index].step
    elif node.inputs[0] in homes:
        step = homes[node.inputs[0]].step
        own |= {fields.PIXEL_BYTES: step, fields.IN_BYTES: pixels * step}
        of_inner[fields.IN_BYTES] = step
    return outer | own, [row | of_inner for row in inner]

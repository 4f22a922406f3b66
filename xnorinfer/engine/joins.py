"""Values that are written where they are joined: into their channels' place of the pixels of a larger map.

What gives rows of numbers can leave gaps from pixel to pixel, and what takes rows, and pools, can read such a map.  So where
nothing but those and one concatenation reads a value, it needs no place of its own and is never copied; a joined map may be
part of another one in turn.  The bits of signs are written so, too, where all that are joined are, in bytes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xnorinfer.engine.layerrows import Made
from xnorinfer.engine.passes import Pass, gives_rows
from xnorinfer.graph import INPUT, users_of
from xnorinfer.kernels import Kernel, fields, layout
from xnorinfer.kernels.prepack import Row
from xnorinfer.packing.packed import Binarize, Concat, Elementwise, Multiply, PackedModel, Pool, Value


class Home(NamedTuple):
    """Where a value lies: in the pixels of the value of a node, from byte `at` of each on, of `step` bytes."""

    node: int
    at: int
    step: int


def pixels_of(value: Value) -> int:
    """Of a map; a vector is one."""
    return math.prod(value.shape[:-1])


def homes_of(packed: PackedModel, passes: Sequence[Pass], kernel: Kernel) -> dict[int, Home]:
    """Of the values that lie in others."""
    values, users = packed.values, users_of(packed.nodes)
    of = {node: one for one in passes for node in (*one.nodes, *one.signs)}
    rows = {one.node for one in passes if gives_rows(packed, one.node, kernel)}

    def writes(read: int) -> bool:
        """Whether a value can have gaps from pixel to pixel."""
        op, one = packed.nodes[read].op, of[read]
        return (read in one.kept and one.node in rows) or (isinstance(op, Concat) and not op.flat)

    def reads(user: int, read: int) -> bool:
        """Whether a node can pass over them: pixel by pixel of the same map, or as a pool."""
        one, pool = of[user], isinstance(packed.nodes[user].op, Pool)
        takes = one.node in rows or isinstance(packed.nodes[user].op, Binarize)
        takes = takes and (pool or values[user].shape == values[read].shape)
        source = packed.nodes[one.node].inputs[0]
        return of[read] is one or (takes and (source != read or isinstance(packed.nodes[one.node].op, _PASS_OVER)))

    parents: dict[int, tuple[int, int]] = {}
    for index, node in enumerate(packed.nodes[:-1]):
        if not isinstance(node.op, Concat) or node.op.flat:
            continue
        if values[index].kind == "bits":
            parents |= _bits(packed, index, of, users)
        if values[index].kind != "reals" or pixels_of(values[index]) == 1:
            continue
        at = 0
        for read in node.inputs:
            alone = node.inputs.count(read) == 1 and read != INPUT and read not in parents
            if alone and writes(read) and all(user == index or reads(user, read) for user in users[read]):
                parents[read] = index, at
            at += 4 * (values[read] if read != INPUT else packed.entry).shape[-1]
    found = {}
    for read, (index, at) in parents.items():
        while index in parents:
            index, more = parents[index]
            at += more
        found[read] = Home(index, at, values[index].nbytes // pixels_of(values[index]))
    return found


def _bits(
    packed: PackedModel, index: int, of: Mapping[int, Pass], users: Sequence[Sequence[int]]
) -> dict[int, tuple[int, int]]:
    """The parts of joined bits and from which byte on they lie, if each fills bytes, is of a sign in a pass of numbers, and is
    read by nothing else."""
    found: dict[int, tuple[int, int]] = {}
    place = 0
    for read in packed.nodes[index].inputs:
        if place % 8 or read == INPUT or read not in of[read].signs or list(users[read]) != [index]:
            return {}
        found[read] = index, place // 8
        place += packed.values[read].shape[-1]
    return found


#: What can read a source with gaps.
_PASS_OVER = (Binarize, Elementwise, Multiply, Pool)


def is_done(packed: PackedModel, one: Pass, homes: Mapping[int, Home]) -> bool:
    """Whether all that a node joins is in its place."""
    node = packed.nodes[one.node]
    return isinstance(node.op, Concat) and all(read in homes for read in node.inputs)


def placed(made: Made, packed: PackedModel, one: Pass, homes: Mapping[int, Home]) -> Made:
    """The rows of a pass, for where it writes its target and for where its source lies."""
    outer, inner = made
    node, source = packed.nodes[one.node], packed.nodes[one.node].inputs[0]
    own: Row = {}
    of_inner: Row = {}
    if one.target is not None and one.target in homes:
        step, pixels = homes[one.target].step, pixels_of(packed.values[one.node])
        own = {fields.OUT_BYTES: pixels * step, fields.LEVEL_BYTES: pixels * step, fields.STEP_BYTES: step}
        of_inner = {fields.OUT_BYTES: step, fields.STEP_BYTES: step}
    if isinstance(node.op, Concat):
        segments = np.asarray(outer[fields.SEGMENTS_AT]).reshape(-1, fields.SEGMENT_FIELDS)
        left = np.array([node.inputs[segment] not in homes for segment in segments[:, fields.FROM]])
        own |= {fields.SEGMENTS: int(left.sum()), fields.SEGMENTS_AT: layout.kept(segments[left])}
        if one.node in homes:
            own[fields.PIXEL_BYTES] = homes[one.node].step
    elif source in homes:
        step, pixels = homes[source].step, pixels_of(packed.values[source])
        own |= {fields.PIXEL_BYTES: step, fields.IN_BYTES: pixels * step}
        of_inner[fields.IN_BYTES] = step
    return outer | own, [row | of_inner for row in inner]

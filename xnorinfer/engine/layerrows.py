"""What every node of a packed network is to the kernels: its row of the layer table, over a map with those of its strips."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitpack, words_for
from xnorinfer.errors import unhandled
from xnorinfer.graph import Interpretation, users_of
from xnorinfer.kernels import Kernel, fields, map_prepack, prepack
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.packed import (
    PACKED_OPS,
    STEP_NAMES,
    Affine,
    Binarize,
    Concat,
    Digitize,
    Dot,
    Elementwise,
    Grades,
    Mapped,
    Moved,
    Multiply,
    Outside,
    PackedModel,
    PackedOp,
    Pool,
    Value,
    outside_of,
)
from xnorinfer.packing.packedops import MOST_TOP, joined_value, moved_value

#: A row, and those of the strips of a map that it is made of.
Made: TypeAlias = tuple[prepack.Row, list[prepack.Row]]

#: Op -> its rows: (..., kernel, mapping of the input, what it reads, whether that is the network's own input, what else it
#: reads).
rows_of: Interpretation[..., Made] = Interpretation("Plan", PACKED_OPS)


def laid_out(packed: PackedModel) -> tuple[Value, ...]:
    """What every node gives as a run passes it on: of pixels more than 16 levels as bytes, where layers alone read them."""
    found = list(packed.values)
    for index, users in enumerate(users_of(packed.nodes)):
        made = isinstance(packed.nodes[index].op, Digitize) and all(isinstance(packed.nodes[at].op, Dot) for at in users)
        if made and found[index].top > MOST_TOP:
            found[index] = Value("pixels", found[index].shape)
    return tuple(found)


def in_bytes(op: PackedOp, kernel: Kernel, read: Value) -> Made:
    """The rows of what makes codes of pixels, as bytes."""
    assert isinstance(op, Digitize)
    codes = op.codes(np.arange(256, dtype=np.uint8)[:, None])
    return map_prepack.coded_bytes(kernel, _size(read.shape), read.shape[-1], codes), []


#: Bytes of a number as nodes pass it on, and as it enters the network; bits that nodes pass on are words.
_BYTES = {"pixels": 1, "reals": 4}


def pixel_bytes(value: Value, raw: bool) -> int:
    """Bytes of a pixel of a map, or of a vector, of levels of one plane.  raw: of the network's own input, whose signs are
    bytes."""
    count = value.shape[-1]
    if value.kind in ("bits", "levels") and not raw:
        return 8 * words_for(count)
    return count * _BYTES.get(value.kind, 1)


def _geometry(window: Window, read: Value) -> map_prepack.Geometry:
    height, width, _ = read.shape
    top, _, left, _ = window.padding
    outputs = window.outputs(height, width)
    return map_prepack.Geometry((height, width), outputs, window.size, window.stride, window.dilation, (top, left))


def _each_pixel(row: prepack.Row, kernel: Kernel, read: Value, raw: bool, in_bits: bool = False, planes: int = 1) -> Made:
    """A row for a pixel, or for a vector as it is."""
    if len(read.shape) == 1:
        return row, []
    height, width, _ = read.shape
    size = height, width
    return map_prepack.strips(kernel, [row], map_prepack.Geometry(size, size), pixel_bytes(read, raw), in_bits, planes=planes)


@rows_of.of(Binarize)
def _(op: Binarize, kernel: Kernel, mapping: InputMapping, read: Value, raw: bool) -> Made:
    return _each_pixel(prepack.binarized(kernel, op.limits, op.mirrored), kernel, read, raw, in_bits=True)


@rows_of.of(Digitize)
def _(op: Digitize, kernel: Kernel, mapping: InputMapping, read: Value, raw: bool) -> Made:
    planes = op.top.bit_length()
    if read.kind == "pixels":
        row = prepack.digitized_bytes(kernel, op.codes(np.arange(256, dtype=np.uint8)[:, None]), planes)
    else:
        row = prepack.digitized_singles(kernel, op.limits, op.mirrored)
    return _each_pixel(row, kernel, read, raw, in_bits=True, planes=planes)


@rows_of.of(Mapped)
def _(op: Mapped, kernel: Kernel, mapping: InputMapping, read: Value, raw: bool) -> Made:
    if read.kind == "levels":
        return map_prepack.level_numbers(kernel, _size(read.shape), read.shape[-1], read.planes, op.values[:, 0]), []
    assert isinstance(mapping, PixelInput | ChannelInput)
    channels = mapping.channels if isinstance(mapping, ChannelInput) else (mapping,)
    line = np.array([(one.intercept / one.slope, one.slope / one.divisor) for one in channels]).T
    return _each_pixel(prepack.mapped(kernel, op.values, read.shape[-1], line), kernel, read, raw)


@rows_of.of(Concat)
def _(op: Concat, kernel: Kernel, mapping: InputMapping, read: Value, raw: bool, *others: Value) -> Made:
    reads = (read, *others)
    gives = joined_value(reads, flat=op.flat)
    size = gives.shape[:2] if len(gives.shape) == 3 else (1, 1)
    # Planes of levels are maps one below the other, of as many lines each.
    size = size[0] * gives.planes, size[1]
    bits = read.kind != "reals"
    width, segments, place = 1 if bits else 32, [], 0
    for which, value in enumerate(reads):
        # A vector of the pixels of a map: those of reals lie as one already.
        channels = value.shape[-1] if bits or not op.flat else value.width
        pixels = value.width // channels if op.flat else 1
        pixel = value.nbytes // (size[0] * size[1])
        for index in range(pixels):
            segments.append((which, pixel, pixel // pixels * index, channels * width, place))
            place += channels * width
    pixel_bytes = gives.nbytes // (size[0] * size[1])
    return map_prepack.joined(kernel, size, gives.shape[-1], pixel_bytes, read.nbytes, bits, segments), []


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Lines and columns of a map; a vector is one pixel."""
    return (shape[0], shape[1]) if len(shape) == 3 else (1, 1)


@rows_of.of(Multiply)
def _(op: Multiply, kernel: Kernel, mapping: InputMapping, read: Value, raw: bool, other: Value) -> Made:
    channels = read.shape[-1]
    beside = prepack.Beside(0, 4 * channels, 0 if other.width == read.width else read.width // channels)
    row = prepack.elementwise(kernel, channels) | _written(kernel, product_turns(channels, beside))
    return _each_pixel(row, kernel, read, raw)


@rows_of.of(Moved)
def _(op: Moved, kernel: Kernel, mapping: InputMapping, read: Value, raw: bool) -> Made:
    gives = moved_value(read, op.channels, op.padding)
    geometry = map_prepack.Geometry(_size(read.shape), _size(gives.shape), padding=(op.padding[0], op.padding[2]))
    count = len(op.channels)
    outside = np.full((1, count), op.value, np.float32)
    if read.kind == "levels":
        outside = np.array([np.full(count, int(op.value) >> plane & 1) for plane in range(read.planes)])
    filled = outside if read.kind == "reals" else bitpack(np.where(outside > 0, 1, -1))
    order = None if np.array_equal(op.channels, np.arange(read.shape[-1])) else op.channels
    sizes = pixel_bytes(read, raw), pixel_bytes(gives, False)
    return map_prepack.moved(kernel, geometry, count, sizes, filled, order), []


@rows_of.of(Elementwise)
def _(op: Elementwise, kernel: Kernel, mapping: InputMapping, read: Value, raw: bool, *side: Value) -> Made:
    row = prepack.elementwise(kernel, read.shape[-1]) | _steps(kernel, op.steps)
    return _each_pixel(row, kernel, read, raw)


@rows_of.of(Pool)
def _(op: Pool, kernel: Kernel, mapping: InputMapping, read: Value, raw: bool) -> Made:
    if raw and read.kind == "bits":
        raise unhandled("Plan", op)
    geometry, channels = _geometry(op.window, read), read.shape[-1]
    if op.kind == "average":
        return map_prepack.pool_average(kernel, geometry, channels, op.padded) | _written(kernel, no_turns(channels)), []
    falling = np.zeros(channels, np.bool_) if op.falling is None else op.falling
    if read.kind == "levels":
        return map_prepack.pool_levels(kernel, geometry, falling, read.planes), []
    if read.kind == "bits":
        return map_prepack.pool_bits(kernel, geometry, falling), []
    return map_prepack.pool_largest(kernel, geometry, falling) | _written(kernel, no_turns(channels)), []


@rows_of.of(Dot)
def _(op: Dot, kernel: Kernel, mapping: InputMapping, read: Value, raw: bool, *side: Value) -> Made:
    if read.kind == "levels":
        return _over_levels(op, kernel, read)
    in_bits = not isinstance(op.output, Affine)
    packed = op.reads == "bits" and not raw
    whole = op.window is None or (op.window.size == read.shape[:2] and not any(op.window.padding))
    if op.groups == 1 and whole and not (packed and len(read.shape) == 3 and read.shape[-1] % 64):
        # A vector, or a map that lies as one.
        return _dot(op, kernel, mapping, raw, slice(None), None), []
    assert op.window is not None
    geometry, channels = _geometry(op.window, read), read.shape[-1] // op.groups
    if not op.binary and isinstance(op.output, Affine):
        if channels == 1 and op.neurons == op.groups:
            row = map_prepack.depthwise(kernel, geometry, op.weights)
        else:
            row = map_prepack.floats(kernel, geometry, op.weights, op.groups, read.shape[-1])
        return row | _steps(kernel, op.output), []
    outside = outside_of(op, read)
    parts = np.split(np.arange(op.neurons), op.groups)
    taps = None
    if not (geometry.pointwise and op.groups == 1):
        fill = {-1: 0, 0: 0, 1: -1} if packed else {-1: -1, 0: -1 if op.reads == "bits" else 0, 1: 1}
        size = channels if op.reads == "bits" else channels * _BYTES[read.kind]
        taps = map_prepack.Taps(size, packed, op.outside if op.reads == "levels" else fill[op.pad])
    # Pixels that are rows fill words.
    filled = channels if taps else 64
    rows = [_dot(op, kernel, mapping, raw, slice(part[0], part[-1] + 1), outside, filled) for part in parts]
    of = None if outside is None else outside.of
    planes = max(1, op.top.bit_length())
    return map_prepack.strips(kernel, rows, geometry, pixel_bytes(read, raw), in_bits, taps, of, planes)


def _over_levels(op: Dot, kernel: Kernel, read: Value) -> Made:
    one = (1, 1)
    geometry = map_prepack.Geometry(one, one) if op.window is None else _geometry(op.window, read)
    channels = None if geometry.pointwise and op.groups == 1 else read.shape[-1] // op.groups
    filled = 0 if op.window is None else channels or 64
    layers = []
    for part in np.split(np.arange(op.neurons), op.groups):
        weights = np.ascontiguousarray(op.weights[part])
        limits = None if op.limits is None else op.limits[..., part]
        following = prepack.levels(kernel, weights, op.depth, limits, read.planes, op.low)
        if isinstance(op.output, Affine):
            following |= _steps(kernel, op.output.columns(part), op.neurons)
        layers.append((prepack.of_planes(kernel, weights, op.depth, channels=filled), following))
    size = pixel_bytes(read, False)
    given = 0 if isinstance(op.output, Affine) else max(1, op.top.bit_length())
    return map_prepack.over_levels(kernel, layers, geometry, size, read.planes, given, channels, op.outside)


def _dot(
    op: Dot,
    kernel: Kernel,
    mapping: InputMapping,
    raw: bool,
    neurons: slice,
    outside: Outside | None,
    channels: int = 0,
) -> prepack.Row:
    """The row of some neurons, over samples or over windows of so many channels."""
    weights = np.ascontiguousarray(op.weights[neurons])
    limits = None if op.limits is None else op.limits[..., neurons]
    if isinstance(op.output, Grades) and op.output.limits.ndim == 2:
        limits = op.output.limits[:, None, neurons]
    own = None if outside is None else (outside.inputs, outside.plus[:, neurons])
    row = _product(op, kernel, mapping, raw, weights, limits, own, channels)
    if isinstance(op.output, Affine):
        own_steps = Affine(op.output.ops, op.output.values[:, :, neurons])
        if op.binary and op.reads != "bits":
            codes = [STEP_NAMES.index(step) for step in own_steps.ops]
            return row | prepack.steps(kernel, codes, own_steps.values)
        row |= _steps(kernel, own_steps, op.neurons)
    return row


def _product(
    op: Dot,
    kernel: Kernel,
    mapping: InputMapping,
    raw: bool,
    weights: NDArray[Any],
    limits: NDArray[Any] | None,
    outside: prepack.Outside,
    channels: int,
) -> prepack.Row:
    if op.reads == "reals":
        return (
            prepack.reals(kernel, weights, op.depth, limits)
            if op.binary
            else prepack.floats(kernel, weights, limits, alone=not channels)
        )
    if op.reads == "levels":
        return prepack.pixels(kernel, weights, op.depth, limits, (1.0, float(op.low), 1.0), outside)
    if op.reads == "pixels":
        assert isinstance(mapping, PixelInput)
        numbers = mapping.slope, mapping.intercept, mapping.divisor
        return prepack.pixels(kernel, weights, op.depth, limits, numbers, outside)
    if raw:
        return prepack.signs(kernel, weights, op.depth, limits, outside)
    return prepack.bits(kernel, weights, op.depth, limits, outside, channels=channels)


def steps_turns(steps: Affine, beside: prepack.Beside | None) -> prepack.Turns:
    """Float32 steps on rows.  beside: what one of them adds."""
    return prepack.Turns([STEP_NAMES.index(step) for step in steps.ops], steps.values, beside)


def product_turns(channels: int, beside: prepack.Beside) -> prepack.Turns:
    """Rows times others."""
    return prepack.Turns([fields.TIMES], np.zeros((1, 2, channels), np.float32), beside)


def no_turns(channels: int) -> prepack.Turns:
    """Rows as they are."""
    return prepack.Turns([], np.zeros((0, 2, channels), np.float32))


def _written(kernel: Kernel, turns: prepack.Turns) -> prepack.Row:
    """The rows of a node by itself."""
    return prepack.in_rows(kernel, [replace(turns, store=prepack.Beside(fields.TO_TARGET, 0))])


def _steps(kernel: Kernel, steps: Affine, neurons: int | None = None) -> prepack.Row:
    """Steps on rows of a node by itself.  neurons: of all groups."""
    return _written(kernel, steps_turns(steps, prepack.Beside(0, 4 * (neurons or steps.values.shape[2]))))

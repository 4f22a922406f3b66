"""The network of a packed model in float arithmetic: in float32 numpy, to be timed, and in float64, to tell who rounded.

Weights are -1/+1 as float32 for BLAS, an affine step and a sign follow every layer, buffers of dense layers are allocated once.
A convolution is a product with the inputs of all its windows side by side (im2col), which are gathered anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitunpack
from xnorinfer.errors import unhandled
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT, Interpretation
from xnorinfer.memory import in_rows
from xnorinfer.net.values import InputMapping, PixelInput, Shape
from xnorinfer.net.windows import Window, borders
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
    PackedModel,
    Pool,
    Threshold,
)


class FloatNetwork:
    """The network of a packed model in float32 numpy: matmul, affine, sign.

    rows: the batch size that the buffers are allocated for; `predict` takes exactly so many.
    """

    def __init__(self, packed: PackedModel, rows: int) -> None:
        shapes = {INPUT: packed.shape, **{index: value.shape for index, value in enumerate(packed.values)}}
        self._nodes = [
            (_float_op(node, packed.input, rows, shapes[node.inputs[0]]), node.inputs, shapes[index])
            for index, node in enumerate(packed.nodes)
        ]
        # What is made bits or numbers of a table is read as it is, all else as float32.
        first = packed.nodes[0].op
        self._mapped = None if isinstance(first, Binarize | Digitize | Mapped) else np.empty((rows, packed.depth), np.float32)
        self._mapping, self._shape = packed.input, packed.shape

    def predict(self, x: NDArray[Any]) -> NDArray[np.int64]:
        """Classes of raw inputs, (rows, depth) -> (rows,) int64, computed in float32; of a map (rows, height, width)."""
        values = {INPUT: self._map(x).reshape(-1, *self._shape)}
        for index, (compute, inputs, shape) in enumerate(self._nodes):
            values[index] = compute(*(values[read] for read in inputs)).reshape(-1, *shape)
        return classes_of(values[len(self._nodes) - 1])

    def _map(self, x: NDArray[Any]) -> NDArray[Any]:
        out = self._mapped
        if out is None:
            return x
        if isinstance(self._mapping, PixelInput):
            np.multiply(x, np.float32(self._mapping.slope / self._mapping.divisor), out=out)
            out += np.float32(self._mapping.intercept / self._mapping.divisor)
        else:
            out[...] = x
        return out


def classes_of(scores: NDArray[Any]) -> NDArray[np.int64]:
    """The highest of each sample, or of each pixel of a map larger than one."""
    if scores.ndim == 4 and scores.shape[1:3] == (1, 1):
        scores = scores[:, 0, 0]
    return np.asarray(np.argmax(scores, axis=-1), np.int64)


#: Op -> a function of what it reads, for so many rows: (..., mapping of the input, rows, shape of what it reads).
_float_op: Interpretation[[InputMapping, int, Shape], Callable[..., F32]]
_float_op = Interpretation("bench.FloatNetwork", PACKED_OPS)


def _sign(value: NDArray[Any], scale: F32, shift: F32, out: F32) -> F32:
    """+1 where value * scale + shift is 0 or above, else -1."""
    np.add(np.multiply(value, scale, out=out), shift, out=out)
    signs: F32 = np.copysign(np.float32(1), out, out=out)
    return signs


@_float_op.of(Binarize)
def _(op: Binarize, mapping: InputMapping, rows: int, shape: Shape) -> Callable[..., F32]:
    """A pixel is compared with the middle between two; at the limit of a real input 0 is +0, whatever its sign was."""
    buffer = np.empty((rows, *shape), np.float32)
    turn, border = border_of(op)
    return lambda x: _sign(x, turn, border, buffer)


@_float_op.of(Digitize)
def _(op: Digitize, mapping: InputMapping, rows: int, shape: Shape) -> Callable[..., F32]:
    return lambda x: op.codes(x).astype(np.float32)


@_float_op.of(Dot)
def _(op: Dot, mapping: InputMapping, rows: int, shape: Shape) -> Callable[..., F32]:
    product = _product(op, rows)
    if isinstance(op.output, Threshold):
        scale, shift = _as_affine(op, op.output.limits, mapping, shape)
        return lambda x: _sign(y := product(x), scale, shift, y)
    if isinstance(op.output, Grades):
        every = [_as_affine(op, limits, mapping, shape) for limits in op.output.limits]
        return lambda x: _codes(product(x), every)
    base = lowest_of(op, shape)
    return _with_steps(op.output, product if base is None else lambda x: product(x) + base)


def _codes(value: F32, every: list[tuple[F32, F32]]) -> F32:
    """How often value * scale + shift is 0 or above."""
    return np.asarray(np.sum([value * scale + shift >= 0 for scale, shift in every], axis=0, dtype=np.float32))


def lowest_of(op: Dot, shape: Shape) -> F32 | None:
    """What the codes 0 of levels add to the sums, (neurons,); None where that is nothing."""
    return (op.low * weight_sums(op, shape)).astype(np.float32) if op.low else None


@_float_op.of(Pool)
def _(op: Pool, mapping: InputMapping, rows: int, shape: Shape) -> Callable[..., F32]:
    return lambda x: pooled(op, x)


@_float_op.of(Elementwise)
def _(op: Elementwise, mapping: InputMapping, rows: int, shape: Shape) -> Callable[..., F32]:
    return _with_steps(op.steps, lambda x: x)


@_float_op.of(Concat)
def _(op: Concat, mapping: InputMapping, rows: int, shape: Shape) -> Callable[..., F32]:
    return lambda *reads: joined(op, reads)


def joined(op: Concat, reads: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Values (rows, ...) side by side."""
    return np.concatenate([in_rows(read) for read in reads] if op.flat else reads, axis=-1)


@_float_op.of(Multiply)
def _(op: Multiply, mapping: InputMapping, rows: int, shape: Shape) -> Callable[..., F32]:
    return multiplied


@_float_op.of(Moved)
def _(op: Moved, mapping: InputMapping, rows: int, shape: Shape) -> Callable[..., F32]:
    return lambda x: moved(op, x)


def multiplied(x: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Products of values (rows, ...), number by number or with one of each channel."""
    shape = x.shape if other.size == x.size else (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
    return np.asarray(x * other.reshape(shape))


def moved(op: Moved, x: NDArray[Any]) -> NDArray[Any]:
    """Numbers in other places."""
    found = np.where(op.channels < 0, x.dtype.type(op.value), x[..., op.channels])
    if any(op.padding):
        top, bottom, left, right = op.padding
        down, across = (np.arange(-a, size + b) for a, size, b in ((top, x.shape[1], bottom), (left, x.shape[2], right)))
        taken = found[:, down.clip(0, x.shape[1] - 1)][:, :, across.clip(0, x.shape[2] - 1)]
        inside = ((down >= 0) & (down < x.shape[1]))[:, None] & ((across >= 0) & (across < x.shape[2]))
        found = np.where(inside[..., None], taken, x.dtype.type(op.value))
    return found


@_float_op.of(Mapped)
def _(op: Mapped, mapping: InputMapping, rows: int, shape: Shape) -> Callable[..., F32]:
    return lambda x: table_values(op, x)


def _with_steps(steps: Affine, product: Callable[[Any], F32]) -> Callable[..., F32]:
    if unknown := set(steps.ops) - set(STEP_NAMES):
        raise unhandled("bench", min(unknown))

    def compute(x: Any, *side: F32) -> F32:
        value = product(x)
        return steps.apply(value, *(other.reshape(value.shape) for other in side), fused=False)

    return compute


def _product(op: Dot, rows: int) -> Callable[[NDArray[Any]], F32]:
    """The products of a layer, (rows, neurons) or (rows, outputs down, outputs across, neurons)."""
    weights = np.ascontiguousarray(numbers(op).T)  # (depth, neurons)
    if op.window is None:
        y = np.empty((rows, op.neurons), np.float32)
        return lambda x: np.matmul(x, weights, out=y)
    return lambda x: convolved(op, x, weights)


# ---------------------------------------------------------------- windows


def patches(x: NDArray[Any], window: Window, outside: float) -> NDArray[Any]:
    """The inputs of every window of maps (rows, height, width, channels), with `outside` beyond them: (rows, outputs down,
    outputs across, kernel height, kernel width, channels)."""
    top, bottom, left, right = window.padding
    if any(window.padding):
        x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=outside)
    every = np.lib.stride_tricks.sliding_window_view(x, window.reach, (1, 2))[:, :: window.stride[0], :: window.stride[1]]
    taps: NDArray[Any] = every[..., :: window.dilation[0], :: window.dilation[1]].transpose(0, 1, 2, 4, 5, 3)
    return taps


def convolved(op: Dot, x: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """Products of maps and weights (depth, neurons)."""
    assert op.window is not None
    every = patches(x, op.window, op.outside)
    parts = np.split(every, op.groups, axis=-1) if op.groups > 1 else [every]
    kernels = np.split(weights, op.groups, axis=1)
    found = [part.reshape(*part.shape[:3], -1) @ kernel for part, kernel in zip(parts, kernels, strict=True)]
    return np.concatenate(found, axis=-1) if op.groups > 1 else found[0]


def pooled(op: Pool, x: NDArray[Any]) -> NDArray[Any]:
    """Pools of maps of -1/+1 or real numbers."""
    if op.kind == "average":
        total = patches(x, op.window, 0).sum(axis=(3, 4), dtype=np.float64)
        inside = patches(np.ones((1, *x.shape[1:3], 1)), op.window, float(op.padded)).sum(axis=(3, 4))
        return np.asarray(total / inside, x.dtype)
    if op.kind != "max":
        raise unhandled("bench", op.kind)
    turn = 1 if op.falling is None else np.where(op.falling, -1, 1).astype(x.dtype)
    return np.asarray(patches(x * turn, op.window, -np.inf).max(axis=(3, 4)) * turn)


def table_values(op: Mapped, x: NDArray[Any]) -> F32:
    """What pixels, or codes, (..., channels) are mapped to."""
    return np.asarray(op.values[x.astype(np.uint8), 0 if op.values.shape[1] == 1 else np.arange(x.shape[-1])])


def places(op: Dot, shape: Shape, by_class: NDArray[Any]) -> NDArray[Any]:
    """What each border class has, (classes, ...), at each output of a window: (outputs down, outputs across, ...)."""
    assert op.window is not None
    return np.asarray(by_class[borders(op.window, *shape[:2]).of])


def inside(op: Dot, shape: Shape) -> NDArray[np.int64] | int:
    """How many inputs of a neuron lie on the map: (outputs down, outputs across, 1), or all at every output."""
    if op.window is None or op.pad or not any(op.window.padding):
        return op.depth
    taps = borders(op.window, *shape[:2]).inside.sum(axis=(1, 2))
    return places(op, shape, taps * (op.depth // op.window.taps))[..., None]


def limits_of(op: Dot, limits: NDArray[Any], shape: Shape) -> NDArray[np.float64]:
    """Limits of neurons, (neurons,), or of border classes, as (outputs down, outputs across, neurons)."""
    return (limits if limits.ndim == 1 else places(op, shape, limits)).astype(np.float64)


def weight_sums(op: Dot, shape: Shape) -> NDArray[np.float64]:
    """Sums of the weights whose inputs lie on the map, (neurons,) or (outputs down, outputs across, neurons)."""
    weights = numbers(op).astype(np.float64)
    if op.window is None or not any(op.window.padding) or op.reads == "levels":  # codes lie everywhere
        return np.asarray(weights.sum(axis=1))
    taps = weights.reshape(op.neurons, op.window.taps, -1).sum(axis=2)
    lying = borders(op.window, *shape[:2]).inside.reshape(-1, op.window.taps)
    return places(op, shape, lying @ taps.T)


def border_of(op: Binarize) -> tuple[F32, F32]:
    """(turn, border), each (depth,) float32: bit 1 means input * turn + border >= 0."""
    border = op.limits.astype(np.float32) + np.float32(0.5 if op.limits.dtype == np.int32 else 0)
    return np.where(op.mirrored, np.float32(1), np.float32(-1)), border


def numbers(op: Dot) -> F32:
    """The weights as numbers, (neurons, depth)."""
    return bitunpack(op.weights, op.depth).astype(np.float32) if op.binary else op.weights


def _as_affine(layer: Dot, limits: NDArray[Any], mapping: InputMapping, shape: Shape) -> tuple[F32, F32]:
    """(scale, shift), each (neurons,) float32 or as many for every output of a window, so that bit 1 means
    dot * scale + shift >= 0 (+0 counts, -0 cannot appear).

    bits    mismatches <= limit  <=>  dot >= depth - 2*limit; dots have one parity, so the border lies between two of them.
    levels  sum(w*code) <= limit, border halfway to the next sum.
    pixels  sum(w*p) <= limit, with dot = (slope*sum(w*p) + intercept*sum(w)) / divisor; border halfway to the next sum.
    reals   dot <= limit.
    """
    limits = limits_of(layer, limits, shape)
    if layer.reads == "bits":
        scale, shift = np.ones_like(limits), 2 * limits - inside(layer, shape) + 1
    elif layer.reads == "pixels":
        assert isinstance(mapping, PixelInput)
        # A map is mapped as a whole, and what lies outside is 0 behind the mapping.
        border = (mapping.slope * (limits + 0.5) + mapping.intercept * weight_sums(layer, shape)) / mapping.divisor
        rises = -np.sign(mapping.slope / mapping.divisor)
        scale, shift = np.full_like(limits, rises), -rises * border
    elif layer.reads == "levels":
        scale, shift = -np.ones_like(limits), limits + 0.5
    else:
        scale, shift = -np.ones_like(limits), limits
    return scale.astype(np.float32), shift.astype(np.float32)


def exact_predict(packed: PackedModel, x: NDArray[Any]) -> NDArray[np.int64]:
    """Classes by float64 matmuls, whose sums of these integers are exact: raw inputs (rows, depth) -> (rows,) int64; of a map
    (rows, height, width).

    Real inputs are summed in float64 in an order of BLAS's choice, which is not exact but far closer than float32.
    """
    values: dict[int, NDArray[Any]] = {INPUT: x.reshape(-1, *packed.shape)}
    for index, (node, value) in enumerate(zip(packed.nodes, packed.values, strict=True)):
        values[index] = _exact(node, packed.input, [values[read] for read in node.inputs]).reshape(-1, *value.shape)
    return classes_of(values[len(packed.nodes) - 1])


_exact: Interpretation[[InputMapping, list[NDArray[Any]]], NDArray[np.float64]]
#: Op -> what it gives, float64, for what it reads, float64 or raw inputs: (..., mapping of the input, what it reads).
_exact = Interpretation("bench.exact_predict", PACKED_OPS)


@_exact.of(Binarize)
def _(op: Binarize, mapping: InputMapping, read: list[NDArray[Any]]) -> NDArray[np.float64]:
    (x,) = read
    return op.signs(x).astype(np.float64)


@_exact.of(Digitize)
def _(op: Digitize, mapping: InputMapping, read: list[NDArray[Any]]) -> NDArray[np.float64]:
    (x,) = read
    return op.codes(x if x.dtype == np.uint8 else x.astype(np.float32)).astype(np.float64)


@_exact.of(Dot)
def _(op: Dot, mapping: InputMapping, read: list[NDArray[Any]]) -> NDArray[np.float64]:
    value, shape = read[0].astype(np.float64), read[0].shape[1:]
    weights = numbers(op).astype(np.float64).T
    dot = value @ weights if op.window is None else convolved(op, value, weights)
    if not isinstance(op.output, Affine):
        counts = (inside(op, shape) - dot) / 2 if op.reads == "bits" else dot
        counts = counts.astype(np.float32) if op.reads == "reals" else counts
        if isinstance(op.output, Threshold):
            return np.where(counts <= limits_of(op, op.output.limits, shape), 1.0, -1.0)
        fits = [counts <= limits_of(op, limits, shape) for limits in op.output.limits]
        return np.asarray(np.sum(fits, axis=0, dtype=np.float64))
    if op.reads == "pixels":
        assert isinstance(mapping, PixelInput)
        dot = (mapping.slope * dot + mapping.intercept * weight_sums(op, shape)) / mapping.divisor
    if op.reads == "levels":
        dot = dot + op.low * weight_sums(op, shape)
    return _stepped(op.output, dot.astype(np.float32), read)


@_exact.of(Pool)
def _(op: Pool, mapping: InputMapping, read: list[NDArray[Any]]) -> NDArray[np.float64]:
    # Rounded to float32 as the network has it.
    return pooled(op, read[0].astype(np.float64)).astype(np.float32).astype(np.float64)


@_exact.of(Elementwise)
def _(op: Elementwise, mapping: InputMapping, read: list[NDArray[Any]]) -> NDArray[np.float64]:
    return _stepped(op.steps, read[0].astype(np.float32), read)


def _stepped(steps: Affine, value: F32, read: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Steps on a value of a node that reads all these."""
    side = (other.astype(np.float32).reshape(value.shape) for other in read[1:])
    return steps.apply(value, *side).astype(np.float64)


@_exact.of(Concat)
def _(op: Concat, mapping: InputMapping, read: list[NDArray[Any]]) -> NDArray[np.float64]:
    return joined(op, read).astype(np.float64)


@_exact.of(Multiply)
def _(op: Multiply, mapping: InputMapping, read: list[NDArray[Any]]) -> NDArray[np.float64]:
    # Rounded to float32 as the network has it.
    return multiplied(*(one.astype(np.float32) for one in read)).astype(np.float64)


@_exact.of(Moved)
def _(op: Moved, mapping: InputMapping, read: list[NDArray[Any]]) -> NDArray[np.float64]:
    return moved(op, read[0].astype(np.float64))


@_exact.of(Mapped)
def _(op: Mapped, mapping: InputMapping, read: list[NDArray[Any]]) -> NDArray[np.float64]:
    return table_values(op, read[0]).astype(np.float64)

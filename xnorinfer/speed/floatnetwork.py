"""The network of a packed model in float arithmetic: in float32 numpy, to be timed, and in float64, to tell who rounded.

Weights are -1/+1 as float32 for BLAS, an affine step and a sign follow every layer, buffers are allocated once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitunpack
from xnorinfer.errors import unhandled
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT, Interpretation
from xnorinfer.net.values import InputMapping, PixelInput
from xnorinfer.packing.packed import PACKED_OPS, STEP_NAMES, Binarize, Dot, PackedModel, Threshold


class FloatNetwork:
    """The network of a packed model in float32 numpy: matmul, affine, sign.

    rows: the batch size that the buffers are allocated for; `predict` takes exactly so many.
    """

    def __init__(self, packed: PackedModel, rows: int) -> None:
        self._nodes = [(_float_op(node, packed.input, rows), node.inputs) for node in packed.nodes]
        # What is made bits is read as it is, all else as float32.
        self._mapped = None if packed.binarize is not None else np.empty((rows, packed.depth), np.float32)
        self._mapping = packed.input

    def predict(self, x: NDArray[Any]) -> NDArray[np.int64]:
        """Classes of raw inputs, (rows, depth) -> (rows,) int64, computed in float32."""
        values = {INPUT: self._map(x)}
        for index, (compute, inputs) in enumerate(self._nodes):
            values[index] = compute(*(values[read] for read in inputs))
        classes: NDArray[np.int64] = np.argmax(values[len(self._nodes) - 1], axis=1).astype(np.int64, copy=False)
        return classes

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


#: Op -> a function of what it reads, for so many rows: (..., mapping of the input, rows).
_float_op: Interpretation[[InputMapping, int], Callable[..., F32]] = Interpretation("bench.FloatNetwork", PACKED_OPS)


def _sign(value: NDArray[Any], scale: F32, shift: F32, out: F32) -> F32:
    """+1 where value * scale + shift is 0 or above, else -1."""
    np.add(np.multiply(value, scale, out=out), shift, out=out)
    signs: F32 = np.copysign(np.float32(1), out, out=out)
    return signs


@_float_op.of(Binarize)
def _(op: Binarize, mapping: InputMapping, rows: int) -> Callable[..., F32]:
    """A pixel is compared with the middle between two; at the limit of a real input 0 is +0, whatever its sign was."""
    buffer = np.empty((rows, op.limits.size), np.float32)
    turn, border = border_of(op)
    return lambda x: _sign(x, turn, border, buffer)


@_float_op.of(Dot)
def _(op: Dot, mapping: InputMapping, rows: int) -> Callable[..., F32]:
    weights = np.ascontiguousarray(numbers(op).T)  # (depth, neurons)
    y = np.empty((rows, op.neurons), np.float32)
    if isinstance(op.output, Threshold):
        scale, shift = _as_affine(op, op.output, mapping)
        return lambda x: _sign(np.matmul(x, weights, out=y), scale, shift, y)
    steps = op.output
    if unknown := set(steps.ops) - set(STEP_NAMES):
        raise unhandled("bench", min(unknown))
    return lambda x: steps.apply(np.matmul(x, weights, out=y), fused=False)


def border_of(op: Binarize) -> tuple[F32, F32]:
    """(turn, border), each (depth,) float32: bit 1 means input * turn + border >= 0."""
    border = op.limits.astype(np.float32) + np.float32(0.5 if op.limits.dtype == np.int32 else 0)
    return np.where(op.mirrored, np.float32(1), np.float32(-1)), border


def numbers(op: Dot) -> F32:
    """The weights as numbers, (neurons, depth)."""
    return bitunpack(op.weights, op.depth).astype(np.float32) if op.binary else op.weights


def _as_affine(layer: Dot, output: Threshold, mapping: InputMapping) -> tuple[F32, F32]:
    """(scale, shift), each (neurons,) float32, so that bit 1 means dot * scale + shift >= 0 (+0 counts, -0 cannot appear).

    bits    mismatches <= limit  <=>  dot >= depth - 2*limit; dots have one parity, so the border lies between two of them.
    pixels  sum(w*p) <= limit, with dot = (slope*sum(w*p) + intercept*sum(w)) / divisor; border halfway to the next sum.
    reals   dot <= limit.
    """
    limits = output.limits.astype(np.float64)
    if layer.reads == "bits":
        scale, shift = np.ones_like(limits), 2 * limits - layer.depth + 1
    elif layer.reads == "pixels":
        assert isinstance(mapping, PixelInput)
        weight_sums = bitunpack(layer.weights, layer.depth).sum(axis=1, dtype=np.float64)
        border = (mapping.slope * (limits + 0.5) + mapping.intercept * weight_sums) / mapping.divisor
        rises = -np.sign(mapping.slope / mapping.divisor)
        scale, shift = np.full_like(limits, rises), -rises * border
    else:
        scale, shift = -np.ones_like(limits), limits
    return scale.astype(np.float32), shift.astype(np.float32)


def exact_predict(packed: PackedModel, x: NDArray[Any]) -> NDArray[np.int64]:
    """Classes by float64 matmuls, whose sums of these integers are exact: raw inputs (rows, depth) -> (rows,) int64.

    Real inputs are summed in float64 in an order of BLAS's choice, which is not exact but far closer than float32.
    """
    values: dict[int, NDArray[np.float64]] = {INPUT: x.astype(np.float64)}
    for index, node in enumerate(packed.nodes):
        values[index] = _exact(node, packed.input, [values[read] for read in node.inputs])
    classes: NDArray[np.int64] = np.argmax(values[len(packed.nodes) - 1], axis=1).astype(np.int64, copy=False)
    return classes


_exact: Interpretation[[InputMapping, list[NDArray[np.float64]]], NDArray[np.float64]]
#: Op -> what it gives for what it reads, both float64: (..., mapping of the input, what it reads).
_exact = Interpretation("bench.exact_predict", PACKED_OPS)


@_exact.of(Binarize)
def _(op: Binarize, mapping: InputMapping, read: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    (x,) = read
    return op.signs(x).astype(np.float64)


@_exact.of(Dot)
def _(op: Dot, mapping: InputMapping, read: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    (value,) = read
    weights = numbers(op).astype(np.float64)
    dot = value @ weights.T
    if isinstance(op.output, Threshold):
        counts = (op.depth - dot) / 2 if op.reads == "bits" else dot
        counts = counts.astype(np.float32) if op.reads == "reals" else counts
        return np.where(counts <= op.output.limits, 1.0, -1.0)
    if op.reads == "pixels":
        assert isinstance(mapping, PixelInput)
        dot = (mapping.slope * dot + mapping.intercept * weights.sum(axis=1)) / mapping.divisor
    return op.output.apply(dot.astype(np.float32)).astype(np.float64)

"""What a packed network means, computed with plain integers and loops; shares nothing with bits, plan or kernels."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.float32 import at_most, fma
from xnorinfer.graph import INPUT
from xnorinfer.net.values import PixelInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.packed import (
    Affine,
    Binarize,
    Concat,
    Dot,
    Elementwise,
    Mapped,
    Moved,
    Multiply,
    PackedModel,
    Pool,
    Threshold,
)


def to_words(plus: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """(rows, n) bool -> (rows, words) uint64, bit k of word j is element 64*j + k."""
    rows, count = plus.shape
    padded = np.zeros((rows, -(-count // 64) * 64), np.bool_)
    padded[:, :count] = plus
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64)


def from_words(words: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """(rows, words) uint64 -> (rows, count) of -1 and +1."""
    octets = np.ascontiguousarray(words, "<u8").view(np.uint8)
    return 2 * np.unpackbits(octets, axis=1, bitorder="little")[:, :count].astype(np.int64) - 1


Oracle: TypeAlias = Callable[[PackedModel, NDArray[Any]], list[NDArray[Any]]]


def once(oracle: Oracle) -> Oracle:
    """Plain integers take longer than all kernels together, which are asked about the same networks."""
    known: dict[bytes, list[NDArray[Any]]] = {}

    @wraps(oracle)
    def remembered(model: PackedModel, x: NDArray[Any]) -> list[NDArray[Any]]:
        key = hashlib.sha256(pickle.dumps((model.input, model.shape, model.nodes, x))).digest()
        if key not in known:
            known[key] = oracle(model, x)
            for array in known[key]:
                array.setflags(write=False)
        return known[key]

    return remembered


@once
def expected(model: PackedModel, x: NDArray[Any]) -> list[NDArray[Any]]:
    """Output of every node as `Plan.trace` gives it: (rows, words) uint64 or (rows, numbers) float32.

    Those of maps lie line by line, channels innermost, the bits of every pixel in words of their own.
    """
    values: list[NDArray[Any]] = []
    outputs: list[NDArray[Any]] = []
    for node in model.nodes:
        reads = [x.reshape(len(x), *model.shape) if read == INPUT else values[read] for read in node.inputs]
        made = joined(node.op, reads) if isinstance(node.op, Concat) else value_of_op(node.op, reads[0], model, *reads[1:])
        values.append(made)
        if made.dtype == np.float32:
            outputs.append(made.reshape(len(x), math.prod(made.shape[1:])))
        else:
            pixels = math.prod(made.shape[1:-1])
            words = to_words(made.reshape(len(x) * pixels, made.shape[-1]) > 0)
            outputs.append(words.reshape(len(x), pixels * words.shape[1]))
    return outputs


def joined(op: Concat, reads: list[NDArray[Any]]) -> NDArray[Any]:
    parts = [read.reshape(len(read), math.prod(read.shape[1:])) if op.flat else read for read in reads]
    return np.concatenate(parts, axis=-1)


def value_of_op(op: Any, x: NDArray[Any], model: PackedModel, side: NDArray[Any] | None = None) -> NDArray[Any]:
    """(rows, ...) -> signs -1/+1 as int64, or float32.  side: what is added, of as many numbers."""
    if isinstance(op, Binarize):
        exact = x.astype(np.float64)
        return np.where(np.where(op.mirrored, -exact, exact) <= at_most(op.limits), 1, -1)
    if isinstance(op, Mapped):
        channels = np.broadcast_to(op.values, (256, x.shape[-1]))
        return channels[x, np.arange(x.shape[-1])]
    if isinstance(op, Elementwise):
        return op.steps.apply(x, None if side is None else side.reshape(x.shape))
    if isinstance(op, Pool):
        return pooled(op, x)
    if isinstance(op, Multiply):
        assert side is not None
        return x * side.reshape(x.shape if side.size == x.size else (len(x), *[1] * (x.ndim - 2), x.shape[-1]))
    if isinstance(op, Moved):
        return moved(op, x)
    assert isinstance(op, Dot)
    if op.window is None:
        one = Dot(op.reads, op.depth, op.weights, op.output, Window((1, 1)))
        return convolved(one, x[:, None, None, :], model, side)[:, 0, 0]
    return convolved(op, x, model, side)


def moved(op: Moved, x: NDArray[Any]) -> NDArray[Any]:
    if x.ndim == 2:
        return moved(op, x[:, None, None, :])[:, 0, 0]
    top, bottom, left, right = op.padding
    shape = x.shape[1] + top + bottom, x.shape[2] + left + right
    out = np.full((len(x), *shape, len(op.channels)), op.value, x.dtype)
    for y, z in np.ndindex(shape):
        for to, channel in enumerate(op.channels.tolist()):
            if channel >= 0 and 0 <= y - top < x.shape[1] and 0 <= z - left < x.shape[2]:
                out[:, y, z, to] = x[:, y - top, z - left, channel]
    return out


# ---------------------------------------------------------------- windows


def taps_of(window: Window, axis: int, outputs: int) -> list[list[int]]:
    """For every output of an axis where its taps look; places before the map are below 0."""
    before = window.padding[2 * axis]
    stride, dilation, size = window.stride[axis], window.dilation[axis], window.size[axis]
    return [[at * stride + tap * dilation - before for tap in range(size)] for at in range(outputs)]


def border_classes(window: Window, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], list[tuple[tuple[bool, ...], ...]]]:
    """The class of every output, and of each class which taps (kernel rows of kernel columns) lie on the map."""
    down, across = window.outputs(*shape[:2])
    rows, columns = taps_of(window, 0, down), taps_of(window, 1, across)
    known: dict[tuple[tuple[bool, ...], ...], int] = {}
    of = np.zeros((down, across), np.int64)
    for y in range(down):
        for z in range(across):
            inside = tuple(tuple(0 <= r < shape[0] and 0 <= c < shape[1] for c in columns[z]) for r in rows[y])
            of[y, z] = known.setdefault(inside, len(known))
    return of, list(known)


def elements(window: Window, x: NDArray[Any], y: int, z: int) -> list[tuple[int, NDArray[Any] | None]]:
    """The taps of one output in order: number of the tap, and the values (rows, channels) there, None outside the map."""
    found: list[tuple[int, NDArray[Any] | None]] = []
    rows, columns = (taps_of(window, axis, at + 1)[at] for axis, at in enumerate((y, z)))
    for r in rows:
        for c in columns:
            inside = 0 <= r < x.shape[1] and 0 <= c < x.shape[2]
            found.append((len(found), x[:, r, c] if inside else None))
    return found


def pooled(op: Pool, x: NDArray[Any]) -> NDArray[Any]:
    down, across = op.window.outputs(*x.shape[1:3])
    out = np.zeros((len(x), down, across, x.shape[-1]), x.dtype)
    for y in range(down):
        for z in range(across):
            inside = [value for _, value in elements(op.window, x, y, z) if value is not None]
            if op.kind == "average":
                total = np.zeros((len(x), x.shape[-1]), np.float64)
                for value in inside:
                    total = total + value
                count = op.window.size[0] * op.window.size[1] if op.padded else len(inside)
                out[:, y, z] = (total / count).astype(np.float32)
            else:
                largest, smallest = np.max(inside, axis=0), np.min(inside, axis=0)
                out[:, y, z] = largest if op.falling is None else np.where(op.falling, smallest, largest)
    return out


# ---------------------------------------------------------------- sums


def convolved(op: Dot, x: NDArray[Any], model: PackedModel, side: NDArray[Any] | None = None) -> NDArray[Any]:
    """(rows, height, width, channels) -> (rows, down, across, neurons)."""
    assert op.window is not None
    down, across = op.window.outputs(*x.shape[1:3])
    of, classes = border_classes(op.window, x.shape[1:])
    weights = (from_words(op.weights, op.depth) if op.binary else op.weights).astype(np.float64)
    own = x.shape[-1] // op.groups
    neurons = len(weights) // op.groups
    bits = isinstance(op.output, Threshold)
    out = np.zeros((len(x), down, across, len(weights)), np.int64 if bits else np.float32)
    beside = None if side is None else side.reshape(out.shape)
    for border, inside in enumerate(classes):
        places = np.argwhere(of == border)
        # The taps that count are alike in a class.
        counted = [tap for tap, one in enumerate(one for row in inside for one in row) if one or op.pad]
        seen = [taps_seen(op, x, y, z) for y, z in places]
        for group in range(op.groups):
            mine, channels = slice(group * neurons, (group + 1) * neurons), slice(group * own, (group + 1) * own)
            parts = [weights[mine, tap * own : (tap + 1) * own] for tap in counted]
            kernel = np.concatenate([weights[mine, :0], *parts], axis=1)
            rows = np.concatenate([taps[:, :, channels].reshape(len(x), own * len(counted)) for taps in seen])
            added = None if beside is None else np.concatenate([beside[:, y, z, mine] for y, z in places])
            made = finished(op, mine, border, rows, kernel, model, added).reshape(len(places), len(x), neurons)
            out[:, places[:, 0], places[:, 1], mine] = made.swapaxes(0, 1)
    return out


def taps_seen(op: Dot, x: NDArray[Any], y: int, z: int) -> NDArray[Any]:
    """The taps of one output that count, (rows, taps, channels)."""
    assert op.window is not None
    outside = np.full((len(x), x.shape[-1]), op.pad)
    taps = [value for _, value in elements(op.window, x, y, z) if value is not None or op.pad]
    return np.stack([outside if value is None else value for value in taps] or [outside], axis=1)[:, : len(taps)]


def finished(
    op: Dot,
    neurons: slice,
    border: int,
    x: NDArray[Any],
    weights: NDArray[Any],
    model: PackedModel,
    side: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """What those neurons make of their inputs (rows, n) with their weights (neurons, n), float64: signs, or float32.

    side: (rows, neurons), what is added.
    """
    count: NDArray[Any]
    if op.reads == "reals":
        real = count = sums_in_order(x, weights) if op.binary else fused_in_order(x, weights)
    else:
        # float64 products of integers below 2**53 are exact.
        count = (x.astype(np.float64) @ weights.T).astype(np.int64)
        real = count.astype(np.float32)
        if op.reads == "pixels":
            assert isinstance(model.input, PixelInput)
            slope, intercept, divisor = model.input.slope, model.input.intercept, model.input.divisor
            real = ((slope * count.astype(np.float64) + intercept * weights.sum(axis=1)) / divisor).astype(np.float32)
        else:
            count = (weights.shape[1] - count) // 2
    if isinstance(op.output, Threshold):
        limits = op.output.limits[border] if op.output.limits.ndim == 2 else op.output.limits
        return np.where(count <= at_most(limits)[neurons], 1, -1)
    return Affine(op.output.ops, op.output.values[:, :, neurons]).apply(real, side)


def fused_in_order(x: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float32]:
    """(rows, depth) x (neurons, depth) -> (rows, neurons), float32 sums, each product added and rounded once."""
    total = np.zeros((len(x), len(weights)), np.float32)
    for place in range(x.shape[1]):
        total = fma(x[:, place, None].astype(np.float32), weights[None, :, place].astype(np.float32), total)
    return total


def sums_in_order(x: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float32]:
    """(rows, depth) x (neurons, depth) -> (rows, neurons), float64 running sums rounded once."""
    total = np.zeros((len(x), len(weights)), np.float64)
    for place in range(x.shape[1]):
        total = total + x[:, place, None].astype(np.float64) * weights[None, :, place].astype(np.float64)
    return total.astype(np.float32)

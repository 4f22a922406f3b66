"""How sure a packed network is: distances of counts to their thresholds, gaps between scores, and what neurons do on data.

In an integer engine both come from numbers that are computed anyway.  They are computed here once more from the packed layers,
plainly: mismatches are XOR and popcount of words.  `trace` gives the bits that flow between the nodes.

The margin of a neuron at a sample is the smallest change of its count that changes its bit: `limit + 1 - count` where it
fires (count <= limit), `count - limit` where it does not.  It is 1 or more.  A neuron whose limit lies outside the range of its
counts never changes and has no margin.  One that gives levels has a limit for each code, and changes with any of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitpack, bitunpack
from xnorinfer.float32 import fused_dot, integer_dot, sequential_dot
from xnorinfer.graph import INPUT, Interpretation, Node
from xnorinfer.net.windows import Window, borders
from xnorinfer.packing.packed import (
    PACKED_OPS,
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
    Value,
    outside_of,
)

#: Margin of a sample in a layer where no neuron can change its bit.
NO_MARGIN = int(np.iinfo(np.int64).max)
#: Bytes that the blocks of a computation may take.
BLOCK_BYTES = 1 << 25

Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LayerMargins:
    """Of one layer with thresholds, per sample: its smallest margin and the neuron that has it.

    unit: what a margin of 1 means (one of `UNITS`).  smallest: (rows,) int64, NO_MARGIN where no neuron can change; for real
    sums (rows,) float64, infinite there.  neuron: (rows,) int64; of a map the number of its
    count, line by line, neurons innermost.
    """

    name: str
    unit: str
    smallest: NDArray[Any]
    neuron: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Margins:
    """Of a batch.  classes: (rows,) int64; gaps: (rows,) float64, best score minus second best, infinite for one class.  Both
    are (rows, height, width) where each pixel has scores."""

    classes: NDArray[np.int64]
    gaps: NDArray[np.float64]
    layers: tuple[LayerMargins, ...]


def margins(packed: PackedModel, x: NDArray[Any], trace: Sequence[NDArray[Any]]) -> Margins:
    """Margins of canonical inputs x (rows, depth) with the outputs that `Plan.trace` has for them."""
    layers = []
    for node in packed.nodes:
        value = x if node.inputs[0] == INPUT else trace[node.inputs[0]]
        found = None if node is packed.binarize else _margins(node, packed.read_by(node), value)
        if found is not None:
            layers.append(LayerMargins(node.name, *found))
    scores = trace[-1].astype(np.float64).reshape(len(x), *packed.score_shape)
    classes = np.asarray(scores.argmax(axis=-1), np.int64)
    ordered = np.sort(scores, axis=-1)
    gaps = ordered[..., -1] - ordered[..., -2] if packed.classes > 1 else np.full(classes.shape, np.inf)
    return Margins(classes, gaps, tuple(layers))


UNITS = {
    "bits": "mismatch",
    "pixels": "unit of the pixel sum",
    "levels": "unit of the sum of codes",
    "reals": "real sum",
}

#: Op -> unit, smallest margins and their neurons, from what it reads; none where no bits are made of counts.
_margins: Interpretation[[Value, NDArray[Any]], tuple[str, NDArray[Any], NDArray[np.int64]] | None]
_margins = Interpretation("margins", PACKED_OPS)
_margins.nothing(Pool, Elementwise, Mapped, Concat, Multiply, Moved)


@_margins.of(Binarize)
def _(op: Binarize, read: Value, value: NDArray[Any]) -> tuple[str, NDArray[Any], NDArray[np.int64]]:
    counts = np.where(op.mirrored, -value.reshape(-1, op.limits.size), value.reshape(-1, op.limits.size)).astype(np.float64)
    distance = np.where(np.isinf(op.limits), np.inf, np.abs(counts - op.limits))
    distance = distance.reshape(len(value), math.prod(read.shape))
    return "real value", distance.min(axis=1), distance.argmin(axis=1)


@_margins.of(Digitize)
def _(op: Digitize, read: Value, value: NDArray[Any]) -> tuple[str, NDArray[Any], NDArray[np.int64]]:
    every = [_margins(Node("", Binarize(limits, op.mirrored), (INPUT,)), read, value) for limits in op.limits]
    smallest = np.stack([margin for _, margin, _ in filter(None, every)])
    neurons = np.stack([neuron for _, _, neuron in filter(None, every)])
    nearest = smallest.argmin(axis=0)[None]
    return "real value", np.take_along_axis(smallest, nearest, 0)[0], np.take_along_axis(neurons, nearest, 0)[0]


@_margins.of(Dot)
def _(op: Dot, read: Value, value: NDArray[Any]) -> tuple[str, NDArray[Any], NDArray[np.int64]] | None:
    if isinstance(op.output, Affine):
        return None
    several = _limits(op.output)
    several = several if isinstance(op.output, Grades) else several[None]
    low, high = (_by_count(op, read, array) for array in reachable(op, read))
    farthest, step = (np.inf, 0) if op.reads == "reals" else (NO_MARGIN, 1)
    smallest = np.full(len(value), farthest, several.dtype)
    nearest = np.zeros(len(value), np.int64)
    for start, counts in _counts(op, read, value):
        distance = np.full(counts.shape, farthest, several.dtype)
        for one in several:
            limits = _by_count(op, read, one)
            never, always = _outside(limits, low, high)
            own = np.where(counts <= limits, limits + step - counts, counts - limits)
            own[:, never | always] = farthest
            distance = np.minimum(distance, own)
        rows = slice(start, start + len(counts))
        nearest[rows] = distance.argmin(axis=1)
        smallest[rows] = distance.min(axis=1)
    return UNITS[op.reads], smallest, nearest


def reachable(layer: Dot, read: Value) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smallest and largest count of each neuron, (neurons,), or as limits of border classes are, (classes, neurons): int64, or
    +-infinity for real sums."""
    if layer.reads == "reals":
        return np.full(layer.neurons, -np.inf), np.full(layer.neurons, np.inf)
    outside = outside_of(layer, read)
    high = np.full((1, layer.neurons), layer.depth) if outside is None else np.repeat(outside.inputs, layer.neurons, axis=1)
    low = np.zeros_like(high)
    if layer.reads in ("pixels", "levels"):
        top = read.top or 255
        plus = np.bitwise_count(layer.weights).sum(axis=1, dtype=np.int64) - (0 if outside is None else outside.plus)
        low, high = -top * (high - plus), np.broadcast_to(top * plus, high.shape)
    return (low, high) if len(high) > 1 else (low[0], high[0])


def _by_count(layer: Dot, read: Value, numbers: NDArray[Any]) -> NDArray[Any]:
    """Numbers of neurons, or of those by border class, for every count of a sample."""
    if layer.window is None:
        return numbers
    of = borders(layer.window, *read.shape[:2]).of.reshape(-1)
    return np.asarray(numbers[of] if numbers.ndim == 2 else np.tile(numbers, (of.size, 1))).reshape(-1)


#: Op -> which of its bits its limits alone make constant, whatever it reads: (never 1, always 1), (neurons,) bool each; of
#: levels (always the code 0, never the code 0); none where it makes no bits of counts.
constant: Interpretation[[Value], tuple[Bools, Bools] | None] = Interpretation("margins.constant", PACKED_OPS)
constant.nothing(Pool, Elementwise, Mapped, Concat, Multiply, Moved)


@constant.of(Binarize)
def _(op: Binarize, read: Value) -> tuple[Bools, Bools]:
    smallest = np.where(op.mirrored, -255, 0)
    return _outside(op.limits, *((-np.inf, np.inf) if op.limits.dtype == np.float32 else (smallest, smallest + 255)))


@constant.of(Digitize)
def _(op: Digitize, read: Value) -> tuple[Bools, Bools] | None:
    return constant(Node("", Binarize(op.limits[0], op.mirrored), (INPUT,)), read)


@constant.of(Dot)
def _(op: Dot, read: Value) -> tuple[Bools, Bools] | None:
    if isinstance(op.output, Affine):
        return None
    limits = _limits(op.output)
    limits = limits[0] if isinstance(op.output, Grades) else limits
    never, always = map(np.atleast_2d, _outside(limits, *reachable(op, read)))
    return np.asarray(never.all(axis=0)), np.asarray(always.all(axis=0))


def _outside(limits: NDArray[Any], low: Any, high: Any) -> tuple[Bools, Bools]:
    """Limits below or from the largest of the counts from low to high; real counts are finite, their ends are not."""
    return np.asarray((limits < low) | (limits == -np.inf)), np.asarray(limits >= high)


def deciding(packed: PackedModel) -> list[int]:
    """The nodes that make bits or levels of counts: what has margins and activity."""
    return [
        index
        for index, (node, value) in enumerate(zip(packed.nodes, packed.values, strict=True))
        if value.kind != "reals" and node is not packed.binarize and not isinstance(node.op, Pool | Concat | Moved)
    ]


def _limits(output: Threshold | Grades) -> NDArray[Any]:
    return output.limits.astype(np.float64 if output.limits.dtype == np.float32 else np.int64)


def _counts(layer: Dot, read: Value, value: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Counts of some rows at a time: (first row, (rows, counts) int64, float64 for real sums)."""
    if layer.window is not None:
        yield from _counts_of_maps(layer, layer.window, read, value)
        return
    if layer.reads == "levels":
        value = read.codes(value)
    if layer.reads == "bits":
        words = bitpack(value) if value.dtype == np.int8 else value
        step = max(1, BLOCK_BYTES // (8 * layer.neurons))
        for start in range(0, len(words), step):
            block = words[start : start + step]
            mismatches = np.zeros((len(block), layer.neurons), np.int64)
            for word in range(words.shape[1]):
                mismatches += np.bitwise_count(block[:, word, None] ^ layer.weights[:, word])
            yield start, mismatches
        return
    weights = bitunpack(layer.weights, layer.depth).astype(np.float32)
    step = max(1, BLOCK_BYTES // (8 * max(layer.neurons, layer.depth)))
    for start in range(0, len(value), step):
        yield start, _sums(layer, value[start : start + step], weights)


def _sums(layer: Dot, x: NDArray[Any], weights: NDArray[np.float32]) -> NDArray[Any]:
    """(rows, depth) x (neurons, depth) -> (rows, neurons), int64 or, of real numbers, float64."""
    if layer.reads == "reals":
        return (sequential_dot if layer.binary else fused_dot)(x, weights).astype(np.float64)
    return integer_dot(x, weights).astype(np.int64)


def _counts_of_maps(layer: Dot, window: Window, read: Value, value: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Output by output: the inputs of its window, outside what the layer pads with, which of 0 adds nothing."""
    numbers = bitunpack(layer.weights, layer.depth).astype(np.float32) if layer.binary else layer.weights
    weights = numbers.reshape(layer.groups, -1, layer.depth)
    top, bottom, left, right = window.padding
    (down, across), (reach_down, reach_across) = window.outputs(*read.shape[:2]), window.reach
    inside = _by_count(layer, read, reachable(layer, read)[1]) if layer.reads == "bits" else None
    step = max(1, BLOCK_BYTES // (8 * max(read.width * window.taps, down * across * layer.neurons)))
    for start in range(0, len(value), step):
        block = value[start : start + step]
        if layer.reads == "bits" and block.dtype != np.int8:
            block = read.signs(block)
        elif layer.reads == "levels":
            block = read.codes(block)
        x = np.pad(
            block.reshape(len(block), *read.shape),
            ((0, 0), (top, bottom), (left, right), (0, 0)),
            constant_values=layer.outside,
        )
        counts = []
        for y, z in np.ndindex(down, across):
            first, second = y * window.stride[0], z * window.stride[1]
            taps = x[:, first : first + reach_down : window.dilation[0], second : second + reach_across : window.dilation[1]]
            parts = np.moveaxis(taps.reshape(len(x), window.taps, layer.groups, -1), 2, 0).reshape(layer.groups, len(x), -1)
            counts += [_sums(layer, part, weight) for part, weight in zip(parts, weights, strict=True)]
        dots = np.concatenate(counts, axis=1)
        yield start, dots if inside is None else (inside - dots) // 2


# ---------------------------------------------------------------- what neurons do on data


@dataclass
class LayerActivity:
    """How often the neurons of one layer fire on data, those of levels with a code above 0.

    fired: (neurons,) int64.  never, always: (neurons,) bool, constant by their limits alone, outside the range of counts.
    places: counts of each neuron for one sample, those of a map.
    """

    name: str
    fired: NDArray[np.int64]
    never: Bools
    always: Bools
    places: int = 1

    def describe(self, rows: int) -> dict[str, Any]:
        """Counts and rates, JSON-able.  dead: neurons that are constant over the data, those included that always are.
        flip_rate: share of the pairs of samples (of places of all samples, in a map) between which a neuron's sign flips, mean
        over the neurons; a dead neuron has 0, one that fires on half of the samples about 1/2.
        """
        rows *= self.places
        rates = self.fired / max(rows, 1)
        flips = 2 * rates * (rows - self.fired) / max(rows - 1, 1)
        silent, saturated = self.fired == 0, self.fired == rows
        return {
            "name": self.name,
            "neurons": int(self.fired.size),
            "provably_never": int(self.never.sum()),
            "provably_always": int(self.always.sum()),
            "never_on_data": int(silent.sum()) if rows else 0,
            "always_on_data": int(saturated.sum()) if rows else 0,
            "dead": np.flatnonzero(silent | saturated).tolist() if rows else [],
            "firing_rate": {
                "smallest": float(rates.min()),
                "mean": float(rates.mean()),
                "largest": float(rates.max()),
            },
            "flip_rate": float(flips.mean()),
            "rates": [round(float(rate), 6) for rate in rates],
        }


@dataclass
class Activity:
    """Adds up, batch by batch, how often every neuron of the layers with thresholds fires."""

    packed: PackedModel
    rows: int = 0
    layers: list[LayerActivity] = field(default_factory=list)

    def __post_init__(self) -> None:
        values = self.packed.values
        for index in deciding(self.packed):
            node, gives = self.packed.nodes[index], values[index]
            if (found := constant(node, self.packed.read_by(node))) is not None:
                neurons = gives.shape[-1]
                self.layers.append(LayerActivity(node.name, np.zeros(neurons, np.int64), *found, gives.width // neurons))

    def add(self, trace: Sequence[NDArray[Any]]) -> None:
        """Count the bits of a batch, given as `Plan.trace` gives it."""
        self.rows += len(trace[0])
        values = self.packed.values
        for counted, index in zip(self.layers, deciding(self.packed), strict=True):
            neurons, gives = counted.fired.size, values[index]
            if gives.kind == "levels":
                for start in range(0, len(trace[index]), step := max(1, BLOCK_BYTES // gives.width)):
                    codes = gives.codes(trace[index][start : start + step].view(np.uint64))
                    counted.fired += (codes.reshape(-1, neurons) > 0).sum(axis=0, dtype=np.int64)
                continue
            words = trace[index].reshape(-1, trace[index].shape[1] // counted.places)
            step = max(1, BLOCK_BYTES // neurons)
            for start in range(0, len(words), step):
                bits = bitunpack(words[start : start + step].view(np.uint64), neurons)
                counted.fired += (bits > 0).sum(axis=0, dtype=np.int64)

    def describe(self) -> list[dict[str, Any]]:
        """Every layer, JSON-able."""
        return [layer.describe(self.rows) for layer in self.layers]

"""How sure a packed network is: distances of counts to their thresholds, gaps between scores, and what neurons do on data.

In an integer engine both come from numbers that are computed anyway.  They are computed here once more from the packed layers,
plainly: mismatches are XOR and popcount of words.  `trace` gives the bits that flow between the nodes.

The margin of a neuron at a sample is the smallest change of its count that changes its bit: `limit + 1 - count` where it
fires (count <= limit), `count - limit` where it does not.  It is 1 or more.  A neuron whose limit lies outside the range of its
counts never changes and has no margin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitpack, bitunpack
from xnorinfer.float32 import integer_dot, sequential_dot
from xnorinfer.graph import INPUT, Interpretation
from xnorinfer.packing.packed import PACKED_OPS, Binarize, Dot, PackedModel, Threshold

#: Margin of a sample in a layer where no neuron can change its bit.
NO_MARGIN = int(np.iinfo(np.int64).max)
#: Bytes that the blocks of a computation may take.
BLOCK_BYTES = 1 << 25

Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LayerMargins:
    """Of one layer with thresholds, per sample: its smallest margin and the neuron that has it.

    unit: what a margin of 1 means ("mismatch", "unit of the pixel sum", "real sum").  smallest: (rows,) int64, NO_MARGIN where
    no neuron can change; for real sums (rows,) float64, infinite there.  neuron: (rows,) int64.
    """

    name: str
    unit: str
    smallest: NDArray[Any]
    neuron: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Margins:
    """Of a batch.  classes: (rows,) int64; gaps: (rows,) float64, best score minus second best, infinite for one class."""

    classes: NDArray[np.int64]
    gaps: NDArray[np.float64]
    layers: tuple[LayerMargins, ...]


def margins(packed: PackedModel, x: NDArray[Any], trace: Sequence[NDArray[Any]]) -> Margins:
    """Margins of canonical inputs x (rows, depth) with the outputs that `Plan.trace` has for them."""
    layers = []
    for node in packed.nodes:
        found = _margins(node, [x if index == INPUT else trace[index] for index in node.inputs])
        if found is not None:
            layers.append(LayerMargins(node.name, *found))
    scores = trace[-1].astype(np.float64)
    classes = np.asarray(scores.argmax(axis=1), np.int64) if len(x) else np.empty(0, np.int64)
    ordered = np.sort(scores, axis=1)
    gaps = ordered[:, -1] - ordered[:, -2] if packed.classes > 1 else np.full(len(x), np.inf)
    return Margins(classes, gaps, tuple(layers))


UNITS = {"bits": "mismatch", "pixels": "unit of the pixel sum", "reals": "real sum"}

#: Op -> unit, smallest margins and their neurons, from what it reads; none of inputs and where no bits are given.
_margins: Interpretation[[list[NDArray[Any]]], tuple[str, NDArray[Any], NDArray[np.int64]] | None]
_margins = Interpretation("margins", PACKED_OPS)
_margins.nothing(Binarize)


@_margins.of(Dot)
def _(op: Dot, read: list[NDArray[Any]]) -> tuple[str, NDArray[Any], NDArray[np.int64]] | None:
    if not isinstance(op.output, Threshold):
        return None
    (value,) = read
    limits = _limits(op.output)
    never, always = _outside(limits, *reachable(op))
    farthest, step = (np.inf, 0) if op.reads == "reals" else (NO_MARGIN, 1)
    smallest = np.full(len(value), farthest, limits.dtype)
    nearest = np.zeros(len(value), np.int64)
    for start, counts in _counts(op, value):
        distance = np.where(counts <= limits, limits + step - counts, counts - limits)
        distance[:, never | always] = farthest
        rows = slice(start, start + len(counts))
        nearest[rows] = distance.argmin(axis=1)
        smallest[rows] = distance.min(axis=1)
    return UNITS[op.reads], smallest, nearest


def reachable(layer: Dot) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smallest and largest count of each neuron, (neurons,): int64, or +-infinity for real sums."""
    if layer.reads == "reals":
        return np.full(layer.neurons, -np.inf), np.full(layer.neurons, np.inf)
    if layer.reads == "bits":
        return np.zeros(layer.neurons, np.int64), np.full(layer.neurons, layer.depth, np.int64)
    plus = np.bitwise_count(layer.weights).sum(axis=1, dtype=np.int64)
    return -255 * (layer.depth - plus), 255 * plus


#: Op -> which of its bits its limits alone make constant, whatever the input: (never 1, always 1), (neurons,) bool each; none
#: where it gives no bits.
constant: Interpretation[[], tuple[Bools, Bools] | None] = Interpretation("margins.constant", PACKED_OPS)


@constant.of(Binarize)
def _(op: Binarize) -> tuple[Bools, Bools]:
    smallest = np.where(op.mirrored, -255, 0)
    return _outside(op.limits, *((-np.inf, np.inf) if op.limits.dtype == np.float32 else (smallest, smallest + 255)))


@constant.of(Dot)
def _(op: Dot) -> tuple[Bools, Bools] | None:
    return _outside(_limits(op.output), *reachable(op)) if isinstance(op.output, Threshold) else None


def _outside(limits: NDArray[Any], low: Any, high: Any) -> tuple[Bools, Bools]:
    """Limits below or from the largest of the counts from low to high; real counts are finite, their ends are not."""
    return np.asarray((limits < low) | (limits == -np.inf)), np.asarray(limits >= high)


def deciding(packed: PackedModel) -> list[int]:
    """The nodes that make bits of counts: what has margins and activity."""
    return [i for i, value in enumerate(packed.values) if value.kind == "bits" and packed.nodes[i] is not packed.binarize]


def _limits(output: Threshold) -> NDArray[Any]:
    return output.limits.astype(np.float64 if output.limits.dtype == np.float32 else np.int64)


def _counts(layer: Dot, value: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Counts of some rows at a time: (first row, (rows, neurons) int64, float64 for real sums)."""
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
        some: NDArray[Any] = value[start : start + step]
        if layer.reads == "reals":
            yield start, sequential_dot(some, weights).astype(np.float64)
        else:
            yield start, integer_dot(some, weights).astype(np.int64)


# ---------------------------------------------------------------- what neurons do on data


@dataclass
class LayerActivity:
    """How often the neurons of one layer fire on data.

    fired: (neurons,) int64.  never, always: (neurons,) bool, constant by their limits alone, outside the range of counts.
    """

    name: str
    fired: NDArray[np.int64]
    never: Bools
    always: Bools

    def describe(self, rows: int) -> dict[str, Any]:
        """Counts and rates, JSON-able.  dead: neurons that are constant over the data, those included that always are.
        flip_rate: share of the pairs of samples between which a neuron's sign flips, mean over the neurons; a dead neuron
        has 0, one that fires on half of the samples about 1/2.
        """
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
        for index in deciding(self.packed):
            node = self.packed.nodes[index]
            if (found := constant(node)) is not None:
                self.layers.append(LayerActivity(node.name, np.zeros(found[0].size, np.int64), *found))

    def add(self, trace: Sequence[NDArray[Any]]) -> None:
        """Count the bits of a batch, given as `Plan.trace` gives it."""
        self.rows += len(trace[0])
        for counted, index in zip(self.layers, deciding(self.packed), strict=True):
            words, neurons = trace[index], counted.fired.size
            step = max(1, BLOCK_BYTES // neurons)
            for start in range(0, len(words), step):
                bits = bitunpack(words[start : start + step].view(np.uint64), neurons)
                counted.fired += (bits > 0).sum(axis=0, dtype=np.int64)

    def describe(self) -> list[dict[str, Any]]:
        """Every layer, JSON-able."""
        return [layer.describe(self.rows) for layer in self.layers]

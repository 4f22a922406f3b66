"""What is counted for every neuron: which sums it can reach, and which number the source has at a sum."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xnorinfer.float32 import F32, MAX_FLOAT_KEY, ordered_to_float
from xnorinfer.net.reference import binary_weights
from xnorinfer.net.values import InputMapping, LevelValues, PixelInput
from xnorinfer.net.windows import taps_inside
from xnorinfer.packing.fusedpart import Part
from xnorinfer.packing.threshold import I64, full_range, limits_as


@dataclass(frozen=True, eq=False)
class Counts:
    """What is counted for every neuron, from low to high (inclusive), and which accumulator the source has at a count.

    Bits count mismatches, pixels and levels integer sums; reals are float32 numbers as ordered integers (`ordered_to_float`).
    mirror: a flipped neuron turns count c into mirror - c.  mapping: what sums mean, of levels without their factors.
    shift: (neurons,) float64, where there is a mapping.  pixels: whether frameworks round what is mapped.  made: real numbers
    that other nodes make, so that 0 is among them.  where: which windows have these sums, in messages; empty where all have.
    """

    low: I64
    high: I64
    mirror: int
    mapping: PixelInput | None = None
    shift: NDArray[np.float64] | None = None
    reals: bool = False
    pixels: bool = False
    made: bool = False
    where: str = ""

    @classmethod
    def of_bits(cls, neurons: int, depth: int) -> Counts:
        """Mismatches of `depth` bits."""
        return cls(*full_range(neurons, 0, depth), depth)

    @classmethod
    def of_reals(cls, neurons: int) -> Counts:
        """Any finite float32; the limit one below the smallest is -infinity, that of all numbers infinity."""
        return cls(*full_range(neurons, -MAX_FLOAT_KEY, MAX_FLOAT_KEY), 0, reals=True)

    @classmethod
    def of_pixels(cls, mapping: PixelInput, signs: F32) -> Counts:
        """Sums of pixels 0..255 with weights `signs` (neurons, depth) of -1/+1."""
        shift = mapping.intercept * signs.sum(axis=1, dtype=np.float64)
        low = -255 * (signs < 0).sum(axis=1, dtype=np.int64)
        return cls(low, 255 * (signs > 0).sum(axis=1, dtype=np.int64), 0, mapping, shift, pixels=True)

    @classmethod
    def of_levels(cls, levels: LevelValues, signs: F32) -> Counts:
        """Sums of codes with weights `signs` (neurons, depth) of -1/+1."""
        lowest = levels.low - levels.zero
        shift = lowest * signs.sum(axis=1, dtype=np.float64)
        low, high = (levels.top * turn * (turn * signs > 0).sum(axis=1, dtype=np.int64) for turn in (-1, 1))
        return cls(low, high, 0, PixelInput(1.0, float(lowest), 1.0), shift)

    def accumulator(self, count: I64) -> F32:
        """Counts (..., neurons) to what the source has before H, scale and bias, float32."""
        if self.reals:
            return ordered_to_float(count)
        if self.mapping is None or self.shift is None:
            return (self.mirror - 2 * count).astype(np.float32)
        return np.asarray((self.mapping.slope * count + self.shift) / self.mapping.divisor, np.float32)

    def columns(self, neurons: NDArray[np.intp]) -> Counts:
        """The same for some neurons only."""
        shift = None if self.shift is None else self.shift[neurons]
        return replace(self, low=self.low[neurons], high=self.high[neurons], shift=shift)

    def limits(self, found: I64) -> NDArray[np.int32] | F32:
        """Limits as the packed layer stores them."""
        if not self.reals:
            return limits_as(found, np.int32)
        return np.where(found >= MAX_FLOAT_KEY, np.float32(np.inf), ordered_to_float(found))  # sums may be infinite


def counts_of(mapping: InputMapping, part: Part) -> tuple[Counts, ...]:
    """What a part counts whose bits or numbers are made of sums or single values; of each border class."""
    layer, window = part.layer, part.window
    if part.read.kind == "reals":
        return (replace(Counts.of_reals(part.channels), made=layer is None and not part.raw),)
    if part.whole is not None:
        assert layer is not None
        return (Counts.of_levels(part.whole, binary_weights(layer).reshape(layer.neurons, -1)),)
    if layer is None:
        assert isinstance(mapping, PixelInput)
        return (Counts.of_pixels(mapping, np.ones((part.channels, 1), np.float32)),)
    if window is None or layer.pad or not any(window.padding):
        inside = np.ones((1, 1 if window is None else window.taps), np.bool_)
    else:
        inside = taps_inside(window, *part.read.shape[:2]).reshape(-1, window.taps)
    return tuple(_counts_of_class(mapping, part, taps) for taps in inside)


def _counts_of_class(mapping: InputMapping, part: Part, taps: NDArray[np.bool_]) -> Counts:
    """taps: (taps,) bool, those on the map."""
    layer = part.layer
    assert layer is not None
    some, every = int(taps.sum()), len(taps)
    if part.read.kind == "bits":
        found = Counts.of_bits(layer.neurons, layer.depth // every * some)
    else:
        assert isinstance(mapping, PixelInput)
        signs = binary_weights(layer).reshape(layer.neurons, every, -1)
        found = Counts.of_pixels(mapping, signs[:, taps].reshape(layer.neurons, -1))
    return found if some == every else replace(found, where=f", where {some} of {every} taps lie on the map")

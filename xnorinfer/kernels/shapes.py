"""Shapes of register tiles: plain numbers that a kernel of the table is made of."""

from __future__ import annotations

from dataclasses import dataclass

#: Inputs of a look-up: 6 weights of a neuron are a code; a table of 64 holds the sums of the inputs whose weight is +1.
LOOKUP_INPUTS = 6
#: Pairs of look-ups that a 16-bit sum holds: 2 * 21 * 6 * 255 < 2**16.
LOOKUP_PAIRS = 21

#: A first layer over uint8 of so few neurons sums masked bytes: no table is made that pays for itself.
MASKED_NEURONS = 24
#: Chunks of 64 bytes that 16-bit sums of masked bytes hold, one more for the tail included.
MASKED_CHUNKS = 256


@dataclass(frozen=True)
class BinaryShape:
    """A binary tile: one row times `vectors` vectors of `lanes` neurons; counts 2**levels words per popcount.

    ternlog: use VPTERNLOG (AVX-512) for functions of three inputs.
    """

    lanes: int
    vectors: int
    levels: int
    ternlog: bool

    @property
    def panel(self) -> int:
        """Neurons side by side in a panel; divides 64."""
        return self.lanes * self.vectors

"""Shapes of register tiles: plain numbers that a kernel of the table is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

#: A row prepared for look-ups: a cache line with the i64 sum of its inputs, then the tables of every turn of the tile's loop.
PREPARED_TOTAL = 64
TABLES_BYTES = 256

#: Chunks of 64 bytes that 16-bit sums of masked bytes hold, one more for the tail included.
MASKED_CHUNKS = 256


def grades(planes: int) -> int:
    """Limits that a neuron has in the table where codes of so many bits are given: one for each code above 0."""
    return (1 << planes) - 1


@dataclass(frozen=True)
class BinaryShape:
    """A binary tile: one row times `vectors` vectors of `lanes` neurons; counts 2**levels words per popcount."""

    lanes: int
    vectors: int
    levels: int

    @property
    def panel(self) -> int:
        """Neurons side by side in a panel; divides 64."""
        return self.lanes * self.vectors

    @property
    def narrow(self) -> BinaryShape:
        """The same for panels of at most 32 neurons."""
        return replace(self, vectors=min(self.vectors, 32 // self.lanes))


@dataclass(frozen=True)
class ParityShape:
    """A binary tile of vectors of 64 bytes (`parities`): rows share the weights of `panel` neurons, a lane of `bits` bits each.

    bits: 64, or 32 for inputs that fill only so many.
    """

    bits: int = 64

    @property
    def panel(self) -> int:
        """Neurons side by side in a panel; divides 64."""
        return 32

    @property
    def vectors(self) -> int:
        """Of a panel."""
        return self.panel * self.bits // 512

    @property
    def rows(self) -> int:
        """Rows of a tile: what 32 registers hold, with two vectors for each row and vector of neurons."""
        return 8 // self.vectors


#: Bytes of depth of one turn of a tile that looks up nibbles.
CODE_BYTES = 3
#: Turns whose mismatches fit the 16-bit counts of such a tile; they are whole words.
MOST_TURNS = 1360


@dataclass(frozen=True)
class NibbleShape:
    """A binary tile over codes of bytes (`nibbles`): look-ups for `pairs` pairs of rows times a vector of `lanes` neurons.

    lanes: 32 (AVX2), 64 (AVX-512 BW) or 16 (NEON, which counts bits itself and takes `2 * pairs` rows as they are).
    """

    lanes: int
    pairs: int

    @property
    def panel(self) -> int:
        """Neurons side by side in a panel; divides 64."""
        return self.lanes

    @property
    def narrow(self) -> NibbleShape:
        """The same for panels of at most 32 neurons: a CPU with the longer vectors has the shorter ones."""
        return replace(self, lanes=min(self.lanes, 32))

    @property
    def words(self) -> int:
        """int64 that a vector holds."""
        return self.lanes // 8

    @property
    def neon(self) -> bool:
        """Whether the vectors are those of ARM, which count the bits of bytes by themselves."""
        return self.lanes == 16

    @property
    def ternlog(self) -> bool:
        """Whether the CPU has VPTERNLOG (AVX-512)."""
        return self.lanes == 64

    @staticmethod
    def turns(depth: int) -> int:
        """Turns that cover the depth."""
        return -(-depth // (8 * CODE_BYTES))

    def prepared_bytes(self, words: int) -> int:
        """Bytes of a prepared row of so many words: as it is, or half of a pair's offsets, filled up to whole turns."""
        return 8 * words if self.neon else 16 * words + 16


@dataclass(frozen=True)
class LookupShape:
    """A tile that sums uint8 inputs by look-up: `inputs` weights of a neuron are a code, `rows` rows share the codes.

    inputs: 6 (needs AVX-512 BW) or 4 (AVX2, NEON); see `lookups`.  octets: bytes of a vector that looks up 4.
    """

    inputs: int
    rows: int
    octets: int = 32

    @property
    def table_bytes(self) -> int:
        """Two bytes for each of the 2**inputs sums."""
        return 2 << self.inputs

    @property
    def turn(self) -> int:
        """Look-ups of one turn of the tile's loop."""
        return TABLES_BYTES // self.table_bytes

    @property
    def turn_code_bytes(self) -> int:
        """Codes of 64 neurons for one turn: a code of 6 bits fills a byte, two codes of 4 bits share one."""
        return 64 * self.turn // (2 if self.inputs == 4 else 1)

    def turns(self, depth: int) -> int:
        """Turns that cover the depth."""
        return -(-depth // (self.inputs * self.turn))

    def prepared_bytes(self, depth: int) -> int:
        """Bytes of a prepared row."""
        return PREPARED_TOTAL + TABLES_BYTES * self.turns(depth)


@dataclass(frozen=True)
class FloatShape:
    """A tile of float layers: `rows` rows times `vectors` vectors of `lanes` neurons.

    fused: whether the CPU has a fused multiply-add.  unrolled: inputs of a turn of the tile's loop.
    """

    lanes: int
    vectors: int
    rows: int
    fused: bool
    unrolled: int = 1

    @property
    def panel(self) -> int:
        """Neurons side by side in a panel; divides 64."""
        return self.lanes * self.vectors


#: Vectors of bytes whose bits ARM counts side by side.
NEON_COLUMNS = 8
#: Bytes of a turn that goes through memory; and those that turns of `peaks` may read, tables and codes of the nearest cache.
CHUNK, PEAK_MEMORY = 512, 8192

#: Of a binary tile.
Shape: TypeAlias = BinaryShape | ParityShape | NibbleShape

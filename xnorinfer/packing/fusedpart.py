"""What one node of a packed network stands for: nodes of the float network that are computed together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xnorinfer.graph import INPUT, Node
from xnorinfer.net.ops import Add, Channels, Concat, Levels, Linear, Multiply, Op, Pad, Pool, Quantize
from xnorinfer.net.values import LevelValues
from xnorinfer.net.windows import Window
from xnorinfer.packing.packedops import Value, joined_value, moved_value


@dataclass(frozen=True)
class Part:
    """What one node of a packed network stands for.

    inputs: the parts that it reads, `INPUT` for what enters.  reads: their values; first the one whose numbers it computes,
    then the one at its side, if a sum is among the nodes.
    layer: the layer whose sums it makes, `whole`: of which levels, if of such; pool: the pool; concat: what joins values,
    `flat` as vectors; product: of two values; moves: what puts numbers elsewhere; numbers: the levels whose codes it makes
    numbers of; none of these: steps or a comparison of values, or where `enters`, the raw inputs as numbers or bits.  raw:
    whether nothing but that stands before it.  window: that of the whole map where a dense layer reads one.
    nodes: what is computed of each number, in order.  sign, levels: the quantizer whose bits or codes it gives; one that gives
    numbers, which float layers and averages take, is among the nodes.  given: the quantizer of the float network where `levels`
    has its numbers under the codes of other levels (`recoding`).  coded: the levels that codes are of.  quantized: the node
    of the float network whose value the quantizer reads.
    before: of a layer whose bits or codes a pool takes, how many of the nodes stand before the pool.  end: the node of the
    float network whose value it gives, none of such a layer.
    """

    name: str
    reads: tuple[Value, ...]
    inputs: tuple[int, ...] = (INPUT,)
    nodes: tuple[Node[Op], ...] = ()
    sign: Quantize | None = None
    levels: Levels | None = None
    given: Quantize | Levels | None = None
    quantized: int = INPUT
    coded: LevelValues | None = None
    end: int | None = None
    layer: Linear | None = None
    whole: LevelValues | None = None
    pool: Pool | None = None
    window: Window | None = None
    before: int | None = None
    concat: Concat | None = None
    flat: bool = False
    product: Multiply | None = None
    moves: Channels | Pad | None = None
    numbers: LevelValues | None = None
    enters: bool = False
    raw: bool = False

    @property
    def read(self) -> Value:
        """The value whose numbers it computes."""
        return self.reads[0]

    @property
    def joined(self) -> bool:
        """Whether it adds the value at its side."""
        return any(isinstance(node.op, Add) for node in self.nodes)

    @property
    def gives(self) -> Value:
        """What it gives."""
        shape = self.read.shape
        if self.window is not None:
            shape = (*self.window.outputs(shape[0], shape[1]), shape[2] if self.layer is None else self.layer.neurons)
        elif self.layer is not None:
            shape = (self.layer.neurons,)
        if self.pool is not None:
            return self.read._replace(shape=shape)
        if self.concat is not None:
            return joined_value(self.reads, flat=self.flat)
        if self.moves is not None:
            return moved_value(self.read, *places_of(self.moves, self.read))
        if self.levels is not None:
            return Value("levels", shape, self.levels.domain.top)
        return Value("reals" if self.sign is None else "bits", shape)

    @property
    def channels(self) -> int:
        """Of what it gives, or features."""
        return self.gives.shape[-1]

    @property
    def compares_inputs(self) -> bool:
        """Whether it makes bits of inputs, at limits of their own."""
        return self.raw and self.sign is not None and self.layer is None and not self.enters

    @property
    def ties(self) -> bool:
        """Whether its quantizer is torch.sign, which gives 0 at 0, where it gives +1."""
        quantizer = self.sign or self.given
        return isinstance(quantizer, Quantize) and quantizer.rule == "sign"

    @property
    def of_bits(self) -> bool:
        """Whether it is a layer whose bits, or levels, a pool takes."""
        return self.before is not None


def places_of(op: Channels | Pad, read: Value) -> tuple[tuple[int, ...], tuple[int, int, int, int]]:
    """The channels that are taken of a value, and the lines and columns around it."""
    if isinstance(op, Channels):
        return op.order, (0, 0, 0, 0)
    return tuple(range(read.shape[-1])), op.padding


def outside_of_moved(part: Part) -> float:
    """What lies outside a map that is moved, and in channels that are none, as it is stored: of levels the code."""
    assert part.moves is not None
    value = part.moves.value if isinstance(part.moves, Pad) else 0.0
    if part.coded is None:
        return value
    channels, padding = places_of(part.moves, part.read)
    return float(np.searchsorted(part.coded.numbers, value)) if -1 in channels or max(padding) > 0 else 0.0

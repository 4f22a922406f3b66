"""Which nodes of a float network become which ops of the packed one: fusion, as a rewrite that knows no numbers.

A layer takes what follows it, node by node, up to a sign whose bits binary layers read, a largest value (max pool) on the way
included: the layer then compares its sums with limits, and the pool takes bits.  Whatever does not match stays by itself: sums
as real numbers, pools and steps of those, and a comparison of each channel.  Flattening disappears: what is stored is stored in
that order anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xnorinfer.errors import NetworkError
from xnorinfer.graph import INPUT, Interpretation, Node, users_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import OPS, Add, Concat, Flatten, Linear, Norm, Op, Pool, Quantize, Steps, arrays_of
from xnorinfer.net.values import ChannelInput, RealInput, SignInput, ThresholdInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.packedops import Reads, Value


@dataclass(frozen=True)
class Part:
    """What one node of a packed network stands for.

    read: what it reads.  layer: the layer whose sums it makes; pool: the pool; neither: steps or a comparison of values, or
    where `enters`, the raw inputs as numbers or bits.  raw: whether nothing but that stands before it.  window: that of the
    whole map where a dense layer reads one.
    nodes: what is computed of each number, in order.  sign: the quantizer whose bits it gives; one that gives numbers, which
    float layers and averages take, is among the nodes.  before: of a layer whose bits a pool takes, how many of the nodes
    stand before the pool.  end: the node of the float network whose value it gives, none of a layer whose bits a pool takes.
    """

    name: str
    read: Value
    nodes: tuple[Node[Op], ...] = ()
    sign: Quantize | None = None
    end: int | None = None
    layer: Linear | None = None
    pool: Pool | None = None
    window: Window | None = None
    before: int | None = None
    enters: bool = False
    raw: bool = False

    @property
    def reads(self) -> Reads:
        return self.read.kind

    @property
    def gives(self) -> Value:
        """What it gives."""
        shape = self.read.shape
        if self.window is not None:
            shape = (*self.window.outputs(shape[0], shape[1]), shape[2] if self.layer is None else self.layer.neurons)
        elif self.layer is not None:
            shape = (self.layer.neurons,)
        if self.pool is not None:
            return Value(self.reads, shape)
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
    def of_bits(self) -> bool:
        """Whether it is a layer whose bits a pool takes."""
        return self.before is not None


def line_of(net: Net) -> Sequence[Node[Op]]:
    """The nodes, each of which reads the one before.  Raises NetworkError where a value has several readers."""
    readers = [[index for index, node in enumerate(net.nodes) if INPUT in node.inputs], *users_of(net.nodes)]
    for name, found in zip(["the input", *(node.name for node in net.nodes)], readers, strict=True):
        if len(found) > 1:
            listed = ", ".join(net.nodes[index].name for index in found)
            raise NetworkError([f"{name}: a value that several nodes read ({listed}) cannot be packed yet"])
    return net.line


def entry_of(net: Net) -> Value:
    """What enters.  An image whose pixels no op tells apart, nor its channels, is a vector."""
    first = next((node.op for node in net.nodes if not isinstance(node.op, Quantize)), None)
    flat = isinstance(first, Flatten) or (isinstance(first, Linear) and first.window is None)
    kind: Reads = "pixels"
    if isinstance(net.input, SignInput | RealInput):
        kind = net.input.kind if isinstance(net.input, RealInput) else "bits"
    return Value(kind, (net.depth,) if flat and not isinstance(net.input, ChannelInput) else net.shape)


def parts_of(net: Net) -> list[Part]:
    """The nodes of the packed network, of which each reads the one before, for a network that passed `Net.check`.

    Raises NetworkError for what cannot be packed whatever its numbers are.
    """
    return _Walk(net).parts


class _Walk:
    """From node to node; `at` is the next one, `value` what it reads."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.nodes = line_of(net)
        self.parts: list[Part] = []
        self.value = entry_of(net)
        self.at = 0
        #: Whether the map that is stored was flattened, and so has no channels in the network.
        self.flat = False
        if isinstance(net.input, ThresholdInput):
            self.add(Part("input", self.value, sign=Quantize("ge"), end=INPUT, enters=True))
        while self.at < len(self.nodes):
            _take(self.nodes[self.at], self)

    def add(self, part: Part) -> None:
        self.parts.append(replace(part, raw=all(other.enters for other in self.parts)))
        self.value = part.gives
        self.at = self.at if part.end is None else part.end + 1

    def take_layer(self, op: Linear) -> None:
        """A layer with what follows it, and a pool that then takes its bits."""
        if not op.binary or isinstance(self.net.input, ChannelInput):
            self.enter_as_numbers()
        window = op.window
        if window is None and len(self.value.shape) == 3:
            window = Window.whole(self.value.shape)
        self.flat = False
        layer = Part(self.nodes[self.at].name, self.value, layer=op, window=window)
        nodes, at = self.run(self.at + 1, layer.gives)
        if (sign := self.sign_at(at)) is not None and (op.binary or window is not None):
            self.add(replace(layer, nodes=nodes, sign=sign, end=at))
            return
        pool = self.nodes[at].op if at < len(self.nodes) else None
        if isinstance(pool, Pool) and pool.kind == "max" and not any(map(_bent, nodes)):
            behind, end = self.run(at + 1, layer.gives)
            if (sign := self.sign_at(end)) is not None:
                self.add(replace(layer, nodes=nodes + behind, sign=sign, before=len(nodes)))
                over = pool.window or Window.whole(self.value.shape)
                self.add(Part(self.nodes[at].name, self.value, pool=pool, window=over, end=end))
                return
        self.add(self.with_numbers(replace(layer, nodes=nodes), at))

    def take_values(self) -> None:
        """Elementwise nodes by themselves, or with the sign behind them."""
        nodes, at = self.run(self.at, self.value)
        part = Part("", self.value, nodes=nodes, end=at - 1)
        if (sign := self.sign_at(at)) is not None:
            if isinstance(self.net.input, ChannelInput):
                self.enter_as_numbers()
            self.add(replace(part, name=self.nodes[at].name, read=self.value, sign=sign, end=at))
            return
        part = self.with_numbers(part, at)
        if not part.nodes:
            self.at = at  # nothing but a flattening
            return
        self.enter_as_numbers()
        self.add(replace(part, name=part.nodes[0].name, read=self.value))

    def with_numbers(self, part: Part, at: int) -> Part:
        """The same with the sign behind it, if there is one, that gives numbers."""
        if at < len(self.nodes) and isinstance(self.nodes[at].op, Quantize):
            return replace(part, nodes=(*part.nodes, self.nodes[at]), end=at)
        return replace(part, end=at - 1)

    def enter_as_numbers(self) -> None:
        """Raw pixels as the real numbers that they enter as.  Raises NetworkError for inputs that are signs."""
        bits = self.value.kind == "bits"
        if bits and all(part.enters for part in self.parts):
            raise NetworkError([f"{self.nodes[self.at].name}: takes numbers, and the inputs are signs: that cannot be packed"])
        if self.value.kind == "pixels":
            at = self.at
            self.add(Part("input", self.value, end=INPUT, enters=True))
            self.at = at

    def sign_at(self, at: int) -> Quantize | None:
        """The quantizer there, if its bits are what binary layers read."""
        op = self.nodes[at].op if at < len(self.nodes) else None
        if not isinstance(op, Quantize):
            return None
        for node in self.nodes[at + 1 :]:
            if isinstance(node.op, Linear):
                return op if node.op.binary else None
            if isinstance(node.op, Pool) and node.op.kind != "max":
                return None
        return None

    def run(self, start: int, value: Value) -> tuple[tuple[Node[Op], ...], int]:
        """What is computed of each number from a node on, and the first node that is something else."""
        found: list[Node[Op]] = []
        for at in range(start, len(self.nodes)):
            node = self.nodes[at]
            if isinstance(node.op, Flatten):
                self.flat = self.flat or math.prod(value.shape[:-1]) > 1
            elif isinstance(node.op, Norm | Steps):
                if self.flat and any(np.ndim(array) for _, array in arrays_of(node)):
                    shape = " x ".join(map(str, value.shape))
                    raise NetworkError(
                        [
                            f"{node.name}: has a number for each feature of a flattened map of {shape}; packed networks have "
                            "one for each channel of a map"
                        ]
                    )
                found.append(node)
            else:
                return tuple(found), at
        return tuple(found), len(self.nodes)


#: Op -> parts of it and of what follows it, added to the walk.
_take: Interpretation[[_Walk], None] = Interpretation("fusion", OPS)


@_take.of(Linear)
def _(op: Linear, walk: _Walk) -> None:
    walk.take_layer(op)


@_take.of(Pool)
def _(op: Pool, walk: _Walk) -> None:
    window = op.window or Window.whole(walk.value.shape)
    walk.add(Part(walk.nodes[walk.at].name, walk.value, pool=op, window=window, end=walk.at))


@_take.of(Norm, Steps, Quantize, Flatten)
def _(op: Op, walk: _Walk) -> None:
    walk.take_values()


@_take.of(Add, Concat)
def _(op: Op, walk: _Walk) -> None:
    raise NetworkError([f"{walk.nodes[walk.at].name}: {type(op).__name__} cannot be packed yet"])


def _bent(node: Node[Op]) -> bool:
    """Whether what it computes is not monotone."""
    return isinstance(node.op, Steps) and any(step.bent for step in node.op.steps)

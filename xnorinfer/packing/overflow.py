"""Which values of a float network may be infinite, or NaN, as 0 times such is: those that nothing keeps within float32.

Of finite numbers no sum of a layer is NaN: products are not rounded before they are added, so that one infinite partial sum
stays so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from xnorinfer.errors import unhandled
from xnorinfer.graph import INPUT, Interpretation, Node
from xnorinfer.net.network import Net
from xnorinfer.net.ops import (
    OPS,
    Add,
    Channels,
    Concat,
    Flatten,
    Levels,
    Linear,
    Multiply,
    Norm,
    Op,
    Pad,
    Pool,
    Quantize,
    Steps,
)
from xnorinfer.net.values import ChannelInput, Domain, LevelValues, PixelInput, RealInput, SignInput, ThresholdInput
from xnorinfer.packing.folding import AffineStep, factors_of, steps_of

LARGEST = float(np.finfo(np.float32).max)


class Reach(NamedTuple):
    """How far numbers go.  size: none of them, its sign aside, is larger; nan: whether there may be NaN among them."""

    size: float
    nan: bool = False

    @property
    def infinite(self) -> bool:
        """Whether they, or what they are made of since a quantizer, may leave float32."""
        return math.isinf(self.size)


def reaches_of(net: Net) -> list[Reach]:
    """Of what every node gives; last of what enters, where `INPUT` finds it."""
    domains = [*(value.domain for value in net.values), net.input]
    reaches = [Reach(0.0)] * len(net.nodes) + [Reach(_size_of_all(net.input))]
    for index, node in enumerate(net.nodes):
        reaches[index] = reach_of(node, [reaches[read] for read in node.inputs], domains[node.inputs[0]])
    return reaches


#: (op, reaches of what it reads, what the first is) -> the reach of what it gives.
reach_of: Interpretation[[Sequence[Reach], Domain], Reach] = Interpretation("what may leave float32", OPS)


@reach_of.of(Linear)
def _(op: Linear, reads: Sequence[Reach], read: Domain) -> Reach:
    behind = steps_of(Node("", op, (INPUT,)))
    if op.binary and isinstance(read, LevelValues):
        return _reach_after([*factors_of(read), *behind], Reach(_whole(read) * op.depth))
    weights = float(op.depth) if op.binary else float(np.abs(op.weight).reshape(op.neurons, -1).sum(1, np.float64).max())
    return _reach_after(behind, Reach(_kept(reads[0].size * weights), reads[0].infinite))


@reach_of.of(Norm, Steps)
def _(op: Norm | Steps, reads: Sequence[Reach], read: Domain) -> Reach:
    return _reach_after(steps_of(Node("", op, (INPUT,))), reads[0])


@reach_of.of(Quantize)
def _(op: Quantize, reads: Sequence[Reach], read: Domain) -> Reach:
    return Reach(1.0)


@reach_of.of(Levels)
def _(op: Levels, reads: Sequence[Reach], read: Domain) -> Reach:
    return Reach(_size_of_all(op.domain))


@reach_of.of(Add)
def _(op: Add, reads: Sequence[Reach], read: Domain) -> Reach:
    both = all(one.infinite for one in reads)
    return Reach(_kept(sum(one.size for one in reads)), both or any(one.nan for one in reads))


@reach_of.of(Multiply)
def _(op: Multiply, reads: Sequence[Reach], read: Domain) -> Reach:
    return Reach(_kept(math.prod(one.size for one in reads)), any(one.infinite for one in reads))


@reach_of.of(Pool)
def _(op: Pool, reads: Sequence[Reach], read: Domain) -> Reach:
    return Reach(reads[0].size, reads[0].nan or (op.kind == "average" and reads[0].infinite))


@reach_of.of(Flatten, Concat, Channels)
def _(op: Op, reads: Sequence[Reach], read: Domain) -> Reach:
    return Reach(max(one.size for one in reads), any(one.nan for one in reads))


@reach_of.of(Pad)
def _(op: Pad, reads: Sequence[Reach], read: Domain) -> Reach:
    return Reach(max(abs(op.value), reads[0].size), reads[0].nan)


def _kept(size: float) -> float:
    """Infinite from where rounding may make it so; only a quantizer makes a number of that again."""
    return size if size <= LARGEST / 2 else math.inf


def _size_of_all(domain: Domain) -> float:
    """Of levels and inputs; of signs 1."""
    if isinstance(domain, RealInput):
        return LARGEST
    if isinstance(domain, PixelInput):
        return max(map(abs, domain.ends))
    if isinstance(domain, ChannelInput):
        return max(map(_size_of_all, domain.channels))
    if isinstance(domain, LevelValues):
        return _reach_after(factors_of(domain), Reach(_whole(domain))).size
    if isinstance(domain, SignInput | ThresholdInput):
        return 1.0
    raise unhandled("what may leave float32", domain)


def _whole(levels: LevelValues) -> float:
    return float(max(abs(levels.low - levels.zero), abs(levels.high - levels.zero)))


def _reach_after(steps: Iterable[AffineStep], reach: Reach) -> Reach:
    """What elementwise steps make of numbers that go so far."""
    size, nan = reach
    for step, *vectors in steps:
        ends = [np.abs(np.asarray(vector, np.float64)) for vector in vectors]
        a, b = (float(end.max(initial=0)) for end in ends)
        least = float(ends[0].min(initial=math.inf))
        if step in ("mul", "fma", "div", "add", "prelu"):
            zero = least == 0 and (step == "div" or (step != "add" and math.isinf(size)))
            nan = nan or zero or not math.isfinite(a + b)
        if step in ("mul", "fma"):
            size = size * a + b
        elif step == "div":
            size = size / least if least else math.inf
        elif step == "add":
            size += a
        elif step == "prelu":
            size *= max(1.0, a)
        elif step == "clip":
            if size < math.inf:
                size = min(max(size, *(end for end in (a, b) if end < math.inf), 0.0), max(a, b))
        elif step in ("tanh", "sigmoid"):
            size = min(size, 1.0) if size < math.inf else size
        else:
            raise unhandled("what may leave float32", step)
        size = _kept(size)
    return Reach(size, nan)

"""Which values of a float network may be infinite, or NaN, as 0 times such is: those that nothing keeps within float32."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

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
from xnorinfer.net.values import ChannelInput, Domain, LevelValues, PixelInput, RealInput
from xnorinfer.packing.folding import AffineStep, factors_of, steps_of

LARGEST = float(np.finfo(np.float32).max)


def may_overflow(net: Net) -> list[bool]:
    """Of every node whether what it gives may be infinite or NaN; last of what enters, where `INPUT` finds it: never."""
    domains = [*(value.domain for value in net.values), net.input]
    sizes = [0.0] * len(net.nodes) + [_size_of_all(net.input)]
    for index, node in enumerate(net.nodes):
        sizes[index] = size_of(node, [sizes[read] for read in node.inputs], domains[node.inputs[0]])
    return [math.isinf(size) for size in sizes]


#: (op, sizes of what it reads, what the first is) -> the size of what it gives: no number, its sign aside, is larger.
size_of: Interpretation[[Sequence[float], Domain], float] = Interpretation("what may leave float32", OPS)


@size_of.of(Linear)
def _(op: Linear, sizes: Sequence[float], read: Domain) -> float:
    behind = steps_of(Node("", op, (INPUT,)))
    if op.binary and isinstance(read, LevelValues):
        return _size_after([*factors_of(read), *behind], _whole(read) * op.depth)
    weights = float(op.depth) if op.binary else float(np.abs(op.weight).reshape(op.neurons, -1).sum(1, np.float64).max())
    return _size_after(behind, _kept(sizes[0] * weights))


@size_of.of(Norm, Steps)
def _(op: Norm | Steps, sizes: Sequence[float], read: Domain) -> float:
    return _size_after(steps_of(Node("", op, (INPUT,))), sizes[0])


@size_of.of(Quantize)
def _(op: Quantize, sizes: Sequence[float], read: Domain) -> float:
    return 1.0


@size_of.of(Levels)
def _(op: Levels, sizes: Sequence[float], read: Domain) -> float:
    return _size_of_all(op.domain)


@size_of.of(Add)
def _(op: Add, sizes: Sequence[float], read: Domain) -> float:
    return _kept(sum(sizes))


@size_of.of(Multiply)
def _(op: Multiply, sizes: Sequence[float], read: Domain) -> float:
    return _kept(math.prod(sizes))


@size_of.of(Pool, Flatten, Concat, Channels)
def _(op: Op, sizes: Sequence[float], read: Domain) -> float:
    return max(sizes)


@size_of.of(Pad)
def _(op: Pad, sizes: Sequence[float], read: Domain) -> float:
    return max(abs(op.value), sizes[0])


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
    return _size_after(factors_of(domain), _whole(domain)) if isinstance(domain, LevelValues) else 1.0


def _whole(levels: LevelValues) -> float:
    return float(max(abs(levels.low - levels.zero), abs(levels.high - levels.zero)))


def _size_after(steps: Iterable[AffineStep], size: float) -> float:
    """What elementwise steps make of numbers up to that size."""
    for step, *vectors in steps:
        ends = [np.abs(np.asarray(vector, np.float64)) for vector in vectors]
        a, b = (float(end.max(initial=0)) for end in ends)
        if step in ("mul", "fma"):
            size = size * a + b
        elif step == "div":
            least = float(ends[0].min(initial=math.inf))
            size = size / least if least else math.inf
        elif step == "add":
            size += a
        elif step == "prelu":
            size *= max(1.0, a)
        elif step == "clip" and size < math.inf:
            size = min(max(size, *(end for end in (a, b) if end < math.inf), 0.0), max(a, b))
        elif step in ("tanh", "sigmoid"):
            size = min(size, 1.0) if size < math.inf else size
        size = _kept(size)
    return size

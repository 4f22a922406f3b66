"""Which numbers the values of a float network often are: 0 before torch.sign is one of them, or hardly ever met.

Sums of signs are evenly apart, and so is what averages and BatchNorm make of them; relu and clips gather what lies beyond their
ends at one number.  Sums of floats, and what is added to such, are any number.  Nothing is computed of inputs here: what is
told is told of values that lie so by the way in which they are made, not by their chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.graph import INPUT, Interpretation
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
    Pad,
    Pool,
    Quantize,
    Step,
    Steps,
)
from xnorinfer.net.values import ChannelInput, PixelInput, RealInput, Shape
from xnorinfer.net.windows import Window

F64: TypeAlias = NDArray[np.float64]

#: So many kinds of numbers of one value are told apart; of more those that are 0 are kept.
MOST_KINDS = 8
#: Numbers that differ by less, in parts of them, are one: float32 has rounded them.
SAME = 2.0**-22


class Grid(NamedTuple):
    """Numbers evenly apart, `offset` and any times `unit` more; one number where the unit is 0.

    Both (channels,) or (1,) float64; NaN: none in that channel.
    """

    unit: F64
    offset: F64

    @property
    def zero(self) -> NDArray[np.bool_]:
        """Whether 0 is one of them, (channels,) bool."""
        with np.errstate(all="ignore"):
            nearest = np.where(self.unit == 0, 0, np.rint(self.offset / self.unit) * self.unit)
        return np.asarray(np.abs(self.offset - nearest) <= SAME * np.abs(self.offset))

    def scaled(self, factor: F64, shift: F64 | float = 0.0) -> Grid:
        """Times a factor, then shifted."""
        return Grid(np.abs(self.unit * factor), self.offset * factor + shift)


#: What is known of a value; empty: any number.
Often: TypeAlias = list[Grid]


def often_zero(net: Net) -> list[NDArray[np.bool_]]:
    """Of which channels the value of each node is often 0, (channels,) bool; of a vector of which numbers."""
    found: list[Often] = []
    shapes = [value.shape for value in net.values]
    for node, shape in zip(net.nodes, shapes, strict=True):
        reads = [_entering(net) if read == INPUT else found[read] for read in node.inputs]
        given = _Given(reads, [net.shape if read == INPUT else shapes[read] for read in node.inputs], shape)
        found.append(_few(_often(node, given)))
    return [_zeros(often, shape) for often, shape in zip(found, shapes, strict=True)]


def _zeros(often: Often, shape: Shape) -> NDArray[np.bool_]:
    """Of which channels 0 is among them, (channels,) bool."""
    return np.asarray(
        np.any([np.broadcast_to(grid.zero, shape[-1:]) for grid in often] or [np.zeros(shape[-1:], np.bool_)], axis=0)
    )


def _entering(net: Net) -> Often:
    """Of the inputs."""
    mapping = net.input
    if isinstance(mapping, RealInput):
        return []
    if not isinstance(mapping, PixelInput | ChannelInput):
        return [_one(2.0, -1.0)]
    channels = mapping.channels if isinstance(mapping, ChannelInput) else (mapping,)
    all_pixels = Grid(np.array([c.slope / c.divisor for c in channels]), np.array([c.intercept / c.divisor for c in channels]))
    ends = np.array([0.0 in c.ends for c in channels])  # black or white, of whole windows
    return [all_pixels, *([Grid(np.zeros(ends.shape), np.where(ends, 0.0, np.nan))] if ends.any() else [])]


def _one(unit: float, offset: float) -> Grid:
    return Grid(np.array([unit]), np.array([offset]))


def _few(often: Often) -> Often:
    """The first of many, and 0 where it is among the others."""
    rest = [grid.zero for grid in often[MOST_KINDS - 1 :]]
    if len(rest) < 2:
        return often
    zeros = np.any(np.broadcast_arrays(*rest), axis=0)
    return [*often[: MOST_KINDS - 1], Grid(np.zeros(zeros.shape), np.where(zeros, 0.0, np.nan))]


class _Given(NamedTuple):
    """What an op reads, the shapes of that, and the shape of what it gives."""

    often: Sequence[Often]
    shapes: Sequence[Shape]
    shape: Shape


#: What a value often is.
_often: Interpretation[[_Given], Often] = Interpretation("numbers met often", OPS)


@_often.of(Linear)
def _(op: Linear, given: _Given) -> Often:
    """Of signs, levels and pixels sums are evenly apart; a border of zeros leaves an odd number of terms out.

    Of others it is known that only the bias is left where all inputs are 0: black pixels, or a window that relu closes.
    """
    bias = np.zeros(op.neurons) if op.bias is None else op.bias.astype(np.float64)
    single = [grid for grid in given.often[0] if not grid.unit.any()]
    evenly = [grid for grid in given.often[0] if grid.unit.any()]
    closed = [Grid(np.zeros(op.neurons), bias)] if _zeros(single, given.shapes[0]).all() else []
    if not op.binary or len(evenly) != 1 or not all(_among(one, evenly[0]) for one in single):
        return closed
    ((unit, offset),) = evenly
    if offset.size > 1 and (offset != offset[0]).any():
        return closed
    factor = np.float64(op.h) * (1 if op.scale is None else op.scale.astype(np.float64))
    signs = np.where(op.weight.reshape(op.neurons, -1) >= 0, 1.0, -1.0).sum(axis=1)
    many = unit.size > 1 and (unit != unit[0]).any()
    apart = np.full(op.neurons, unit.min()) if many else np.broadcast_to(unit[:1], op.neurons)
    moved = offset[0] * signs
    if unit[0] == 2 and offset[0] == -1:  # signs
        apart, moved = np.ones(op.neurons), np.zeros(op.neurons)
    return [Grid(apart, moved).scaled(np.broadcast_to(factor, op.neurons), bias), *closed]


def _among(one: Grid, evenly: Grid) -> bool:
    """Whether a number of every channel, where it has one, is one of those evenly apart."""
    return bool((np.isnan(one.offset) | Grid(evenly.unit, evenly.offset - one.offset).zero).all())


@_often.of(Norm)
def _(op: Norm, given: _Given) -> Often:
    mean, gamma, beta = (None if array is None else array.astype(np.float64) for array in (op.mean, op.gamma, op.beta))
    assert mean is not None
    if op.inv_std is None:
        assert op.variance is not None
        assert op.epsilon is not None
        scale = 1 / np.sqrt(op.variance.astype(np.float64) + op.epsilon)
    else:
        scale = op.inv_std.astype(np.float64)
    scale = scale if gamma is None else scale * gamma
    shift = (0 if beta is None else beta) - mean * scale
    fixed = Grid(np.zeros(mean.shape), np.where(scale == 0, shift, np.nan))
    return [*(grid.scaled(scale, shift) for grid in given.often[0]), *([fixed] if (scale == 0).any() else [])]


@_often.of(Steps)
def _(op: Steps, given: _Given) -> Often:
    often = given.often[0]
    for step in op.steps:
        often = list(_stepped(step, often))
    return often


def _stepped(step: Step, often: Often) -> Iterable[Grid]:
    numbers = [parameter.astype(np.float64).reshape(-1) for parameter in step.parameters]
    match step.function:
        case "mul":
            factor = numbers[0]
            yield from (grid.scaled(factor) for grid in often)
            if (factor == 0).any():
                yield Grid(np.zeros(factor.shape), np.where(factor == 0, 0.0, np.nan))
        case "div":
            yield from (grid.scaled(1 / numbers[0]) for grid in often)
        case "add" | "sub":
            yield from (grid.scaled(np.ones(1), numbers[0] if step.function == "add" else -numbers[0]) for grid in often)
        case "prelu":  # as far as it does not bend
            yield from (Grid(unit, np.where((offset < 0) & (unit == 0), offset * numbers[0], offset)) for unit, offset in often)
        case "relu" | "clip":
            low, high = (0.0, np.inf) if step.function == "relu" else (float(end) for end in step.parameters)
            yield from (_one(0.0, end) for end in (low, high) if abs(end) < np.finfo(np.float32).max)
            yield from (Grid(unit, np.where(unit == 0, np.clip(offset, low, high), offset)) for unit, offset in often)
        case _:  # functions of which 0 alone is looked for
            at_zero = 0.0 if step.function == "tanh" else np.nan
            yield from (Grid(np.zeros(1), np.where(grid.zero, at_zero, np.nan)) for grid in often)


@_often.of(Quantize)
def _(op: Quantize, given: _Given) -> Often:
    return [_one(2.0, -1.0)]


@_often.of(Levels)
def _(op: Levels, given: _Given) -> Often:
    return [_one(op.step / op.divisor, 0.0)]


@_often.of(Pool)
def _(op: Pool, given: _Given) -> Often:
    if op.kind == "max":
        return given.often[0]
    taps = (op.window or Window.whole(given.shapes[0])).taps
    between = [grid for grid in given.often[0] if not grid.unit.any()]
    mixed = [  # of two numbers that it often is there are averages between
        Grid(np.abs(one.offset - other.offset) / taps, one.offset) for one, other in itertools.pairwise(between)
    ]
    return [*(Grid(unit / taps, offset) for unit, offset in given.often[0]), *mixed]


@_often.of(Flatten)
def _(op: Flatten, given: _Given) -> Often:
    return [Grid(*(np.resize(part, given.shape) for part in grid)) for grid in given.often[0]]


@_often.of(Add)
def _(op: Add, given: _Given) -> Often:
    """A sum with what may be any number is any number."""
    return [_sum(one, other) for one in given.often[0] for other in given.often[1]]


def _sum(one: Grid, other: Grid) -> Grid:
    """Evenly apart again where one of both is a number alone, or units are whole multiples; else 0 where both are 0."""
    small, large = np.minimum(one.unit, other.unit), np.maximum(one.unit, other.unit)
    with np.errstate(all="ignore"):
        ratio = large / np.where(small == 0, 1, small)
        even = (small == 0) | (np.abs(ratio - np.rint(ratio)) <= SAME * ratio)
    both = np.where(one.zero & other.zero, 0.0, np.nan)
    unit = np.where(even, np.where(small == 0, large, small), 0.0)
    return Grid(unit, np.where(even, one.offset + other.offset, both))


@_often.of(Multiply)
def _(op: Multiply, given: _Given) -> Often:
    found: Often = []
    for mine, others in (given.often, given.often[::-1]):
        for one in mine:
            found.append(Grid(np.zeros(1), np.where(one.zero, 0.0, np.nan)))
            if not one.unit.any():
                found += [other.scaled(one.offset) for other in others]
    return found


@_often.of(Concat)
def _(op: Concat, given: _Given) -> Often:
    none = _one(0.0, np.nan)
    sizes = [one[-1] if len(one) == len(given.shape) else int(np.prod(one)) for one in given.shapes]
    return [
        Grid(*(np.concatenate([np.resize(grid[part], size) for grid, size in zip(row, sizes, strict=True)]) for part in (0, 1)))
        for row in (
            [often[index] if index < len(often) else none for often in given.often]
            for index in range(max(map(len, given.often)))
        )
    ]


@_often.of(Channels)
def _(op: Channels, given: _Given) -> Often:
    order, size = (
        np.array(op.order),
        given.shapes[0][-1] if len(given.shapes[0]) == len(given.shape) else int(np.prod(given.shapes[0])),
    )
    outside = Grid(np.zeros(order.shape), np.where(order < 0, 0.0, np.nan))
    taken = [
        Grid(
            *(
                np.where(order < 0, filler, np.resize(array, size)[order])
                for array, filler in zip(grid, (0.0, np.nan), strict=True)
            )
        )
        for grid in given.often[0]
    ]
    return [*taken, *([outside] if (order < 0).any() else [])]


@_often.of(Pad)
def _(op: Pad, given: _Given) -> Often:
    return [*given.often[0], *([_one(0.0, op.value)] if max(op.padding) > 0 else [])]

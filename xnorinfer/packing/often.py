"""Which numbers the values of a float network often are: 0 before torch.sign is one of them, or hardly ever met.

Sums of signs are evenly apart, and so is what averages and BatchNorm make of them; relu and clips gather what lies beyond their
ends at one number.  Sums of floats, and what is added to such, are any number.  Nothing is computed of inputs here: what is
told is told of values that lie so by the way in which they are made, not by their chance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import unhandled
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
from xnorinfer.net.reference import binary_weights
from xnorinfer.net.values import ChannelInput, PixelInput, RealInput, Shape, SignInput, ThresholdInput
from xnorinfer.net.windows import Window, taps_inside

F64: TypeAlias = NDArray[np.float64]

#: So many kinds of numbers of one value are told apart; of more those that are 0 are kept.
MOST_KINDS = 8
#: Units of which one is so many parts of the other at most, or of a multiple of it, have one in common.
MOST_PARTS = 9
#: Weights of more sizes, signs aside, are not taken for whole multiples of one.
MOST_SIZES = 16
#: Weights that are looked at at once.
PIECE = 1 << 20
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
        with np.errstate(all="ignore"):  # of a variance of 0 others say what is wrong
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
    if isinstance(mapping, SignInput | ThresholdInput):
        return [_one(2.0, -1.0)]
    if not isinstance(mapping, PixelInput | ChannelInput):
        raise unhandled("numbers met often", mapping)
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


def _channels_taken(given: _Given, shape: Shape) -> int:
    """As how many channels an op takes a value of this shape; a map, where it gives a vector, is taken flattened."""
    return shape[-1] if len(shape) == len(given.shape) else math.prod(shape)


#: What a value often is.
_often: Interpretation[[_Given], Often] = Interpretation("numbers met often", OPS)


@_often.of(Linear)
def _(op: Linear, given: _Given) -> Often:
    """Sums of numbers evenly apart are, where weights are whole multiples of one: of signs, levels and pixels binary ones, and
    those of averages.  Where all that a neuron takes are single numbers, its sum is one: 0 and a bias, where relu closes a
    window; a neuron without weights takes none.

    Each border class has its own, as a border of zeros leaves terms out.
    """
    shape = given.shapes[0]
    channels = shape[-1] if op.window is not None or len(shape) == 1 else op.depth
    taps = 1 if op.window is None else op.window.taps
    inside = np.ones((1, taps), np.bool_)
    if op.window is not None and not op.pad:
        inside = taps_inside(op.window, *shape[:2]).reshape(-1, taps)
        inside = inside[np.argsort(-inside.sum(axis=1), kind="stable")]
    wide = [Grid(*(np.resize(part, channels) for part in np.broadcast_arrays(*grid))) for grid in given.often[0]]
    closed = np.any([(unit == 0) & (offset == 0) for unit, offset in wide] or [np.zeros(channels, np.bool_)], axis=0)
    zeros = Grid(np.zeros(channels), np.where(closed, 0.0, np.nan))
    factor = 1.0 if not op.binary else np.float64(op.h) * (1 if op.scale is None else op.scale.astype(np.float64))
    factor, bias = np.broadcast_to(factor, op.neurons), 0.0 if op.bias is None else op.bias.astype(np.float64)
    own = channels // op.groups
    rows = max(1, PIECE // op.depth)
    found: Often = []
    for grid in [zeros, *_with_mixed(wide)]:
        sums = [
            _summed(op, slice(at, min(at + rows, end)), inside, Grid(*(part[group * own : (group + 1) * own] for part in grid)))
            for group, (start, end) in enumerate(itertools.pairwise(range(0, op.neurons + 1, op.neurons // op.groups)))
            for at in range(start, end, rows)
        ]
        unit, offsets = np.concatenate([one[0] for one in sums]), np.concatenate([one[1] for one in sums], axis=1)
        found += _different([Grid(unit, offset).scaled(factor, bias) for offset in offsets])
    return found


def _summed(op: Linear, neurons: slice, inside: NDArray[np.bool_], read: Grid) -> tuple[F64, F64]:
    """How far sums of some neurons of one group are apart, (neurons,), and one of them of each border class, (classes,
    neurons); NaN of a neuron that takes other numbers, too."""
    count, known = neurons.stop - neurons.start, ~np.isnan(read.offset)
    unit, offset = np.zeros(count), np.full((len(inside), count), np.nan)
    if op.binary and not known.all():
        return unit, offset
    piece = replace(op, weight=op.weight[neurons])
    weight = (binary_weights(piece) if op.binary else piece.weight).reshape(count, inside.shape[1], -1)
    even = np.ones(count, np.bool_) if known.all() else ~(weight[:, :, ~known] != 0).any(axis=(1, 2))
    if not op.binary and read.unit.any():
        first = np.sort(np.abs(weight).reshape(count, -1)[:, : 4 * MOST_SIZES], axis=1)
        even &= (np.diff(first, axis=1) > 0).sum(axis=1) < MOST_SIZES
    rows = np.flatnonzero(even)
    if not rows.size:
        return unit, offset
    sizes = np.ones((1, 1, 1)) if op.binary else np.abs(weight[rows].astype(np.float64))
    steps = sizes * np.where(known, read.unit, 0)
    least = np.where(steps > 0, steps, np.inf).min(axis=(1, 2), keepdims=True)
    least = np.where(np.isfinite(least), least, 0)
    ratio = steps / np.where(least == 0, 1, least)
    wrong = (np.abs(ratio - np.rint(ratio)) > SAME * ratio).any(axis=(1, 2))
    unit[rows] = least[:, 0, 0]
    offsets = np.where(known, read.offset, 0)
    each = weight[rows].sum(axis=2, dtype=np.float64) * offsets[0] if (offsets == offsets[0]).all() else weight[rows] @ offsets
    offset[:, rows] = np.where(wrong, np.nan, inside @ each.T)
    return unit, offset


def _single(often: Often) -> Often:
    return [grid for grid in often if not grid.unit.any()]


def _with_mixed(often: Often) -> Often:
    """And of two numbers that a value often is what sums of both are apart."""
    pairs = itertools.pairwise(_single(often))
    return [*often, *(Grid(np.abs(one.offset - other.offset), one.offset) for one, other in pairs)]


def _different(often: Often) -> Often:
    """Those that are not all the same numbers."""
    found: dict[bytes, Grid] = {}
    for grid in often:
        place = np.where(grid.unit == 0, grid.offset, np.round(np.mod(grid.offset / grid.unit, 1) + 2.0**-20, 5) % 1)
        if not np.isnan(place).all():
            found.setdefault((place + 0.0).tobytes(), grid)
    return list(found.values())


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
        case "prelu":  # on both sides of its bend
            slope = numbers[0]
            yield from (Grid(unit, np.where((offset < 0) & (unit == 0), offset * slope, offset)) for unit, offset in often)
            yield from (grid.scaled(slope) for grid in often if grid.unit.any())
            if (slope == 0).any():
                yield Grid(np.zeros(slope.shape), np.where(slope == 0, 0.0, np.nan))
        case "relu" | "clip":
            low, high = (0.0, np.inf) if step.function == "relu" else (float(end) for end in step.parameters)
            yield from (_one(0.0, end) for end in (low, high) if abs(end) < np.finfo(np.float32).max)
            yield from (Grid(unit, np.where(unit == 0, np.clip(offset, low, high), offset)) for unit, offset in often)
        case "tanh" | "sigmoid":  # of which what they make of 0 alone is looked for
            at_zero = 0.0 if step.function == "tanh" else 0.5
            yield from (Grid(np.zeros(1), np.where(grid.zero, at_zero, np.nan)) for grid in often)
        case _:
            raise unhandled("numbers met often", step.function)


@_often.of(Quantize)
def _(op: Quantize, given: _Given) -> Often:
    return [_one(2.0, -1.0)]


@_often.of(Levels)
def _(op: Levels, given: _Given) -> Often:
    """Below and above its ends lie many values, as at those of a clip."""
    unit = op.step / op.divisor
    return [_one(unit, 0.0), *(_one(0.0, unit * (end - op.zero)) for end in (op.low, op.high))]


@_often.of(Pool)
def _(op: Pool, given: _Given) -> Often:
    if op.kind == "max":
        return given.often[0]
    window = op.window or Window.whole(given.shapes[0])
    counts = np.unique(taps_inside(window, *given.shapes[0][:2]).sum(axis=(1, 2)))[::-1]
    return _different(
        [
            Grid(unit / (window.taps if op.padded else count), offset * (count / window.taps if op.padded else 1))
            for count in counts.tolist()
            for unit, offset in _with_mixed(given.often[0])
        ]
    )


@_often.of(Flatten)
def _(op: Flatten, given: _Given) -> Often:
    return [Grid(*(np.resize(part, given.shape) for part in grid)) for grid in given.often[0]]


@_often.of(Add)
def _(op: Add, given: _Given) -> Often:
    """A sum with what may be any number is any number."""
    return [_sum(one, other) for one in given.often[0] for other in given.often[1]]


def _sum(one: Grid, other: Grid) -> Grid:
    """Evenly apart again where one of both is a number alone, or units are to each other as small whole numbers; else 0 where
    both are 0."""
    small, large = np.minimum(one.unit, other.unit), np.maximum(one.unit, other.unit)
    parts = np.arange(1, MOST_PARTS + 1).reshape(-1, 1)
    ratio = parts * (large / np.where(small == 0, 1, small))
    even = (small == 0) | (np.abs(ratio - np.rint(ratio)) <= SAME * ratio)
    both = np.where(one.zero & other.zero, 0.0, np.nan)
    unit = np.where(even.any(axis=0), np.where(small == 0, large, small / (even.argmax(axis=0) + 1)), 0.0)
    return Grid(unit, np.where(even.any(axis=0), one.offset + other.offset, both))


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
    sizes = [_channels_taken(given, shape) for shape in given.shapes]
    return [
        Grid(*(np.concatenate([np.resize(grid[part], size) for grid, size in zip(row, sizes, strict=True)]) for part in (0, 1)))
        for row in (
            [often[index] if index < len(often) else none for often in given.often]
            for index in range(max(map(len, given.often)))
        )
    ]


@_often.of(Channels)
def _(op: Channels, given: _Given) -> Often:
    order, size = np.array(op.order), _channels_taken(given, given.shapes[0])
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

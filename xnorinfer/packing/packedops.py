"""The ops of a packed network: bits and integer thresholds, independent of any CPU.

A layer is one `Dot`: signs as words (`bits`) or float32 weights, what its inputs are, and what becomes of its accumulator - an
integer compare (`Threshold`) in hidden layers, a short list of float32 steps (`Affine`) where real numbers leave the binary
part.  Around it stand pools, steps of their own, and what makes bits or real numbers of other values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitpack, bitunpack, words_for
from xnorinfer.errors import MalformedModelError, unhandled
from xnorinfer.float32 import F32, ONE, at_most, fma, sigmoid, tanh
from xnorinfer.graph import Interpretation
from xnorinfer.net.values import ChannelInput, PixelInput, Shape
from xnorinfer.net.windows import MOST_SIZE, MOST_VALUES, PoolKind, Window, borders

#: What a node reads or gives.  Of bits, a `Dot` counts mismatches: dot = depth - 2*mismatches.  pixels: integer sums of uint8.
#: levels: integer sums of codes from 0 to `Value.top`.
#: reals: with signs as weights a sum in float64 in input order, rounded to float32 once; with float32 weights a chain of fused
#: multiply-adds in that order.
Reads = Literal["bits", "pixels", "levels", "reals"]

#: Of the codes of levels: 4 bits, of pixels 8.
MOST_TOP, MOST_TOP_OF_PIXELS = 15, 255

#: Float32 steps on a value v, with vectors a and b of one entry per neuron:
#: mul v*a, add v+a, div v/a, fma v*a+b rounded once, clip min(max(v, a), b), step: +1 from a on, -1 up to b, 0 between.
#: prelu v where it is above 0, else v*a.  side: v plus the number in the same place of the node's second input, no vectors.
#: tanh, sigmoid: as `float32` has them, no vectors.
StepName = Literal["mul", "add", "fma", "clip", "div", "step", "prelu", "side", "tanh", "sigmoid"]
#: How many vectors each takes.
STEP_VECTORS: dict[StepName, int] = {
    "mul": 1,
    "add": 1,
    "fma": 2,
    "clip": 2,
    "div": 1,
    "step": 2,
    "prelu": 1,
    "side": 0,
    "tanh": 0,
    "sigmoid": 0,
}
STEP_NAMES: tuple[StepName, ...] = tuple(STEP_VECTORS)

#: Values that one node joins at most.
MOST_JOINED = 64


@dataclass(frozen=True, eq=False)
class Threshold:
    """Bit 1 iff the count is at most the limit: mismatches (bits), integer sum (pixels) or float32 sum (reals).

    limits: (neurons,) int32 for bits and pixels, float32 for reals; (border classes, neurons) int32 where `Dot` says so.  One
    below the smallest possible count means "never", -infinity among them, one at or above the largest means "always".
    """

    limits: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Grades:
    """Codes of levels: how many of a neuron's limits the count, as `Threshold` has it, is at most.

    limits: (top, neurons) or (top, border classes, neurons), none above the one before; dtypes as those of a `Threshold`.
    """

    limits: NDArray[Any]

    @property
    def top(self) -> int:
        """The largest code."""
        return int(self.limits.shape[0])


@dataclass(frozen=True, eq=False)
class Affine:
    """Float32 steps, applied in order to the accumulator.  values: (len(ops), 2, neurons) float32, the vectors a and b."""

    ops: tuple[StepName, ...]
    values: F32

    def columns(self, neurons: NDArray[np.intp]) -> Affine:
        """The steps of some neurons only."""
        return Affine(self.ops, self.values[:, :, neurons])

    def apply(self, value: F32, side: F32 | None = None, *, fused: bool = True) -> F32:
        """(rows, neurons) or (neurons,) float32 -> the same shape.  side: what the step of that name adds, of the same shape.
        fused: whether fma is rounded once, as its meaning is."""
        with np.errstate(all="ignore"):
            for op, (a, b) in zip(self.ops, self.values, strict=True):
                if op == "mul":
                    value = value * a
                elif op == "add":
                    value = value + a
                elif op == "fma" and not fused:
                    value = value * a + b
                elif op == "fma":
                    value = fma(value, np.broadcast_to(a, value.shape), np.broadcast_to(b, value.shape))
                elif op == "div":
                    value = value / a
                elif op == "clip":
                    value = np.minimum(np.maximum(value, a), b)
                elif op == "step":
                    value = np.where(value >= a, ONE, np.where(value > b, np.float32(0), -ONE))  # NaN gives -1
                elif op == "prelu":
                    value = np.where(value > 0, value, value * a)
                elif op == "side":
                    assert side is not None
                    value = value + side
                elif op == "tanh":
                    value = tanh(value)
                elif op == "sigmoid":
                    value = sigmoid(value)
                else:
                    raise unhandled("Affine.apply", op)
        return value


@dataclass(frozen=True, eq=False)
class Binarize:
    """Every number becomes a bit at a limit of its own: bit 1 iff it, negated where `mirrored`, is at most the limit;
    -infinity is "never".

    limits: (features,) int32 for pixels, float32 for reals; of a map (channels,).  mirrored: the same, bool.
    """

    limits: NDArray[Any]
    mirrored: NDArray[np.bool_]

    @classmethod
    def at_pixel(cls, threshold: int, depth: int) -> Binarize:
        """One threshold for all pixels of so many features, or channels of a map: bit 1 iff pixel >= threshold."""
        return cls(np.full(depth, -threshold, np.int32), np.ones(depth, np.bool_))

    @property
    def threshold(self) -> int | None:
        """The one pixel from which on every input is 1, if there is one."""
        first = -int(self.limits[0]) if self.limits.dtype == np.int32 else 0
        return first if 1 <= first <= 255 and (self.limits == -first).all() and self.mirrored.all() else None

    def signs(self, x: NDArray[Any]) -> NDArray[np.int8]:
        """Numbers (..., features or channels), uint8 or float32, to -1/+1, the same shape, int8."""
        wide = x.astype(np.int16) if x.dtype == np.uint8 else x
        return np.asarray(np.where(np.where(self.mirrored, -wide, wide) <= at_most(self.limits), np.int8(1), np.int8(-1)))


@dataclass(frozen=True, eq=False)
class Digitize:
    """Every number becomes the code of a level: how many limits of its own it, negated where `mirrored`, is at most.

    limits: (top, features) int32 for pixels, float32 for reals, none above the one before; of a map (top, channels).  top is at
    most 15, of pixels 255.
    mirrored: (features,) or (channels,) bool.
    """

    limits: NDArray[Any]
    mirrored: NDArray[np.bool_]

    @property
    def top(self) -> int:
        """The largest code."""
        return int(self.limits.shape[0])

    def codes(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        """Numbers (..., features or channels), uint8 or float32, to codes of the same shape."""
        wide = x.astype(np.int16) if x.dtype == np.uint8 else x
        turned = np.where(self.mirrored, -wide, wide)
        return np.asarray(sum((turned <= limits).astype(np.uint8) for limits in at_most(self.limits)))


@dataclass(frozen=True, eq=False)
class Dot:
    """A dense layer, or with a window a convolution; what is said of rows of inputs holds of windows then.

    weights: (neurons, words_for(depth)) uint64, bit 1 = +1, pad bits 0; or (neurons, depth) float32, which reads reals.  depth:
    inputs of a neuron; of a window in the order (kernel row, kernel column, channel), channels packed without gaps.
    The accumulator meets `output`: a bias is its first step.
    window: what reads a map has one, a dense layer that of the whole map; None where vectors are read.
    groups, pad: as `net.ops.Linear` has them.  Outside the map with pad 0 nothing is counted: mismatches are those of the taps
    inside, their dot is (inputs inside) - 2*mismatches, a pixel outside is 0 behind the mapping.  Where that makes several
    border classes, the limits of a `Threshold` on bits or pixels are (border classes, neurons), in the order of
    `windows.borders`, those of bits at most the inputs inside.  Real sums of all classes have one limit.
    low: of levels, the whole number that the code 0 stands for: the dot is (sum of codes) + low * (sum of weights), and what
    lies outside a map has the code -low.  0 where there are neither steps nor an outside, because nothing depends on it then.
    """

    reads: Reads
    depth: int
    weights: NDArray[Any]
    output: Threshold | Grades | Affine
    window: Window | None = None
    groups: int = 1
    pad: int = 0
    low: int = 0

    @property
    def neurons(self) -> int:
        return int(self.weights.shape[0])

    @property
    def binary(self) -> bool:
        """Whether the weights are bits."""
        return self.weights.dtype.kind != "f"

    @property
    def gives(self) -> Reads:
        return "bits" if isinstance(self.output, Threshold) else "levels" if isinstance(self.output, Grades) else "reals"

    @property
    def top(self) -> int:
        """The largest code, where it gives levels; else 0."""
        return self.output.top if isinstance(self.output, Grades) else 0

    @property
    def outside(self) -> int:
        """What a map holds outside, as it is stored: a sign, 0, or a code; 0 where nothing is outside."""
        if self.window is None or not any(self.window.padding):
            return 0
        return -self.low if self.reads == "levels" else self.pad

    @property
    def limits(self) -> NDArray[Any] | None:
        """What counts are compared with; None where they meet steps."""
        return None if isinstance(self.output, Affine) else self.output.limits


@dataclass(frozen=True, eq=False)
class Pool:
    """One value of every window and channel of a map; what lies outside takes no part.

    kind max, of bits: OR, of a channel in `falling` (channels,) bool AND, for a sum whose largest makes the smallest bit.  Of
    levels and reals: the largest; `falling` the smallest.  kind average: of reals, `net.ops.Pool` says in which order, and
    `padded`.
    """

    kind: PoolKind
    window: Window
    falling: NDArray[np.bool_] | None = None
    padded: bool = False


@dataclass(frozen=True, eq=False)
class Elementwise:
    """Float32 steps on real numbers, those of each channel.  With a step `side`, as a layer may have one, too, the node reads
    two values, the second of as many numbers as it gives."""

    steps: Affine


@dataclass(frozen=True, eq=False)
class Mapped:
    """Pixels as the real numbers that they enter as: values (256, channels) or (256, 1) float32, one for all channels; or codes
    of levels as what they stand for: (top + 1, 1) float32."""

    values: F32

    @classmethod
    def of(cls, mapping: PixelInput | ChannelInput) -> Mapped:
        """The table of an input."""
        channels = mapping.channels if isinstance(mapping, ChannelInput) else (mapping,)
        pixels = np.arange(256, dtype=np.float64)
        return cls(
            np.stack([(one.slope * pixels + one.intercept) / one.divisor for one in channels], axis=1).astype(np.float32)
        )


@dataclass(frozen=True, eq=False)
class Concat:
    """Values side by side along channels, all of bits, of levels up to one code or of reals, pixel by pixel.

    flat: all as vectors, maps line by line; so a map alone becomes one.
    """

    flat: bool = False


@dataclass(frozen=True, eq=False)
class Multiply:
    """Products of two real values: of as many numbers, or the second has one for each channel of the first."""


@dataclass(frozen=True, eq=False)
class Moved:
    """Numbers, bits or codes in other places: some channels of every pixel, in any order, and a border or less than all pixels.

    channels: (channels given,) int32, which channel of what is read each is, -1: none.  padding: lines and columns outside,
    (top, bottom, left, right), below 0 those that are left out.  value: of what lies outside, and of channels that are none; of
    bits -1 or +1, of levels a code.
    """

    channels: NDArray[np.int32]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    value: float = 0.0


PackedOp: TypeAlias = Binarize | Digitize | Dot | Pool | Elementwise | Mapped | Concat | Multiply | Moved
#: Every op of a packed network; what interpretations of it must know.
PACKED_OPS: tuple[type, ...] = (Binarize, Digitize, Dot, Pool, Elementwise, Mapped, Concat, Multiply, Moved)


class Value(NamedTuple):
    """What a node gives for one sample: numbers of a kind, (features,) or (height, width, channels).

    Bits of a map are words of every pixel, pixels line by line; real numbers lie channels innermost.  Levels are bit planes of
    their codes from 0 to `top`, each as bits of the whole map, the lowest first.
    """

    kind: Reads
    shape: Shape
    top: int = 0

    @property
    def planes(self) -> int:
        """Bits of a number that is stored in bits."""
        return self.top.bit_length() if self.kind == "levels" else 1

    @property
    def width(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def words(self) -> int:
        """uint64 words that its bits take."""
        return math.prod(self.shape[:-1]) * self.planes * words_for(self.shape[-1])

    @property
    def nbytes(self) -> int:
        """Bytes that it takes between two nodes: words of bits or planes, else float32, of pixels bytes."""
        of_number = {"reals": 4, "pixels": 1}.get(self.kind)
        return 8 * self.words if of_number is None else of_number * self.width

    def signs(self, words: NDArray[np.uint64]) -> NDArray[np.int8]:
        """Its bits, (rows, words), as -1/+1, (rows, width) int8."""
        channels = self.shape[-1]
        return bitunpack(words.reshape(-1, words_for(channels)), channels).reshape(len(words), self.width)

    def codes(self, words: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Its levels, (rows, words), as codes, (rows, width) uint8."""
        channels = self.shape[-1]
        signs = bitunpack(words.reshape(-1, words_for(channels)), channels).reshape(len(words), self.planes, self.width)
        return np.asarray(sum((signs[:, plane] > 0).astype(np.uint8) << plane for plane in range(self.planes)))


# ---------------------------------------------------------------- what lies outside a map


class Outside(NamedTuple):
    """What a padding of 0 does to a layer of signs.

    of: (outputs down, outputs across), the border class of each output.  inputs: (classes, 1) int64, inputs of a neuron that
    lie on the map.  plus: (classes, neurons) int64, the +1 among the weights of the others: so much more is counted where those
    enter as 0, be it bits or pixels.
    """

    of: NDArray[np.int64]
    inputs: NDArray[np.int64]
    plus: NDArray[np.int64]


def outside_of(op: Dot, read: Value) -> Outside | None:
    """The border classes of a layer that counts; None where nothing lies outside, or counts like what lies inside.

    Sums of reals have none: what is 0 changes none of them.  Levels have the code of 0 there.
    """
    if op.window is None or op.reads in ("reals", "levels") or op.pad or not any(op.window.padding):
        return None
    found = borders(op.window, *read.shape[:2])
    if found.inside.all():
        return None
    beyond = np.repeat(~found.inside.reshape(len(found.inside), -1), op.depth // op.window.taps, axis=1)
    plus = [np.bitwise_count(op.weights & words).sum(axis=1, dtype=np.int64) for words in bitpack(beyond)]
    return Outside(found.of, op.depth - beyond.sum(axis=1, keepdims=True, dtype=np.int64), np.array(plus))


def joined_value(reads: Sequence[Value], *, flat: bool) -> Value:
    """Values side by side."""
    if flat:
        return reads[0]._replace(shape=(sum(read.width for read in reads),))
    return reads[0]._replace(shape=(*reads[0].shape[:-1], sum(read.shape[-1] for read in reads)))


def moved_value(read: Value, channels: Sequence[Any] | NDArray[Any], padding: Sequence[int]) -> Value:
    """Numbers in other places, as `Moved` has them."""
    if len(read.shape) == 1:
        return read._replace(shape=(len(channels),))
    top, bottom, left, right = padding
    return read._replace(shape=(read.shape[0] + top + bottom, read.shape[1] + left + right, len(channels)))


def side_of(op: PackedOp) -> bool:
    """Whether it adds its second input to what it computes."""
    steps = op.steps if isinstance(op, Elementwise) else op.output if isinstance(op, Dot) else None
    return isinstance(steps, Affine) and "side" in steps.ops


# ---------------------------------------------------------------- what every op gives and stores

#: (op, where it stands, what it reads) -> what it gives.  Raises MalformedModelError where a window does not fit.
value_of: Interpretation[[str, list[Value]], Value] = Interpretation("PackedModel.values", PACKED_OPS)
#: Op -> its arrays under their names in files, in their order there.
stored_arrays: Interpretation[[], dict[str, NDArray[Any]]] = Interpretation("PackedModel.tensors", PACKED_OPS)

#: Numbers that a sample may have in one map, and taps that a window may.
MAX_NUMBERS, MAX_TAPS = 2**31 - 1, 2**24


def _windowed(where: str, window: Window, read: Value, channels: int, kind: Reads, top: int = 0) -> Value:
    """What a window over a map gives, of so many channels."""
    if len(read.shape) != 3:
        raise MalformedModelError(f"{where}: has a window, but reads a vector of {read.width}")
    height, width, _ = read.shape
    outputs = window.outputs(height, width)
    if min(outputs) < 1:
        down, across = window.reach
        raise MalformedModelError(
            f"{where}: its window of {down} x {across} is larger than the padded map of {height} x {width}"
        )
    if window.taps > MAX_TAPS or math.prod(outputs) * window.taps * read.shape[2] > MOST_VALUES:
        raise MalformedModelError(
            f"{where}: its window of {window.size} over a map of {height} x {width} reads too many numbers"
        )
    return sized(where, Value(kind, (*outputs, channels), top))


def sized(where: str, value: Value) -> Value:
    """The same value.  Raises MalformedModelError for one that is too large."""
    if value.width > MAX_NUMBERS or (len(value.shape) > 1 and max(value.shape[:2]) > MOST_SIZE):
        raise MalformedModelError(f"{where}: {' x '.join(map(str, value.shape))} numbers are too many, at most {MAX_NUMBERS}")
    return value


@value_of.of(Binarize)
def _(op: Binarize, where: str, read: list[Value]) -> Value:
    return Value("bits", read[0].shape)


@value_of.of(Digitize)
def _(op: Digitize, where: str, read: list[Value]) -> Value:
    return Value("levels", read[0].shape, op.top)


@value_of.of(Dot)
def _(op: Dot, where: str, read: list[Value]) -> Value:
    if op.window is not None:
        return _windowed(where, op.window, read[0], op.neurons, op.gives, op.top)
    if len(read[0].shape) != 1:
        raise MalformedModelError(f"{where}: reads a map of {' x '.join(map(str, read[0].shape))} and has no window")
    return Value(op.gives, (op.neurons,), op.top)


@value_of.of(Pool)
def _(op: Pool, where: str, read: list[Value]) -> Value:
    return _windowed(where, op.window, read[0], read[0].shape[-1], read[0].kind, read[0].top)


@value_of.of(Elementwise, Mapped)
def _(op: Elementwise | Mapped, where: str, read: list[Value]) -> Value:
    return Value("reals", read[0].shape)


@value_of.of(Concat)
def _(op: Concat, where: str, read: list[Value]) -> Value:
    if not op.flat and len({value.shape[:-1] for value in read}) > 1:
        shapes = " and ".join(" x ".join(map(str, value.shape)) for value in read)
        raise MalformedModelError(f"{where}: joins values of unlike shapes, {shapes}")
    return sized(where, joined_value(read, flat=op.flat))


@value_of.of(Multiply)
def _(op: Multiply, where: str, read: list[Value]) -> Value:
    return Value("reals", read[0].shape)


@value_of.of(Moved)
def _(op: Moved, where: str, read: list[Value]) -> Value:
    made = moved_value(read[0], op.channels, op.padding)
    if min(made.shape) < 1 or (len(made.shape) == 1 and any(op.padding)):
        shape = " x ".join(map(str, read[0].shape))
        raise MalformedModelError(f"{where}: moves {shape} numbers by {op.padding}, which leaves no map")
    return sized(where, made)


@stored_arrays.of(Binarize, Digitize)
def _(op: Binarize | Digitize) -> dict[str, NDArray[Any]]:
    return {"limits": op.limits, "mirrored": op.mirrored}


@stored_arrays.of(Dot)
def _(op: Dot) -> dict[str, NDArray[Any]]:
    found = {"bits" if op.binary else "weight": op.weights}
    if isinstance(op.output, Threshold | Grades):
        return {**found, "limits": op.output.limits}
    if isinstance(op.output, Affine):
        return {**found, "steps": op.output.values}
    raise unhandled("PackedModel.tensors", op.output)


@stored_arrays.of(Concat, Multiply)
def _(op: Concat | Multiply) -> dict[str, NDArray[Any]]:
    return {}


@stored_arrays.of(Pool)
def _(op: Pool) -> dict[str, NDArray[Any]]:
    return {} if op.falling is None else {"falling": op.falling}


@stored_arrays.of(Elementwise)
def _(op: Elementwise) -> dict[str, NDArray[Any]]:
    return {"steps": op.steps.values}


@stored_arrays.of(Moved)
def _(op: Moved) -> dict[str, NDArray[Any]]:
    return {"channels": op.channels}


@stored_arrays.of(Mapped)
def _(op: Mapped) -> dict[str, NDArray[Any]]:
    return {"values": op.values}

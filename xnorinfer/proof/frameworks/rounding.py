"""Whether rounding explains an answer: a network walked with a bound on what the roundings of any framework can add up to.

Sums of n terms are off by n units at most, in any order (Higham 2002, Accuracy and Stability, 4.2).  Where a value lies closer
to a sign's tie than that, both bits are tried; an answer is explained if one of the networks that come out gives it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import unhandled
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT, Interpretation, Node
from xnorinfer.memory import in_rows
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
    Step,
    Steps,
)
from xnorinfer.net.reference import beside, binary_weights, channels_of, mapped_input, node_outputs, padded, windows_of
from xnorinfer.net.ties import Rule, binarize
from xnorinfer.net.values import ChannelInput, PixelInput, SignInput
from xnorinfer.net.windows import Window

F64 = NDArray[np.float64]

#: Half the distance between 1 and the next float32: the relative error of one rounding.
ROUNDING = 2.0**-24
#: Roundings of BatchNorm: of the variance and the epsilon, 1/sqrt (TensorFlow's is two units off), two products, two sums.
IN_NORM = 10
#: Units in the last place that a framework's float32 tanh is off at most, its sigmoid of 1, as ONNX Runtime's near 0.
IN_FUNCTION = 8
#: Where the bit changes.  Rules that round (x + 1) / 2 also round the addition, in every way to write it.
TIES: dict[Rule, float] = {"round-even": 2.0**-24, "round-away": -(2.0**-25), "sign": 0.0, "ge": 0.0, "gt": 0.0}
#: Networks tried for one sample at most, and bits of one layer of which both are tried: those nearest to the tie.
TRIES = 512
NEAREST = 10


@dataclass(frozen=True)
class Bounded:
    """Values (rows, neurons), or (rows, height, width, channels), and how far off they can be, each 0 or above."""

    value: F64
    error: F64

    @property
    def largest(self) -> F64:
        """How large they can be."""
        return np.abs(self.value) + self.error


@dataclass
class Left:
    """Whether choices of open bits are left that were not tried."""

    choices: bool = False


class RoundedNet:
    """A network whose nodes bound their roundings."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.nodes = net.nodes
        signs = [index for index, node in enumerate(self.nodes) if isinstance(node.op, Quantize)]
        self.first_sign = signs[0] if signs else -1
        #: Scales that may be means of so many latents, which are rounded themselves, by the numbers of their nodes.
        self._means = {index: depth for index, node in enumerate(self.nodes) if (depth := self._averaged(node)) is not None}
        self._weights = {id(op): (binary_weights(op) if op.binary else op.weight).astype(np.float64) for _, op in net.linears}

    def _averaged(self, node: Node[Op]) -> int | None:
        """How many inputs the neurons have whose sums of signs a node scales; None where it does not."""
        before = self.nodes[node.inputs[0]].op if node.inputs[0] != INPUT else None
        scales = isinstance(node.op, Steps) and node.op.steps and node.op.steps[0].function in ("mul", "div")
        return before.depth if scales and isinstance(before, Linear) and before.binary else None

    def start(self, x: NDArray[Any]) -> Bounded:
        """Raw inputs (rows, depth); the mapping of pixels is rounded a few times if the program does it."""
        mapping = self.net.input
        value = mapped_input(mapping, x.reshape(len(x), *self.net.shape)).astype(np.float64)
        channels = mapping.channels if isinstance(mapping, ChannelInput) else (mapping,)
        largest = max((abs(end) for one in channels if isinstance(one, PixelInput) for end in one.ends), default=0.0)
        return Bounded(value, np.full(value.shape, 4 * ROUNDING * largest))

    def exact(self, x: NDArray[Any]) -> tuple[list[F32], Bounded]:
        """What every node gives for raw inputs (rows, depth), and the scores with those bits, bounded."""
        outputs = [value for _, value in node_outputs(self.net, x)]
        return outputs, self._bounded(len(self.nodes) - 1, x, outputs)

    @functools.cached_property
    def behind(self) -> RoundedNet:
        """The nodes behind the first sign, whose inputs are what that gives."""
        shape = self.net.values[self.first_sign].shape
        return RoundedNet(Net.chain(SignInput(), self.net.named[self.first_sign + 1 :], self.net.profile, shape))

    def tried(self, x: NDArray[Any], most: int = TRIES, left: Left | None = None) -> Iterator[Bounded]:
        """The scores (1, classes) of one raw sample x (1, depth), for so many choices of bits that rounding leaves open.

        left: is told whether there are more.
        """
        left = left or Left()
        for count, scores in enumerate(self._walk(0, {INPUT: self.start(x)}, left)):
            if count == most:
                left.choices = True
                return
            yield scores

    def first_open(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        """(rows, neurons), or of pixels: bits of the first sign that rounding leaves open, for raw inputs (rows, depth)."""
        sign = self.nodes[self.first_sign].op
        assert isinstance(sign, Quantize)
        return _is_open(sign, self._bounded(self.nodes[self.first_sign].inputs[0], x, ()))

    def _bounded(self, wanted: int, x: NDArray[Any], outputs: Sequence[F32]) -> Bounded:
        """What a node gives, or the input; signs before it are those of the outputs of all nodes."""
        needed, known = {wanted}, {INPUT: self.start(x)}
        for index in range(wanted, -1, -1):
            if index in needed and (index == wanted or not isinstance(self.nodes[index].op, Quantize | Levels)):
                needed.update(self.nodes[index].inputs)
        order = sorted(needed - {INPUT})
        last = {read: index for index in order for read in self.nodes[index].inputs}
        for index in order:
            if index != wanted and isinstance(self.nodes[index].op, Quantize | Levels):
                known[index] = _exact(outputs[index])
            else:
                known[index] = self.next(index, known)
            for read in self.nodes[index].inputs:
                if last[read] == index:  # large networks have values of gigabytes
                    known.pop(read, None)
        return known[wanted]

    def next(self, index: int, known: Mapping[int, Bounded]) -> Bounded:
        """What a node gives, of what those before it give and the input."""
        first, *others = (known[read] for read in self.nodes[index].inputs)
        if index in self._means:
            first = Bounded(first.value, first.error + self._means[index] * ROUNDING * first.largest)
        return rounding(self.nodes[index], first, self._weights, *others)

    def _walk(self, begin: int, known: dict[int, Bounded], left: Left) -> Iterator[Bounded]:
        """known: what the nodes before give."""
        for index in range(begin, len(self.nodes)):
            node = self.nodes[index]
            if isinstance(node.op, Quantize | Levels):
                read = known[node.inputs[0]]
                ways = _open_bits(node.op, read, left) if isinstance(node.op, Quantize) else _open_levels(node.op, read, left)
                for bits in ways:
                    yield from self._walk(index + 1, {**known, index: _exact(bits)}, left)
                return
            known[index] = self.next(index, known)
        yield known[len(self.nodes) - 1]


def _exact(bits: NDArray[Any]) -> Bounded:
    return Bounded(bits.astype(np.float64), np.zeros(bits.shape))


def scores_of(bounded: Bounded) -> Bounded:
    """Scores as (rows, all of them)."""
    return Bounded(*(in_rows(part) for part in (bounded.value, bounded.error)))


#: (op, what enters it, weights, or their signs, by the id of the op, what else enters it) -> what leaves it.
rounding: Interpretation[..., Bounded] = Interpretation("frameworks.rounding", OPS)


def _summed(op: Linear, x: F64, weights: F64, outside: float) -> F64:
    """The sums of a layer over x, which has `outside` beyond its map."""
    if not (x.any() or outside):  # as signs are off
        across = () if op.window is None else op.window.outputs(*x.shape[1:3])
        return np.zeros((len(x), *across, op.neurons))
    if op.window is None:
        return np.asarray(in_rows(x) @ weights.T)
    taps, _ = windows_of(x, op.window, outside)
    groups = zip(np.split(taps, op.groups, axis=-1), np.split(weights, op.groups), strict=True)
    found = [part.reshape(*taps.shape[:3], -1) @ in_rows(kernels).T for part, kernels in groups]
    return np.concatenate(found, axis=-1)


@rounding.of(Linear)
def _linear(op: Linear, now: Bounded, weights: Mapping[int, F64]) -> Bounded:
    bias = np.zeros(op.neurons) if op.bias is None else op.bias.astype(np.float64)
    given = weights[id(op)]
    sums = _summed(op, now.value, given, op.pad)
    sizes, errors = (_summed(op, x, np.abs(given), pad) for x, pad in ((now.largest, abs(op.pad)), (now.error, 0)))
    if not op.binary:
        return Bounded(sums + bias, (op.depth + 4) * ROUNDING * (sizes + np.abs(bias)) + errors)
    unit = np.float64(op.h) if op.scale is None else op.h * op.scale.astype(np.float64)
    value = sums * unit
    exact = np.abs(now.value).max(initial=0) <= 1 and not (now.value % 1).any() and math.frexp(op.h)[0] == 0.5
    error = errors * np.abs(unit)
    if exact and op.scale is None:
        # Integers times a power of 2, nothing is rounded: equal scores are for the argmax to decide.
        error = error if op.bias is None else error + 2 * ROUNDING * (np.abs(value) + error + np.abs(bias))
    else:  # a scale is a mean of latents, which is rounded itself
        roundings = op.depth * (1 if op.scale is None else 2) + 4
        error = roundings * ROUNDING * (sizes * np.abs(unit) + np.abs(bias)) + error
    return Bounded(value + bias, error)


@rounding.of(Pool)
def _pool(op: Pool, now: Bounded, weights: Mapping[int, F64]) -> Bounded:
    window = op.window or Window.whole(now.value.shape[1:])
    values, inside = windows_of(now.value, window, -np.inf if op.kind == "max" else 0)
    errors, _ = windows_of(now.error, window, 0)
    if op.kind == "max":
        return Bounded(values.max(axis=(3, 4)), errors.max(axis=(3, 4)))
    count = (np.full(inside.shape[:2], window.taps) if op.padded else inside.sum(axis=(2, 3)))[..., None]
    sizes = (np.abs(values) + errors).sum(axis=(3, 4))
    error = errors.sum(axis=(3, 4)) + (window.taps + 1) * ROUNDING * sizes
    return Bounded(values.sum(axis=(3, 4)) / count, error / count)


@rounding.of(Flatten)
def _flatten(op: Flatten, now: Bounded, weights: Mapping[int, F64]) -> Bounded:
    return scores_of(now)


@rounding.of(Add)
def _add(op: Add, now: Bounded, weights: Mapping[int, F64], other: Bounded) -> Bounded:
    value, error = now.value + other.value, now.error + other.error
    return Bounded(value, error + ROUNDING * (np.abs(value) + error))


@rounding.of(Concat)
def _concat(op: Concat, now: Bounded, weights: Mapping[int, F64], *others: Bounded) -> Bounded:
    every = (now, *others)
    return Bounded(*(np.concatenate([getattr(one, part) for one in every], axis=-1) for part in ("value", "error")))


@rounding.of(Multiply)
def _multiply(op: Multiply, now: Bounded, weights: Mapping[int, F64], other: Bounded) -> Bounded:
    factor, error = (beside(now.value, part) for part in (other.value, other.error))
    value = now.value * factor
    error = np.abs(now.value) * error + now.error * (np.abs(factor) + error)
    return Bounded(value, error + ROUNDING * (np.abs(value) + error))


@rounding.of(Channels)
def _channels(op: Channels, now: Bounded, weights: Mapping[int, F64]) -> Bounded:
    return Bounded(channels_of(op, now.value), channels_of(op, now.error))


@rounding.of(Pad)
def _pad(op: Pad, now: Bounded, weights: Mapping[int, F64]) -> Bounded:
    return Bounded(padded(op, now.value, op.value), padded(op, now.error, 0))


@rounding.of(Norm)
def _norm(op: Norm, now: Bounded, weights: Mapping[int, F64]) -> Bounded:
    gamma = 1.0 if op.gamma is None else op.gamma.astype(np.float64)
    beta = np.zeros(op.mean.size) if op.beta is None else op.beta.astype(np.float64)
    if op.inv_std is not None:
        alpha = gamma * op.inv_std.astype(np.float64)
    else:
        assert op.variance is not None
        assert op.epsilon is not None
        alpha = gamma / np.sqrt(op.variance.astype(np.float64) + op.epsilon)
    size = np.abs(now.largest * alpha) + np.abs(op.mean * alpha) + np.abs(beta)
    return Bounded((now.value - op.mean) * alpha + beta, now.error * np.abs(alpha) + IN_NORM * ROUNDING * size)


@rounding.of(Steps)
def _steps(op: Steps, now: Bounded, weights: Mapping[int, F64]) -> Bounded:
    for step in op.steps:
        now = _step(step, now.value, now.error)
    return now


@rounding.of(Quantize)
def _quantize(op: Quantize, now: Bounded, weights: Mapping[int, F64]) -> Bounded:
    """Where a bit is open it is anything from -1 to +1."""
    is_open = _is_open(op, now)
    bits = binarize(now.value.astype(np.float32), op.rule).astype(np.float64)
    return Bounded(np.where(is_open, 0, bits), is_open.astype(np.float64))


@rounding.of(Levels)
def _levels(op: Levels, now: Bounded, weights: Mapping[int, F64]) -> Bounded:
    """Where levels are open they are anything between them."""
    ends = [mapped_input(op.domain, _level_of(op, now.value + turn * now.error)).astype(np.float64) for turn in (-1, 1)]
    return Bounded((ends[0] + ends[1]) / 2, np.abs(ends[1] - ends[0]) / 2)


def _step(step: Step, x: F64, error: F64) -> Bounded:
    """None of the functions stretches a distance, but a prelu by its slope."""
    numbers = [parameter.astype(np.float64) for parameter in step.parameters]
    match step.function:
        case "add" | "sub":
            x = x + numbers[0] if step.function == "add" else x - numbers[0]
            return Bounded(x, error + 2 * ROUNDING * (np.abs(x) + error + np.abs(numbers[0])))
        case "mul" | "div":
            factor = numbers[0] if step.function == "mul" else 1 / numbers[0]
            x, error = x * factor, error * np.abs(factor)
            return Bounded(x, error + 2 * ROUNDING * (np.abs(x) + error))
        case "relu":
            return Bounded(np.maximum(x, 0), error)
        case "clip":
            return Bounded(np.clip(x, *numbers), error)
        case "prelu":
            value, error = np.where(x > 0, x, numbers[0] * x), error * np.maximum(1, np.abs(numbers[0]))
            return Bounded(value, error + ROUNDING * (np.abs(value) + error))
        case "tanh":
            value = np.tanh(x)
        case "sigmoid":
            value = np.exp(-np.logaddexp(0, -x))
            return Bounded(value, error + IN_FUNCTION * ROUNDING)
        case _:
            raise unhandled("frameworks.rounding", step.function)
    return Bounded(value, error + IN_FUNCTION * ROUNDING * (np.abs(value) + error))


def _is_open(op: Quantize, now: Bounded) -> NDArray[np.bool_]:
    """(rows, neurons), or of pixels: where both bits lie within rounding; a tie without any is for the rule to decide."""
    return np.asarray((np.abs(now.value - TIES[op.rule]) <= now.error) & (now.error > 0))


def _open_bits(op: Quantize, now: Bounded, left: Left) -> Iterator[F64]:
    """The bits (1, ...) of a sign, then those with some of the open ones otherwise: few first, nearest to the tie first."""
    bits = binarize(now.value.astype(np.float32), op.rule).astype(np.float64)
    yield bits
    near = np.flatnonzero(_is_open(op, now)[0])
    share = np.abs(now.value.reshape(-1)[near] - TIES[op.rule]) / now.error.reshape(-1)[near]
    left.choices |= len(near) > NEAREST
    near = near[np.argsort(share, kind="stable")][:NEAREST]
    values: Sequence[float] = (-1, 0, 1) if op.rule == "sign" else (-1, 1)
    for count in range(1, len(near) + 1):
        for chosen in itertools.combinations(near, count):
            others = [[value for value in values if value != bits.reshape(-1)[bit]] for bit in chosen]
            for choice in itertools.product(*others):
                flipped = bits.reshape(-1).copy()
                flipped[list(chosen)] = choice
                yield flipped.reshape(bits.shape)


def _level_of(op: Levels, x: F64) -> F64:
    if op.thresholds is not None:
        return np.asarray(op.low + sum((x >= of_level).astype(np.float64) for of_level in op.thresholds))
    return np.asarray(np.clip(np.rint(x), op.low, op.high))


def _open_levels(op: Levels, now: Bounded, left: Left) -> Iterator[F64]:
    """What levels (1, ...) stand for, then some of the open ones otherwise, as `_open_bits` has it."""
    whole = _level_of(op, now.value).reshape(-1)
    ends = [_level_of(op, now.value + turn * now.error).reshape(-1) for turn in (-1, 1)]
    others = np.where(ends[0] != whole, *ends)
    near = np.flatnonzero(others != whole)
    left.choices |= len(near) > NEAREST
    beside = np.abs(now.value.reshape(-1)[near] - (whole + others)[near] / 2)
    near = near[np.argsort(beside / now.error.reshape(-1)[near], kind="stable")][:NEAREST]
    for count in range(len(near) + 1):
        for chosen in itertools.combinations(near, count):
            found = whole.copy()
            found[list(chosen)] = others[list(chosen)]
            yield mapped_input(op.domain, found).astype(np.float64).reshape(now.value.shape)

"""Whether rounding explains an answer: a network walked with a bound on what the roundings of any framework can add up to.

Sums of n terms are off by n units at most, in any order (Higham 2002, Accuracy and Stability, 4.2).  Where a value lies closer
to a sign's tie than that, both bits are tried; an answer is explained if one of the networks that come out gives it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import unhandled
from xnorinfer.graph import Interpretation, chain
from xnorinfer.netspec import (
    BatchNorm,
    Chain,
    Dense,
    Elementwise,
    FloatDense,
    Hardtanh,
    Layer,
    NetSpec,
    PixelInput,
    Rule,
    Sign,
)
from xnorinfer.programs.base import entering
from xnorinfer.reference import BINARIZE, binary_weights

F64 = NDArray[np.float64]

#: Half the distance between 1 and the next float32: the relative error of one rounding.
ROUNDING = 2.0**-24
#: Roundings of BatchNorm: of the variance and the epsilon, 1/sqrt (TensorFlow's is two units off), two products, two sums.
IN_NORM = 10
#: Units in the last place that a framework's float32 tanh or sigmoid is off at most.
IN_FUNCTION = 8
#: Where the bit changes.  Rules that round (x + 1) / 2 also round the addition, in every way to write it.
TIES: dict[Rule, float] = {"round-even": 2.0**-24, "round-away": -(2.0**-25), "sign": 0.0, "ge": 0.0, "gt": 0.0}
#: Networks tried for one sample, and bits of one layer of which both are tried: those nearest to the tie.
TRIES = 512
NEAREST = 10


@dataclass(frozen=True)
class Bounded:
    """Values (rows, neurons) and how far off they can be, each 0 or above."""

    value: F64
    error: F64


class RoundedNet:
    """A network whose layers bound their roundings."""

    def __init__(self, net: NetSpec) -> None:
        self.net = net
        self.nodes = chain((layer.name, layer) for layer in net.layers)
        signs = [index for index, layer in enumerate(net.layers) if isinstance(layer, Sign)]
        self.first_sign, self.last_sign = (signs[0], signs[-1]) if signs else (-1, -1)
        self._weights = {
            index: binary_weights(layer).astype(np.float64).T
            for index, layer in enumerate(net.layers)
            if isinstance(layer, Dense)
        }

    def start(self, x: NDArray[Any]) -> Bounded:
        """Raw inputs (rows, depth); the mapping of pixels is rounded a few times if the program does it."""
        value = entering(self.net.input, x).astype(np.float64)
        largest = max(map(abs, self.net.input.ends)) if isinstance(self.net.input, PixelInput) else 0.0
        return Bounded(value, np.full(value.shape, 4 * ROUNDING * largest))

    def finish(self, bits: NDArray[Any]) -> Bounded:
        """Scores from the bits of the last sign, or the mapped inputs where there is no sign."""
        return self._through(self.last_sign + 1, len(self.nodes), _exact(bits))

    def tried(self, x: NDArray[Any]) -> Iterator[Bounded]:
        """The scores (1, classes) of one raw sample x (1, depth), for every choice of bits that rounding leaves open."""
        return itertools.islice(self._walk(0, self.start(x)), TRIES)

    def first_open(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        """(rows, neurons): bits of the first sign that rounding leaves open, for raw inputs x (rows, depth)."""
        sign = self.nodes[self.first_sign].op
        assert isinstance(sign, Sign)
        return _is_open(sign, self._through(0, self.first_sign, self.start(x)))

    def _through(self, begin: int, end: int, now: Bounded) -> Bounded:
        for index in range(begin, end):
            now = rounding(self.nodes[index], now, self._weights.get(index))
        return now

    def _walk(self, begin: int, now: Bounded) -> Iterator[Bounded]:
        for index in range(begin, len(self.nodes)):
            layer = self.nodes[index].op
            if isinstance(layer, Sign):
                for bits in _open_bits(layer, now):
                    yield from self._walk(index + 1, _exact(bits))
                return
            now = rounding(self.nodes[index], now, self._weights.get(index))
        yield now


def _exact(bits: NDArray[Any]) -> Bounded:
    return Bounded(bits.astype(np.float64), np.zeros(bits.shape))


#: (layer, what enters it, signs (depth, neurons) of a binary layer) -> what leaves it.
rounding: Interpretation[[Bounded, F64 | None], Bounded] = Interpretation("programs.rounding", get_args(Layer))


@rounding.of(FloatDense)
def _float_dense(layer: FloatDense, now: Bounded, signs: None) -> Bounded:
    bias = np.zeros(layer.neurons) if layer.bias is None else layer.bias.astype(np.float64)
    weight = layer.weight.astype(np.float64).T
    size = np.abs(now.value) @ np.abs(weight) + np.abs(bias)
    return Bounded(now.value @ weight + bias, (layer.depth + 4) * ROUNDING * size + now.error @ np.abs(weight))


@rounding.of(Dense)
def _dense(layer: Dense, now: Bounded, signs: F64) -> Bounded:
    bias = np.zeros(layer.neurons) if layer.bias is None else layer.bias.astype(np.float64)
    unit = np.float64(layer.h) if layer.scale is None else layer.h * layer.scale.astype(np.float64)
    value = now.value @ signs * unit
    exact = np.abs(now.value).max(initial=0) <= 1 and not (now.value % 1).any() and math.frexp(layer.h)[0] == 0.5
    if exact and layer.scale is None:
        # Integers times a power of 2, nothing is rounded: equal scores are for the argmax to decide.
        error = np.zeros_like(value) if layer.bias is None else 2 * ROUNDING * (np.abs(value) + np.abs(bias))
    else:  # a scale is a mean of latents, which is rounded itself
        roundings = layer.depth * (1 if layer.scale is None else 2) + 4
        sizes = np.abs(now.value).sum(axis=1, keepdims=True) * np.abs(unit) + np.abs(bias)
        error = roundings * ROUNDING * sizes + now.error.sum(axis=1, keepdims=True) * np.abs(unit)
    return Bounded(value + bias, error)


@rounding.of(BatchNorm)
def _batch_norm(layer: BatchNorm, now: Bounded, signs: None) -> Bounded:
    alpha, beta = _affine(layer)
    size = np.abs(now.value * alpha) + np.abs(layer.mean * alpha) + np.abs(beta)
    return Bounded((now.value - layer.mean) * alpha + beta, now.error * np.abs(alpha) + IN_NORM * ROUNDING * size)


@rounding.of(Chain)
def _chain(layer: Chain, now: Bounded, signs: None) -> Bounded:
    x, error = now.value, now.error
    for op, vector in layer.steps:
        constant = vector.astype(np.float64)
        if op in ("add", "sub"):
            x = x + constant if op == "add" else x - constant
        else:
            factor = constant if op == "mul" else 1 / constant
            x, error = x * factor, error * np.abs(factor)
        error = error + 2 * ROUNDING * (np.abs(x) + (np.abs(constant) if op in ("add", "sub") else 0))
    return Bounded(x, error)


@rounding.of(Hardtanh)
def _hardtanh(layer: Hardtanh, now: Bounded, signs: None) -> Bounded:
    return Bounded(np.clip(now.value, -1, 1), now.error)


@rounding.of(Sign)
def _sign(layer: Sign, now: Bounded, signs: None) -> Bounded:
    """The bits as they are, where none of them is open (see `RoundedNet.tried`)."""
    return _exact(BINARIZE[layer.rule](now.value.astype(np.float32)))


@rounding.of(Elementwise)
def _elementwise(layer: Elementwise, now: Bounded, signs: None) -> Bounded:
    """None of them stretches a distance, but a prelu by its slope."""
    x, error = now.value, now.error
    match layer.function:
        case "relu":
            return Bounded(np.maximum(x, 0), error)
        case "clip":
            low, high = (float(bound) for bound in layer.parameters)
            return Bounded(np.clip(x, low, high), error)
        case "prelu":
            slope = layer.parameters[0].astype(np.float64)
            value = np.where(x > 0, x, slope * x)
            return Bounded(value, error * np.maximum(1, np.abs(slope)) + ROUNDING * np.abs(value))
        case "tanh":
            value = np.tanh(x)
        case "sigmoid":
            value = np.exp(-np.logaddexp(0, -x))
        case _:
            raise unhandled("programs.rounding", layer.function)
    return Bounded(value, error + IN_FUNCTION * ROUNDING * np.abs(value))


def _affine(layer: BatchNorm) -> tuple[F64, F64]:
    gamma = 1.0 if layer.gamma is None else layer.gamma.astype(np.float64)
    beta = np.zeros(layer.mean.size) if layer.beta is None else layer.beta.astype(np.float64)
    if layer.inv_std is not None:
        return gamma * layer.inv_std.astype(np.float64), beta
    assert layer.variance is not None
    return gamma / np.sqrt(layer.variance.astype(np.float64) + layer.epsilon), beta


def _is_open(layer: Sign, now: Bounded) -> NDArray[np.bool_]:
    """(rows, neurons): where both bits lie within rounding; a tie without any rounding is for the rule to decide."""
    return np.asarray((np.abs(now.value - TIES[layer.rule]) <= now.error) & (now.error > 0))


def _open_bits(layer: Sign, now: Bounded) -> Iterator[F64]:
    """The bits (1, neurons) of a sign, then those with some of the open ones otherwise: few first, nearest to the tie first."""
    bits = BINARIZE[layer.rule](now.value.astype(np.float32)).astype(np.float64)
    yield bits
    near = np.flatnonzero(_is_open(layer, now)[0])
    share = np.abs(now.value[0, near] - TIES[layer.rule]) / now.error[0, near]
    near = near[np.argsort(share, kind="stable")][:NEAREST]
    values: Sequence[float] = (-1, 0, 1) if layer.rule == "sign" else (-1, 1)
    for count in range(1, len(near) + 1):
        for chosen in itertools.combinations(near, count):
            others = [[value for value in values if value != bits[0, bit]] for bit in chosen]
            for choice in itertools.product(*others):
                flipped = bits.copy()
                flipped[0, list(chosen)] = choice
                yield flipped

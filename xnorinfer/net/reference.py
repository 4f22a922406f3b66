"""The oracle: a `Net` computed in plain numpy, in the source's own float32 expressions.

Slow and obvious on purpose; it shares with folding only the tie rules (`ties`) and how float32 is rounded (`float32`), and
nothing with bits and kernels.  What a framework leaves to its BLAS (the order in which a sum is rounded) is defined here so
that a network has one answer:

- a dot of -1/+1 inputs with binary weights is an integer, computed exactly, then rounded to float32 once;
- over pixels it is an exact integer sum, mapped in float64 as `(slope*sum(w*p) + intercept*sum(w)) / divisor`, then rounded to
  float32 once (a framework rounds every product and partial sum instead: that is where it can differ from us);
- over real values it is summed in float64 in input order, then rounded once;
- in float layers it is a chain of float32 fused multiply-adds in input order, as CPUs have them.

The inputs of a convolution's neuron are those of its window in the order (kernel row, kernel column, channel).  What lies
outside the map with padding 0 is no input: nothing is added, and of pixels nothing is mapped.  Levels are summed as whole
numbers, each less the zero, in any order: float32 of the exact sum, which then meets their factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import unhandled
from xnorinfer.float32 import F32, ONE, fma, fused_dot, integer_dot, sequential_dot, sigmoid, tanh
from xnorinfer.graph import INPUT, Interpretation, Node, users_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import (
    OPS,
    Add,
    Channels,
    Concat,
    Flatten,
    Function,
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
from xnorinfer.net.ties import binarize
from xnorinfer.net.values import (
    REALS,
    SIGNS,
    ChannelInput,
    Domain,
    LevelValues,
    PixelInput,
    RealInput,
    SignInput,
    ThresholdInput,
    domain_of_all,
)
from xnorinfer.net.windows import Window


class Rows(NamedTuple):
    """A value of every sample, (rows, features) or (rows, height, width, channels): float32, or the network's raw inputs or the
    whole numbers of levels, which their domain maps."""

    array: NDArray[Any]
    domain: Domain

    @property
    def mapped(self) -> F32:
        """As float32 numbers."""
        return mapped_input(self.domain, self.array)


#: (op, all that it reads) -> what it gives.
compute: Interpretation[..., Rows] = Interpretation("the oracle", OPS)


@compute.of(Linear)
def _(op: Linear, read: Rows) -> Rows:
    if op.window is not None:
        return Rows(finish_linear(op, _convolution(op, op.window, read)), REALS)
    x = read.array.reshape(len(read.array), op.depth)
    if op.binary:
        return Rows(finish_linear(op, input_dot(read.domain, x, binary_weights(op))), REALS)
    return Rows(finish_linear(op, fused_dot(mapped_input(read.domain, x), op.weight)), REALS)


@compute.of(Pool)
def _(op: Pool, read: Rows) -> Rows:
    window = op.window or Window.whole(read.array.shape[1:])
    if op.kind == "max":
        kept = read.domain == SIGNS or isinstance(read.domain, LevelValues)
        taps, _ = windows_of(read.array if kept else read.mapped, window, -np.inf)
        return Rows(taps.max(axis=(3, 4)), read.domain if kept else REALS)
    if op.kind != "average":
        raise unhandled("the oracle", op.kind)
    taps, inside = windows_of(read.mapped, window, 0)
    total = np.zeros((*taps.shape[:3], taps.shape[-1]), np.float64)
    count = np.full(inside.shape[:2], window.taps) if op.padded else inside.sum(axis=(2, 3))
    with np.errstate(all="ignore"):
        for row, column in np.ndindex(window.size):
            total += taps[:, :, :, row, column]
        return Rows(np.asarray(total / count[..., None], np.float32), REALS)


@compute.of(Flatten)
def _(op: Flatten, read: Rows) -> Rows:
    return Rows(read.array.reshape(len(read.array), math.prod(read.array.shape[1:])), read.domain)


@compute.of(Add)
def _(op: Add, read: Rows, other: Rows) -> Rows:
    with np.errstate(all="ignore"):
        return Rows(read.mapped + other.mapped, REALS)


@compute.of(Concat)
def _(op: Concat, *reads: Rows) -> Rows:
    return _kept([read.domain for read in reads], np.concatenate([read.mapped for read in reads], axis=-1))


def _kept(domains: Sequence[Domain], x: F32, between: Sequence[float] = ()) -> Rows:
    """Numbers of these domains in other places, with some between them: still signs, or levels, where all are."""
    domain = domain_of_all(domains, between)
    if not isinstance(domain, LevelValues):
        return Rows(x, domain)
    every = mapped_input(domain, np.arange(domain.low, domain.high + 1, dtype=np.float32))
    return Rows((np.searchsorted(every, x) + domain.low).astype(np.float32), domain)


@compute.of(Multiply)
def _(op: Multiply, read: Rows, other: Rows) -> Rows:
    x = read.mapped
    with np.errstate(all="ignore"):
        return Rows(x * beside(x, other.mapped), REALS)


def beside(x: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """What multiplies x, (rows, ..., channels), as numpy takes it: of the same shape, or a number for each channel."""
    return other.reshape(x.shape if other.size == x.size else (len(x), *(1,) * (x.ndim - 2), x.shape[-1]))


@compute.of(Channels)
def _(op: Channels, read: Rows) -> Rows:
    return _kept([read.domain], channels_of(op, read.mapped), (0,) if -1 in op.order else ())


def channels_of(op: Channels, x: NDArray[Any]) -> NDArray[Any]:
    """Of values (rows, ..., channels)."""
    order = np.array(op.order)
    return np.where(order < 0, x.dtype.type(0), x[..., order])


@compute.of(Pad)
def _(op: Pad, read: Rows) -> Rows:
    return _kept([read.domain], padded(op, read.mapped, op.value), (op.value,) if max(op.padding) > 0 else ())


def padded(op: Pad, x: NDArray[Any], value: float) -> NDArray[Any]:
    """A map (rows, height, width, channels) with a value around it, or without its border."""
    top, bottom, left, right = op.padding
    more = [(max(0, first), max(0, last)) for first, last in ((top, bottom), (left, right))]
    found = np.pad(x, ((0, 0), *more, (0, 0)), constant_values=value)
    lines, columns = (
        slice(max(0, -first), size - max(0, -last))
        for (first, last), size in zip(((top, bottom), (left, right)), found.shape[1:3], strict=True)
    )
    return found[:, lines, columns]


@compute.of(Norm)
def _(op: Norm, read: Rows) -> Rows:
    return Rows(batch_norm(op, read.mapped), REALS)


@compute.of(Steps)
def _(op: Steps, read: Rows) -> Rows:
    value = read.mapped
    for step in op.steps:
        value = step_value(step, value)
    return Rows(value, REALS)


@compute.of(Quantize)
def _(op: Quantize, read: Rows) -> Rows:
    return Rows(binarize(read.mapped, op.rule), SIGNS)


@compute.of(Levels)
def _(op: Levels, read: Rows) -> Rows:
    """The whole numbers, the lowest of NaN; 0 is added to make a -0.0 one of them.  A threshold of infinity says never."""
    if op.thresholds is not None:
        x = read.mapped
        reached = sum(((x >= of_level) & (of_level < np.inf)).astype(np.float32) for of_level in op.thresholds)
        return Rows(np.asarray(reached + np.float32(op.low), np.float32), op.domain)
    whole = np.clip(np.rint(read.mapped), np.float32(op.low), np.float32(op.high)) + np.float32(0)
    return Rows(np.where(np.isnan(whole), np.float32(op.low), whole), op.domain)


def node_outputs(net: Net, x: NDArray[Any]) -> Iterator[tuple[str, F32]]:
    """Compute the network on raw inputs x (rows, depth): yields (node's name, output) for every node in order, outputs of shape
    (rows, features) or (rows, height, width, channels).

    x: uint8 for pixel and threshold inputs, -1/+1 of any dtype for sign inputs, float32 for real inputs.
    """
    known = {INPUT: Rows(x.reshape(len(x), *net.shape), net.input)}
    last_user = {node: users[-1] for node, users in enumerate(users_of(net.nodes)) if users}
    for index, node in enumerate(net.nodes):
        known[index] = compute(node, *(known[read] for read in node.inputs))
        for read in node.inputs:
            if last_user.get(read) == index:
                known.pop(read, None)
        yield node.name, known[index].mapped


def forward(net: Net, x: NDArray[Any]) -> F32:
    """Scores of raw inputs: (rows, depth) -> (rows, scores) float32, those of a map line by line, channels innermost."""
    *_, (_, scores) = node_outputs(net, x)
    return scores.reshape(len(scores), math.prod(scores.shape[1:]))


def follow(nodes: Sequence[Node[Op]], value: F32, side: F32 | None = None) -> F32:
    """What nodes of which each reads the one before make of real numbers, (values, neurons) float32.

    side: what a sum among them adds, of the same shape.
    """
    rows = Rows(value, REALS)
    for node in nodes:
        others = [Rows(side, REALS)] if side is not None and len(node.inputs) > 1 else []
        rows = compute(node, rows, *others)
    return rows.mapped


# ---------------------------------------------------------------- expressions


def binary_weights(op: Linear) -> F32:
    """Float32 of -1, (0,) +1, shaped as the weights: the signs of `H * binarize(weight / H)`."""
    assert op.rule is not None
    with np.errstate(over="ignore"):  # what leaves float32 has its sign still
        return binarize(op.weight / np.float32(op.h), op.rule)


def batch_norm(op: Norm, x: F32) -> F32:
    """BatchNorm at inference, (rows, neurons) float32 -> the same.

    tf       `tf.nn.batch_normalization`: inv = 1/sqrt(var + eps) * gamma;  x*inv + (beta - mean*inv).  TensorFlow's rsqrt is an
             approximation that depends on the CPU, often one unit in the last place off; here it is the rounded 1/sqrt
    tf-fused `FusedBatchNormV3` of maps on CPUs by oneDNN, which takes channels in fours: (x - mean) * (1/sqrt(var + eps)), then
             fma(that, gamma, beta)
    torch    ATen `batch_norm_cpu_collect_linear_and_constant_terms`, compiled with contraction: alpha = 1/sqrt(var + eps) *
             weight;  fma(x, alpha, fma(-mean, alpha, bias))
    lasagne  `BatchNormLayer.get_output_for`: (x - mean) * (gamma * inv_std) + beta
    """
    gamma = np.ones_like(op.mean) if op.gamma is None else op.gamma
    beta = np.zeros_like(op.mean) if op.beta is None else op.beta
    normalized: F32
    with np.errstate(all="ignore"):
        if op.inv_std is not None:
            normalized = (x - op.mean) * (gamma * op.inv_std) + beta
            return normalized
        assert op.variance is not None
        assert op.epsilon is not None
        inverse = ONE / np.sqrt(op.variance + np.float32(op.epsilon))
        if op.form == "tf-fused":
            normalized = (x - op.mean) * inverse
            return fma(normalized, np.broadcast_to(gamma, x.shape), np.broadcast_to(beta, x.shape))
        alpha = inverse * gamma
        if op.form == "tf":
            normalized = x * alpha + (beta - op.mean * alpha)
            return normalized
        shift = fma(-op.mean, alpha, beta)
        return fma(x, np.broadcast_to(alpha, x.shape), np.broadcast_to(shift, x.shape))


#: (x, the parameters of a step) -> the same shape; NaN stays NaN.  A prelu is torch's `prelu` and `leaky_relu`; Keras'
#: -slope*relu(-x) + relu(x) is the same number.
FUNCTIONS: dict[Function, Callable[..., F32]] = {
    "mul": np.multiply,
    "div": np.divide,
    "add": np.add,
    "sub": np.subtract,
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "prelu": lambda x, slope: np.where(x > 0, x, slope * x),
    "tanh": tanh,
    "sigmoid": sigmoid,
    "clip": np.clip,
}


def step_value(step: Step, x: F32) -> F32:
    """One operation on each value, rounded to float32; (rows, neurons) -> the same."""
    if step.function not in FUNCTIONS:
        raise unhandled("the oracle", step.function)
    with np.errstate(all="ignore"):
        return FUNCTIONS[step.function](x, *step.parameters)


def finish_linear(op: Linear, dot: F32) -> F32:
    """The accumulator `((dot * H) * scale) + bias` from the dot of inputs and signs, float32 step by step."""
    with np.errstate(all="ignore"):
        if op.h != 1:
            dot = dot * np.float32(op.h)
        if op.scale is not None:
            dot = dot * op.scale
        if op.bias is not None:
            dot = dot + op.bias
    return dot


def scaled_levels(levels: LevelValues, whole: F32) -> F32:
    """What levels less their zero, or dots of such, stand for, float32 step by step."""
    with np.errstate(all="ignore"):
        for function, number in levels.factors:
            whole = FUNCTIONS[function](whole, np.float32(number))
    return whole


def mapped_input(mapping: Domain, x: NDArray[Any]) -> F32:
    """Raw inputs as the network and training scripts see them, float32 of the shape of x: (rows, ...), channels innermost;
    pixels are mapped in float64.  Of levels x has the whole numbers."""
    if isinstance(mapping, PixelInput):
        return np.asarray((mapping.slope * x.astype(np.float64) + mapping.intercept) / mapping.divisor, np.float32)
    if isinstance(mapping, ChannelInput):
        count = len(mapping.channels)
        mapped = [mapped_input(one, x.reshape(-1, count)[:, channel]) for channel, one in enumerate(mapping.channels)]
        return np.stack(mapped, axis=1).reshape(x.shape)
    if isinstance(mapping, SignInput | RealInput):
        return np.asarray(x, np.float32)
    if isinstance(mapping, ThresholdInput):
        return np.asarray(np.where(x >= mapping.threshold, ONE, -ONE), np.float32)
    if isinstance(mapping, LevelValues):
        return scaled_levels(mapping, np.asarray(x - np.float32(mapping.zero), np.float32))
    raise unhandled("reference.mapped_input", mapping)


def input_dot(mapping: Domain, x: NDArray[Any], weights: F32, inside: F32 | None = None) -> F32:
    """What a binary layer sums over raw inputs or levels x (rows, depth), before H, scale and bias.

    weights: (neurons, depth).  inside: (rows, neurons) float64, sums of the weights that have an input, where some have none.
    """
    if isinstance(mapping, PixelInput):
        sums = integer_dot(x, weights).astype(np.float64)
        shift = weights.sum(axis=1, dtype=np.float64) if inside is None else inside
        return np.asarray((mapping.slope * sums + mapping.intercept * shift) / mapping.divisor, np.float32)
    if isinstance(mapping, LevelValues):
        return scaled_levels(mapping, integer_dot(x - np.float32(mapping.zero), weights).astype(np.float32))
    if isinstance(mapping, RealInput | ChannelInput):
        return sequential_dot(mapped_input(mapping, x), weights)
    return integer_dot(mapped_input(mapping, x), weights).astype(np.float32)


# ---------------------------------------------------------------- windows


def windows_of(x: NDArray[Any], window: Window, outside: float) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Maps (rows, height, width, channels) -> (rows, outputs down, outputs across, kernel height, kernel width, channels), with
    `outside` beyond the map, and (outputs down, outputs across, kernel height, kernel width) bool: which taps lie on it."""
    height, width = x.shape[1:3]
    lines, columns = window.rows_and_columns(height, width)
    lines, columns = lines[:, None, :, None], columns[None, :, None, :]
    inside = (lines >= 0) & (lines < height) & (columns >= 0) & (columns < width)
    taps = x[:, np.clip(lines, 0, height - 1), np.clip(columns, 0, width - 1)]
    return np.where(inside[..., None], taps, np.asarray(outside, x.dtype)), inside


def _convolution(op: Linear, window: Window, read: Rows) -> F32:
    """The dots of a convolution, (rows, outputs down, outputs across, neurons), before H, scale and bias."""
    raw = op.binary and isinstance(read.domain, PixelInput | LevelValues)
    x, domain = (read.array, read.domain) if raw else (read.mapped, _of_mapped(read.domain))
    taps, inside = windows_of(x, window, domain.zero if isinstance(domain, LevelValues) else op.pad)
    down, across = inside.shape[:2]
    weights = binary_weights(op) if op.binary else op.weight
    dots = []
    parts = zip(np.split(taps, op.groups, axis=-1), np.split(weights, op.groups), strict=True)
    for part, kernels in parts:
        flat = kernels.reshape(len(kernels), -1)
        patches = part.reshape(len(x) * down * across, flat.shape[1])
        if not op.binary:
            dot = fused_dot(patches, flat)
        else:
            sums = np.einsum("yxij,nijc->yxn", inside, kernels, dtype=np.float64).reshape(down * across, -1)
            dot = input_dot(domain, patches, flat, np.tile(sums, (len(x), 1)))
        dots.append(dot.reshape(len(x), down, across, len(flat)))
    return np.concatenate(dots, axis=-1)


def _of_mapped(domain: Domain) -> Domain:
    """The domain of mapped inputs."""
    return SIGNS if isinstance(domain, SignInput | ThresholdInput) else REALS

"""The oracle: a `NetSpec` computed in plain numpy, in the source's own float32 expressions.

Slow and obvious on purpose; imports nothing of bits, folding or kernels (they evaluate its float32 expressions, to have
one of each).  What a framework leaves to its BLAS (the order in which a sum is rounded) is defined here so that a network has
one answer:

- a dot of -1/+1 inputs with binary weights is an integer, computed exactly, then rounded to float32 once;
- over pixels it is an exact integer sum, mapped in float64 as `(slope*sum(w*p) + intercept*sum(w)) / divisor`, then rounded to
  float32 once (a framework rounds every product and partial sum instead: that is where it can differ from us);
- over real values and in float layers, products are exact in float64 and summed in float64 in input order, then rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import unhandled
from xnorinfer.netspec import (
    F32,
    BatchNorm,
    Chain,
    Dense,
    Elementwise,
    FloatDense,
    Hardtanh,
    InputMapping,
    NetSpec,
    PixelInput,
    RealInput,
    Rule,
    Sign,
    SignInput,
    ThresholdInput,
)

ONE = np.float32(1)
HALF = np.float32(0.5)
TWO = np.float32(2)


def hard_sigmoid(x: F32) -> F32:
    """clip((x + 1) / 2, 0, 1) in float32 (BinaryNet `binary_net.hard_sigmoid`)."""
    return np.asarray(np.clip((x + ONE) / TWO, np.float32(0), ONE))


def round_half_away(x: F32) -> F32:
    """C's round() for values of 0 and above (Theano's `round_half_away_from_zero`)."""
    whole = np.floor(x)
    return np.where(x - whole >= HALF, whole + ONE, whole).astype(np.float32)


#: Binarization of float32 arrays; "sign" alone has a third value, 0.
BINARIZE: dict[Rule, Callable[[F32], F32]] = {
    "round-even": lambda x: TWO * np.round(hard_sigmoid(x)) - ONE,
    "round-away": lambda x: TWO * round_half_away(hard_sigmoid(x)) - ONE,
    "sign": lambda x: np.sign(x),
    "ge": lambda x: np.where(x >= 0, ONE, -ONE),
    "gt": lambda x: np.where(x > 0, ONE, -ONE),
}


def binarize(x: F32, rule: Rule) -> F32:
    """float32 values to -1, (0,) +1 by a tie rule; same shape, float32."""
    return BINARIZE[rule](x)


def binary_weights(layer: Dense) -> F32:
    """(neurons, depth) float32 of -1, (0,) +1: the signs of `H * binarize(latent / H)`."""
    return binarize(layer.latent / np.float32(layer.h), layer.rule)


def fma(x: F32, y: F32, z: F32) -> F32:
    """float32 fused multiply-add, x*y + z rounded once.

    The product is exact in float64.  The sum is rounded to odd there (Boldo & Melquiond 2008, "Emulation of FMA and
    correctly rounded sums"), so that the second rounding to float32 sees on which side the exact value lies.
    """
    product = x.astype(np.float64) * y
    addend = z.astype(np.float64)
    total = product + addend
    with np.errstate(invalid="ignore"):
        back = total - product
        error = (product - (total - back)) + (addend - back)
    even = (np.ascontiguousarray(total).view(np.int64) & 1) == 0
    nudge = np.isfinite(total) & (error != 0) & even
    return np.where(nudge, np.nextafter(total, np.copysign(np.inf, error)), total).astype(np.float32)


def batch_norm(layer: BatchNorm, x: F32) -> F32:
    """BatchNorm at inference, (rows, neurons) float32 -> the same.

    tf       `tf.nn.batch_normalization`: inv = 1/sqrt(var + eps) * gamma;  x*inv + (beta - mean*inv).  TensorFlow's rsqrt is an
             approximation that depends on the CPU, often one unit in the last place off; here it is the rounded 1/sqrt
    torch    ATen `batch_norm_cpu_collect_linear_and_constant_terms`, compiled with contraction: alpha = 1/sqrt(var + eps) *
             weight;  fma(x, alpha, fma(-mean, alpha, bias))
    lasagne  `BatchNormLayer.get_output_for`: (x - mean) * (gamma * inv_std) + beta
    """
    gamma = np.ones_like(layer.mean) if layer.gamma is None else layer.gamma
    beta = np.zeros_like(layer.mean) if layer.beta is None else layer.beta
    normalized: F32
    with np.errstate(all="ignore"):
        if layer.inv_std is not None:
            normalized = (x - layer.mean) * (gamma * layer.inv_std) + beta
            return normalized
        assert layer.variance is not None
        alpha = ONE / np.sqrt(layer.variance + np.float32(layer.epsilon)) * gamma
        if layer.form == "tf":
            normalized = x * alpha + (beta - layer.mean * alpha)
            return normalized
        shift = fma(-layer.mean, alpha, beta)
        return fma(x, np.broadcast_to(alpha, x.shape), np.broadcast_to(shift, x.shape))


def chain(layer: Chain, x: F32) -> F32:
    """Elementwise operations in order, each rounded to float32; (rows, neurons) -> the same."""
    operations = {"mul": np.multiply, "div": np.divide, "add": np.add, "sub": np.subtract}
    with np.errstate(all="ignore"):
        for op, vector in layer.steps:
            x = operations[op](x, vector)
    return x


def tanh(x: F32) -> F32:
    """The float64 value rounded to float32 once; a framework's own float32 code can be a unit in the last place off."""
    return np.asarray(np.tanh(x.astype(np.float64)), np.float32)


def sigmoid(x: F32) -> F32:
    """1 / (1 + exp(-x)) in float64, written so that nothing overflows, rounded to float32 once as `tanh` is."""
    wide = x.astype(np.float64)
    small = np.exp(-np.abs(wide))
    return np.asarray(np.where(wide >= 0, 1.0, small) / (1 + small), np.float32)


def elementwise(layer: Elementwise, x: F32) -> F32:
    """A function of each value, (rows, neurons) -> the same; NaN stays NaN.

    relu     max(x, 0)
    prelu    x where x > 0, else slope*x (torch `prelu` and `leaky_relu`; Keras' -slope*relu(-x) + relu(x) is the same number)
    tanh, sigmoid   as above
    clip     min(max(x, low), high)
    """
    value: F32
    with np.errstate(all="ignore"):
        match layer.function:
            case "relu":
                value = np.maximum(x, np.float32(0))
            case "prelu":
                value = np.where(x > 0, x, layer.parameters[0] * x)
            case "tanh":
                value = tanh(x)
            case "sigmoid":
                value = sigmoid(x)
            case "clip":
                value = np.clip(x, *layer.parameters)
            case _:
                raise unhandled("reference.elementwise", layer.function)
    return value


def finish_dense(layer: Dense, dot: F32) -> F32:
    """The accumulator `((dot * H) * scale) + bias` from the dot of inputs and signs, float32 step by step."""
    with np.errstate(over="ignore"):
        if layer.h != 1:
            dot = dot * np.float32(layer.h)
        if layer.scale is not None:
            dot = dot * layer.scale
        if layer.bias is not None:
            dot = dot + layer.bias
    return dot


def sequential_dot(x: F32, weights: F32) -> F32:
    """(rows, depth) x (neurons, depth) -> (rows, neurons): float64 sums in input order, rounded to float32 once."""
    total = np.zeros((x.shape[0], weights.shape[0]), np.float64)
    for k in range(x.shape[1]):
        total += x[:, k, None].astype(np.float64) * weights[None, :, k]
    return total.astype(np.float32)


def mapped_input(mapping: InputMapping, x: NDArray[Any]) -> F32:
    """Raw inputs as the network sees them, (rows, depth) float32; pixels mapped in float64 and rounded once."""
    if isinstance(mapping, PixelInput):
        return np.asarray((mapping.slope * x.astype(np.float64) + mapping.intercept) / mapping.divisor, np.float32)
    if isinstance(mapping, SignInput | RealInput):
        return x.astype(np.float32)
    raise unhandled("reference.mapped_input", mapping)


def integer_dot(x: NDArray[Any], weights: F32) -> NDArray[Any]:
    """Integers x (rows, depth) times signs, exactly, as float32 or float64: while every possible partial sum fits the mantissa,
    BLAS rounds nothing, in any order."""
    largest = int(np.abs(x).max(initial=0)) * x.shape[1]
    exact = np.float32 if largest < 2**24 else np.float64
    return np.asarray(x.astype(exact) @ weights.T.astype(exact))


def input_dot(mapping: InputMapping, x: NDArray[Any], weights: F32) -> F32:
    """What a first layer sums over raw inputs x (rows, depth), before H, scale and bias."""
    if isinstance(mapping, PixelInput):
        sums = integer_dot(x, weights).astype(np.float64)
        mapped = (mapping.slope * sums + mapping.intercept * weights.sum(axis=1, dtype=np.float64)) / mapping.divisor
        return np.asarray(mapped, np.float32)
    if isinstance(mapping, RealInput):
        return sequential_dot(x.astype(np.float32), weights)
    if isinstance(mapping, ThresholdInput):
        x = np.where(x >= mapping.threshold, ONE, -ONE)
    elif not isinstance(mapping, SignInput):
        raise unhandled("reference.input_dot", mapping)
    return integer_dot(x, weights).astype(np.float32)


def layer_outputs(net: NetSpec, x: NDArray[Any]) -> Iterator[tuple[str, F32]]:
    """Compute the network on raw inputs x (rows, depth): yields (layer name, output) for every layer in order.

    x: uint8 for pixel and threshold inputs, -1/+1 of any dtype for sign inputs, float32 for real inputs.
    """
    value = None if isinstance(net.layers[0], Dense) else mapped_input(net.input, x)
    for layer in net.layers:
        if isinstance(layer, Dense):
            weights = binary_weights(layer)
            dot = input_dot(net.input, x, weights) if value is None else integer_dot(value, weights).astype(np.float32)
            value = finish_dense(layer, dot)
        else:
            assert value is not None
            if isinstance(layer, BatchNorm):
                value = batch_norm(layer, value)
            elif isinstance(layer, Chain):
                value = chain(layer, value)
            elif isinstance(layer, Sign):
                value = binarize(value, layer.rule)
            elif isinstance(layer, Hardtanh):
                value = np.clip(value, -ONE, ONE)
            elif isinstance(layer, Elementwise):
                value = elementwise(layer, value)
            elif isinstance(layer, FloatDense):
                value = sequential_dot(value, layer.weight)
                value = value if layer.bias is None else value + layer.bias
            else:
                raise unhandled("reference.layer_outputs", layer)
        yield layer.name, value


def forward(net: NetSpec, x: NDArray[Any]) -> F32:
    """Scores of raw inputs: (rows, depth) -> (rows, classes) float32."""
    *_, (_, scores) = layer_outputs(net, x)
    return scores

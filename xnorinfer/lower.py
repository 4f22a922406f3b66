"""NetSpec -> PackedModel: binarize and pack weights, fold what follows a binary layer into a limit or a list of steps.

A network is cut into blocks at its dense layers.  A block that ends in a sign becomes an integer compare; any other block ends
the binary part and keeps its float32 steps (heads, and the activations that feed a float layer).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xnorinfer.bits import bitpack
from xnorinfer.errors import NetworkError
from xnorinfer.netspec import (
    F32,
    BatchNorm,
    Chain,
    Dense,
    FloatDense,
    Hardtanh,
    Layer,
    NetSpec,
    PixelInput,
    RealInput,
    Rule,
    Sign,
)
from xnorinfer.packed import (
    MAX_PIXEL_DEPTH,
    Affine,
    Op,
    PackedDense,
    PackedFloat,
    PackedLayer,
    PackedModel,
    Reads,
    Threshold,
)
from xnorinfer.reference import ONE, binarize, binary_weights, fma
from xnorinfer.threshold import (
    I64,
    MAX_FLOAT_KEY,
    Expression,
    find_steps,
    first_nan,
    full_range,
    limits_as,
    ordered_to_float,
    zero_counts,
)


@dataclass(frozen=True)
class Lowered:
    """The packed network and what a person should know about how it came to be."""

    packed: PackedModel
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A dense layer and the layers up to the next one.  `feeds_float`: the next one is a float layer."""

    dense: Dense | FloatDense
    after: tuple[Layer, ...]
    feeds_float: bool

    @property
    def sign(self) -> Sign | None:
        """The sign that ends the block, if one does."""
        last = self.after[-1] if self.after else None
        return last if isinstance(last, Sign) else None

    @property
    def gives_bits(self) -> bool:
        """Whether the block becomes an integer compare.  A float layer takes its signs as numbers."""
        return self.sign is not None and not self.feeds_float


def blocks_of(net: NetSpec) -> list[Block]:
    """The blocks of a network that passed `NetSpec.check`."""
    blocks: list[Block] = []
    end = len(net.layers)
    for start in reversed(range(end)):
        dense = net.layers[start]
        if isinstance(dense, Dense | FloatDense):
            feeds_float = bool(blocks) and isinstance(blocks[-1].dense, FloatDense)
            blocks.append(Block(dense, net.layers[start + 1 : end], feeds_float))
            end = start
    return blocks[::-1]


def lower(net: NetSpec) -> Lowered:
    """Pack a network.  Raises NetworkError with every reason why it cannot be packed."""
    net.require_valid()
    problems: list[str] = []
    notes: list[str] = []
    layers: list[PackedLayer] = []
    for index, block in enumerate(blocks_of(net)):
        reads: Reads = net.input.kind if index == 0 and isinstance(net.input, PixelInput | RealInput) else "bits"
        if isinstance(block.dense, FloatDense):
            layers.append(PackedFloat(block.dense.name, np.ascontiguousarray(block.dense.weight), steps_of(block)))
        elif reads == "pixels" and block.dense.depth > MAX_PIXEL_DEPTH:
            problems.append(f"{block.dense.name}: {block.dense.depth} pixel inputs, at most {MAX_PIXEL_DEPTH} fit 32-bit sums")
        else:
            layers.append(_lower_dense(net, block.dense, block, reads, problems, notes))
    if problems:
        raise NetworkError(problems)
    return Lowered(PackedModel(net.input, tuple(layers), net.profile), tuple(notes))


def _lower_dense(net: NetSpec, dense: Dense, block: Block, reads: Reads, problems: list[str], notes: list[str]) -> PackedDense:
    signs = binary_weights(dense)
    steps = steps_of(block)
    if not block.gives_bits:
        infinite = ~np.isfinite(steps.values).all(axis=(0, 1))
        if infinite.any():
            problems.append(
                f"{dense.name}: BatchNorm makes output {int(np.argmax(infinite))} infinite or NaN; check its variance"
            )
        return PackedDense(dense.name, reads, dense.depth, bitpack(signs), steps)
    counts = Counts.of(net, reads, signs)

    assert block.sign is not None
    at_zero = steps.apply(counts.accumulator(np.zeros_like(counts.low)))

    def expression(count: I64) -> F32:
        value = steps.apply(counts.accumulator(count))
        if reads != "reals":
            return value
        # Sums near the largest float overflow in one step, and a scale of 0 in the next makes NaN of a constant channel.
        return np.where(np.isnan(value), at_zero, value)

    with np.errstate(all="ignore"):
        problems.extend(_nan_problems(net, dense, reads, signs, steps))
        rule = block.sign.rule
        if rule == "sign":
            _judge_zeros(dense, counts, expression, problems, notes)
            rule = "ge"
        found = find_steps(lambda c: binarize(expression(c), rule) > 0, counts.low, counts.high, counts.mirror)
    signs = np.where(found.flipped[:, None], -signs, signs)
    limits = ordered_to_float(found.limits) if reads == "reals" else limits_as(found.limits, np.int32)
    return PackedDense(dense.name, reads, dense.depth, bitpack(signs), Threshold(limits))


@dataclass(frozen=True)
class Counts:
    """What a kernel counts in one layer: the range per neuron, and the accumulator that the source has at a count."""

    low: I64
    high: I64
    mirror: int
    accumulator: Callable[[I64], F32]

    @classmethod
    def of(cls, net: NetSpec, reads: Reads, signs: F32) -> Counts:
        """For weights `signs` (neurons, depth) of -1/+1 that read what `reads` says."""
        neurons, depth = signs.shape
        if reads == "bits":  # mismatches
            return cls(*full_range(neurons, 0, depth), depth, lambda count: (depth - 2 * count).astype(np.float32))
        if reads == "reals":  # the float32 sum, as an ordered integer; the limit one below the smallest is -infinity
            return cls(*full_range(neurons, -MAX_FLOAT_KEY, MAX_FLOAT_KEY), 0, ordered_to_float)
        assert isinstance(net.input, PixelInput)
        mapping = net.input
        weight_sums = signs.sum(axis=1, dtype=np.float64)
        shift = mapping.intercept * weight_sums
        return cls(
            -255 * (signs < 0).sum(axis=1, dtype=np.int64),
            255 * (signs > 0).sum(axis=1, dtype=np.int64),
            0,
            lambda count: ((mapping.slope * count + shift) / mapping.divisor).astype(np.float32),
        )


def steps_of(block: Block) -> Affine:
    """Everything between a block's dot and its end as float32 steps, in the source's order; a sign that gives bits excluded."""
    ops: list[Op] = []
    values: list[tuple[F32, F32]] = []
    neurons = block.dense.neurons

    def step(op: Op, a: F32 | float, b: F32 | float = 0.0) -> None:
        ops.append(op)
        vectors = (np.broadcast_to(np.asarray(v, np.float32), (neurons,)) for v in (a, b))
        values.append((next(vectors), next(vectors)))

    if isinstance(block.dense, Dense) and block.dense.h != 1:
        step("mul", block.dense.h)
    if isinstance(block.dense, Dense) and block.dense.scale is not None:
        step("mul", block.dense.scale)
    if block.dense.bias is not None:
        step("add", block.dense.bias)
    for layer in block.after:
        if isinstance(layer, Hardtanh):
            step("clip", -1.0, 1.0)
        elif isinstance(layer, BatchNorm):
            for op, a, b in _batch_norm_steps(layer):
                step(op, a, b)
        elif isinstance(layer, Chain):
            for name, vector in layer.steps:
                # x - v and x + (-v) are the same float32 operation.
                step("add", -vector) if name == "sub" else step(name, vector)
        elif isinstance(layer, Sign) and not block.gives_bits:
            step("step", *_sign_steps(layer.rule))
    return Affine(tuple(ops), np.array(values, np.float32).reshape(len(ops), 2, neurons))


def _sign_steps(rule: Rule) -> tuple[float, float]:
    """The smallest float32 that a rule makes +1 and the largest that it makes -1."""
    ends = full_range(1, -MAX_FLOAT_KEY, MAX_FLOAT_KEY)
    plus = find_steps(lambda key: binarize(ordered_to_float(key), rule) > 0, *ends, 0)
    minus = find_steps(lambda key: binarize(ordered_to_float(key), rule) < 0, *ends, 0)
    return float(ordered_to_float(-plus.limits)[0]), float(ordered_to_float(minus.limits)[0])


def _batch_norm_steps(layer: BatchNorm) -> list[tuple[Op, F32, F32 | float]]:
    """The expressions of `reference.batch_norm`, with what does not depend on the input computed ahead, in float32."""
    gamma = np.ones_like(layer.mean) if layer.gamma is None else layer.gamma
    beta = np.zeros_like(layer.mean) if layer.beta is None else layer.beta
    with np.errstate(all="ignore"):
        if layer.inv_std is not None:
            return [("add", -layer.mean, 0.0), ("mul", gamma * layer.inv_std, 0.0), ("add", beta, 0.0)]
        assert layer.variance is not None
        scale = (ONE / np.sqrt(layer.variance + np.float32(layer.epsilon))) * gamma
        if layer.form == "torch":
            return [("fma", scale, fma(-layer.mean, scale, beta))]
        return [("mul", scale, 0.0), ("add", beta - layer.mean * scale, 0.0)]


# ---------------------------------------------------------------- what cannot be packed


def _nan_problems(net: NetSpec, dense: Dense, reads: Reads, signs: F32, steps: Affine) -> list[str]:
    """Neurons whose source value is NaN at a reachable accumulator: no bit equals NaN."""
    counts = Counts.of(net, reads, signs)
    suspects = ~np.isfinite(steps.values).all(axis=(0, 1))
    if reads == "reals":
        found = {int(neuron): 0 for neuron in np.flatnonzero(suspects)}
    else:
        ends = [steps.apply(counts.accumulator(count)) for count in (counts.low, counts.high)]
        chosen = np.flatnonzero(suspects | ~np.isfinite(ends).all(axis=0))
        some, columns = Counts.of(net, reads, signs[chosen]), steps.columns(chosen)
        nan = first_nan(lambda count: columns.apply(some.accumulator(count)), some.low, some.high)
        found = {int(chosen[neuron]): count for neuron, count in sorted(nan.items())}
    if not found:
        return []
    neuron, count = next(iter(found.items()))
    value = float(counts.accumulator(np.full_like(counts.low, count))[neuron])
    return [
        f"{dense.name}: BatchNorm gives NaN for {len(found)} neurons with an infinite scale or shift, the first is neuron "
        f"{neuron} at accumulator {value:g}; the source network has no answer there, so check its variance and epsilon"
    ]


def _judge_zeros(dense: Dense, counts: Counts, expression: Expression, problems: list[str], notes: list[str]) -> None:
    """torch.sign(0) is 0, which one bit cannot hold: say where it can happen, refuse where it matters."""
    way_out = "choose --profile ge-zero (0 becomes +1) or gt-zero (0 becomes -1)"
    if counts.accumulator is ordered_to_float:
        notes.append(f"{dense.name}: real inputs can make a value before sign exactly 0; the packed network takes +1 there")
        return
    zeros = zero_counts(expression, counts.low, counts.high)
    neurons = int((zeros > 0).sum())
    if not neurons:
        return
    first = int(np.argmax(zeros > 0))
    what = f"{neurons} neurons can reach exactly 0 before sign (the first is neuron {first}, at {zeros[first]} of its sums)"
    if counts.mirror == 0 and int(zeros.max()) == 1:
        # One of ~100,000 sums, where the framework's own rounding of mapped pixels decides anyway.
        notes.append(
            f"{dense.name}: {what}; torch.sign gives 0 there, the packed network takes +1. To decide otherwise, {way_out}"
        )
    else:
        problems.append(f"{dense.name}: {what}; torch.sign gives 0 there, which one bit cannot hold: {way_out}")

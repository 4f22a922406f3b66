"""Every node of a packed model against the part of the float network that it stands for, at every value or where it matters.

Weights equal the binarized latents (or their exact negation, with the compare mirrored), and decisions and numbers the source's
float32 expressions at every sum, class by class where the border of a map makes classes.  Where sums are too many, ends, both
sides of the limit and samples: the expressions are monotone between their bends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitunpack
from xnorinfer.engine.margins import constant
from xnorinfer.float32 import F32, differing
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
    Norm,
    Op,
    Pad,
    Pool,
    Quantize,
    Steps,
)
from xnorinfer.net.ops import Multiply as NetMultiply
from xnorinfer.net.reference import Rows, binary_weights, compute, finish_linear, follow, mapped_input, scaled_levels
from xnorinfer.net.ties import Rule, binarize
from xnorinfer.net.values import REALS
from xnorinfer.packing.counts import Counts, counts_of
from xnorinfer.packing.fusedpart import Part
from xnorinfer.packing.lower import parts_of
from xnorinfer.packing.packed import (
    PACKED_OPS,
    Affine,
    Binarize,
    Digitize,
    Dot,
    Elementwise,
    Grades,
    Mapped,
    Moved,
    Multiply,
    PackedModel,
    Threshold,
)
from xnorinfer.packing.packed import Concat as PackedConcat
from xnorinfer.packing.packed import Pool as PackedPool
from xnorinfer.packing.threshold import I64, find_limits
from xnorinfer.proof.answers import Progress
from xnorinfer.proof.stepnumbers import compare_numbers
from xnorinfer.proof.verification import LayerProof


@dataclasses.dataclass(frozen=True)
class Place:
    """A node of the packed network, the part that it stands for, and the part that this reads."""

    node: Node[Any]
    part: Part
    before: Part | None
    net: Net
    report: Progress


def prove_parts(packed: PackedModel, net: Net, report: Progress) -> Iterator[LayerProof]:
    """All nodes, but for the one that a threshold of all inputs is.  The two are of the same structure."""
    parts = parts_of(net)
    for node, part in zip(packed.nodes, parts, strict=True):
        if not (part.enters and part.sign is not None):
            before = None if part.inputs[0] == INPUT else parts[part.inputs[0]]
            yield prove(node, Place(node, part, before, net, report))


#: Op -> its proof.
prove: Interpretation[[Place], LayerProof] = Interpretation("the proof of packed networks", PACKED_OPS)


def source_values(part: Part, dot: F32, side: F32 | None = None) -> F32:
    """What the source makes of given dots or numbers (before what gives bits or codes), (values, channels) float32.

    side: what it adds, if it does, of the same shape.
    """
    return follow(part.nodes, _accumulator(part, dot), side)


def _accumulator(part: Part, dot: F32) -> F32:
    """What the nodes of a part meet."""
    dot = dot if part.whole is None else scaled_levels(part.whole, dot)
    return dot if part.layer is None else finish_linear(part.layer, dot)


def _numbers(shape: tuple[int, ...], seed: int = 0) -> F32:
    """Numbers of all sizes and signs."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(np.float32)


def _sides_of(part: Part, shape: tuple[int, ...]) -> list[F32 | None]:
    """Numbers that stand for what is added, where something is: those, and 0, behind which nothing is rounded away."""
    return [_numbers(shape), np.zeros(shape, np.float32)] if part.joined else [None]


# ---------------------------------------------------------------- values one by one


@prove.of(Binarize)
def _(op: Binarize, place: Place) -> LayerProof:
    """Pixels: all 256 values of each; reals: both sides of each limit, and values between."""
    return prove_bits(place.node.name, op, place.part, place.net)


def prove_bits(name: str, op: Binarize, part: Part, net: Net) -> LayerProof:
    """The same of a comparison that need be none of the model itself."""
    assert part.sign is not None
    proof = LayerProof(name, "input" if part.raw else "sign", part.channels, "every value")
    (counts,) = counts_of(net.input, part)
    if counts.reals:
        proof.method = "ends, both sides of the limit, samples (monotone)"
        beside = _around_limits(counts, _limit_counts(op.limits), op.mirrored)
        beside = np.concatenate([beside, _beside_bends(counts, part)])
    else:
        beside = np.repeat(np.arange(256)[:, None], part.channels, axis=1)
    proof.values = len(beside)
    with np.errstate(all="ignore"):
        value = source_values(part, counts.accumulator(beside))
        _compare_decisions(proof, counts, op.mirrored, _limit_counts(op.limits), beside, value, part.sign.rule)
    return proof


@prove.of(Digitize)
def _(op: Digitize, place: Place) -> LayerProof:
    """As bits, beside the limits of every code."""
    part = place.part
    assert part.levels is not None
    proof = LayerProof(place.node.name, "input" if part.raw else "levels", part.channels, "every value")
    (counts,) = counts_of(place.net.input, part)
    limits = np.stack([_limit_counts(of_code) for of_code in op.limits])
    if counts.reals:
        proof.method = "ends, both sides of the limits, samples (monotone)"
        around = [_around_limits(counts, of_code, op.mirrored) for of_code in limits]
        beside = np.concatenate([*around, _beside_bends(counts, part)])
    else:
        beside = np.repeat(np.arange(256)[:, None], part.channels, axis=1)
    proof.values = len(beside)
    with np.errstate(all="ignore"):
        value = source_values(part, counts.accumulator(beside))
        _compare_codes(proof, counts, op.mirrored, limits, beside, value, part)
    return proof


@prove.of(Mapped)
def _(op: Mapped, place: Place) -> LayerProof:
    channels, levels = place.part.channels, place.part.numbers
    proof = LayerProof(place.node.name, "input" if levels is None else "numbers", channels, "every value")
    if levels is not None:
        whole = np.arange(levels.low, levels.high + 1, dtype=np.float32)[:, None]
        proof.values = whole.size
        _compare_values(proof, whole, mapped_input(levels, whole), op.values)
        return proof
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels, axis=1)
    proof.values = 256
    table = np.broadcast_to(op.values, pixels.shape)
    _compare_values(proof, pixels.astype(np.float32), mapped_input(place.net.input, pixels), table)
    return proof


@prove.of(Elementwise)
def _(op: Elementwise, place: Place) -> LayerProof:
    proof = LayerProof(place.node.name, "steps", place.part.channels, "steps at sampled values")
    _compare_steps(proof, place.part, op.steps)
    if counts_of(place.net.input, place.part)[0].reals:
        compare_numbers(proof, place.part, op.steps)
    return proof


def _compare_steps(proof: LayerProof, part: Part, steps: Affine) -> None:
    """At numbers of all sizes, and on both sides of where a comparison at the end changes and of bends."""
    samples = np.linspace(-1000, 1000, SAMPLES, dtype=np.float32)[:, None].repeat(part.channels, 1)
    samples = np.concatenate([samples, _numbers(samples.shape, 1)])
    if steps.ops and steps.ops[-1] == "step":
        counts = Counts.of_reals(part.channels)
        beside = np.concatenate([_beside_steps(counts, steps), _beside_bends(counts, part)])
        samples = np.concatenate([samples, counts.accumulator(beside)])
    proof.values = len(samples)
    with np.errstate(all="ignore"):
        for side in _sides_of(part, samples.shape):
            _compare_values(proof, samples, source_values(part, samples, side), steps.apply(samples, side))


@prove.of(PackedConcat)
def _(op: PackedConcat, place: Place) -> LayerProof:
    """The structure says which values stand side by side (`equal`)."""
    return LayerProof(place.node.name, "concat", place.part.channels, "as the source joins")


@prove.of(Multiply, Moved)
def _(op: Multiply | Moved, place: Place) -> LayerProof:
    """The structure says which two values, or which numbers go where (`equal`)."""
    if isinstance(op, Multiply):
        return LayerProof(place.node.name, "product", place.part.channels, "as the source multiplies")
    return LayerProof(place.node.name, "moved", place.part.channels, "as the source moves numbers")


@prove.of(PackedPool)
def _(op: PackedPool, place: Place) -> LayerProof:
    """A largest value is that of the network itself.  Bits of sums are pooled by OR or AND: the two sums beside each limit,
    both in one window, tell which, because the expressions are monotone."""
    layer = place.before
    proof = LayerProof(place.node.name, "pool", place.part.channels, "as the source pools")
    if layer is None or not layer.of_bits:
        if op.falling is not None:
            proof.differ(int(op.falling.sum()), "takes smallest values where the source takes the largest")
        return proof
    proof.method = "the largest sums on both sides of the limit (monotone)"
    if layer.levels is not None:
        _prove_pool_of_levels(proof, op, layer, layer.levels, place.net)
        return proof
    assert layer.sign is not None
    falling = np.zeros(layer.channels, np.bool_) if op.falling is None else op.falling
    for counts in counts_of(place.net.input, layer):
        with np.errstate(all="ignore"):
            decide = _decisions(layer, counts)
            found = find_limits(decide, counts.low, counts.high, 0)
            last = np.where(found.flipped, -found.limits - 1, found.limits)
            beside = np.stack([np.clip(last + step, counts.low, counts.high) for step in (0, 1)])
            bits = np.stack([decide(count) for count in beside])
            entering = _accumulator(layer, counts.accumulator(beside))
            pooled = follow(layer.nodes[: layer.before], entering).max(axis=0)
            made = _answered(follow(layer.nodes[layer.before :], pooled[None]), layer, counts)
            wanted = binarize(made, layer.sign.rule)[0] > 0
        proof.values += 2
        proof.compared += wanted.size
        wrong = wanted != np.where(falling, bits.all(axis=0), bits.any(axis=0))
        if wrong.any():
            neuron = int(np.argmax(wrong))
            proof.differ(
                int(wrong.sum()), f"neuron {neuron}: the largest sum makes another bit of the source than of the model"
            )
    return proof


def _prove_pool_of_levels(proof: LayerProof, op: PackedPool, layer: Part, levels: Levels, net: Net) -> None:
    """The same of the codes on both sides of every limit, all in one window."""
    falling = np.zeros(layer.channels, np.bool_) if op.falling is None else op.falling
    for counts in counts_of(net.input, layer):
        with np.errstate(all="ignore"):
            beside = [counts.low, counts.high]
            for code in range(1, levels.domain.top + 1):
                found = find_limits(
                    lambda c, sums=counts, code=code: _codes(_values_at(layer, sums, c), layer) >= code,  # type: ignore[misc]
                    *(counts.low, counts.high, 0),
                )
                last = np.where(found.flipped, -found.limits - 1, found.limits)
                beside += [np.clip(last + step, counts.low, counts.high) for step in (0, 1)]
            every = np.stack(beside)
            codes = _codes(_values_at(layer, counts, every), layer)
            pooled = follow(layer.nodes[: layer.before], _accumulator(layer, counts.accumulator(every)))
            order = np.argsort(pooled, axis=0, kind="stable")
        proof.values += len(every)
        proof.compared += codes.size
        # Codes run as what is pooled, or the other way round.
        steps = np.diff(np.take_along_axis(codes, order, 0), axis=0)
        wrong = np.where(falling, steps > 0, steps < 0).any(axis=0)
        if wrong.any():
            neuron = int(np.argmax(wrong))
            proof.differ(
                int(wrong.sum()), f"neuron {neuron}: the largest sum makes another code of the source than of the model"
            )


def _codes(value: F32, part: Part) -> F32:
    """The codes of values before levels, as the oracle rounds them."""
    op, levels = part.given or part.levels, part.coded
    assert op is not None
    assert levels is not None
    if isinstance(op, Quantize) and op.rule == "sign":  # which codes have +1 for at 0
        op = Quantize("ge")
    found = compute(Node(part.name, op, (INPUT,)), Rows(value, REALS))
    if found.domain == levels:  # of which several may be one number
        return np.asarray(found.array - np.float32(levels.low), np.float32)
    numbers = found.mapped
    return np.searchsorted(mapped_input(levels, np.arange(levels.low, levels.high + 1)), numbers).astype(np.float32)


def _decisions(part: Part, counts: Counts) -> Callable[[I64], NDArray[np.bool_]]:
    rule: Rule = "ge" if part.sign is None or part.sign.rule == "sign" else part.sign.rule
    return lambda count: binarize(_values_at(part, counts, count), rule) > 0


def _values_at(part: Part, counts: Counts, count: I64) -> F32:
    """What the source makes at counts, (..., neurons)."""
    return _answered(source_values(part, counts.accumulator(count)), part, counts)


def _answered(value: F32, part: Part, counts: Counts) -> F32:
    """With the value at 0 in the place of NaN, which a constant channel is where sums overflow before a scale of 0."""
    at_zero = source_values(part, counts.accumulator(np.zeros_like(counts.low)))
    return np.where(np.isnan(value), at_zero, value) if counts.reals else value


# ---------------------------------------------------------------- layers


@prove.of(Dot)
def _(op: Dot, place: Place) -> LayerProof:
    return prove_layer(place.node, place.part, place.net, place.report)


def prove_layer(node: Node[Dot], part: Part, net: Net, report: Progress = lambda what, done, total: None) -> LayerProof:
    """A layer against the part that it stands for, in all border classes."""
    op, layer = node.op, part.layer
    assert layer is not None
    proof = LayerProof(node.name, "binary" if op.binary else "float", op.neurons)
    signs = (binary_weights(layer) if op.binary else layer.weight).reshape(op.neurons, -1)
    mine = bitunpack(op.weights, op.depth) if op.binary else op.weights
    same = (mine == signs).all(axis=1)
    flipped = ~same & (mine == -signs).all(axis=1) & (op.limits is not None)
    proof.weights, proof.flipped = mine.size, int(flipped.sum())
    if (ends := constant(node, part.read)) is not None:
        proof.never, proof.always = (int(neurons.sum()) for neurons in ends)
    wrong = ~(same | flipped)
    if wrong.any():
        neuron = int(np.argmax(wrong))
        column = int(np.argmax(mine[neuron] != signs[neuron]))
        kind = "weight bits" if op.binary else "weights"
        proof.differ(int(wrong.sum()), f"{kind} of neuron {neuron} differ from its latents, first at input {column}")
    if not op.binary and isinstance(op.output, Affine):
        proof.method = "weights equal; steps at sampled values"
        _compare_steps(proof, part, op.output)
        compare_numbers(proof, part, op.output)
        return proof
    classes = counts_of(net.input, part)
    total = sum(int(counts.high[0]) + 1 for counts in classes) if op.reads == "bits" else 0
    for index, counts in enumerate(classes):
        limits = None
        if isinstance(op.output, Threshold):
            limits = _limit_counts(op.output.limits if op.output.limits.ndim == 1 else op.output.limits[index])
        elif isinstance(op.output, Grades):
            limits = _limit_counts(op.output.limits if op.output.limits.ndim == 2 else op.output.limits[:, index])
        for chunk in _chunks(proof, op, part, counts, limits, flipped):
            report(f"proving {proof.name}", min(proof.values, total), total)
            _prove_chunk(proof, op, part, counts, limits, flipped, chunk)
    return proof


#: Values per neuron between the ends of a range too large to enumerate, and values per chunk of an enumeration.
SAMPLES = 256
CHUNK = 128


def _chunks(
    proof: LayerProof, op: Dot, part: Part, counts: Counts, limits: I64 | None, flipped: NDArray[np.bool_]
) -> Iterator[I64]:
    """Blocks of counts to check, (values, neurons) int64, unmirrored."""
    if op.reads == "levels":
        proof.method = "every sum, what is added at sampled values" if part.joined else "every value"
        for start in range(0, int((counts.high - counts.low).max()) + 1, CHUNK):
            yield np.minimum(counts.low + np.arange(start, start + CHUNK)[:, None], counts.high)
            proof.values += CHUNK
        return
    if op.reads == "bits":
        proof.method, most = "every value", int(counts.high[0])
        if part.joined:
            proof.method = "every sum, what is added at sampled values"
        every = np.broadcast_to(np.arange(most + 1)[:, None], (most + 1, op.neurons))
    elif limits is not None:
        proof.method = "ends, both sides of the limit, samples (monotone)"
        beside = [_around_limits(counts, one, flipped) for one in (limits if limits.ndim == 2 else limits[None])]
        every = np.concatenate([*beside, _beside_bends(counts, part)])
    else:
        proof.method = "both ends and samples"
        every = _samples(counts)
        assert isinstance(op.output, Affine)
        if op.output.ops and op.output.ops[-1] == "step":
            if not part.joined:
                proof.method = "ends, both sides of the steps, samples (monotone)"
            every = np.concatenate([every, _beside_steps(counts, op.output), _beside_bends(counts, part)])
    for start in range(0, len(every), CHUNK):
        yield every[start : start + CHUNK]
        proof.values += len(every[start : start + CHUNK])


def _prove_chunk(
    proof: LayerProof,
    op: Dot,
    part: Part,
    counts: Counts,
    limits: I64 | None,
    flipped: NDArray[np.bool_],
    chunk: I64,
) -> None:
    dot = counts.accumulator(chunk)
    with np.errstate(all="ignore"):
        if part.joined and isinstance(op.output, Affine):
            compare_numbers(proof, part, op.output, dot)
        for side in _sides_of(part, dot.shape):
            value = source_values(part, dot, side)
            if part.levels is not None:
                assert limits is not None
                _compare_codes(proof, counts, flipped, limits, chunk, value, part)
            elif limits is not None:
                assert part.sign is not None
                _compare_decisions(proof, counts, flipped, limits, chunk, value, part.sign.rule)
            else:
                assert isinstance(op.output, Affine)
                _compare_values(proof, dot, value, op.output.apply(dot, side))


# ---------------------------------------------------------------- where to look


def _samples(counts: Counts) -> I64:
    """Both ends of every range and values between, (values, neurons)."""
    parts = np.linspace(0, 1, SAMPLES + 2)[:, None]
    return np.asarray((counts.low + parts * (counts.high - counts.low)).astype(np.int64))


def _around_limits(counts: Counts, limits: I64, mirrored: NDArray[np.bool_]) -> I64:
    """The same, and the last count that fires, the first that does not, and one more on either side."""
    last = np.where(mirrored, counts.mirror - limits, limits)
    beside = np.array([-1, 0, 1])[:, None] + last
    return np.concatenate([_samples(counts), np.clip(beside, counts.low, counts.high)])


def _limit_counts(limits: NDArray[Any]) -> I64:
    """Limits as counts; for float limits the inverse of `threshold.ordered_to_float`."""
    if limits.dtype != np.float32:
        return np.asarray(limits, np.int64)
    magnitude = np.abs(limits).view(np.uint32).astype(np.int64)
    return np.asarray(np.where(limits < 0, -magnitude, magnitude))


def _beside_steps(counts: Counts, output: Affine) -> I64:
    """The counts on both sides of where steps that end in a comparison change, (values, neurons)."""
    beside = []

    def stepped(count: I64) -> F32:
        dot = counts.accumulator(count)
        return output.apply(dot, np.zeros_like(dot))

    for sign in (1, -1):
        change = find_limits(lambda c, s=sign: stepped(c) == s, counts.low, counts.high, 0)  # type: ignore[misc]
        last = np.where(change.flipped, -change.limits - 1, change.limits)
        beside += [np.clip(last + step, counts.low, counts.high) for step in (-1, 0, 1, 2)]
    return np.stack(beside)


#: (op) -> for each place where it is not monotone what it does before that.
before_bends: Interpretation[[], Iterator[Steps]] = Interpretation("the proof", OPS)


@before_bends.of(Linear, Norm, Quantize, Levels, Pool, Flatten, Add, Concat, NetMultiply, Channels, Pad)
def _(op: Op) -> Iterator[Steps]:
    yield from ()


@before_bends.of(Steps)
def _(op: Steps) -> Iterator[Steps]:
    return (Steps(op.steps[:place]) for place, step in enumerate(op.steps) if step.bent)


def _beside_bends(counts: Counts, part: Part) -> I64:
    """The counts on both sides of where a function that is not monotone turns, (values, neurons)."""
    nodes, beside = part.nodes, [counts.low]
    bends = [(*nodes[:at], dataclasses.replace(node, op=op)) for at, node in enumerate(nodes) for op in before_bends(node)]
    for before in bends:
        with np.errstate(all="ignore"):
            turn = find_limits(_is_above(dataclasses.replace(part, nodes=before), counts), counts.low, counts.high, 0)
        last = np.where(turn.flipped, -turn.limits - 1, turn.limits)
        beside += [np.clip(last + step, counts.low, counts.high) for step in (0, 1)]
    return np.stack(beside)


def _is_above(part: Part, counts: Counts) -> Callable[[I64], NDArray[np.bool_]]:
    """Whether what the source makes of counts, with nothing added to it, is above 0."""

    def above(count: I64) -> NDArray[np.bool_]:
        dot = counts.accumulator(count)
        return source_values(part, dot, np.zeros_like(dot)) > 0

    return above


# ---------------------------------------------------------------- comparing


def _compare_decisions(
    proof: LayerProof, counts: Counts, mirrored: NDArray[np.bool_], limits: I64, chunk: I64, value: F32, rule: Rule
) -> None:
    """Decisions of the model at counts, (values, neurons), against the source's values before sign there."""
    dot = counts.accumulator(chunk)
    binarized = binarize(value, rule)
    fires = np.where(mirrored, counts.mirror - chunk, chunk) <= limits
    tie = binarized == 0
    proof.compared += fires.size
    proof.ties += int(tie.sum())
    wrong = (fires != (binarized > 0)) & ~(tie & fires) | np.isnan(value)
    if counts.reals:  # sums near the largest float, where the source itself overflows and has no answer
        wrong &= ~np.isnan(value)
    if wrong.any():
        at, neuron = (int(i) for i in np.argwhere(wrong)[0])
        proof.differ(
            int(wrong.sum()),
            f"neuron {neuron} at accumulator {dot[at, neuron]:g}: the source has {value[at, neuron]:g} before sign, "
            f"the model decides {'+1' if fires[at, neuron] else '-1'}",
        )


def _compare_codes(
    proof: LayerProof, counts: Counts, mirrored: NDArray[np.bool_], limits: I64, chunk: I64, value: F32, part: Part
) -> None:
    """Codes of the model at counts, (values, neurons), by limits (top, neurons), against the source's values before levels."""
    dot, turned = counts.accumulator(chunk), np.where(mirrored, counts.mirror - chunk, chunk)
    mine, codes = np.sum([turned <= of_code for of_code in limits], axis=0), _codes(value, part)
    proof.compared += mine.size
    proof.ties += int((value == 0).sum()) if part.ties else 0
    assert part.coded is not None
    wrong = ~np.isnan(value) & (mine != codes) if counts.reals else (mine != codes)
    if wrong.any():
        at, neuron = (int(i) for i in np.argwhere(wrong)[0])
        proof.differ(
            int(wrong.sum()),
            f"neuron {neuron} at accumulator {dot[at, neuron]:g}: the source has {value[at, neuron]:g} before its levels, "
            f"the model gives the level {mine[at, neuron] + part.coded.low}",
        )


def _compare_values(proof: LayerProof, dot: F32, source: F32, model: F32) -> None:
    """Float results at given dots, equal in every bit but the sign of zero."""
    proof.compared += dot.size
    wrong = differing(source, model)
    if wrong.any():
        at, neuron = (int(i) for i in np.argwhere(wrong)[0])
        proof.differ(
            int(wrong.sum()),
            f"output {neuron} at accumulator {dot[at, neuron]:g}: the source has {source[at, neuron]!r}, "
            f"the model {model[at, neuron]!r}",
        )

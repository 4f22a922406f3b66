"""Folding one layer: what follows its sums, as float32 steps, and where the decision of every neuron changes.

`lower` walks the network; here is what happens to one sum, whose values `counts` knows: what the source computes from it
(`steps_of`), and the limit that follows (`fold`), or why there is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import unhandled
from xnorinfer.float32 import F32, MAX_FLOAT_KEY, ONE, fma, ordered_to_float
from xnorinfer.graph import Interpretation, Node
from xnorinfer.net.ops import Add, Levels, Linear, Norm, Op, Quantize, Step, Steps
from xnorinfer.net.ties import Rule, binarize
from xnorinfer.net.values import LevelValues
from xnorinfer.packing.counts import Counts
from xnorinfer.packing.packed import Affine, StepName
from xnorinfer.packing.threshold import I64, Expression, Limits, find_limits, first_nan, full_range, zero_counts

# ---------------------------------------------------------------- what the source computes from it

AffineStep: TypeAlias = tuple[StepName, F32 | float, F32 | float]


def affine_of(neurons: int, steps: Sequence[AffineStep]) -> Affine:
    """Steps with their vectors spelled out, (neurons,) float32 each."""
    values = np.empty((len(steps), 2, neurons), np.float32)
    for value, (_, a, b) in zip(values, steps, strict=True):
        value[0], value[1] = a, b
    return Affine(tuple(op for op, _, _ in steps), values)


#: Ops that compute each number by itself, a layer from its dot on, a sum from one of its terms on; what else there is stands in
#: parts of its own (`fusion`).
FOLDED = (Linear, Norm, Steps, Quantize, Levels, Add)

#: (op) -> everything elementwise that it does, in the source's order; of a layer what follows its dot: H, scale, bias.
steps_of: Interpretation[[], list[AffineStep]] = Interpretation("folding", FOLDED)


@steps_of.of(Linear)
def _(op: Linear) -> list[AffineStep]:
    steps: list[AffineStep] = []
    if op.h != 1:
        steps.append(("mul", op.h, 0.0))
    if op.scale is not None:
        steps.append(("mul", op.scale, 0.0))
    if op.bias is not None:
        steps.append(("add", op.bias, 0.0))
    return steps


@steps_of.of(Norm)
def _(op: Norm) -> list[AffineStep]:
    """The expressions of `reference.batch_norm`, with what does not depend on the input computed ahead, in float32.

    Written again and not shared with the oracle, which is there to contradict it.
    """
    gamma = np.ones_like(op.mean) if op.gamma is None else op.gamma
    beta = np.zeros_like(op.mean) if op.beta is None else op.beta
    with np.errstate(all="ignore"):
        if op.inv_std is not None:
            return [("add", -op.mean, 0.0), ("mul", gamma * op.inv_std, 0.0), ("add", beta, 0.0)]
        assert op.variance is not None
        assert op.epsilon is not None
        inverse = ONE / np.sqrt(op.variance + np.float32(op.epsilon))
        if op.form == "tf-fused":
            return [("add", -op.mean, 0.0), ("mul", inverse, 0.0), ("fma", gamma, beta)]
        scale = inverse * gamma
        if op.form == "torch":
            return [("fma", scale, fma(-op.mean, scale, beta))]
        return [("mul", scale, 0.0), ("add", beta - op.mean * scale, 0.0)]


@steps_of.of(Steps)
def _(op: Steps) -> list[AffineStep]:
    return [_function_step(step) for step in op.steps]


@steps_of.of(Add)
def _(op: Add) -> list[AffineStep]:
    return [("side", 0.0, 0.0)]


@steps_of.of(Quantize)
def _(op: Quantize) -> list[AffineStep]:
    """The smallest float32 that a rule makes +1 and the largest that it makes -1."""
    ends = full_range(1, -MAX_FLOAT_KEY, MAX_FLOAT_KEY)
    plus = find_limits(lambda key: binarize(ordered_to_float(key), op.rule) > 0, *ends, 0)
    minus = find_limits(lambda key: binarize(ordered_to_float(key), op.rule) < 0, *ends, 0)
    return [("step", float(ordered_to_float(-plus.limits)[0]), float(ordered_to_float(minus.limits)[0]))]


#: Added to numbers up to `MOST_LEVEL` in either direction it makes float32 round them to whole numbers, halves to even.
ROUNDS = np.float32(3 << 22)


@steps_of.of(Levels)
def _(op: Levels) -> list[AffineStep]:
    """What its codes stand for, where it rounds; by thresholds they are codes first (`fusion`)."""
    whole: list[AffineStep] = [("clip", op.low, op.high), ("add", ROUNDS, 0.0), ("add", -(ROUNDS + np.float32(op.zero)), 0.0)]
    return whole + factors_of(op.domain)


def factors_of(levels: LevelValues) -> list[AffineStep]:
    """What levels less their zero, or dots of such, are multiplied with."""
    return [(function, number, 0.0) for function, number in levels.factors]


def _function_step(step: Step) -> AffineStep:
    match step.function:
        case "mul" | "div" | "add" | "prelu":
            return (step.function, step.parameters[0], 0.0)
        case "sub":  # x - v and x + (-v) are the same float32 operation
            return ("add", -step.parameters[0], 0.0)
        case "relu":
            return ("clip", 0.0, np.inf)
        case "clip":
            low, high = step.parameters
            return ("clip", low, high)
        case "tanh" | "sigmoid":
            return (step.function, 0.0, 0.0)
        case _:
            raise unhandled("folding", step.function)


def steps_of_nodes(nodes: Iterable[Node[Op]]) -> list[AffineStep]:
    """Everything elementwise of nodes of which each reads the one before."""
    return [step for node in nodes for step in steps_of(node)]


def infinite(steps: Affine) -> NDArray[np.bool_]:
    """Neurons whose steps hold an infinite number or NaN, (neurons,) bool; ends of a clip or a step may be infinite."""
    numbers = [index for index, op in enumerate(steps.ops) if op not in ("clip", "step")]
    return np.asarray(~np.isfinite(steps.values[numbers]).all(axis=(0, 1)))


# ---------------------------------------------------------------- the limit, or why there is none


def fold(
    name: str,
    counts: Counts,
    steps: Affine,
    rule: Rule,
    problems: list[str],
    notes: list[str],
    often_zero: NDArray[np.bool_] | None = None,
) -> Limits:
    """The step of every neuron's decision over its counts, where there is one (`has_limits`).

    What speaks against folding is added to `problems`, what a person should know to `notes`.  often_zero: of numbers that other
    nodes make, of which neurons what is compared often is 0 (`often`), (neurons,) bool.
    """
    at_zero = steps.apply(counts.accumulator(np.zeros_like(counts.low)))

    def expression(count: I64) -> F32:
        value = steps.apply(counts.accumulator(count))
        if not counts.reals:
            return value
        # Sums near the largest float overflow in one step, and a scale of 0 in the next makes NaN of a constant channel.
        return np.where(np.isnan(value), at_zero, value)

    one_sided: Rule = "ge" if rule == "sign" else rule
    with np.errstate(all="ignore"):
        problems.extend(_nan_problems(name, counts, steps))
        bends = bends_of(counts, steps)
        if rule == "sign":
            zeros = zeros_of(counts, expression, bends)
            if often_zero is not None:
                zeros = np.where(often_zero, MANY_ZEROS, zeros)
            _judge_zeros(name, counts, zeros, problems, notes)
        return find_limits(lambda c: binarize(expression(c), one_sided) > 0, counts.low, counts.high, counts.mirror)


def fold_classes(
    name: str,
    classes: Sequence[Counts],
    steps: Affine,
    rule: Rule,
    problems: list[str],
    notes: list[str],
    often_zero: NDArray[np.bool_] | None = None,
) -> Limits:
    """The same for windows of several border classes: limits (classes, neurons), one direction for all classes of a neuron.

    The class with the most sums speaks first, and only the first that has something to say.
    """
    found: dict[int, Limits] = {}
    told: tuple[list[str], list[str]] = ([], [])
    for index in sorted(range(len(classes)), key=lambda index: -int((classes[index].high - classes[index].low).max())):
        own: tuple[list[str], list[str]] = ([], [])
        found[index] = fold(name + classes[index].where, classes[index], steps, rule, *own, often_zero)
        told = tuple(mine or theirs for mine, theirs in zip(told, own, strict=True))  # type: ignore[assignment]
    problems.extend(told[0])
    notes.extend(told[1])
    rises = np.stack([found[index].flipped for index in range(len(classes))])
    flipped = rises.any(axis=0)
    limits = []
    for index, counts in enumerate(classes):
        own_limits = found[index].limits
        always = own_limits >= counts.high
        turned = flipped & ~rises[index]
        limits.append(np.where(turned, counts.mirror - np.where(always, counts.low, counts.high + 1), own_limits))
    return Limits(np.stack(limits), np.asarray(flipped))


def fold_levels(
    name: str, classes: Sequence[Counts], steps: Affine, levels: Levels, problems: list[str], notes: list[str]
) -> Limits:
    """The steps of every neuron's code over its counts, where there are such (`has_limits`): limits (top, classes, neurons),
    one direction for all of a neuron.

    steps: what stands before the levels.
    """
    found: list[list[Limits]] = [[] for _ in range(levels.domain.top)]
    told: list[str] = []
    for counts in classes:
        with np.errstate(all="ignore"):
            told = told or _nan_problems(name + counts.where, counts, steps)
            for decide, of_code in zip(_decisions(counts, steps, levels), found, strict=True):
                of_code.append(find_limits(decide, counts.low, counts.high, counts.mirror))
    problems.extend(told)
    rises = np.array([[one.flipped for one in of_code] for of_code in found])
    flipped = rises.any(axis=(0, 1))
    limits = np.array([[one.limits for one in of_code] for of_code in found])
    for index, counts in enumerate(classes):
        own_limits = limits[:, index]
        always, turned = own_limits >= counts.high, flipped & ~rises[:, index]
        limits[:, index] = np.where(turned, counts.mirror - np.where(always, counts.low, counts.high + 1), own_limits)
    if not flipped.any() and _constant(classes, limits):
        notes.append(
            f"{name}: all {flipped.size} neurons are dead: whatever the input, each has one level, and all samples get the "
            "same scores; check which arrays its BatchNorm or thresholds are, and the input mapping"
        )
    return Limits(limits, np.asarray(flipped))


def _constant(classes: Sequence[Counts], limits: I64) -> bool:
    ends = [(limits[:, index] < counts.low) | (limits[:, index] >= counts.high) for index, counts in enumerate(classes)]
    return bool(np.all(ends))


def _level_of(counts: Counts, steps: Affine, levels: Levels) -> Callable[[I64], F32]:
    """The codes at counts, float32."""
    at_zero = steps.apply(counts.accumulator(np.zeros_like(counts.low)))

    def level(count: I64) -> F32:
        value = steps.apply(counts.accumulator(count))
        value = np.where(np.isnan(value), at_zero, value) if counts.reals else value
        return _codes_of(value, levels)

    return level


def _codes_of(value: F32, levels: Levels) -> F32:
    """(..., neurons) float32 -> their codes."""
    if levels.thresholds is not None:
        firsts = levels.thresholds.reshape(-1, *(1,) * (value.ndim - 1), levels.thresholds.shape[1])
        return np.asarray(((value[None] >= firsts) & (firsts < np.inf)).sum(0, dtype=np.float32))
    return np.asarray(np.clip(np.rint(value), np.float32(levels.low), np.float32(levels.high)) - np.float32(levels.low))


def has_limits(classes: Sequence[Counts], steps: Affine, end: Quantize | Levels, largest: float) -> bool:
    """Whether one limit of each neuron, of each class and level and all in one direction, says where its bit or code changes.

    A prelu that falls lets it change twice, or otherwise at the border of a map.  largest: of the sums, where what is made of
    them may leave float32, else 0: of infinite ones it may be on the other side of a limit than of the largest number, and
    NaN, which a scale of 0 makes, is -1 and the lowest level at both ends.
    """
    if largest and not all(_hold_at_ends(counts, steps, end, largest) for counts in classes):
        return False
    bent = [bends_of(counts, steps) for counts in classes]
    if not any(one is not None for one in bent):
        return True
    rises, sinks = (np.zeros(classes[0].low.size, np.bool_) for _ in range(2))
    for counts, bends in zip(classes, bent, strict=True):
        for decide in _decisions(counts, steps, end):
            with np.errstate(all="ignore"):
                if bends is not None and not changes_once(counts, bends, decide):
                    return False
                first, last = decide(counts.low), decide(counts.high)
            rises, sinks = rises | (~first & last), sinks | (first & ~last)
    return not (rises & sinks).any()


def _hold_at_ends(counts: Counts, steps: Affine, end: Quantize | Levels, largest: float) -> bool:
    """Whether the largest sums of both signs have the bits and codes that limits say."""
    turns = np.array([[-1], [1]], np.float32).repeat(counts.low.size, axis=1)
    last = np.finfo(np.float32).max * turns
    if _breaks_off(steps, last):
        return False
    with np.errstate(all="ignore"):
        found = _end_of(steps.apply(np.float32(largest) * turns), end)
        held = _quantized(steps, last, end)
    return bool((np.where(np.isnan(found), np.float32(0), found) == held).all())


def _breaks_off(steps: Affine, ends: F32) -> bool:
    """Whether NaN is made of the largest finite sums, (ends, neurons), and may not be of what a constant is made of otherwise:
    a prelu of slope 0 makes it of what left float32, and of nothing else, as a factor of 0 makes a constant."""
    slopes = [steps.values[index, 0] for index, op in enumerate(steps.ops) if op == "prelu"]
    flat = np.any([slope == 0 for slope in slopes], axis=0)
    return bool((np.isnan(steps.apply(ends)) & flat).any())


def _decisions(counts: Counts, steps: Affine, end: Quantize | Levels) -> list[Callable[[I64], NDArray[np.bool_]]]:
    """What a sign, or each level above the lowest, says of counts."""
    if isinstance(end, Levels):
        level = _level_of(counts, steps, end)
        return [lambda count, code=code: level(count) >= code for code in range(1, end.domain.top + 1)]  # type: ignore[misc]
    rule: Rule = "ge" if end.rule == "sign" else end.rule
    return [lambda count: np.asarray(binarize(steps.apply(counts.accumulator(count)), rule) > 0)]


#: Sums of every neuron that are tried at once.
CHUNK = 4096


def judge_sums(name: str, classes: Sequence[Counts], steps: Affine, problems: list[str], notes: list[str]) -> None:
    """What `fold` says of 0 before torch.sign, where a sign compares what the steps make of sums: every sum is tried."""
    for counts in classes:
        zeros, own = np.zeros_like(counts.low), (list[str](), list[str]())
        with np.errstate(all="ignore"):
            for start in range(0, int((counts.high - counts.low).max()) + 1, CHUNK):
                every = counts.low + np.arange(start, start + CHUNK)[:, None]
                values = steps.apply(counts.accumulator(np.minimum(every, counts.high)))
                zeros += ((values == 0) & (every <= counts.high)).sum(axis=0)
        _judge_zeros(name + counts.where, counts, zeros, *own)
        if any(own):
            problems.extend(own[0])
            notes.extend(own[1])
            return


def falls(classes: Sequence[Counts], before: Affine, steps: Affine, end: Quantize | Levels) -> NDArray[np.bool_]:
    """Of sums of which a max pool takes the largest `before` is done, (neurons,): whether the largest makes the smallest bit or
    code.

    Both expressions are monotone in the sum, so their ends tell how they run.
    """
    with np.errstate(all="ignore"):
        ends = np.stack([counts.accumulator(end) for counts in classes for end in (counts.low, counts.high)])
        lowest, highest = ends.min(axis=0), ends.max(axis=0)
        first, last = (_quantized(steps, accumulator, end) for accumulator in (lowest, highest))
        turned = before.apply(lowest) > before.apply(highest)
    return np.asarray((first != last) & ((first > last) ^ turned))


def _quantized(steps: Affine, accumulator: F32, end: Quantize | Levels) -> F32:
    """The sign, or the level, of accumulators."""
    value = steps.apply(accumulator)
    return _end_of(np.where(np.isnan(value), steps.apply(np.zeros_like(accumulator)), value), end)


def _end_of(value: F32, end: Quantize | Levels) -> F32:
    """The sign, or the code, of values."""
    if isinstance(end, Levels):
        return _codes_of(value, end)
    return binarize(value, "ge" if end.rule == "sign" else end.rule)


def fold_to_step(name: str, classes: Sequence[Counts], steps: Affine, problems: list[str], largest: float) -> Affine | None:
    """The same -1, 0 or +1 of every sum as one comparison of it, for steps that end in one; None where some change twice, or
    NaN decides.

    What speaks against that is added to `problems`.  largest: as `has_limits` has it.
    """
    # Every real number is more than what the windows of several classes can reach.
    counts = classes[0] if len(classes) == 1 else Counts.of_reals(classes[0].low.size)
    bends = bends_of(counts, steps)
    ends: list[tuple[F32, NDArray[np.bool_], NDArray[np.bool_]]] = []
    before, last_step = (Affine(steps.ops[part], steps.values[part]) for part in (slice(-1), slice(-1, None)))
    at_zero = before.apply(np.zeros(counts.low.size, np.float32))

    def signs(count: I64) -> F32:
        value = before.apply(counts.accumulator(count))
        return last_step.apply(np.where(np.isnan(value), at_zero, value))  # as `fold` has it

    with np.errstate(all="ignore"):
        problems.extend(_nan_problems(name, counts, steps))
        decisions: tuple[Callable[[I64], NDArray[np.bool_]], ...] = (lambda c: signs(c) > 0, lambda c: signs(c) < 0)
        for decide in decisions:
            if bends is not None and not changes_once(counts, bends, decide):
                return None
            found = find_limits(decide, counts.low, counts.high, 0)
            # The last sum that gives this sign before another; whether all do, or none.
            nearest = np.where(found.flipped, -found.limits, np.clip(found.limits, counts.low, counts.high))
            ends.append((counts.accumulator(nearest), decide(counts.low) & decide(counts.high), ~decide(nearest)))
        first, last = counts.accumulator(counts.low), counts.accumulator(counts.high)
        rises = (signs(counts.high) - signs(counts.low)) * np.sign(last - first)
    turn = np.where(rises < 0, -ONE, ONE)
    last_float, infinity = np.finfo(np.float32).max, np.float32(np.inf)
    (plus, always, never), (minus, always_minus, never_minus) = ends
    least = np.select([always, never], [-last_float, infinity], turn * plus).astype(np.float32)
    most = np.select([always_minus, never_minus], [last_float, -infinity], turn * minus).astype(np.float32)
    compare: AffineStep = ("step", least, most)
    made = affine_of(turn.size, [compare] if (turn > 0).all() else [("mul", turn, 0.0), compare])
    reached = [one.accumulator(end) for one in classes for end in (one.low, one.high)]
    if _breaks_off(before, np.stack(reached)):
        return None
    if bends is not None:
        reached += [counts.accumulator(np.minimum(bends.last + beyond, counts.high)) for beyond in (0, 1)]
    if largest:
        reached += [np.full(turn.size, end, np.float32) for end in (-largest, largest)]
    return None if (made.apply(np.stack(reached)) != steps.apply(np.stack(reached))).any() else made


def _nan_problems(name: str, counts: Counts, steps: Affine) -> list[str]:
    """Neurons whose source value is NaN at a reachable accumulator: no bit equals NaN."""
    suspects = infinite(steps)
    if counts.reals:
        found = {int(neuron): 0 for neuron in np.flatnonzero(suspects)}
    else:
        ends = [steps.apply(counts.accumulator(count)) for count in (counts.low, counts.high)]
        chosen = np.flatnonzero(suspects | ~np.isfinite(ends).all(axis=0))
        some, columns = counts.columns(chosen), steps.columns(chosen)
        nan = first_nan(lambda count: columns.apply(some.accumulator(count)), some.low, some.high)
        found = {int(chosen[neuron]): count for neuron, count in sorted(nan.items())}
    if not found:
        return []
    neuron, count = next(iter(found.items()))
    value = float(counts.accumulator(np.full_like(counts.low, count))[neuron])
    return [
        f"{name}: BatchNorm gives NaN for {len(found)} neurons with an infinite scale or shift, the first is neuron "
        f"{neuron} at accumulator {value:g}; the source network has no answer there, so check its variance and epsilon"
    ]


# ---------------------------------------------------------------- functions that fall: a prelu with a negative slope


@dataclass(frozen=True, eq=False)
class Bends:
    """Where the expressions of neurons turn from one direction to the other.

    times: (neurons,) int64, how often (0 for a monotone one).  last: (neurons,) int64, the last count before it turns, `high`
    if it does not.
    """

    times: I64
    last: I64


def bends_of(counts: Counts, steps: Affine) -> Bends | None:
    """The bends of all neurons; None if every expression is monotone.  A prelu bends where what enters it crosses 0."""
    times, last = np.zeros_like(counts.low), counts.high
    for index, op in enumerate(steps.ops):
        slope = steps.values[index, 0]
        if op == "prelu" and (slope < 0).any():
            before = Affine(steps.ops[:index], steps.values[:index])
            side = find_limits(lambda c, b=before: b.apply(counts.accumulator(c)) > 0, counts.low, counts.high, 0)  # type: ignore[misc]
            crossing = np.where(side.flipped, -side.limits - 1, side.limits)
            here = (slope < 0) & (crossing >= counts.low) & (crossing < counts.high)
            times, last = times + here, np.where(here, crossing, last)
    return Bends(times, last) if times.any() else None


def changes_once(counts: Counts, bends: Bends, decide: Callable[[I64], NDArray[np.bool_]]) -> bool:
    """Whether every neuron changes its decision once at most, though it bends; of one that bends often that is not known."""
    beside = (counts.low, bends.last, np.minimum(bends.last + 1, counts.high), counts.high)
    changes = np.sum([one != other for one, other in itertools.pairwise(map(decide, beside))], axis=0)
    return not ((changes > 1) | (bends.times > 1)).any()


def zeros_of(counts: Counts, expression: Expression, bends: Bends | None) -> I64:
    """How many counts of each neuron make the expression exactly 0, (neurons,) int64; on both sides of a bend."""
    if bends is None:
        return zero_counts(expression, counts.low, counts.high)
    beyond = zero_counts(expression, np.minimum(bends.last + 1, counts.high), counts.high)
    return np.asarray(zero_counts(expression, counts.low, bends.last) + np.where(bends.last < counts.high, beyond, 0))


#: Ranges of sums so large that the framework's own rounding of mapped pixels decides about a single one.
MANY_SUMS = 4096
#: So many real numbers that make 0 are no accident of rounding: a function is 0 there, as relu is.
MANY_ZEROS = 1 << 20


def _judge_zeros(name: str, counts: Counts, zeros: I64, problems: list[str], notes: list[str]) -> None:
    """torch.sign(0) is 0, which one bit cannot hold: say where it can happen, refuse where it matters."""
    way_out = "choose --profile ge-zero (0 becomes +1) or gt-zero (0 becomes -1)"
    if counts.reals and not (zeros >= MANY_ZEROS).any():
        numbers = "pooled sums" if counts.made else "real inputs"
        notes.append(f"{name}: {numbers} can make a value before sign exactly 0; the packed network takes +1 there")
        return
    if counts.reals:
        first = int(np.argmax(zeros >= MANY_ZEROS))
        problems.append(
            f"{name}: {int((zeros >= MANY_ZEROS).sum())} neurons are exactly 0 before sign at many of their sums (the first is "
            f"neuron {first}); torch.sign gives 0 there, which one bit cannot hold: {way_out}"
        )
        return
    hit = zeros > 0
    if not hit.any():
        return
    first = int(np.argmax(hit))
    what = (
        f"{int(hit.sum())} neurons can reach exactly 0 before sign (the first is neuron {first}, at {zeros[first]} of its sums)"
    )
    if counts.pixels and (zeros[hit] == 1).all() and (counts.high - counts.low)[hit].min() > MANY_SUMS:
        notes.append(f"{name}: {what}; torch.sign gives 0 there, the packed network takes +1. To decide otherwise, {way_out}")
    else:
        problems.append(f"{name}: {what}; torch.sign gives 0 there, which one bit cannot hold: {way_out}")

"""Where an elementwise expression steps from one number to another: found by evaluating it over all of float32.

An interval of floats over which the bounds of an expression are one number is done; any other is halved, down to single floats.
What comes out is proven for every finite float32 and says all about an expression that takes few values, as signs do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_steps
from xnorinfer.converters.graphs.elementwise import Expr, bounds, constants, evaluate, ordered
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Levels
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import MOST_LEVEL

#: The first float32 that each rule makes +1; "sign" has 0 at 0.
FIRST: dict[Rule, np.float32] = {
    "ge": np.float32(0),
    "gt": np.float32(2.0**-149),
    "round-even": np.nextafter(np.float32(2.0**-24), np.float32(1)),
    "round-away": np.float32(-(2.0**-25)),
}
#: Keys of floats, as `key_of` numbers them: the largest.
LAST = int(np.array(np.finfo(np.float32).max).view(np.uint32))
#: The values of signs by all rules: -1, 0 and +1.
FEW = 3
#: Intervals that may be open at once, of one expression for all neurons, and of each neuron where each has its own.
MANY, MANY_EACH = 6000, 60
#: So many are looked at as one number is.
_FLOATS_A_STEP = 1024


def floats(keys: NDArray[np.int64]) -> F32:
    """Whole numbers as floats in order: 0 is 0.0, 1 the smallest above, -1 minus that."""
    magnitude = np.abs(keys).astype(np.uint32).view(np.float32)
    return np.where(keys < 0, -magnitude, magnitude).astype(np.float32)


def _probes(apart: int) -> NDArray[np.int64]:
    """Powers of two and their neighbours, and 0.  apart: how many powers are left out in between."""
    powers = np.exp2(np.arange(-149, 128, apart, dtype=np.float64)).astype(np.float32).view(np.uint32).astype(np.int64)
    near = np.concatenate([[0], powers - 1, powers, powers + 1, [LAST]])
    return np.unique(np.concatenate([near, -near]))


@dataclass(frozen=True, eq=False)
class Steps:
    """What an expression gives neuron by neuron: `values[i][k]` from the float of key `starts[i][k]` on."""

    starts: list[list[int]]
    values: list[list[float]]


def step_values(
    expr: Expr, leaf: Expr, width: int, most: int = FEW, within: tuple[float, float] = (-np.inf, np.inf)
) -> Steps | None:
    """The steps of an expression of `leaf` for `width` neurons (1 where all constants are single numbers).

    within: between which numbers the values of `leaf` lie.  None where it takes more than `most` values, is NaN somewhere,
    tells -0.0 from 0.0, or cannot be searched.
    """
    inner = ordered(expr, leaf)
    if any(node.op == "lost" or (node.op == "X" and node is not leaf) for node in inner):
        return None
    if all(array.ndim == 0 for array in constants(expr)):
        width = 1
    low, high = (_key_of(end) for end in within)
    probes = _probes(1 if width == 1 else 12)
    probes = np.unique(np.concatenate([[low, high], probes[(probes >= low) & (probes <= high)]]))
    if low >= high:
        return None
    neurons = np.repeat(np.arange(width), len(probes))
    found = evaluate(expr, floats(np.tile(probes, width)), neurons, leaf).reshape(width, -1)
    minus_zero = evaluate(expr, np.full(width, -0.0, np.float32), np.arange(width), leaf)
    zero = evaluate(expr, np.zeros(width, np.float32), np.arange(width), leaf)
    ordered_values = np.sort(found, axis=1)
    many = (ordered_values[:, 1:] != ordered_values[:, :-1]).sum(axis=1) >= most
    if many.any() or np.isnan(found).any() or (minus_zero != zero).any():
        return None
    return _search(inner, leaf, width, probes)


def _search(nodes: Sequence[Expr], leaf: Expr, width: int, probes: NDArray[np.int64]) -> Steps | None:
    """nodes: the expression, each behind its arguments."""
    expr = nodes[-1]
    low = np.tile(probes[:-1], width)
    high = np.tile(np.append(probes[1:-1] - 1, probes[-1]), width)
    neurons = np.repeat(np.arange(width), len(probes) - 1)
    done: list[tuple[Any, Any, Any]] = []
    while low.size:
        if low.size > (MANY if width == 1 else max(MANY_EACH, len(probes)) * width):
            return None
        spend_steps(len(nodes) * (1 + low.size // _FLOATS_A_STEP), "following what its graph computes")
        limits = bounds(expr, floats(low), floats(high), neurons, leaf, nodes)
        proven = (limits.low == limits.high) & ~limits.open
        single = ~proven & (low == high)
        values = limits.low.copy()
        if single.any():
            values[single] = evaluate(expr, floats(low[single]), neurons[single], leaf, nodes)
        known = proven | single
        if np.isnan(values[known]).any():
            return None
        done.append((neurons[known], low[known], values[known]))
        low, high, neurons = low[~known], high[~known], neurons[~known]
        middle = low + (high - low) // 2
        low, high = np.concatenate([low, middle + 1]), np.concatenate([middle, high])
        neurons = np.concatenate([neurons, neurons])
    whose, keys, values = (np.concatenate(parts) for parts in zip(*done, strict=True))
    order = np.lexsort((keys, whose))
    starts: list[list[int]] = [[] for _ in range(width)]
    taken: list[list[float]] = [[] for _ in range(width)]
    for neuron, key, value in zip(whose[order].tolist(), keys[order].tolist(), values[order].tolist(), strict=True):
        if not taken[neuron] or taken[neuron][-1] != value:
            starts[neuron].append(key)
            taken[neuron].append(value)
    return Steps(starts, taken)


@dataclass(frozen=True, eq=False)
class Binary:
    """A step from one value up to another.  rule: where it is one that training code has; else +1 stands where
    `x * factor - limit >= 0`, both (width,) float32.  low, high: what -1 and +1 stand for."""

    rule: Rule | None
    low: float
    high: float
    factor: F32
    limit: F32


def binary(steps: Steps) -> Binary | str:
    """The step that an expression makes, or why it makes none, as the end of a sentence."""
    values = sorted({value for taken in steps.values for value in taken})
    if len(values) == FEW and values[0] == -values[2] and values[1] == 0:
        if all(len(taken) == FEW and taken[0] < 0 and starts[1:] == [0, 1] for starts, taken in _pairs(steps)):
            return Binary("sign", values[0], values[2], np.ones(1, np.float32), np.zeros(1, np.float32))
        return "gives 0 for more values than 0: three values, which one bit cannot hold"
    if len(values) == 1:
        return f"gives {values[0]:g} for every value"
    if len(values) != 2:
        listed = ", ".join(f"{value:g}" for value in values[:4]) + (f" and {len(values) - 4} more" if len(values) > 4 else "")
        return f"gives the values {listed}, where one bit holds two"
    low, high = values
    factor, limit = [], []
    for starts, taken in _pairs(steps):
        if len(taken) > 2:
            return f"steps between {low:g} and {high:g} more than once: no single threshold says where"
        if len(taken) == 1:  # always or never
            factor.append(0.0)
            limit.append(0.0 if taken[0] == high else 1.0)
        elif taken[0] == low:
            factor.append(1.0)
            limit.append(float(floats(np.array([starts[1]]))[0]))
        else:
            factor.append(-1.0)
            limit.append(-float(floats(np.array([starts[1] - 1]))[0]))
    factors, limits = np.array(factor, np.float32), np.array(limit, np.float32)
    rule = next((rule for rule, first in FIRST.items() if (factors == 1).all() and (limits == first).all()), None)
    return Binary(rule, low, high, factors, limits)


def levels(steps: Steps, *, most: int, divided: bool) -> Levels | None:
    """The levels that an expression gives, where it rounds halves to even between two whole numbers, and each of these stands
    for its distance from one of them times or divided by a number; else None.

    most: how many at most.  divided: times or divided, where both give the same.
    """
    first, *others = zip(steps.starts, steps.values, strict=True)
    starts, values = first
    if any(other != first for other in others) or not FEW <= len(values) <= most:
        return None
    low = round(float(floats(np.array(starts[1:2]))[0]) - 0.5)  # a start is a half, or the float above one
    whole = np.arange(low, low + len(values))
    if [_first_of(number) for number in whole[1:].tolist()] != starts[1:]:
        return None
    return _standing_for(whole, np.array(values, np.float32), divided=divided)


def graded(steps: Steps, *, most: int, divided: bool) -> tuple[Levels, F32] | None:
    """The same of steps anywhere between values that are evenly apart, of each neuron its own: levels by thresholds, and what
    the values before are multiplied with, -1 where they fall, both of all neurons; else None."""
    values = np.unique(np.array([value for taken in steps.values for value in taken], np.float32))
    of_zero = any(starts[1:] == [0, 1] for starts in steps.starts)  # a sign, whose ties are another matter
    if max(map(len, steps.values)) < FEW or len(values) > most or of_zero:
        return None
    unit = float(np.diff(values.astype(np.float64)).min())
    found, whole = None, np.zeros(len(values), np.int64)
    for each in (unit, unit / 2):
        apart = (values.astype(np.float64) - float(values[0])) / each
        if found is None and np.isfinite(apart).all() and apart[-1] < most:
            whole = np.rint(apart).astype(np.int64)
            found = _standing_for(whole, values, divided=divided)
    if found is None:
        return None
    thresholds = np.full((found.high, len(steps.values)), -np.inf, np.float32)
    turns = np.ones(len(steps.values), np.float32)
    for neuron, (starts, taken) in enumerate(_pairs(steps)):
        codes = whole[np.searchsorted(values, np.array(taken, np.float32))]
        rising = np.diff(codes) > 0
        rises = bool(rising.all())
        if not rises and rising.any():
            return None
        turns[neuron] = 1 if rises else -1
        for code in range(1, found.high + 1):
            changed = np.flatnonzero((codes >= code) == rises)  # where it is reached first, or left
            if changed.size and changed[0]:
                start = starts[changed[0]]
                limit = float(floats(np.array(start if rises else start - 1)))
            else:
                limit = -np.inf if changed.size else np.inf
            thresholds[code - 1, neuron] = limit if rises else -limit
    return dataclasses.replace(found, thresholds=thresholds), turns


def _first_of(number: int) -> int:
    """The key of the first float that rounds to a whole number."""
    half = np.float32(number - 0.5)
    return _key_of(half if number % 2 == 0 else np.nextafter(half, np.float32(np.inf)))


def _key_of(number: float) -> int:
    """The key of a float, infinite ones being the largest that are finite."""
    size = min(int(np.abs(np.float32(number)).view(np.uint32)), LAST)
    return size if number >= 0 else -size


def _standing_for(whole: NDArray[np.int64], values: F32, *, divided: bool) -> Levels | None:
    """Levels of whole numbers in order that stand for these values; None where that is no zero, a factor and a divisor."""
    apart = float(values[-1]) - float(values[0])
    if not np.isfinite(values).all() or apart <= 0:
        return None
    unit = apart / int(whole[-1] - whole[0])
    zero = int(whole[0]) - round(float(values[0]) / unit)
    if abs(zero) > MOST_LEVEL:
        return None
    distance = (whole - zero).astype(np.float32)
    far = int(np.argmax(np.abs(distance)))
    near = np.float32(float(values[far]) / float(distance[far]))
    factors = [np.float32(abs(value)) for value in values[np.abs(distance) == 1]]
    divisor, number = np.float32(round(min(1 / unit, MOST_LEVEL))), np.float32(1 / unit)
    one = np.float32(1)
    times = [(factor, one) for factor in (*factors, *_beside(near)) if (distance * factor == values).all()]
    with np.errstate(divide="ignore"):
        over = [(one, by) for by in (divisor, *_beside(number)) if by > 0 and by != 1 and (distance / by == values).all()]
    both = [*over, *times] if divided else [*times, *over]
    chosen = both[0] if both else _by_two(distance, values, near)
    if chosen is None:
        return None
    return Levels(int(whole[0]), int(whole[-1]), zero, step=float(chosen[0]), divisor=float(chosen[1]))


#: Divisors that are tried for numbers that were rounded more than once.
TRIED = 1 << 15


def _by_two(distance: F32, values: F32, near: np.float32) -> tuple[np.float32, np.float32] | None:
    """A factor and a divisor that make these numbers of their distances, though something else made them, `(q / 3) * alpha`
    say: rounded twice, as they were; None where none is found, and where they are not evenly apart but for rounding."""
    if (np.abs(distance * near - values) > 2.0**-20 * np.abs(values)).any():
        return None
    spend_steps(TRIED // 16, "looking for what levels stand for")
    by = (1 + np.arange(TRIED) / TRIED).astype(np.float32)
    for factor in _beside((near * by.astype(np.float64)).astype(np.float32)):
        fits = ((distance * factor[:, None]) / by[:, None] == values).all(axis=1)
        if fits.any():
            return factor[int(np.argmax(fits))], by[int(np.argmax(fits))]
    return None


def _beside(numbers: Any) -> tuple[Any, Any, Any]:
    """Float32 numbers, and those next to them."""
    return numbers, np.nextafter(numbers, np.float32(0)), np.nextafter(numbers, np.float32(np.inf))


def _pairs(steps: Steps) -> Any:
    return zip(steps.starts, steps.values, strict=True)

"""BatchNorm + bias + H + tie rule -> one integer limit per neuron, exact for the source's float32 expression.

Nothing is solved on paper.  Between a count and the binarized activation lie only float32 operations that are monotone in the
count, each rounded monotonically, so the decision as a function of the count has at most one step; evaluating the very
expression that the source evaluates finds it, by bisection.  Negative, zero and tiny gammas, dead neurons and infinite scales
need no cases of their own:

    decision falls with the count   fires iff count <= limit
    decision rises                  fires iff mirrored count <= limit: the neuron's weight bits are flipped, which turns a count
                                    c into mirror - c (mirror = depth for mismatches, 0 for sums)
    decision never changes          limit above or below every count
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

I64: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

#: Maps one count per neuron, (neurons,) int64, to the value before binarization, (neurons,) float32.
Expression: TypeAlias = Callable[[I64], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Limits:
    """Where decisions change.  limits: (neurons,) int64 on the (possibly mirrored) count; flipped: (neurons,) bool."""

    limits: I64
    flipped: Bools


def last_true(decide: Callable[[I64], Bools], low: I64, high: I64) -> I64:
    """Largest count in [low, high] where a falling decision still holds; it holds at low and not at high.

    decide: counts (neurons,) -> (neurons,) bool.  All arrays (neurons,) int64.
    """
    low, high = low.copy(), high.copy()
    while (high - low > 1).any():
        middle = low + (high - low) // 2
        holds = decide(middle)
        low = np.where(holds, middle, low)
        high = np.where(holds, high, middle)
    return low


def find_limits(decide: Callable[[I64], Bools], low: I64, high: I64, mirror: int) -> Limits:
    """The one step of each neuron's decision over counts low..high (inclusive, per neuron).

    decide must be monotone in the count, per neuron, in either direction; `never` becomes limit low - 1 and `always` limit
    high, both unflipped.
    """
    at_low, at_high = decide(low), decide(high)
    rising = ~at_low & at_high
    falling = at_low & ~at_high
    # A rising decision is bisected as the falling decision "not yet"; constant ones start with nothing left to search.
    stop = np.where(rising | falling, high, low)
    last = last_true(lambda counts: decide(counts) != rising, low, stop)
    limits = np.where(falling, last, np.where(at_low, high, low - 1))
    return Limits(np.where(rising, mirror - (last + 1), limits), rising)


def zero_counts(expression: Expression, low: I64, high: I64) -> I64:
    """How many counts of each neuron make the expression exactly 0: (neurons,) int64.

    The zeros of a monotone expression are neighbours, so they lie between the steps of `> 0` and of `>= 0`.
    """
    with_zero = find_limits(lambda counts: expression(counts) >= 0, low, high, 0)
    without = find_limits(lambda counts: expression(counts) > 0, low, high, 0)
    return np.asarray(_fires(with_zero, low, high) - _fires(without, low, high))


def _fires(found: Limits, low: I64, high: I64) -> I64:
    """Number of counts that fire; mirrored counts (mirror 0) run over -high..-low."""
    first = np.where(found.flipped, -high, low)
    return np.asarray(found.limits - first + 1)


def first_nan(expression: Expression, low: I64, high: I64) -> dict[int, int]:
    """Neuron -> its first count where the expression is NaN, by enumeration; for the few neurons that can have one.

    Here the expression is given (chunk, neurons) counts and must broadcast.
    """
    found: dict[int, int] = {}
    longest = int((high - low).max(initial=-1))
    for start in range(0, longest + 1, NAN_CHUNK):
        counts = np.minimum(low + np.arange(start, start + NAN_CHUNK)[:, None], high)
        nan = np.isnan(expression(counts))
        for neuron in np.flatnonzero(nan.any(axis=0)):
            found.setdefault(int(neuron), int(counts[np.argmax(nan[:, neuron]), neuron]))
    return found


NAN_CHUNK = 4096


def full_range(neurons: int, low: int, high: int) -> tuple[I64, I64]:
    """The same count range for every neuron, as `find_limits` takes it."""
    return np.full(neurons, low, np.int64), np.full(neurons, high, np.int64)


def limits_as(values: NDArray[Any], dtype: type[np.int32]) -> NDArray[np.int32]:
    """Limits narrowed to the file's integers; they fit because counts do (MAX_PIXEL_DEPTH)."""
    narrowed = values.astype(dtype)
    assert (narrowed == values).all()
    return narrowed

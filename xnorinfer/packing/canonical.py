"""One form for one network: what two sources of the same network write down differently is stored alike.

Two packed networks are the same where every layer gives the same answer at every sum that it can reach.  Binary layers that
end in a sign are stored as bits and integer limits, which follow from those answers alone.  What is left are heads, and
activations that feed a float layer: one framework scales and shifts (`mul`, `add`), another fuses the two (`fma`), subtracts
the mean first, keeps a bias or a weight scale apart.  `canonical_steps` looks at the answers and not at how they were written
down: if any pair of float32 numbers a and b gives `fl(fl(sum * a) + b)` equal to the source's value, in every bit, at every
reachable sum and at 0, the layer is stored so, with the simplest such a.  Else the source's own steps stay, which no
scale and shift equals.

The search is exact.  b is the source's value at 0.  For that b, `fl(fl(x * a) + b)` rises with a where x > 0 and falls where
x < 0, each rounding being monotone: the numbers a that are large enough at every sum are all from some float on, those that are
small enough are all up to some float, and both ends are found by bisection over the float32 numbers in order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from xnorinfer.float32 import F32, MAX_FLOAT_KEY, ordered_to_float
from xnorinfer.net.values import InputMapping, PixelInput
from xnorinfer.packing.counts import Counts
from xnorinfer.packing.packed import Affine, StepName
from xnorinfer.packing.threshold import I64, find_limits, full_range

#: Steps that keep the order of values, one rounding each.
_RUN: tuple[StepName, ...] = ("mul", "add", "div", "fma")
#: Values (sums times neurons) that are enumerated at most: a head over 1600 classes of 2600 inputs, or 10 over 800 pixels.
MANY_VALUES = 1 << 22
#: Sums tried first, to narrow the search before all are.
FEW_SUMS = 64
#: Whole numbers in a mapping of pixels up to this leave its sums exact in float64: 2^20 * 255 * MAX_PIXEL_DEPTH < 2^52.
WHOLE = 1 << 20


def canonical_mapping(mapping: InputMapping) -> InputMapping:
    """The same mapping in the smallest whole numbers: (p - 127.5) / 127.5 is (2*p - 255) / 255.

    Only where whole numbers up to `WHOLE` say it: then every sum is exact in either form, and rounded once by the division.
    """
    if not isinstance(mapping, PixelInput) or mapping.divisor < 0:  # which would make a sum of 0 a -0.0
        return mapping
    numbers = [Fraction(number) for number in (mapping.slope, mapping.intercept, mapping.divisor)]
    unit = Fraction(math.gcd(*(n.numerator for n in numbers)), math.lcm(*(n.denominator for n in numbers)))
    odd = unit.numerator // (unit.numerator & -unit.numerator)  # what is left of the unit without its powers of two
    if max(abs(number / unit) * odd for number in numbers) > WHOLE:
        return mapping
    slope, intercept, divisor = (float(number / unit) for number in numbers)
    return PixelInput(slope, intercept, divisor)


def canonical_steps(classes: Sequence[Counts], steps: Affine) -> Affine:
    """The same function of the reachable sums as mul and add (either left out where it does nothing), if there is one.

    classes: the sums of each border class.
    Only what stands before a clip or a sign is looked at.  Sums that are real numbers cannot be enumerated: their steps stay.
    """
    end = next((index for index, op in enumerate(steps.ops) if op not in _RUN), len(steps.ops))
    values = sum(int((counts.high - counts.low).max(initial=-1) + 1) * counts.low.size for counts in classes)
    if any(counts.reals for counts in classes) or not end or values > MANY_VALUES:
        return steps
    with np.errstate(all="ignore"):
        x = np.concatenate([_sums(counts) for counts in classes])
        found = _scale_and_shift(x, Affine(steps.ops[:end], steps.values[:end]))
    if found is None:
        return steps
    return Affine(found.ops + steps.ops[end:], np.concatenate([found.values, steps.values[end:]]))


def _sums(counts: Counts) -> F32:
    """Every reachable sum, (sums, neurons)."""
    longest = int((counts.high - counts.low).max())
    return counts.accumulator(np.minimum(counts.low + np.arange(longest + 1)[:, None], counts.high))


def _scale_and_shift(x: F32, run: Affine) -> Affine | None:
    """x: every reachable sum, (sums, neurons)."""
    every, neurons = x.shape
    wanted = run.apply(x)
    shift = run.apply(np.zeros(neurons, np.float32))
    if not (np.isfinite(wanted).all() and np.isfinite(shift).all()):
        return None
    low, high = full_range(neurons, -MAX_FLOAT_KEY, MAX_FLOAT_KEY)
    for rows in (np.unique(np.linspace(0, every - 1, FEW_SUMS).astype(int)), np.arange(every)):
        low, high = _narrow(x[rows], wanted[rows], shift, low, high)
        if (low > high).any():
            return None
    scale = ordered_to_float(np.array([simplest(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True)], np.int64))
    vectors: dict[StepName, F32] = {"mul": scale, "add": shift}
    both: tuple[StepName, ...] = ("mul", "add")
    needed = tuple(op for op, idle in zip(both, ((scale == 1).all(), (shift == 0).all()), strict=True) if not idle)
    for ops in (needed, both):
        stored = np.zeros((len(ops), 2, neurons), np.float32)
        for value, op in zip(stored, ops, strict=True):
            value[0] = vectors[op]
        if np.array_equal(Affine(ops, stored).apply(x).view(np.int32), wanted.view(np.int32)):  # in every bit: -0.0 is not 0.0
            return Affine(ops, stored)
    return None


def _narrow(x: F32, wanted: F32, shift: F32, low: I64, high: I64) -> tuple[I64, I64]:
    """The first and the last float (as ordered integers, from low to high) that give the wanted values at sums x.

    x, wanted: (sums, neurons).  The first is beyond the last where none does.
    """
    rises, falls = x > 0, x < 0

    def beside(keys: I64) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        value = x * ordered_to_float(keys) + shift
        return value >= wanted, value <= wanted

    def large_enough(keys: I64) -> NDArray[np.bool_]:
        at_least, at_most = beside(keys)
        return np.asarray(((at_least | ~rises) & (at_most | ~falls)).all(axis=0))

    def small_enough(keys: I64) -> NDArray[np.bool_]:
        at_least, at_most = beside(keys)
        return np.asarray(((at_most | ~rises) & (at_least | ~falls)).all(axis=0))

    first, last = find_limits(large_enough, low, high, 0), find_limits(small_enough, low, high, 0)
    # An unflipped limit is `high` where the decision always holds, low - 1 where it never does.
    always = np.where(first.limits >= low, low, high + 1)
    return np.where(first.flipped, -first.limits, always), last.limits


def simplest(low: int, high: int) -> int:
    """The float with the shortest significand among those from low to high, all as ordered integers; 0 if it is among them."""
    if low <= 0 <= high:
        return 0
    if high < 0:
        return -simplest(-high, -low)
    ones = (1 << (low ^ high).bit_length()) - 1  # below the bits that all of them share
    if low & (ones >> 1) == 0:
        return low
    return high & ~(ones >> 1)

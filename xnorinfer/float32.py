"""float32 in one way everywhere: fused multiply-add, functions and sums that are rounded once, numbers as integers in order."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]

ONE = np.float32(1)


def single(value: Any) -> F32:
    """As float32; a number beyond is infinite, which checks report."""
    with np.errstate(over="ignore"):
        return np.asarray(value, np.float32)


def fma(x: F32, y: F32, z: F32) -> F32:
    """float32 fused multiply-add, x*y + z rounded once.

    The product is exact in float64, and the second rounding of the sum only counts where float64 has it in the middle of two
    float32.  There it is rounded to odd (Boldo & Melquiond 2008, "Emulation of FMA and correctly rounded sums"), so that the
    second rounding sees on which side the exact value lies.
    """
    with np.errstate(invalid="ignore"):  # infinite numbers, which sums may reach
        product = np.asarray(x.astype(np.float64) * y)
        total = np.asarray(product + z)
    size = np.ascontiguousarray(total).view(np.int64) & MAX_DOUBLE_KEY
    # Below the normal float32, their middles lie elsewhere.
    middle = ((size & MIDDLE_MASK) == MIDDLE) | ((size < LEAST_NORMAL) & (size > 0))
    if middle.any():
        addend = np.broadcast_to(z, total.shape)[middle].astype(np.float64)
        total[middle] = _rounded_to_odd(np.broadcast_to(product, total.shape)[middle], addend)
    with np.errstate(over="ignore"):
        return total.astype(np.float32)


#: float64 as an integer without its sign; its last bits, which a float32 has not, and those of the middle of two float32; the
#: least normal float32 as such an integer.
MAX_DOUBLE_KEY, MIDDLE_MASK, MIDDLE, LEAST_NORMAL = (1 << 63) - 1, (1 << 29) - 1, 1 << 28, (1023 - 126) << 52


def _rounded_to_odd(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """x + y, to the float64 of the two next to it whose last bit is 1 where it is none."""
    total = x + y
    with np.errstate(invalid="ignore"):
        back = total - x
        error = (x - (total - back)) + (y - back)
    even = (total.view(np.int64) & 1) == 0
    nudge = np.isfinite(total) & (error != 0) & even
    return np.where(nudge, np.nextafter(total, np.copysign(np.inf, error)), total)


#: ln 2 in two parts, the first of few enough bits that its multiples are exact; 1/n!, the series of exp.
LN2_HIGH, LN2_LOW, LOG2_E = 0.693147180369123816490, 1.90821492927058770002e-10, 1.4426950408889634
FACTORIALS = tuple(1 / math.factorial(n) for n in range(14))
#: Below it tanh is its series, x - x^3/3 + 2x^5/15 - 17x^7/315.
SMALL_TANH = 2.0**-6


#: exp of anything below leaves nothing of float32.
LEAST_EXP = -110.0


def _exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp of float64 up to 0, by operations that every machine rounds alike; kernels and C have the same."""
    x = np.maximum(x, LEAST_EXP)
    halvings = np.trunc(0.5 - x * LOG2_E)
    rest = (x + halvings * LN2_HIGH) + halvings * LN2_LOW
    series = np.full_like(x, FACTORIALS[-1])
    for factor in FACTORIALS[-2::-1]:
        series = series * rest + factor
    return np.ldexp(series, -np.nan_to_num(halvings).astype(np.int32))


def tanh(x: F32) -> F32:
    """The float32 next to the real number tanh(x), on every machine; a framework's own code can be a unit off.

    In float64, rounded once; every float32 was compared with what more bits give.
    """
    wide = np.abs(x.astype(np.float64))
    least = np.minimum(wide, SMALL_TANH)
    square = least * least
    small = least + least * square * (square * (2 / 15 - square * (17 / 315)) - 1 / 3)
    fallen = _exp(-2 * wide)
    found = np.where(wide >= SMALL_TANH, (1 - fallen) / (1 + fallen), small)
    return np.copysign(found, x).astype(np.float32)


def sigmoid(x: F32) -> F32:
    """1 / (1 + exp(-x)) in float64, rounded to float32 once, on every machine alike.

    That is next to the real number but for some x near 0, where it is so close to the middle of two floats that float64 has it
    there.
    """
    wide = x.astype(np.float64)
    fallen = _exp(-np.abs(wide))
    return np.asarray(np.where(wide >= 0, 1.0, fallen) / (1 + fallen), np.float32)


def differing(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two arrays of one shape have other numbers; NaN is NaN, and 0 is -0."""
    return np.asarray((one != other) & ~(np.isnan(one) & np.isnan(other)))


def sequential_dot(x: F32, weights: F32) -> F32:
    """(rows, depth) x (neurons, depth) -> (rows, neurons): float64 sums in input order, rounded to float32 once."""
    total = np.zeros((x.shape[0], weights.shape[0]), np.float64)
    with np.errstate(all="ignore"):  # infinite numbers, as in `fma`
        for k in range(x.shape[1]):
            total += x[:, k, None].astype(np.float64) * weights[None, :, k]
        return total.astype(np.float32)


#: Numbers that a sum of products is computed for at a time, so that they stay in cache.
FUSED_NUMBERS = 1 << 15


def fused_dot(x: F32, weights: F32) -> F32:
    """(rows, depth) x (neurons, depth) -> (rows, neurons): float32 sums from 0 on, by a fused multiply-add for each input, in
    order."""
    out = np.zeros((x.shape[0], weights.shape[0]), np.float32)
    step = max(1, FUSED_NUMBERS // max(1, weights.shape[0]))
    columns = np.ascontiguousarray(weights.T)
    for start in range(0, len(x), step):
        total = out[start : start + step]
        for k, column in enumerate(columns):
            total = fma(x[start : start + step, k, None], column, total)
        out[start : start + step] = total
    return out


def integer_dot(x: NDArray[Any], weights: F32) -> NDArray[Any]:
    """Integers x (rows, depth) times signs, exactly, as float32 or float64: while every possible partial sum fits the mantissa,
    BLAS rounds nothing, in any order."""
    largest = int(np.abs(x).max(initial=0)) * x.shape[1]
    exact = np.float32 if largest < 2**24 else np.float64
    return np.asarray(x.astype(exact) @ weights.T.astype(exact))


def at_most(limits: NDArray[Any]) -> NDArray[Any]:
    """Limits as numbers are compared with them, `x <= limit`: nothing is at most -infinity, which is NaN then."""
    return limits if limits.dtype.kind == "i" else np.where(limits == -np.inf, limits.dtype.type(np.nan), limits)


#: The key of the largest finite float32.
MAX_FLOAT_KEY = int(np.array(np.finfo(np.float32).max).view(np.uint32))


def ordered_to_float(keys: NDArray[np.int64]) -> F32:
    """Integers to float32 in order: 0 -> 0.0, 1 -> the smallest positive float, -k -> minus the float of k."""
    magnitude = np.abs(keys).astype(np.uint32).view(np.float32)
    return np.where(keys < 0, -magnitude, magnitude).astype(np.float32)

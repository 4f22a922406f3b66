"""float32 in one way everywhere: fused multiply-add, functions and sums that are rounded once, numbers as integers in order."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]

ONE = np.float32(1)


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


def tanh(x: F32) -> F32:
    """The float64 value rounded to float32 once; a framework's own float32 code can be a unit in the last place off."""
    return np.asarray(np.tanh(x.astype(np.float64)), np.float32)


def sigmoid(x: F32) -> F32:
    """1 / (1 + exp(-x)) in float64, written so that nothing overflows, rounded to float32 once as `tanh` is."""
    wide = x.astype(np.float64)
    small = np.exp(-np.abs(wide))
    return np.asarray(np.where(wide >= 0, 1.0, small) / (1 + small), np.float32)


def sequential_dot(x: F32, weights: F32) -> F32:
    """(rows, depth) x (neurons, depth) -> (rows, neurons): float64 sums in input order, rounded to float32 once."""
    total = np.zeros((x.shape[0], weights.shape[0]), np.float64)
    for k in range(x.shape[1]):
        total += x[:, k, None].astype(np.float64) * weights[None, :, k]
    return total.astype(np.float32)


def integer_dot(x: NDArray[Any], weights: F32) -> NDArray[Any]:
    """Integers x (rows, depth) times signs, exactly, as float32 or float64: while every possible partial sum fits the mantissa,
    BLAS rounds nothing, in any order."""
    largest = int(np.abs(x).max(initial=0)) * x.shape[1]
    exact = np.float32 if largest < 2**24 else np.float64
    return np.asarray(x.astype(exact) @ weights.T.astype(exact))


#: The key of the largest finite float32.
MAX_FLOAT_KEY = int(np.array(np.finfo(np.float32).max).view(np.uint32))


def ordered_to_float(keys: NDArray[np.int64]) -> F32:
    """Integers to float32 in order: 0 -> 0.0, 1 -> the smallest positive float, -k -> minus the float of k."""
    magnitude = np.abs(keys).astype(np.uint32).view(np.float32)
    return np.where(keys < 0, -magnitude, magnitude).astype(np.float32)

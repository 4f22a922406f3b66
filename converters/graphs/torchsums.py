"""PyTorch's own sums of float32 on a CPU: its order of additions, so that what a program makes of its weights, their mean
magnitude say, is the same float32.

Neighbours in memory are added as vectors of 8 numbers, in whose order ATen builds for x86 with AVX2 (and with AVX-512, which
has no other sums); every fourth vector by itself, 16 of them before they are added to those before.  Elsewhere, and where
several threads share one sum, a result may differ in its last bit.  The terms of a norm are added one after the other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.float32 import F32

#: Numbers of a vector, vectors that are added each by itself, steps of partial sums.
VECTOR = 8
APART = 4
LEVELS = 4
#: Terms of a sum, beyond which it is left to others: each costs a step here.
MOST_TERMS = 1 << 17


def torch_sum(operation: str, x: NDArray[Any], axes: tuple[int, ...] | None) -> F32 | None:
    """A ReduceSum, ReduceMean or ReduceL1 of a float32 array, without the axes that it takes; None where these are not side by
    side or the numbers not in order, and of other operations."""
    summed = sorted({axis % x.ndim for axis in (range(x.ndim) if axes is None else axes)}) if x.ndim else []
    if x.dtype != np.float32 or not x.flags.c_contiguous or not x.size or not summed or summed[-1] - summed[0] >= len(summed):
        return None
    before, inside, behind = x.shape[: summed[0]], x.shape[summed[0] : summed[-1] + 1], x.shape[summed[-1] + 1 :]
    parts = x.reshape(math.prod(before), math.prod(inside), math.prod(behind))
    if operation not in ("ReduceSum", "ReduceMean", "ReduceL1") or parts.shape[1] > MOST_TERMS:
        return None
    with np.errstate(all="ignore"):
        if operation == "ReduceL1":
            sums = _in_turn(np.zeros_like(parts[:, 0]), np.abs(parts))
        else:
            sums = _of_neighbours(parts[:, :, 0]) if parts.shape[2] == 1 else _of_columns(parts)
        if operation == "ReduceMean":
            sums = sums / np.float32(parts.shape[1])
    return sums.reshape(before + behind)


def _of_neighbours(rows: F32) -> F32:
    """The sums (rows,) of numbers (rows, size) that lie side by side."""
    count = rows.shape[1] // VECTOR
    if not count:
        return _apart(rows)
    vectors = _apart(rows[:, : count * VECTOR].reshape(len(rows), count, VECTOR))
    return _in_turn(_in_turn(np.zeros(len(rows), np.float32), rows[:, count * VECTOR :]), vectors)


def _of_columns(parts: F32) -> F32:
    """The sums (parts, columns) of (parts, size, columns): as many columns as four vectors have at once, the others apart; of
    fewer than one vector, four columns at once."""
    columns = parts.shape[2]
    together = APART if columns < VECTOR else APART * VECTOR
    whole = columns // together * together
    return np.concatenate([_cascade(parts[:, :, :whole]), _apart(parts[:, :, whole:])], axis=1)


def _apart(terms: F32) -> F32:
    """The sums of (rows, size, ...) over the second axis: every fourth by itself, then these."""
    count = terms.shape[1] // APART
    sums = _cascade(terms[:, : count * APART].reshape(len(terms), count, APART, *terms.shape[2:]))
    return _in_turn(_in_turn(sums[:, 0], terms[:, count * APART :]), sums[:, 1:])


def _in_turn(total: F32, terms: F32) -> F32:
    """A total (rows, ...) and terms (rows, size, ...), one after the other."""
    for number in range(terms.shape[1]):
        total = total + terms[:, number]
    return total


def _cascade(terms: F32) -> F32:
    """The sums of (rows, size, ...) over the second axis, one after the other, by steps of 16 or more."""
    size = terms.shape[1]
    power = max(4, max(size - 1, 0).bit_length() // LEVELS)
    sums = [np.zeros((len(terms), *terms.shape[2:]), np.float32) for _ in range(LEVELS)]
    for number in range(size):
        sums[0] = sums[0] + terms[:, number]
        done = number + 1
        for level in range(1, LEVELS):
            if done & ((1 << level * power) - 1):
                break
            sums[level], sums[level - 1] = sums[level] + sums[level - 1], np.zeros_like(sums[0])
    return _in_turn(sums[0], np.stack(sums[1:], axis=1))

"""From counts and sums to float32 and through the steps, compiled: what a layer calls that gives float32.

finish(layer, group, entry, integers, scratch, out)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xnorinfer.float32 import FACTORIALS, LEAST_EXP, LN2_HIGH, LN2_LOW, LOG2_E, SMALL_TANH
from xnorinfer.kernels import fields
from xnorinfer.kernels.vector_ir import (
    bits_double,
    double_bits,
    fused_multiply_add,
    get,
    inner,
    load_double,
    load_single,
    load_word,
    store_single,
)

#: Of exp, the highest power first.
SERIES = FACTORIALS[::-1]


@inner
def exp_of(x):
    """`float32._exp` of one number, float64."""
    x = max(x, LEAST_EXP)
    halvings = np.int64(0.5 - x * LOG2_E)
    rest = (x + halvings * LN2_HIGH) + halvings * LN2_LOW
    series = SERIES[0]
    for factor in SERIES[1:]:
        series = series * rest + factor
    return series * bits_double((1023 - halvings) << 52)


@inner
def tanh_of(x):
    """`float32.tanh` of one number."""
    if x == 0 or x != x:
        return x
    wide = abs(np.float64(x))
    if wide >= SMALL_TANH:
        fallen = exp_of(-2 * wide)
        found = (1 - fallen) / (1 + fallen)
    else:
        square = wide * wide
        found = wide + wide * square * (square * (2 / 15 - square * (17 / 315)) - 1 / 3)
    return np.float32(-found if x < 0 else found)


@inner
def sigmoid_of(x):
    """`float32.sigmoid` of one number."""
    if x != x:
        return x
    fallen = exp_of(-abs(np.float64(x)))
    return np.float32((1.0 if x >= 0 else fallen) / (1 + fallen))


def make_fma(native: bool) -> Any:
    """float32 fused multiply-add: the instruction, or the sum rounded to odd in float64 (Boldo & Melquiond 2008)."""
    if native:
        return fused_multiply_add

    @inner
    def fma(x, y, z):
        product = np.float64(x) * np.float64(y)  # exact: 48 bits
        addend = np.float64(z)
        total = product + addend
        back = total - product
        error = (product - (total - back)) + (addend - back)
        if error != 0.0 and error == error and abs(total) < np.inf:
            bits = double_bits(total)
            if bits & 1 == 0:
                # Away from zero when the error has the sign of the total, towards it otherwise.
                total = bits_double(bits + 1) if (error > 0.0) == (total > 0.0) else bits_double(bits - 1)
        return np.float32(total)

    return fma


def make_finish(native_fma: bool) -> Callable[..., None]:
    """Counts (integers != 0) or float64 sums of a group in the scratch to float32, the steps, and out."""
    fma = make_fma(native_fma)

    def finish(layer, group, entry, integers, scratch, out):
        neurons = get(layer, fields.NEURONS)
        count = min(64, neurons - group * 64)
        counts = scratch + fields.COUNTS_AT
        sums = scratch + fields.SUMS_AT
        values = scratch + fields.VALUES_AT
        if integers != 0:
            base = get(layer, fields.BASE) + entry * 512
            factor = get(layer, fields.FACTOR)
            mapping = get(layer, fields.MAPPING)
            if mapping != 0:
                slope, intercept, divisor = load_double(mapping), load_double(mapping + 8), load_double(mapping + 16)
                weight_sums = get(layer, fields.WEIGHT_SUM) + entry * 512
                for j in range(count):
                    total = np.float64(load_word(base + 8 * j) + factor * load_word(counts + 8 * j))
                    mapped = (slope * total + intercept * load_double(weight_sums + 8 * j)) / divisor
                    store_single(values + 4 * j, np.float32(mapped))
            else:
                for j in range(count):
                    total_count = load_word(base + 8 * j) + factor * load_word(counts + 8 * j)
                    store_single(values + 4 * j, np.float32(total_count))
        else:
            for j in range(count):
                store_single(values + 4 * j, np.float32(load_double(sums + 8 * j)))
        stride = neurons * 4
        side = out + load_word(scratch + fields.SIDE_FROM_TARGET_AT)
        codes = get(layer, fields.OP_CODES)
        for i in range(get(layer, fields.OPS)):
            code = load_word(codes + 8 * i)
            first = get(layer, fields.OP_VALUES) + group * 256 + 2 * i * stride
            second = first + stride
            # A loop of its own for each, so that it becomes one of vectors.
            if code == fields.MUL:
                for j in range(count):
                    store_single(values + 4 * j, load_single(values + 4 * j) * load_single(first + 4 * j))
            elif code == fields.ADD:
                for j in range(count):
                    store_single(values + 4 * j, load_single(values + 4 * j) + load_single(first + 4 * j))
            elif code == fields.SIDE:
                for j in range(count):
                    store_single(values + 4 * j, load_single(values + 4 * j) + load_single(side + 4 * j))
            elif code == fields.FMA:
                for j in range(count):
                    value = fma(load_single(values + 4 * j), load_single(first + 4 * j), load_single(second + 4 * j))
                    store_single(values + 4 * j, value)
            elif code == fields.DIV:
                for j in range(count):
                    store_single(values + 4 * j, load_single(values + 4 * j) / load_single(first + 4 * j))
            elif code == fields.CLIP:
                for j in range(count):
                    value, least, most = load_single(values + 4 * j), load_single(first + 4 * j), load_single(second + 4 * j)
                    value = least if value < least else value
                    store_single(values + 4 * j, most if value > most else value)
            elif code == fields.PRELU:
                for j in range(count):
                    value = load_single(values + 4 * j)
                    bent = value * load_single(first + 4 * j)
                    store_single(values + 4 * j, value if value > 0 else bent)
            elif code == fields.TANH:
                for j in range(count):
                    store_single(values + 4 * j, tanh_of(load_single(values + 4 * j)))
            elif code == fields.SIGMOID:
                for j in range(count):
                    store_single(values + 4 * j, sigmoid_of(load_single(values + 4 * j)))
            else:
                for j in range(count):
                    value = load_single(values + 4 * j)
                    below = np.float32(0) if value > load_single(second + 4 * j) else np.float32(-1)  # -1 of NaN
                    store_single(values + 4 * j, np.float32(1) if value >= load_single(first + 4 * j) else below)
        for j in range(count):
            store_single(out + 4 * j, load_single(values + 4 * j))

    return finish

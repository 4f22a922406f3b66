"""Pixels as the float32 that they enter the network as, compiled.

Tables say every number.  Where all of a channel are (pixel + shift) * factor in float64, rounded once, vectors of them are
computed instead: look-ups take a load each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from xnorinfer.kernels import fields
from xnorinfer.kernels.vector_ir import (
    F32,
    F64,
    I8,
    I32,
    Emit,
    Value,
    get,
    inner,
    intrinsic_of,
    load_byte,
    load_single,
    store_single,
    vector,
)


def _line_tile(lanes: int) -> Any:
    """Intrinsic line(source, shifts, factors, target): so many bytes, plus f64, times f64, as f32."""

    def body(emit: Emit, source: Value, shifts: Value, factors: Value, target: Value) -> None:
        b, wide = emit.builder, vector(F64, lanes)
        pixels = b.zext(emit.load(source, vector(I8, lanes), 1), vector(I32, lanes))
        shifted = b.fadd(b.sitofp(pixels, wide), emit.load(shifts, wide, 8))
        emit.store(b.fptrunc(b.fmul(shifted, emit.load(factors, wide, 8)), vector(F32, lanes)), target, 4)

    return intrinsic_of(lanes, 4, body, types.void)


def mapper(lanes: int) -> Any:
    """numbers_of(layer, source, target, column, count): `count` bytes to f32, the first one of that column of TABLES."""
    line = _line_tile(lanes)

    @inner
    def numbers_of(layer, source, target, column, count):
        columns, shifts = get(layer, fields.TABLE_COLUMNS), get(layer, fields.SHIFTED)
        if shifts != 0 and count >= lanes:
            factors = shifts + 8 * (columns + lanes)
            own, step = column % columns, lanes % columns
            for at in range(0, count - lanes + 1, lanes):
                line(source + at, shifts + 8 * own, factors + 8 * own, target + 4 * at)
                own += step
                if own >= columns:
                    own -= columns
            rest = count - lanes
            own = (column + rest) % columns
            line(source + rest, shifts + 8 * own, factors + 8 * own, target + 4 * rest)
        else:
            tables, own = get(layer, fields.TABLES), column % columns
            for at in range(count):
                value = load_single(tables + 4 * (np.int64(load_byte(source + at)) * columns + own))
                store_single(target + 4 * at, value)
                own += 1
                if own == columns:
                    own = np.int64(0)

    return numbers_of


def make_compute_mapped(lanes: int) -> Callable[..., None]:
    """No product: bytes to the float32 that TABLES say."""
    numbers_of = mapper(lanes)

    def compute_mapped(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        in_bytes, neurons = get(layer, fields.IN_BYTES), get(layer, fields.NEURONS)
        first, last = first_group * 64, min(last_group * 64, neurons)
        if in_bytes == last - first and get(layer, fields.OUT_BYTES) == 4 * in_bytes:
            # All rows are one.
            last *= rows
            rows = np.int64(1)
        for r in range(rows):
            at, to = source + r * in_bytes + first, target + r * get(layer, fields.OUT_BYTES) + 4 * first
            numbers_of(layer, at, to, first, last - first)

    return compute_mapped

"""From counts to the float32 steps: rows of mismatches become rows of the block on which `float_layers` computes."""

from __future__ import annotations

from typing import Any

from numba import types

from xnorinfer.kernels import fields
from xnorinfer.kernels.vector_ir import F32, I32, I64, Emit, Value, caller, get, inner, intrinsic_of, vector

call_finish_rows = caller(8)
#: Of codes of levels (`level_layers.make_finish_levels`).
call_finish_levels = caller(6)


def _dots(lanes: int) -> Any:
    """Intrinsic dots(counts, base, factor, out): base + factor*count of 64 neurons, which 32 bits hold, as f32.

    counts, base: [64] i64.
    """
    wide, whole = vector(I64, lanes), vector(I32, lanes)

    def body(emit: Emit, counts: Value, base: Value, factor: Value, out: Value) -> None:
        b = emit.builder
        by = emit.splat(b.trunc(factor, I32), lanes)
        for j in range(0, 64, lanes):
            count, least = (b.trunc(emit.load(emit.offset(at, j, 8), wide, 8), whole) for at in (counts, base))
            total = b.add(least, b.mul(count, by))
            emit.store(b.sitofp(total, vector(F32, lanes)), emit.offset(out, j, 4), 4)

    return intrinsic_of(lanes, 4, body, types.void)


def counts_finisher(lanes: int) -> Any:
    """finish_counts(layer, group, rows, counts, count_bytes, shifts, scratch, out): counts of a group, [64] i64 of each row,
    `count_bytes` apart, through the steps to `out`, or to codes there."""
    dots = _dots(lanes)

    @inner
    def finish_counts(layer, group, rows, counts, count_bytes, shifts, scratch, out):
        if get(layer, fields.GRADED) != 0:
            for r in range(rows):
                entry, to = group + get(shifts, r), out + r * get(layer, fields.OUT_BYTES)
                call_finish_levels(get(layer, fields.FINISH), layer, group, entry, counts + r * count_bytes, scratch, to)
            return
        block = scratch + fields.BLOCK_AT
        factor, base = get(layer, fields.FACTOR), get(layer, fields.BASE)
        count = min(64, get(layer, fields.NEURONS) - 64 * group)
        for first in range(0, rows, fields.BLOCK_MOST_ROWS):
            some = min(rows - first, fields.BLOCK_MOST_ROWS)
            for k in range(some):
                least = base + (group + get(shifts, first + k)) * 512
                dots(counts + (first + k) * count_bytes, least, factor, block + k * fields.BLOCK_STEP)
            to = out + first * get(layer, fields.OUT_BYTES)
            finish = get(layer, fields.FINISH)
            call_finish_rows(finish, layer, 64 * group, count, some, scratch, to, block, fields.BLOCK_STEP)

    return finish_counts

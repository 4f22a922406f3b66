"""Binary layers by look-up of nibbles, compiled: `nibbles` has the tiles, `layers` says what these functions are and take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xnorinfer.kernels import fields
from xnorinfer.kernels.count_rows import counts_finisher
from xnorinfer.kernels.layers import copy_tail
from xnorinfer.kernels.nibbles import pair_tile, rows_tile, spread_pair
from xnorinfer.kernels.shapes import CODE_BYTES, MOST_TURNS, NibbleShape
from xnorinfer.kernels.tiles import pack_signs
from xnorinfer.kernels.vector_ir import get, inner, load_word, store_word


def make_prepare_nibbles() -> Callable[..., None]:
    """Words to offsets of tables, of two rows together; the last of an odd number of rows stays as it is."""
    pair = spread_pair()

    def prepare_nibbles(layer, source, rows, scratch, prepared):
        raw = (get(layer, fields.DEPTH) + 63) >> 6
        in_bytes = get(layer, fields.IN_BYTES)
        pair_bytes = 2 * get(layer, fields.PREPARED_BYTES)
        for r in range(0, rows, 2):
            row = source + r * in_bytes
            out = prepared + (r >> 1) * pair_bytes
            alone = r + 1 == rows
            for k in range(raw):
                if alone:
                    store_word(out + 8 * k, load_word(row + 8 * k))
                else:
                    pair(load_word(row + 8 * k), load_word(row + in_bytes + 8 * k), out + 32 * k)
            # A last turn may reach behind the last word, where weights are 0, too.
            if not alone:
                pair(np.int64(0), np.int64(0), out + 32 * raw)

    return prepare_nibbles


def make_prepare_nibble_signs() -> Callable[..., None]:
    """Bytes of -1 and +1 to offsets of tables, as `prepare_nibbles` does with words."""
    pack, pair = pack_signs(), spread_pair()

    def prepare_nibble_signs(layer, source, rows, scratch, prepared):
        depth = get(layer, fields.DEPTH)
        raw = (depth + 63) >> 6
        in_bytes = get(layer, fields.IN_BYTES)
        pair_bytes = 2 * get(layer, fields.PREPARED_BYTES)
        tail = scratch + fields.TAIL_AT
        for r in range(0, rows, 2):
            row = source + r * in_bytes
            out = prepared + (r >> 1) * pair_bytes
            alone = r + 1 == rows
            for k in range(raw):
                at = row + 64 * k
                ragged = 64 * k + 64 > depth
                if ragged:
                    copy_tail(row, depth, tail, 0)
                    at = tail
                word = pack(at)
                if alone:
                    store_word(out + 8 * k, word)
                else:
                    at = row + in_bytes + 64 * k
                    if ragged:
                        copy_tail(row + in_bytes, depth, tail, 0)
                        at = tail
                    pair(word, pack(at), out + 32 * k)
            if not alone:
                pair(np.int64(0), np.int64(0), out + 32 * raw)

    return prepare_nibble_signs


def make_compute_nibbles(shape: NibbleShape, single_lanes: int) -> Callable[..., None]:
    """Mismatches by look-up of nibbles against limits, or to the float32 steps; see `nibbles`."""
    lanes, most = shape.lanes, 2 * shape.pairs
    finish_counts = counts_finisher(single_lanes)
    group_panels = 64 // lanes
    single = rows_tile(shape, 1)
    if shape.neon:
        together = rows_tile(shape, most)

        @inner
        def rows_of_group(
            prepared, row_bytes, begin, turns, words, codes, code_bytes, count, limits, shifts, rows, out,
            out_bytes, at_bytes, earlier,
        ):  # fmt: skip
            """All rows with one group: several, then one by one."""
            at = prepared + CODE_BYTES * begin
            codes_at = codes + lanes * CODE_BYTES * begin
            whole = rows // most * most
            for r in range(0, whole, most):
                together(
                    at + r * row_bytes, row_bytes, code_bytes, words, codes_at,
                    limits, shifts + 8 * r, out + r * out_bytes, out_bytes, earlier,
                )  # fmt: skip
            for r in range(whole, rows):
                single(at + r * row_bytes, 0, code_bytes, words, codes_at,
                       limits, shifts + 8 * r, out + r * out_bytes, out_bytes, earlier)  # fmt: skip

    else:
        several, pair = pair_tile(shape, shape.pairs), pair_tile(shape, 1)

        @inner
        def rows_of_group(
            prepared, row_bytes, begin, turns, words, codes, code_bytes, count, limits, shifts, rows, out,
            out_bytes, at_bytes, earlier,
        ):  # fmt: skip
            """All rows with one group: pairs by pairs while the codes of a vector are in L1, then a row without partner."""
            pair_bytes = 2 * row_bytes
            at = prepared + 4 * CODE_BYTES * begin
            codes_at = codes + lanes * CODE_BYTES * begin
            for j in range(count):
                vector_codes = codes_at + j * code_bytes
                vector_limits = limits + 2 * lanes * j
                place = out + j * at_bytes
                whole = rows // most * most
                for r in range(0, whole, most):
                    several(at + (r >> 1) * pair_bytes, pair_bytes, turns, vector_codes,
                            vector_limits, shifts + 8 * r, place + r * out_bytes, out_bytes, earlier)  # fmt: skip
                for r in range(whole, rows & ~1, 2):
                    pair(at + (r >> 1) * pair_bytes, pair_bytes, turns, vector_codes,
                         vector_limits, shifts + 8 * r, place + r * out_bytes, out_bytes, earlier)  # fmt: skip
            if rows & 1:
                alone = prepared + (rows >> 1) * pair_bytes + CODE_BYTES * begin
                single(alone, 0, code_bytes, words, codes_at,
                       limits, shifts + 8 * (rows - 1), out + (rows - 1) * out_bytes, out_bytes, earlier)  # fmt: skip

    def compute_nibbles(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        out_bytes = get(layer, fields.OUT_BYTES)
        row_bytes = get(layer, fields.PREPARED_BYTES)
        code_bytes = get(layer, fields.PANEL_BYTES)
        depth = get(layer, fields.DEPTH)
        turns = (depth + 8 * CODE_BYTES - 1) // (8 * CODE_BYTES)
        finish = get(layer, fields.FINISH)
        neurons = get(layer, fields.NEURONS)
        parts = prepared + get(layer, fields.SUB_ROWS) * row_bytes
        counted = get(layer, fields.COUNTED) != 0
        in_bits = get(layer, fields.PART_BYTES) == 0 and not counted
        sums_bytes = np.int64(fields.COUNTS_BYTES)
        if counted:
            parts, sums_bytes = target, out_bytes
        for group in range(first_group, last_group):
            codes = get(layer, fields.PANEL) + group * group_panels * code_bytes
            limits = get(layer, fields.LIMITS) + group * 128
            count = min(group_panels, (neurons - 64 * group + lanes - 1) // lanes)
            if in_bits:
                if count < group_panels:
                    for r in range(rows):
                        store_word(target + r * out_bytes + group * 8, 0)
                rows_of_group(prepared, row_bytes, 0, turns, (depth + 63) >> 6, codes, code_bytes, count, limits, shifts, rows,
                              target + group * 8, out_bytes, lanes // 8, -1)  # fmt: skip
                continue
            for begin in range(0, turns, MOST_TURNS):
                some = min(MOST_TURNS, turns - begin)
                words = min((depth + 63) >> 6, (begin + MOST_TURNS) * CODE_BYTES // 8) - begin * CODE_BYTES // 8
                rows_of_group(prepared, row_bytes, begin, some, words, codes, code_bytes, count, limits, shifts, rows,
                              parts, sums_bytes, lanes * 8, np.int64(begin > 0))  # fmt: skip
            if counted:
                continue
            if finish != 0:
                finish_counts(layer, group, rows, parts, fields.COUNTS_BYTES, shifts, scratch, target + group * 256)
                continue
            for r in range(rows):
                deep_limits = get(layer, fields.DEEP_LIMITS) + (group + get(shifts, r)) * 512
                sums = parts + r * fields.COUNTS_BYTES
                word = np.int64(0)
                for j in range(64):
                    if get(sums, j) <= get(deep_limits, j):
                        word |= np.int64(1) << j
                store_word(target + r * out_bytes + group * 8, word)

    return compute_nibbles

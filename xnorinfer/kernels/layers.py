"""What a layer does, compiled: preparing rows, computing groups of neurons.

Each function is compiled by itself and put into the layer table by its address, so that a process compiles only what its
networks use, and a tile is compiled once and not again inside everything that calls it.  All arguments are int64.

    prepare(layer, source, rows, scratch, prepared)
    compute(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts)
    finish(layer, group, entry, integers, scratch, out)    float32 of counts or sums (`finish`)

shifts: address of an i64 a row, 0 for samples.  Where outputs of a map lie at its border, limits and constants of neurons are
others: those of its border class, which begin so many groups of neurons further (`windows`).  entry: group plus shift.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xnorinfer.kernels import fields
from xnorinfer.kernels.count_rows import counts_finisher
from xnorinfer.kernels.lookups import lookup_tables, lookup_tile, masked_sum
from xnorinfer.kernels.shapes import PREPARED_TOTAL, TABLES_BYTES, BinaryShape, LookupShape
from xnorinfer.kernels.tiles import (
    binary_tile,
    compare_inputs,
    pack_plane,
    pack_signs,
    signed_tile,
)
from xnorinfer.kernels.vector_ir import (
    caller,
    get,
    inner,
    load_byte,
    load_double,
    load_word,
    store_byte,
    store_word,
)

call_finish = caller(6)


@inner
def copy_tail(source, depth, tail, fill):
    """The last depth % 64 bytes of a row, filled up to 64, so that vectors never read past the end."""
    count = depth & 63
    first = source + depth - count
    for i in range(count):
        store_byte(tail + i, np.int64(load_byte(first + i)))
    for i in range(count, 64):
        store_byte(tail + i, fill)


def make_prepare_bits(parity_wanted: bool = True) -> Callable[..., None]:
    """Words to words of running parity, or as they are.

    9 nanoseconds for a row of 4096 inputs, 0.2 % of a hidden layer of as many neurons (Zen 5, 256 rows): all that the layer
    before could save by writing its bits in this form.
    """

    def prepare_bits(layer, source, rows, scratch, prepared):
        words = get(layer, fields.WORDS)
        raw = (get(layer, fields.DEPTH) + 63) >> 6
        in_bytes = get(layer, fields.IN_BYTES)
        for r in range(rows):
            row = source + r * in_bytes
            out = prepared + r * words * 8
            parity = np.int64(0)
            for k in range(raw):
                if not parity_wanted:
                    parity = np.int64(0)
                parity ^= load_word(row + 8 * k)
                store_word(out + 8 * k, parity)
            if words > raw:
                store_word(out + 8 * raw, parity)

    return prepare_bits


@inner
def whole_group(first, count, wanted, tail):
    """Where `wanted` bytes can be read that begin with `count` bytes: where those are, or, if they are fewer, a copy."""
    if count == wanted:
        return first
    for i in range(count):
        store_byte(tail + i, np.int64(load_byte(first + i)))
    return tail


def make_binarize(size: int) -> Callable[..., None]:
    """Inputs of so many bytes, uint8 (1) or float32 (4), to words of bits, each at a limit of its own; see `compare_inputs`."""
    compare = compare_inputs(size)

    def binarize(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        in_bytes = get(layer, fields.IN_BYTES)
        row_bytes = get(layer, fields.NEURONS) * size  # more may lie between rows
        out_bytes = get(layer, fields.OUT_BYTES)
        limits = get(layer, fields.LIMITS)
        mirrored = get(layer, fields.MIRRORED)
        tail = scratch + fields.VALUES_AT
        for r in range(rows):
            row = source + r * in_bytes
            out = target + r * out_bytes
            for group in range(first_group, last_group):
                begin = 64 * size * group
                at = whole_group(row + begin, min(64 * size, row_bytes - begin), 64 * size, tail)
                store_word(out + 8 * group, compare(at, limits + begin, get(mirrored, group)))

    return binarize


def make_prepare_signs(parity_wanted: bool = True) -> Callable[..., None]:
    """Bytes of -1 and +1 to words of running parity, or of bits as they are."""
    pack = pack_signs()

    def prepare_signs(layer, source, rows, scratch, prepared):
        words = get(layer, fields.WORDS)
        depth = get(layer, fields.DEPTH)
        raw = (depth + 63) >> 6
        in_bytes = get(layer, fields.IN_BYTES)
        tail = scratch + fields.TAIL_AT
        for r in range(rows):
            row = source + r * in_bytes
            out = prepared + r * words * 8
            if depth & 63:
                copy_tail(row, depth, tail, 0)
            parity = np.int64(0)
            for k in range(raw):
                if not parity_wanted:
                    parity = np.int64(0)
                at = row + 64 * k
                if 64 * k + 64 > depth:
                    at = tail
                parity ^= pack(at)
                store_word(out + 8 * k, parity)
            if words > raw:
                store_word(out + 8 * raw, parity)

    return prepare_signs


def make_prepare_planes() -> Callable[..., None]:
    """Pixels to eight bit planes of the *inverted* pixels, each as words of running parity, the lowest bit first.

    With w = +-1, |w| the number of +1 and m the mismatches of plane b of 255 - p:
    sum(w*p) = sum_b 2^b * m_b + 255 * (|w| - depth), so that counts and sums have the same order.
    """
    plane = pack_plane()

    def prepare_planes(layer, source, rows, scratch, prepared):
        words = get(layer, fields.WORDS)
        depth = get(layer, fields.DEPTH)
        raw = (depth + 63) >> 6
        in_bytes = get(layer, fields.IN_BYTES)
        tail = scratch + fields.TAIL_AT
        for r in range(rows):
            row = source + r * in_bytes
            if depth & 63:
                copy_tail(row, depth, tail, 255)
            for bit in range(8):
                out = prepared + (r * 8 + bit) * words * 8
                parity = np.int64(0)
                for k in range(raw):
                    at = row + 64 * k
                    if 64 * k + 64 > depth:
                        at = tail
                    parity ^= ~plane(at, bit)
                    store_word(out + 8 * k, parity)
                if words > raw:
                    store_word(out + 8 * raw, parity)

    return prepare_planes


def make_compute_bits(shape: BinaryShape, planes: int, lanes: int) -> Callable[..., None]:
    """Mismatches of prepared rows and groups of neurons against limits, or to the float32 steps.

    planes: bit planes of a row, the highest counted first and doubled on the way (1 for bits, 8 for pixels).  lanes: of a
    vector of float32.
    """
    tile, panel_neurons = binary_tile(shape), shape.panel
    group_panels = 64 // panel_neurons
    finish_counts = counts_finisher(lanes)

    def compute_bits(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        words = get(layer, fields.WORDS)
        out_bytes = get(layer, fields.OUT_BYTES)
        prepared_bytes = get(layer, fields.PREPARED_BYTES)
        panel_bytes = get(layer, fields.PANEL_BYTES)
        panels = get(layer, fields.PANELS)
        finish = get(layer, fields.FINISH)
        counted = get(layer, fields.COUNTED) != 0
        counts = np.int64(0)
        if finish != 0 or planes > 1:
            counts = scratch + fields.COUNTS_AT
        for group in range(first_group, last_group):
            first = group * group_panels
            count = min(group_panels, panels - first)
            base = get(layer, fields.PANEL) + first * panel_bytes
            for r in range(rows):
                entry = group + get(shifts, r)
                limits = get(layer, fields.LIMITS) + entry * 512
                word = np.int64(0)
                if counted:
                    counts = target + r * out_bytes
                for p in range(count):
                    at = p * panel_neurons * 8
                    sums = counts
                    if counts != 0:
                        sums = counts + at
                    bits = np.int64(0)
                    mode = np.int64(-1)
                    for turn in range(planes):
                        row = prepared + r * prepared_bytes + (planes - 1 - turn) * words * 8
                        bits = tile(row, base + p * panel_bytes, words, sums, mode, limits + at)
                        mode = np.int64(1)
                    word |= bits << (p * panel_neurons)
                if finish == 0 and not counted:
                    store_word(target + r * out_bytes + group * 8, word)
                elif planes > 1:
                    call_finish(finish, layer, group, entry, 1, scratch, target + r * out_bytes + group * 256)
                elif not counted:
                    out = target + r * out_bytes + group * 256
                    finish_counts(layer, group, 1, counts, 0, shifts + 8 * r, scratch, out)

    return compute_bits


def make_prepare_lookup(shape: LookupShape) -> Callable[..., None]:
    """Pixels to look-up tables: per row an i64 sum of all pixels, in a cache line, then a table per look-up."""
    build, inputs, table_bytes = lookup_tables(shape), shape.inputs, shape.table_bytes

    def prepare_lookup(layer, source, rows, scratch, prepared):
        depth = get(layer, fields.DEPTH)
        in_bytes = get(layer, fields.IN_BYTES)
        prepared_bytes = get(layer, fields.PREPARED_BYTES)
        whole = depth // inputs
        lookups = (prepared_bytes - PREPARED_TOTAL) // table_bytes
        tail = scratch + fields.TAIL_AT
        for r in range(rows):
            row = source + r * in_bytes
            tables = prepared + r * prepared_bytes + PREPARED_TOTAL
            total = np.int64(0)
            for k in range(whole):
                total += build(row + k * inputs, tables + k * table_bytes)
            # The look-up that is not full, then those of nothing that fill up the last turn.
            for i in range(inputs):
                value = np.int64(0)
                if whole * inputs + i < depth:
                    value = np.int64(load_byte(row + whole * inputs + i))
                store_byte(tail + i, value)
            for k in range(whole, lookups):
                total += build(tail, tables + k * table_bytes)
                store_word(tail, 0)
            store_word(prepared + r * prepared_bytes, total)

    return prepare_lookup


def make_compute_lookup(shape: LookupShape) -> Callable[..., None]:
    """Sums over pixels by look-up against limits (i32), or to the float32 steps; rows of a tile share the codes."""
    one, several, most = lookup_tile(shape, 1), lookup_tile(shape, shape.rows), shape.rows

    def compute_lookup(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        out_bytes = get(layer, fields.OUT_BYTES)
        prepared_bytes = get(layer, fields.PREPARED_BYTES)
        panel_bytes = get(layer, fields.PANEL_BYTES)
        finish = get(layer, fields.FINISH)
        counts = scratch + fields.COUNTS_AT
        turns = (prepared_bytes - PREPARED_TOTAL) // TABLES_BYTES
        # The tables of a tile's rows stay in L1 while all codes pass by.
        for first in range(0, rows, most):
            last = min(first + most, rows)
            for group in range(first_group, last_group):
                codes = get(layer, fields.PANEL) + group * panel_bytes
                limits = get(layer, fields.LIMITS) + group * 256
                if last - first == most and finish == 0:
                    at = shifts + 8 * first
                    out = target + first * out_bytes + group * 8
                    several(prepared + first * prepared_bytes, prepared_bytes, codes, turns, limits, at, out, out_bytes, 0)
                    continue
                for r in range(first, last):
                    tables = prepared + r * prepared_bytes
                    at = shifts + 8 * r
                    if finish == 0:
                        one(tables, 0, codes, turns, limits, at, target + r * out_bytes + group * 8, 0, 0)
                    else:
                        one(tables, 0, codes, turns, limits, at, 0, 0, counts)
                        call_finish(
                            finish, layer, group, group + get(shifts, r), 1, scratch, target + r * out_bytes + group * 256
                        )

    return compute_lookup


def make_compute_masked() -> Callable[..., None]:
    """Sums over pixels of few neurons, from masks of bytes; one more mask, of all ones, comes after the last neuron."""
    total_of = masked_sum()

    def compute_masked(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        in_bytes = get(layer, fields.IN_BYTES)
        out_bytes = get(layer, fields.OUT_BYTES)
        masks = get(layer, fields.PANEL)
        mask_bytes = get(layer, fields.PANEL_BYTES)
        neurons = get(layer, fields.NEURONS)
        depth = get(layer, fields.DEPTH)
        finish = get(layer, fields.FINISH)
        counts = scratch + fields.COUNTS_AT
        tail = scratch + fields.TAIL_AT
        chunks = depth >> 6
        ragged = depth & 63
        for r in range(rows):
            row = source + r * in_bytes
            if ragged:
                copy_tail(row, depth, tail, 0)
            shift = get(shifts, r)
            limits = get(layer, fields.LIMITS) + shift * 512
            everything = total_of(row, masks + neurons * mask_bytes, chunks, tail, ragged)
            word = np.int64(0)
            for j in range(neurons):
                total = 2 * total_of(row, masks + j * mask_bytes, chunks, tail, ragged) - everything
                store_word(counts + 8 * j, total)
                if finish == 0 and total <= get(limits, j):
                    word |= np.int64(1) << j
            if finish != 0:
                call_finish(finish, layer, 0, shift, 1, scratch, target + r * out_bytes)
            else:
                store_word(target + r * out_bytes, word)

    return compute_masked


def make_compute_reals(lanes: int, vectors: int) -> Callable[..., None]:
    """Binary weights on real inputs, by a tile of lanes * vectors neurons.

    float64 sums in input order, rounded to float32 once, against limits or to the float32 steps.
    """
    tile, panel_neurons = signed_tile(lanes, vectors), lanes * vectors
    group_panels = 64 // panel_neurons

    def compute_reals(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        in_bytes = get(layer, fields.IN_BYTES)
        out_bytes = get(layer, fields.OUT_BYTES)
        panel_bytes = get(layer, fields.PANEL_BYTES)
        panels = get(layer, fields.PANELS)
        depth = get(layer, fields.DEPTH)
        finish = get(layer, fields.FINISH)
        neurons = get(layer, fields.NEURONS)
        sums = scratch + fields.SUMS_AT
        for group in range(first_group, last_group):
            first = group * group_panels
            count = min(group_panels, panels - first)
            base = get(layer, fields.PANEL) + first * panel_bytes
            for r in range(rows):
                entry = group + get(shifts, r)
                limits = get(layer, fields.LIMITS) + entry * 512
                for p in range(count):
                    tile(source + r * in_bytes, base + p * panel_bytes, depth, sums + p * panel_neurons * 8)
                if finish != 0:
                    call_finish(finish, layer, group, entry, 0, scratch, target + r * out_bytes + group * 256)
                else:
                    word = np.int64(0)
                    for j in range(min(64, neurons - group * 64)):
                        if np.float64(np.float32(load_double(sums + 8 * j))) <= load_double(limits + 8 * j):
                            word |= np.int64(1) << j
                    store_word(target + r * out_bytes + group * 8, word)

    return compute_reals

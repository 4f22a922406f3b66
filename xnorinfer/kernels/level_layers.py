"""Levels, compiled: numbers of 2 to 4 bits as bit planes, those of a map one whole plane after the other, lowest bits first.

With w = +-1, |w| the number of +1 and m the mismatches of plane b with the *inverted* weights, sum(w*code) is
sum_b 2^b * m_b + (2^planes - 1) * (|w| - depth).  So a layer is the binary one, once for each plane, whose counts stay in the
cache of a few rows, and a limit or a step follows as for other sums.  A code is what several limits say together: bit b of it
changes at every multiple of 2^b, so that it is the XOR of those limits' bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from xnorinfer.kernels import fields
from xnorinfer.kernels.count_rows import counts_finisher
from xnorinfer.kernels.driver import call_compute, call_prepare
from xnorinfer.kernels.layers import whole_group
from xnorinfer.kernels.map_layers import call_gather, merge, span
from xnorinfer.kernels.shapes import grades
from xnorinfer.kernels.tiles import compare_inputs
from xnorinfer.kernels.vector_ir import (
    F32,
    F64,
    I64,
    Emit,
    Value,
    get,
    inner,
    integer,
    intrinsic_of,
    load_byte,
    load_single,
    load_word,
    store_byte,
    store_single,
    store_word,
    vector,
)

LANES = 8


def grade_tile(planes: int, bits: int, of_planes: int = 1) -> Any:
    """Intrinsic grade(counts, limits, out, plane_bytes, wanted, from_bytes): codes of 64 counts as words of planes.

    counts: [64] i64, of each of `of_planes` planes, the lowest bits first, `from_bytes` apart, to be added; or, if `bits` is 0,
    f64 that are rounded to float32; limits: [grades][64] integers of so many bits, which hold the sums, or f64, none above the
    one before, NaN for never; out: of the word of the lowest bits, the next plane's `plane_bytes` further; wanted: bits of the
    neurons there are.
    """
    # So many lanes at a time as registers hold of the sums.
    lanes = 64 if bits in (16, 32) else LANES
    size, wide = bits // 8 or 8, vector(I64 if bits else F64, lanes)
    kind, as_bits = vector(integer(bits), lanes) if bits else wide, integer(lanes)

    def body(
        emit: Emit, counts: Value, limits: Value, out: Value, plane_bytes: Value, wanted: Value, from_bytes: Value
    ) -> None:
        b = emit.builder
        places = [b.add(out, b.mul(plane_bytes, emit.constant(plane))) for plane in range(planes)]
        for chunk in range(64 // lanes):
            count = _added(emit, counts, from_bytes, of_planes, chunk, wide)
            if not bits:
                count = b.fpext(b.fptrunc(count, vector(F32, lanes)), kind)
            elif bits < 64:
                count = b.trunc(count, kind)
            words: list[Value | None] = [None] * planes
            for code in range(1, grades(planes) + 1):
                limit = emit.load(emit.offset(limits, (code - 1) * 64 + chunk * lanes, size), kind, size)
                hits = b.icmp_signed("<=", count, limit) if bits else b.fcmp_ordered("<=", count, limit)
                found = b.bitcast(hits, as_bits)
                for plane in range(planes):
                    if code % (1 << plane) == 0:
                        before = words[plane]
                        words[plane] = found if before is None else b.xor(before, found)
            some = wanted if lanes == 64 else b.trunc(b.lshr(wanted, emit.constant(chunk * lanes)), as_bits)
            for plane, word in enumerate(words):
                emit.store(b.and_(word, some), emit.offset(places[plane], chunk, lanes // 8), lanes // 8)

    return intrinsic_of(LANES, 6, body, types.void)


def _added(emit: Emit, counts: Value, plane_bytes: Value, planes: int, chunk: int, kind: Any) -> Value:
    """Some of the counts of planes, the lowest bits first, as their sum."""
    b, total = emit.builder, None
    for plane in reversed(range(planes)):
        place = b.add(counts, b.mul(plane_bytes, emit.constant(plane))) if plane else counts
        some = emit.load(emit.offset(place, chunk, 8 * kind.count), kind, 8)
        total = some if total is None else b.add(b.add(total, total), some)
    return total


def add_planes(planes: int) -> Any:
    """Intrinsic add(counts, plane_bytes, out): the sum of [64] i64 of each plane, `plane_bytes` apart, lowest bits first."""

    def body(emit: Emit, counts: Value, plane_bytes: Value, out: Value) -> None:
        for chunk in range(64 // LANES):
            total = _added(emit, counts, plane_bytes, planes, chunk, emit.words)
            emit.store(total, emit.offset(out, chunk, 8 * LANES), 8)

    return intrinsic_of(LANES, 3, body, types.void)


@inner
def neurons_of(layer, group):
    """A bit for each neuron of a group."""
    count = min(64, get(layer, fields.NEURONS) - group * 64)
    return np.int64(np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - count))


def make_finish_levels(planes: int, integers: bool) -> Callable[..., None]:
    """Counts, or float64 sums, of a group to words of planes, or of one plane: bits.

    They are where the fourth argument says, or, where that is no address (0 or 1), in the scratch.
    """
    grade = grade_tile(planes, 64 if integers else 0)
    usual = fields.COUNTS_AT if integers else fields.SUMS_AT
    entry_bytes = 512 * grades(planes)

    def finish_levels(layer, group, entry, counts, scratch, out):
        if counts <= 1:
            counts = scratch + usual
        wanted = neurons_of(layer, group)
        limits = get(layer, fields.LIMITS) + entry * entry_bytes
        # What computes a group points to where its float32 would lie.
        grade(counts, limits, out - group * 248, get(layer, fields.LEVEL_BYTES), wanted, 0)

    return finish_levels


def make_level_strips(planes: int, given: int, bits: int, lanes: int) -> Callable[..., None]:
    """Tasks of a binary layer over levels, as `map_layers.make_compute_strips` has them; a vector is a map of one pixel.

    INNER: for each group of channels the binary layer that counts and what follows the sums, then for each plane how windows
    become rows.  given: planes of what it gives, 1 for bits, 0 for numbers.  bits: of its limits, which hold the sums.  lanes:
    of a vector of float32.
    """
    add, finish_counts = add_planes(planes), counts_finisher(lanes)
    grade, entry_bytes = grade_tile(max(1, given), bits, planes), 8 * bits * grades(max(1, given))

    def level_strips(layer, source, target, rows, first_task, last_task, scratch, prepared, shifts):
        pixels = get(layer, fields.DOWN) * get(layer, fields.ACROSS)
        strip, parts = get(layer, fields.STRIP), get(layer, fields.PARTS)
        gather, prepares = get(layer, fields.GATHER), get(layer, fields.GATHER_PREPARES) != 0
        in_bytes, row_bytes = get(layer, fields.IN_BYTES), get(layer, fields.ROW_BYTES)
        map_bytes = in_bytes // planes
        channel_groups, merged = get(layer, fields.CHANNEL_GROUPS), get(layer, fields.MERGED_AT) != 0
        row_of = fields.LAYER_FIELDS * 8
        windows = get(layer, fields.INNER) + 2 * channel_groups * row_of
        region = get(layer, fields.LEVEL_BYTES)
        counts = prepared + planes * region
        graded = scratch + fields.VALUES_AT
        for task in range(first_task, last_task):
            part = task % parts
            first = task // parts * strip
            count = min(strip, pixels - first)
            total = rows * count
            of_plane = total * fields.COUNTS_BYTES
            for index in range(channel_groups):
                one = get(layer, fields.INNER) + 2 * index * row_of
                last = one + row_of
                prepare, compute, groups = get(one, fields.PREPARE), get(one, fields.COMPUTE), get(one, fields.GROUPS)
                out_bytes, level_bytes = get(last, fields.OUT_BYTES), get(last, fields.LEVEL_BYTES)
                neurons = get(last, fields.NEURONS)
                if load_word(scratch + fields.READY_AT) != first or channel_groups > 1:
                    for plane in range(planes):
                        own = prepared + plane * region
                        at = source + plane * map_bytes + first * get(layer, fields.PIXEL_BYTES)
                        if gather != 0:
                            at = own + get(layer, fields.RAW_AT)
                            for r in range(rows):
                                here = source + r * in_bytes + plane * map_bytes
                                window, to = windows + plane * row_of, at + r * count * row_bytes
                                call_gather(gather, window, here, first, count, index, to)
                        if prepare != 0 and not prepares:
                            call_prepare(prepare, one, at, total, scratch, own)
                    store_word(scratch + fields.READY_AT, first)
                for group in range(part * groups // parts, (part + 1) * groups // parts):
                    for plane in range(planes):
                        at = counts + plane * of_plane
                        own = prepared + plane * region
                        call_compute(compute, one, own, at, total, group, group + 1, scratch, own, shifts)
                    for r in range(rows):
                        out = target + r * get(layer, fields.OUT_BYTES) + first * out_bytes
                        of_row = counts + r * count * fields.COUNTS_BYTES
                        if given > 0:
                            wanted, limits = neurons_of(last, group), get(last, fields.LIMITS) + group * entry_bytes
                            bit = index * neurons + group * 64
                            for k in range(count):
                                at, to = of_row + k * fields.COUNTS_BYTES, out + k * out_bytes
                                if merged:
                                    grade(at, limits, graded, 8, wanted, of_plane)
                                    for plane in range(given):
                                        place = to + plane * level_bytes
                                        if bit == 0:
                                            for word in range(0, out_bytes, 8):
                                                store_word(place + word, 0)
                                        bits = min(64, neurons - group * 64)
                                        merge(1, 1, bits, bit, graded + 8 * plane, place, out_bytes)
                                else:
                                    grade(at, limits, to + (bit >> 3), level_bytes, wanted, of_plane)
                        else:
                            for k in range(count):
                                add(of_row + k * fields.COUNTS_BYTES, of_plane, of_row + k * fields.COUNTS_BYTES)
                            to = out + index * neurons * 4 + group * 256
                            finish_counts(last, group, count, of_row, fields.COUNTS_BYTES, shifts, scratch, to)

    return level_strips


def make_digitize_bytes(planes: int) -> Callable[..., None]:
    """Bytes to words of planes by tables of their codes, (256, neurons) u8 at PANEL."""

    def digitize_bytes(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        in_bytes, out_bytes = get(layer, fields.IN_BYTES), get(layer, fields.OUT_BYTES)
        tables, neurons, plane_bytes = get(layer, fields.PANEL), get(layer, fields.NEURONS), get(layer, fields.LEVEL_BYTES)
        for r in range(rows):
            for group in range(first_group, last_group):
                first = group * 64
                out = target + r * out_bytes + 8 * group
                for plane in range(planes):
                    store_word(out + plane * plane_bytes, 0)
                for j in range(min(64, neurons - first)):
                    pixel = np.int64(load_byte(source + r * in_bytes + first + j))
                    code = np.int64(load_byte(tables + pixel * neurons + first + j))
                    for plane in range(planes):
                        place = out + plane * plane_bytes
                        store_word(place, load_word(place) | (code >> plane & 1) << j)

    return digitize_bytes


def make_coded_bytes() -> Callable[..., None]:
    """Lines of bytes as others, by tables of all bytes at PANEL, (256, channels)."""

    def coded_bytes(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        across, channels, tables = get(layer, fields.ACROSS), get(layer, fields.NEURONS), get(layer, fields.PANEL)
        for r in range(rows):
            first = first_line * across * channels
            at, out = source + r * get(layer, fields.IN_BYTES) + first, target + r * get(layer, fields.OUT_BYTES) + first
            for place in range(0, (last_line - first_line) * across * channels, channels):
                for c in range(channels):
                    code = load_byte(tables + np.int64(load_byte(at + place + c)) * channels + c)
                    store_byte(out + place + c, code)

    return coded_bytes


def make_level_numbers(planes: int) -> Callable[..., None]:
    """Lines of what codes stand for, by a table of float32 at PANEL; CHANNELS: bytes of a pixel of a plane."""

    def level_numbers(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        across, channels = get(layer, fields.ACROSS), get(layer, fields.NEURONS)
        in_bytes, table = get(layer, fields.IN_BYTES), get(layer, fields.PANEL)
        map_bytes = in_bytes // planes
        for r in range(rows):
            for pixel in range(first_line * across, last_line * across):
                at = source + r * in_bytes + pixel * get(layer, fields.CHANNELS)
                out = target + r * get(layer, fields.OUT_BYTES) + pixel * get(layer, fields.PIXEL_BYTES)
                for first in range(0, channels, 64):
                    for c in range(min(64, channels - first)):
                        code = np.int64(0)
                        for plane in range(planes):
                            code |= (load_word(at + plane * map_bytes) >> c & 1) << plane
                        store_single(out + 4 * (first + c), load_single(table + 4 * code))
                    at += 8

    return level_numbers


def make_digitize(planes: int) -> Callable[..., None]:
    """Float32 to words of planes, as `layers.make_binarize` takes them: limits of each code, then the next."""
    size = 4
    compare = compare_inputs(size)
    codes = grades(planes)

    def digitize(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        in_bytes, out_bytes = get(layer, fields.IN_BYTES), get(layer, fields.OUT_BYTES)
        limits, mirrored = get(layer, fields.LIMITS), get(layer, fields.MIRRORED)
        groups, plane_bytes = get(layer, fields.GROUPS), get(layer, fields.LEVEL_BYTES)
        tail = scratch + fields.VALUES_AT
        for r in range(rows):
            row = source + r * in_bytes
            for group in range(first_group, last_group):
                begin = 64 * size * group
                at = whole_group(row + begin, min(64 * size, in_bytes - begin), 64 * size, tail)
                out = target + r * out_bytes + 8 * group
                for plane in range(planes):
                    store_word(out + plane * plane_bytes, 0)
                for code in range(codes):
                    word = compare(at, limits + 64 * size * (groups * code + group), get(mirrored, groups * code + group))
                    for plane in range(planes):
                        if (code + 1) & ((1 << plane) - 1) == 0:
                            place = out + plane * plane_bytes
                            store_word(place, load_word(place) ^ word)

    return digitize


def make_pool_levels(planes: int) -> Callable[..., None]:
    """Lines of the largest codes, or, of the channels whose bits MIRRORED has, the smallest: those of inverted codes."""

    def pool_levels(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        height, width, across = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes, in_bytes = get(layer, fields.PIXEL_BYTES), get(layer, fields.IN_BYTES)
        out_bytes = get(layer, fields.OUT_BYTES)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        mirrored = get(layer, fields.MIRRORED)
        from_plane, to_plane = in_bytes // planes, out_bytes // planes
        for r in range(rows):
            for line in range(first_line, last_line):
                y = line * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
                top, bottom = span(y, get(layer, fields.KERNEL_DOWN), step_down, height)
                for column in range(across):
                    x = column * get(layer, fields.STRIDE_ACROSS) - get(layer, fields.LEFT)
                    left, right = span(x, get(layer, fields.KERNEL_ACROSS), step_across, width)
                    for k in range(0, pixel_bytes, 8):
                        turned = load_word(mirrored + k)
                        out = target + r * out_bytes + (line * across + column) * pixel_bytes + k
                        for plane in range(planes):
                            store_word(out + plane * to_plane, 0)
                        for i in range(top, bottom):
                            for j in range(left, right):
                                pixel = (y + i * step_down) * width + x + j * step_across
                                at = source + r * in_bytes + pixel * pixel_bytes + k
                                more, same = np.int64(0), np.int64(-1)
                                for plane in range(planes - 1, -1, -1):
                                    here = load_word(at + plane * from_plane) ^ turned
                                    most = load_word(out + plane * to_plane)
                                    more |= same & here & ~most
                                    same &= ~(here ^ most)
                                for plane in range(planes):
                                    here = load_word(at + plane * from_plane) ^ turned
                                    place = out + plane * to_plane
                                    store_word(place, (here & more) | (load_word(place) & ~more))
                        for plane in range(planes):
                            place = out + plane * to_plane
                            store_word(place, load_word(place) ^ turned)

    return pool_levels

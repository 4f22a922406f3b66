"""Layers over maps, compiled: windows become rows, and rows are what `layers` and `nibble_layers` compute.

A strip is a run of output pixels, line by line, or the whole maps of some samples.  The inputs of the window of each of its
pixels are gathered into a row (`gathers`), in the order (kernel row, kernel column, channel) without gaps; such rows are
prepared and computed as those of samples, and the outputs of a run of pixels lie side by side in the map already.  Bits make
the rows small: a window of 3x3x128 has 144 bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xnorinfer.kernels import fields
from xnorinfer.kernels.driver import call_compute, call_prepare
from xnorinfer.kernels.vector_ir import (
    caller,
    get,
    inner,
    load_single,
    load_word,
    store_single,
    store_word,
)

call_gather = caller(6)


@inner
def merge(rows, words, bits, first_bit, source, target, target_bytes):
    """Bits of rows of `words` words into rows of others, from a bit on, where there are zeros."""
    for r in range(rows):
        out = target + r * target_bytes
        for k in range(words):
            value = np.uint64(load_word(source + (r * words + k) * 8))
            at = first_bit + 64 * k
            place = out + (at >> 6) * 8
            by = at & 63
            store_word(place, np.int64(np.uint64(load_word(place)) | (value << np.uint64(by))))
            if by + min(64, bits - 64 * k) > 64:
                above = value >> np.uint64(64 - by)
                store_word(place + 8, np.int64(np.uint64(load_word(place + 8)) | above))


def make_compute_strips() -> Callable[..., None]:
    """Tasks of a layer over maps: parts of the neurons of strips of pixels."""

    def compute_strips(layer, source, target, rows, first_task, last_task, scratch, prepared, shifts):
        pixels = get(layer, fields.DOWN) * get(layer, fields.ACROSS)
        strip = get(layer, fields.STRIP)
        parts = get(layer, fields.PARTS)
        channel_groups = get(layer, fields.CHANNEL_GROUPS)
        gather = get(layer, fields.GATHER)
        merged_at = get(layer, fields.MERGED_AT)
        in_bytes = get(layer, fields.IN_BYTES)
        plane_bytes = get(layer, fields.LEVEL_BYTES)
        out_bytes, planes = plane_bytes // pixels, get(layer, fields.OUT_BYTES) // plane_bytes
        raw, row_bytes = prepared + get(layer, fields.RAW_AT), get(layer, fields.ROW_BYTES)
        prepares = get(layer, fields.GATHER_PREPARES) != 0
        for task in range(first_task, last_task):
            part = task % parts
            first = task // parts * strip
            count = min(strip, pixels - first)
            out = target + first * out_bytes
            total = rows * count
            if merged_at != 0:
                for plane in range(planes):
                    for k in range(total * out_bytes // 8):
                        store_word(out + plane * plane_bytes + 8 * k, np.int64(0))
            for index in range(channel_groups):
                one = get(layer, fields.INNER) + index * fields.LAYER_FIELDS * 8
                prepare = get(one, fields.PREPARE)
                at = source + first * get(layer, fields.PIXEL_BYTES)
                if gather != 0:
                    at = raw
                if load_word(scratch + fields.READY_AT) != first or channel_groups > 1:
                    if gather != 0:
                        for r in range(rows):
                            call_gather(gather, layer, source + r * in_bytes, first, count, index, raw + r * count * row_bytes)
                    if prepare != 0 and not prepares:
                        call_prepare(prepare, one, at, total, scratch, prepared)
                    store_word(scratch + fields.READY_AT, first)
                groups = get(one, fields.GROUPS)
                low, high = part * groups // parts, (part + 1) * groups // parts
                neurons = get(one, fields.NEURONS)
                to = out + index * neurons * 4
                if get(one, fields.FINISH) == 0 or get(one, fields.GRADED) != 0:
                    to = out + index * groups * 8
                if merged_at != 0:
                    to = prepared + merged_at
                call_compute(get(one, fields.COMPUTE), one, at, to, total, low, high, scratch, prepared, shifts + 8 * first)
                if merged_at != 0:
                    for plane in range(planes):
                        at = to + plane * get(one, fields.LEVEL_BYTES)
                        merge(total, groups, neurons, index * neurons, at, out + plane * plane_bytes, out_bytes)

    return compute_strips


# ---------------------------------------------------------------- values side by side


def make_join() -> Callable[..., None]:
    """Lines of pixels, each of segments of pixels of several values: whole float32, or bits of any number, without gaps."""

    def join(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        across = get(layer, fields.ACROSS)
        pixel_bytes = get(layer, fields.PIXEL_BYTES)
        segments = get(layer, fields.SEGMENTS)
        listed = get(layer, fields.OTHERS_AT)
        for r in range(rows):
            out = target + r * get(layer, fields.OUT_BYTES) + first_line * across * pixel_bytes
            for pixel in range(first_line * across, last_line * across):
                if get(layer, fields.FILL) != 0:
                    for k in range(0, pixel_bytes, 8):
                        store_word(out + k, np.int64(0))
                for index in range(segments):
                    segment = get(layer, fields.SEGMENTS_AT) + index * fields.SEGMENT_FIELDS * 8
                    which = get(segment, fields.FROM)
                    at = source + r * get(layer, fields.IN_BYTES)
                    if which > 0:
                        size = get(listed, 2 * which - 1)
                        at = load_word(scratch + fields.OTHERS_FOUND_AT + 8 * which - 8) + r * size
                    at += pixel * get(segment, fields.FROM_BYTES) + get(segment, fields.FROM_AT)
                    bits, place = get(segment, fields.BITS), get(segment, fields.BIT_AT)
                    if (bits | place) & 31 == 0:
                        to = out + (place >> 3)
                        for k in range(bits >> 5):
                            store_single(to + 4 * k, load_single(at + 4 * k))
                    else:
                        merge(1, (bits + 63) >> 6, bits, place, at, out, pixel_bytes)
                out += pixel_bytes

    return join


def make_move() -> Callable[..., None]:
    """Lines of pixels, each one of the map that is read, from TOP and LEFT before it on; outside it is the one at PANEL.

    Planes of levels are maps one below the other, each with a pixel of its own at PANEL.  With SEGMENTS_AT, (channels,) i64,
    some channels of it, in that order; those below 0 are those at PANEL, too.
    """

    def move(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        height, width, across = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes, of_pixel = get(layer, fields.CHANNELS), get(layer, fields.PIXEL_BYTES)
        channels, order, down = get(layer, fields.NEURONS), get(layer, fields.SEGMENTS_AT), get(layer, fields.DOWN)
        for r in range(rows):
            out = target + r * get(layer, fields.OUT_BYTES) + first_line * across * of_pixel
            for line in range(first_line, last_line):
                plane = line // down
                y = line - plane * down - get(layer, fields.TOP)
                outside = get(layer, fields.PANEL) + plane * of_pixel
                for column in range(across):
                    x = column - get(layer, fields.LEFT)
                    at = source + ((plane * height + y) * width + x) * pixel_bytes
                    inside = y >= 0 and y < height and x >= 0 and x < width
                    if not inside or order == 0:
                        here = at if inside else outside
                        for k in range(0, of_pixel, 4):
                            store_single(out + k, load_single(here + k))
                    elif get(layer, fields.FILL) == 0:
                        for c in range(channels):
                            which = get(order, c)
                            here = at + 4 * which if which >= 0 else outside + 4 * c
                            store_single(out + 4 * c, load_single(here))
                    else:
                        for k in range(0, channels, 64):
                            word = np.int64(0)
                            for c in range(min(64, channels - k)):
                                which = get(order, k + c)
                                bit = get(outside, k >> 6) >> c
                                if which >= 0:
                                    bit = load_word(at + (which >> 6) * 8) >> (which & 63)
                                word |= (bit & 1) << c
                            store_word(out + (k >> 3), word)
                    out += of_pixel
            source += get(layer, fields.IN_BYTES)

    return move


# ---------------------------------------------------------------- pools


@inner
def span(at, taps, dilation, size):
    """The first tap inside and the one behind the last; `at` is where the first of all lies."""
    begin = np.int64(0)
    if at < 0:
        begin = (dilation - 1 - at) // dilation
    end = taps
    if at + (taps - 1) * dilation >= size:
        end = (size - at + dilation - 1) // dilation
    return begin, end


def make_pool_bits() -> Callable[..., None]:
    """Lines of pooled bits: OR, or, of the channels whose bits MIRRORED has, AND."""

    def pool_bits(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        height, width, across = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes, in_bytes, out_bytes = (
            get(layer, fields.PIXEL_BYTES),
            get(layer, fields.IN_BYTES),
            get(layer, fields.OUT_BYTES),
        )
        taps_down, taps_across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        stride_across, padding = get(layer, fields.STRIDE_ACROSS), get(layer, fields.LEFT)
        mirrored = get(layer, fields.MIRRORED)
        square = taps_down == 2 and taps_across == 2 and step_across == 1
        line_bytes = step_down * width * pixel_bytes
        for r in range(rows):
            for line in range(first_line, last_line):
                y = line * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
                top, bottom = span(y, taps_down, step_down, height)
                out = target + r * out_bytes + line * across * pixel_bytes
                for column in range(across):
                    x = column * stride_across - padding
                    at = source + r * in_bytes + (y * width + x) * pixel_bytes
                    if square and bottom - top == 2 and x >= 0 and x + 1 < width:
                        # The usual window; so few words are not worth a loop.
                        for k in range(0, pixel_bytes, 8):
                            turned, here = load_word(mirrored + k), at + k
                            upper = (load_word(here) ^ turned) | (load_word(here + pixel_bytes) ^ turned)
                            here += line_bytes
                            lower = (load_word(here) ^ turned) | (load_word(here + pixel_bytes) ^ turned)
                            store_word(out + k, (upper | lower) ^ turned)
                    else:
                        left, right = span(x, taps_across, step_across, width)
                        for k in range(0, pixel_bytes, 8):
                            turned = load_word(mirrored + k)
                            word = np.int64(0)
                            for i in range(top, bottom):
                                for j in range(left, right):
                                    word |= load_word(at + i * line_bytes + j * step_across * pixel_bytes + k) ^ turned
                            store_word(out + k, word ^ turned)
                    out += pixel_bytes

    return pool_bits

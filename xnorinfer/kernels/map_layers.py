"""Layers over maps, compiled: windows become rows, and rows are what `layers` and `nibble_layers` compute.

A strip is a run of output pixels, line by line, or the whole maps of some samples.  The inputs of the window of each of its
pixels are gathered into a row, in the order (kernel row, kernel column, channel) without gaps; such rows are prepared and
computed as those of samples, and the outputs of a run of pixels lie side by side in the map already.  Bits make the rows small:
a window of 3x3x128 has 144 bytes.

Taps outside the map are filled with what changes no sum of bytes or reals, and of bits with a constant, whose mismatches are
constants of the neuron and of the border class: they are in its limits (`map_prepack`).

    gather(layer, source, first, count, channel_group, out)    pixels first <= pixel < first + count of one sample
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xnorinfer.kernels import fields
from xnorinfer.kernels.driver import call_compute, call_prepare
from xnorinfer.kernels.layers import inner
from xnorinfer.kernels.vector_ir import (
    caller,
    get,
    load_byte,
    load_single,
    load_word,
    store_byte,
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
        out_bytes = get(layer, fields.OUT_BYTES) // pixels
        raw = prepared + get(layer, fields.RAW_AT)
        ready = np.int64(-1)
        for task in range(first_task, last_task):
            part = task % parts
            first = task // parts * strip
            count = min(strip, pixels - first)
            out = target + first * out_bytes
            total = rows * count
            if merged_at != 0:
                for k in range(total * out_bytes // 8):
                    store_word(out + 8 * k, np.int64(0))
            for index in range(channel_groups):
                one = get(layer, fields.INNER) + index * fields.LAYER_FIELDS * 8
                row_bytes = get(one, fields.IN_BYTES)
                prepare = get(one, fields.PREPARE)
                at = source + first * get(layer, fields.PIXEL_BYTES)
                if gather != 0:
                    at = raw
                if ready != first or channel_groups > 1:
                    if gather != 0:
                        for r in range(rows):
                            call_gather(gather, layer, source + r * in_bytes, first, count, index, raw + r * count * row_bytes)
                    if prepare != 0:
                        call_prepare(prepare, one, at, total, scratch, prepared)
                    ready = first
                groups = get(one, fields.GROUPS)
                low, high = part * groups // parts, (part + 1) * groups // parts
                neurons = get(one, fields.NEURONS)
                to = out + index * neurons * 4
                if get(one, fields.FINISH) == 0:
                    to = out + index * groups * 8
                if merged_at != 0:
                    to = prepared + merged_at
                call_compute(get(one, fields.COMPUTE), one, at, to, total, low, high, scratch, prepared, shifts + 8 * first)
                if merged_at != 0:
                    merge(total, groups, neurons, index * neurons, to, out, out_bytes)

    return compute_strips


# ---------------------------------------------------------------- windows to rows


def make_gather_words() -> Callable[..., None]:
    """Windows of bits whose channels fill words."""

    def gather_words(layer, source, first, count, channel_group, out):
        height, width = get(layer, fields.HEIGHT), get(layer, fields.WIDTH)
        pixel_bytes = get(layer, fields.PIXEL_BYTES)
        down, across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        words = get(layer, fields.CHANNELS) >> 6
        fill = get(layer, fields.FILL)
        together = step_across == 1 and 8 * words == pixel_bytes
        source += channel_group * words * 8
        for pixel in range(first, first + count):
            y = pixel // get(layer, fields.ACROSS) * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
            x = pixel % get(layer, fields.ACROSS) * get(layer, fields.STRIDE_ACROSS) - get(layer, fields.LEFT)
            inside = together and x >= 0 and x + across <= width
            for _ in range(down):
                if y < 0 or y >= height:
                    for k in range(across * words):
                        store_word(out + 8 * k, fill)
                elif inside:
                    at = source + (y * width + x) * pixel_bytes
                    for k in range(across * words):
                        store_word(out + 8 * k, load_word(at + 8 * k))
                else:
                    for j in range(across):
                        column = x + j * step_across
                        at = source + (y * width + column) * pixel_bytes
                        outside = column < 0 or column >= width
                        for k in range(words):
                            value = fill
                            if not outside:
                                value = load_word(at + 8 * k)
                            store_word(out + 8 * (j * words + k), value)
                out += 8 * across * words
                y += step_down

    return gather_words


def make_gather_bits() -> Callable[..., None]:
    """Windows of any number of bits, one tap after the other without gaps."""

    def gather_bits(layer, source, first, count, channel_group, out):
        height, width = get(layer, fields.HEIGHT), get(layer, fields.WIDTH)
        pixel_bytes = get(layer, fields.PIXEL_BYTES)
        down, across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        channels = get(layer, fields.CHANNELS)
        fill = np.uint64(get(layer, fields.FILL))
        begin = channel_group * channels
        for pixel in range(first, first + count):
            y = pixel // get(layer, fields.ACROSS) * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
            left = pixel % get(layer, fields.ACROSS) * get(layer, fields.STRIDE_ACROSS) - get(layer, fields.LEFT)
            word = np.uint64(0)
            used = np.int64(0)  # bits of the word
            for _ in range(down):
                x = left
                for _ in range(across):
                    inside = y >= 0 and y < height and x >= 0 and x < width
                    at = source + (y * width + x) * pixel_bytes
                    for c in range(0, channels, 64):
                        some = min(64, channels - c)
                        value = fill
                        if inside:
                            place = at + ((begin + c) >> 6) * 8
                            by = (begin + c) & 63
                            value = np.uint64(load_word(place)) >> np.uint64(by)
                            if by + some > 64:
                                value |= np.uint64(load_word(place + 8)) << np.uint64(64 - by)
                        value &= np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - some)
                        word |= value << np.uint64(used)
                        if used + some >= 64:
                            store_word(out, np.int64(word))
                            out += 8
                            word = np.uint64(0)
                            if used > 0:
                                word = value >> np.uint64(64 - used)
                        used = (used + some) & 63
                    x += step_across
                y += step_down
            if used > 0:
                store_word(out, np.int64(word))
                out += 8

    return gather_bits


def make_gather_bytes() -> Callable[..., None]:
    """Windows of bytes, or of numbers of more bytes."""

    def gather_bytes(layer, source, first, count, channel_group, out):
        height, width = get(layer, fields.HEIGHT), get(layer, fields.WIDTH)
        pixel_bytes = get(layer, fields.PIXEL_BYTES)
        down, across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        size = get(layer, fields.CHANNELS)
        fill = get(layer, fields.FILL)
        together = step_across == 1 and size == pixel_bytes
        source += channel_group * size
        for pixel in range(first, first + count):
            y = pixel // get(layer, fields.ACROSS) * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
            x = pixel % get(layer, fields.ACROSS) * get(layer, fields.STRIDE_ACROSS) - get(layer, fields.LEFT)
            inside = together and x >= 0 and x + across <= width
            for _ in range(down):
                if y < 0 or y >= height:
                    for k in range(across * size):
                        store_byte(out + k, fill)
                elif inside:
                    at = source + (y * width + x) * pixel_bytes
                    for k in range(across * size):
                        store_byte(out + k, np.int64(load_byte(at + k)))
                else:
                    for j in range(across):
                        column = x + j * step_across
                        at = source + (y * width + column) * pixel_bytes
                        if column < 0 or column >= width:
                            for k in range(size):
                                store_byte(out + j * size + k, fill)
                        else:
                            for k in range(size):
                                store_byte(out + j * size + k, np.int64(load_byte(at + k)))
                out += across * size
                y += step_down

    return gather_bytes


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
        pixel_bytes = get(layer, fields.PIXEL_BYTES)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        mirrored = get(layer, fields.MIRRORED)
        for r in range(rows):
            for line in range(first_line, last_line):
                y = line * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
                top, bottom = span(y, get(layer, fields.KERNEL_DOWN), step_down, height)
                out = target + r * get(layer, fields.OUT_BYTES) + line * across * pixel_bytes
                for column in range(across):
                    x = column * get(layer, fields.STRIDE_ACROSS) - get(layer, fields.LEFT)
                    left, right = span(x, get(layer, fields.KERNEL_ACROSS), step_across, width)
                    for k in range(pixel_bytes >> 3):
                        turned = get(mirrored, k)
                        word = np.int64(0)
                        for i in range(top, bottom):
                            at = source + ((y + i * step_down) * width + x) * pixel_bytes + 8 * k
                            for j in range(left, right):
                                word |= load_word(at + j * step_across * pixel_bytes) ^ turned
                        store_word(out + 8 * k, word ^ turned)
                    out += pixel_bytes
            source += get(layer, fields.IN_BYTES)

    return pool_bits


def make_pool_largest() -> Callable[..., None]:
    """Lines of the largest of float32, or, of the channels whose bits MIRRORED has, the smallest; NaN where there is one."""

    def pool_largest(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        height, width, across = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes = get(layer, fields.PIXEL_BYTES)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        mirrored = get(layer, fields.MIRRORED)
        for r in range(rows):
            for line in range(first_line, last_line):
                y = line * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
                top, bottom = span(y, get(layer, fields.KERNEL_DOWN), step_down, height)
                out = target + r * get(layer, fields.OUT_BYTES) + line * across * pixel_bytes
                for column in range(across):
                    x = column * get(layer, fields.STRIDE_ACROSS) - get(layer, fields.LEFT)
                    left, right = span(x, get(layer, fields.KERNEL_ACROSS), step_across, width)
                    for c in range(pixel_bytes >> 2):
                        sign = np.float32(1)
                        if get(mirrored, c >> 6) >> (c & 63) & 1:
                            sign = np.float32(-1)
                        most = np.float32(-np.inf)
                        for i in range(top, bottom):
                            at = source + ((y + i * step_down) * width + x) * pixel_bytes + 4 * c
                            for j in range(left, right):
                                value = sign * load_single(at + j * step_across * pixel_bytes)
                                if value > most or value != value:
                                    most = value
                        store_single(out + 4 * c, sign * most)
                    out += pixel_bytes
            source += get(layer, fields.IN_BYTES)

    return pool_largest


def make_pool_average() -> Callable[..., None]:
    """Lines of averages of float32: sums in float64, line by line, divided and rounded once."""

    def pool_average(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        height, width, across = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes = get(layer, fields.PIXEL_BYTES)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        divisor = get(layer, fields.DIVISOR)
        for r in range(rows):
            for line in range(first_line, last_line):
                y = line * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
                top, bottom = span(y, get(layer, fields.KERNEL_DOWN), step_down, height)
                out = target + r * get(layer, fields.OUT_BYTES) + line * across * pixel_bytes
                for column in range(across):
                    x = column * get(layer, fields.STRIDE_ACROSS) - get(layer, fields.LEFT)
                    left, right = span(x, get(layer, fields.KERNEL_ACROSS), step_across, width)
                    number = divisor
                    if number == 0:
                        number = (bottom - top) * (right - left)
                    for c in range(pixel_bytes >> 2):
                        total = np.float64(0)
                        for i in range(top, bottom):
                            at = source + ((y + i * step_down) * width + x) * pixel_bytes + 4 * c
                            for j in range(left, right):
                                total += np.float64(load_single(at + j * step_across * pixel_bytes))
                        store_single(out + 4 * c, np.float32(total / np.float64(number)))
                    out += pixel_bytes
            source += get(layer, fields.IN_BYTES)

    return pool_average

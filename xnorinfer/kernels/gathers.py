"""Windows of maps to rows, compiled: what `map_layers` gathers, of bits, of planes of bits, of bytes.

    gather(layer, source, first, count, channel_group, out)    pixels first <= pixel < first + count of one sample

Taps outside the map are filled with what changes no sum of bytes or reals, and of bits with a constant, whose mismatches are
constants of the neuron and of the border class: they are in its limits (`map_prepack`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xnorinfer.kernels import fields
from xnorinfer.kernels.nibbles import spread_pair
from xnorinfer.kernels.parities import xor_eight
from xnorinfer.kernels.vector_ir import (
    get,
    inner,
    load_byte,
    load_half,
    load_word,
    store_byte,
    store_half,
    store_word,
)


@inner
def word_of_tap(source, place, inside, fill):
    """A word of a pixel, or what lies outside."""
    value = fill
    if inside:
        value = load_word(source + place)
    return value


def make_gather_words(parity_wanted: bool) -> Callable[..., None]:
    """Windows of bits whose channels fill words, as they are or as words of running parity (`layers.make_prepare_bits`)."""

    def gather_words(layer, source, first, count, channel_group, out):
        height, width, line = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes, row_bytes = get(layer, fields.PIXEL_BYTES), get(layer, fields.ROW_BYTES)
        down, across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        stride_down, stride_across = get(layer, fields.STRIDE_DOWN), get(layer, fields.STRIDE_ACROSS)
        left = get(layer, fields.LEFT)
        words = get(layer, fields.CHANNELS) >> 6
        fill = get(layer, fields.FILL)
        run = across * words
        together = step_across == 1 and 8 * words == pixel_bytes
        source += channel_group * words * 8
        line_bytes = width * pixel_bytes
        column = first % line
        top = first // line * stride_down - get(layer, fields.TOP)
        for _ in range(count):
            x = column * stride_across - left
            place = source + top * line_bytes + x * pixel_bytes
            inside = together and x >= 0 and x + across <= width and top >= 0 and top + (down - 1) * step_down < height
            parity, at = np.int64(0), np.int64(0)
            if inside and run == 3:
                # The usual window of 64 channels; so few words are not worth a loop.
                for _ in range(down):
                    for k in range(3):
                        if not parity_wanted:
                            parity = np.int64(0)
                        parity ^= load_word(place + 8 * k)
                        store_word(out + at + 8 * k, parity)
                    at += 24
                    place += step_down * line_bytes
            elif inside:
                for _ in range(down):
                    for k in range(0, 8 * run, 8):
                        if not parity_wanted:
                            parity = np.int64(0)
                        parity ^= load_word(place + k)
                        store_word(out + at, parity)
                        at += 8
                    place += step_down * line_bytes
            else:
                for i in range(down):
                    y = top + i * step_down
                    for j in range(across):
                        there = x + j * step_across
                        there = y >= 0 and y < height and there >= 0 and there < width
                        for k in range(words):
                            if not parity_wanted:
                                parity = np.int64(0)
                            parity ^= word_of_tap(place, j * step_across * pixel_bytes + 8 * k, there, fill)
                            store_word(out + at, parity)
                            at += 8
                    place += step_down * line_bytes
            if parity_wanted and at < row_bytes:
                store_word(out + at, parity)
            out += row_bytes
            column += 1
            if column == line:
                column = np.int64(0)
                top += stride_down

    return gather_words


def make_gather_planes(size: int) -> Callable[..., None]:
    """Windows of bits whose channels fill words of `size` bytes, 8 or 4, as words of running parity, those of a place together.

    Word after word, each for all pixels of a line at once: words of neighbours lie side by side in both maps, and what lies
    outside is a run of them at either end.
    """
    load, store = (load_word, store_word) if size == 8 else (load_half, store_half)
    near, far = xor_eight(size, 8), xor_eight(size, 16)

    def gather_planes(layer, source, first, count, channel_group, out):
        height, width, line = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes, plane_bytes = get(layer, fields.PIXEL_BYTES), get(layer, fields.PLANE_BYTES)
        down, across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        stride = get(layer, fields.STRIDE_ACROSS)
        words = get(layer, fields.CHANNELS) // (8 * size)
        fill = get(layer, fields.FILL)
        source += channel_group * words * size
        step = stride * pixel_bytes
        done = np.int64(0)
        while done < count:
            row, column = (first + done) // line, (first + done) % line
            run = min(line - column, count - done)
            plane = out + done * size
            before = plane + down * across * words * plane_bytes  # behind the last
            for p in range(run):
                store(before + p * size, 0)
            for i in range(down):
                y = row * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP) + i * step_down
                for j in range(across):
                    # Pixels begin <= p < end have this tap inside the map.
                    x = column * stride - get(layer, fields.LEFT) + j * step_across
                    begin, end = np.int64(0), run
                    if x < 0:
                        begin = min(run, (stride - 1 - x) // stride)
                    if x + (run - 1) * stride >= width:
                        end = max(begin, (width - x + stride - 1) // stride)
                    if y < 0 or y >= height:
                        begin = end = np.int64(0)
                    at = source + (y * width + x) * pixel_bytes
                    vectors = np.int64(0)
                    if step <= 16 and end - begin >= 8:
                        vectors = (end - begin + 7) >> 3  # the last two may share pixels
                    for _ in range(words):
                        p = np.int64(0)
                        while p < begin:
                            store(plane + p * size, np.int64(load(before + p * size)) ^ fill)
                            p += 1
                        for _ in range(vectors):
                            p = min(p, end - 8)
                            if step == 8:
                                near(before + p * size, at + p * step, plane + p * size)
                            else:
                                far(before + p * size, at + p * step, plane + p * size)
                            p += 8
                        while p < end:
                            store(plane + p * size, np.int64(load(before + p * size)) ^ np.int64(load(at + p * step)))
                            p += 1
                        while p < run:
                            store(plane + p * size, np.int64(load(before + p * size)) ^ fill)
                            p += 1
                        before = plane
                        plane += plane_bytes
                        at += size
            done += run

    return gather_planes


def make_gather_pairs(size: int) -> Callable[..., None]:
    """Windows of bits whose channels fill words of `size` bytes, 8 or 4, as offsets of tables, those of two pixels together
    (`nibble_layers.make_prepare_nibbles`)."""
    pair, offset_bytes = spread_pair(size), 4 * size
    load, store = (load_word, store_word) if size == 8 else (load_half, store_half)

    @inner
    def word_of_tap(place, inside, fill):
        """A word of a pixel, or what lies outside."""
        value = fill
        if inside:
            value = np.int64(load(place))
        return value

    def gather_pairs(layer, source, first, count, channel_group, out):
        height, width, line = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes, row_bytes = get(layer, fields.PIXEL_BYTES), get(layer, fields.ROW_BYTES)
        down, across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        stride_down, stride_across = get(layer, fields.STRIDE_DOWN), get(layer, fields.STRIDE_ACROSS)
        left = get(layer, fields.LEFT)
        words = get(layer, fields.CHANNELS) // (8 * size)
        fill = get(layer, fields.FILL)
        # Words of a line of the window, one after the other at one distance, or each tap by itself.
        evenly, step = step_across == 1 and size * words == pixel_bytes, np.int64(size)
        if words == 1:
            evenly, step = True, step_across * pixel_bytes
        reach = (across - 1) * step_across
        source += channel_group * words * size
        column = first % line
        top = first // line * stride_down - get(layer, fields.TOP)
        for pixel in range(0, count, 2):
            x = column * stride_across - left
            column += 1
            next_top = top
            if column == line:
                column = np.int64(0)
                next_top += stride_down
            other = column * stride_across - left
            alone = pixel + 1 == count
            inside = evenly and not alone and x >= 0 and x + reach < width and other >= 0 and other + reach < width
            row = out + (pixel >> 1) * 2 * row_bytes
            for i in range(down):
                y, z = top + i * step_down, next_top + i * step_down
                begin, next_begin = (y * width + x) * pixel_bytes, (z * width + other) * pixel_bytes
                if inside and y >= 0 and z < height and y < height and z >= 0:
                    for k in range(across * words):
                        at = source + k * step
                        pair(np.int64(load(at + begin)), np.int64(load(at + next_begin)), row)
                        row += offset_bytes
                    continue
                for j in range(across):
                    move = j * step_across
                    here = y >= 0 and y < height and x + move >= 0 and x + move < width
                    there = z >= 0 and z < height and other + move >= 0 and other + move < width
                    for k in range(words):
                        at = source + move * pixel_bytes + size * k
                        word = word_of_tap(at + begin, here, fill)
                        if alone:
                            store(row, word)
                            row += size
                        else:
                            pair(word, word_of_tap(at + next_begin, there, fill), row)
                            row += offset_bytes
            if alone:
                store(row, 0)  # a last word is read whole
            else:
                for k in range(0, 32, offset_bytes):
                    pair(np.int64(0), np.int64(0), row + k)
            column += 1
            top = next_top
            if column == line:
                column = np.int64(0)
                top += stride_down

    return gather_pairs


def make_gather_bits(parity_wanted: bool) -> Callable[..., None]:
    """Windows of any number of bits, one tap after the other without gaps; parity_wanted: as `make_gather_words`."""

    def gather_bits(layer, source, first, count, channel_group, out):
        height, width, line = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes, row_bytes = get(layer, fields.PIXEL_BYTES), get(layer, fields.ROW_BYTES)
        down, across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        stride_down, stride_across = get(layer, fields.STRIDE_DOWN), get(layer, fields.STRIDE_ACROSS)
        left = get(layer, fields.LEFT)
        channels = get(layer, fields.CHANNELS)
        begin = channel_group * channels
        # Pixels of one word, all of it wanted: what is behind the channels is 0 there.
        whole = channels < 64 and channels > pixel_bytes * 8 - 64 and get(layer, fields.CHANNEL_GROUPS) == 1
        together = whole and step_across == 1
        outside = np.uint64(get(layer, fields.FILL))
        line_bytes = width * pixel_bytes
        column = first % line
        top = first // line * stride_down - get(layer, fields.TOP)
        for _ in range(count):
            x = column * stride_across - left
            place = source + top * line_bytes + x * pixel_bytes
            inside = together and x >= 0 and x + across <= width and top >= 0 and top + (down - 1) * step_down < height
            parity, word = np.uint64(0), np.uint64(0)
            used, at = np.int64(0), np.int64(0)  # bits of the word, bytes before it
            if inside:
                for _ in range(down):
                    for k in range(0, 8 * across, 8):
                        value = np.uint64(load_word(place + k))
                        word |= value << np.uint64(used)
                        used += channels
                        if used >= 64:
                            parity = word ^ parity if parity_wanted else word
                            store_word(out + at, np.int64(parity))
                            at += 8
                            used -= 64
                            word = (value >> np.uint64(1)) >> np.uint64(channels - used - 1)
                    place += step_down * line_bytes
            else:
                for i in range(down):
                    y = top + i * step_down
                    for j in range(across):
                        there = x + j * step_across
                        there = y >= 0 and y < height and there >= 0 and there < width
                        for c in range(0, channels, 64):
                            some = min(64, channels - c)
                            value = outside
                            if there:
                                by = (begin + c) & 63
                                tap = place + j * step_across * pixel_bytes + ((begin + c) >> 6) * 8
                                value = np.uint64(load_word(tap)) >> np.uint64(by)
                                if by + some > 64:
                                    value |= np.uint64(load_word(tap + 8)) << np.uint64(64 - by)
                            value &= np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - some)
                            word |= value << np.uint64(used)
                            used += some
                            if used >= 64:
                                if not parity_wanted:
                                    parity = np.uint64(0)
                                parity ^= word
                                store_word(out + at, np.int64(parity))
                                at += 8
                                used -= 64
                                word = (value >> np.uint64(1)) >> np.uint64(some - used - 1)
                    place += step_down * line_bytes
            if used > 0:
                if not parity_wanted:
                    parity = np.uint64(0)
                parity ^= word
                store_word(out + at, np.int64(parity))
                at += 8
            if parity_wanted and at < row_bytes:
                store_word(out + at, np.int64(parity))
            out += row_bytes
            column += 1
            if column == line:
                column = np.int64(0)
                top += stride_down

    return gather_bits


def make_gather_bytes() -> Callable[..., None]:
    """Windows of bytes, or of numbers of more bytes."""

    def gather_bytes(layer, source, first, count, channel_group, out):
        height, width, line = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes = get(layer, fields.PIXEL_BYTES)
        down, across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        stride_down, stride_across = get(layer, fields.STRIDE_DOWN), get(layer, fields.STRIDE_ACROSS)
        left = get(layer, fields.LEFT)
        size = get(layer, fields.CHANNELS)
        fill = get(layer, fields.FILL)
        together = step_across == 1 and size == pixel_bytes
        source += channel_group * size
        column = first % line
        top = first // line * stride_down - get(layer, fields.TOP)
        for _ in range(count):
            x = column * stride_across - left
            inside = together and x >= 0 and x + across <= width
            for i in range(down):
                y = top + i * step_down
                at = source + (y * width + x) * pixel_bytes
                if inside and y >= 0 and y < height:
                    for k in range(across * size):
                        store_byte(out + k, np.int64(load_byte(at + k)))
                    out += across * size
                    continue
                for j in range(across):
                    there = x + j * step_across
                    if y >= 0 and y < height and there >= 0 and there < width:
                        place = at + j * step_across * pixel_bytes
                        for k in range(size):
                            store_byte(out + k, np.int64(load_byte(place + k)))
                    else:
                        for k in range(size):
                            store_byte(out + k, fill)
                    out += size
            column += 1
            if column == line:
                column = np.int64(0)
                top += stride_down

    return gather_bytes

"""Layers of float32 numbers, compiled: float weights, over samples and over maps, depthwise convolutions, pools, steps alone.

Windows are not gathered: a tile reads the inputs of neighbouring outputs where they lie, and where a window reaches beyond its
map, the lines of a strip are copied once, with zeros around them.  Sums go to a block of rows in the scratch, on which the
float32 steps work in place, vector by vector, before they are written.

    finish_rows(layer, first, count, rows, scratch, out)   rows of the block, for neurons first <= neuron < first + count
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xnorinfer.kernels import fields
from xnorinfer.kernels.count_rows import call_finish_rows
from xnorinfer.kernels.float_tiles import (
    add_tile,
    average_tile,
    copy_tile,
    depthwise_tile,
    float_tile,
    largest_tile,
    step_tile,
    zero_tile,
)
from xnorinfer.kernels.layers import sigmoid_of, tanh_of
from xnorinfer.kernels.map_layers import span
from xnorinfer.kernels.shapes import FloatShape
from xnorinfer.kernels.tiles import compare_inputs, compare_singles
from xnorinfer.kernels.vector_ir import get, inner, load_single, load_word, store_byte, store_single, store_word


def _copier(lanes: int) -> Any:
    """copy(source, target, count) of f32, none beyond their ends."""
    wide, single = copy_tile(lanes), copy_tile(1)

    @inner
    def copy(source, target, count):
        if count >= lanes:
            for at in range(0, count - lanes, lanes):
                wide(source + 4 * at, target + 4 * at)
            wide(source + 4 * (count - lanes), target + 4 * (count - lanes))
        else:
            for at in range(count):
                single(source + 4 * at, target + 4 * at)

    return copy


def make_finish_rows(lanes: int, native_fma: bool) -> Callable[..., None]:
    """The steps on rows of the block, and out, where rows have all neurons of the layer."""
    copy, add, add_one = _copier(lanes), add_tile(lanes), add_tile(1)
    below, above = compare_singles("<="), compare_singles(">=")
    mul, plus, fma, clip, div, step, prelu = (
        step_tile(lanes, native_fma, code)
        for code in (fields.MUL, fields.ADD, fields.FMA, fields.CLIP, fields.DIV, fields.STEP, fields.PRELU)
    )

    @inner
    def bits_of(layer, first, count, rows, block, scratch, place):
        """Of rows of the block, the first of which is number `place` of all; whole words where there are, or their bytes."""
        limits, step = get(layer, fields.BIT_LIMITS) + 4 * first, get(layer, fields.BIT_BYTES)
        turned = get(get(layer, fields.BIT_MIRRORED), first >> 6) >> (first & 63)
        out = load_word(scratch + fields.BITS_FOUND_AT) + place * step + (first >> 3)
        size = count >> 3
        if first + count == get(layer, fields.NEURONS):
            size = 8 - ((first & 63) >> 3)
        for r in range(rows):
            word = np.int64(0)
            if turned != 0:
                word = above(block + r * fields.BLOCK_STEP, limits) & turned
            if turned != -1:
                word |= below(block + r * fields.BLOCK_STEP, limits) & ~turned
            if size == 8:
                store_word(out, word)
            else:
                for k in range(size):
                    store_byte(out + k, word >> (8 * k))
            out += step

    def finish_rows(layer, first, count, rows, scratch, out):
        block = scratch + fields.BLOCK_AT
        vectors = (count + lanes - 1) // lanes
        all_bytes = get(layer, fields.NEURONS) * 4
        stride = get(layer, fields.STEP_BYTES)
        side = out + load_word(scratch + fields.SIDE_FROM_TARGET_AT)
        codes = get(layer, fields.OP_CODES)
        for i in range(get(layer, fields.OPS)):
            code = load_word(codes + 8 * i)
            a = get(layer, fields.OP_VALUES) + 4 * first + 2 * i * all_bytes
            b = a + all_bytes
            if code == fields.MUL:
                mul(block, rows, vectors, a, b)
            elif code == fields.ADD:
                plus(block, rows, vectors, a, b)
            elif code == fields.FMA:
                fma(block, rows, vectors, a, b)
            elif code == fields.CLIP:
                clip(block, rows, vectors, a, b)
            elif code == fields.DIV:
                div(block, rows, vectors, a, b)
            elif code == fields.PRELU:
                prelu(block, rows, vectors, a, b)
            elif code == fields.SIDE:
                for r in range(rows):
                    to, of = block + r * fields.BLOCK_STEP, side + r * stride
                    whole = count // lanes * lanes
                    for j in range(0, whole, lanes):
                        add(to + 4 * j, of + 4 * j)
                    for j in range(whole, count):
                        add_one(to + 4 * j, of + 4 * j)
            elif code == fields.TANH or code == fields.SIGMOID:
                for r in range(rows):
                    for j in range(count):
                        at = block + r * fields.BLOCK_STEP + 4 * j
                        value = load_single(at)
                        store_single(at, tanh_of(value) if code == fields.TANH else sigmoid_of(value))
            else:
                step(block, rows, vectors, a, b)
        if get(layer, fields.UNKEPT) == 0:
            for r in range(rows):
                copy(block + r * fields.BLOCK_STEP, out + r * stride, count)
        if get(layer, fields.BIT_LIMITS) != 0:
            bits_of(layer, first, count, rows, block, scratch, (out - load_word(scratch + fields.TARGET_FOUND_AT)) // stride)

    return finish_rows


def make_compute_steps(lanes: int) -> Callable[..., None]:
    """No product: rows of float32 to the steps."""
    copy = _copier(lanes)

    def compute_steps(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        in_bytes = get(layer, fields.IN_BYTES)
        finish, neurons = get(layer, fields.FINISH), get(layer, fields.NEURONS)
        block = scratch + fields.BLOCK_AT
        for first in range(0, rows, fields.BLOCK_MOST_ROWS):
            some = min(rows - first, fields.BLOCK_MOST_ROWS)
            for group in range(first_group, last_group):
                count = min(64, neurons - group * 64)
                row = source + first * in_bytes + group * 256
                for r in range(some):
                    copy(row + r * in_bytes, block + r * fields.BLOCK_STEP, count)
                out = target + first * neurons * 4 + group * 256
                call_finish_rows(finish, layer, group * 64, count, some, scratch, out)

    return compute_steps


def _multiplier(shape: FloatShape) -> Any:
    """multiply(layer, x, step, rows, ways of `float_tile`, panel, first, count, scratch, out): rows, `step` bytes apart, times
    a panel of `count` neurons, from number `first` of the layer on."""
    several, one, most = float_tile(shape, shape.rows), float_tile(shape, 1), shape.rows

    @inner
    def multiply(layer, x, step, rows, outer, outer_step, middle, middle_step, run, panel, first, count, scratch, out):
        block, finish = scratch + fields.BLOCK_AT, get(layer, fields.FINISH)
        stride = get(layer, fields.NEURONS) * 4
        r = np.int64(0)
        while r < rows:
            some = np.int64(1)
            if rows >= most:
                # The last rows are computed with some of those before again.
                r, some = min(r, rows - most), np.int64(most)
                several(x + r * step, step, outer, outer_step, middle, middle_step, run, panel, block)
            else:
                one(x + r * step, step, outer, outer_step, middle, middle_step, run, panel, block)
            call_finish_rows(finish, layer, first, count, some, scratch, out + r * stride)
            r += some

    return multiply


def make_compute_floats(shape: FloatShape) -> Callable[..., None]:
    """Float weights on rows of float32, against limits or to the steps."""
    several, one, most = float_tile(shape, shape.rows), float_tile(shape, 1), shape.rows
    compare, width = compare_inputs(4), shape.panel
    group_panels = 64 // width

    def compute_floats(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        panel_bytes, neurons, depth = get(layer, fields.PANEL_BYTES), get(layer, fields.NEURONS), get(layer, fields.DEPTH)
        in_bytes, out_bytes = get(layer, fields.IN_BYTES), get(layer, fields.OUT_BYTES)
        finish, block = get(layer, fields.FINISH), scratch + fields.BLOCK_AT
        for group in range(first_group, last_group):
            first = group * group_panels
            panels = min(group_panels, get(layer, fields.PANELS) - first)
            r = np.int64(0)
            while r < rows:
                some = np.int64(1)
                if rows >= most:
                    # The last rows are computed with some of those before again.
                    r, some = min(r, rows - most), np.int64(most)
                for p in range(panels):
                    panel, to = get(layer, fields.PANEL) + (first + p) * panel_bytes, block + 4 * p * width
                    if some > 1:
                        several(source + r * in_bytes, in_bytes, 1, 0, 1, 0, depth, panel, to)
                    else:
                        one(source + r * in_bytes, in_bytes, 1, 0, 1, 0, depth, panel, to)
                if finish != 0:
                    count = min(64, neurons - group * 64)
                    call_finish_rows(finish, layer, group * 64, count, some, scratch, target + r * out_bytes + group * 256)
                else:
                    limits = get(layer, fields.LIMITS) + group * 256
                    for k in range(some):
                        word = compare(block + k * fields.BLOCK_STEP, limits, 0)
                        store_word(target + (r + k) * out_bytes + group * 8, word)
                r += some

    return compute_floats


def make_compute_float_maps(shape: FloatShape) -> Callable[..., None]:
    """Float weights on windows: tasks are parts of the panels of strips of lines."""
    multiply, width, lanes = _multiplier(shape), shape.panel, shape.lanes
    copy, zero, zero_one = _copier(lanes), zero_tile(lanes), zero_tile(1)

    @inner
    def clear(target, count):
        whole = count // lanes * lanes
        for at in range(0, whole, lanes):
            zero(target + 4 * at)
        for at in range(whole, count):
            zero_one(target + 4 * at)

    @inner
    def with_border(layer, source, top, lines, line_bytes, out):
        """Lines from `top` on with what lies outside the map as 0, `line_bytes` each."""
        height, width, pixel_bytes = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.PIXEL_BYTES)
        left = min(get(layer, fields.LEFT) * pixel_bytes, line_bytes)
        inside = min(width * pixel_bytes, line_bytes - left)
        for y in range(top, top + lines):
            if y < 0 or y >= height:
                clear(out, line_bytes >> 2)
            else:
                clear(out, left >> 2)
                copy(source + y * width * pixel_bytes, out + left, inside >> 2)
                clear(out + left + inside, (line_bytes - left - inside) >> 2)
            out += line_bytes

    def compute_float_maps(layer, source, target, rows, first_task, last_task, scratch, prepared, shifts):
        down, across = get(layer, fields.DOWN), get(layer, fields.ACROSS)
        kernel_down, kernel_across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        stride_down, pixel_bytes = get(layer, fields.STRIDE_DOWN), get(layer, fields.PIXEL_BYTES)
        step = get(layer, fields.STRIDE_ACROSS) * pixel_bytes
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        tap_bytes, groups = get(layer, fields.CHANNELS), get(layer, fields.CHANNEL_GROUPS)
        neurons = get(layer, fields.NEURONS) // groups
        panels, panel_bytes = get(layer, fields.PANELS), get(layer, fields.PANEL_BYTES)
        strip, parts = get(layer, fields.STRIP), get(layer, fields.PARTS)
        pixels = get(layer, fields.OUT_BYTES) // (4 * get(layer, fields.NEURONS))
        padded = get(layer, fields.ROW_BYTES)
        out_line = across * get(layer, fields.NEURONS) * 4
        # Taps side by side are one run.
        middle, middle_step, run = kernel_across, step_across * pixel_bytes, tap_bytes >> 2
        if step_across == 1 and tap_bytes == pixel_bytes:
            middle, run = np.int64(1), run * kernel_across
        for task in range(first_task, last_task):
            part = task % parts
            first = task // parts * strip
            last = min(first + strip, down)
            for r in range(rows):
                line_bytes = get(layer, fields.WIDTH) * pixel_bytes
                top = first * stride_down - get(layer, fields.TOP)
                begin = source + r * get(layer, fields.IN_BYTES) + top * line_bytes
                if padded != 0:
                    line_bytes, begin = padded, prepared
                    lines = (last - 1 - first) * stride_down + (kernel_down - 1) * step_down + 1
                    with_border(layer, source + r * get(layer, fields.IN_BYTES), top, lines, padded, prepared)
                out = target + r * get(layer, fields.OUT_BYTES) + first * out_line
                for group in range(groups):
                    for p in range(part * panels // parts, (part + 1) * panels // parts):
                        at = p * width
                        panel = get(layer, fields.PANEL) + (group * panels + p) * panel_bytes
                        count, at = min(width, neurons - at), group * neurons + at
                        for line in range(last - first):
                            multiply(
                                layer, begin + group * tap_bytes + line * stride_down * line_bytes, step,
                                min(across, pixels - (first + line) * across),
                                kernel_down, step_down * line_bytes, middle, middle_step, run,
                                panel, at, count, scratch, out + line * out_line + 4 * at,
                            )  # fmt: skip

    return compute_float_maps


# ---------------------------------------------------------------- channels by themselves


def make_compute_depthwise(lanes: int, native_fma: bool) -> Callable[..., None]:
    """Lines of a map of which each channel has weights of its own, (taps, channels) f32 at PANEL, and the float32 steps."""
    wide, single = depthwise_tile(lanes, native_fma), depthwise_tile(1, native_fma)
    zero, zero_one = zero_tile(lanes), zero_tile(1)

    @inner
    def sums(x, lines, line_step, taps, tap_step, weights, weight_line_step, weight_step, out, count):
        """Of `count` channels, in vectors the last two of which may share channels."""
        c = np.int64(0)
        while c < count:
            if count >= lanes:
                c = min(c, count - lanes)
            at = 4 * c
            if lines <= 0 or taps <= 0:
                if count >= lanes:
                    zero(out + at)
                else:
                    zero_one(out + at)
            elif count >= lanes:
                wide(
                    x + at, lines, line_step, taps, tap_step, weights + at, weight_line_step, weight_step, out + at
                )  # fmt: skip
            else:
                single(
                    x + at, lines, line_step, taps, tap_step, weights + at, weight_line_step, weight_step, out + at
                )  # fmt: skip
            c += lanes if count >= lanes else 1

    def compute_depthwise(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        height, width, across = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes, channels = get(layer, fields.PIXEL_BYTES), get(layer, fields.NEURONS)
        kernel_down, kernel_across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        weights, finish = get(layer, fields.PANEL), get(layer, fields.FINISH)
        block = scratch + fields.BLOCK_AT
        line_step, tap_step = step_down * width * pixel_bytes, step_across * pixel_bytes
        weight_step = channels * 4
        for r in range(rows):
            for line in range(first_line, last_line):
                y = line * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
                top, bottom = span(y, kernel_down, step_down, height)
                out = target + r * get(layer, fields.OUT_BYTES) + line * across * pixel_bytes
                for first in range(0, across, fields.BLOCK_MOST_ROWS):
                    some = min(across - first, fields.BLOCK_MOST_ROWS)
                    for begin in range(0, channels, 64):
                        count = min(64, channels - begin)
                        for column in range(first, first + some):
                            x = column * get(layer, fields.STRIDE_ACROSS) - get(layer, fields.LEFT)
                            left, right = span(x, kernel_across, step_across, width)
                            at = source + (y * width + x) * pixel_bytes + top * line_step + left * tap_step + 4 * begin
                            of = weights + (top * kernel_across + left) * weight_step + 4 * begin
                            sums(
                                at, bottom - top, line_step, right - left, tap_step, of, kernel_across * weight_step,
                                weight_step, block + (column - first) * fields.BLOCK_STEP, count,
                            )  # fmt: skip
                        call_finish_rows(finish, layer, begin, count, some, scratch, out + first * pixel_bytes + 4 * begin)
            source += get(layer, fields.IN_BYTES)

    return compute_depthwise


def make_pool_largest(lanes: int) -> Callable[..., None]:
    """Lines of the largest of float32, or, of the channels of which MIRRORED, i32, has the sign's bit, the smallest; NaN where
    there is one."""
    wide, single = largest_tile(lanes), largest_tile(1)

    def pool_largest(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        height, width, across = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes, channels = get(layer, fields.PIXEL_BYTES), get(layer, fields.NEURONS)
        kernel_down, kernel_across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        mirrored = get(layer, fields.MIRRORED)
        line_step, tap_step = step_down * width * pixel_bytes, step_across * pixel_bytes
        for r in range(rows):
            for line in range(first_line, last_line):
                y = line * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
                top, bottom = span(y, kernel_down, step_down, height)
                out = target + r * get(layer, fields.OUT_BYTES) + line * across * pixel_bytes
                for column in range(across):
                    x = column * get(layer, fields.STRIDE_ACROSS) - get(layer, fields.LEFT)
                    left, right = span(x, kernel_across, step_across, width)
                    at = source + (y * width + x) * pixel_bytes + top * line_step + left * tap_step
                    lines, taps = bottom - top, right - left
                    if channels >= lanes:
                        for c in range(0, channels - lanes, lanes):
                            wide(at + 4 * c, lines, line_step, taps, tap_step, mirrored + 4 * c, out + 4 * c)
                        c = 4 * (channels - lanes)
                        wide(at + c, lines, line_step, taps, tap_step, mirrored + c, out + c)
                    else:
                        for c in range(channels):
                            single(at + 4 * c, lines, line_step, taps, tap_step, mirrored + 4 * c, out + 4 * c)
                    out += pixel_bytes
            source += get(layer, fields.IN_BYTES)

    return pool_largest


def make_pool_average(lanes: int) -> Callable[..., None]:
    """Lines of averages of float32: sums in float64, line by line, divided and rounded once."""
    wide, single = average_tile(lanes), average_tile(1)

    def pool_average(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        height, width, across = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.ACROSS)
        pixel_bytes, channels = get(layer, fields.PIXEL_BYTES), get(layer, fields.NEURONS)
        kernel_down, kernel_across = get(layer, fields.KERNEL_DOWN), get(layer, fields.KERNEL_ACROSS)
        step_down, step_across = get(layer, fields.DILATION_DOWN), get(layer, fields.DILATION_ACROSS)
        divisor = get(layer, fields.DIVISOR)
        line_step, tap_step = step_down * width * pixel_bytes, step_across * pixel_bytes
        for r in range(rows):
            for line in range(first_line, last_line):
                y = line * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
                top, bottom = span(y, kernel_down, step_down, height)
                out = target + r * get(layer, fields.OUT_BYTES) + line * across * pixel_bytes
                for column in range(across):
                    x = column * get(layer, fields.STRIDE_ACROSS) - get(layer, fields.LEFT)
                    left, right = span(x, kernel_across, step_across, width)
                    at = source + (y * width + x) * pixel_bytes + top * line_step + left * tap_step
                    lines, taps = bottom - top, right - left
                    number = divisor
                    if number == 0:
                        number = lines * taps
                    if channels >= lanes:
                        for c in range(0, channels - lanes, lanes):
                            wide(at + 4 * c, lines, line_step, taps, tap_step, number, out + 4 * c)
                        c = 4 * (channels - lanes)
                        wide(at + c, lines, line_step, taps, tap_step, number, out + c)
                    else:
                        for c in range(channels):
                            single(at + 4 * c, lines, line_step, taps, tap_step, number, out + 4 * c)
                    out += pixel_bytes
            source += get(layer, fields.IN_BYTES)

    return pool_average

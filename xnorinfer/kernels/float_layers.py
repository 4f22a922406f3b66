"""Layers of float32 numbers, compiled: float weights, over samples and over maps, and steps alone.

Windows are not gathered: a tile reads the inputs of neighbouring outputs where they lie, and where a window reaches beyond its
map, what a strip has at its ends is copied once, with zeros around it.  The usual steps (`fields.ON_SUMS`) are taken on sums in
registers; else those go to a block of rows in the scratch, on which the float32 steps work in place, vector by vector, before
they are written.

    finish_rows(layer, first, count, rows, scratch, out, at, at_bytes)   rows of neurons first <= neuron < first + count
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xnorinfer.kernels import fields
from xnorinfer.kernels.channel_layers import whole_columns
from xnorinfer.kernels.count_rows import call_finish_rows
from xnorinfer.kernels.finish import sigmoid_of, tanh_of
from xnorinfer.kernels.float_tiles import (
    copy_tile,
    float_tile,
    steps_tile,
    zero_tile,
)
from xnorinfer.kernels.shapes import FloatShape
from xnorinfer.kernels.tiles import compare_inputs, compare_rows, compare_singles
from xnorinfer.kernels.vector_ir import caller, get, inner, load_single, load_word, store_byte, store_single, store_word

call_steps = caller(10)


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


def make_steps(lanes: int, native_fma: bool, codes: tuple[int, ...]) -> Callable[..., None]:
    """One of `fields.PIECES` on rows of whole vectors, as `float_tiles.steps_tile` has it; tanh, sigmoid number by number."""
    if codes in ((fields.TANH,), (fields.SIGMOID,)):
        function = tanh_of if codes == (fields.TANH,) else sigmoid_of

        def each(x, x_bytes, rows, vectors, values, value_bytes, side, side_bytes, out, out_bytes):
            for r in range(rows):
                for at in range(0, 4 * lanes * vectors, 4):
                    store_single(out + r * out_bytes + at, function(load_single(x + r * x_bytes + at)))

        return each
    tile = steps_tile(lanes, native_fma, codes)

    def steps(x, x_bytes, rows, vectors, values, value_bytes, side, side_bytes, out, out_bytes):
        tile(x, x_bytes, rows, vectors, values, value_bytes, side, side_bytes, out, out_bytes)

    return steps


def make_finish_rows(lanes: int) -> Callable[..., None]:
    """What follows the sums of a layer: turns on rows of float32, as `fields.TURN_FIELDS` says it."""
    width = max(lanes, 8)
    compare, of_rows = compare_singles(), compare_rows(width)
    copy = _copier(lanes)

    @inner
    def copy_rows(source, source_bytes, rows, count, target, target_bytes):
        for r in range(rows):
            copy(source + r * source_bytes, target + r * target_bytes, count)

    @inner
    def bits_of(layer, which, first, count, rows, at, at_bytes, out, step, row_bytes):
        """Of rows of float32 at an address; the last ones of a row fill what is left of it, `row_bytes` in all."""
        neurons = get(layer, fields.NEURONS)
        place = 4 * ((((neurons + 63) >> 6) + 1) * 64 * which + first)
        limits, turned = get(layer, fields.BIT_LIMITS) + place, get(layer, fields.BIT_TURNED) + place
        size = count >> 3
        if first + count == neurons:
            size = row_bytes - (first >> 3)
        if size <= 8 and size % (width >> 3) == 0:
            of_rows(at, at_bytes, rows, 8 * size // width, limits, turned, out, step)
            return
        for _ in range(rows):
            word = compare(at, limits, turned)
            for k in range(size):
                store_byte(out + k, word >> (8 * k) if k < 8 else 0)
            at += at_bytes
            out += step

    @inner
    def found(scratch, which):
        """Address of one of OTHERS."""
        return load_word(scratch + fields.OTHERS_FOUND_AT + 8 * which)

    def finish_rows(layer, first, count, rows, scratch, out, at, at_bytes):
        block = scratch + fields.BLOCK_AT
        vectors = (count + lanes - 1) // lanes
        whole = vectors * lanes == count
        value_bytes, stride = get(layer, fields.NEURONS) * 4, get(layer, fields.STEP_BYTES)
        before = out - load_word(scratch + fields.TARGET_FOUND_AT)
        place = before // stride
        column = before - place * stride
        # Bits are compared in whole words, and nothing is read beyond the last row.
        direct = whole and (count == 64 or get(layer, fields.BIT_LIMITS) == 0)
        if not direct and at != block:
            copy_rows(at, at_bytes, rows, count, block, fields.BLOCK_STEP)
            at, at_bytes = block, np.int64(fields.BLOCK_STEP)
        for i in range(get(layer, fields.OPS)):
            turn = get(layer, fields.OP_CODES) + i * fields.TURN_FIELDS * 8
            run, goes = get(turn, fields.RUN), get(turn, fields.GOES)
            to, to_bytes = out, stride
            if goes >= 0:
                to_bytes = get(turn, fields.GOES_BYTES)
                to = found(scratch, goes) + place * to_bytes + column
            if run == fields.AS_BITS:
                to += (column >> 5) - column
                which, row_bytes = get(turn, fields.AT), get(turn, fields.BESIDE_BYTES)
                bits_of(layer, which, first, count, rows, at, at_bytes, to, to_bytes, row_bytes)
            elif run == fields.AS_NUMBERS:
                copy_rows(at, at_bytes, rows, count, to, to_bytes)
            else:
                values = get(layer, fields.OP_VALUES) + 4 * first + 2 * get(turn, fields.AT) * value_bytes
                into, into_bytes = to, to_bytes
                if goes == fields.NOWHERE or not direct:
                    into, into_bytes = block, np.int64(fields.BLOCK_STEP)
                beside, side_bytes, shared = (
                    get(turn, fields.BESIDE),
                    get(turn, fields.BESIDE_BYTES),
                    get(turn, fields.BESIDE_ROWS),
                )
                r = np.int64(0)
                while r < rows:
                    some, side = rows - r, block
                    if beside >= 0:
                        side = found(scratch, beside) + column
                        if shared != 0:
                            sample = (place + r) // shared
                            some = min(some, (sample + 1) * shared - place - r)
                            side += sample * side_bytes
                            side_bytes = np.int64(0)
                        else:
                            side += (place + r) * side_bytes
                        if not whole:
                            # Nothing is read beyond the last row.
                            copied = min(some, 1) if shared != 0 else some
                            copy_rows(side, side_bytes, copied, count, scratch + fields.SIDE_BLOCK_AT, fields.BLOCK_STEP)
                            side = scratch + fields.SIDE_BLOCK_AT
                            if shared == 0:
                                side_bytes = np.int64(fields.BLOCK_STEP)
                    call_steps(
                        run, at + r * at_bytes, at_bytes, some, vectors, values, value_bytes,
                        side, side_bytes, into + r * into_bytes, into_bytes,
                    )  # fmt: skip
                    side_bytes = get(turn, fields.BESIDE_BYTES)
                    r += some
                at, at_bytes = into, into_bytes
                if goes != fields.NOWHERE and into != to:
                    copy_rows(at, at_bytes, rows, count, to, to_bytes)

    return finish_rows


def make_compute_steps() -> Callable[..., None]:
    """No product: rows of float32 to the steps."""

    def compute_steps(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        in_bytes, out_bytes = get(layer, fields.IN_BYTES), get(layer, fields.STEP_BYTES)
        finish, neurons = get(layer, fields.FINISH), get(layer, fields.NEURONS)
        for first in range(0, rows, fields.BLOCK_MOST_ROWS):
            some = min(rows - first, fields.BLOCK_MOST_ROWS)
            for group in range(first_group, last_group):
                at, out = source + first * in_bytes + group * 256, target + first * out_bytes + group * 256
                call_finish_rows(finish, layer, group * 64, min(64, neurons - group * 64), some, scratch, out, at, in_bytes)

    return compute_steps


def _multiplier(shape: FloatShape) -> Any:
    """multiply(layer, x, step, rows, ways of `float_tile`, panel, first, count, scratch, out): rows, `step` bytes apart, times
    a panel of `count` neurons, from number `first` of the layer on."""
    several, fewer, one = (float_tile(shape, rows) for rows in (shape.rows, shape.rows // 2, 1))
    most, half, width = shape.rows, shape.rows // 2, shape.panel

    @inner
    def multiply(layer, x, step, rows, outer, outer_step, middle, middle_step, run, panel, first, count, scratch, out):
        number, stride = get(layer, fields.SUMS_STEPS), get(layer, fields.STEP_BYTES)
        on_sums = number != fields.NOT_ON_SUMS and count == width
        to, to_bytes, down = out, stride, stride
        values, value_bytes = get(layer, fields.OP_VALUES) + 4 * first, 4 * get(layer, fields.NEURONS)
        if not on_sums:
            number, to, to_bytes, down = np.int64(-1), scratch + fields.BLOCK_AT, np.int64(fields.BLOCK_STEP), np.int64(0)
        r = np.int64(0)
        while r < rows:
            some = np.int64(1)
            # The last rows are computed with some of those before again.
            if rows - r > half and rows >= most:
                r, some = min(r, rows - most), np.int64(most)
                several(
                    x + r * step, step, outer, outer_step, middle, middle_step, run, panel,
                    number, values, value_bytes, to + r * down, to_bytes,
                )  # fmt: skip
            elif rows >= half:
                r, some = min(r, rows - half), np.int64(half)
                fewer(
                    x + r * step, step, outer, outer_step, middle, middle_step, run, panel,
                    number, values, value_bytes, to + r * down, to_bytes,
                )  # fmt: skip
            else:
                one(
                    x + r * step, step, outer, outer_step, middle, middle_step, run, panel,
                    number, values, value_bytes, to + r * down, to_bytes,
                )  # fmt: skip
            if not on_sums:
                finish = get(layer, fields.FINISH)
                call_finish_rows(finish, layer, first, count, some, scratch, out + r * stride, to, to_bytes)
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
                        several(source + r * in_bytes, in_bytes, 1, 0, 1, 0, depth, panel, -1, 0, 0, to, fields.BLOCK_STEP)
                    else:
                        one(source + r * in_bytes, in_bytes, 1, 0, 1, 0, depth, panel, -1, 0, 0, to, fields.BLOCK_STEP)
                if finish != 0:
                    count = min(64, neurons - group * 64)
                    out = target + r * out_bytes + group * 256
                    call_finish_rows(finish, layer, group * 64, count, some, scratch, out, block, fields.BLOCK_STEP)
                else:
                    limits = get(layer, fields.LIMITS) + group * 256
                    for k in range(some):
                        word = compare(block + k * fields.BLOCK_STEP, limits, 0)
                        store_word(target + (r + k) * out_bytes + group * 8, word)
                r += some

    return compute_floats


def make_compute_float_maps(shape: FloatShape) -> Callable[..., None]:
    """Float weights on windows: tasks are parts of the panels of strips of lines."""
    multiply, width, lanes, most = _multiplier(shape), shape.panel, shape.lanes, shape.rows
    copy, zero, zero_one = _copier(lanes), zero_tile(lanes), zero_tile(1)

    @inner
    def clear(target, count):
        whole = count // lanes * lanes
        for at in range(0, whole, lanes):
            zero(target + 4 * at)
        for at in range(whole, count):
            zero_one(target + 4 * at)

    @inner
    def with_border(layer, source, top, lines, line_bytes, first, last, out):
        """Lines from `top` on with what lies outside the map as 0, `line_bytes` each; the bytes from `first` to `last`."""
        height, width, pixel_bytes = get(layer, fields.HEIGHT), get(layer, fields.WIDTH), get(layer, fields.PIXEL_BYTES)
        left = get(layer, fields.LEFT) * pixel_bytes
        begin = min(max(first, left), last)
        end = max(begin, min(left + width * pixel_bytes, last))
        for y in range(top, top + lines):
            if y < 0 or y >= height:
                clear(out + first, (last - first) >> 2)
            else:
                clear(out + first, (begin - first) >> 2)
                copy(source + y * width * pixel_bytes + begin - left, out + begin, (end - begin) >> 2)
                clear(out + end, (last - end) >> 2)
            out += line_bytes

    @inner
    def apart(layer, top, lines):
        """From which output of each line on, and up to which, windows are read where they lie: of a strip that reads so many
        lines.  The others are so many that they fill tiles."""
        begin, end, across = *whole_columns(layer), get(layer, fields.ACROSS)
        low = np.int64(0) if begin == 0 else most
        high = across if end == across else across - most
        if top < 0 or top + lines > get(layer, fields.HEIGHT) or low < begin or high > end or high - low < most:
            return np.int64(0), np.int64(0)
        return low, high

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
        pixels = get(layer, fields.OUT_BYTES) // get(layer, fields.STEP_BYTES)
        padded = get(layer, fields.ROW_BYTES)
        out_step, line_bytes = get(layer, fields.STEP_BYTES), get(layer, fields.WIDTH) * pixel_bytes
        out_line, left = across * out_step, get(layer, fields.LEFT) * pixel_bytes
        reach = (kernel_across - 1) * step_across * pixel_bytes + pixel_bytes
        # Taps side by side are one run.
        middle, middle_step, run = kernel_across, step_across * pixel_bytes, tap_bytes >> 2
        if step_across == 1 and tap_bytes == pixel_bytes:
            middle, run = np.int64(1), run * kernel_across
        for task in range(first_task, last_task):
            part = task % parts
            first = task // parts * strip
            last = min(first + strip, down)
            for r in range(rows):
                top = first * stride_down - get(layer, fields.TOP)
                lines = (last - 1 - first) * stride_down + (kernel_down - 1) * step_down + 1
                here = source + r * get(layer, fields.IN_BYTES)
                low, high = np.int64(0), across
                # What is inside begins on a cache line.
                copied = prepared + (-left & 63)
                if padded != 0:
                    low, high = apart(layer, top, lines)
                    begin, end = np.int64(0), (low - 1) * step + reach
                    for side in range(low == 0, 1 + (high < across)):
                        if side == 1:
                            begin, end = high * step, padded
                        with_border(layer, here, top, lines, padded, begin, end, copied)
                here += top * line_bytes - left
                out = target + r * get(layer, fields.OUT_BYTES) + first * out_line
                for group in range(groups):
                    for p in range(part * panels // parts, (part + 1) * panels // parts):
                        at = p * width
                        panel = get(layer, fields.PANEL) + (group * panels + p) * panel_bytes
                        count, at = min(width, neurons - at), group * neurons + at
                        for line in range(last - first):
                            column, end = np.int64(0), min(across, pixels - (first + line) * across)
                            while column < end:
                                begin, own_bytes, stop = copied, padded, end
                                if column < low:
                                    stop = min(low, end)
                                elif column < high:
                                    begin, own_bytes, stop = here, line_bytes, min(high, end)
                                multiply(
                                    layer, begin + group * tap_bytes + line * stride_down * own_bytes + column * step, step,
                                    stop - column, kernel_down, step_down * own_bytes, middle, middle_step, run,
                                    panel, at, count, scratch, out + line * out_line + column * out_step + 4 * at,
                                )  # fmt: skip
                                column = stop

    return compute_float_maps

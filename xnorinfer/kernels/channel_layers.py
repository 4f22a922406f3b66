"""Layers that take each channel of a map of float32 by itself, compiled: depthwise convolutions and pools."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from xnorinfer.kernels import fields
from xnorinfer.kernels.count_rows import call_finish_rows
from xnorinfer.kernels.float_tiles import average_tile, depthwise_tile, largest_tile
from xnorinfer.kernels.map_layers import span
from xnorinfer.kernels.vector_ir import get, inner, store_single

#: Outputs side by side that a tile computes together.
NEIGHBOURS = 4


@inner
def whole_columns(layer):
    """From which output of a line on, and up to which, windows lie inside the map from left to right."""
    across, stride, padding = get(layer, fields.ACROSS), get(layer, fields.STRIDE_ACROSS), get(layer, fields.LEFT)
    begin = min(across, (padding + stride - 1) // stride)
    reach = (get(layer, fields.KERNEL_ACROSS) - 1) * get(layer, fields.DILATION_ACROSS)
    last = get(layer, fields.WIDTH) - 1 - reach + padding  # where a window begins at most, with the padding before the map
    end = begin
    if last >= 0:
        end = max(begin, min(across, last // stride + 1))
    return begin, end


def _windows(tile: Callable[[int, int], Any], lanes: int) -> Any:
    """windows(layer, source, line, first, last, channel, count, own, own_line_step, own_step, number, out, out_step): outputs
    first <= column < last of a line, of channels from one on; tile: of so many lanes and outputs side by side (`float_tiles`).

    own: of the first channel and tap.  number: 0 for the taps inside.
    """
    several, wide, single = tile(lanes, NEIGHBOURS), tile(lanes, 1), tile(1, 1)

    @inner
    def windows(layer, source, line, first, last, channel, count, own, own_line_step, own_step, number, out, out_step):
        width, pixel_bytes = get(layer, fields.WIDTH), get(layer, fields.PIXEL_BYTES)
        stride, padding = get(layer, fields.STRIDE_ACROSS), get(layer, fields.LEFT)
        line_step = get(layer, fields.DILATION_DOWN) * width * pixel_bytes
        tap_step, step = get(layer, fields.DILATION_ACROSS) * pixel_bytes, stride * pixel_bytes
        y = line * get(layer, fields.STRIDE_DOWN) - get(layer, fields.TOP)
        top, bottom = span(y, get(layer, fields.KERNEL_DOWN), get(layer, fields.DILATION_DOWN), get(layer, fields.HEIGHT))
        lines = bottom - top
        source += (y * width * pixel_bytes) + top * line_step + 4 * channel
        own += top * own_line_step
        begin, end = whole_columns(layer)
        begin, end = max(begin, first), min(end, last)
        column = first
        while column < last:
            some = np.int64(1)
            if column >= begin and column < end and end - begin >= NEIGHBOURS:
                # The last ones are computed with some of those before again.
                column, some = min(column, end - NEIGHBOURS), np.int64(NEIGHBOURS)
            x = column * stride - padding
            left, right = span(x, get(layer, fields.KERNEL_ACROSS), get(layer, fields.DILATION_ACROSS), width)
            at, of, to, taps = source + x * pixel_bytes + left * tap_step, own + left * own_step, out, right - left
            to += (column - first) * out_step
            divisor = number
            if number == 0:
                divisor = lines * taps
            if lines <= 0 or taps <= 0:  # of sums of what is outside
                for k in range(some):
                    for c in range(count):
                        store_single(to + k * out_step + 4 * c, np.float32(0))
            elif count < lanes:
                for k in range(some):
                    for c in range(0, 4 * count, 4):
                        single(
                            at + k * step + c, step, lines, line_step, taps, tap_step,
                            of + c, own_line_step, own_step, divisor, to + k * out_step + c, out_step,
                        )  # fmt: skip
            else:
                for c in range(0, count, lanes):
                    by = 4 * min(c, count - lanes)
                    if some > 1:
                        several(
                            at + by, step, lines, line_step, taps, tap_step,
                            of + by, own_line_step, own_step, divisor, to + by, out_step,
                        )  # fmt: skip
                    else:
                        wide(
                            at + by, step, lines, line_step, taps, tap_step,
                            of + by, own_line_step, own_step, divisor, to + by, out_step,
                        )  # fmt: skip
            column += some

    return windows


def _finished(windows: Any) -> Any:
    """finished(layer, source, line, own, own_line_step, own_step, number, out, scratch): a line of outputs of all channels, and
    what follows; own: of the first channel and tap."""

    @inner
    def finished(layer, source, line, own, own_line_step, own_step, number, out, scratch):
        across, channels, stride = get(layer, fields.ACROSS), get(layer, fields.NEURONS), get(layer, fields.STEP_BYTES)
        block = scratch + fields.BLOCK_AT
        # Few pixels of many channels, so that their lines stay in the cache.
        step = np.int64(fields.BLOCK_MOST_ROWS)
        if channels > 64:
            step = np.int64(2 * NEIGHBOURS)
        for first in range(0, across, step):
            last = min(across, first + step)
            for channel in range(0, channels, 64):
                count = min(64, channels - channel)
                windows(
                    layer, source, line, first, last, channel, count, own + 4 * channel, own_line_step, own_step, number,
                    block, fields.BLOCK_STEP,
                )  # fmt: skip
                to = out + (line * across + first) * stride + 4 * channel
                finish = get(layer, fields.FINISH)
                call_finish_rows(finish, layer, channel, count, last - first, scratch, to, block, fields.BLOCK_STEP)

    return finished


def make_compute_depthwise(lanes: int, native_fma: bool) -> Callable[..., None]:
    """Lines of a map of which each channel has weights of its own, (taps, channels) f32 at PANEL, and the float32 steps."""
    finished = _finished(_windows(partial(depthwise_tile, native_fma), lanes))

    def compute_depthwise(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        own_step = 4 * get(layer, fields.NEURONS)
        line_step = get(layer, fields.KERNEL_ACROSS) * own_step
        for r in range(rows):
            for line in range(first_line, last_line):
                out = target + r * get(layer, fields.OUT_BYTES)
                finished(layer, source, line, get(layer, fields.PANEL), line_step, own_step, 1, out, scratch)
            source += get(layer, fields.IN_BYTES)

    return compute_depthwise


def make_pool_largest(lanes: int) -> Callable[..., None]:
    """Lines of the largest of float32, or, of the channels of which MIRRORED, i32, has the sign's bit, the smallest; NaN where
    there is one."""
    return _make_pool(_windows(largest_tile, lanes))


def make_pool_average(lanes: int) -> Callable[..., None]:
    """Lines of averages of float32: sums in float64, line by line, divided and rounded once."""
    return _make_pool(_windows(average_tile, lanes))


def _make_pool(windows: Any) -> Callable[..., None]:
    finished = _finished(windows)

    def pool(layer, source, target, rows, first_line, last_line, scratch, prepared, shifts):
        for r in range(rows):
            for line in range(first_line, last_line):
                out = target + r * get(layer, fields.OUT_BYTES)
                finished(layer, source, line, get(layer, fields.MIRRORED), 0, 0, get(layer, fields.DIVISOR), out, scratch)
            source += get(layer, fields.IN_BYTES)

    return pool

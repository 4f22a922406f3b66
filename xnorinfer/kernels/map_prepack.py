"""Layers over maps as the kernels want them: rows of `prepack` for what a window is to them, and around them a row that says
how windows become rows, which pixels are computed together, and how that is cut into tasks.

Border classes: see `prepack`; which class an output pixel has is the same for all neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import WORD_BITS, bitpack, words_for
from xnorinfer.kernels import Kernel, fields, layout
from xnorinfer.kernels.prepack import FLOAT_WORK, INPUT_WORK, Row, panels_of

#: Pixels of a strip at most, and bytes that its prepared rows should stay under.
STRIP_PIXELS = 128
STRIP_BYTES = 1 << 16
#: Pixels of a strip of a float layer about.
FLOAT_PIXELS = 448
#: Rows that some tile computes together.
TILE_ROWS = 8


@dataclass(frozen=True)
class Geometry:
    """Of a window over a map, in pixels: (down, across) each.  padding: before the first line and column."""

    size: tuple[int, int]
    outputs: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    @property
    def pixels(self) -> int:
        """Of the map that it gives."""
        return self.outputs[0] * self.outputs[1]

    @property
    def pointwise(self) -> bool:
        """Whether each pixel is one window, in order."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.size == self.outputs and self.padding == (0, 0)

    def fields(self) -> Row:
        names = (
            (fields.HEIGHT, fields.WIDTH, self.size),
            (fields.DOWN, fields.ACROSS, self.outputs),
            (fields.KERNEL_DOWN, fields.KERNEL_ACROSS, self.kernel),
            (fields.STRIDE_DOWN, fields.STRIDE_ACROSS, self.stride),
            (fields.DILATION_DOWN, fields.DILATION_ACROSS, self.dilation),
            (fields.TOP, fields.LEFT, self.padding),
        )
        return {field: value for down, across, pair in names for field, value in ((down, pair[0]), (across, pair[1]))}


@dataclass(frozen=True)
class Taps:
    """What a tap takes of a pixel.

    size: bits, or bytes, of a group of channels.  fill: what it is outside the map, as a byte or 0 or -1 for all bits.
    """

    size: int
    bits: bool
    fill: int = 0


def strips(
    kernel: Kernel,
    rows: Sequence[Row],
    geometry: Geometry,
    pixel_bytes: int,
    in_bits: bool,
    taps: Taps | None = None,
    classes: NDArray[np.int64] | None = None,
    planes: int = 1,
    alone: bool = False,
) -> tuple[Row, list[Row]]:
    """A row for the map, and those of its strips.

    rows: of each group of channels in order, for all neurons of it.  pixel_bytes: of an input pixel.  in_bits: whether the
    outputs are bits, else float32.  taps: None where the pixels are the rows.  classes: (outputs down, outputs across), the
    border class of every output.  planes: of levels, a whole map each.  alone: whether strips are of one sample.
    """

    def number(field: int, otherwise: int = 0) -> int:
        """Of the first row; what does not count neurons' own numbers is the same in all."""
        value = rows[0].get(field, otherwise)
        assert not isinstance(value, np.ndarray)
        return int(value)

    pixels, parts = geometry.pixels, len(rows)
    neurons, groups = number(fields.NEURONS), number(fields.GROUPS)
    prepared = number(fields.PREPARED_BYTES)
    merged = in_bits and parts > 1 and neurons % WORD_BITS != 0
    out_bytes = 8 * words_for(parts * neurons) if in_bits else 4 * parts * neurons

    of_row = prepared + number(fields.PART_BYTES)
    wanted = max(TILE_ROWS, min(number(fields.SUB_ROWS, STRIP_PIXELS), STRIP_BYTES // max(1, of_row)))
    samples, strip = 1 if alone or planes > 1 else max(1, wanted // pixels), pixels
    if pixels > wanted:
        # Of about one size, in whole tiles.
        strip = -(-pixels // (TILE_ROWS * -(-pixels // wanted))) * TILE_ROWS
    most, tasks = samples * strip, -(-pixels // strip)
    taken = _Gathered() if taps is None else _gathered(kernel, taps, number(fields.IN_BYTES), prepared, pixels, samples)
    if taps is not None and taps.bits and kernel.in_planes(taps.size):
        # An odd number of cache lines from plane to plane, so that not all begin in the same few sets of the cache; and a plane
        # for the gather itself.
        word_bytes = number(fields.WORD_BYTES)
        plane = layout.whole_lines(word_bytes * most) | layout.ALIGN_BYTES
        prepared, of_row = word_bytes, number(fields.PART_BYTES) - (-plane * (number(fields.WORDS) + 1) // most)
        rows = [row | {fields.PREPARED_BYTES: word_bytes, fields.WORD_BYTES: plane} for row in rows]
        taken = replace(taken, row_bytes=word_bytes, plane_bytes=plane)
    raw_at = 0 if taken.prepares else layout.whole_lines(of_row * most)
    merged_at = layout.whole_lines(of_row * most) if taken.prepares else raw_at + layout.whole_lines(taken.row_bytes * most)
    of_pixels = np.zeros(pixels, np.int64) if classes is None else classes.reshape(-1) * groups
    work = pixels * parts * (number(fields.WORK) * groups + INPUT_WORK * taken.row_bytes)
    outer = geometry.fields() | {
        fields.COMPUTE: kernel.compute_strips(),
        fields.CHANNEL_GROUPS: parts,
        fields.NEURONS: parts * neurons,
        fields.DEPTH: number(fields.DEPTH),
        fields.GATHER: taken.function,
        fields.GATHER_PREPARES: int(taken.prepares),
        fields.ROW_BYTES: taken.row_bytes,
        fields.PLANE_BYTES: taken.plane_bytes,
        fields.RAW_AT: raw_at,
        fields.MERGED_AT: merged_at if merged else 0,
        fields.PARTS: 1,
        fields.GROUPS: tasks,
        fields.STRIP: strip,
        fields.STRIP_BYTES: merged_at + (8 * groups * most * planes if merged else 0),
        fields.SUB_ROWS: samples,
        fields.PIXEL_BYTES: pixel_bytes,
        fields.IN_BYTES: geometry.size[0] * geometry.size[1] * pixel_bytes,
        fields.OUT_BYTES: pixels * out_bytes * planes,
        fields.LEVEL_BYTES: pixels * out_bytes,
        fields.WORK: max(1, work // tasks),
        fields.SHIFTS: layout.kept(np.tile(of_pixels, samples)),
    }
    if taps is not None:
        outer |= {fields.CHANNELS: taps.size, fields.FILL: taps.fill}
    given = {
        fields.SUB_ROWS: most,
        fields.OUT_BYTES: 8 * groups if merged else out_bytes,
        fields.STEP_BYTES: out_bytes,
        fields.LEVEL_BYTES: 8 * groups * most if merged else pixels * out_bytes,
    }
    return outer, [row | given for row in rows]


def over_levels(
    kernel: Kernel,
    layers: Sequence[tuple[Row, Row]],
    geometry: Geometry,
    pixel_bytes: int,
    planes: int,
    given: int,
    channels: int | None,
    outside: int,
) -> tuple[Row, list[Row]]:
    """A row for a binary layer over levels, and those of `level_layers.make_level_strips`.

    layers: of each group of channels, as `prepack.of_planes` and `prepack.levels` give them, the latter with its steps.
    pixel_bytes: of a plane.  given: planes of what it gives, 1 for bits, 0 for numbers.  channels: of a tap; None where the
    pixels are the rows, or vectors.  outside: the code beyond the map.
    """
    pixels = geometry.pixels
    taps = None if channels is None else Taps(channels, bits=True)
    rows = [counting for counting, _ in layers]
    outer, counted = strips(kernel, rows, geometry, pixel_bytes, False, taps, alone=taps is None and pixels > 1)
    region, most = (layout.whole_lines(int(number)) for number in (outer[fields.STRIP_BYTES], counted[0][fields.SUB_ROWS]))  # type: ignore[arg-type]
    of_planes = {name: planes * outer[name] for name in (fields.IN_BYTES, fields.WORK)}
    neurons = int(outer[fields.NEURONS])  # type: ignore[arg-type]
    of_pixel = 8 * words_for(neurons) if given else 4 * neurons
    of_sample = max(1, given) * of_pixel
    limits = layers[0][1].get(fields.LIMITS)
    outer |= of_planes | {
        fields.COMPUTE: kernel.level_strips(planes, given, 8 * limits.itemsize if isinstance(limits, np.ndarray) else 64),
        fields.OUT_BYTES: pixels * of_sample,
        fields.LEVEL_BYTES: region,
        fields.STRIP_BYTES: planes * (region + most * fields.COUNTS_BYTES),
        fields.MERGED_AT: int(given > 0 and len(layers) > 1 and neurons // len(layers) % WORD_BITS != 0),
    }
    of_counts: Row = {fields.OUT_BYTES: fields.COUNTS_BYTES}
    if pixels == 1 and taps is None:
        of_counts[fields.IN_BYTES] = planes * pixel_bytes
    given_pixel: Row = {fields.OUT_BYTES: of_pixel, fields.STEP_BYTES: of_pixel, fields.LEVEL_BYTES: pixels * of_pixel}
    inner = [
        row for one, (_, following) in zip(counted, layers, strict=True) for row in (one | of_counts, following | given_pixel)
    ]
    filled = [-1 if outside >> plane & 1 else 0 for plane in range(planes)]
    return outer, [*inner, *(outer | {fields.FILL: fill} for fill in filled)]


@dataclass(frozen=True)
class _Gathered:
    """How windows become rows: the function, bytes from row to row, whether they are prepared rows, and from word to word."""

    function: int = 0
    row_bytes: int = 0
    prepares: bool = False
    plane_bytes: int = 0


def _gathered(kernel: Kernel, taps: Taps, row_bytes: int, prepared_bytes: int, pixels: int, samples: int) -> _Gathered:
    """row_bytes: of a row as it is."""
    if not taps.bits:
        return _Gathered(kernel.gather_bytes(), row_bytes)
    function, prepares = kernel.gather_bits(taps.size, samples == 1 or pixels % 2 == 0)
    return _Gathered(function, prepared_bytes if prepares else row_bytes, prepares)


def pool_bits(kernel: Kernel, geometry: Geometry, falling: NDArray[np.bool_]) -> Row:
    """OR of bits, AND of the channels that are `falling`, (channels,) bool."""
    words = bitpack(falling[None])[0]
    return _pool(geometry, len(falling), 8 * len(words)) | {
        fields.COMPUTE: kernel.pool_bits(),
        fields.MIRRORED: layout.kept(words.view(np.int64)),
    }


def pool_levels(kernel: Kernel, geometry: Geometry, falling: NDArray[np.bool_], planes: int) -> Row:
    """The largest of codes, the smallest of the channels that are `falling`, (channels,) bool."""
    row = pool_bits(kernel, geometry, falling)
    of_planes = {name: planes * row[name] for name in (fields.IN_BYTES, fields.OUT_BYTES, fields.WORK)}
    return row | of_planes | {fields.COMPUTE: kernel.pool_levels(planes)}


def coded_bytes(kernel: Kernel, size: tuple[int, int], channels: int, codes: NDArray[np.uint8]) -> Row:
    """Bytes as others, by tables (256, channels), of maps of `size` lines and columns, or of one pixel."""
    return _pool(Geometry(size, size), channels, channels) | {
        fields.COMPUTE: kernel.coded_bytes(),
        fields.PANEL: layout.kept(codes),
    }


def level_numbers(kernel: Kernel, size: tuple[int, int], channels: int, planes: int, values: NDArray[np.float32]) -> Row:
    """What codes stand for, (codes,) float32, of maps of `size` lines and columns, or of one pixel."""
    pixel_bytes = 8 * words_for(channels)
    return _pool(Geometry(size, size), channels, 4 * channels) | {
        fields.COMPUTE: kernel.level_numbers(planes),
        fields.CHANNELS: pixel_bytes,
        fields.IN_BYTES: planes * size[0] * size[1] * pixel_bytes,
        fields.PANEL: layout.filled(values, 1 << planes, 0, np.float32),
    }


def pool_largest(kernel: Kernel, geometry: Geometry, falling: NDArray[np.bool_]) -> Row:
    """The largest of float32, the smallest of the channels that are `falling`, (channels,) bool."""
    return _pool(geometry, len(falling), 4 * len(falling)) | {
        fields.COMPUTE: kernel.pool_largest(),
        fields.FINISH: kernel.finish_rows(),
        fields.MIRRORED: layout.kept(np.where(falling, np.uint32(1 << 31), np.uint32(0))),
    }


def pool_average(kernel: Kernel, geometry: Geometry, channels: int, padded: bool) -> Row:
    """Averages of float32.  padded: over what lies outside, too, as zeros."""
    return _pool(geometry, channels, 4 * channels) | {
        fields.COMPUTE: kernel.pool_average(),
        fields.FINISH: kernel.finish_rows(),
        fields.DIVISOR: geometry.kernel[0] * geometry.kernel[1] if padded else 0,
    }


def depthwise(kernel: Kernel, geometry: Geometry, weights: NDArray[np.float32]) -> Row:
    """A float convolution of each channel by itself; steps are to follow.  weights: (channels, taps)."""
    channels, taps = weights.shape
    return _pool(geometry, channels, 4 * channels) | {
        fields.COMPUTE: kernel.compute_depthwise(),
        fields.PANEL: layout.kept(weights.T),
        fields.WORK: geometry.outputs[1] * taps * channels * FLOAT_WORK,
    }


def floats(kernel: Kernel, geometry: Geometry, weight: NDArray[np.float32], groups: int, channels: int) -> Row:
    """A float convolution; steps are to follow.  weight: (neurons, depth), of as many `groups` as the channels are in."""
    neurons, depth = weight.shape
    run = channels // groups * (geometry.kernel[1] if groups == 1 and geometry.dilation[1] == 1 else 1)
    shape = kernel.floats(neurons // groups, run)
    panels = [layout.float_panels(part, shape.panel) for part in np.split(weight, groups)]
    count, (height, width) = geometry.pixels, geometry.size
    pixel_bytes = 4 * channels
    if geometry.pointwise:
        # Pixels one behind the other, in lines of whole tiles, the last one shorter.
        across = shape.rows * -(-count // (shape.rows * -(-count // FLOAT_PIXELS)))
        height, width = -(-count // across), across
        geometry, lines = Geometry((height, width), (height, width)), 1
    else:
        lines = -(-FLOAT_PIXELS // geometry.outputs[1])
    reaches = [
        (outputs - 1) * stride + (kernel - 1) * dilation + 1
        for outputs, stride, kernel, dilation in zip(
            geometry.outputs, geometry.stride, geometry.kernel, geometry.dilation, strict=True
        )
    ]
    outside = any(geometry.padding) or reaches[0] > height or reaches[1] > width
    line_bytes = layout.whole_lines(reaches[1] * pixel_bytes) if outside else 0
    copied = (lines - 1) * geometry.stride[0] + (geometry.kernel[0] - 1) * geometry.dilation[0] + 1
    tasks = -(-geometry.outputs[0] // lines)
    return (
        geometry.fields()
        | panels_of(layout.kept(np.concatenate(panels)))
        | {
            fields.COMPUTE: kernel.compute_float_maps(shape),
            fields.DEPTH: depth,
            fields.NEURONS: neurons,
            fields.GROUPS: tasks,
            fields.CHANNEL_GROUPS: groups,
            fields.CHANNELS: pixel_bytes // groups,
            fields.PANELS: len(panels[0]),
            fields.PIXEL_BYTES: pixel_bytes,
            fields.IN_BYTES: (count if geometry.pointwise else height * width) * pixel_bytes,
            fields.OUT_BYTES: count * neurons * 4,
            fields.ROW_BYTES: line_bytes,
            fields.STRIP: lines,
            fields.STRIP_BYTES: copied * line_bytes + layout.ALIGN_BYTES,
            fields.PARTS: 1,
            fields.WORK: max(1, count * neurons * depth * FLOAT_WORK // tasks),
        }
    )


def joined(
    kernel: Kernel,
    size: tuple[int, int],
    channels: int,
    pixel_bytes: int,
    row_bytes: int,
    in_bits: bool,
    segments: Sequence[Sequence[int]],
) -> Row:
    """Values side by side, of maps of `size` lines and columns, or of one pixel.

    pixel_bytes: of what it gives; row_bytes: of a sample of the first value.  segments: as `fields` has them.
    """
    down, across = size
    return {
        fields.COMPUTE: kernel.join(),
        fields.NEURONS: channels,
        fields.DEPTH: channels,
        fields.GROUPS: down,
        fields.ACROSS: across,
        fields.PIXEL_BYTES: pixel_bytes,
        fields.IN_BYTES: row_bytes,
        fields.OUT_BYTES: down * across * pixel_bytes,
        fields.FILL: int(in_bits),
        fields.SEGMENTS: len(segments),
        fields.SEGMENTS_AT: layout.kept(np.array(segments, np.int64)),
        fields.WORK: across * pixel_bytes,
    }


def moved(
    kernel: Kernel,
    geometry: Geometry,
    channels: int,
    pixels: tuple[int, int],
    outside: NDArray[Any],
    order: NDArray[Any] | None,
) -> Row:
    """Pixels in other places.

    channels: that are given.  pixels: bytes of one that is read and of one that is given, of a plane of levels.  outside: what
    one outside the map is, (planes, words) of bits or (1, channels) float32.
    order: (channels,), which of its channels each is, -1: that of `outside`; None: they are all, in order.
    """
    planes = len(outside)
    return _pool(geometry, channels, pixels[1]) | {
        fields.COMPUTE: kernel.move(),
        fields.CHANNELS: pixels[0],
        fields.GROUPS: planes * geometry.outputs[0],
        fields.IN_BYTES: planes * geometry.size[0] * geometry.size[1] * pixels[0],
        fields.OUT_BYTES: planes * geometry.pixels * pixels[1],
        fields.FILL: int(outside.dtype == np.uint64),
        fields.PANEL: layout.kept(outside),
        fields.SEGMENTS_AT: 0 if order is None else layout.kept(order.astype(np.int64)),
    }


def _pool(geometry: Geometry, channels: int, pixel_bytes: int) -> Row:
    (height, width), (down, across) = geometry.size, geometry.outputs
    kernel_down, kernel_across = geometry.kernel
    return geometry.fields() | {
        fields.DEPTH: channels,
        fields.NEURONS: channels,
        fields.GROUPS: down,
        fields.PIXEL_BYTES: pixel_bytes,
        fields.IN_BYTES: height * width * pixel_bytes,
        fields.OUT_BYTES: down * across * pixel_bytes,
        fields.WORK: across * kernel_down * kernel_across * pixel_bytes,
    }

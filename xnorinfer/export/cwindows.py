"""Convolutions and pools of a packed network as C: what stands around the functions that a dense layer calls as well.

A window's inputs are gathered into a row, output by output, and the row is a sample of a dense layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitpack, words_for
from xnorinfer.errors import unhandled
from xnorinfer.export.cbody import OF_NUMBERS, Body, Place, constant_text, float_text
from xnorinfer.float32 import at_most
from xnorinfer.net.values import PixelInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.packed import Dot, Grades, Moved, Outside, Pool, Reads, Threshold, outside_of


def read_as(op: Dot) -> Reads:
    """What a layer reads in C, where codes of levels are summed as pixels are."""
    return "pixels" if op.reads == "levels" else op.reads


def mapping_of(op: Dot, body: Body) -> tuple[float, float, float]:
    """What the sums of pixels, or of codes, stand for: slope, intercept, divisor."""
    if op.reads == "levels":
        return 1.0, float(op.low), 1.0
    mapping = body.packed.input
    assert isinstance(mapping, PixelInput)
    return mapping.slope, mapping.intercept, mapping.divisor


def grades_of(limits: NDArray[Any], body: Body, place: Place, at: str = "") -> list[str]:
    """The limits of codes, (top, ..., neurons), as C expressions: where they begin, from code to code, how many codes."""
    kind = "float" if limits.dtype == np.float32 else "int32_t"
    array = body.array(f"{place.prefix}_limits", kind, limits, constant_text(place.node, place.read))
    return [array + at, str(limits[0].size), str(len(limits))]


def over_outputs(down: int, across: int, statements: Sequence[str]) -> Iterator[str]:
    """Statements for every output (y, x) of a window, which is number `at`."""
    yield f"for (size_t y = 0, at = 0; y < {down}; y++)"
    yield f"    for (size_t x = 0; x < {across}; x++, at++) {{"
    yield from (f"        {line}" for line in statements)
    yield "    }"


def _window(window: Window, body: Body, place: Place) -> str:
    """A C window over the map that the node reads; its address."""
    height, width, channels = (1, 1, *place.read.shape)[-3:]
    numbers = (height, width, channels, *window.size, *window.stride, *window.dilation, window.padding[0], window.padding[2])
    name = f"{body.name}_{place.prefix}_window"
    listed = ", ".join(str(number) if number >= 0 else f"(size_t){number}" for number in numbers)
    body.arrays.append(f"static const {body.name}_window {name} = {{{listed}}};\n")
    return f"&{name}"


def convolution(op: Dot, window: Window, body: Body, place: Place) -> Iterator[str]:
    """The statements of a layer with a window."""
    down, across, neurons = place.gives.shape
    channels, group = place.read.shape[2] // op.groups, neurons // op.groups
    outside = outside_of(op, place.read)
    each = "" if op.groups == 1 else f" + g * {group}"
    own, last = _arguments(op, outside, body, place, each)
    reads = read_as(op)
    kind = "uint64_t" if reads == "bits" else OF_NUMBERS[reads]
    # Nothing else is held while a row is in use.
    size = words_for(op.depth) if reads == "bits" else op.depth
    row = body.room(f"row_of_{reads}", kind, size)
    gather = body.use(f"{reads}_of_window")
    first = "0" if op.groups == 1 else f"g * {channels}"
    fill = {"bits": f", {int(op.pad == 1)}", "pixels": f", {op.outside}"}.get(reads, "")
    lines = [f"{gather}({place.source}, {_window(window, body, place)}, y, x, {first}, {channels}{fill}, {row});"]
    function = body.use(last)
    if op.gives in ("reals", "levels"):
        lines.append(f"{function}({row}, {op.depth}, {', '.join(own)}, {group}, {place.target} + at * {neurons}{each});")
    elif op.groups == 1:
        lines.append(f"{function}({row}, {op.depth}, {', '.join(own)}, {group}, {place.target} + at * {words_for(neurons)});")
    else:
        part = body.room("part_of_bits", "uint64_t", words_for(group))
        lines.append(f"{function}({row}, {op.depth}, {', '.join(own)}, {group}, {part});")
        move = body.use("move_bits")
        lines.append(f"{move}({part}, 0, {group}, {place.target} + at * {words_for(neurons)}, g * {group});")
    if op.groups > 1:
        lines = [f"for (size_t g = 0; g < {op.groups}; g++) {{", *(f"    {line}" for line in lines), "}"]
        if op.gives == "bits":
            yield f"for (size_t k = 0; k < {place.gives.words}; k++)"
            yield f"    {place.target}[k] = 0;"
    yield from over_outputs(down, across, lines)


def _arguments(op: Dot, outside: Outside | None, body: Body, place: Place, each: str) -> tuple[list[str], str]:
    """The arrays of a layer as C expressions for output `at` and group `g`, and the function that takes them."""
    group = op.neurons // op.groups
    count = words_for(op.depth) if op.binary else op.depth
    words = op.weights.reshape(op.groups, group, -1).transpose(0, 2, 1)
    name, words_are = ("bits", "uint64_t") if op.binary else ("weights", "float")
    weights = body.array(f"{place.prefix}_{name}", words_are, words, place.title)
    own = [weights if op.groups == 1 else f"{weights} + g * {group * count}"]
    at = each
    if outside is not None and len(outside.inputs) > 1:
        kind = "uint16_t" if len(outside.inputs) <= 1 << 16 else "uint32_t"
        of = body.array(f"{place.prefix}_borders", kind, outside.of, "Border class of every output")
        at = f" + {of}[at] * {op.neurons}{each}"

    def by_class(name: str, kind: str, values: NDArray[Any], comment: str = "") -> str:
        return body.array(f"{place.prefix}_{name}", kind, values, comment) + at

    if isinstance(op.output, Grades):
        limits = at_most(op.output.limits)
        if op.reads == "bits" and outside is not None:
            limits = np.asarray(limits + outside.plus, np.int32)
        graded = grades_of(limits, body, place, at if limits.ndim == 3 else each)
        return [*own, *graded], f"{read_as(op)}_to_levels"
    if isinstance(op.output, Threshold):
        limits = at_most(op.output.limits)
        if op.reads == "bits" and outside is not None:  # what lies outside is counted, too
            limits = np.asarray(limits + outside.plus, np.int32)
        array = body.array(
            f"{place.prefix}_limits",
            "float" if op.reads == "reals" else "int32_t",
            limits,
            constant_text(place.node, place.read),
        )
        return [*own, array + (at if limits.ndim == 2 else each)], f"{read_as(op) if op.binary else 'floats'}_to_bits"
    if not op.binary:
        return own, "float_layer"
    if op.reads == "bits" and outside is not None:
        return [*own, by_class("base", "int32_t", outside.inputs + 2 * outside.plus)], "bits_to_dots"
    if op.reads in ("pixels", "levels"):
        slope, intercept, divisor = mapping_of(op, body)
        sums = 2 * np.bitwise_count(op.weights).sum(axis=1, dtype=np.int64)[None] - op.depth
        if outside is not None:
            sums = sums + (op.depth - outside.inputs) - 2 * outside.plus
        shifts = by_class("shifts", "double", intercept * sums)
        return [*own, float_text(slope), shifts, float_text(divisor)], "pixels_to_reals"
    return own, f"{op.reads}_to_reals"


def pool(op: Pool, body: Body, place: Place) -> Iterator[str]:
    """The statements of a pool."""
    down, across, channels = place.gives.shape
    bits = place.gives.kind == "bits"
    each = words_for(channels) if bits else channels
    target = f"{place.target} + at * {each}"
    window = _window(op.window, body, place)
    if op.kind == "average":
        lines = [f"{body.use('pool_average')}({place.source}, {window}, y, x, {int(op.padded)}, {target});"]
    elif op.kind == "max":
        falling = np.zeros(channels, np.bool_) if op.falling is None else op.falling
        values = bitpack(np.where(falling, 1, -1)[None])[0] if bits else falling.astype(np.uint8)
        array = body.array(f"{place.prefix}_falling", "uint64_t" if bits else "uint8_t", values)
        function = {"bits": "pool_bits", "levels": "pool_codes"}.get(place.gives.kind, "pool_largest")
        lines = [f"{body.use(function)}({place.source}, {window}, y, x, {array}, {target});"]
    else:
        raise unhandled("ccode", op.kind)
    yield from over_outputs(down, across, lines)


def moved(op: Moved, body: Body, place: Place) -> Iterator[str]:
    """The statements of numbers that are put elsewhere."""
    down, across, channels = (1, 1, *place.gives.shape)[-3:]
    bits = place.gives.kind == "bits"
    window = _window(Window((1, 1), padding=op.padding), body, place)
    order = body.array(f"{place.prefix}_channels", "int32_t", op.channels, "Which channel each is, -1: none")
    outside = {"bits": str(int(op.value > 0)), "levels": str(int(op.value))}.get(place.gives.kind, f"{float_text(op.value)}f")
    target = f"{place.target} + at * {words_for(channels) if bits else channels}"
    function = body.use({"bits": "move_signs", "levels": "move_codes"}.get(place.gives.kind, "move_reals"))
    yield from over_outputs(
        down, across, [f"{function}({place.source}, {window}, y, x, {order}, {channels}, {outside}, {target});"]
    )

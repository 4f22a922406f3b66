"""The statements of `NAME_scores`: what every op of a packed network is in C."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import words_for
from xnorinfer.export.cbody import INPUTS, Body, Place, constant_text, float_text, over_pixels, plain_text
from xnorinfer.export.cwindows import convolution, grades_of, mapping_of, moved, pool, read_as
from xnorinfer.float32 import at_most
from xnorinfer.graph import INPUT, Interpretation, users_of
from xnorinfer.packing.description import describe_layers
from xnorinfer.packing.packed import (
    PACKED_OPS,
    Affine,
    Binarize,
    Concat,
    Digitize,
    Dot,
    Elementwise,
    Grades,
    Mapped,
    Moved,
    Multiply,
    Pool,
    Threshold,
)


def calls_of(body: Body) -> Iterator[str]:
    """The statements of `net_scores`, in order; `body` notes which arrays, functions and buffers they need."""
    packed = body.packed
    last, values, users = len(packed.nodes) - 1, packed.values, users_of(packed.nodes)
    titles = {one["index"]: _title(one) for one in describe_layers(packed)}
    held = {INPUT: "input"}
    if packed.binarize is None:
        yield from _entering(body, held)
    for index, node in enumerate(packed.nodes):
        number = index - (packed.binarize is not None)
        busy = [held[other] for other in held if other == INPUT or max(users[other]) >= index]
        target = "scores" if index == last else body.buffer(values[index], busy)
        prefix, title = "input" if number < 0 else f"layer{number}", titles.get(number, plain_text(node.name))
        source, *others = (held[other] for other in node.inputs)
        read = packed.entry if node.inputs[0] == INPUT else values[node.inputs[0]]
        yield from _statements(node, body, Place(node, prefix, title, source, target, read, values[index], tuple(others)))
        held[index] = target


def _entering(body: Body, held: dict[int, str]) -> Iterator[str]:
    """From the input to what layers read of it."""
    if body.packed.entry.kind == "bits":
        entry = body.packed.entry
        held[INPUT] = body.buffer(entry, [])
        yield from body.pixel_by_pixel(entry, f"{body.use('input_threshold')}(input@, {{}}, 1, {held[INPUT]}@);")


#: Op -> its statements: (..., what they belong to, where the node stands).
_statements: Interpretation[[Body, Place], Iterator[str]] = Interpretation("ccode", PACKED_OPS)


@_statements.of(Binarize)
def _(op: Binarize, body: Body, place: Place) -> Iterator[str]:
    if op.threshold is not None:
        call = f"{body.use('input_threshold')}({place.source}@, {{}}, {op.threshold}, {place.target}@);"
        yield from body.pixel_by_pixel(place.read, call)
        return
    low, high = _ranges(op.limits, op.mirrored)
    raw = INPUT in place.node.inputs
    kind = INPUTS[body.packed.input.kind][0] if raw else "float"
    first = body.array(f"{place.prefix}_low", kind, low, f"{place.title}: inputs become 1 from low to high")
    second = body.array(f"{place.prefix}_high", kind, high)
    function = body.use("input_ranges" if raw else "real_ranges")
    yield from body.pixel_by_pixel(place.read, f"{function}({place.source}@, {{}}, {first}, {second}, {place.target}@);")


@_statements.of(Digitize)
def _(op: Digitize, body: Body, place: Place) -> Iterator[str]:
    low, high = (np.stack(ends) for ends in zip(*(_ranges(limits, op.mirrored) for limits in op.limits), strict=True))
    raw = INPUT in place.node.inputs
    kind = INPUTS[body.packed.input.kind][0] if raw else "float"
    first = body.array(f"{place.prefix}_low", kind, low, f"{place.title}: codes are in how many ranges from low to high")
    second = body.array(f"{place.prefix}_high", kind, high)
    function = body.use("input_codes" if raw else "real_codes")
    call = f"{function}({place.source}@, {{}}, {op.top}, {first}, {second}, {place.target}@);"
    yield from body.pixel_by_pixel(place.read, call, "levels")


@_statements.of(Dot)
def _(op: Dot, body: Body, place: Place) -> Iterator[str]:
    yield f"/* {place.title} */"
    if op.window is not None:
        yield from convolution(op, op.window, body, place)
    else:
        yield from _dense(op, body, place)
    if isinstance(op.output, Affine):
        yield from body.steps(op.output, place)


def _dense(op: Dot, body: Body, place: Place) -> Iterator[str]:
    function = body.use(f"{read_as(op)}_to_{op.gives}" if op.binary else "float_layer")
    weights = ("bits", "uint64_t") if op.binary else ("weights", "float")
    own = [body.array(f"{place.prefix}_{weights[0]}", weights[1], op.weights.T, place.title)]
    if isinstance(op.output, Threshold):
        kind = "float" if op.reads == "reals" else "int32_t"
        own.append(body.array(f"{place.prefix}_limits", kind, at_most(op.output.limits), constant_text(place.node, place.read)))
    elif isinstance(op.output, Grades):
        own += grades_of(at_most(op.output.limits), body, place)
    elif op.reads in ("pixels", "levels"):
        slope, intercept, divisor = mapping_of(op, body)
        plus = np.bitwise_count(op.weights).sum(axis=1, dtype=np.int64)
        shifts = body.array(f"{place.prefix}_shifts", "double", intercept * (2 * plus - op.depth))
        own += [float_text(slope), shifts, float_text(divisor)]
    yield f"{function}({place.source}, {op.depth}, {', '.join(own)}, {op.neurons}, {place.target});"


@_statements.of(Pool)
def _(op: Pool, body: Body, place: Place) -> Iterator[str]:
    yield f"/* {place.title} */"
    yield from pool(op, body, place)


@_statements.of(Elementwise)
def _(op: Elementwise, body: Body, place: Place) -> Iterator[str]:
    yield f"/* {place.title} */"
    yield f"for (size_t k = 0; k < {place.gives.width}; k++)"
    yield f"    {place.target}[k] = {place.source}[k];"
    yield from body.steps(op.steps, place)


@_statements.of(Concat)
def _(op: Concat, body: Body, place: Place) -> Iterator[str]:
    reads, gives = body.packed.reads_of(place.node), place.gives
    yield f"/* {place.title} */"
    pixels = gives.width // gives.shape[-1]
    if gives.kind == "bits":
        yield f"for (size_t k = 0; k < {gives.words}; k++)"
        yield f"    {place.target}[k] = 0;"
    begin = 0
    for source, read in zip((place.source, *place.others), reads, strict=True):
        # Of a map as a vector the pixels lie behind one another; bits of each begin a word.
        count = read.shape[-1] if gives.kind == "bits" or not op.flat else read.width
        at, to = f"{source} + at * {count}", f"{place.target} + at * {gives.shape[-1]} + {begin}"
        if gives.kind == "bits":
            at, place_of = f"{source} + at * {words_for(count)}", f"{begin} + at * {count}" if op.flat else f"{begin}"
            row = place.target if op.flat else f"{place.target} + at * {words_for(gives.shape[-1])}"
            yield from over_pixels(read.width // count, f"{body.use('move_bits')}({at}, 0, {count}, {row}, {place_of});")
        else:
            copy = body.use("copy" if gives.kind == "reals" else "copy_codes")
            yield from over_pixels(pixels, f"{copy}({at}, {count}, {to});")
        begin += read.width if op.flat else count


@_statements.of(Multiply)
def _(op: Multiply, body: Body, place: Place) -> Iterator[str]:
    second = body.packed.reads_of(place.node)[1]
    yield f"/* {place.title} */"
    yield f"for (size_t k = 0; k < {place.gives.width}; k++)"
    yield f"    {place.target}[k] = {place.source}[k];"
    if second.width == place.gives.width:
        yield f"{body.use('mul')}({place.target}, {place.others[0]}, {second.width});"
    else:
        call = f"{body.use('mul')}({place.target} + at * {second.width}, {place.others[0]}, {second.width});"
        yield from over_pixels(place.gives.width // second.width, call)


@_statements.of(Moved)
def _(op: Moved, body: Body, place: Place) -> Iterator[str]:
    yield f"/* {place.title} */"
    yield from moved(op, body, place)


@_statements.of(Mapped)
def _(op: Mapped, body: Body, place: Place) -> Iterator[str]:
    table = body.array(f"{place.prefix}_values", "float", op.values, f"{place.title}: what every pixel enters as")
    yield f"{body.use('mapped')}({place.source}, {place.read.width}, {table}, {op.values.shape[1]}, {place.target});"


def _ranges(every: NDArray[Any], mirrored: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """From where to where an input becomes bit 1, bounds included: two arrays (depth,), uint8 or float32."""
    if every.dtype == np.float32:
        infinite, most = np.full(every.shape, np.inf, np.float32), at_most(every)
        return np.where(mirrored, -most, -infinite), np.where(mirrored, infinite, most)
    limits = every.astype(np.int64)
    low = np.where(mirrored, -limits, 0).clip(0, 256)
    high = np.where(mirrored, 255, limits).clip(-1, 255)
    never = low > high
    return np.where(never, 1, low).astype(np.uint8), np.where(never, 0, high).astype(np.uint8)


def _title(layer: dict[str, Any]) -> str:
    what = f"{layer['inputs']} {layer['reads']} to {layer['neurons']} {layer['gives']}"
    return f"Layer {layer['index']} ({plain_text(layer['name'])}): {what}"

"""What must hold of a packed network before it is believed: compiled code takes its sizes and addresses as they are.

First parts of one's own (`plain_node`): classes of this package, Python's own numbers, numpy's own arrays.  Then what is wrong
with them (`model_problems`), op by op.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import pad_mask, words_for
from xnorinfer.errors import ArrayError, MalformedModelError, NetworkError, unhandled
from xnorinfer.float32 import single
from xnorinfer.graph import INPUT, Interpretation, Node, node_problems, users_of
from xnorinfer.memory import plain
from xnorinfer.net.values import Shape, is_finite_number
from xnorinfer.net.windows import MOST_SIZE, POOL_KINDS, Window, taps_by_axis
from xnorinfer.packing.packedops import (
    MOST_JOINED,
    MOST_TOP,
    MOST_TOP_OF_PIXELS,
    PACKED_OPS,
    STEP_NAMES,
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
    PackedOp,
    Pool,
    Threshold,
    Value,
    side_of,
    sized,
    value_of,
)

# ---------------------------------------------------------------- parts of one's own

_plain_op: Interpretation[[str], PackedOp] = Interpretation("PackedModel.plain", PACKED_OPS)


def place_of(nodes: Sequence[Any], index: int) -> str:
    """A node in messages: what binarizes inputs does not count as a layer."""
    leading = isinstance(getattr(nodes[0], "op", None), Binarize)
    return "input bits" if leading and not index else f"layer {index - leading} ({getattr(nodes[index], 'name', '')})"


def _require_type(where: str, value: object, *types: type) -> None:
    """Exactly one of these classes; one that inherits could answer anything when it is asked for a shape."""
    if type(value) not in types:
        raise MalformedModelError(f"{where}: {unhandled('PackedModel.check', value).problems[0]}")


def _plain(what: str, array: Any) -> NDArray[Any]:
    try:
        same = plain(array, what)
    except ArrayError as error:
        raise MalformedModelError(str(error)) from None
    same.flags.writeable = False
    return same


def plain_node(where: str, node: Any) -> Node[PackedOp]:
    _require_type(where, node, Node)
    try:
        op = _plain_op(node, where)
    except NetworkError as error:
        raise MalformedModelError(f"{where}: {error.problems[0]}") from None
    inputs = node.inputs
    return Node(node.name, op, tuple(inputs) if isinstance(inputs, tuple | list) else inputs)


@_plain_op.of(Binarize, Digitize)
def _(op: Binarize | Digitize, where: str) -> Binarize | Digitize:
    limits = _plain(f"{where}: limits", op.limits)
    if limits.ndim != (1 if isinstance(op, Binarize) else 2) or not limits.size:
        raise MalformedModelError(f"{where}: limits have shape {limits.shape}")
    return type(op)(limits, _plain(f"{where}: mirrored", op.mirrored))


@_plain_op.of(Dot)
def _(op: Dot, where: str) -> Dot:
    _require_type(where, op.output, Threshold, Grades, Affine)
    _require_type(where, op.reads, str)
    depth, groups, pad, low = (_whole(where, field, getattr(op, field)) for field in ("depth", "groups", "pad", "low"))
    window = None if op.window is None else _plain_window(where, op.window)
    output: Threshold | Grades | Affine
    if isinstance(op.output, Threshold):
        output = Threshold(_plain(f"{where}: limits", op.output.limits))
    elif isinstance(op.output, Grades):
        output = Grades(_plain(f"{where}: limits", op.output.limits))
        if output.limits.ndim < 2:
            raise MalformedModelError(f"{where}: limits have shape {output.limits.shape}")
    else:
        output = _plain_steps(where, op.output)
    weights = _plain(f"{where}: weights", op.weights)
    if weights.ndim != 2 or 0 in weights.shape or depth < 1:
        raise MalformedModelError(f"{where}: weights have shape {weights.shape}")
    return Dot(op.reads, depth, weights, output, window, groups, pad, low)


@_plain_op.of(Pool)
def _(op: Pool, where: str) -> Pool:
    _require_type(where, op.kind, str)
    _require_type(where, op.padded, bool)
    falling = None if op.falling is None else _plain(f"{where}: falling", op.falling)
    return Pool(op.kind, _plain_window(where, op.window), falling, op.padded)


@_plain_op.of(Elementwise)
def _(op: Elementwise, where: str) -> Elementwise:
    _require_type(where, op.steps, Affine)
    return Elementwise(_plain_steps(where, op.steps))


@_plain_op.of(Mapped)
def _(op: Mapped, where: str) -> Mapped:
    return Mapped(_plain(f"{where}: values", op.values))


@_plain_op.of(Concat)
def _(op: Concat, where: str) -> Concat:
    _require_type(where, op.flat, bool)
    return Concat(op.flat)


@_plain_op.of(Multiply)
def _(op: Multiply, where: str) -> Multiply:
    return Multiply()


@_plain_op.of(Moved)
def _(op: Moved, where: str) -> Moved:
    if not isinstance(op.padding, tuple | list) or len(op.padding) != 4:
        raise MalformedModelError(f"{where}: padding is {op.padding!r}, needed are 4 whole numbers")
    top, bottom, left, right = (_whole(where, "padding", number) for number in op.padding)
    if max(map(abs, (top, bottom, left, right))) > MOST_SIZE:
        raise MalformedModelError(f"{where}: padding is {op.padding!r}, needed are numbers up to {MOST_SIZE}")
    channels = _plain(f"{where}: channels", op.channels)
    if channels.ndim != 1 or not channels.size or channels.dtype != np.int32:
        raise MalformedModelError(f"{where}: channels are {channels.shape} {channels.dtype}, needed is (channels,) int32")
    beyond = isinstance(op.value, int) and not is_finite_number(op.value)
    if not isinstance(op.value, int | float | np.floating) or beyond:
        raise MalformedModelError(f"{where}: value is {op.value!r}, needed is a number")
    return Moved(channels, (top, bottom, left, right), float(op.value))


def _plain_steps(where: str, steps: Affine) -> Affine:
    if not isinstance(steps.ops, tuple | list):
        raise MalformedModelError(f"{where}: steps are {steps.ops!r}, needed is a tuple of their names")
    for step in steps.ops:
        _require_type(where, step, str)
    return Affine(tuple(steps.ops), _plain(f"{where}: steps", steps.values))


def _whole(where: str, what: str, value: object) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise MalformedModelError(f"{where}: {what} is {value!r}, needed is a whole number")
    return int(value)


def _plain_window(where: str, window: object) -> Window:
    """Raises MalformedModelError for what is no window, and for one that has no place on any map."""
    _require_type(where, window, Window)
    assert isinstance(window, Window)
    found = []
    for field, count, least in (("size", 2, 1), ("stride", 2, 1), ("dilation", 2, 1), ("padding", 4, 0)):
        numbers = getattr(window, field)
        if not isinstance(numbers, tuple | list) or len(numbers) != count:
            raise MalformedModelError(f"{where}: {field} of its window is {numbers!r}, needed are {count} whole numbers")
        own = tuple(_whole(where, f"{field} of its window", number) for number in numbers)
        if not all(least <= number <= MOST_SIZE for number in own):
            raise MalformedModelError(
                f"{where}: {field} of its window is {own}, needed are numbers from {least} to {MOST_SIZE}"
            )
        found.append(own)
    made = Window(*found)  # type: ignore[arg-type]
    (down, across), (top, bottom, left, right) = made.reach, made.padding
    if max(top, bottom) >= down or max(left, right) >= across:
        raise MalformedModelError(f"{where}: padding {made.padding} leaves nothing of its window of {down} x {across}")
    return made


def plain_shape(shape: object) -> Shape:
    """The shape of an input.  Raises MalformedModelError for what is none."""
    if not isinstance(shape, tuple | list) or len(shape) not in (1, 3):
        raise MalformedModelError(f"the input has the shape {shape!r}, needed is (features,) or (height, width, channels)")
    own = tuple(_whole("the input", "a number of its shape", size) for size in shape)
    if min(own) < 1:
        raise MalformedModelError(f"the input has the shape {own}, needed are numbers above 0")
    sized("the input", Value("reals", own))
    return own


# ---------------------------------------------------------------- checks

#: Op -> what is wrong with it: (..., where it stands, what it reads, the op that gives that; None: it is the network's input).
_problems: Interpretation[[str, Value, PackedOp | None], Iterator[str]] = Interpretation("PackedModel.check", PACKED_OPS)


def graph_problems(nodes: Sequence[Node[PackedOp]], entry: Value) -> Iterator[str]:
    """What is wrong with the nodes of a network whose input is `entry`."""
    if wrong := list(node_problems(nodes)):
        yield from wrong
        return
    if not any(type(node.op) is Dot and (node.op.binary or node.op.window is not None) for node in nodes):
        yield "no layer is binary"
        return
    values: list[Value] = []
    for index, node in enumerate(nodes):
        read = [entry if other == INPUT else values[other] for other in node.inputs]
        where = place_of(nodes, index)
        try:
            values.append(value_of(node, where, read))
        except MalformedModelError as error:
            yield str(error)
            return
        if isinstance(node.op, Concat):
            least = 1 if node.op.flat else 2  # a map alone may become a vector
            if not least <= len(read) <= MOST_JOINED:
                yield f"{where}: joins {len(read)} nodes, needed are {least} to {MOST_JOINED}"
            if INPUT in node.inputs or len({(value.kind, value.top) for value in read}) > 1 or read[0].kind == "pixels":
                kinds = ", ".join(
                    "the input" if other == INPUT else value.kind for other, value in zip(node.inputs, read, strict=True)
                )
                yield f"{where}: joins {kinds}, needed are bits, levels of one kind or reals alone"
            continue
        product = isinstance(node.op, Multiply)
        two = product or side_of(node.op)
        if len(read) != 1 + two:
            yield f"{where}: reads {len(read)} nodes, needed {'are two' if two else 'is one'}"
            continue
        if product and (read[1].kind != "reals" or read[1].width not in (read[0].width, read[0].shape[-1])):
            yield f"{where}: multiplies {read[0].shape} numbers by {read[1].width} {read[1].kind}"
        elif len(read) == 2 and not product and (read[1].kind != "reals" or read[1].width != values[-1].width):
            yield f"{where}: adds {read[1].width} {read[1].kind} to {values[-1].width} numbers"
        yield from _problems(node, where, read[0], None if node.inputs[0] == INPUT else nodes[node.inputs[0]].op)
    for index, users in enumerate(users_of(nodes)[:-1]):
        if not users:
            yield f"{place_of(nodes, index)}: nothing reads what it gives"
    if values[-1].kind != "reals":
        yield f"the last layer gives {values[-1].kind}, not scores"


@_problems.of(Binarize, Digitize)
def _(op: Binarize | Digitize, where: str, read: Value, source: PackedOp | None) -> Iterator[str]:
    channels, bits = read.shape[-1], isinstance(op, Binarize)
    dtype = {"pixels": np.int32, "reals": np.float32}.get(read.kind)
    needed = f"({'' if bits else 'top, '}{channels}{',' if bits else ''})"
    if dtype is None:
        yield f"{where}: {'signs are bits already' if bits else f'makes levels of numbers, but gets {read.kind}'}"
    elif op.limits.dtype != dtype or op.limits.shape[not bits :] != (channels,) or np.isnan(op.limits).any():
        yield f"{where}: limits are {op.limits.shape} {op.limits.dtype}, needed is {needed} {np.dtype(dtype)}, no NaN"
    elif not bits:
        yield from _problems_of_grades(where, op.limits, MOST_TOP_OF_PIXELS if read.kind == "pixels" else MOST_TOP)
    if op.mirrored.dtype != np.bool_ or op.mirrored.shape != (channels,):
        yield f"{where}: mirrored is {op.mirrored.shape} {op.mirrored.dtype}, needed is ({channels},) bool"


def _problems_of_grades(where: str, limits: NDArray[Any], most: int = MOST_TOP) -> Iterator[str]:
    if not 2 <= len(limits) <= most:
        yield f"{where}: has codes up to {len(limits)}, needed is 2 to {most}"
    if (limits[1:] > limits[:-1]).any():
        yield f"{where}: limits of a code lie above those of the code before"


@_problems.of(Mapped)
def _(op: Mapped, where: str, read: Value, source: PackedOp | None) -> Iterator[str]:
    channels = read.shape[-1]
    if read.kind not in ("pixels", "levels"):
        yield f"{where}: maps pixels or levels, but gets {read.kind}"
    if read.kind == "levels":
        if op.values.dtype != np.float32 or op.values.shape != (read.top + 1, 1):
            yield f"{where}: values are {op.values.shape} {op.values.dtype}, needed is ({read.top + 1}, 1) float32"
        elif not np.isfinite(op.values).all():
            yield f"{where}: values must be finite"
    elif op.values.dtype != np.float32 or op.values.shape not in ((256, 1), (256, channels)):
        yield f"{where}: values are {op.values.shape} {op.values.dtype}, needed is (256, 1) or (256, {channels}) float32"
    elif not np.isfinite(op.values).all():
        yield f"{where}: values must be finite"


@_problems.of(Elementwise)
def _(op: Elementwise, where: str, read: Value, source: PackedOp | None) -> Iterator[str]:
    if read.kind != "reals":
        yield f"{where}: computes real numbers, but gets {read.kind}"
    yield from _problems_of_steps(where, op.steps, read.shape[-1])


@_problems.of(Pool)
def _(op: Pool, where: str, read: Value, source: PackedOp | None) -> Iterator[str]:
    height, width, channels = read.shape
    if op.kind not in POOL_KINDS:
        yield f"{where}: pool {op.kind!r} is none of {', '.join(POOL_KINDS)}"
    elif read.kind == "pixels" or (op.kind == "average" and read.kind != "reals"):
        yield f"{where}: a pool ({op.kind}) of {read.kind}"
    if op.padded and op.kind != "average":
        yield f"{where}: only an average counts what lies outside"
    if not all(taps.all() for taps in taps_by_axis(op.window, height, width)):
        yield f"{where}: has windows that lie outside the map, padding {op.window.padding}"
    falling = op.falling
    if falling is not None and (op.kind != "max" or falling.dtype != np.bool_ or falling.shape != (channels,)):
        yield f"{where}: falling is {falling.shape} {falling.dtype}, needed is ({channels},) bool of a largest value"


@_problems.of(Dot)
def _(op: Dot, where: str, read: Value, source: PackedOp | None) -> Iterator[str]:
    channels = read.shape[-1]
    if op.groups < 1 or channels % op.groups or op.neurons % op.groups:
        yield f"{where}: {channels} channels and {op.neurons} neurons do not make {op.groups} groups"
        return
    yield from _problems_of_inputs(where, op, read)
    if op.binary:
        yield from _problems_of_bits(where, op, read, source is None or type(source) is Mapped)
    else:
        if op.weights.dtype != np.float32 or not np.isfinite(op.weights).all():
            yield f"{where}: weights must be finite float32"
        elif read.kind in ("bits", "levels"):
            yield f"{where}: a float layer follows one that gives {read.kind}"
        elif op.reads != "reals" or read.kind != "reals":
            yield f"{where}: reads {op.reads} and gets {read.kind}, a float layer reads reals"
        if op.weights.shape[1] != op.depth:
            yield f"{where}: depth is {op.depth}, its weights have {op.weights.shape[1]}"
        if op.limits is not None and (op.window is None or isinstance(op.output, Grades)):
            yield f"{where}: a float layer has no threshold"
        elif op.limits is not None:
            yield from _problems_of_limits(where, op, op.limits, read)
    if isinstance(op.output, Affine):
        yield from _problems_of_steps(where, op.output, op.neurons)
    yield from _problems_of_low(where, op, read)


def _problems_of_low(where: str, op: Dot, read: Value) -> Iterator[str]:
    padded = op.window is not None and any(op.window.padding)
    if op.reads != "levels" or not (padded or isinstance(op.output, Affine)):
        if op.low:
            yield f"{where}: low is {op.low}, and nothing depends on it"
    elif padded and not -read.top <= op.low <= 0:
        yield f"{where}: low is {op.low}, and 0 outside the map is none of the {read.top + 1} levels"
    elif (abs(op.low) + read.top) * op.depth >= 2**31:
        yield f"{where}: low is {op.low}, with which the sums of {op.depth} inputs leave 32 bits"


def _problems_of_inputs(where: str, op: Dot, read: Value) -> Iterator[str]:
    if op.window is None and (op.groups != 1 or op.pad):
        yield f"{where}: groups and padding belong to windows"
    if op.pad not in (-1, 0, 1) or (op.pad and read.kind != "bits"):
        yield f"{where}: pads {read.kind} with {op.pad}, needed is 0, of bits -1 or 1, too"
    if op.window is None and op.depth != read.width:
        yield f"{where}: takes {op.depth} inputs, the layer before gives {read.width}"
    if op.window is not None and op.depth != op.window.taps * (own := read.shape[-1] // op.groups):
        size = " x ".join(map(str, op.window.size))
        yield f"{where}: takes {op.depth} inputs, its window has {size} of {own} channels"


def _problems_of_bits(where: str, op: Dot, read: Value, entry: bool) -> Iterator[str]:
    """entry: whether it reads what enters the network."""
    words = words_for(op.depth)
    if not entry and read.kind not in ("bits", "levels"):
        yield f"{where}: a binary layer follows one that gives real numbers"
    elif op.reads != read.kind:
        yield f"{where}: reads {op.reads}, but gets {read.kind}"
    if op.weights.dtype != np.uint64 or op.weights.shape[1] != words:
        yield f"{where}: bits are {op.weights.shape} {op.weights.dtype}, needed is (neurons, {words}) uint64"
    elif (op.weights[:, -1] & ~pad_mask(op.depth)[-1]).any():
        yield f"{where}: pad bits beyond depth {op.depth} are not 0"
    if op.limits is not None:
        yield from _problems_of_limits(where, op, op.limits, read)
    if op.reads in ("pixels", "levels") and op.depth > MAX_PIXEL_DEPTH:
        yield f"{where}: {op.depth} {op.reads} overflow the 32-bit sums; at most {MAX_PIXEL_DEPTH}"


def _problems_of_limits(where: str, op: Dot, limits: NDArray[Any], read: Value) -> Iterator[str]:
    classes, most = 1, np.array([op.depth])
    if op.window is not None and not op.pad and op.reads in ("bits", "pixels"):
        down, across = taps_by_axis(op.window, *read.shape[:2])
        classes = len(down) * len(across)
    dtype = np.float32 if op.reads == "reals" else np.int32
    needed = (op.neurons,) if classes == 1 else (classes, op.neurons)
    if isinstance(op.output, Grades):
        needed = (len(limits), *needed)
    if limits.dtype != dtype or limits.shape != needed:
        shape = f"({op.neurons},)" if len(needed) == 1 else needed
        yield f"{where}: limits are {limits.shape} {limits.dtype}, needed is {shape} {np.dtype(dtype)}"
        return
    if np.isnan(limits).any():
        yield f"{where}: limits hold NaN"
    if classes > 1:
        most = np.outer(down, across).reshape(-1, 1) * (read.shape[2] // op.groups)
    if op.reads == "bits" and not ((limits >= -1) & (limits <= most)).all():
        told = "" if classes == 1 else ", or of those inside of a border class"
        yield f"{where}: limits leave the range -1..{op.depth} of mismatches{told}"
    if isinstance(op.output, Grades):
        yield from _problems_of_grades(where, limits)


@_problems.of(Concat)
def _(op: Concat, where: str, read: Value, source: PackedOp | None) -> Iterator[str]:
    yield from ()


@_problems.of(Multiply)
def _(op: Multiply, where: str, read: Value, source: PackedOp | None) -> Iterator[str]:
    if read.kind != "reals":
        yield f"{where}: multiplies real numbers, but gets {read.kind}"


@_problems.of(Moved)
def _(op: Moved, where: str, read: Value, source: PackedOp | None) -> Iterator[str]:
    channels, bits = read.shape[-1], read.kind == "bits"
    if read.kind == "pixels" or (bits and source is None):
        yield f"{where}: moves {read.kind} of the input, needed are numbers, bits or codes that a node gives"
    if op.channels.min() < -1 or op.channels.max() >= channels:
        yield f"{where}: takes channels {op.channels.min()} to {op.channels.max()}, there are {channels}"
    outside = bool((op.channels < 0).any()) or max(op.padding) > 0
    if not np.isfinite(op.value) or op.value != float(single(op.value)) or (bits and outside and op.value not in (-1, 1)):
        yield f"{where}: puts {op.value:g} outside, needed is a number of float32{', of bits -1 or 1' if bits else ''}"
    elif read.kind == "levels" and op.value not in range(read.top + 1):
        yield f"{where}: puts {op.value:g} outside, needed is a code from 0 to {read.top}"


#: 255 * depth must stay inside int32, with room for a limit beyond either end.
MAX_PIXEL_DEPTH = (2**31 - 2) // 255


def _problems_of_steps(where: str, affine: Affine, neurons: int) -> Iterator[str]:
    if affine.ops.count("side") > 1:
        yield f"{where}: adds what stands at its side {affine.ops.count('side')} times"
    unknown = [op for op in affine.ops if op not in STEP_NAMES]
    if unknown:
        yield f"{where}: unknown steps {', '.join(map(repr, unknown))}"
    if affine.values.dtype != np.float32 or affine.values.shape != (len(affine.ops), 2, neurons):
        yield (
            f"{where}: steps are {affine.values.shape} {affine.values.dtype}, "
            f"needed is ({len(affine.ops)}, 2, {neurons}) float32"
        )
    elif np.isnan(affine.values).any():
        yield f"{where}: steps hold NaN"
    elif any(op == "div" and (a == 0).any() for op, (a, _) in zip(affine.ops, affine.values, strict=True)):
        yield f"{where}: steps divide by 0"
    else:
        # The kernels, C and `Affine.apply` take the two ends in different orders.
        for op, (a, b) in zip(affine.ops, affine.values, strict=True):
            wrong = a > b if op == "clip" else a <= b
            if op in ("clip", "step") and wrong.any():
                at = int(np.argmax(wrong))
                needed = "at most the second" if op == "clip" else "above the second"
                yield f"{where}: {op} has {a[at]:g} and {b[at]:g} at [{at}], the first must be {needed}"

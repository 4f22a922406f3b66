"""PyTorch's operations on maps and shapes of the network's values, as nodes of a graph: convolutions, pools, views."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from xnorinfer.converters.containers.arrays import RawTensor
from xnorinfer.converters.containers.onnxfile import Attribute
from xnorinfer.converters.graphs.graphcuts import END
from xnorinfer.converters.torchgraphs.torchvalues import Handler, Parts, Recording, Ref, Size, Unknown

_CONVOLVED = ("input", "weight", "bias", "stride", "padding", "dilation")
_MAX = ("self", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVERAGE = ("self", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MAX_POOLS = tuple(f"max_pool{axes}d{end}" for axes in (1, 2) for end in ("", "_with_indices"))
_AVERAGE_POOLS = ("avg_pool1d", "avg_pool2d")
_ADAPTIVE = tuple(f"adaptive_{kind}_pool{axes}d" for kind in ("avg", "max") for axes in (1, 2))
_JOINING = ("cat", "concat", "concatenate")
#: Times that a tensor may be repeated along an axis.
MOST_REPEATED = 1024
VIEWS = (
    "view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze", "expand", "expand_as", "view_as", "reshape_as"
)  # fmt: skip

#: Names of arguments, in the order of ATen's schemas.
SCHEMAS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("conv1d", "conv2d", "_convolution_mode"), (*_CONVOLVED, "groups")),
    **dict.fromkeys(("_convolution", "convolution"), (*_CONVOLVED, "transposed", "output_padding", "groups")),
    **dict.fromkeys(_MAX_POOLS, _MAX),
    **dict.fromkeys(_AVERAGE_POOLS, _AVERAGE),
    **dict.fromkeys(_ADAPTIVE, ("self", "output_size")),
    "constant_pad_nd": ("self", "pad", "value"),
    "pad": ("self", "pad", "mode", "value"),
    **dict.fromkeys(_JOINING, ("tensors", "dim")),
    "slice": ("self", "dim", "start", "end", "step"),
    "narrow": ("self", "dim", "start", "length"),
    "select": ("self", "dim", "index"),
    "unbind": ("self", "dim"),
    "index": ("self", "indices"),
    "index_select": ("self", "dim", "index"),
    "repeat": ("self", "repeats"),
    **dict.fromkeys(("split", "split_with_sizes"), ("self", "split_size", "dim")),
    "chunk": ("self", "chunks", "dim"),
    "channel_shuffle": ("self", "groups"),
}


def _numbers(recorder: Recording, operation: str, given: dict[str, Any], name: str, default: Any) -> tuple[int, ...]:
    """An argument of whole numbers.  Raises SourceError."""
    value = given.get(name, default)
    value = [value] if isinstance(value, int) else value
    if not isinstance(value, list | tuple) or not all(type(number) is int for number in value):
        recorder.refuse(operation, f"has a {name} that is no list of whole numbers")
    return tuple(value)


def _window(recorder: Recording, operation: str, given: dict[str, Any], axes: int, stride: tuple[int, ...]) -> dict[str, Any]:
    """Strides, dilations and padding.  stride: where none is said."""
    found: dict[str, Any] = {}
    for name, key, default in (("strides", "stride", stride), ("dilations", "dilation", (1,))):
        numbers = _numbers(recorder, operation, given, key, default) or stride
        found[name] = numbers * axes if len(numbers) == 1 else numbers
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        found["auto_pad"] = {"same": "SAME_UPPER", "valid": "VALID"}.get(padding, padding)
        return found
    pads = _numbers(recorder, operation, given, "padding", 0)
    found["pads"] = (pads * axes if len(pads) == 1 else pads) * 2
    return found


def _convolution(recorder: Recording, operation: str, given: dict[str, Any]) -> Ref:
    if given.get("transposed", False) is not False:
        recorder.refuse(operation, "is a transposed convolution, which is not supported in a binary network")
    value, weight = (recorder.tensor(operation, given.get(name)) for name in ("input", "weight"))
    shape = recorder.shape_of(weight)
    axes = 1 if operation == "conv1d" or (shape is not None and len(shape) == 3) else 2
    bias = [] if given.get("bias") is None else [recorder.tensor(operation, given["bias"])]
    attributes = _window(recorder, operation, given, axes, (1,))
    (groups,) = _numbers(recorder, operation, given, "groups", 1)
    return recorder.node("Conv", value, weight, *bias, group=groups, **attributes)


def _sizes(recorder: Recording, sizes: Any) -> list[Ref]:
    """The node that gives numbers some of which are of the shape of a value; none where none is."""
    several = list(sizes) if isinstance(sizes, list | tuple) else [sizes]
    if not any(isinstance(size, Size) for size in several):
        return []
    if not all(isinstance(size, Size) or type(size) is int for size in several):
        return []
    return [_told_sizes(recorder, several)]


def _pool(recorder: Recording, operation: str, given: dict[str, Any]) -> Any:
    value = recorder.tensor(operation, given.get("self"))
    axes = 1 if "1d" in operation else 2
    of_shape = _sizes(recorder, given.get("kernel_size"))  # of the whole map, as x.size()[2:] says it
    size = () if of_shape else _numbers(recorder, operation, given, "kernel_size", ())
    size = size * axes if len(size) == 1 else size
    attributes = _window(recorder, operation, given, axes, size)
    attributes |= {"kernel_shape": size, "ceil_mode": int(bool(given.get("ceil_mode", False)))}
    if operation in _MAX_POOLS:
        largest = recorder.node("MaxPool", value, *of_shape, **attributes)
        return [largest, Unknown()] if operation.endswith("_with_indices") else largest
    attributes["count_include_pad"] = int(bool(given.get("count_include_pad", True)))
    if given.get("divisor_override") is not None:
        (attributes["divisor"],) = _numbers(recorder, operation, given, "divisor_override", ())
    return recorder.node("AveragePool", value, *of_shape, **attributes)


def _adaptive(recorder: Recording, operation: str, given: dict[str, Any]) -> Any:
    sizes = given.get("output_size")
    sizes = [-1 if size is None else size for size in sizes] if isinstance(sizes, list | tuple) else sizes
    of_shape = _sizes(recorder, sizes)
    numbers = () if of_shape else _numbers(recorder, operation, {"output_size": sizes}, "output_size", ())
    value = recorder.tensor(operation, given.get("self"))
    if "max" in operation:
        return [recorder.node("AdaptiveMaxPool", value, *of_shape, sizes=numbers), Unknown()]  # and where it was
    return recorder.node("AdaptiveAveragePool", value, *of_shape, sizes=numbers)


def _pad(recorder: Recording, operation: str, given: dict[str, Any]) -> Ref:
    """Before and behind each axis, from the last one on."""
    ends = _numbers(recorder, operation, given, "pad", ())
    value = given.get("value")
    if len(ends) % 2 or not (value is None or isinstance(value, int | float)):
        recorder.refuse(operation, "pads with something that is no number, or by an odd number of ends")
    axes = [-1 - axis for axis in range(len(ends) // 2)]
    settings = (np.array([*ends[::2], *ends[1::2]], np.int64), np.array(value or 0, np.float32), np.array(axes, np.int64))
    inputs = [recorder.constant(one) for one in settings]
    mode = given.get("mode", "constant")
    return recorder.node("Pad", recorder.tensor(operation, given.get("self")), *inputs, mode=str(mode))


# ---------------------------------------------------------------- side by side, and apart


def _joined(recorder: Recording, operation: str, given: dict[str, Any]) -> Ref:
    tensors, axis = given.get("tensors"), given.get("dim", 0)
    if not isinstance(tensors, list | tuple) or type(axis) is not int:
        recorder.refuse(operation, "has no list of tensors and no axis")
    return recorder.node("Concat", *(recorder.tensor(operation, one) for one in tensors), axis=axis)


def of_size(recorder: Recording, number: float, like: Any) -> Ref | None:
    """A tensor of one number that is as large as a value of the network, or of sizes that depend on it; None of others."""
    if isinstance(like, Ref):
        sizes = recorder.node("Shape", like)
    elif isinstance(like, list | tuple) and like and all(isinstance(size, Size) or type(size) is int for size in like):
        sizes = _told_sizes(recorder, like)
    else:
        return None
    return recorder.node("ConstantOfShape", sizes, value=RawTensor("", np.array([number], np.float32), "float32"))


def _told_sizes(recorder: Recording, wanted: Sequence[Any], keep: int = -1) -> Ref:
    """Sizes, numbers among them, as one tensor.  keep: what -1 means."""
    refs = [
        size.ref if isinstance(size, Size) else recorder.constant(np.array([keep if size == -1 else size], np.int64))
        for size in wanted
    ]
    return recorder.node("Concat", *refs, axis=0)


def _sliced(recorder: Recording, operation: str, given: dict[str, Any]) -> Ref:
    value = recorder.tensor(operation, given.get("self"))
    axis, start, step = given.get("dim", 0), given.get("start"), given.get("step", 1)
    start = 0 if start is None else start
    end = given.get("end") if operation == "slice" else given.get("length")
    if not all(type(number) is int for number in (axis, start, step)) or not (end is None or type(end) is int):
        recorder.refuse(operation, "takes a part of a tensor that is not told in numbers")
    if operation == "narrow" and end is not None:
        end = None if start < 0 and end == -start else end + start
    return _part(recorder, value, axis, start, end, step)


def _part(
    recorder: Recording, value: Ref, axis: int, start: int, end: int | None, step: int = 1, **attributes: Attribute
) -> Ref:
    if (start, step) == (0, 1) and (end is None or end >= END):
        same = recorder.view("Identity", value)
        recorder.memory.lies_in(same, value, lambda _, part: recorder.node("Identity", part))
        return same
    numbers = (start, END if end is None else min(end, END), axis, step)
    settings = [recorder.constant(np.array([number], np.int64)) for number in numbers]
    result = recorder.view("Slice", value, *settings, **attributes)
    shape = recorder.shape_of(value)
    if shape is not None and -len(shape) <= axis < len(shape):
        sizes = list(shape)
        sizes[axis] = len(range(*slice(start, end, step).indices(shape[axis])))
        recorder.shapes[result.name] = tuple(sizes)
    if step == 1:

        def back(whole: Ref, part: Ref) -> Ref:
            before = [] if start == 0 else [_part(recorder, whole, axis, 0, start, may_be_empty=1)]
            behind = [] if end is None or end >= END else [_part(recorder, whole, axis, end, None, may_be_empty=1)]
            return recorder.node("Concat", *before, part, *behind, axis=axis)

        recorder.memory.lies_in(result, value, back)
    return result


def _selected(recorder: Recording, operation: str, given: dict[str, Any]) -> Ref:
    """One of an axis, which is gone then."""
    value = recorder.tensor(operation, given.get("self"))
    axis, index = given.get("dim", 0), given.get("index")
    if type(axis) is not int or type(index) is not int:
        recorder.refuse(operation, "takes a part of a tensor that is not told in numbers")
    whole = _part(recorder, value, axis, index, None if index == -1 else index + 1)
    found = recorder.view("Squeeze", whole, axes=(axis,))
    recorder.memory.lies_in(found, whole, lambda _, part: recorder.node("Unsqueeze", part, axes=(axis,)))
    return found


def _unbound(recorder: Recording, operation: str, given: dict[str, Any]) -> Parts:
    """Each of an axis, which is gone then."""
    return Parts(lambda number: _selected(recorder, operation, {**given, "index": number}))


def _gathered(recorder: Recording, operation: str, given: dict[str, Any]) -> Ref:
    """Those of an axis with some numbers."""
    value, axis, index = recorder.tensor(operation, given.get("self")), given.get("dim", 0), given.get("index")
    if operation == "index":
        said = given.get("indices")
        chosen = [place for place, one in enumerate(said) if isinstance(one, Ref)] if isinstance(said, list | tuple) else []
        if not isinstance(said, list | tuple) or len(chosen) != 1:
            recorder.refuse(operation, "takes a part of a tensor by more than numbers of one axis")
        axis, index = chosen[0], said[chosen[0]]
    if type(axis) is not int:
        recorder.refuse(operation, "takes a part of a tensor that is not told in numbers")
    return recorder.node("Gather", value, recorder.tensor(operation, index), axis=axis)


def _repeated(recorder: Recording, operation: str, given: dict[str, Any]) -> Ref:
    """So often beside itself along each axis, the last ones of its own."""
    found = recorder.tensor(operation, given.get("self"))
    repeats = _numbers(recorder, operation, given, "repeats", ())
    for place, count in enumerate(repeats):
        if not 1 <= count <= MOST_REPEATED:
            recorder.refuse(operation, f"repeats a tensor {count} times; up to {MOST_REPEATED} are read")
        if count > 1:
            found = recorder.node("Concat", *[found] * count, axis=place - len(repeats))
    return found


def _apart(recorder: Recording, operation: str, given: dict[str, Any]) -> Any:
    """Parts of some sizes, or as many as there are."""
    value = recorder.tensor(operation, given.get("self"))
    axis = given.get("dim", 0)
    sizes = given.get("split_size", given.get("split_sizes"))
    if operation == "chunk":
        many = given.get("chunks")
        if type(many) is not int or type(axis) is not int or many < 1:
            recorder.refuse(operation, "takes a tensor apart into parts that are not told in numbers")
        return recorder.apart("Split", value, many, axis=axis)
    whole = [sizes] if type(sizes) is int else sizes
    if not isinstance(whole, list | tuple) or type(axis) is not int or not all(type(size) is int for size in whole):
        recorder.refuse(operation, "takes a tensor apart into parts that are not told in numbers")
    if type(sizes) is int:
        return Parts(lambda number: _part(recorder, value, axis, number * sizes, (number + 1) * sizes))
    ends = [sum(whole[:number]) for number in range(len(whole) + 1)]
    return [_part(recorder, value, axis, start, end) for start, end in itertools.pairwise(ends)]


def _shuffled(recorder: Recording, operation: str, given: dict[str, Any]) -> Ref:
    """Channels of groups taken in turns."""
    value = recorder.tensor(operation, given.get("self"))
    groups = given.get("groups")
    if type(groups) is not int or groups < 1:
        recorder.refuse(operation, "has no number of groups")
    whole = recorder.node("Shape", value)
    places = [recorder.constant(np.array([number], np.int64)) for number in (0, 2, 3, groups, -1)]
    rows, height, width = (recorder.node("Gather", whole, place, axis=0) for place in places[:3])
    apart = recorder.node("Concat", rows, places[3], places[4], height, width, axis=0)
    turned = recorder.node("Transpose", recorder.node("Reshape", value, apart), perm=(0, 2, 1, 3, 4))
    return recorder.node("Reshape", turned, whole)


def transposed(recorder: Recording, operation: str, given: dict[str, Any], value: Ref) -> Ref:
    """Axes of the network's values in another order."""
    dims = given.get("dims")
    if isinstance(dims, list | tuple):
        dims = tuple(dims)
        if dims == tuple(range(len(dims))):
            return recorder.view("Identity", value)
        return recorder.view("Transpose", value, perm=dims)
    if operation in ("transpose", "mT"):
        swap = (given.get("dim0"), given.get("dim1")) if operation == "transpose" else (-2, -1)
        if not all(type(axis) is int for axis in swap):
            recorder.refuse(operation, "has no two axes")
        return recorder.view("Transpose", value, swap=swap)
    return recorder.view("Transpose", value, perm=(1, 0))


def reshaped(recorder: Recording, operation: str, given: dict[str, Any], value: Ref) -> Ref:
    """The network's values in a tensor of another shape."""
    if operation == "flatten":
        start, end = given.get("start_dim", 0), given.get("end_dim", -1)
        return recorder.view("Flatten", value, start=start, end=end)
    if operation in ("squeeze", "unsqueeze"):
        dims = given.get("dim")
        axes = tuple(dims) if isinstance(dims, list | tuple) else () if dims is None else (dims,)
        settings: dict[str, Attribute] = {"axes": axes} if axes else {}
        return recorder.view(operation.capitalize(), value, **settings)
    kind = "Expand" if operation.startswith("expand") else "Reshape"
    other = given.get("other")
    if isinstance(other, Ref):
        shape = recorder.shape_of(other)
        target = recorder.node("Shape", other) if shape is None else recorder.constant(np.array(shape, np.int64))
        return recorder.view(kind, value, target, allowzero=1)
    wanted = given.get("size", given.get("shape"))
    if isinstance(wanted, Size):
        return recorder.view(kind, value, wanted.ref, allowzero=1)
    if not isinstance(wanted, list | tuple) or not all(isinstance(size, Size) or type(size) is int for size in wanted):
        return recorder.view(kind, value)  # into a shape that is not told
    return recorder.view(kind, value, _told_sizes(recorder, wanted, 1 if kind == "Expand" else -1), allowzero=1)


# ---------------------------------------------------------------- sizes


def size_of(recorder: Recording, value: Ref, axis: Any = None) -> Unknown:
    """The shape of a value of the network, or how long one axis is."""
    shape = Size(recorder.node("Shape", value))
    return shape if axis is None else picked(recorder, shape, axis)


def picked(recorder: Recording, shape: Size, axis: Any) -> Unknown:
    """One number of a shape."""
    if type(axis) is not int:
        return Unknown()
    return Size(recorder.node("Gather", shape.ref, recorder.constant(np.array([axis], np.int64)), axis=0))


def some(recorder: Recording, shape: Size, start: Any = None, end: Any = None, step: Any = 1) -> Unknown:
    """Numbers of a shape one behind the other."""
    start, end = 0 if start is None else start, END if end is None else end
    if type(start) is not int or type(end) is not int or step != 1:
        return Unknown()
    settings = [recorder.constant(np.array([number], np.int64)) for number in (start, min(end, END), 0)]
    return Size(recorder.node("Slice", shape.ref, *settings))


_COUNTING = {"mul": "Mul", "floordiv": "Div", "floor_divide": "Div", "add": "Add", "sub": "Sub"}


def counted(recorder: Recording, operation: str, values: list[Any]) -> Unknown:
    """Arithmetic of sizes."""
    known = all(isinstance(value, Size) or type(value) is int for value in values)
    if operation not in _COUNTING or len(values) != 2 or not known:
        return Unknown()
    refs = [value.ref if isinstance(value, Size) else recorder.constant(np.array([value], np.int64)) for value in values]
    return Size(recorder.node(_COUNTING[operation], *refs))


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("conv1d", "conv2d", "_convolution_mode", "_convolution", "convolution"), _convolution),
    **dict.fromkeys((*_MAX_POOLS, *_AVERAGE_POOLS), _pool),
    **dict.fromkeys(_ADAPTIVE, _adaptive),
    **dict.fromkeys(("constant_pad_nd", "pad"), _pad),
    **dict.fromkeys(_JOINING, _joined),
    **dict.fromkeys(("slice", "narrow"), _sliced),
    "select": _selected,
    "unbind": _unbound,
    **dict.fromkeys(("index", "index_select"), _gathered),
    "repeat": _repeated,
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _apart),
    "channel_shuffle": _shuffled,
}

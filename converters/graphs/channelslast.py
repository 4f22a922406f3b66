"""Nodes on maps (rows, height, width, channels), as TensorFlow has them, in the operations of ONNX, whose maps are (rows,
channels, height, width)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_steps
from xnorinfer.converters.containers.arrays import RawTensor
from xnorinfer.converters.containers.onnxfile import Attribute, OnnxNode

#: Axes as ONNX has them, from TensorFlow's, and the way back, by the number of axes.
_TO_ONNX = {3: (0, 2, 1), 4: (0, 3, 1, 2)}
_FROM_ONNX = {3: (0, 2, 1), 4: (0, 2, 3, 1)}
#: What stands beside a convolution whose dilation is spelled around it.
_BETWEEN = ("Conv", "Transpose", "Squeeze", "Unsqueeze", "Add")


def on_channels_last(node: OnnxNode, axes: int = 4) -> Iterator[OnnxNode]:
    """A node of ONNX on a map that has its channels innermost, and so has what it gives.  axes: of the map, rows among them."""
    value, *rest = node.inputs
    (result,) = node.outputs
    inner, given = f"{result}: channels first", f"{result}: result, channels first"
    yield OnnxNode("Transpose", node.name, (value,), (inner,), {"perm": _TO_ONNX[axes]})
    yield dataclasses.replace(node, inputs=(inner, *rest), outputs=(given,))
    yield OnnxNode("Transpose", node.name, (given,), (result,), {"perm": _FROM_ONNX[axes]})


def on_column(node: OnnxNode) -> Iterator[OnnxNode]:
    """A pool of a map of one column, which a line (rows, steps, channels) was made for it, as a pool of lines."""
    (value,), (result,) = node.inputs, node.outputs
    line, given = f"{result}: line", f"{result}: result, a line"
    said = node.attributes
    narrowed = {key: numbers[:1] for key, numbers in said.items() if isinstance(numbers, tuple) and len(numbers) == 2}
    yield OnnxNode("Squeeze", node.name, (value,), (line,), {"axes": (2,)})
    yield from on_channels_last(dataclasses.replace(node, inputs=(line,), outputs=(given,), attributes=said | narrowed), 3)
    yield OnnxNode("Unsqueeze", node.name, (given,), (result,), {"axes": (2,)})


def dilated(nodes: Sequence[OnnxNode]) -> tuple[OnnxNode, ...]:
    """The nodes of a graph in which convolutions say their dilation themselves.

    TensorFlow spells it: SpaceToBatchND pads a map and takes it apart, a convolution follows, and BatchToSpaceND joins what it
    gives and crops that.  Here both have the attributes `block`, the dilation, and `pads`, before each axis, then behind each.
    """
    made_by = {node.outputs[0]: place for place, node in enumerate(nodes)}
    changed: dict[int, OnnxNode] = {}
    for end, joins in enumerate(nodes):
        if joins.operation != "BatchToSpaceND":
            continue
        between: list[int] = []
        place = made_by.get(joins.inputs[0])
        while place is not None and nodes[place].operation in _BETWEEN and place not in between[-1:]:
            spend_steps(what="looking for dilated convolutions")
            between.append(place)
            place = made_by.get(nodes[place].inputs[0])
        convolutions = [one for one in between if nodes[one].operation == "Conv"]
        if place is None or nodes[place].operation != "SpaceToBatchND" or len(convolutions) != 1:
            continue
        made = _with_dilation(nodes[convolutions[0]], nodes[place], joins)
        if made is not None:
            changed[convolutions[0]] = made
            for one in (place, end):
                changed[one] = dataclasses.replace(nodes[one], operation="Identity", attributes={})
    return tuple(changed.get(place, node) for place, node in enumerate(nodes))


def _with_dilation(convolution: OnnxNode, parts: OnnxNode, joins: OnnxNode) -> OnnxNode | None:
    """A convolution with the dilation that is spelled around it; None where that is another thing."""
    said = convolution.attributes
    block, pads, crops = parts.attributes["block"], parts.attributes["pads"], joins.attributes["pads"]
    axes = len(said["strides"])  # type: ignore[arg-type]
    assert isinstance(block, tuple)
    assert isinstance(pads, tuple)
    assert isinstance(crops, tuple)
    if joins.attributes["block"] != block or not 1 <= len(block) <= axes or "auto_pad" in said or said.get("pads"):
        return None
    if any(set(said.get(key, ())) - {1} for key in ("strides", "dilations")):  # type: ignore[arg-type]
        return None
    left = [int(before) - int(crop) for before, crop in zip(pads, crops, strict=True)]
    none = [0] * (axes - len(block))
    around = (*none, *left[: len(block)], *none, *left[len(block) :])
    dilations = (*(1 for _ in none), *map(int, block))
    return dataclasses.replace(convolution, attributes={**said, "dilations": dilations, "pads": around})


def on_kernel(node: OnnxNode, shape: Sequence[int], *, depthwise: bool = False) -> Iterator[OnnxNode]:
    """A node whose second input is a constant kernel, with the kernel as ONNX has it.

    shape: of the kernel, (..., channels of a group, neurons) or, of a depthwise layer, (..., channels, neurons of each).
    """
    value, kernel, *rest = node.inputs
    given = f"{node.outputs[0]}: kernel"
    axes = len(shape)
    spatial = tuple(range(axes - 2))
    if depthwise:
        inner = f"{given} of each channel"
        yield OnnxNode("Transpose", node.name, (kernel,), (inner,), {"perm": (axes - 2, axes - 1, *spatial)})
        yield from reshaped(node.name, inner, given, (shape[-2] * shape[-1], 1, *shape[:-2]))
    else:
        yield OnnxNode("Transpose", node.name, (kernel,), (given,), {"perm": (axes - 1, axes - 2, *spatial)})
    yield dataclasses.replace(node, inputs=(value, given, *rest))


def reshaped(name: str, value: str, result: str, target: Sequence[int]) -> Iterator[OnnxNode]:
    """A value in a shape that is known; 0 is as many as it has there, -1 what is left."""
    sizes = f"{result}: shape"
    yield _constant(name, sizes, np.array(target, np.int64))
    yield OnnxNode("Reshape", name, (value, sizes), (result,))


def padded(name: str, value: str, result: str, pads: Sequence[Sequence[int]], filled: float) -> Iterator[OnnxNode]:
    """A value with numbers around it.  pads: before and behind each axis, that of rows among them; filled: which number."""
    ends, number = f"{result}: pads", f"{result}: value"
    yield _constant(name, ends, np.array([*(before for before, _ in pads), *(behind for _, behind in pads)], np.int64))
    yield _constant(name, number, np.array(filled, np.float32))
    yield OnnxNode("Pad", name, (value, ends, number), (result,))


def _constant(name: str, value: str, array: NDArray[Any]) -> OnnxNode:
    return OnnxNode("Constant", name, (), (value,), {"value": RawTensor(value, array, str(array.dtype))})


#: The end of an axis, however long it is.
END = 1 << 62


def part_attributes(
    starts: Sequence[int], ends: Sequence[int], steps: Sequence[int], begin_mask: int = 0, end_mask: int = 0, ellipsis: int = 0
) -> dict[str, Attribute]:
    """What ONNX says of a part of a value that TensorFlow's StridedSlice takes.  begin_mask, end_mask, ellipsis: a bit for each
    axis, from whose beginning, to whose end, or of which, with all that are not named, everything is taken."""
    many = len(starts)
    left_out = next((axis for axis in range(many) if ellipsis >> axis & 1), many)
    found: dict[str, list[int]] = {"starts": [], "ends": [], "steps": [], "axes": []}
    for axis in range(many):
        if axis != left_out:
            found["starts"].append(0 if begin_mask >> axis & 1 else int(starts[axis]))
            found["ends"].append(END if end_mask >> axis & 1 else int(ends[axis]))
            found["steps"].append(int(steps[axis]))
            found["axes"].append(axis if axis < left_out else axis - many)
    return {key: tuple(numbers) for key, numbers in found.items()}


def window_attributes(
    strides: Sequence[int], dilations: Sequence[int] = (), padding: str = "valid", explicit: Sequence[Sequence[int]] = ()
) -> dict[str, Attribute]:
    """What ONNX says of a window.  padding: same, valid or explicit, in TensorFlow's meaning; explicit: before and behind each
    axis of a map.  Raises ValueError for another padding."""
    found: dict[str, Attribute] = {"strides": tuple(strides)}
    if dilations:
        found["dilations"] = tuple(dilations)
    match padding.lower():
        case "same":
            found["auto_pad"] = "SAME_UPPER"
        case "explicit":
            found["pads"] = (*(before for before, _ in explicit), *(behind for _, behind in explicit))
        case "valid":
            pass
        case _:
            raise ValueError(f"its padding {padding!r} is none of same, valid and explicit")
    return found

"""Numbers that graphs compute from shapes, to reshape with them: as far as the shapes are known, they are, too."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from xnorinfer.converters.containers.onnxfile import OnnxNode
from xnorinfer.converters.graphs.constants import Constants, computed
from xnorinfer.converters.graphs.livevalues import Constant, Shape, Value

#: What may be done with shapes.
MOVING = ("Gather", "Unsqueeze", "Concat", "Slice", "Squeeze", "Reshape", "Identity", "ReduceProd")
COUNTING = ("Mul", "Div", "Add", "Sub")
#: The rows of a graph that takes any number of them: a prime that no size of a map divides.
ANY_ROWS = 1_000_003


def shape_of(known: Sequence[int] | None, node: OnnxNode) -> Shape:
    """What a Shape or Size node gives for a tensor of these sizes, rows first."""
    if known is None:
        return Shape()
    sizes = np.array(known, np.int64)
    if node.operation == "Size":
        return Shape(np.array(sizes.prod()))
    start, end = node.attributes.get("start", 0), node.attributes.get("end", len(sizes))
    return Shape(sizes[start:end]) if isinstance(start, int) and isinstance(end, int) else Shape()


def computed_shape(constants: Constants, node: OnnxNode, known: Sequence[Value]) -> Shape:
    """What a node gives for shapes and constants.  Its numbers are None where they are not known."""
    arrays = [value.numbers if isinstance(value, Shape) else getattr(value, "array", None) for value in known]
    numbers = [array for array in arrays if array is not None]
    if len(numbers) < len(arrays):
        return Shape()
    with contextlib.suppress(IndexError, ValueError, TypeError, AttributeError, AssertionError, KeyError, OverflowError):
        if node.operation == "Cast":
            return Shape(numbers[0])
        if node.operation in COUNTING:
            return Shape(np.asarray(computed(node.operation, numbers)))
        if node.operation in MOVING:
            found = constants.computed(node, [Constant(number) for number in numbers])
            return Shape(np.asarray(found.array, np.int64))
    return Shape()


def numbers_of(value: Value | None) -> tuple[int, ...] | None:
    """The sizes that a value is; None where they are not known."""
    array = value.numbers if isinstance(value, Shape) else value.array if isinstance(value, Constant) else None
    return None if array is None else tuple(int(number) for number in array.reshape(-1))

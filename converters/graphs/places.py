"""Where the numbers of a network's value stand in the tensor of a graph, which may have its axes in another order, or none.

Places have the shape of the tensor without its first axis, that of rows, and say which number of the network's value stands
where; those of a map (height, width, channels) are counted line by line, channels innermost.  -1 stands in what pads a map.
What a graph does to a shape, numpy does to the places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes, spend_steps
from xnorinfer.converters.containers.onnxfile import OnnxNode
from xnorinfer.net.values import Shape

Places: TypeAlias = NDArray[np.int32]
#: Before and behind a map: (top, bottom, left, right).
Border: TypeAlias = tuple[int, int, int, int]


#: Places that are looked at in a step of the budget, some microseconds.
PLACES_A_STEP = 1 << 12


def look_at(places: Places) -> None:
    """Charge what looks at all places.  Raises SourceError."""
    spend_steps(places.size // PLACES_A_STEP, "following the maps of its graph")


class Counting:
    """Makes places, all of them views of one array as far as they stand in order."""

    def __init__(self) -> None:
        self._numbers: Places = np.empty(0, np.int32)

    def in_order(self, shape: Sequence[int], what: str) -> Places:
        """Numbers in the order in which they stand.  Raises SourceError where they are too many."""
        size = math.prod(shape)
        if size > self._numbers.size:
            spend_bytes(4 * size, f"the places of {what}, {size} numbers")
            self._numbers = np.arange(size, dtype=np.int32)
        return self._numbers[:size].reshape(shape)

    def channels_first(self, shape: Shape, what: str, axes: int = 3) -> Places:
        """A map as frameworks have it: (channels, height, width), or of 2 axes, where its height is 1, (channels, width)."""
        places: Places = self.in_order(shape, what).transpose(2, 0, 1)
        return places if axes == 3 else places[:, 0]


def border_of(places: Places, shape: Shape) -> Border | None:
    """The border around a map (height, width, channels) whose tensor has its channels first; None where it has not."""
    look_at(places)
    height, width, channels = shape
    if places.ndim == 2 and height == 1:
        places = places[:, None]
    if places.ndim != 3 or len(places) != channels:
        return None
    inside = places[0] >= 0
    if not inside.any():
        return None
    top, left = int(inside.any(axis=1).argmax()), int(inside.any(axis=0).argmax())
    inner = places[:, top : top + height, left : left + width]
    whole = np.arange(math.prod(shape)).reshape(shape).transpose(2, 0, 1)
    if inner.shape != whole.shape or (inner != whole).any() or np.count_nonzero(places >= 0) != inner.size:
        return None
    return top, places.shape[1] - top - height, left, places.shape[2] - left - width


def across_channels(places: Places | None, axis: int, channels: int | None) -> bool:
    """Whether along an axis of a tensor, rows first, there are all channels of pixels, as far as is known."""
    if axis == 0 or places is None or not channels:
        return axis != 0
    axis += places.ndim + 1 if axis < 0 else 0
    if not 1 <= axis <= places.ndim or places.shape[axis - 1] % channels:
        return False
    look_at(places)
    pixels = np.sort(np.moveaxis(places, axis - 1, -1), axis=-1).reshape(-1, channels) // channels
    return bool((pixels == pixels[:, :1]).all())


def of_image(places: Places) -> tuple[Shape, bool] | None:
    """The map that an input is whose numbers, in the order of its own tensor, stand so with the channels first; and whether
    they do in its own tensor, too.  None where they do neither so, nor with the channels last."""
    look_at(places)
    if places.ndim not in (2, 3) or not places.size:
        return None
    channels, *_, width = places.shape
    height = places.shape[1] if places.ndim == 3 else 1
    places = places.reshape(channels, height, width)
    inside = places[places >= 0]
    bordered = inside.size < places.size
    if bordered:
        rows, columns = (np.flatnonzero((places[0] >= 0).any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return None
        places = places[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height, width = places.shape[1:]
    order = np.arange(channels * height * width)
    shape = height, width, channels
    if places.size == order.size and (places.reshape(-1) == order).all():
        return shape, True
    last = order.reshape(shape).transpose(2, 0, 1)
    return (shape, False) if places.shape == last.shape and (places == last).all() else None


def vector_of(array: NDArray[Any], places: Places, shape: Shape) -> NDArray[Any] | None:
    """Numbers beside a tensor as one for each of the last axis of the network's value: (channels,) or (features,).

    None where those of a map differ from pixel to pixel.  Raises ValueError where they do not go with the tensor.
    """
    if array.ndim > places.ndim:  # a row for each sample of an example
        rows = array.reshape(-1, *array.shape[array.ndim - places.ndim :])
        if not len(rows) or (rows != rows[0]).any():
            raise ValueError("it has a number of its own for each sample")
        array = rows[0]
    look_at(places)
    full = np.broadcast_to(array, places.shape)
    flat = np.empty(math.prod(shape), array.dtype)
    inside = places >= 0
    flat[places[inside]] = full[inside]
    pixels = flat.reshape(-1, shape[-1])
    return pixels[0] if len(pixels) == 1 or (pixels == pixels[:1]).all() else None


def over_whole_map(places: Places, axes: Sequence[int], shape: Shape) -> bool:
    """Whether these axes of a tensor, rows not counted, are all pixels of a map, and the other one its channels."""
    kept = [axis for axis in range(places.ndim) if axis not in axes and places.shape[axis] > 1]
    if len(shape) != 3 or len(kept) > 1 or len(set(axes)) != len(axes) or not all(0 <= axis < places.ndim for axis in axes):
        return False
    look_at(places)
    height, width, channels = shape
    lists = np.moveaxis(places, kept[0], 0) if kept else places[None]
    lists = np.sort(lists.reshape(len(lists), -1), axis=1)
    wanted = np.arange(channels)[:, None] + channels * np.arange(height * width)
    return lists.shape == wanted.shape and bool((lists == wanted).all())


def over_lines(places: Places, axes: Sequence[int], shape: Shape) -> int | None:
    """Which axis of a map an axis of a tensor is, 0 its height or 1 its width; None where it is none, or they are several."""
    if len(shape) != 3 or len(axes) != 1 or not 0 <= axes[0] < places.ndim:
        return None
    look_at(places)
    length, (_, width, channels) = places.shape[axes[0]], shape
    lists = np.moveaxis(places, axes[0], -1).reshape(-1, length)
    for axis, step in enumerate((width * channels, channels)):
        first = lists[:, :1]
        if length == shape[axis] and (first // step % length == 0).all() and (lists == first + step * np.arange(length)).all():
            return axis
    return None


# ---------------------------------------------------------------- what graphs do to shapes


def moved(places: Places, rows: int, node: OnnxNode, sizes: Sequence[int] | None) -> Places | None:
    """The places behind a node that changes a shape; None where samples would not stay apart, or it is not told.

    rows: how many the graph has, or any number that stands for those.  sizes: the numbers of its second input.
    """
    shape = (rows, *places.shape)
    operation, attributes = node.operation, node.attributes
    if operation == "Transpose":
        order = _order(attributes, len(shape))
        return places.transpose([axis - 1 for axis in order[1:]]) if order and order[0] == 0 else None
    if operation == "Flatten":
        first, last = (_whole(attributes.get(name), default) for name, default in (("start", 1), ("end", -1)))
        if "start" not in attributes:
            whole = _whole(attributes.get("axis"), 1) in (1, 1 - len(shape))
            return _reshaped(places, (rows, places.size), rows) if whole else None
        first, last = first % len(shape), last % len(shape)
        return _reshaped(places, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]), rows)
    axes = attributes.get("axes", None if sizes is None else tuple(sizes))
    if operation in ("Squeeze", "Unsqueeze"):
        if operation == "Squeeze" and axes is None:
            axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
        if not isinstance(axes, tuple):
            return None
        many = len(shape) + (len(axes) if operation == "Unsqueeze" else 0)
        chosen = sorted({int(axis) % many for axis in axes})
        if operation == "Squeeze":
            ones = [axis for axis in chosen if shape[axis] == 1]
            return _reshaped(places, tuple(size for axis, size in enumerate(shape) if axis not in ones), rows)
        return _reshaped(places, _with_ones(shape, chosen), rows)
    if sizes is None:
        return None
    if operation == "Expand":
        return places if tuple(np.broadcast_shapes(shape, tuple(sizes))) == shape else None
    kept = [
        shape[axis] if size == 0 and not attributes.get("allowzero", 0) and axis < len(shape) else size
        for axis, size in enumerate(sizes)
    ]
    if kept.count(-1) == 1:
        rest = math.prod(size for size in kept if size != -1)
        kept[kept.index(-1)] = rows * places.size // rest if rest > 0 else -1
    return _reshaped(places, tuple(kept), rows)


def _reshaped(places: Places, shape: tuple[int, ...], rows: int) -> Places | None:
    if not shape or shape[0] != rows or min(shape) < 1 or math.prod(shape[1:]) != places.size:
        return None
    if shape[1:] == places.shape:
        return places
    found = places.reshape(shape[1:])
    if not np.may_share_memory(found, places):
        spend_bytes(found.nbytes, f"the places of {found.size} numbers in another order")
    return found


def _with_ones(shape: tuple[int, ...], axes: Sequence[int]) -> tuple[int, ...]:
    left = iter(shape)
    return tuple(1 if axis in axes else next(left) for axis in range(len(shape) + len(axes)))


def _order(attributes: Any, axes: int) -> list[int] | None:
    """The order in which a Transpose takes the axes; two that change places, where it is said so."""
    order = list(range(axes))
    swap = attributes.get("swap")
    if isinstance(swap, tuple) and len(swap) == 2 and all(-axes <= axis < axes for axis in swap):
        one, two = swap
        order[one], order[two] = order[two], order[one]
        return order
    given = attributes.get("perm", tuple(reversed(order)))
    found = [int(axis) % axes for axis in given] if isinstance(given, tuple) and len(given) == axes else []
    return found if sorted(found) == order else None


def _whole(value: object, default: int) -> int:
    return int(value) if isinstance(value, int | float) else default

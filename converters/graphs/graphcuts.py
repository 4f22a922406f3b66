"""Nodes of graphs that take a part of a value, put zeros beside it, or put its channels in another order.

A part that a concatenation was made of is that; every second pixel is a pool of single pixels; what a convolution or a pool
pads is part of its window.  All else are nodes of the network (`Channels`, `Pad`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes
from xnorinfer.converters.containers.onnxfile import OnnxNode
from xnorinfer.converters.graphs.graphvalues import GraphValues
from xnorinfer.converters.graphs.livevalues import Constant, Live, Stage, Value
from xnorinfer.converters.graphs.places import Border, Places, border_of, look_at
from xnorinfer.converters.graphs.sizes import numbers_of
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Channels, Concat, Pad, Pool, Steps
from xnorinfer.net.values import Shape, levels_of_all
from xnorinfer.net.windows import Window

Numbers: TypeAlias = NDArray[Any]
#: Starts and ends beyond any axis, which mean its end.
END = 1 << 31


class GraphCuts(GraphValues):
    """What a walk does at nodes that take values apart."""

    # ---------------------------------------------------------------- nodes

    def sliced(self, node: OnnxNode, live: Live, inputs: Sequence[Value | None]) -> Value:
        """A part of a value along some axes.  Raises Refused."""
        if live.expr.op == "lost":
            return live
        live = self.bordered(node, live)
        places = self._known_places(node, live)
        given: list[tuple[int, ...] | None] = []
        for place, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
            value = inputs[place] if place < len(inputs) else None
            given.append(numbers_of(value) if value is not None else _whole_numbers(node, name))
            if value is not None and given[-1] is None:
                self.problems.refuse(
                    node, f"takes a part of values by {name} that are not told, which is not supported in a binary network"
                )
        starts, ends, axes, steps = given
        axes = tuple(range(len(starts or ()))) if axes is None else axes
        steps = (1,) * len(axes) if steps is None else steps
        if starts is None or ends is None or not len(starts) == len(ends) == len(axes) == len(steps):
            self.problems.refuse(node, "takes a part of values, and does not say which: is malformed")
        chosen: list[slice] = [slice(None)] * (places.ndim + 1)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if step < 1 or not -len(chosen) <= axis < len(chosen):
                self.problems.refuse(
                    node, f"takes a part of the axis {axis} by steps of {step}, which is not supported in a binary network"
                )
            chosen[axis] = slice(start, None if end >= END else end, step)
        if node.attributes.get("may_be_empty") and not places[tuple(chosen[1:])].size:
            return self.constants.of(np.empty(0, np.float32), ())
        return self.cut(node, live, self._part(node, places, chosen))

    def gathered(self, node: OnnxNode, live: Live, inputs: Sequence[Value | None]) -> Value:
        """Parts of a value by their numbers along an axis; one number takes the axis away.  Raises Refused."""
        if live.expr.op == "lost":
            return live
        live = self.bordered(node, live)
        places, index = self._known_places(node, live), inputs[1]
        axis = node.attributes.get("axis", 0)
        if not isinstance(index, Constant) or index.array.dtype.kind not in "iu" or not isinstance(axis, int):
            self.problems.refuse(
                node, "takes parts of values by numbers that are not told, which is not supported in a binary network"
            )
        axis %= places.ndim + 1
        if axis == 0:
            self.problems.refuse(node, "takes some of the samples, which is not supported in a binary network")
        self.constants.room(node, (places.size // max(places.shape[axis - 1], 1), index.array.size))
        return self.cut(node, live, np.take(places, index.array.astype(np.int64), axis - 1))

    def split(self, node: OnnxNode, live: Live, inputs: Sequence[Value | None]) -> list[Value]:
        """The parts of a value along an axis, one for each output.  Raises Refused."""
        if live.expr.op == "lost":
            return [live] * len(node.outputs)
        live = self.bordered(node, live)
        places = self._known_places(node, live)
        axis = node.attributes.get("axis", 0)
        if not isinstance(axis, int) or not -places.ndim - 1 <= axis <= places.ndim or axis % (places.ndim + 1) == 0:
            self.problems.refuse(node, f"takes values apart along the axis {axis}, which is not supported in a binary network")
        axis = axis % (places.ndim + 1)
        length = places.shape[axis - 1]
        sizes = numbers_of(inputs[1]) if len(inputs) > 1 else _whole_numbers(node, "split")
        if sizes is None:
            each = -(-length // len(node.outputs))
            sizes = tuple(min(each, length - start) for start in range(0, length, each))
        if sum(sizes) != length or len(sizes) != len(node.outputs) or min(sizes) < 1:
            self.problems.refuse(node, f"takes {length} values apart into parts of {sizes}: is malformed")
        found: list[Value] = []
        start = 0
        for number, size in enumerate(sizes):
            chosen = [slice(None)] * (places.ndim + 1)
            chosen[axis] = slice(start, start + size)
            part = dataclasses.replace(node, name=f"{node.name}.{number}")
            found.append(self.cut(part, live, self._part(node, places, chosen)))
            start += size
        return found

    def _known_places(self, node: OnnxNode, live: Live) -> Places:
        if live.places is None:
            self.problems.refuse(node, self.unknown_shape)
        if live.stage.layer is None:
            self.problems.refuse(node, "takes a part of the input itself, which is not supported in a binary network")
        if live.outside is not None:
            self.problems.refuse(node, "takes a part of what was padded, which is not supported in a binary network")
        return live.places

    def _part(self, node: OnnxNode, places: Places, chosen: Sequence[slice]) -> Places:
        rows, *axes = chosen
        if rows.indices(self.rows) != (0, self.rows, 1):
            self.problems.refuse(node, "takes some of the samples, which is not supported in a binary network")
        part = places[tuple(axes)]
        if not part.size:
            self.problems.refuse(node, "takes nothing of its values: is malformed")
        return part

    # ---------------------------------------------------------------- parts

    def cut(self, node: OnnxNode, live: Live, places: Places) -> Live:
        """The part of a value that stands so in its tensor.  Raises Refused."""
        assert live.places is not None
        if places.size == live.places.size:
            return dataclasses.replace(live, places=places)
        shape = live.stage.shape
        if shape is None or len(shape) != 3:
            shape = (1, 1, live.stage.width or 1)
        rows, columns, channels = _coordinates(places, shape)
        kept = len(rows), len(columns), len(channels)
        if places.size != kept[0] * kept[1] * kept[2]:
            self.problems.refuse(node, "takes a part of values that is no part of a map's lines, columns and channels")
        whole = kept[:2] == shape[:2]
        if whole and (piece := self._piece(node, live, channels)) is not None:
            return Live(piece.leaf, piece, places=_renumbered(places, shape, rows, columns, channels))
        live = self.settled(node, live)
        stage = live.stage
        if not whole:
            stage = self._of_pixels_of(node, stage, shape, rows, columns)
        if not np.array_equal(channels, np.arange(shape[2])):  # fewer, or in another order
            stage = self._of_channels(node, stage, channels)
        return dataclasses.replace(self.begin(node.name, stage, kept if stage.is_map else kept[2:], None),
            places=_renumbered(places, shape, rows, columns, channels))  # fmt: skip

    def _piece(self, node: OnnxNode, live: Live, channels: Numbers) -> Stage | None:
        """What a concatenation was made of, where these channels are some of that; else None."""
        pieces = live.stage.pieces
        if live.expr is not live.leaf or not pieces:
            return None
        ends = np.cumsum([0, *(piece.width or 0 for piece in pieces)])
        first, last = int(channels[0]), int(channels[-1]) + 1
        if (np.diff(channels) != 1).any() or first not in ends or last not in ends:
            return None
        found = pieces[int(np.argmax(ends == first)) : int(np.argmax(ends == last))]
        if len(found) == 1:
            return found[0]
        alike = all(one.signed == found[0].signed for one in found)
        if not alike and any(one.signed is not None for one in found):
            return None
        at = self.emit(self.free(node.name), Concat(), *(one.at for one in found))
        shape = (*(found[0].shape or ())[:-1], len(channels))
        levels = None if found[0].signed is not None else levels_of_all([one.domain for one in found])
        stage = Stage(live.leaf, at, shape, node.name, signed=found[0].signed, levels=levels)
        self.begin(node.name, stage, shape, None)
        self.newest = dataclasses.replace(self.newest, pieces=tuple(found))
        return self.newest

    def _of_pixels_of(self, node: OnnxNode, stage: Stage, shape: Shape, rows: Numbers, columns: Numbers) -> Stage:
        """Some lines and columns of a map, evenly apart."""
        vertical, horizontal = _evenly(rows, shape[0]), _evenly(columns, shape[1])
        if vertical is None or horizontal is None:
            self.problems.refuse(
                node, "takes lines or columns of a map that are not evenly apart, which is not supported in a binary network"
            )
        (above, below, down), (left, right, across) = vertical, horizontal
        if above or below or left or right:
            stage = self._moved(node, stage, Pad((-above, -below, -left, -right)))
        if (down, across) == (1, 1):
            return stage
        pool = Pool("max", Window((1, 1), (down, across)))
        return dataclasses.replace(stage, at=self.emit(self.free(node.name), pool, stage.at), part=None)

    def _of_channels(self, node: OnnxNode, stage: Stage, channels: Numbers) -> Stage:
        """Some channels of a map, or numbers of a vector, in that order; -1: zeros."""
        spend_bytes(8 * len(channels), f"the channels that {node.name} takes")
        return self._moved(node, stage, Channels(tuple(channels.tolist())), 0.0 if (channels < 0).any() else None)

    def _moved(self, node: OnnxNode, stage: Stage, op: Channels | Pad, between: float | None = None) -> Stage:
        """Numbers in other places.  between: what stands between them.  Raises Refused."""
        signs = stage.signed
        if signs is not None and between is not None:
            if (signs.low, signs.high) != (-1, 1):
                told = f"puts {between:g} beside signs that stand for {signs.low:g} and {signs.high:g}"
                self.problems.refuse(node, f"{told}, which is not supported in a binary network: needed are -1 and 1")
            signs = signs if between in (-1, 1) else None
        levels = None if signs is not None else levels_of_all([stage.domain], [] if between is None else [between])
        at = self.emit(self.free(node.name), op, stage.at)
        return dataclasses.replace(stage, at=at, part=None, signed=signs, levels=levels)

    # ---------------------------------------------------------------- zeros beside channels, other orders of channels

    def settled(self, node: OnnxNode, live: Live) -> Live:
        """As of any value; of one with numbers around it, or zeros beside its channels, too."""
        return super().settled(node, self.bordered(node, live))

    def bordered(self, node: OnnxNode, live: Live) -> Live:
        """What was padded as an expression of a value of the network that has what stands around; others as they are."""
        places, shape = live.places, live.stage.shape
        if live.outside is None or places is None or live.expr.op == "lost" or live.stage.layer is None or shape is None:
            return live
        padded, number = live.outside
        beside = _beside_channels(places, shape)
        around = None if beside is not None else _around(places, shape)
        if (beside is None or number != 0) and around is None:
            return live
        inner, called = (
            super().settled(node, Live(padded, live.stage)).stage,
            dataclasses.replace(node, name=f"{node.name}.pad"),
        )
        if beside is not None:
            before, total, moved, _ = beside
            channels = np.full(total, -1)
            channels[before : before + shape[2]] = np.arange(shape[2])
            made, shape = self._of_channels(called, inner, channels), (*shape[:2], total)
        else:
            assert around is not None
            (top, bottom, left, right), axis = around
            shape = shape[0] + top + bottom, shape[1] + left + right, shape[2]
            made = self._moved(called, inner, Pad((top, bottom, left, right), number), number)
            moved = np.moveaxis(self.counting.channels_first(shape, node.name, places.ndim), 0, axis)
        stage = self.begin(node.name, made, shape, moved).stage

        def unchanged(numbers: F32) -> F32:
            if beside is not None:
                self.problems.refuse(node, "reads a map with zeros beside its channels, and other numbers of each channel")
            return numbers

        return self.transplanted(dataclasses.replace(live, outside=None), stage, moved, unchanged, padded)

    def joined(self, node: OnnxNode, op: str, lives: Sequence[Live]) -> Live:
        """As any sum; where a value with zeros beside its channels is added to what was concatenated, a sum of a part of it."""
        for one, other in (lives, lives[::-1]) if op == "Add" and len(lives) == 2 else ():
            found = None if other.outside is None or other.places is None else _beside_channels(other.places, other.stage.shape)
            if found is None or self.padded_with(node, other) != 0 or one.places is None:
                continue
            before, total, places, inner = found
            if one.stage.width != total or not np.array_equal(one.places, places):
                continue
            ends = [0, before, before + (other.stage.width or 0), total]
            parts = [
                self._piece(node, one, np.arange(start, end)) if start < end else None
                for start, end in itertools.pairwise(ends)
            ]
            if parts[1] is None or any(
                part is None and start < end for part, (start, end) in zip(parts, itertools.pairwise(ends), strict=True)
            ):
                continue
            added = [Live(parts[1].leaf, parts[1], places=inner), dataclasses.replace(other, places=inner, outside=None)]
            middle = super().joined(node, op, added).stage
            pieces = tuple(part for part in (parts[0], middle, parts[2]) if part is not None)
            at = self.emit(self.free(f"{node.name}.concat"), Concat(), *(piece.at for piece in pieces))
            stage = Stage(one.leaf, at, one.stage.shape, middle.layer)
            self.begin(node.name, stage, one.stage.shape, places)
            self.newest = dataclasses.replace(self.newest, pieces=pieces)
            return Live(self.newest.leaf, self.newest, places=places)
        known = [live.places for live in lives if live.places is not None]
        if not all(np.array_equal(one, known[0]) for one in known):
            lives = [self.in_order(node, live) for live in lives]
        return super().joined(node, op, lives)

    def as_map(self, node: OnnxNode, live: Live) -> tuple[Live, Border]:
        """As of any map; of one whose channels stand in another order, or have zeros beside them, too."""
        if live.outside is not None and live.places is not None and _beside_channels(live.places, live.stage.shape) is not None:
            live = self.bordered(node, live)
        return super().as_map(node, self.in_order(node, live))

    def concatenated(self, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
        """As of any values; of those whose channels stand in another order, too."""
        lives = [one for one in inputs if isinstance(one, Live)]
        if all(one.places is not None and one.places.ndim == 1 for one in lives) and any(map(_is_wide, lives)):
            inputs = [self._flat(node, one) for one in inputs]
        inputs = [self.in_order(node, one) if isinstance(one, Live) else one for one in inputs]
        beside = next((one for one in inputs if isinstance(one, Live) and one.expr.op != "lost"), None)
        if beside is not None and any(isinstance(one, Constant) and one.array.size for one in inputs):
            beside = self.settled(node, beside)
            inputs = [self._numbers_beside(node, one, beside) if isinstance(one, Constant) else one for one in inputs]
        return super().concatenated(node, inputs)

    def _numbers_beside(self, node: OnnxNode, constant: Constant, beside: Live) -> Value:
        """Constants of channels beside a value, as a value of the network: zeros in the place of its channels, and the numbers
        added.  Those of pixels as they are."""
        stage, places, axis = beside.stage, beside.places, node.attributes.get("axis", 1)
        shape, array = stage.shape, constant.array
        if not array.size or shape is None or places is None or not isinstance(axis, int) or array.dtype.kind not in "fiu":
            return constant
        sizes = constant.fills or array.shape
        if len(sizes) != places.ndim + 1 or not -len(sizes) <= axis < len(sizes) or not axis % len(sizes):
            return constant
        axis = axis % len(sizes) - 1
        if places.shape[axis] != shape[-1] or any(
            one != two for place, (one, two) in enumerate(zip(sizes[1:], places.shape, strict=True)) if place != axis
        ):
            return constant
        many = sizes[axis + 1]
        spend_bytes(8 * many * (places.size // shape[-1]), f"the numbers beside {node.name}")
        numbers = np.broadcast_to(array, (1, *sizes[1:])) if array.size == 1 else array
        lines = np.moveaxis(numbers, axis + 1, -1).reshape(-1, many)
        if (lines != lines[:1]).any():
            return constant
        self.use(constant, f"{stage.layer}: numbers beside it")
        called = dataclasses.replace(node, name=f"{node.name}.numbers")
        made = self._of_channels(called, stage, np.full(many, -1))
        if lines[0].any():
            at = self.once(called.name, Steps.of(("add", lines[0].astype(np.float32))), made.at)
            made = dataclasses.replace(made, at=at, signed=None, levels=None)
        pixels = np.moveaxis(places, axis, -1)[..., :1] // shape[-1]
        moved = np.moveaxis((pixels * many + np.arange(many)).astype(np.int32), -1, axis)
        return self.begin(called.name, made, (*shape[:-1], many), moved)

    def _flat(self, node: OnnxNode, value: Value | None) -> Value | None:
        """A map that was flattened as the vector that it is then; other values as they are."""
        is_map = isinstance(value, Live) and value.expr.op != "lost" and value.stage.is_map
        return self.flattened(node, value) if isinstance(value, Live) and is_map else value

    def in_order(self, node: OnnxNode, live: Live) -> Live:
        """A map, or a vector, whose channels stand in another order, with these in their own.  Raises Refused."""
        shape, places = live.stage.shape, live.places
        if live.stage.layer is None or live.expr.op == "lost" or live.outside is not None or places is None or shape is None:
            return live
        found = _reordered(places, shape)
        if found is None:
            return live
        order, axis = found
        key = live.leaf.number, order.tobytes()
        if len(shape) == 3:
            places = np.moveaxis(self.counting.channels_first(shape, node.name, places.ndim), 0, axis)
        else:
            places = self.counting.in_order(shape, node.name).reshape(places.shape)
        if key not in self.reordered:
            stage = self._of_channels(dataclasses.replace(node, name=f"{node.name}.order"), live.stage, order)
            self.reordered[key] = self.begin(node.name, stage, shape, places).stage
        stage = self.reordered[key]
        return self.transplanted(live, stage, places, lambda numbers: numbers[order])


def _is_wide(live: Live) -> bool:
    """Whether a value is a map of several pixels."""
    shape = live.stage.shape
    return shape is not None and len(shape) == 3 and shape[0] * shape[1] > 1


def _whole_numbers(node: OnnxNode, name: str) -> tuple[int, ...] | None:
    said = node.attributes.get(name)
    return tuple(int(number) for number in said) if isinstance(said, tuple) else None


def _coordinates(places: Places, shape: Shape) -> tuple[Numbers, Numbers, Numbers]:
    """Which lines, columns and channels of a map (height, width, channels) some places are of: lines and columns in order,
    channels as they stand."""
    look_at(places)
    _, width, channels = shape
    pixels = np.unique(places // channels)
    found, first = np.unique(places % channels, return_index=True)
    return np.unique(pixels // width), np.unique(pixels % width), found[np.argsort(first)]


def _renumbered(places: Places, shape: Shape, rows: Numbers, columns: Numbers, channels: Numbers) -> Places:
    """Places of a part of a map as those of a map that is this part."""
    _, width, many = shape
    number = np.zeros(many, np.int64)
    number[channels] = np.arange(len(channels))
    pixels, channel = places // many, number[places % many]
    row, column = np.searchsorted(rows, pixels // width), np.searchsorted(columns, pixels % width)
    return ((row * len(columns) + column) * len(channels) + channel).astype(np.int32)


def _evenly(taken: Numbers, size: int) -> tuple[int, int, int] | None:
    """Lines of a map of that size: how many are left out before and behind them all, and of how many then the first is taken;
    None where they are not evenly apart."""
    first, last, count = int(taken[0]), int(taken[-1]), len(taken)
    step = int(taken[1] - taken[0]) if count > 1 else 1
    if (np.diff(taken) != step).any():
        return None
    return first, size - 1 - last if last + step < size else 0, step


def _around(places: Places, shape: Shape) -> tuple[Border, int] | None:
    """The border around a map, and which axis of the tensor its channels are; None where it has none, or is no whole map."""
    for axis in range(places.ndim):
        border = border_of(np.moveaxis(places, axis, 0), shape) if len(shape) == 3 else None
        if border is not None and any(border):
            return border, axis
    return None


def _beside_channels(places: Places, shape: Shape | None) -> tuple[int, int, Places, Places] | None:
    """Of a whole map with something beside its channels alone: how many stand before them, how many there are with those, the
    places with them, and without; else None."""
    if shape is None or len(shape) != 3:
        return None
    look_at(places)
    many = shape[2]
    for axis in range(places.ndim):
        channels = np.moveaxis(places, axis, -1)
        beside = (channels < 0).all(axis=tuple(range(places.ndim - 1)))
        inner = channels[..., ~beside]
        if not beside.any() or inner.shape[-1] != many or inner.size != shape[0] * shape[1] * many:
            continue
        pixels = inner[..., 0] // many
        if (inner != pixels[..., None] * many + np.arange(many)).any():
            return None
        total = channels.shape[-1]
        found = (pixels[..., None] * total + np.arange(total)).astype(np.int32)
        return int(np.argmin(beside)), total, np.moveaxis(found, -1, axis), np.moveaxis(inner, -1, axis)
    return None


def _reordered(places: Places, shape: Shape) -> tuple[Numbers, int] | None:
    """The order of the channels of a map, or of the numbers of a vector, where that is another one, and the axis of the tensor
    that they are; else None."""
    height, width, channels = (1, 1, *shape)[-3:]
    if channels < 2 or places.size != height * width * channels:
        return None
    look_at(places)
    for axis in range(places.ndim):
        if places.shape[axis] != channels:
            continue
        lists = np.moveaxis(places, axis, 0).reshape(channels, -1)
        order = lists[:, 0] % channels
        if (order == np.arange(channels)).all() or len(np.unique(order)) < channels:
            continue
        if (lists == np.arange(height * width) * channels + order[:, None]).all():
            return order.astype(np.int64), axis
    return None

"""Nodes of graphs that take a part of a value, put zeros beside it, or put its channels in another order.

A part that a concatenation was made of is that; every second pixel is a pool of single pixels.  All else is a float convolution
with a 1 where a number is taken from: its sums are that number, exactly.
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
from xnorinfer.converters.graphs.livevalues import Live, Stage, Value
from xnorinfer.converters.graphs.places import Border, Places, look_at
from xnorinfer.converters.graphs.sizes import numbers_of
from xnorinfer.converters.networkparts import LayerPart
from xnorinfer.net.ops import Concat, Pool
from xnorinfer.net.values import Shape
from xnorinfer.net.windows import Window

Numbers: TypeAlias = NDArray[Any]
#: Starts and ends beyond any axis, which mean its end.
_END = 1 << 31


class GraphCuts(GraphValues):
    """What a walk does at nodes that take values apart."""

    # ---------------------------------------------------------------- nodes

    def sliced(self, node: OnnxNode, live: Live, inputs: Sequence[Value | None]) -> Value:
        """A part of a value along some axes.  Raises Refused."""
        if live.expr.op == "lost":
            return live
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
        if starts is None or ends is None or len(starts) != len(ends):
            self.problems.refuse(node, "takes a part of values, and does not say which: is malformed")
        axes = tuple(range(len(starts))) if axes is None else axes
        steps = (1,) * len(starts) if steps is None else steps
        chosen: list[slice] = [slice(None)] * (places.ndim + 1)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if step < 1 or not -len(chosen) <= axis < len(chosen):
                self.problems.refuse(
                    node, f"takes a part of the axis {axis} by steps of {step}, which is not supported in a binary network"
                )
            chosen[axis] = slice(start, None if end >= _END else end, step)
        return self.cut(node, live, self._part(node, places, chosen))

    def split(self, node: OnnxNode, live: Live, inputs: Sequence[Value | None]) -> list[Value]:
        """The parts of a value along an axis, one for each output.  Raises Refused."""
        if live.expr.op == "lost":
            return [live] * len(node.outputs)
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
        if kept[2] != shape[2]:
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
        stage = Stage(live.leaf, at, shape, node.name, signed=found[0].signed)
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
        (above, down, height), (left, across, width) = vertical, horizontal
        window = Window((height, width), (down, across))
        if (height, width) == (1, 1):
            return dataclasses.replace(stage, at=self.emit(self.free(node.name), Pool("max", window), stage.at))
        self._require_reals(node, stage)
        weight = np.zeros((shape[2], height, width, 1), np.float32)
        weight[:, above, left] = 1
        return self._taking(node, stage, weight, window, shape[2])

    def _of_channels(self, node: OnnxNode, stage: Stage, channels: Numbers, among: int | None = None) -> Stage:
        """Some channels of a map, in that order; -1: zeros."""
        self._require_reals(node, stage)
        many = stage.width or 1
        if not stage.is_map:
            self.problems.refuse(node, "takes some of the values of a vector, which is not supported in a binary network")
        spend_bytes(4 * len(channels) * many, f"the channels that {node.name} takes")
        weight = np.zeros((len(channels), 1, 1, many), np.float32)
        taken = np.flatnonzero(channels >= 0)
        weight[taken, 0, 0, channels[taken]] = 1
        return self._taking(node, stage, weight, Window((1, 1)), 1)

    def _taking(self, node: OnnxNode, stage: Stage, weight: NDArray[np.float32], window: Window, groups: int) -> Stage:
        part = LayerPart(
            self.free(node.name), weight, is_float=True, activation="none", window=window, groups=groups, explicit=True
        )
        return dataclasses.replace(stage, at=self.emit(part.name, part, stage.at), part=None)

    def _require_reals(self, node: OnnxNode, stage: Stage) -> None:
        if stage.signed is not None:
            self.problems.refuse(node, "takes a part of signs, or moves them about, which is not supported in a binary network")

    # ---------------------------------------------------------------- zeros beside channels, other orders of channels

    def settled(self, node: OnnxNode, live: Live) -> Live:
        """As of any value; of one with zeros beside its channels, too."""
        if live.outside is None or live.places is None or live.expr.op == "lost" or live.stage.layer is None:
            return super().settled(node, live)
        found = _beside_channels(live.places, live.stage.shape)
        if found is None or self.padded_with(node, live) != 0:
            return super().settled(node, live)
        before, total, places, _ = found
        inner = super().settled(node, dataclasses.replace(live, outside=None))
        channels = np.full(total, -1)
        many = inner.stage.width or 1
        channels[before : before + many] = np.arange(many)
        stage = self._of_channels(node, inner.stage, channels)
        assert stage.shape is not None
        return dataclasses.replace(self.begin(node.name, stage, (*stage.shape[:2], total), None), places=places)

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
        """As of any map; of one whose channels stand in another order, too."""
        return super().as_map(node, self.in_order(node, live))

    def in_order(self, node: OnnxNode, live: Live) -> Live:
        """A map whose tensor has its channels first, with these in their order.  Raises Refused."""
        shape, places = live.stage.shape, live.places
        if live.stage.layer is None or live.expr.op == "lost" or live.outside is not None or places is None or shape is None:
            return live
        order = _reordered(places, shape)
        if order is None:
            return live
        key = live.leaf.number, order.tobytes()
        places = self.counting.channels_first(shape, node.name, places.ndim)
        if key not in self.reordered:
            stage = self._of_channels(dataclasses.replace(node, name=f"{node.name}.order"), live.stage, order)
            self.reordered[key] = self.begin(node.name, stage, shape, places).stage
        stage = self.reordered[key]
        return self.transplanted(live, stage, places, lambda numbers: numbers[order])


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
    """Lines of a map of that size as windows of one 1: where in the window it stands, the stride, and how large the window is;
    None where they are not evenly apart."""
    first, count = int(taken[0]), len(taken)
    step = int(taken[1] - taken[0]) if count > 1 else size
    if (np.diff(taken) != step).any():
        return None
    return first, step, max(first + 1, size - count * step + 1)


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


def _reordered(places: Places, shape: Shape) -> Numbers | None:
    """The order of the channels of a map whose tensor has its channels first, where that is another one; else None."""
    height, width, channels = shape if len(shape) == 3 else (1, 1, 1)
    if channels < 2 or places.size != height * width * channels or len(places) != channels:
        return None
    look_at(places)
    order = places.reshape(channels, -1)[:, 0] % channels
    if (order == np.arange(channels)).all() or len(np.unique(order)) < channels:
        return None
    wanted = np.arange(height * width) * channels + order[:, None]
    return order.astype(np.int64) if (places.reshape(channels, -1) == wanted).all() else None

"""Nodes of graphs that move values about or pool them: shapes, padding, pools and means of maps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from xnorinfer.converters.containers.onnxfile import OnnxNode
from xnorinfer.converters.graphs.graphcuts import GraphCuts
from xnorinfer.converters.graphs.livevalues import Constant, Live, Stage, Value
from xnorinfer.converters.graphs.places import across_channels, moved, over_lines, over_whole_map
from xnorinfer.converters.graphs.sizes import numbers_of
from xnorinfer.converters.graphs.windowing import joined, kernel_size, require_outputs, window_of
from xnorinfer.net.ops import Pool
from xnorinfer.net.windows import Pair, PoolKind, Window

#: They change the shape of a tensor alone.
MOVES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Transpose")
POOLS: dict[str, PoolKind] = {
    "MaxPool": "max",
    "AveragePool": "average",
    "AdaptiveMaxPool": "max",
    "AdaptiveAveragePool": "average",
    "GlobalMaxPool": "max",
    "GlobalAveragePool": "average",
}
#: Of all pixels of a map, as global pools.
WHOLE: dict[str, PoolKind] = {"ReduceMean": "average", "ReduceSum": "average", "ReduceMax": "max"}


class GraphMaps(GraphCuts):
    """What a walk does at nodes that have no weights."""

    def move(self, node: OnnxNode, live: Live, inputs: Sequence[Value | None]) -> Value:
        """The same values in a tensor of another shape."""
        if live.picked or live.expr.op == "lost":
            return live
        if live.places is None:
            if node.operation == "Transpose":
                unknown = live.stage.layer is None
                self.problems.refuse(node, self.unknown_shape if unknown else "is not supported in a binary network")
            return live
        sizes = numbers_of(inputs[1]) if len(inputs) > 1 else None
        places = moved(live.places, self.rows, node, sizes)
        if places is not None and places.ndim == 1 and live.outside is not None and live.stage.layer is not None:
            return self.move(node, self.settled(node, live), inputs)
        if places is not None:
            return dataclasses.replace(live, places=places)
        if node.operation == "Expand" and sizes is not None and self._multiplies(node, live.places.shape, sizes):
            return live
        wide = live.places.size > max(live.places.shape) or live.stage.is_map
        if node.operation == "Transpose" or wide or (node.operation == "Expand" and sizes is not None):
            found = " x ".join(map(str, live.places.shape))
            told = "" if sizes is None else f" to {' x '.join(map(str, sizes))}"
            self.problems.refuse(
                node,
                f"moves values of {found}{told} in a way that is not followed: samples are not kept apart, or it is not told",
            )
        return dataclasses.replace(live, places=None)

    def _multiplies(self, node: OnnxNode, shape: Sequence[int], sizes: Sequence[int]) -> bool:
        """Whether products alone read what a node spreads over a larger shape, as they do themselves, with a value of that
        shape each (y * gate.expand_as(y))."""
        spread = np.broadcast_shapes((self.rows, *shape), tuple(sizes))
        for reader in self.readers.get(node.outputs[0], ()):
            others = [self.values.get(name) for name in reader.inputs if name != node.outputs[0]]
            beside = [one.places.shape for one in others if isinstance(one, Live) and one.places is not None]
            if reader.operation != "Mul" or (self.rows, *next(iter(beside), ())) != spread:
                return False
        return node.outputs[0] in self.readers and node.outputs[0] not in self.graph.outputs

    def pad(self, node: OnnxNode, live: Live, inputs: Sequence[Value | None]) -> Value:
        """Numbers around a map, which a convolution or a pool then reads."""
        if live.expr.op == "lost":
            return live
        mode = str(node.attributes.get("mode", "constant") or "constant").lower()
        if mode != "constant":
            self.problems.refuse(node, f"pads by {mode}, needed is a constant")
        given = [*inputs, None, None, None][1:4]
        ends = numbers_of(given[0]) if given[0] is not None else node.attributes.get("pads", node.attributes.get("paddings"))
        value = node.attributes.get("value", 0.0) if given[1] is None else self.single(node, given[1])
        if live.places is None:
            self.problems.refuse(node, "pads a tensor whose shape is not known; --input-shape says that of the input")
        axes = live.places.ndim + 1
        chosen = numbers_of(given[2]) if given[2] is not None else tuple(range(axes))
        if (
            not isinstance(ends, tuple)
            or chosen is None
            or len(ends) != 2 * len(chosen)
            or not isinstance(value, int | float)
            or any(not -axes <= axis < axes for axis in chosen)
        ):
            self.problems.refuse(node, f"pads {axes} axes by {ends}: is malformed")
        around = [(0, 0)] * axes
        for place, axis in enumerate(chosen):
            around[axis] = int(ends[place]), int(ends[place + len(chosen)])
        if min(map(min, around)) < 0 or any(around[0]):
            self.problems.refuse(node, f"pads by {ends}, which takes values away or adds samples; needed is 0 or more")
        self.use_all([one for one in given if one is not None], f"{node.name}: padding")
        if not any(map(any, around)):
            return live
        self.constants.room(node, [size + sum(pair) for size, pair in zip(live.places.shape, around[1:], strict=True)])
        if live.outside is not None and self.padded_with(node, live) != value:
            self.problems.refuse(node, "pads with another number than that which stands around the map already")
        places = np.pad(live.places, around[1:], constant_values=-1)
        return dataclasses.replace(live, places=places, outside=(live.expr, float(value)))

    # ---------------------------------------------------------------- what has another shape than is followed

    def require_size(self, node: OnnxNode, lives: Sequence[Live], others: Sequence[Value]) -> None:
        """Raise Refused where a number beside values stands for a tensor that makes them larger."""
        shapes = [(self.rows, *live.places.shape) for live in lives if live.places is not None]
        for value in others:
            if isinstance(value, Constant) and value.fills and len(shapes) == len(lives):
                own = np.broadcast_shapes(*shapes)
                if np.broadcast_shapes(own, value.fills) != own:
                    found = " x ".join(map(str, value.fills[1:]))
                    self.problems.refuse(node, f"spreads values over {found}, which is not supported in a binary network")

    def require_channels(self, node: OnnxNode, live: Live, inputs: Sequence[Value | None]) -> None:
        """Raise Refused where a node picks, or keeps an order, among something else than the scores of a sample or pixel."""
        axis, second = node.attributes.get("axis"), inputs[1:2]
        if axis is None:
            axis = 0 if node.operation == "ArgMax" else -1
        if node.operation == "ArgMax" and second:  # TensorFlow's
            axis = int(second[0].array.reshape(())) if isinstance(second[0], Constant) else None
        channels = live.stage.shape[-1] if live.stage.shape else live.stage.width
        if isinstance(axis, int) and not across_channels(live.places, axis, channels):
            self.problems.refuse(
                node, f"takes the axis {axis}, not that of the channels, which is not supported in a binary network"
            )

    # ---------------------------------------------------------------- pools

    def pool(self, node: OnnxNode, live: Live, sizes: Value | None = None) -> Value:
        """The largest or the average of windows of a map.  sizes: of a window, or of outputs, where they are computed."""
        if live.expr.op == "lost":
            return live
        if sizes is not None:
            node = self._sized(node, live, numbers_of(sizes))
        kind = POOLS[node.operation]
        if live.stage.layer is None:
            reason = "pools the input itself, before the first layer, which is not supported in a binary network"
            self.problems.refuse(node, reason)
        if node.operation.startswith("Global") and _is_pixel(live):
            return live
        whole = live
        live, border = self.as_map(node, live)
        whole_map = node.operation.startswith(("Global", "Adaptive"))  # its windows are of the map with what pads it
        if live.outside is not None and any(border) and (whole_map or not self._is_neutral(node, kind, live)):
            live, border = self.as_map(node, self.settled(node, whole))
        assert live.stage.shape is not None
        assert live.places is not None
        axes = live.places.ndim - 1
        *size_, channels = live.stage.shape
        size = size_[0], size_[1]
        window: Window | None = None
        counted = bool(node.attributes.get("count_include_pad", 0))
        if node.operation.startswith("Adaptive"):
            window = self._adaptive(node, size, axes)
        elif not node.operation.startswith("Global"):
            top, bottom, left, right = border
            padded = size[0] + top + bottom, size[1] + left + right
            around = window_of(node, kernel_size(node, axes, self.problems), padded, axes, self.problems)
            if counted and node.attributes.get("ceil_mode", 0):
                floor = dataclasses.replace(node, attributes={**node.attributes, "ceil_mode": 0})
                own = window_of(floor, around.size, padded, axes, self.problems).padding
                if node.attributes.get("divisor") is None and own != around.padding:
                    beyond = tuple(every - one for every, one in zip(around.padding, own, strict=True))
                    return self._over_padded(node, whole, own, beyond)
            window = joined(around, border)
            require_outputs(node, window, size, self.problems)
            counted = kind == "average" and self._counts(node, window, counted, own=any(around.padding), border=any(border))
        stage = self._pooled(node, dataclasses.replace(live, outside=None), kind, window, padded=counted)
        if stage is None:
            return self.nothing()
        height, width = (1, 1) if window is None else window.outputs(*size)
        shape = height, width, channels
        made = self.begin(node.name, stage, shape, self.counting.channels_first(shape, node.name, axes + 1))
        return made if window is None else self._divided(node, made, window)

    def _sized(self, node: OnnxNode, live: Live, numbers: tuple[int, ...] | None) -> OnnxNode:
        """A pool with the sizes that are computed from a shape.  Raises Refused."""
        if numbers is None or live.places is None:
            self.problems.refuse(node, self.unknown_shape)
        if node.operation.startswith("Adaptive"):
            return dataclasses.replace(node, attributes={**node.attributes, "sizes": numbers})
        numbers = numbers * (live.places.ndim - 1) if len(numbers) == 1 else numbers
        said = {"kernel_shape": numbers, "strides": node.attributes.get("strides") or numbers}
        return dataclasses.replace(node, attributes={**node.attributes, **said})

    def _over_padded(self, node: OnnxNode, live: Live, own: Sequence[int], beyond: Sequence[int]) -> Value:
        """An average that counts what pads its map, `own`, but not what its last windows reach beyond that (ceil_mode): of the
        map with zeros around it, without what lies outside of these.  Both (top, bottom, left, right)."""
        assert live.places is not None
        axes = live.places.ndim - 1

        def pads(of: Sequence[int]) -> tuple[int, ...]:
            top, bottom, left, right = of
            return (top, left, bottom, right) if axes == 2 else (left, right)

        if any(own):
            ends = (0, 0, *pads(own)[:axes], 0, 0, *pads(own)[axes:])
            around = OnnxNode("Pad", f"{node.name}.zeros", node.inputs, node.outputs, {"pads": ends})
            padded = self.pad(around, live, (live,))
            assert isinstance(padded, Live)
            live = padded
        if live.outside is not None:
            live = self.settled(node, live)
        said = {**node.attributes, "pads": pads(beyond), "count_include_pad": 0, "ceil_mode": 0, "auto_pad": "NOTSET"}
        return self.pool(dataclasses.replace(node, attributes=said), live)

    def _divided(self, node: OnnxNode, made: Live, window: Window) -> Value:
        """An average whose sum the node divides by another number than that of a window's numbers, which is a power of two
        times that: exact."""
        divisor = node.attributes.get("divisor")
        if not isinstance(divisor, int) or divisor == window.taps:
            return made
        return self.apply(node, "Mul", made, self.number(window.taps / divisor))

    def whole(self, node: OnnxNode, live: Live, inputs: Sequence[Value | None]) -> Value:
        """The mean, the sum or the largest of all pixels of a map, or of those of each line or column."""
        if live.expr.op == "lost":
            return live
        given = node.attributes.get("axes", numbers_of(inputs[1]) if len(inputs) > 1 else None)
        self.use_all([one for one in inputs[1:] if one is not None], "shape or setting")
        live = self.in_order(node, live)
        places = live.places
        shape = live.stage.shape
        if places is not None and isinstance(given, tuple) and _is_pixel(live):
            gone = {int(axis) % (places.ndim + 1) - 1 for axis in given}
            if all(axis >= 0 and places.shape[axis] == 1 for axis in gone):
                dims = [
                    size for axis, size in enumerate(places.shape) if axis not in gone or node.attributes.get("keepdims", 1)
                ]
                return dataclasses.replace(live, places=places.reshape(dims))
        if places is None or not isinstance(given, tuple) or live.stage.layer is None or shape is None or len(shape) != 3:
            self.problems.refuse(node, "is not supported in a binary network")
        axes = [int(axis) % (places.ndim + 1) - 1 for axis in given]
        whole = over_whole_map(places, axes, shape)
        along = None if whole else over_lines(places, axes, shape)
        if live.outside is not None or not (whole or along is not None):
            self.problems.refuse(node, f"takes the axes {given}, which are not all pixels of a map and nothing else")
        size = (shape[0], shape[1]) if along is None else (shape[0], 1) if along == 0 else (1, shape[1])
        if node.operation == "ReduceSum" and math.frexp(math.prod(size))[0] != 0.5:
            reason = f"adds up {math.prod(size)} pixels, needed is a power of two: else means of them are rounded twice"
            self.problems.refuse(node, reason)
        stage = self._pooled(node, live, WHOLE[node.operation], None if whole else Window(size, size))
        if stage is None:
            return self.nothing()
        kept = bool(node.attributes.get("keepdims", 1))
        dims = [1 if axis in axes else size for axis, size in enumerate(places.shape) if kept or axis not in axes]
        after = (shape[0] // size[0], shape[1] // size[1], shape[2])
        if whole:
            found = self.counting.in_order((shape[2],), node.name)
        else:
            found = np.asarray(np.ravel_multi_index(np.unravel_index(places.take(0, axes[0]), shape), after), np.int32)
        made = self.begin(node.name, stage, after, found.reshape(dims))
        return self.apply(node, "Mul", made, self.number(math.prod(size))) if node.operation == "ReduceSum" else made

    def _pooled(
        self, node: OnnxNode, live: Live, kind: PoolKind, window: Window | None, *, padded: bool = False
    ) -> Stage | None:
        """A pool of the network; None where what it reads could not be read."""
        width = live.stage.width
        assert width is not None
        before = self.read(node, live, width)
        if before is not None and before.signs is not None and kind == "average":
            live = self._number(node, live)
            before = self.read(node, live, width)
        if before is None:
            return None
        return self.passed(node, live.stage, before, Pool(kind, window, padded), node.name)

    def _adaptive(self, node: OnnxNode, size: Pair, axes: int) -> Window | None:
        """The window of a pool that is told how many outputs it has."""
        given = node.attributes.get("sizes")
        wanted = tuple(given) if isinstance(given, tuple) else ()
        wanted = wanted * axes if len(wanted) == 1 else wanted
        outputs = [length if number < 0 else number for number, length in zip(wanted, size[2 - axes :], strict=False)]
        outputs = [1] * (2 - len(outputs)) + outputs if axes == 1 else outputs
        if len(outputs) != 2 or any(number < 1 or length % number for number, length in zip(outputs, size, strict=True)):
            found = "x".join(map(str, size))
            self.problems.refuse(
                node, f"pools a map of {found} to {'x'.join(map(str, wanted))}, so that its windows differ; needed are divisors"
            )
        if outputs == [1, 1]:
            return None
        each = size[0] // int(outputs[0]), size[1] // int(outputs[1])
        return Window(each, each)

    def _counts(self, node: OnnxNode, window: Window, counted: bool, *, own: bool, border: bool) -> bool:
        """Whether an average counts what lies outside.  own: it pads its map; border: the graph does.  Raises Refused."""
        divisor = node.attributes.get("divisor")
        if divisor is not None:
            share = window.taps / divisor if isinstance(divisor, int) and divisor > 0 else 0.0
            if math.frexp(share)[0] != 0.5:
                reason = f"the {window.taps} of a window, times a power of two: else its averages are rounded twice"
                self.problems.refuse(node, f"divides the sums of its windows by {divisor}, needed is {reason}")
        counted = counted or divisor is not None
        if border and own and not counted:
            self.problems.refuse(node, "counts a part of what pads its map, which is not supported in a binary network")
        return (counted and own) or border

    def _is_neutral(self, node: OnnxNode, kind: PoolKind, live: Live) -> bool:
        """Whether what stands around the map changes no window."""
        number = self.around(live)
        if number is None:
            return False
        before = self.read(node, dataclasses.replace(live, outside=None), live.stage.width or 1)
        signs = None if before is None else before.signs
        lowest = number == -np.inf or (signs is not None and number <= signs.low)
        counts = node.attributes.get("count_include_pad", 0) or node.attributes.get("divisor") or not any(_pads(node))
        return lowest if kind == "max" else number == 0 and bool(counts)


def _is_pixel(live: Live) -> bool:
    """Whether a map is a vector's, of one pixel, which is its mean and its largest."""
    places, shape = live.places, live.stage.shape
    vector = places is not None and shape is not None and len(shape) == 1 and live.outside is None
    return vector and places is not None and places.size == max(places.shape) and live.stage.layer is not None


def _pads(node: OnnxNode) -> tuple[Any, ...]:
    """What a pool says of its own padding."""
    said = node.attributes.get("pads", ())
    same = "SAME" in str(node.attributes.get("auto_pad", ""))
    return (*said, same) if isinstance(said, tuple) else (same,)

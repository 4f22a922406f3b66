"""Where the layers of a net.toml look: the windows of convolutions and pools, and the order in which maps become vectors.

Maps are (height, width, channels) as in `net`; images of one line have a height of 1, and of numbers for both directions the
one across alone means them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes
from xnorinfer.converters.nettoml.layerweights import Kernel
from xnorinfer.converters.nettoml.table import Table
from xnorinfer.net.ops import Flatten, Linear, Named, Pool
from xnorinfer.net.values import Shape
from xnorinfer.net.windows import POOL_KINDS, Pair, Window

#: What a layer with a window may say, and a dense one may not.
OF_WINDOWS = ("stride", "padding", "dilation", "groups", "pad")
FLATTENS = ("channels_first", "channels_last")
_FLATTENS = '"channels_first" (PyTorch, Lasagne) or "channels_last" (TensorFlow, Keras)'
#: Where a pool may stand, each behind what its word says.
PLACES = ("sum", "norm", "activation")
_PAIR = "a whole number above 0, or [DOWN, ACROSS]"
_PADDING = 'a whole number, [DOWN, ACROSS], [TOP, BOTTOM, LEFT, RIGHT], "same" or "valid"'


@dataclass
class Flow:
    """What arrives at the next layer.

    shape: of a sample, as far as the file tells it; None where it does not, or after a problem.  order: of a vector that was a
    map with channels outermost, the place in the source of each value; None for the order of `net`.
    line: whether the images are lines.  channels_first: whether anything has channels before height and width.
    spatial: whether it is a map, of a size that may not be known.  broken: whether that is a problem already.
    """

    shape: Shape | None = None
    spatial: bool = False
    broken: bool = False
    order: NDArray[np.int64] | None = None
    line: bool = False
    channels_first: bool = False
    names: dict[str, int] = field(default_factory=dict)

    @property
    def map(self) -> tuple[int, int, int] | None:
        """The shape where it is a map."""
        if self.shape is None or len(self.shape) != 3:
            return None
        height, width, channels = self.shape
        return height, width, channels

    def name(self, label: str, what: str) -> str:
        """The name of a node beside a layer: conv1.pool, conv1.pool2, ..."""
        count = self.names[f"{label}.{what}"] = self.names.get(f"{label}.{what}", 0) + 1
        return f"{label}.{what}{count if count > 1 else ''}"

    def passes(self, window: Window, channels: int) -> None:
        """What a window makes of the shape; one that does not fit is for the network's check to report."""
        outputs = window.outputs(*self.map[:2]) if self.map is not None else (0, 0)
        self.shape = (*outputs, channels) if min(outputs) > 0 else None


def read_input_shape(table: Table, flow: Flow) -> None:
    """The key shape of [input]."""
    shape = table.sizes("shape", "[HEIGHT, WIDTH, CHANNELS], or [WIDTH, CHANNELS] of lines", counts=(2, 3), least=1)
    if isinstance(shape, tuple):
        flow.line = len(shape) == 2
        flow.shape = (1, *shape) if flow.line else shape
        flow.spatial = True
    elif "shape" in table:
        flow.broken = True


@dataclass
class WindowReader:
    """Reads windows with what the top of the file says about all convolutions."""

    top: Table

    def __post_init__(self) -> None:
        self.stride = _pair(self.top, "stride", line=False)
        self.padding = self.top.sizes("padding", _PADDING, counts=(1, 2, 4), least=0, words=("same", "valid"))
        self.flatten = self.top.choice("flatten", FLATTENS)

    def placed(self, table: Table, kernel: Kernel | None, flow: Flow) -> dict[str, Any]:
        """The fields window, groups and pad of a layer's `Linear`; {} for dense layers."""
        stride, dilation = _pair(table, "stride", line=flow.line), _pair(table, "dilation", line=flow.line)
        padding = table.sizes("padding", _PADDING, counts=(1, 2, 4), least=0, words=("same", "valid"))
        groups, pad = table.integer("groups", least=1, most=1 << 40), table.integer("pad", least=-1, most=1)
        if kernel is None:
            return {}
        size = kernel.window
        if size is None:
            for key in OF_WINDOWS:
                if key in table:
                    table.problem(key, "belongs to convolutions, whose kernels have four dimensions")
            return {}
        stride = stride or self.stride
        if padding is None and "padding" not in table:
            padding = self.padding
        for key, value, needed in (("stride", stride, _PAIR), ("padding", padding, _PADDING)):
            if value is None and key not in table and key not in self.top:
                table.problem(key, f"is missing, here or at the top: {needed}")
        flow.spatial = True
        if stride is None or padding is None:
            flow.shape, flow.broken = None, True
            return {"window": Window(size)}
        if flow.line:
            stride = (1, stride[1])
        window = _padded(Window(size, stride, dilation or (1, 1)), padding, flow)
        flow.passes(window, kernel.neurons)
        return {"window": window, "groups": groups or 1, "pad": pad or 0}

    def flattened(self, table: Table, label: str, flow: Flow, depth: int | None) -> list[Named]:
        """The node before a dense layer of `depth` inputs that reads a map; None: within the steps behind a layer."""
        said = table.choice("flatten", FLATTENS)
        missing = said is None and self.flatten is None and "flatten" not in table
        if flow.map is None:
            if missing and flow.spatial and flow.broken:
                table.problem("flatten", f"is missing, here or at the top: {_FLATTENS}")
            if said is not None and flow.shape is not None:
                table.problem(
                    "flatten", f"belongs to {'steps on a map' if depth is None else 'a dense layer that reads a map'}"
                )
            return []
        height, width, channels = flow.map
        if missing and height * width > 1 and channels > 1:
            size = f"a map of {height}x{width} and {channels} channels becomes a vector"
            table.problem("flatten", f"is missing, here or at the top, where {size}: {_FLATTENS}")
        flow.channels_first |= (said or self.flatten) == "channels_first"
        # A layer of another depth does not fit, which the network's check reports.
        if (said or self.flatten) == "channels_first" and depth in (None, height * width * channels):
            spend_bytes(24 * height * width * channels, f"{label}: the order of a map of {height}x{width}x{channels}")
            flow.order = np.arange(height * width * channels).reshape(channels, height, width).transpose(1, 2, 0).reshape(-1)
        flow.shape, flow.spatial = (height * width * channels,), False
        return [(flow.name(label, "flatten"), Flatten())]

    def pools(self, table: Table, label: str, flow: Flow, place: str) -> Iterator[Named]:
        """The pools of a layer that stand at a place, in order."""
        given = table.values.get("pool")
        for inner in table.tables("pool") if isinstance(given, list) else [table.table("pool")]:
            if inner is None or inner.values.get("after") != place:
                continue
            yield from self.pool(inner, label, flow)
            inner.choice("after", PLACES)
            inner.close()

    def pool(self, table: Table, label: str, flow: Flow) -> Iterator[Named]:
        """A pool by its table, but for its place."""
        before = len(table.problems)
        name, kind = table.text("name"), table.choice("kind", POOL_KINDS)
        size = table.sizes("size", f'{_PAIR}, or "map": all of it', counts=(1, 2), least=1, words=("map",))
        stride, dilation = _pair(table, "stride", line=flow.line), _pair(table, "dilation", line=flow.line)
        padding = table.sizes("padding", _PADDING, counts=(1, 2, 4), least=0, words=("same", "valid"))
        padded = table.flag("padded")
        for key, value, needed in (("kind", kind, '"max" or "average"'), ("size", size, f'{_PAIR}, or "map": all of it')):
            if value is None and key not in table:
                table.problem(key, f"is missing, needed is {needed}")
        if padded and kind == "max":
            table.problem("padded", "belongs to average pools: whether what lies outside counts, as 0")
        if size == "map" and (given := [key for key in ("stride", "padding", "dilation", "padded") if key in table]):
            table.problem("", f'{" and ".join(given)} mean nothing beside size = "map"')
        if len(table.problems) > before or kind is None or size is None:
            flow.shape, flow.broken = None, True
            return
        label = name or flow.name(label, "pool")
        if isinstance(size, str):
            flow.shape = None if flow.map is None else (1, 1, flow.map[2])
            yield label, Pool(kind)
            return
        window = Window(_both(size, line=flow.line))
        window = Window(window.size, window.size if stride is None else stride, dilation or (1, 1))
        window = _padded(window, (0,) if padding is None else padding, flow)
        flow.passes(window, 0 if flow.map is None else flow.map[2])
        yield label, Pool(kind, window, padded)


def require_places(table: Table, flow: Flow, *, threshold: bool) -> None:
    """Report pools of a layer that do not say where they stand, or cannot stand there."""
    before, given = len(table.problems), table.values.get("pool")
    for inner in table.tables("pool") if isinstance(given, list) else [table.table("pool")]:
        if inner is None:
            continue
        place = inner.choice("after", PLACES)
        if place is None and "after" not in inner:
            inner.problem(
                "after", 'is missing: a pool stands behind the "sum", before BatchNorm, behind the "norm", or the "activation"'
            )
        if place == "norm" and threshold:
            inner.problem("after", 'is "norm": a threshold is BatchNorm and sign at once; "sum" or "activation"')
    flow.broken |= len(table.problems) > before


def columns_of(kernel: Kernel, flow: Flow) -> Kernel:
    """A dense kernel with its inputs in the order of `net`."""
    order, flow.order = flow.order, None
    if order is None or kernel.array.ndim != 2 or kernel.depth != len(order):
        return kernel
    return Kernel(np.ascontiguousarray(kernel.array[:, order]), kernel.h, np.ascontiguousarray(kernel.stored[:, order]))


def counts_zeros(layer: Linear) -> bool:
    """Whether a map is padded by zeros, which are neither of two bits."""
    return layer.window is not None and any(layer.window.padding) and layer.pad == 0


def _pair(table: Table, key: str, *, line: bool) -> Pair | None:
    numbers = table.sizes(key, _PAIR, counts=(1, 2), least=1)
    return _both(numbers, line=line) if isinstance(numbers, tuple) else None


def _both(numbers: tuple[int, ...], *, line: bool) -> Pair:
    """One number for both directions, or across alone."""
    if len(numbers) == 1:
        return (1 if line else numbers[0]), numbers[0]
    return numbers[0], numbers[1]


def _padded(window: Window, padding: tuple[int, ...] | str, flow: Flow) -> Window:
    if padding == "same":
        return window if flow.map is None else window.same(*flow.map[:2])
    if isinstance(padding, str):
        return window
    if len(padding) == 1:
        padding = (0 if flow.line else padding[0], padding[0])
    if len(padding) == 2:
        padding = (padding[0], padding[0], padding[1], padding[1])
    top, bottom, left, right = padding
    return Window(window.size, window.stride, window.dilation, (top, bottom, left, right))

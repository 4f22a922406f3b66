"""Windows: where a convolution or a pool looks on a map, which outputs that gives, and which taps lie outside the map.

Maps are (height, width, channels).  A tap is one place of a window, (y, x) of its kernel.  Outputs whose windows have the same
taps outside the map are of one border class: 9 classes for 3x3 with a padding of 1, one where nothing is padded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]

#: No image has more lines or columns, nor a window taps in one; and no layer reads more values of one sample.
MOST_SIZE, MOST_VALUES = 1 << 20, 1 << 40

#: max: the largest of what lies on the map.  average: the sum, in float64 line by line, divided by their number and rounded to
#: float32 once.
PoolKind = Literal["max", "average"]
POOL_KINDS: tuple[PoolKind, ...] = ("max", "average")


@dataclass(frozen=True)
class Window:
    """A window in units of pixels: size, stride and dilation as (height, width), padding as (top, bottom, left, right)."""

    size: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Window:
        """The window that takes a whole map, (height, width, ...)."""
        return cls((shape[0], shape[1]))

    def same(self, height: int, width: int) -> Window:
        """This window with the padding that frameworks call "same": an output for every stride of a map of that size.

        What is odd goes below and right, as in TensorFlow, Keras and PyTorch (ONNX' SAME_UPPER).
        """
        before_after = []
        for size, reach, step in zip((height, width), self.reach, self.stride, strict=True):
            total = max((-(-size // step) - 1) * step + reach - size, 0)
            before_after += [total // 2, total - total // 2]
        top, bottom, left, right = before_after
        return replace(self, padding=(top, bottom, left, right))

    @property
    def reach(self) -> Pair:
        """Pixels from the first tap to the last, both included: (height, width)."""
        (kh, kw), (dh, dw) = self.size, self.dilation
        return dh * (kh - 1) + 1, dw * (kw - 1) + 1

    @property
    def taps(self) -> int:
        return self.size[0] * self.size[1]

    def outputs(self, height: int, width: int) -> Pair:
        """Outputs over a map, (height, width); 0 or less where the window is larger than the padded map."""
        top, bottom, left, right = self.padding
        padded = height + top + bottom, width + left + right
        down, across = ((size - reach) // step + 1 for size, reach, step in zip(padded, self.reach, self.stride, strict=True))
        return down, across

    def rows_and_columns(self, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row of the map of every tap of every output, (outputs down, kernel height); the same of columns.

        Those below 0 or not below height and width lie outside.
        """
        down, across = self.outputs(height, width)
        top, _, left, _ = self.padding
        ways = ((down, 0, top), (across, 1, left))
        rows, columns = (
            np.arange(count)[:, None] * self.stride[axis] + np.arange(self.size[axis]) * self.dilation[axis] - before
            for count, axis, before in ways
        )
        return rows, columns


class Borders(NamedTuple):
    """Border classes of a window over a map.

    of: (outputs down, outputs across) int64, the class of each output.  inside: (classes, kernel height, kernel width) bool,
    which taps lie on the map.  Classes are numbered as they first occur, line by line.
    """

    of: NDArray[np.int64]
    inside: NDArray[np.bool_]


def borders(window: Window, height: int, width: int) -> Borders:
    """The border classes of a window over a map of that size."""
    down, across = _classes_by_axis(window, height, width)
    return Borders(down.of[:, None] * len(across.taps) + across.of, _inside(down, across, window))


def taps_inside(window: Window, height: int, width: int) -> NDArray[np.bool_]:
    """`inside` of the border classes alone: (classes, kernel height, kernel width) bool."""
    return _inside(*_classes_by_axis(window, height, width), window)


def taps_by_axis(window: Window, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many rows of the kernel lie on the map in every class down, and how many columns in every class across.

    Border classes are the pairs of both, across innermost: large windows over large maps have many.
    """
    down, across = _classes_by_axis(window, height, width)
    return down.taps, across.taps


class _Classes(NamedTuple):
    """Of one axis: the class of each output, numbered as they first occur; of each class the first tap on the map, and how
    many there are, which are neighbours."""

    of: NDArray[np.int64]
    first: NDArray[np.int64]
    taps: NDArray[np.int64]


def _inside(down: _Classes, across: _Classes, window: Window) -> NDArray[np.bool_]:
    rows, columns = (
        (np.arange(size) >= axis.first[:, None]) & (np.arange(size) < (axis.first + axis.taps)[:, None])
        for axis, size in zip((down, across), window.size, strict=True)
    )
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, *window.size)


def _classes_by_axis(window: Window, height: int, width: int) -> tuple[_Classes, _Classes]:
    """Down and across.  Line by line, classes of both first occur in the order of (class down, class across)."""
    top, _, left, _ = window.padding
    found = []
    for axis, (outputs, size, before) in enumerate(
        zip(window.outputs(height, width), (height, width), (top, left), strict=True)
    ):
        taps, step = window.size[axis], window.dilation[axis]
        places = np.arange(outputs) * window.stride[axis] - before  # of the first tap
        first = np.maximum(-(places // step), 0)  # the first that is not below 0
        count = np.maximum(np.minimum((size - 1 - places) // step, taps - 1) - first + 1, 0)
        _, at, which = np.unique(first * (count > 0) * (taps + 1) + count, return_index=True, return_inverse=True)
        rank, order = np.argsort(np.argsort(at)), np.sort(at)
        found.append(_Classes(rank[which.reshape(-1)], first[order], count[order]))
    return found[0], found[1]

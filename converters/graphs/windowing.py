"""The windows of convolutions and pools, as the attributes of ONNX' nodes say them."""

from __future__ import annotations

import math
from dataclasses import replace

from xnorinfer.converters.containers.onnxfile import OnnxNode
from xnorinfer.converters.graphs.places import Border
from xnorinfer.converters.graphs.problems import Problems
from xnorinfer.net.windows import Pair, Window

#: No window reaches further, and no map is padded by more.
MOST = 1 << 20


def window_of(node: OnnxNode, size: Pair, padded: Pair, axes: int, problems: Problems) -> Window:
    """The window of a node over a map that is padded already to a size.  size: of its kernel; axes: how many of a map the node
    speaks of, 1 or 2.  Raises Refused."""
    stride = _pair(node, "strides", axes, problems)
    dilation = _pair(node, "dilations", axes, problems)
    for name, pair in (("strides", stride), ("dilations", dilation), ("kernel_shape", size)):
        if not all(1 <= number <= MOST for number in pair):
            problems.refuse(node, f"has the {name} {_listed(pair, axes)}, needed are numbers from 1 on, at most {MOST}")
    window = Window(size, stride, dilation)
    auto = node.attributes.get("auto_pad", "NOTSET") or "NOTSET"
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        window = window.same(*padded)
        if auto == "SAME_LOWER":
            top, bottom, left, right = window.padding
            window = replace(window, padding=(bottom, top, right, left))
    elif auto == "NOTSET":
        window = replace(window, padding=_pads(node, axes, problems))
    elif auto != "VALID":
        problems.refuse(node, f"pads by {auto}, needed is NOTSET, SAME_UPPER, SAME_LOWER or VALID")
    if node.attributes.get("ceil_mode", 0):
        window, dropped = _rounded_up(window, padded)
        if dropped and node.attributes.get("keeps_empty", 0):  # of MXNet
            problems.refuse(node, f"has windows {_listed(size, axes)} that lie outside of the map: is malformed")
    require_outputs(node, window, padded, problems)
    return window


def require_outputs(node: OnnxNode, window: Window, size: Pair, problems: Problems) -> None:
    """That a window fits on a map of that size.  Raises Refused."""
    if min(window.outputs(*size)) < 1:
        reach = "x".join(map(str, window.reach))
        reason = f"has a window that reaches over {reach} pixels, and reads a map of {size[0]}x{size[1]} with a padding of "
        problems.refuse(node, f"{reason}{window.padding}: needed is a map that is as large")


def kernel_size(node: OnnxNode, axes: int, problems: Problems) -> Pair:
    """The size of a pool's window, which has no weights.  Raises Refused."""
    if "kernel_shape" not in node.attributes:
        problems.refuse(node, "has no kernel_shape: is malformed")
    return _pair(node, "kernel_shape", axes, problems)


def joined(window: Window, border: Border) -> Window:
    """A window over a map with a border, as one over the map alone."""
    top, bottom, left, right = (one + other for one, other in zip(window.padding, border, strict=True))
    return replace(window, padding=(top, bottom, left, right))


def _pair(node: OnnxNode, name: str, axes: int, problems: Problems) -> Pair:
    given = node.attributes.get(name) or (1,) * axes
    if not isinstance(given, tuple) or len(given) != axes or not all(isinstance(number, int) for number in given):
        problems.refuse(node, f"has the {name} {given}, needed {'are two numbers' if axes == 2 else 'is one number'}")
    return (1, int(given[0])) if axes == 1 else (int(given[0]), int(given[1]))


def _pads(node: OnnxNode, axes: int, problems: Problems) -> Border:
    given = node.attributes.get("pads") or (0,) * (2 * axes)
    if not isinstance(given, tuple) or len(given) != 2 * axes or not all(isinstance(number, int) for number in given):
        problems.refuse(node, f"has the pads {given}, needed are {2 * axes} numbers")
    numbers = [int(number) for number in given]
    if not all(0 <= number <= MOST for number in numbers):
        problems.refuse(node, f"has the pads {given}, needed are numbers from 0 on, at most {MOST}")
    if axes == 1:
        return 0, 0, numbers[0], numbers[1]
    return numbers[0], numbers[2], numbers[1], numbers[3]


def _rounded_up(window: Window, size: Pair) -> tuple[Window, bool]:
    """With more behind the map, as far as a last window needs that begins on the map or before it; and whether there would be
    another one, which begins behind it."""
    dropped = False
    padding = list(window.padding)
    for axis, (length, reach, step) in enumerate(zip(size, window.reach, window.stride, strict=True)):
        before, behind = padding[2 * axis : 2 * axis + 2]
        count = math.ceil((length + before + behind - reach) / step) + 1
        if (count - 1) * step >= length + before:
            count, dropped = count - 1, True
        padding[2 * axis + 1] = max(behind, (count - 1) * step + reach - length - before)
    top, bottom, left, right = padding
    return replace(window, padding=(top, bottom, left, right)), dropped


def _listed(pair: Pair, axes: int) -> str:
    return ", ".join(map(str, pair[2 - axes :]))

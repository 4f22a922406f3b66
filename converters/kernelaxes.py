"""Which axis of a kernel is which: the layouts of the frameworks, and kernels as `net` has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes

#: Axes of dense kernels, (inputs, neurons) and (neurons, inputs).
LAYOUTS = ("in_out", "out_in")
#: Axes of the kernels of convolutions: O neurons, I channels of a group, H and W the window's; M neurons of every channel.
KERNEL_LAYOUTS = ("OIHW", "HWIO", "OHWI", "HWIM")


def arranged(array: NDArray[Any], layout: str, *, flipped: bool = False) -> NDArray[Any]:
    """A kernel as `Linear` has it.  array: of two dimensions under `LAYOUTS`; of four, or of three without H, under
    `KERNEL_LAYOUTS`.  flipped: the window is stored upside down and mirrored."""
    if layout in LAYOUTS:
        return _contiguous(array.T) if layout == "in_out" else array
    if array.ndim == 3:
        array = np.expand_dims(array, layout.index("H"))
    if layout == "HWIM":
        height, width, channels, each = array.shape
        array = _contiguous(array.transpose(2, 3, 0, 1)).reshape(channels * each, height, width, 1)
    else:
        array = array.transpose([layout.index(axis) for axis in "OHWI"])
    return _contiguous(array[:, ::-1, ::-1] if flipped else array)


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    if not array.flags.c_contiguous:
        spend_bytes(array.nbytes, f"a kernel of shape {array.shape} in another order")
    return np.ascontiguousarray(array)


def axes_of(layout: str) -> str:
    """The axes of a layout in words."""
    words = {"O": "neurons", "I": "channels", "H": "height", "W": "width", "M": "neurons of each channel"}
    if layout in LAYOUTS:
        return "(inputs, neurons)" if layout == "in_out" else "(neurons, inputs)"
    return f"({', '.join(words[axis] for axis in layout)})"

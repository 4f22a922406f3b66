"""The weights of a layer of a net.toml: which axis is which, what their numbers mean, and what they are multiplied by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xnorinfer.converters.kernelaxes import KERNEL_LAYOUTS, LAYOUTS, arranged, axes_of
from xnorinfer.converters.latents import centred
from xnorinfer.converters.nettoml.layerarrays import Arrays
from xnorinfer.converters.nettoml.table import Table
from xnorinfer.converters.reading import glorot
from xnorinfer.float32 import F32

VALUES = ("latent", "signs", "bits", "bits-inverted")


#: Weights are centred by the mean of a whole neuron, not of each tap of a convolution.
WHOLE = "neuron"


@dataclass(frozen=True, eq=False)
class Kernel:
    """What a layer's table says about its weights.

    array: as `Linear` has it, (neurons, depth) or (neurons, kernel height, kernel width, channels of a group); h: the magnitude
    of binary ones.  stored: as in the file, before they are centred and clipped.
    """

    array: F32
    h: float
    stored: F32

    @property
    def neurons(self) -> int:
        return int(self.array.shape[0])

    @property
    def depth(self) -> int:
        return int(np.prod(self.array.shape[1:]))

    @property
    def window(self) -> tuple[int, int] | None:
        """The size of a convolution's window."""
        return None if self.array.ndim == 2 else (int(self.array.shape[1]), int(self.array.shape[2]))


def magnitude_of(table: Table) -> float | str | None:
    """The key h: a number above 0, or "glorot"."""
    if table.values.get("h") == "glorot":
        return str(table.choice("h", ("glorot",)))
    return table.number("h", above=0)


@dataclass
class WeightReader:
    """Reads weights with what the top of the file says about all of them.

    channels_first: whether the kernels of the first layer have channels before height and width.
    """

    top: Table
    arrays: Arrays
    channels_first: bool = False

    def __post_init__(self) -> None:
        self.layout = self.top.choice("layout", LAYOUTS)
        self.kernel_layout = self.top.choice("kernel_layout", KERNEL_LAYOUTS)
        self.flipped = self.top.flag("flipped")
        self.values = self.top.choice("values", VALUES) or "latent"
        self.h = magnitude_of(self.top)
        self.center = self.top.flag_or("center", WHOLE)

    def _dimensions(self, name: str) -> int:
        """How many dimensions an array of the container has; 2 where that takes loading it."""
        entry = self.arrays.entries.get(name)
        return 2 if entry is None else len(entry.shape)

    def _layout(self, table: Table, dimensions: int) -> str | None:
        """The layout of a layer's kernel; None after reporting a problem."""
        said: str | None = table.choice("layout", (*LAYOUTS, *KERNEL_LAYOUTS))
        usual, fitting = (self.layout, LAYOUTS) if dimensions <= 2 else (self.kernel_layout, KERNEL_LAYOUTS)
        if said is not None and said not in fitting:
            table.problem("layout", f'"{said}" {axes_of(said)} is of other kernels; this one has {dimensions} dimensions')
            return None
        if said is None and usual is None and "layout" not in table:
            if dimensions <= 2:
                wanted = 'is missing, here or at the top: "in_out" (inputs, neurons) or "out_in" (neurons, inputs)'
            else:
                listed = " or ".join(f'"{one}" {axes_of(one)}' for one in KERNEL_LAYOUTS[:3])
                wanted = f"is missing, here or as kernel_layout at the top: {listed}"
            table.problem("layout", wanted)
        return said or usual

    def kernel(self, index: int, table: Table) -> Kernel | None:
        """The weights of a layer as float32; binary ones as latents.  None after reporting problems."""
        is_float = (table.choice("kind", ("binary", "float")) or "binary") == "float"
        values = table.choice("values", VALUES) or self.values
        own, scale = magnitude_of(table), table.number("weight_scale")
        flipped = table.flag("flipped") if "flipped" in table else self.flipped
        label = table.text("name") or str(index)
        name = table.text("weight")
        if name is None:
            if "weight" not in table:
                table.problem("weight", "is missing: a layer needs the array of its weights")
            return None
        said = table.values.get("layout", self.kernel_layout if self._dimensions(name) > 2 else self.layout)
        tensor = self.arrays.floats(table, "weight", name, f"{label}: weights{f', {said}' if said else ''}")
        layout = self._layout(table, self._dimensions(name) if tensor is None else tensor.ndim)
        if tensor is None or layout is None:
            return None
        if tensor.ndim not in (2, 3, 4) or 0 in tensor.shape:
            axes = f"two dimensions, {axes_of(layout)}" if layout in LAYOUTS else "four, or three where images are lines"
            sized = ", and no size of 0" if 0 in tensor.shape else ""
            table.problem("weight", f"{name} has shape {tensor.shape}, needed are {axes}{sized}")
            return None
        self.channels_first |= index == 0 and layout == "OIHW"
        array = np.asarray(arranged(tensor, layout, flipped=flipped), np.float32)
        if array.ndim == 2 and "flipped" in table:
            table.problem("flipped", "belongs to convolutions, whose kernels have four dimensions")
        if is_float:
            given = [key for key in ("h", "values", "center", "clip_weights") if key in table]
            if given:
                table.problem("", f"{' and '.join(given)} mean nothing in a float layer")
            array = array if scale is None else array * np.float32(scale)
            return Kernel(array, 1.0, array)
        if scale is not None:
            table.problem("weight_scale", "belongs to float layers; binary layers have scale and h")
        h = own if own is not None else self.h
        if h == "glorot":
            taps = 1 if array.ndim == 2 else array.shape[1] * array.shape[2]
            h = glorot(array[0].size, len(array) * taps)
        size = 1.0 if h is None else float(np.float32(h))
        if values != "latent" and np.isfinite(array).all():
            _check_binary(table, name, tensor, values, size)
            if values.startswith("bits"):
                sign = np.float32(1 if values == "bits" else -1)
                array = sign * (2 * array - np.float32(1)) * np.float32(size)
        stored = array
        center = table.flag_or("center", WHOLE) if "center" in table else self.center
        clip = table.number("clip_weights", above=0)
        if center or clip is not None:
            if values != "latent":
                table.problem("center" if center else "clip_weights", f'is for latents; values = "{values}" are binary already')
            array = centred(array, neuron=center == WHOLE) if center else array
            array = array if clip is None else np.clip(array, -np.float32(clip), np.float32(clip))
        return Kernel(array, size, stored)


def _check_binary(table: Table, name: str, array: F32, values: str, magnitude: float) -> None:
    """Report weights that are said to be binary and are not, with the count."""
    low, high = (0.0, 1.0) if values.startswith("bits") else (-magnitude, magnitude)
    wrong = ~((array == np.float32(low)) | (array == np.float32(high)))
    if not wrong.any():
        return
    zeros = wrong & (array == 0)
    some = zeros if zeros.any() else wrong
    index = [int(i) for i in np.argwhere(some)[0]]
    what = "exactly 0" if zeros.any() else f"neither {low:g} nor {high:g}"
    hint = "a ternary network has three values, which one bit cannot hold" if zeros.any() else f"{array[tuple(index)]:g} there"
    if values.startswith("bits") and (array == np.round(array)).all() and array.max() > 3:
        hint += "; packed words are unpacked by [arrays.NAME] with from, unpack and shape"
    found = f"{int(some.sum())} of {array.size} values of {name} are {what}, the first at {index} ({hint})"
    table.problem("weight", f'{found}; values = "{values}"')

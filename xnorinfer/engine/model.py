"""`Model`, the object a user holds: a packed network, planned for this CPU, that takes ordinary arrays."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xnorinfer.engine.margins import Margins, margins
from xnorinfer.errors import InputError, unhandled
from xnorinfer.imageaxes import channels_last
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput, Shape, SignInput, ThresholdInput
from xnorinfer.packing import modelfile
from xnorinfer.packing.description import describe, widths
from xnorinfer.packing.packed import PackedModel

if TYPE_CHECKING:
    from xnorinfer.engine.plan import Plan
    from xnorinfer.report import Report


class Model:
    """A packed network ready to run.

    packed: the portable network.  threads: CPU threads to use (None: XNORINFER_NUM_THREADS, else the cores this process may
    use).  kernel: name of a kernel to force (None: XNORINFER_KERNEL, else the best that this CPU runs).
    Raises KernelError for a kernel that is unknown or that this CPU lacks, MalformedModelError for an inconsistent network.

    A model may be shared by threads, and pickles as its packed bits.
    """

    def __init__(self, packed: PackedModel, *, threads: int | None = None, kernel: str | None = None) -> None:
        from xnorinfer.engine.plan import Plan

        self._asked = (threads, kernel)
        self._plan: Plan = Plan(packed, threads=threads, kernel=kernel)
        self._packed = self._plan.packed
        self._spatial = len(self._packed.score_shape) > 1

    @property
    def packed(self) -> PackedModel:
        """The portable network: bits, limits, steps; its arrays are read-only: what runs was copied from them."""
        return self._packed

    @property
    def score_shape(self) -> Shape:
        """Of the scores of one sample: (classes,), or (height, width, classes) where the network ends in a map."""
        return self._packed.score_shape

    @property
    def threads(self) -> int:
        """Number of CPU threads that the model uses at most."""
        return self._plan.threads

    @property
    def kernel(self) -> str:
        """Name of the kernel in use."""
        return self._plan.kernel

    @property
    def plan(self) -> Plan:
        """The plan behind the model; takes canonical inputs only (`canonical_input`)."""
        return self._plan

    def scores(self, x: ArrayLike) -> NDArray[np.float32]:
        """Scores of samples: x (rows, ...) -> (rows, classes) float32; of a network that ends in a map of more than one pixel
        (rows, height, width, classes).

        Networks of vectors take any trailing shape of as many values as they have inputs; x may be a DataFrame.  Networks of
        images take (rows, height, width, channels), (rows, height, width) where there is one channel, or rows of all values,
        channels innermost.  Where the source of the network has channels first, (rows, channels, height, width) is taken, too.
        Pixel networks take uint8, other integers and floats that are whole numbers in 0..255, or floats that lie on the grid of
        mapped pixels; sign networks -1/+1; real networks finite floats.
        Raises InputError.
        """
        scores = self._plan.run(canonical_input(self._packed, x))
        return scores.reshape(-1, *self._packed.score_shape) if self._spatial else scores

    def predict(self, x: ArrayLike) -> NDArray[np.int64]:
        """Class of each sample, the first one where scores tie: x as in `scores` -> (rows,) int64, of every pixel
        (rows, height, width) where scores are those of a map."""
        return np.asarray(np.argmax(self.scores(x), axis=-1), np.int64)

    def margins(self, x: ArrayLike) -> Margins:
        """How sure every prediction is: x as in `scores`.

        Per sample the gap between the best and the second best score, and per layer with thresholds the smallest integer
        distance of a count to a change of its bit (see `margins`).  Raises InputError.
        """
        canonical = canonical_input(self._packed, x)
        return margins(self._packed, canonical, self._plan.trace(canonical))

    def save(self, path: str | Path) -> None:
        """Write the model file, atomically.  Raises OutputError."""
        modelfile.save(self._packed, path)

    @property
    def info(self) -> dict[str, Any]:
        """What the model is: JSON-able."""
        return describe(self._packed)

    @property
    def report(self) -> Report:
        """What its conversion found, assumed, ignored and warned of; as well after loading.  Raises MalformedModelError."""
        from xnorinfer.report import Report

        return Report.of(self._packed.provenance)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self._packed, *self._asked))

    def __repr__(self) -> str:
        return (
            f"<xnorinfer.Model {widths(self._packed)}, {self._packed.input.kind}, kernel {self.kernel}, {self.threads} threads>"
        )


def _rebuild(packed: PackedModel, threads: int | None, kernel: str | None) -> Model:
    return Model(packed, threads=threads, kernel=kernel)


# ---------------------------------------------------------------- inputs


def canonical_input(packed: PackedModel, x: ArrayLike) -> NDArray[Any]:
    """Ordinary arrays to what a plan takes, (rows, depth), C-contiguous: uint8, int8 (signs) or float32 (reals).

    Raises InputError, which says what was found and what would be right.
    """
    # The usual case first: the checks of `inputs_of` would double the time of a small network at batch 1.
    ready = isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.flags.c_contiguous and type(x) is np.ndarray
    if ready and isinstance(packed.input, PixelInput) and np.shape(x)[1:] == (packed.depth,):
        return np.asarray(x)
    return inputs_of(packed.input, packed.shape, x, raw=True, channels_first=packed.channels_first)


def inputs_of(
    mapping: InputMapping, shape: Shape, x: ArrayLike, *, raw: bool = False, channels_first: bool = False
) -> NDArray[Any]:
    """As `canonical_input`, for a network of inputs of that shape, (features,) or (height, width, channels), under a mapping.

    raw: floats may be raw pixels, too, whole numbers 0..255.  Without it floats are what enters the network, which tells one
    mapping from another.  channels_first: images may come as (rows, channels, height, width), as the source of the network has
    them.
    """
    array = _as_rows(mapping, shape, x, channels_first)
    if isinstance(mapping, RealInput):
        reals = array.astype(np.float32)
        if not np.isfinite(reals).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(reals))[0])
            raise InputError(f"input row {row}, column {column} is {array[row, column]}; real inputs must be finite float32")
        return np.ascontiguousarray(reals)
    if isinstance(mapping, SignInput):
        wrong = (array != 1) & (array != -1)
        if wrong.any():
            raise InputError(f"{_first(array, wrong)}; this model takes {mapping.describe()}")
        return np.ascontiguousarray(array, dtype=np.int8)
    if not isinstance(mapping, PixelInput | ChannelInput | ThresholdInput):
        raise unhandled("model.canonical_input", mapping)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind in "iu":
        wrong = (array < 0) | (array > 255)
        if wrong.any():
            raise InputError(f"{_first(array, wrong)}; this model takes pixels 0..255")
        return np.ascontiguousarray(array, dtype=np.uint8)
    return _pixels_from_floats(mapping, array, raw)


def random_inputs(packed: PackedModel, rows: int, seed: int) -> NDArray[Any]:
    """Random raw inputs that the model takes, (rows, depth).  Raises NetworkError for a mapping that is none."""
    rng = np.random.default_rng(seed)
    if isinstance(packed.input, SignInput):
        return rng.choice(np.array([-1, 1], np.int8), (rows, packed.depth))
    if isinstance(packed.input, RealInput):
        return rng.standard_normal((rows, packed.depth), dtype=np.float32)
    if isinstance(packed.input, PixelInput | ChannelInput | ThresholdInput):
        return rng.integers(0, 256, (rows, packed.depth), dtype=np.uint8)
    raise unhandled("model.random_inputs", packed.input)


def array_of(data: object, what: str) -> NDArray[Any]:
    """What was given as rows, as an array.  Raises InputError, whose text begins with `what`."""
    try:
        return np.asarray(data)
    except ValueError as error:
        raise InputError(f"{what} is no rectangular array: {error}") from None
    except (TypeError, RuntimeError) as error:  # a tensor on a GPU or with a gradient, ...
        raise InputError(f"{what} is no array: {error}") from None


def _as_rows(mapping: InputMapping, shape: Shape, x: ArrayLike, channels_first: bool) -> NDArray[Any]:
    # A table of pandas, polars, ...: told by what it offers, so that none of them is imported.
    columns = list(getattr(x, "columns", ())) if hasattr(x, "to_numpy") else []
    array = _of_columns(columns, x) if columns else array_of(x, "input")
    if array.dtype.kind not in "iuf":
        hint = "; for 0/1 pixels convert with .astype(np.uint8) and check the input mapping" if array.dtype.kind == "b" else ""
        raise InputError(f"input has dtype {array.dtype}; this model takes {mapping.describe()}{hint}")
    if len(shape) == 3:
        return _of_images(shape, array, channels_first)
    (depth,) = shape
    per_row = int(np.prod(array.shape[1:], dtype=np.int64))
    if array.ndim >= 2 and per_row == depth:
        return array.reshape(array.shape[0], depth)
    if array.ndim >= 1 and array.size == depth and array.shape[0] != 1:
        what = "x.to_numpy()" if hasattr(x, "to_numpy") else "x"
        raise InputError(f"input has shape {array.shape}, which looks like one sample; give it a row axis: {what}[None]")
    named = [name for name in columns if str(name).lower() in LABELS]
    hint = f"; drop what is no input: model.predict(x.drop(columns={named!r}))" if named else ""
    raise InputError(
        f"input has shape {array.shape}; this model takes (rows, {depth}) or any shape (rows, ...) of that size{hint}"
    )


def _of_images(shape: Shape, array: NDArray[Any], channels_first: bool) -> NDArray[Any]:
    """Images, or rows of their values, as such rows.  Raises InputError for those of another size, or another order of axes."""
    return channels_last("input", shape, array, source_first=channels_first).reshape(len(array), math.prod(shape))


#: What columns of labels are called.
LABELS = ("label", "labels", "class", "target", "digit", "y")


def _of_columns(columns: list[Any], table: Any) -> NDArray[Any]:
    """The values of a table; of one whose columns are of different types, as float64.  Raises InputError."""
    array = array_of(table.to_numpy(), "input")
    if array.dtype != object:
        return array
    for name, column in zip(columns, array.T, strict=True):
        for value in column:
            if not isinstance(value, int | float | np.number):
                raise InputError(f"column {name!r} of the inputs holds {value!r}, which is no number")
    return array.astype(np.float64)


def _first(array: NDArray[Any], wrong: NDArray[np.bool_]) -> str:
    row, column = (int(i) for i in np.argwhere(wrong)[0])
    return f"input row {row}, column {column} is {array[row, column]}"


#: How far, in units of float32 epsilon at the largest mapped pixel, a float may lie from the grid of mapped pixels: a few
#: roundings of the framework's own mapping.  Neighbouring pixels are over 10,000 times farther apart.
GRID_TOLERANCE = 8 * float(np.finfo(np.float32).eps)


def _pixels_from_floats(
    mapping: PixelInput | ChannelInput | ThresholdInput, array: NDArray[Any], raw: bool
) -> NDArray[np.uint8]:
    """Floats that are mapped pixels back to the pixels, or those that are raw ones; refuses anything between."""
    grid = mapping if isinstance(mapping, PixelInput | ChannelInput) else PixelInput.range(0, 255)
    identity = grid == PixelInput.range(0, 255)
    values = array.astype(np.float64)
    pixels, off = _pixels_on(grid, values, GRID_TOLERANCE)
    # Zeros and ones alone may be scaled as well.
    if (
        raw
        and not identity
        and values.size
        and values.max() > 1
        and not _pixels_on(PixelInput.range(0, 255), values, 0)[1].any()
    ):
        if off.any():
            return np.ascontiguousarray(values, dtype=np.uint8)
        if (pixels != values).any():
            raise InputError(
                f"the inputs are floats that are whole numbers of 0..255, and mapped pixels ({grid.describe()}) just as well: "
                "are these raw pixels, or scaled? Give uint8; raw ones are model.predict(x.astype(np.uint8))"
            )
    if off.any():
        outside = off & ~((values >= 0) & (values <= 255))  # what can be no raw pixel, either, is shown rather
        first = _first(array, outside if outside.any() else off)
        raise InputError(
            f"{first}, which is no mapped pixel ({grid.describe()}): are these raw pixels, or scaled? "
            f"{_way_back(values, raw)}; or give floats mapped just so, or convert the network with --input-real "
            "(Python: input_real=True) for real inputs"
        )
    if identity and values.size and pixels.max() == 1:
        raise InputError(
            "the inputs are floats that are 0 or 1 and no more: raw pixels of 0..255, or scaled ones? This model takes "
            f"{mapping.describe()}; give them as uint8"
        )
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def _pixels_on(
    grid: PixelInput | ChannelInput, values: NDArray[np.float64], tolerance: float
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The pixel nearest to each value, and where there is none within a tolerance, relative to the largest mapped pixel."""
    if isinstance(grid, ChannelInput):
        count = len(grid.channels)
        found = [_pixels_on(one, values[:, channel::count], tolerance) for channel, one in enumerate(grid.channels)]
        pixels, off = (np.stack(parts, axis=2).reshape(values.shape) for parts in zip(*found, strict=True))
        return pixels, off
    with np.errstate(all="ignore"):
        pixels = np.rint((values * grid.divisor - grid.intercept) / grid.slope)
        mapped = (grid.slope * pixels + grid.intercept) / grid.divisor
        within = np.abs(mapped - values) <= tolerance * max(map(abs, grid.ends))
        return pixels, ~((pixels >= 0) & (pixels <= 255) & within)


#: How floats are made raw pixels -> the mapping that scaled them.
WAYS_BACK = {"np.rint(255 * x)": PixelInput.range(0, 1), "np.rint(127.5 * (x + 1))": PixelInput.range(-1, 1)}


def _way_back(values: NDArray[np.float64], raw: bool) -> str:
    """What takes such floats, if they look like scaled pixels; else what to give.  raw: as in `inputs_of`, which a model's own
    calls set; others take data from files."""
    taken = "model.predict({}.astype(np.uint8))" if raw else "{}.astype(np.uint8)"
    for call, mapping in WAYS_BACK.items():
        if not _pixels_on(mapping, values, 1e-4)[1].any():
            low, high = mapping.ends
            return f"Pixels scaled to {low:g}..{high:g} are given as {taken.format(call)}"
    return f"Give uint8 pixels 0..255: raw ones are {taken.format('np.rint(x)')}"

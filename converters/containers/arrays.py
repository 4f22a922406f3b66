"""Arrays as they stand in a file, listed and loaded, and their way to float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import shape_problem, spend_bytes
from xnorinfer.errors import SourceError
from xnorinfer.float32 import F32

#: Names of types of real numbers -> how files store them; of bfloat16, which numpy has not, the bits.
STORED = {
    "bool": "|b1",
    "bfloat16": "<u2",
    **{f"float{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"{sign}int{bits}": f"<{sign or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True, eq=False)
class RawTensor:
    """One tensor of a checkpoint.  `name` is its name in the file, `dtype` the type it is stored as (numpy has no bfloat16)."""

    name: str
    array: NDArray[Any]
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.array.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.shape}"

    def tensor(self, name: str) -> RawTensor:
        """Under another name."""
        return RawTensor(name, self.array, self.dtype)


@dataclass(frozen=True)
class Entry:
    """One array of a file, before it is read: `load` reads and checks its numbers.  Raises SourceError then."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], NDArray[Any]] = field(repr=False)

    def tensor(self) -> RawTensor:
        """With its numbers."""
        return RawTensor(self.name, self.load(), self.dtype)

    @classmethod
    def of(cls, tensor: RawTensor) -> Entry:
        """An entry for numbers that are there already."""
        return cls(tensor.name, tensor.dtype, tensor.shape, lambda: tensor.array)


def merge_rounding(found: Sequence[str], warnings: list[str]) -> None:
    """Put what `as_float32` warned of into `warnings`: one line, however many tensors there are."""
    if found:
        more = f"; so were values of {len(found) - 1} further tensors" if len(found) > 1 else ""
        warnings.append(found[0] + more)


def as_float32(tensor: RawTensor, warnings: list[str]) -> F32:
    """The values as contiguous float32; a warning counts values that float32 does not hold exactly.

    Raises SourceError for complex numbers, text and other things that are no real numbers.
    """
    array = tensor.array
    if array.dtype.kind not in "fiu":
        raise SourceError(f"tensor {tensor.name} holds {tensor.dtype}, needed are real numbers")
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        spend_bytes(4 * array.size, f"tensor {tensor} as float32")
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(array, dtype=np.float32)
    if not single.flags.aligned:  # a view of a file at an odd place
        single = single.copy()
    if array.dtype.itemsize > 2 and array.dtype != np.float32:
        # float16, bfloat16 and integers up to 16 bits always fit.
        changed = _count_changed(array, single)
        if changed:
            warnings.append(
                f"{tensor.name}: {changed} of {array.size} {tensor.dtype} values are not exact in float32 and were rounded"
            )
    return single


def _count_changed(array: NDArray[Any], single: F32) -> int:
    """How many numbers float32 does not hold exactly; in pieces, as longdouble, which holds both sides, takes much memory."""
    changed = 0
    pieces = np.nditer([array, single], ["external_loop", "buffered", "zerosize_ok"], [["readonly"]] * 2, order="C")
    for piece, rounded in pieces:
        wide = piece.astype(np.longdouble)
        changed += int(((rounded.astype(np.longdouble) != wide) & ~np.isnan(wide)).sum())
    return changed


def narrowed(where: str, wide: NDArray[Any]) -> F32:
    """Decimals of a text, read as float64, as float32.  Raises SourceError where one leaves the range of float32."""
    with np.errstate(over="ignore"):
        single = wide.astype(np.float32)
    lost = np.isinf(single) & np.isfinite(wide)
    if lost.any():
        raise SourceError(f"{where} holds {wide[lost][0]}, which float32 cannot hold")
    return single


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that orders digits as numbers: fc2 before fc10."""
    parts: list[tuple[int, int, str]] = []
    text = ""
    digits = ""
    for character in [*name, ""]:
        if character.isascii() and character.isdigit():
            digits += character
            continue
        if digits:
            parts += [(1, 0, text)] if text else []
            number = digits.lstrip("0")  # longer is larger; Python makes no number of some thousand digits
            parts.append((0, len(number), f"{number} {digits}"))
            text = digits = ""
        text += character
    return (*parts, (1, 0, text)) if text else tuple(parts)


def require_shape(where: str, shape: Sequence[int], itemsize: int) -> None:
    """Raise SourceError for a shape that no array can have, whatever its size: numpy refuses some empty ones, too."""
    problem = shape_problem(shape, itemsize)
    if problem is not None:
        raise SourceError(f"{where} says that it has {problem}")


def unique_name(name: str, taken: Container[str], counts: dict[str, int]) -> str:
    """The name, or one made of it that is not taken: `name'`, `name'2`, ...  counts: how many were made of each, kept here."""
    unique = name
    while unique in taken:
        counts[name] = counts.get(name, 0) + 1
        unique = f"{name}'" if counts[name] == 1 else f"{name}'{counts[name]}"
    return unique


def numbered_types(names: str, first: int = 1) -> dict[int, str]:
    """A format's numbers for its types -> their names, given in the format's order."""
    return dict(enumerate(names.split(), start=first))


def widened(kind: str, array: NDArray[Any]) -> NDArray[Any]:
    """Numbers of a type in `STORED` as numpy has them: bits of bfloat16 become float32, exactly."""
    if kind != "bfloat16":
        return array
    spend_bytes(4 * array.size, f"{array.size} values of bfloat16 as float32")
    return np.asarray((array.astype(np.uint32) << np.uint32(16)).view(np.float32))


def element_count(shape: Iterable[int]) -> int:
    """Number of elements, exact for any size a hostile header may claim."""
    return math.prod(int(n) for n in shape)

"""Tensors as they stand in a file, and their way to float32.

A file is hostile until proven otherwise: sizes are checked against the file, and charged to its budget, before anything is
allocated.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import require_bytes, shape_problem, spend_bytes, spend_steps
from xnorinfer.errors import SourceError
from xnorinfer.netspec import F32

#: What a damaged zip makes the standard library raise: UnicodeDecodeError (a ValueError) by names, RuntimeError by entries that
#: claim to be encrypted.
ZIP_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, struct.error
)  # fmt: skip


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


def check_zip(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that does not fill its file, unpacks to far more than that, or has two entries of one name."""
    entries = archive.infolist()
    before = min((entry.header_offset for entry in entries), default=0)
    announced, after = _end_of_archive(path)
    if before or after:
        # zipfile takes the last archive that it finds: of one that is cut off, one that lies in it as an entry.
        where = f"{before} bytes come before its first entry" if before else f"{after} bytes follow its end"
        raise SourceError(f"{path.name} is a truncated or damaged archive: {where}")
    if announced not in (None, len(entries)):
        # zipfile reads as many entries as it finds: a damaged length in the list would hide those that follow.
        raise SourceError(f"{path.name} is a damaged archive: it announces {announced} entries, its list holds {len(entries)}")
    spend_steps(len(entries), "listing its entries")
    twice = next((name for name, count in Counter(entry.filename for entry in entries).items() if count > 1), None)
    if twice is not None:
        raise SourceError(f"{path.name} holds two entries called {twice!r}")
    require_bytes(sum(entry.file_size for entry in entries), "unpacking it")
    if any(entry.flag_bits & 1 for entry in entries):
        raise SourceError(f"{path.name} is an encrypted zip archive")


def _end_of_archive(path: Path) -> tuple[int | None, int]:
    """Number of entries in the record at the end of a zip (None where it does not fit there: zip64), and bytes behind it."""
    with path.open("rb") as stream:
        stream.seek(-min(path.stat().st_size, (1 << 16) + 22), 2)
        tail = stream.read()
    record = tail[tail.rfind(b"PK\x05\x06") :]
    if len(record) < 22:
        return None, 0
    count = int.from_bytes(record[10:12], "little")
    after = len(record) - 22 - int.from_bytes(record[20:22], "little")
    return None if count == 0xFFFF else count, after


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


def element_count(shape: Iterable[int]) -> int:
    """Number of elements, exact for any size a hostile header may claim."""
    return math.prod(int(n) for n in shape)

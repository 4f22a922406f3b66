"""Tensors as they stand in a file, and their way to float32.

A file is hostile until proven otherwise: sizes are checked against the file before anything is allocated.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import SourceError
from xnorinfer.netspec import F32

#: A zip may always unpack to this much ...
FREE_BYTES = 64 << 20
#: ... and beyond it to this many times its size.  Deflate reaches 1032; float32 weights that are all -1 or +1 reach about 30.
MAX_RATIO = 100

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


def as_float32(tensor: RawTensor, warnings: list[str]) -> F32:
    """The values as contiguous float32; a warning counts values that float32 does not hold exactly.

    Raises SourceError for complex numbers, text and other things that are no real numbers.
    """
    array = tensor.array
    if array.dtype.kind not in "fiu":
        raise SourceError(f"tensor {tensor.name} holds {tensor.dtype}, needed are real numbers")
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype.itemsize > 2 and array.dtype != np.float32:
        # float16, bfloat16 and integers up to 16 bits always fit.  longdouble holds both sides of every other comparison.
        wide = array.astype(np.longdouble)
        changed = int(((single.astype(np.longdouble) != wide) & ~np.isnan(wide)).sum())
        if changed:
            warnings.append(
                f"{tensor.name}: {changed} of {array.size} {tensor.dtype} values are not exact in float32 and were rounded"
            )
    return single


def narrowed(where: str, wide: NDArray[Any]) -> F32:
    """Decimals of a text, read as float64, as float32.  Raises SourceError where one leaves the range of float32."""
    with np.errstate(over="ignore"):
        single = wide.astype(np.float32)
    lost = np.isinf(single) & np.isfinite(wide)
    if lost.any():
        raise SourceError(f"{where} holds {wide[lost][0]}, which float32 cannot hold")
    return single


def check_zip(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive whose entries unpack to far more than the file holds, or of which two share a name."""
    entries = archive.infolist()
    announced = _announced_entries(path)
    if announced not in (None, len(entries)):
        # zipfile reads as many entries as it finds: a damaged length in the list would hide those that follow.
        raise SourceError(f"{path.name} is a damaged archive: it announces {announced} entries, its list holds {len(entries)}")
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SourceError(f"{path.name} holds two entries called {twice!r}")
    declared = sum(entry.file_size for entry in entries)
    size = path.stat().st_size
    if declared > max(FREE_BYTES, MAX_RATIO * size):
        raise SourceError(f"{path.name} has {size} bytes but says that it unpacks to {declared}: refused as a zip bomb")
    if any(entry.flag_bits & 1 for entry in entries):
        raise SourceError(f"{path.name} is an encrypted zip archive")


def _announced_entries(path: Path) -> int | None:
    """Number of entries in the record at the end of a zip; None where it does not fit there (zip64)."""
    with path.open("rb") as stream:
        stream.seek(-min(path.stat().st_size, (1 << 16) + 22), 2)
        tail = stream.read()
    record = tail[tail.rfind(b"PK\x05\x06") :]
    count = int.from_bytes(record[10:12], "little")
    return None if len(record) < 22 or count == 0xFFFF else count


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
            parts.append((0, int(digits), digits))
            text = digits = ""
        text += character
    return (*parts, (1, 0, text)) if text else tuple(parts)


def element_count(shape: Iterable[int]) -> int:
    """Number of elements, exact for any size a hostile header may claim."""
    return math.prod(int(n) for n in shape)

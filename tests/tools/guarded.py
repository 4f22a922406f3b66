"""Arrays that end right before an unmapped page (or start right after one): a read or write past the end kills the process."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = mmap.PAGESIZE
#: Mappings live as long as the process; numpy arrays over them cannot own them.
_KEPT: list[mmap.mmap] = []


def available() -> bool:
    """Whether this system has mprotect."""
    return hasattr(mmap, "MAP_ANONYMOUS") and hasattr(ctypes.CDLL(None), "mprotect")


def _protect(address: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if libc.mprotect(address, PAGE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")


def guarded(shape: tuple[int, ...], dtype: Any, align: int = 1, at_start: bool = False) -> NDArray[Any]:
    """Zeroed array between two unmapped pages, touching the one behind it (to `align` bytes), or the one before it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    inside = max(1, -(-size // PAGE)) * PAGE
    mapping = mmap.mmap(-1, inside + 2 * PAGE)
    _KEPT.append(mapping)
    base = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    _protect(base)
    _protect(base + PAGE + inside)
    first = PAGE if at_start else PAGE + (inside - size) // align * align
    return np.frombuffer(mapping, np.uint8, size, first).view(dtype).reshape(shape)


def copy_of(array: NDArray[Any], at_start: bool = False) -> NDArray[Any]:
    """The same values in a guarded array."""
    out = guarded(array.shape, array.dtype, array.dtype.itemsize, at_start)
    out[...] = array
    return out

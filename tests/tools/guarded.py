"""Arrays that end right before an unmapped page (or start right after one): a read or write past the end kills the process."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xnorinfer.kernels import layout

PAGE = mmap.PAGESIZE


def _protect(address: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if libc.mprotect(address, PAGE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")


def guarded(shape: tuple[int, ...], dtype: Any, align: int = 1, at_start: bool = False) -> NDArray[Any]:
    """Zeroed array between two unmapped pages, touching the one behind it (to `align` bytes), or the one before it.

    Its pages go with it: a process may have some 65,000 mappings, three for each array.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    inside = max(1, -(-size // PAGE)) * PAGE
    mapping = mmap.mmap(-1, inside + 2 * PAGE)
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


def guard_layouts(monkeypatch: pytest.MonkeyPatch, at_start: bool) -> None:
    """Whatever kernels lay out from here on is guarded; skips the test where that cannot be."""
    if not (hasattr(mmap, "MAP_ANONYMOUS") and hasattr(ctypes.CDLL(None), "mprotect")):
        pytest.skip("no mprotect on this system")

    def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return guarded(shape, dtype, layout.ALIGN_BYTES, at_start)

    monkeypatch.setattr(layout, "aligned", aligned)

"""The head of numpy's `.npy` arrays, of samples and of checkpoints alike."""

from __future__ import annotations

import tokenize
import warnings
from typing import IO, Any

import numpy as np

NPY_MAGIC = b"\x93NUMPY"
#: Version of the format, the two bytes behind the magic -> what reads the rest.
_READERS = {b"\x01\x00": np.lib.format.read_array_header_1_0, b"\x02\x00": np.lib.format.read_array_header_2_0}


def read_npy_header(stream: IO[bytes], version: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of an array.  The stream stands behind the version, then at the numbers.

    Raises ValueError, of one line, for a head that is none, and what the stream raises.
    """
    if version not in _READERS:
        shown = ".".join(map(str, version)) or "missing"
        raise ValueError(f"format version {shown} is not for arrays of numbers")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about deprecated names of types, which no array of numbers has
            shape, fortran, dtype = _READERS[version](stream)
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise ValueError(next(iter(str(error).splitlines()), type(error).__name__)[:200]) from None
    return tuple(int(n) for n in shape), bool(fortran) and len(shape) > 1, dtype

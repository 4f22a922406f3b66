"""MXNet's `.params`: a list of arrays, then a list of their names (mx.nd.save).

An array says its shape, where it was computed, its type and its numbers; four versions of that exist, which its first number
tells apart.  All numbers are little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NoReturn

import numpy as np

from xnorinfer.budget import MAX_DIMENSIONS, spend_bytes, spend_steps
from xnorinfer.converters.containers.arrays import STORED, RawTensor, element_count, numbered_types, require_shape, widened
from xnorinfer.converters.containers.signatures import MXNET
from xnorinfer.errors import SourceError

#: TypeFlag, from 0 on.
TYPES = numbered_types("float32 float64 float16 uint8 int32 int8 int64 bool int16 uint16 uint32 uint64 bfloat16", 0)
#: First number of an array -> whether it says how it is stored.  An array of before them begins with its number of dimensions.
_DENSE_ONLY, _STORED_AS, _NUMPY = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
#: What an array takes in memory beside its name and its numbers.
ARRAY_BYTES = 512


def read_params(path: Path) -> dict[str, RawTensor]:
    """The arrays of a file by name, in its order; those of a list without names are called 0, 1, ...

    The names are those of the file: `arg:` and `aux:` stand before parameters and running statistics of a saved model.
    Raises SourceError.
    """
    cursor = _Cursor(memoryview(path.read_bytes()), path.name)
    if cursor.take(8, "its mark") != MXNET:
        cursor.damaged("does not begin as one")
    cursor.take(8, "what is reserved")
    arrays = [cursor.array(number) for number in range(cursor.count("arrays"))]
    names = [cursor.name() for _ in range(cursor.count("names"))]
    if cursor.left:
        cursor.damaged(f"has {cursor.left} bytes behind its names")
    if names and len(names) != len(arrays):
        cursor.damaged(f"has {len(arrays)} arrays and {len(names)} names")
    found: dict[str, RawTensor] = {}
    for name, tensor in zip(names or map(str, range(len(arrays))), arrays, strict=True):
        if name in found:
            raise SourceError(f"{path.name} holds two arrays called {name!r}")
        found[name] = tensor.tensor(name)
    return found


class _Cursor:
    """A place in a file that is read from its start."""

    def __init__(self, data: memoryview, about: str) -> None:
        self.data = data
        self.at = 0
        self.about = about

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def damaged(self, what: str) -> NoReturn:
        """Raise SourceError."""
        raise SourceError(f"{self.about} is damaged, truncated or no file of MXNet's arrays: it {what}")

    def take(self, size: int, what: str) -> memoryview:
        if size > self.left:
            self.damaged(f"ends within {what}")
        taken = self.data[self.at : self.at + size]
        self.at += size
        return taken

    def numbers(self, code: str, count: int, what: str) -> tuple[int, ...]:
        layout = struct.Struct(f"<{count}{code}")
        return layout.unpack(self.take(layout.size, what))

    def count(self, what: str) -> int:
        """How many there are; each takes some bytes, so that a file can hold no more than that."""
        (count,) = self.numbers("Q", 1, f"its number of {what}")
        if count > self.left // 4:
            self.damaged(f"says that it has {count} {what}, in {self.left} bytes")
        return count

    def name(self) -> str:
        spend_steps(what="reading its names")
        (size,) = self.numbers("Q", 1, "the length of a name")
        spend_bytes(min(size, self.left), "a name")
        try:
            return bytes(self.take(size, "a name")).decode()
        except UnicodeDecodeError:
            self.damaged("has a name that is no text")

    def array(self, number: int) -> RawTensor:
        """One array, which but for bfloat16 is a view of the file."""
        spend_steps(what="reading its arrays")
        spend_bytes(ARRAY_BYTES, "a list of its arrays")
        what = f"array {number}"
        (first,) = self.numbers("I", 1, what)
        if first in (_STORED_AS, _NUMPY):
            (kind,) = self.numbers("i", 1, what)
            if kind != 0:
                raise SourceError(f"{self.about}: {what} is sparse (storage type {kind}), needed are dense arrays")
        dimensions = first
        if first in (_DENSE_ONLY, _STORED_AS, _NUMPY):
            (dimensions,) = self.numbers("i" if first == _NUMPY else "I", 1, what)
        if not 0 <= dimensions <= MAX_DIMENSIONS or (not dimensions and first != _NUMPY):
            if dimensions in (0, -1):
                raise SourceError(f"{self.about}: {what} has no numbers: it was never computed")
            self.damaged(f"says that {what} has {dimensions} dimensions")
        shape = self.numbers("I" if first == dimensions else "q", dimensions, what)
        self.take(8, what)  # the device
        (flag,) = self.numbers("i", 1, what)
        kind_name = TYPES.get(flag, "")
        if kind_name not in STORED:
            self.damaged(f"says that {what} holds the unknown type {flag}")
        code = np.dtype(STORED[kind_name])
        require_shape(f"{self.about}: {what}", shape, code.itemsize)
        raw = self.take(element_count(shape) * code.itemsize, what)
        return RawTensor(what, widened(kind_name, np.frombuffer(raw, code).reshape(shape)), kind_name)

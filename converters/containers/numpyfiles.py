"""numpy's files: `.npz` archives and `.npy`; arrays of objects, which numpy pickles, are read as plain data (`pickled`)."""

from __future__ import annotations

import contextlib
import weakref
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import shape_problem, spend_bytes
from xnorinfer.converters.containers.arrays import Entry, element_count
from xnorinfer.converters.containers.pickled import unpickle
from xnorinfer.converters.containers.pickledarrays import ARRAYS
from xnorinfer.converters.containers.ziparchive import ZIP_DAMAGE, Archive, zip_damage
from xnorinfer.errors import SourceError
from xnorinfer.npyheader import NPY_MAGIC, read_npy_header


@dataclass(frozen=True, eq=False)
class Objects:
    """An array of objects.  where: how messages call it; root: what they are as plain data."""

    where: str
    shape: tuple[int, ...]
    root: Any

    def no_numbers(self) -> NDArray[Any]:
        raise SourceError(f"{self.where} holds objects, needed are real numbers")


def read_npz(path: Path) -> dict[str, Entry | Objects]:
    """What an archive holds, in its order.  Raises SourceError."""
    with zip_damage(path, ".npz archive"), contextlib.ExitStack() as opened:
        archive = Archive(path, opened.enter_context(zipfile.ZipFile(path)))
        found = {name.removesuffix(".npy"): _member(archive, name) for name in archive.entries}
        weakref.finalize(archive, opened.pop_all().close)  # open until the last of its entries is gone
        return found


def _member(archive: Archive, file: str) -> Entry | Objects:
    name = file.removesuffix(".npy")
    if name == file:
        raise SourceError(f"{archive.about} holds {file!r}, which is no .npy array")
    with archive.open(file) as stream:
        header = read_header(f"{archive.about}, array {name}", stream)
        if header.dtype.hasobject:
            spend_bytes(archive.size(file), f"array {name}")
            return Objects(header.where, header.shape, unpickle(header.where, stream.read(), ARRAYS))
        start = stream.tell()
    header.require_size(archive.size(file) - start)

    def load() -> NDArray[Any]:
        spend_bytes(header.size_bytes, f"{header.where}, {header.shape} {header.dtype},")
        with zip_damage(archive.path, ".npz archive"), archive.open(file) as stream:
            stream.seek(start)
            return header.array(stream.read(header.size_bytes))

    return Entry(name, str(header.dtype), header.shape, load)


def read_npy(path: Path) -> Entry | Objects:
    """The one array of a `.npy`, under the file's name without suffix.  Raises SourceError."""
    with path.open("rb") as stream:
        header = read_header(path.name, stream)
        if header.dtype.hasobject:
            return Objects(path.name, header.shape, unpickle(path.name, stream.read(), ARRAYS))
        start = stream.tell()
    header.require_size(path.stat().st_size - start)

    def load() -> NDArray[Any]:
        return header.array(np.memmap(path, np.uint8, "r", start) if header.size_bytes else b"")

    return Entry(path.stem, str(header.dtype), header.shape, load)


@dataclass(frozen=True)
class Header:
    """The head of a `.npy` array.  where: how messages call it; fortran: columns come first."""

    where: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        return element_count(self.shape) * self.dtype.itemsize

    def require_size(self, left: int) -> None:
        """Raise SourceError unless that many bytes follow."""
        if self.size_bytes != left:
            raise SourceError(
                f"{self.where} says {self.shape} {self.dtype}, which is {self.size_bytes} bytes, but {left} follow"
            )

    def array(self, data: bytes | NDArray[np.uint8]) -> NDArray[Any]:
        if len(data) != self.size_bytes:
            raise SourceError(f"{self.where} is truncated: {len(data)} of {self.size_bytes} bytes")
        if not self.dtype.itemsize:
            raise SourceError(f"{self.where} holds {self.dtype}, needed are real numbers")
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def read_header(where: str, stream: IO[bytes]) -> Header:
    """The head of a `.npy` array; the stream then stands at its numbers.  Raises SourceError."""
    try:
        if stream.read(6) != NPY_MAGIC:
            raise ValueError("it does not begin as an array of numpy's")
        shape, fortran, dtype = read_npy_header(stream, stream.read(2))
        problem = shape_problem(shape, dtype.itemsize)
        if problem is not None:
            raise ValueError(f"it says {problem}")
    except ZIP_DAMAGE as error:
        raise SourceError(f"{where}: has a damaged or unusable header ({error})") from None
    return Header(where, shape, fortran, dtype)

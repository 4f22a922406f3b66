"""HDF5 files: names, shapes and attributes at once, numbers when asked for.

Nothing outside the file is followed, and every size is checked against the file before anything is allocated.  Keras neither
compresses nor links, so that its arrays together are no larger than the file; in files of anybody else's, links are passed over
and what is compressed may unpack to a bounded multiple of the file.
"""

from __future__ import annotations

import contextlib
import io
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.arrays import FREE_BYTES, MAX_RATIO, ZIP_DAMAGE, element_count
from xnorinfer.converters.bundle import Entry
from xnorinfer.errors import MissingExtraError, SourceError

if TYPE_CHECKING:
    import h5py

MAGIC = b"\x89HDF\r\n\x1a\n"
#: How a collection of the global heap begins, with its version.
_HEAP = b"GCOL\x01"
#: More than any network has; a file can claim any number of groups, one inside the other.
MAX_OBJECTS = 100_000
MAX_DEPTH = 64
#: What h5py raises on damaged files, and zipfile where they lie inside an archive.
_H5_DAMAGE = (*ZIP_DAMAGE, KeyError, TypeError, OverflowError, AttributeError, MemoryError)


class H5Content:
    """The datasets of an open file by their paths (`model_weights/dense/dense/kernel:0`), and the attributes of its groups.

    size: of the file, in bytes.  foreign: it need not be Keras's.
    """

    def __init__(self, file: h5py.File, about: str, size: int, *, foreign: bool) -> None:
        self._file = file
        self.about = about
        self._size = max(FREE_BYTES, MAX_RATIO * size) if foreign else size
        self._foreign = foreign
        self._claimed = 0
        self.entries: dict[str, Entry] = {}
        self.groups: set[str] = {""}
        self._seen: set[int] = set()
        self._walk(file, "", 0)

    def _walk(self, group: h5py.Group, where: str, depth: int) -> None:
        import h5py

        for name in group:
            path = f"{where}{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                if self._foreign:
                    continue
                raise SourceError(f"{self.about}, {path} is a link to somewhere else ({type(link).__name__}): refused")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if self._foreign and address in self._seen:
                continue
            if address in self._seen or depth > MAX_DEPTH or len(self._seen) > MAX_OBJECTS:
                raise SourceError(f"{self.about}, {path} is reached twice, or is one of too many objects: refused")
            self._seen.add(address)
            if isinstance(item, h5py.Dataset):
                self.entries[path] = self._entry(path, item)
            elif isinstance(item, h5py.Group):
                self.groups.add(path)
                self._walk(item, f"{path}/", depth + 1)

    def _entry(self, path: str, dataset: h5py.Dataset) -> Entry:
        where = f"{self.about}, dataset {path}"
        if dataset.shape is None and not self._foreign:
            raise SourceError(f"{where} has no shape")
        if dataset.is_virtual or dataset.external:
            raise SourceError(f"{where} keeps its numbers in other files: refused")
        packed = bool(dataset.id.get_create_plist().get_nfilters())
        if packed and not self._foreign:
            raise SourceError(f"{where} is compressed, which Keras never does: refused; `h5repack -f NONE` unpacks it")
        shape = tuple(int(n) for n in dataset.shape or ())
        numbers = dataset.dtype.kind in "fiub" and dataset.shape is not None
        size = element_count(shape) * dataset.dtype.itemsize
        self._claimed += size
        least = min(size, 1) if packed else size
        if self._claimed > self._size or (numbers and dataset.id.get_storage_size() < least):
            raise SourceError(f"{where} says {shape} {dataset.dtype}, which is {size} bytes, more than the file holds")

        def load() -> NDArray[Any]:
            if not numbers:
                raise SourceError(f"{where} holds {dataset.dtype}, needed are numbers")
            with damage(where):
                return np.asarray(dataset[()])

        return Entry(path, str(dataset.dtype), shape, load)

    def text(self, attribute: str) -> str | None:
        """A text attribute of the file; None if it has none."""
        with damage(f"{self.about}, attribute {attribute}"):
            attributes = self._file.attrs
            return _text(_read(attributes, attribute)) if attribute in attributes else None

    def label(self, group: str) -> str | None:
        """The attribute `name` of a group, where Keras 3 writes what a layer was called; None if it has none."""
        if group not in self.groups:
            return None
        with damage(f"{self.about}, attribute name of {group}"):
            attributes = self._file[group].attrs
            return _text(_read(attributes, "name")) if "name" in attributes else None

    def names(self, group: str, attribute: str) -> list[str] | None:
        """A list of names among the attributes of a group ("" is the file itself); None if it has none.

        Keras cuts lists that are too long for one attribute: attribute0, attribute1, ...
        """
        with damage(f"{self.about}, attribute {attribute} of {group or 'the file'}"):
            attributes = self._file[group or "/"].attrs
            if attribute in attributes:
                return [_text(name) for name in _read(attributes, attribute)]
            if f"{attribute}0" not in attributes:
                return None
            names: list[str] = []
            index = 0
            while f"{attribute}{index}" in attributes:
                names += [_text(name) for name in _read(attributes, f"{attribute}{index}")]
                index += 1
            return names


@contextlib.contextmanager
def open_h5(
    path: Path, content: bytes | None = None, about: str | None = None, *, foreign: bool = False
) -> Iterator[H5Content]:
    """Open a file, or its content where it lies inside another file.  Entries can be loaded until the end of the `with`.

    foreign: any file, not only one that Keras wrote.  Raises SourceError and MissingExtraError (h5py).
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(f"reading {path.name}", "h5py", "keras") from None
    about = about or path.name
    with contextlib.ExitStack() as stack:
        with damage(about):
            if content is None:
                with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    size = _require_sound(data, about)
            else:
                size = _require_sound(content, about)
            file = stack.enter_context(h5py.File(path if content is None else io.BytesIO(content), "r"))
            opened = H5Content(file, about, size, foreign=foreign)
        yield opened


def _require_sound(data: bytes | mmap.mmap, about: str) -> int:
    """Refuse what libhdf5 never gets done with: free space of 0 bytes in its global heap, which holds the names of layers and
    weights, and which it passes again and again.  Returns the size of the file.
    """
    start = next((at for at in (0, *(512 << n for n in range(32))) if data[at : at + 8] == MAGIC), None)
    head = b"" if start is None else data[start : start + 16]
    widths = head[9:11] if head[8:9] >= b"\x02" else head[13:15]
    if widths != b"\x08\x08":
        raise SourceError(f"{about} is damaged, truncated or no HDF5 file, or one with addresses of other than 8 bytes")
    heap = data.find(_HEAP)
    while heap >= 0:
        place, end = heap + 16, min(heap + int.from_bytes(data[heap + 8 : heap + 16], "little"), len(data))
        while place + 16 <= end:
            index = int.from_bytes(data[place : place + 2], "little")
            size = int.from_bytes(data[place + 8 : place + 16], "little")
            if index == size == 0:
                raise SourceError(f"{about} is damaged: its heap at byte {heap} has no end")
            place += 16 + -(-size // 8) * 8 if index else size
        heap = data.find(_HEAP, heap + 1)
    return len(data)


@contextlib.contextmanager
def damage(where: str) -> Iterator[None]:
    """Turn what h5py raises on damaged files into SourceError."""
    try:
        yield
    except _H5_DAMAGE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise SourceError(f"{where} is damaged, truncated or no HDF5 file: {reason}") from None


def _read(attributes: h5py.AttributeManager, name: str) -> Any:
    """An attribute of text, or of numbers, as which empty lists are kept.  On other types of objects libhdf5 can crash."""
    import h5py

    dtype = attributes.get_id(name).dtype
    if dtype.kind not in "fiuSU" and h5py.check_string_dtype(dtype) is None:
        raise ValueError(f"it holds {dtype}, needed is text")
    return attributes[name]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

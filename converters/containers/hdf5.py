"""HDF5 files: names, shapes and attributes at once, numbers when asked for.

Nothing outside the file is followed, and every size is checked against the file, and charged to its budget, before anything is
allocated.  Keras neither compresses nor links, so that its arrays together are no larger than the file; in files of anybody
else's, links are passed over, and chunks may be compressed: each is unpacked once to see that it is not larger than it says.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import mmap
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import JSON_BYTES, add_file, spend_bytes, spend_steps
from xnorinfer.converters.containers.arrays import Entry, element_count, require_shape
from xnorinfer.converters.containers.signatures import HDF5, ZIP, start_of
from xnorinfer.converters.containers.ziparchive import ZIP_DAMAGE, open_archive
from xnorinfer.errors import MissingExtraError, SourceError

if TYPE_CHECKING:
    import h5py

#: The members of a `.keras` archive.
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
#: How a collection of the global heap begins, with its version.
_HEAP = b"GCOL\x01"
#: How a local heap begins, with its version, and what stands at the end of its list of free space.
_LOCAL_HEAP, _NO_MORE = b"HEAP\0", 1
#: How a heap begins that holds the attributes of an object where they are many, with its version.
_FRACTAL_HEAP = b"FRHP\0"
#: How the type of texts of any length begins, of all versions: what it is, which libhdf5 tells by some bits of three bytes
#: behind, and that each takes 16 bytes.
_ANY_LENGTH = re.compile(rb"[\x19\x29\x39\x49\x59]...\x10\x00\x00\x00", re.DOTALL)
#: Bytes of the type of what they are made of: numbers, or texts.
_FIXED_POINT, _TEXT = 12, 8
#: Axes that libhdf5 knows.
MAX_RANK = 32
#: More than any network has; a file can claim any number of groups, one inside the other.
MAX_OBJECTS = 100_000
MAX_DEPTH = 64
#: Steps of libhdf5 for an object: opening one takes as long as looking at some hundred numbers.
OBJECT_STEPS = 20
#: Names in a group, or attributes, that libhdf5 passes in one step where it looks for one among all.
PASSED_PER_STEP = 128
#: Filters of chunks that never unpack to more than they say, or for which `_require_honest` tells.
_DEFLATE, _SHUFFLE, _CHECKSUM, _LZF = 1, 2, 3, 32000
#: What a checksum adds to a chunk, and Python to a text.
CHECKSUM_BYTES, TEXT_BYTES = 4, 64
#: LZF makes at most 264 bytes of 3.
_LZF_RATIO = 88
#: What h5py raises on damaged files, and zipfile where they lie inside an archive.
_H5_DAMAGE = (*ZIP_DAMAGE, KeyError, TypeError, OverflowError, AttributeError, MemoryError)


class H5Content:
    """The datasets of an open file by their paths (`model_weights/dense/dense/kernel:0`), and the attributes of its groups.

    size: of the file, in bytes.  longest: of the objects in its global heap.  foreign: it need not be Keras's.  config: of the
    model, where the archive around the file has it.
    """

    def __init__(
        self, file: h5py.File, about: str, size: int, longest: int, *, foreign: bool, config: bytes | None = None
    ) -> None:
        self._file = file
        self.about = about
        self._size = size
        self._longest = longest
        self._foreign = foreign
        self._config = config
        self._claimed = 0
        self.entries: dict[str, Entry] = {}
        self.groups: set[str] = {""}
        self._seen: set[int] = set()
        self._walk(file, "", 0)

    def _walk(self, group: h5py.Group, where: str, depth: int) -> None:
        import h5py

        each = OBJECT_STEPS + len(group) // PASSED_PER_STEP
        for name in group:
            spend_steps(each, "listing its objects")
            path = f"{where}{name}"
            spend_bytes(len(path), f"a name of {len(path)} characters")
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
        require_shape(where, shape, dataset.dtype.itemsize)
        size = element_count(shape) * dataset.dtype.itemsize
        self._claimed += size
        least = min(size, 1) if packed else size
        too_much = self._claimed > self._size and not self._foreign
        if too_much or (numbers and dataset.id.get_storage_size() < least):
            raise SourceError(f"{where} says {shape} {dataset.dtype}, which is {size} bytes, more than the file holds")

        def load() -> NDArray[Any]:
            if not numbers:
                raise SourceError(f"{where} holds {dataset.dtype}, needed are numbers")
            with damage(where):
                spend_bytes(size, f"{where} {shape} {dataset.dtype}")
                if dataset.chunks is not None:
                    _require_honest(where, dataset)
                return np.asarray(dataset[()])

        return Entry(path, str(dataset.dtype), shape, load)

    def config(self) -> str | bytes | None:
        """The config of the model, in the archive around the file or among its attributes."""
        return self._config or self.text("model_config")

    def text(self, attribute: str) -> str | None:
        """A text attribute of the file; None if it has none."""
        with damage(f"{self.about}, attribute {attribute}"):
            attributes = self._file.attrs
            return _text(self._read(attributes, attribute)) if attribute in attributes else None

    def label(self, group: str) -> str | None:
        """The attribute `name` of a group, where Keras 3 writes what a layer was called; None if it has none."""
        if group not in self.groups:
            return None
        with damage(f"{self.about}, attribute name of {group}"):
            attributes = self._file[group].attrs
            return _text(self._read(attributes, "name")) if "name" in attributes else None

    def names(self, group: str, attribute: str) -> list[str] | None:
        """A list of names among the attributes of a group ("" is the file itself); None if it has none.

        Keras cuts lists that are too long for one attribute: attribute0, attribute1, ...
        """
        with damage(f"{self.about}, attribute {attribute} of {group or 'the file'}"):
            attributes = self._file[group or "/"].attrs
            if attribute in attributes:
                return [_text(name) for name in self._read(attributes, attribute)]
            if f"{attribute}0" not in attributes:
                return None
            names: list[str] = []
            index = 0
            each = OBJECT_STEPS + len(attributes) // PASSED_PER_STEP
            while f"{attribute}{index}" in attributes:
                spend_steps(each, f"reading its attributes {attribute}0, {attribute}1, ...")
                names += [_text(name) for name in self._read(attributes, f"{attribute}{index}")]
                index += 1
            return names

    def _read(self, attributes: h5py.AttributeManager, name: str) -> Any:
        """An attribute of text, or of numbers, as which empty lists are kept.  On other types of objects libhdf5 can crash."""
        import h5py

        opened = attributes.get_id(name)
        dtype, shape = opened.dtype, tuple(int(n) for n in opened.shape or ())
        of_any_length = h5py.check_string_dtype(dtype)
        if opened.get_type().committed():
            raise ValueError("its type stands elsewhere in the file, which Keras never writes")
        if dtype.kind not in "fiuSU" and of_any_length is None:
            raise ValueError(f"it holds {dtype}, needed is text")
        require_shape(f"{self.about}, attribute {name}", shape, dtype.itemsize)
        # Texts of any length stand in the heap, and all of them can be one and the same.
        longest = self._longest if of_any_length is not None and of_any_length.length is None else dtype.itemsize
        spend_bytes(element_count(shape) * (longest + TEXT_BYTES), f"its attribute {name}")
        return attributes[name]


@contextlib.contextmanager
def open_h5(path: Path, *, foreign: bool = False) -> Iterator[H5Content]:
    """Open a file, or the weights in a `.keras` archive.  Entries can be loaded until the end of the `with`.

    foreign: any file, not only one that Keras wrote.  Raises SourceError and MissingExtraError (h5py).
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(f"reading {path.name}", "h5py", "keras") from None
    add_file(path)
    about, config, content = path.name, None, None
    if start_of(path).startswith(ZIP[:2]):
        config, content = _unpacked(path, foreign=foreign)
        about = f"{path.name}, {WEIGHTS}"
    with contextlib.ExitStack() as stack:
        with damage(about):
            if content is None:
                with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    size, longest = _require_sound(data, about)
            else:
                size, longest = _require_sound(content, about)
            file = stack.enter_context(h5py.File(path if content is None else io.BytesIO(content), "r"))
            opened = H5Content(file, about, size, longest, foreign=foreign, config=config)
        yield opened


def _unpacked(path: Path, *, foreign: bool) -> tuple[bytes | None, bytes]:
    """Config and weights of a `.keras` archive.  foreign: the config does not matter."""
    with open_archive(path, ".keras archive") as archive:
        if WEIGHTS not in archive.entries or not (foreign or CONFIG in archive.entries):
            raise SourceError(f"{path.name} is a zip archive without {CONFIG} and {WEIGHTS}: no .keras file")
        return None if foreign else archive.read(CONFIG, JSON_BYTES), archive.read(WEIGHTS)


def _require_sound(data: bytes | mmap.mmap, about: str) -> tuple[int, int]:
    """Refuse what libhdf5 never gets done with, as free space of 0 bytes in its global heap, which holds the names of layers
    and weights, and which it passes again and again.  Returns the size of the file, and that of the longest object in its heap,
    or of what an attribute says of one.
    """
    start = next((at for at in (0, *(512 << n for n in range(32))) if data[at : at + 8] == HDF5), None)
    head = b"" if start is None else data[start : start + 16]
    widths = head[9:11] if head[8:9] >= b"\x02" else head[13:15]
    if widths != b"\x08\x08":
        raise SourceError(f"{about} is damaged, truncated or no HDF5 file, or one with addresses of other than 8 bytes")
    heap, longest = data.find(_HEAP), 0
    while heap >= 0:
        place, end = heap + 16, min(heap + int.from_bytes(data[heap + 8 : heap + 16], "little"), len(data))
        while place + 16 <= end:
            spend_steps(what="reading its heap")
            index = int.from_bytes(data[place : place + 2], "little")
            size = int.from_bytes(data[place + 8 : place + 16], "little")
            if index == size == 0:
                raise SourceError(f"{about} is damaged: its heap at byte {heap} has no end")
            longest = max(longest, min(size, len(data))) if index else longest
            place += 16 + -(-size // 8) * 8 if index else size
        heap = data.find(_HEAP, heap + 1)
    _require_ends(data, about, start or 0)
    _require_readable(data, about)
    return len(data), max(longest, _longest_said(data, about))


def _require_ends(data: bytes | mmap.mmap, about: str, base: int) -> None:
    """Refuse local heaps, which hold the names in groups, whose list of free space has no end: libhdf5 follows it into all
    memory.  base: where the file begins behind what stands before it; addresses count from there.
    """

    def number(at: int) -> int:
        return int.from_bytes(data[at : at + 8], "little")

    heap = data.find(_LOCAL_HEAP)
    while heap >= 0:
        size, free = number(heap + 8), number(heap + 16)
        start = base + number(heap + 24)
        seen: set[int] = set()
        while free != _NO_MORE and free < size and start + free + 8 <= len(data):
            spend_steps(what="reading its heaps")
            if free in seen:
                raise SourceError(f"{about} is damaged: its heap at byte {heap} has no end")
            seen.add(free)
            free = number(start + free)
            if free == 0:  # libhdf5 refuses it; of a group that is gone anything may be left
                break
        heap = data.find(_LOCAL_HEAP, heap + 1)


def _require_readable(data: bytes | mmap.mmap, about: str) -> None:
    """Refuse heaps of many attributes that are compressed, which libhdf5 never writes but reads: what attributes say of
    themselves (`_longest_said`) is not seen there.  Behind the version stand 2 bytes and the length of what describes filters.
    """
    heap = data.find(_FRACTAL_HEAP)
    while heap >= 0:
        spend_steps(what="reading its heaps")
        if any(data[heap + 7 : heap + 9]):
            raise SourceError(f"{about}: its heap at byte {heap} is compressed, which is not read; `h5repack` writes it anew")
        heap = data.find(_FRACTAL_HEAP, heap + 1)


def _longest_said(data: bytes | mmap.mmap, about: str) -> int:
    """How long attributes say that their texts of any length are, the longest: libhdf5 makes room for that before it looks into
    its heap.  Each is its type, its shape, and for every text 16 bytes, of which the first 4 are the length (HDF5 file format
    specification, "Datatype", "Dataspace" and "Global Heap ID").  Raises SourceError for one that is longer than the file.
    """
    longest = 0
    for found in _ANY_LENGTH.finditer(data):
        spend_steps(what="reading its attributes")
        base = data[found.end() : found.end() + 1]
        end = found.end() + (_FIXED_POINT if base and base[0] & 15 == 0 else _TEXT)
        # Attributes of the first version fill their parts up to 8 bytes.
        for place in sorted({end, found.start() + -(-(end - found.start()) // 8) * 8}):
            for at in _texts_behind(data, place):
                spend_steps(what="reading its attributes")
                length = int.from_bytes(data[at : at + 4], "little")
                if length > len(data):
                    raise SourceError(f"{about} is damaged: a text at byte {at} has {length} bytes, the file {len(data)}")
                longest = max(longest, length)
    return longest


def _texts_behind(data: bytes | mmap.mmap, place: int) -> range:
    """Where the texts of any length lie whose shape stands at a place; none where no shape does."""
    version, rank, flags, kind = (*data[place : place + 4], 0, 0, 0, 0)[:4]
    if version not in (1, 2) or rank > MAX_RANK or (version == 2 and kind == 2):
        return range(0)
    place += 8 if version == 1 else 4
    count = math.prod(int.from_bytes(data[at : at + 8], "little") for at in range(place, place + 8 * rank, 8))
    place += 8 * rank * (2 if flags & 1 else 1)
    return range(place, min(place + 16 * count, len(data) - 15), 16)


def _require_honest(where: str, dataset: h5py.Dataset) -> None:
    """Refuse chunks that take more than they say: libhdf5 unpacks without end, and whole chunks for one number in each.

    Raises SourceError, and what h5py raises on damaged files.
    """
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(index) for index in range(plist.get_nfilters())]
    kinds = [kind for kind, *_ in filters]
    if set(kinds) - {_DEFLATE, _SHUFFLE, _CHECKSUM, _LZF} or sum(kind in (_DEFLATE, _LZF) for kind in kinds) > 1:
        raise SourceError(f"{where} is packed by the filters {kinds}, which are not read; `h5repack -f GZIP=4` packs it anew")
    bytes_each = element_count(dataset.chunks) * dataset.dtype.itemsize
    grid = [range(0, size, step) for size, step in zip(dataset.shape, dataset.chunks, strict=True)]
    count = element_count(len(along) for along in grid)
    spend_steps(OBJECT_STEPS * count, f"{where}: its {count} chunks")
    # Its numbers are charged already; the chunks are as large or larger.
    size = element_count(dataset.shape) * dataset.dtype.itemsize
    spend_bytes(max(count * bytes_each - size, bytes_each), f"{where}: {count} chunks of {dataset.chunks}")
    if not filters:
        return
    for _, _, values, _ in (one for one in filters if one[0] == _LZF):
        if len(values) < 3 or values[2] > bytes_each:
            raise SourceError(f"{where} says that its chunks unpack to {values[2:3]} bytes, they have {bytes_each}")
    for offset in itertools.product(*grid):
        stored = dataset.id.get_chunk_info_by_coord(offset)
        if stored.byte_offset is None:
            continue
        spend_bytes(stored.size * (_LZF_RATIO if _LZF in kinds else 1), f"{where}: a packed chunk of {stored.size} bytes")
        if _DEFLATE not in kinds or stored.filter_mask >> kinds.index(_DEFLATE) & 1:
            continue
        _, content = dataset.id.read_direct_chunk(offset)
        if len(zlib.decompressobj().decompress(content, bytes_each + CHECKSUM_BYTES + 1)) > bytes_each + CHECKSUM_BYTES:
            raise SourceError(f"{where} holds a chunk that unpacks to more than its {bytes_each} bytes")


@contextlib.contextmanager
def damage(where: str) -> Iterator[None]:
    """Turn what h5py raises on damaged files into SourceError."""
    try:
        yield
    except _H5_DAMAGE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise SourceError(f"{where} is damaged, truncated or no HDF5 file: {reason}") from None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

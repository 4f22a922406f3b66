"""TensorFlow's checkpoint containers without TensorFlow: V2 bundles (`.index` + `.data-...`) and V1 files.

Both are LevelDB tables (https://github.com/google/leveldb/blob/main/doc/table_format.md) of protobuf messages:

    V2  `.index`: "" -> BundleHeaderProto, name -> BundleEntryProto (type, shape, shard, offset, size, CRC); the numbers
        themselves lie in the shards (tensorflow/core/protobuf/tensor_bundle.proto)
    V1  "" -> SavedTensorSlices.meta, one key per slice -> SavedTensorSlices.data (core/util/saved_tensor_slice.proto)

A partitioned variable is one name with several slices; they are put together again.  Everything is checked: CRC-32C of every
block and of every tensor that is read, offsets and sizes against the files, shapes against sizes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import add_file, spend_bytes, spend_steps
from xnorinfer.converters.containers import protowire
from xnorinfer.converters.containers.arrays import STORED, Entry, element_count, numbered_types, require_shape, widened
from xnorinfer.converters.containers.crc32c import crc32c, masked
from xnorinfer.converters.containers.protowire import Message, WireError
from xnorinfer.errors import SourceError

TABLE_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_BYTES = 48
TRAILER_BYTES = 5
#: An index holds names and shapes only; real ones have kilobytes.
MAX_INDEX_BYTES = 256 << 20
#: What one variable takes in memory beside its name and numbers, and its CRC in steps: numpy is called often for few numbers.
ENTRY_BYTES, LOAD_STEPS = 1024, 25

#: The numbers of types in tensorflow/core/framework/types.proto, from 1 on.
TYPES = numbered_types(
    "float32 float64 int32 uint8 int16 int8 string complex64 int64 bool qint8 quint8 qint32 bfloat16 qint16 quint16 uint16 "
    "complex128 float16 resource variant uint32 uint64"
)
#: Of those that hold real numbers -> how numpy stores them; bfloat16 is widened by hand.
DTYPES = {number: STORED[name] for number, name in TYPES.items() if name in STORED}

Extent = tuple[int, int]  # start, length; length -1 is the whole dimension


# ---------------------------------------------------------------- tables


def read_table(path: Path) -> Iterator[tuple[bytes, memoryview]]:
    """All keys and values of a table file, in order, which is increasing.  Raises SourceError."""
    size = path.stat().st_size
    add_file(path)
    if size < FOOTER_BYTES:
        raise SourceError(f"{path.name} is truncated: {size} bytes")
    data: memoryview = np.memmap(path, np.uint8, "r").data
    footer = data[size - FOOTER_BYTES :]
    if bytes(footer[40:]) != TABLE_MAGIC:
        raise SourceError(f"{path.name} is damaged, truncated or no TensorFlow checkpoint: it does not end in a table's footer")
    try:
        _, position = protowire.varint(footer, 0)
        _, position = protowire.varint(footer, position)
        behind, before = 0, None
        for _, handle in _block_entries(_block(path, data, *_handle(footer[position:40]))):
            offset, length = _handle(handle)
            if offset < behind:
                raise WireError("has blocks that overlap")
            behind = offset + length
            for key, value in _block_entries(_block(path, data, offset, length)):
                if before is not None and key <= before:
                    raise WireError("has keys that are not in order")
                before = key
                yield key, value
    except WireError as error:
        raise SourceError(f"{path.name} is damaged: its table {error}") from None


def _handle(data: memoryview) -> tuple[int, int]:
    offset, position = protowire.varint(data, 0)
    size, _ = protowire.varint(data, position)
    return offset, size


def _block(path: Path, data: memoryview, offset: int, size: int) -> memoryview:
    end = offset + size
    if end + TRAILER_BYTES > len(data):
        raise WireError("points beyond the file")
    kind = data[end]
    if kind == 1:
        raise SourceError(f"{path.name} is compressed with snappy, as TensorFlow's Saver never does; save it again")
    if kind:
        raise WireError(f"has a block of the unknown kind {kind}")
    if masked(crc32c(data[offset : end + 1])) != int.from_bytes(data[end + 1 : end + 5], "little"):
        raise WireError("has a block whose CRC does not match")
    return data[offset:end]


def _block_entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    if len(block) < 4:
        raise WireError("has a block that is too short")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise WireError("has a block with too many restarts")
    entries = block[:end]
    key = b""
    position = 0
    while position < end:
        shared, position = protowire.varint(entries, position)
        own, position = protowire.varint(entries, position)
        size, position = protowire.varint(entries, position)
        if shared > len(key) or own + size > end - position:
            raise WireError("has an entry that leaves its block")
        spend_steps(what="listing its entries")
        spend_bytes(shared + own, f"a name of {shared + own} bytes")
        key = key[:shared] + bytes(entries[position : position + own])
        yield key, entries[position + own : position + own + size]
        position += own + size


# ---------------------------------------------------------------- V2


def read_v2(prefix: Path) -> dict[str, Entry]:
    """The variables of the bundle `prefix`.index, `prefix`.data-...  Raises SourceError."""
    bundle = _Bundle(prefix)
    try:
        files = bundle.files()
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise SourceError(
                f"{prefix.name}: its data lie in {len(files)} files, of which {', '.join(missing[:4])} are missing"
            )
        for file in files:
            add_file(file)
        names = [key for key in bundle.table if key and not key.startswith(b"\0")]
        spend_bytes(ENTRY_BYTES * len(names), f"a list of {len(names)} variables")
        return {name: bundle.entry(name, bundle.table[key]) for key in names for name in [key.decode()]}
    except (WireError, UnicodeDecodeError) as error:
        raise SourceError(f"{bundle.index.name} is damaged: its header or an entry {error}") from None


def read_text(prefix: Path, name: str) -> bytes:
    """The one string of a bundle's variable, such as a serialised message.  Raises SourceError."""
    bundle = _Bundle(prefix)
    try:
        entry = Message(bundle.table[name.encode()])
        shard, offset, size = entry.integer(3), entry.integer(4), entry.integer(5)
        files = bundle.files()
        if TYPES.get(entry.integer(1)) != "string" or not 0 <= shard < len(files):
            raise WireError(f"{name} is no string")
        add_file(files[shard])
        if offset + size > files[shard].stat().st_size:
            raise WireError(f"{name} ends beyond {files[shard].name}")
        spend_bytes(size, f"variable {name}")
        with files[shard].open("rb") as stream:
            stream.seek(offset)
            data = memoryview(stream.read(size))
        length, position = protowire.varint(data, 0)
        if len(data) - position - 4 != length:  # behind the length its CRC
            raise WireError(f"{name} is not one string")
        # Of a string's length the CRC takes a fixed number of bytes, where the file has a varint.
        fixed = length.to_bytes(4 if length < 1 << 32 else 8, "little")
        if masked(crc32c(fixed + bytes(data[position:]))) != entry.integer(6):
            raise SourceError(f"{files[shard].name} is damaged: the CRC of variable {name} does not match")
        return bytes(data[position + 4 :])
    except (WireError, KeyError, OSError) as error:
        raise SourceError(f"{bundle.index.name} is damaged: an entry {error}") from None


class _Bundle:
    """A V2 checkpoint: its index, and the numbers in its files where they lie."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.index = prefix.with_name(prefix.name + ".index")
        if self.index.stat().st_size > MAX_INDEX_BYTES:
            size = self.index.stat().st_size
            raise SourceError(f"{self.index.name} has {size} bytes, an index has {MAX_INDEX_BYTES} at most")
        self.table = dict(read_table(self.index))
        self.mapped: dict[Path, NDArray[np.uint8]] = {}
        self._files: list[Path] = []

    def files(self) -> list[Path]:
        """The files of numbers, as the header counts them.  Raises SourceError and WireError."""
        if b"" not in self.table:
            raise SourceError(f"{self.index.name} has no header, it is no index of a TensorFlow V2 checkpoint")
        header = Message(self.table[b""])
        if header.integer(2):
            raise SourceError(f"{self.index.name} was written on a big-endian machine, which is not supported")
        shards = header.integer(1)
        if not 1 <= shards <= 99_999:
            raise SourceError(f"{self.index.name} says that its data lie in {shards} files")
        name = self.prefix.name
        self._files = [self.prefix.with_name(f"{name}.data-{i:05d}-of-{shards:05d}") for i in range(shards)]
        return self._files

    def entry(self, name: str, data: memoryview, *, is_part: bool = False) -> Entry:
        message = Message(data)
        shape = read_shape(message.message(2))
        slices = [_read_slice(one) for one in message.messages(7)]
        if slices and is_part:
            raise SourceError(f"variable {name} is partitioned, and a part of it is partitioned again")

        def join() -> NDArray[Any]:
            keys = [slice_key(name, extents) for extents in slices]
            if any(key not in self.table for key in keys):
                raise SourceError(f"variable {name} is partitioned, and a part of it is missing")
            spend_steps(LOAD_STEPS * len(keys), f"joining the parts of variable {name}")
            parts = [self.entry(name, self.table[key], is_part=True) for key in keys]
            _require_sum(name, shape, [part.shape for part in parts])
            return join_slices(name, shape, [(extents, part.load()) for extents, part in zip(slices, parts, strict=True)])

        def load() -> NDArray[Any]:
            try:
                return join() if slices else self._load(name, message, shape)
            except WireError as error:
                raise SourceError(f"{self.index.name} is damaged: the entry of variable {name} {error}") from None

        return Entry(name, _dtype_name(message.integer(1)), shape, load)

    def _load(self, name: str, message: Message, shape: tuple[int, ...]) -> NDArray[Any]:
        kind, shard = _dtype_name(message.integer(1)), message.integer(3)
        offset, size = message.signed(4), message.signed(5)
        if kind not in STORED:
            raise SourceError(f"variable {name} holds {kind}, needed are real numbers")
        code = np.dtype(STORED[kind])
        require_shape(f"variable {name}", shape, code.itemsize)
        if size != element_count(shape) * code.itemsize:
            raise SourceError(f"variable {name} says {shape} {kind} but has {size} bytes")
        if not 0 <= shard < len(self._files):
            raise SourceError(f"variable {name} lies in shard {shard}, there are {len(self._files)}")
        file = self._files[shard]
        if offset < 0 or offset + size > file.stat().st_size:
            raise SourceError(f"{file.name} is truncated: variable {name} would end at {offset + size}")
        if not size:
            return np.empty(shape, code)
        spend_steps(LOAD_STEPS, "reading its variables")
        spend_bytes(size, f"variable {name} {shape} {kind}")  # many can be made of the same bytes
        if file not in self.mapped:
            self.mapped[file] = np.memmap(file, np.uint8, "r")
        data = self.mapped[file][offset : offset + size]
        if masked(crc32c(data)) != message.integer(6):
            raise SourceError(f"{file.name} is damaged: the CRC of variable {name} does not match")
        return widened(kind, data.view(code).reshape(shape))


def _dtype_name(number: int) -> str:
    return TYPES.get(number, f"type {number}")


def read_shape(message: Message) -> tuple[int, ...]:
    """TensorShapeProto."""
    if message.integer(3):
        raise WireError("has a shape of unknown rank")
    shape = tuple(size.signed(1) for size in message.messages(2))
    if any(size < 0 for size in shape):
        raise WireError("has a negative dimension")
    return shape


def _read_slice(message: Message) -> list[Extent]:
    """TensorSliceProto."""
    return [(one.signed(1), one.signed(2) if 2 in one else -1) for one in message.messages(1)]


def join_slices(name: str, shape: tuple[int, ...], parts: list[tuple[list[Extent], NDArray[Any]]]) -> NDArray[Any]:
    """One array from its slices, which must cover it exactly once."""
    _require_sum(name, shape, [part.shape for _, part in parts])
    require_shape(f"variable {name}", shape, parts[0][1].itemsize)
    spend_bytes(element_count(shape) * (1 + parts[0][1].itemsize), f"variable {name} {shape}, joined from its parts,")
    whole = np.empty(shape, parts[0][1].dtype)
    seen = np.zeros(shape, bool)
    for extents, part in parts:
        if len(extents) != len(shape):
            raise SourceError(f"variable {name} is partitioned, and a part has {len(extents)} of {len(shape)} dimensions")
        spans = [slice(s, s + n) if n >= 0 else slice(None) for s, n in extents]
        if whole[tuple(spans)].shape != part.shape or seen[tuple(spans)].any():
            raise SourceError(f"variable {name} is partitioned, and its parts overlap or leave the shape {shape}")
        whole[tuple(spans)] = part
        seen[tuple(spans)] = True
    return whole


def _require_sum(name: str, shape: tuple[int, ...], parts: list[tuple[int, ...]]) -> None:
    if element_count(shape) != sum(map(element_count, parts)) or not parts:
        raise SourceError(f"variable {name} is partitioned, and its parts do not add up to {shape}")


# ---------------------------------------------------------------- keys of slices (core/lib/strings/ordered_code.cc)


def slice_key(name: str, extents: list[Extent]) -> bytes:
    """The key of one slice: 0, name, rank, then start and length of every dimension, in the order-preserving code."""
    escaped = re.sub(rb"[\0\xff]", lambda found: b"\0\xff" if found[0] == b"\0" else b"\xff\0", name.encode()) + b"\0\x01"
    numbers = b"".join(_ordered_signed(start) + _ordered_signed(length) for start, length in extents)
    return _ordered(0) + escaped + _ordered(len(extents)) + numbers


def _ordered(value: int) -> bytes:
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _ordered_signed(value: int) -> bytes:
    """Sign-extended big-endian with as many leading ones (zeros where negative) as there are bytes."""
    size = next(n for n in range(1, 11) if (value if value >= 0 else ~value) < 1 << (7 * n - 1))
    header = ((1 << size) - 1) << (8 * size - size)
    return ((value & ((1 << (8 * size)) - 1)) ^ header).to_bytes(size, "big")


# ---------------------------------------------------------------- V1


def is_v1(path: Path) -> bool:
    """True for a table file, which a V1 checkpoint is."""
    with path.open("rb") as stream:
        stream.seek(0, 2)
        if stream.tell() < FOOTER_BYTES:
            return False
        stream.seek(-8, 2)
        return stream.read(8) == TABLE_MAGIC


def read_v1(path: Path) -> dict[str, Entry]:
    """The variables of a V1 checkpoint, a single file.  Raises SourceError."""
    described: dict[str, tuple[int, tuple[int, ...]]] = {}
    parts: dict[str, list[tuple[list[Extent], memoryview]]] = {}
    try:
        for key, value in read_table(path):
            saved = Message(value)
            for one in saved.message(1).messages(1) if not key else ():
                spend_bytes(ENTRY_BYTES, "a list of variables")
                described[one.text(1)] = (one.integer(3), read_shape(one.message(2)))
            for part in saved.messages(2):
                spend_bytes(ENTRY_BYTES, "a list of slices of variables")
                parts.setdefault(part.text(1), []).append((_read_slice(part.message(2)), part.bytes(3)))
    except WireError as error:
        raise SourceError(f"{path.name} is damaged: a message in it {error}") from None
    if not described:
        raise SourceError(f"{path.name} is no TensorFlow V1 checkpoint: it describes no variables")

    def loader(name: str) -> Callable[[], NDArray[Any]]:
        dtype, shape = described[name]

        def load() -> NDArray[Any]:
            try:
                arrays = [(extents, read_tensor(Message(tensor), dtype)) for extents, tensor in parts.get(name, [])]
                sized = [(extents, _reshaped(array, _slice_shape(extents, shape))) for extents, array in arrays]
            except (WireError, ValueError) as error:
                raise SourceError(f"{path.name} is damaged: variable {name} {error}") from None
            return join_slices(name, shape, sized)

        return load

    return {name: Entry(name, _dtype_name(dtype), shape, loader(name)) for name, (dtype, shape) in described.items()}


def _reshaped(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    require_shape("a slice of it", shape, array.itemsize)
    return array.reshape(shape)


def _slice_shape(extents: list[Extent], shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(extents) != len(shape):
        raise WireError("has a slice of another rank")
    return tuple(full if length < 0 else length for (_, length), full in zip(extents, shape, strict=True))


def read_tensor(message: Message, dtype: int) -> NDArray[Any]:
    """The numbers of a TensorProto (core/framework/tensor.proto), flat.  Raises WireError for types without numbers."""
    kind = _dtype_name(dtype)
    if kind not in STORED:
        raise WireError(f"holds {kind}, needed are real numbers")
    content = message.bytes(4)
    if len(content):
        return widened(kind, np.frombuffer(content, STORED[kind]))
    numbers = message.numbers(floats=5, doubles=6, whole=(7, 10, 11, 13, 16, 17))
    if kind == "float16":  # its bits, as those of bfloat16
        return numbers.astype(np.uint16).view(STORED[kind])
    return widened(kind, numbers.astype(STORED[kind]))

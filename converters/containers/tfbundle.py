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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import add_file, spend_bytes, spend_steps
from xnorinfer.converters.containers import protowire
from xnorinfer.converters.containers.arrays import Entry, element_count, require_shape
from xnorinfer.converters.containers.crc32c import crc32c, masked
from xnorinfer.converters.containers.protowire import WireError, integer, signed, text, view
from xnorinfer.errors import SourceError

TABLE_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_BYTES = 48
TRAILER_BYTES = 5
#: An index holds names and shapes only; real ones have kilobytes.
MAX_INDEX_BYTES = 256 << 20
#: What one variable takes in memory beside its name and numbers, and its CRC in steps: numpy is called often for few numbers.
ENTRY_BYTES, LOAD_STEPS = 1024, 25

#: tensorflow/core/framework/types.proto; bfloat16 is widened by hand.
DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "|u1",
    5: "<i2",
    6: "|i1",
    9: "<i8",
    10: "|b1",
    14: "<u2",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}
_BFLOAT16 = 14
_STRING = 7
_NAMES = {7: "string", 8: "complex64", 14: "bfloat16", 18: "complex128", 20: "resource", 21: "variant"}

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
    index = prefix.with_name(prefix.name + ".index")
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise SourceError(f"{index.name} has {index.stat().st_size} bytes, an index has {MAX_INDEX_BYTES} at most")
    table = dict(read_table(index))
    try:
        shards = _read_header(index, table)
        files = [prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{shards:05d}") for i in range(shards)]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise SourceError(f"{prefix.name}: its data lie in {shards} files, of which {', '.join(missing[:4])} are missing")
        for file in files:
            add_file(file)
        bundle = _Bundle(files, table)
        names = [key for key in table if key and not key.startswith(b"\0")]
        spend_bytes(ENTRY_BYTES * len(names), f"a list of {len(names)} variables")
        return {name: bundle.entry(name, table[key]) for key in names for name in [key.decode()]}
    except (WireError, UnicodeDecodeError) as error:
        raise SourceError(f"{index.name} is damaged: its header or an entry {error}") from None


def read_text(prefix: Path, name: str) -> bytes:
    """The one string of a bundle's variable, such as a serialised message.  Raises SourceError."""
    index = prefix.with_name(prefix.name + ".index")
    table = dict(read_table(index))
    entry: dict[int, protowire.Value] = {}
    try:
        entry = dict(protowire.fields(table[name.encode()]))
        place = {number: integer(entry.get(number, 0)) for number in (1, 3, 4, 5)}
        shards = _read_header(index, table)
        if place[1] != _STRING or not 0 <= place[3] < shards:
            raise WireError(f"{name} is no string")
        file = prefix.with_name(f"{prefix.name}.data-{place[3]:05d}-of-{shards:05d}")
        add_file(file)
        if place[4] + place[5] > file.stat().st_size:
            raise WireError(f"{name} ends beyond {file.name}")
        spend_bytes(place[5], f"variable {name}")
        with file.open("rb") as stream:
            stream.seek(place[4])
            data = memoryview(stream.read(place[5]))
        length, position = protowire.varint(data, 0)
        if len(data) - position - 4 != length:  # behind the length its CRC
            raise WireError(f"{name} is not one string")
        return bytes(data[position + 4 :])
    except (WireError, KeyError, OSError) as error:
        raise SourceError(f"{index.name} is damaged: an entry {error}") from None


def _read_header(index: Path, table: dict[bytes, memoryview]) -> int:
    if b"" not in table:
        raise SourceError(f"{index.name} has no header, it is no index of a TensorFlow V2 checkpoint")
    shards = 0
    for number, value in protowire.fields(table[b""]):
        if number == 1:
            shards = integer(value)
        elif number == 2 and value != 0:
            raise SourceError(f"{index.name} was written on a big-endian machine, which is not supported")
    if not 1 <= shards <= 99_999:
        raise SourceError(f"{index.name} says that its data lie in {shards} files")
    return shards


@dataclass
class _Bundle:
    files: list[Path]
    table: dict[bytes, memoryview]
    mapped: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def entry(self, name: str, message: memoryview, *, part: bool = False) -> Entry:
        dtype = shard = offset = size = crc = 0
        shape: tuple[int, ...] = ()
        slices: list[list[Extent]] = []
        for number, value in protowire.fields(message):
            if number == 1:
                dtype = integer(value)
            elif number == 2:
                shape = read_shape(view(value))
            elif number == 3:
                shard = integer(value)
            elif number == 4:
                offset = signed(value)
            elif number == 5:
                size = signed(value)
            elif number == 6:
                crc = integer(value)
            elif number == 7:
                slices.append(_read_slice(view(value)))

        def load() -> NDArray[Any]:
            return self._load(name, dtype, shape, shard, offset, size, crc)

        def join() -> NDArray[Any]:
            keys = [slice_key(name, extents) for extents in slices]
            if any(key not in self.table for key in keys):
                raise SourceError(f"variable {name} is partitioned, and a part of it is missing")
            spend_steps(LOAD_STEPS * len(keys), f"joining the parts of variable {name}")
            parts = [(extents, self.entry(name, self.table[key], part=True)) for key, extents in zip(keys, slices, strict=True)]
            _require_sum(name, shape, [part.shape for _, part in parts])
            return join_slices(name, shape, [(extents, part.load()) for extents, part in parts])

        if slices and part:
            raise SourceError(f"variable {name} is partitioned, and a part of it is partitioned again")
        return Entry(name, _dtype_name(dtype), shape, join if slices else load)

    def _load(
        self, name: str, dtype: int, shape: tuple[int, ...], shard: int, offset: int, size: int, crc: int
    ) -> NDArray[Any]:
        code = DTYPES.get(dtype)
        if code is None:
            raise SourceError(f"variable {name} holds {_dtype_name(dtype)}, needed are real numbers")
        require_shape(f"variable {name}", shape, np.dtype(code).itemsize)
        if size != element_count(shape) * np.dtype(code).itemsize:
            raise SourceError(f"variable {name} says {shape} {_dtype_name(dtype)} but has {size} bytes")
        if not 0 <= shard < len(self.files):
            raise SourceError(f"variable {name} lies in shard {shard}, there are {len(self.files)}")
        file = self.files[shard]
        if offset < 0 or offset + size > file.stat().st_size:
            raise SourceError(f"{file.name} is truncated: variable {name} would end at {offset + size}")
        if not size:
            return np.empty(shape, code)
        spend_steps(LOAD_STEPS, "reading its variables")
        spend_bytes(size, f"variable {name} {shape} {_dtype_name(dtype)}")  # many can be made of the same bytes
        if shard not in self.mapped:
            self.mapped[shard] = np.memmap(file, np.uint8, "r")
        data = self.mapped[shard][offset : offset + size]
        if masked(crc32c(data)) != crc:
            raise SourceError(f"{file.name} is damaged: the CRC of variable {name} does not match")
        return _widen(dtype, data.view(code).reshape(shape))


def _widen(dtype: int, array: NDArray[Any]) -> NDArray[Any]:
    if dtype != _BFLOAT16:
        return array
    spend_bytes(4 * array.size, f"{array.size} values of bfloat16 as float32")
    return np.asarray((array.astype(np.uint32) << np.uint32(16)).view(np.float32))


def _dtype_name(dtype: int) -> str:
    return _NAMES.get(dtype) or (str(np.dtype(DTYPES[dtype])) if dtype in DTYPES else f"type {dtype}")


def read_shape(message: memoryview) -> tuple[int, ...]:
    """TensorShapeProto."""
    shape = []
    for number, value in protowire.fields(message):
        if number == 2:
            sizes = [signed(size) for inner, size in protowire.fields(view(value)) if inner == 1]
            shape.append(sizes[-1] if sizes else 0)
        elif number == 3 and value:
            raise WireError("has a shape of unknown rank")
    if any(size < 0 for size in shape):
        raise WireError("has a negative dimension")
    return tuple(shape)


def _read_slice(message: memoryview) -> list[Extent]:
    """TensorSliceProto."""
    extents = []
    for number, value in protowire.fields(message):
        if number == 1:
            inner = {key: signed(number) for key, number in protowire.fields(view(value))}
            extents.append((inner.get(1, 0), inner.get(2, -1)))
    return extents


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
            for number, message in protowire.fields(value):
                if number == 1 and not key:
                    described.update(_read_v1_meta(view(message)))
                elif number == 2:
                    name, extents, tensor = _read_v1_slice(view(message))
                    spend_bytes(ENTRY_BYTES, "a list of slices of variables")
                    parts.setdefault(name, []).append((extents, tensor))
    except WireError as error:
        raise SourceError(f"{path.name} is damaged: a message in it {error}") from None
    if not described:
        raise SourceError(f"{path.name} is no TensorFlow V1 checkpoint: it describes no variables")

    def loader(name: str) -> Callable[[], NDArray[Any]]:
        dtype, shape = described[name]

        def load() -> NDArray[Any]:
            try:
                arrays = [(extents, read_tensor(tensor, dtype)) for extents, tensor in parts.get(name, [])]
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


def _read_v1_meta(message: memoryview) -> dict[str, tuple[int, tuple[int, ...]]]:
    described = {}
    for number, value in protowire.fields(message):
        if number != 1:
            continue
        name, dtype = "", 0
        shape: tuple[int, ...] = ()
        for inner, content in protowire.fields(view(value)):
            if inner == 1:
                name = text(content)
            elif inner == 2:
                shape = read_shape(view(content))
            elif inner == 3:
                dtype = integer(content)
        spend_bytes(ENTRY_BYTES, "a list of variables")
        described[name] = (dtype, shape)
    return described


def _read_v1_slice(message: memoryview) -> tuple[str, list[Extent], memoryview]:
    name, extents, tensor = "", [], memoryview(b"")
    for number, value in protowire.fields(message):
        if number == 1:
            name = text(value)
        elif number == 2:
            extents = _read_slice(view(value))
        elif number == 3:
            tensor = view(value)
    return name, extents, tensor


#: TensorProto's repeated fields: field number -> how its elements are stored.
_FLOATS, _DOUBLES, _INTS, _INT64S, _BOOLS = 5, 6, 7, 10, 11


def read_tensor(message: memoryview, dtype: int) -> NDArray[Any]:
    """The numbers of a TensorProto (core/framework/tensor.proto), flat.  Raises WireError for types without numbers."""
    code = DTYPES.get(dtype)
    if code is None:
        raise WireError(f"holds {_dtype_name(dtype)}, needed are real numbers")
    spend_bytes(2 * len(message), "numbers of a tensor")
    chunks: list[NDArray[Any]] = []
    for number, value in protowire.fields(message):
        spend_steps(what="reading its tensors")
        if number == 4 and len(view(value)):
            chunks.append(np.frombuffer(view(value), code))
        elif number == _FLOATS:
            chunks.append(protowire.packed_floats(value))
        elif number == _DOUBLES:
            raw = value.to_bytes(8, "little") if isinstance(value, int) else value
            chunks.append(np.frombuffer(raw, "<f8"))
        elif number in (_INTS, _INT64S, _BOOLS):
            numbers = np.array(protowire.packed_varints(value), np.uint64).view(np.int64)
            chunks.append(numbers.astype(code))
    if not chunks:
        return np.empty(0, code)
    return _widen(dtype, np.concatenate(chunks).astype(code, copy=False))

"""Writes TensorFlow V2 checkpoints, `PREFIX.index` and `PREFIX.data-00000-of-00001`, without TensorFlow.

The format is that of tensorflow/core/util/tensor_bundle: the numbers of all tensors one after another in the data file, and a
LevelDB table (https://github.com/google/leveldb/blob/main/doc/table_format.md) of protobuf messages that says where each lies.
`xnorinfer.converters.containers.tfbundle` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.containers.crc32c import crc32c, masked
from xnorinfer.converters.containers.tfbundle import DTYPES, TABLE_MAGIC
from xnorinfer.files import replacing, write_errors

#: Keys after which a block stores one in full; TensorFlow's own spacing.
RESTART_INTERVAL = 16
#: Bytes from which on a block of the index is closed, TensorFlow's own size.
BLOCK_BYTES = 256 << 10
#: BundleHeaderProto: num_shards = 1, endianness = LITTLE (0, so absent), version {producer = 1}.
HEADER = b"\x08\x01\x1a\x02\x08\x01"
#: numpy dtype -> number of the type in tensorflow/core/framework/types.proto; 14 is bfloat16, which numpy has not.
TYPES = {np.dtype(code): number for number, code in DTYPES.items() if number != 14}


def files_of(prefix: Path) -> tuple[Path, Path]:
    """The two files of a checkpoint: index, data."""
    return prefix.with_name(f"{prefix.name}.index"), prefix.with_name(f"{prefix.name}.data-00000-of-00001")


def write_bundle(prefix: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write real-valued tensors under their names.

    The data file gets its name before the index does: who finds a new index finds its data.  Raises OutputError if a file
    cannot be written.
    """
    index, data = files_of(prefix)
    items = [(b"", HEADER)]
    with replacing(index) as index_stream, replacing(data) as data_stream, write_errors(prefix):
        offset = 0
        for key, name in sorted((name.encode(), name) for name in tensors):
            array = tensors[name]
            dtype = array.dtype.newbyteorder("<")
            if not key or dtype not in TYPES:
                raise ValueError(f"tensor {name!r} of {array.dtype} has no place in a TensorFlow checkpoint")
            content = array.astype(dtype, copy=False).tobytes()
            items.append((key, _entry(TYPES[dtype], array.shape, offset, content)))
            offset += data_stream.write(content)
        for part in _table(items):
            index_stream.write(part)


# ---------------------------------------------------------------- protobuf messages


def _entry(dtype: int, shape: tuple[int, ...], offset: int, content: bytes) -> bytes:
    """BundleEntryProto: dtype, shape, (shard_id 0,) offset, size, masked CRC-32C; zeros are left out, as protobuf does."""
    sizes = [_varint_field(1, size) for size in shape]
    dims = b"".join(_bytes_field(2, size) for size in sizes)
    place = _varint_field(4, offset) + _varint_field(5, len(content))
    checksum = _key(6, 5) + masked(crc32c(content)).to_bytes(4, "little")
    return _varint_field(1, dtype) + _bytes_field(2, dims) + place + checksum


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint_field(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value) if value else b""


def _bytes_field(number: int, content: bytes) -> bytes:
    return _key(number, 2) + _varint(len(content)) + content


# ---------------------------------------------------------------- the table


def _table(items: Iterable[tuple[bytes, bytes]]) -> Iterable[bytes]:
    """The parts of a table file: blocks of the items (sorted by key), no meta blocks, the index of the blocks, the footer."""
    offset = 0
    handles: list[tuple[bytes, bytes]] = []

    def placed(block: bytes) -> tuple[bytes, bytes]:
        """A block as it is stored (uncompressed: kind 0), and its handle."""
        nonlocal offset
        handle = _varint(offset) + _varint(len(block))
        stored = block + b"\0" + masked(crc32c(block + b"\0")).to_bytes(4, "little")
        offset += len(stored)
        return stored, handle

    groups = list(_groups(items))
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        stored, handle = placed(_block(group))
        last = group[-1][0]
        handles.append((_successor(last) if following is None else _separator(last, following[0][0]), handle))
        yield stored
    meta, meta_handle = placed(_block([]))
    index, index_handle = placed(_block(handles))
    yield meta
    yield index
    yield (meta_handle + index_handle).ljust(40, b"\0") + TABLE_MAGIC


def _separator(last: bytes, following: bytes) -> bytes:
    """LevelDB's key in the index for a block between two others: short, not below its last key, below the following one."""
    same = next((n for n in range(min(len(last), len(following))) if last[n] != following[n]), None)
    if same is None or last[same] + 1 >= following[same]:
        return last
    return last[:same] + bytes([last[same] + 1])


def _successor(last: bytes) -> bytes:
    """LevelDB's key in the index for the last block: short, not below its last key."""
    place = next((n for n, byte in enumerate(last) if byte != 0xFF), None)
    return last if place is None else last[:place] + bytes([last[place] + 1])


def _groups(items: Iterable[tuple[bytes, bytes]]) -> Iterable[list[tuple[bytes, bytes]]]:
    group: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in items:
        group.append((key, value))
        size += len(key) + len(value)
        if size >= BLOCK_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Entries with the beginnings that keys share left out, then where keys stand in full, then how many those are."""
    body = bytearray()
    restarts = []
    last = b""
    for count, (key, value) in enumerate(entries):
        shared = 0
        if count % RESTART_INTERVAL == 0:
            restarts.append(len(body))
        else:
            limit = min(len(last), len(key))
            shared = next((n for n in range(limit) if last[n] != key[n]), limit)
        body += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return bytes(body) + b"".join(place.to_bytes(4, "little") for place in (*restarts, len(restarts)))

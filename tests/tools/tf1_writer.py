"""Writes TensorFlow checkpoints (V2 bundles) for tests, without TensorFlow and without the package's own reader."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx_writer import number

HEADER = b"\x08\x01\x1a\x02\x08\x01"


def slow_crc32c(data: bytes) -> int:
    """Bit by bit, from the definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes, crc32c: Callable[[bytes], int] = slow_crc32c) -> bytes:
    crc = crc32c(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def digest(variables: Mapping[str, Any]) -> str:
    """One digest of names, types, shapes and bytes of all variables."""
    total = hashlib.sha256()
    for name in sorted(variables):
        array = np.ascontiguousarray(variables[name])
        total.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return total.hexdigest()


def write_table(path: Path, items: dict[bytes, bytes], kind: int = 0) -> None:
    """A table of one block, with any compression mark."""

    def block(entries: dict[bytes, bytes]) -> bytes:
        body = b"".join(b"\0" + number(len(k)) + number(len(v)) + k + v for k, v in sorted(entries.items()))
        return body + bytes(4) + (1).to_bytes(4, "little")

    def place(content: bytes, offset: int, kind: int = 0) -> tuple[bytes, bytes]:
        marked = content + bytes([kind])
        return marked + masked_crc(marked), number(offset) + number(len(content))

    data, handle = place(block(items), 0, kind)
    meta, meta_handle = place(block({}), len(data))
    index, index_handle = place(block({b"\xff": handle}), len(data) + len(meta))
    footer = (meta_handle + index_handle).ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")
    path.write_bytes(data + meta + index + footer)


def entry(shape: tuple[int, ...], size: int, *, dtype: int = 1, offset: int = 0, checksum: bytes = b"") -> bytes:
    dims = b"".join(b"\x12" + number(len(number(n)) + 1) + b"\x08" + number(n) for n in shape)
    where = b"\x20" + number(offset) + b"\x28" + number(size)
    return b"\x08" + number(dtype) + b"\x12" + number(len(dims)) + dims + where + (b"\x35" + checksum if checksum else b"")


def write_bundle(folder: Path, arrays: Mapping[str, Any], crc32c: Callable[[bytes], int] = slow_crc32c) -> Path:
    """A V2 bundle of float32 arrays."""
    items, offset = {b"": HEADER}, 0
    with (folder / "net.data-00000-of-00001").open("wb") as data:
        for name, array in arrays.items():
            raw = np.ascontiguousarray(array, np.float32).tobytes()
            items[name.encode()] = entry(np.shape(array), len(raw), offset=offset, checksum=masked_crc(raw, crc32c))
            offset += data.write(raw)
    write_table(folder / "net.index", items)
    return folder / "net"

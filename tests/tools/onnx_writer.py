"""Writes small ONNX models for tests, without the onnx package (onnx.proto; protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {"float32": 1, "int64": 7, "float16": 10, "float64": 11, "int8": 3}


def number(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(key: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return number(key << 3) + number(value)
    data = value.encode() if isinstance(value, str) else value
    return number(key << 3 | 2) + number(len(data)) + data


def tensor(name: str, array: Any, *, raw: bool = True) -> bytes:
    array = np.asarray(array)
    dims = b"".join(field(1, int(n)) for n in array.shape)
    head = dims + field(2, _TYPES[str(array.dtype)]) + field(8, name)
    if raw:
        return head + field(9, array.tobytes())
    packed = b"".join(number(int(n)) for n in array.reshape(-1)) if array.dtype.kind == "i" else array.tobytes()
    return head + field(7 if array.dtype.kind == "i" else 4, packed)


def attribute(name: str, value: Any) -> bytes:
    if isinstance(value, float):
        body = number(2 << 3 | 5) + struct.pack("<f", value) + field(20, 1)
    elif isinstance(value, int):
        body = field(3, value) + field(20, 2)
    elif isinstance(value, str):
        body = field(4, value) + field(20, 3)
    elif isinstance(value, tuple):
        body = b"".join(field(8, n) for n in value) + field(20, 7)
    else:
        body = field(5, tensor("", value)) + field(20, 4)
    return field(1, name) + body


def node(operation: str, inputs: list[str], output: str | list[str], *, domain: str = "", **attributes: Any) -> bytes:
    outputs = [output] if isinstance(output, str) else output
    body = b"".join(field(1, name) for name in inputs) + b"".join(field(2, name) for name in outputs)
    body += field(3, f"{operation}_{outputs[0]}")
    body += field(4, operation) + b"".join(field(5, attribute(k, v)) for k, v in attributes.items())
    return body + (field(7, domain) if domain else b"")


def value(name: str, shape: Sequence[int | str] | None = None) -> bytes:
    """A float32 tensor of a graph.  shape: names stand for lengths that are open."""
    if shape is None:
        return field(1, name)
    dims = b"".join(field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def write(
    path: Path,
    nodes: list[bytes],
    constants: dict[str, Any],
    output: str,
    *,
    raw: bool = True,
    shape: Sequence[int | str] | None = None,
) -> Path:
    """A model with the input "x", of that shape; parameters are listed as inputs too, as old exporters do."""
    names = [field(11, value("x", shape)), *(field(11, value(name)) for name in constants)]
    graph = b"".join(field(1, n) for n in nodes) + b"".join(field(5, tensor(k, v, raw=raw)) for k, v in constants.items())
    graph += b"".join(names) + field(12, field(1, output))
    path.write_bytes(field(1, 4) + field(2, "test") + field(7, graph))
    return path

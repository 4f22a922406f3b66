"""ONNX models as plain nodes and arrays, without the onnx package (https://onnx.ai, onnx.proto).

Tensors may be in the model or in files beside it (`onnxdata`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.budget import spend_bytes, spend_steps
from xnorinfer.converters.containers import protowire
from xnorinfer.converters.containers.arrays import RawTensor, element_count, require_shape
from xnorinfer.converters.containers.onnxdata import DataFiles
from xnorinfer.converters.containers.protowire import (
    WireError,
    fields,
    integer,
    packed_floats,
    packed_varints,
    signed,
    text,
    view,
)
from xnorinfer.errors import SourceError

Attribute: TypeAlias = float | int | str | RawTensor | tuple[int, ...] | tuple[float, ...]

#: What a node, and what a tensor or an attribute takes in memory beside its texts and numbers.
NODE_BYTES, TENSOR_BYTES = 512, 256
#: A model's first field is its version, a small number.
FIRST_BYTE = b"\x08"
#: TensorProto.DataType -> how raw_data stores it.
DTYPES = {
    1: "<f4",
    2: "|u1",
    3: "|i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "|b1",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
}


@dataclass(frozen=True)
class OnnxNode:
    """A NodeProto."""

    operation: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class OnnxGraph:
    """A GraphProto: nodes in the order of computation, constants by name, names of real inputs and of outputs."""

    nodes: tuple[OnnxNode, ...]
    constants: dict[str, RawTensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    producer: str


def read_onnx(path: Path) -> OnnxGraph:
    """Read a model.  Raises SourceError."""
    return _read(path, DataFiles(path))


def data_files(path: Path) -> list[Path]:
    """The files beside a model that hold tensors of it; none where it is no model, which reading it tells."""
    files = DataFiles(path)
    # It was read, or will be, under its budget; charged twice, a file could be left out.
    with contextlib.suppress(SourceError, OSError), budget.unlimited(path.name), path.open("rb") as stream:
        if stream.read(1) == FIRST_BYTE:
            _read(path, files)
    return list(dict.fromkeys(files.opened.values()))


def _read(path: Path, files: DataFiles) -> OnnxGraph:
    producer, graph = "", None
    try:
        for number, value in fields(memoryview(path.read_bytes())):
            if number == 2:
                producer = text(value)
            elif number == 7:
                graph = view(value)
        if graph is None:
            raise WireError("holds no graph")
        return _read_graph(graph, producer, files)
    except WireError as error:
        raise SourceError(f"{path.name} is damaged, truncated or no ONNX model: it {error}") from None


def _read_graph(message: memoryview, producer: str, files: DataFiles) -> OnnxGraph:
    nodes: list[OnnxNode] = []
    constants: dict[str, RawTensor] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    for number, value in fields(message):
        spend_steps(what="reading its graph")
        if number == 1:
            spend_bytes(NODE_BYTES, f"a graph of {len(nodes)} nodes and more")
            nodes.append(_read_node(view(value), files))
        elif number == 5:
            tensor = read_tensor(view(value), files)
            constants[tensor.name] = tensor
        elif number in (11, 12):
            name = next((text(inner) for kind, inner in fields(view(value)) if kind == 1), "")
            (inputs if number == 11 else outputs).append(name)
        elif number == 15:
            raise WireError("holds sparse tensors, which are not supported")
    real = tuple(name for name in inputs if name not in constants)  # old files list parameters as inputs, too
    return OnnxGraph(tuple(nodes), constants, real, tuple(outputs), producer)


def _read_node(message: memoryview, files: DataFiles) -> OnnxNode:
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: dict[str, Attribute] = {}
    name = operation = ""
    for number, value in fields(message):
        if number == 1:
            inputs.append(text(value))
        elif number == 2:
            outputs.append(text(value))
        elif number == 3:
            name = text(value)
        elif number == 4:
            operation = text(value)
        elif number == 5:
            attributes.update(_read_attribute(view(value), files))
    if not outputs:
        raise WireError(f"holds a node {name or operation!r} without an output")
    return OnnxNode(operation, name or outputs[0], tuple(inputs), tuple(outputs), attributes)


def _read_attribute(message: memoryview, files: DataFiles) -> Iterator[tuple[str, Attribute]]:
    name = ""
    found: Attribute | None = None
    numbers: list[int] = []
    spend_bytes(TENSOR_BYTES, "attributes of its nodes")
    for number, value in fields(message):
        if number == 1:
            name = text(value)
        elif number == 2:
            found = protowire.float_of(value)
        elif number == 3:
            found = signed(value)
        elif number == 4:
            found = bytes(view(value)).decode("utf-8", "replace")
        elif number == 5:
            found = read_tensor(view(value), files)
        elif number == 7:
            found = tuple(float(x) for x in packed_floats(value))
        elif number == 8:
            numbers += [signed(n) for n in packed_varints(value)]
    if numbers:
        found = tuple(numbers)
    if found is not None:
        yield name, found


def read_tensor(message: memoryview, files: DataFiles) -> RawTensor:
    """A TensorProto.  Raises WireError for what is no plain array of numbers, SourceError for what is wrong with its file."""
    shape: list[int] = []
    name, kind = "", 0
    spend_bytes(TENSOR_BYTES, "a list of its tensors")
    chunks: list[NDArray[Any]] = []
    raw: memoryview | NDArray[np.uint8] | None = None
    outside: dict[str, str] = {}
    is_outside = False
    for number, value in fields(message):
        spend_steps(what="reading its tensors")
        if number == 1:
            shape += [signed(n) for n in packed_varints(value)]
        elif number == 2:
            kind = integer(value)
        elif number == 4:
            chunks.append(packed_floats(value))
        elif number in (5, 7, 11):
            chunks.append(np.array(packed_varints(value), np.uint64).view(np.int64))
        elif number == 8:
            name = text(value)
        elif number == 9:
            raw = view(value)
        elif number == 10:
            wide = value.to_bytes(8, "little") if isinstance(value, int) else value
            if len(wide) % 8:
                raise WireError("holds packed doubles of an odd length")
            chunks.append(np.frombuffer(wide, "<f8"))
        elif number == 13:
            entry = dict(fields(view(value)))
            outside[text(entry.get(1, memoryview(b"")))] = text(entry.get(2, memoryview(b"")))
        elif number == 14:
            is_outside = integer(value) == 1
    code = DTYPES.get(kind)
    if code is None:
        raise WireError(f"holds tensor {name!r} of the unsupported type {kind}")
    itemsize = np.dtype(code).itemsize
    require_shape(f"tensor {name!r}", shape, itemsize)
    size = element_count(shape)
    if is_outside:
        raw = files.read(name, outside, size * itemsize)
    if raw is not None:
        if len(raw) != size * itemsize:
            raise WireError(f"says that tensor {name!r} is {tuple(shape)} but has {len(raw)} bytes for it")
        return RawTensor(name, np.frombuffer(raw, code).reshape(shape), str(np.dtype(code)))
    if chunks:  # put together, and in its own type
        spend_bytes(sum(chunk.nbytes for chunk in chunks) + size * itemsize, f"tensor {name!r} {tuple(shape)}")
    flat = np.concatenate(chunks) if chunks else np.empty(0)
    if flat.size != size:
        raise WireError(f"says that tensor {name!r} is {tuple(shape)} but has {flat.size} numbers for it")
    if kind == 10:  # float16 is stored as the bits of an integer
        flat = flat.astype(np.uint16).view(np.float16)
    return RawTensor(name, flat.astype(code).reshape(shape), str(np.dtype(code)))

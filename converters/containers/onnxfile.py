"""ONNX models as plain nodes and arrays, without the onnx package (https://onnx.ai, onnx.proto).

Tensors may be in the model or in files beside it (`onnxdata`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.budget import spend_bytes, spend_steps
from xnorinfer.converters.containers.arrays import STORED, RawTensor, element_count, numbered_types, require_shape
from xnorinfer.converters.containers.onnxdata import DataFiles
from xnorinfer.converters.containers.protowire import (
    Message,
    WireError,
    fields,
)
from xnorinfer.errors import SourceError

Attribute: TypeAlias = float | int | str | RawTensor | tuple[int, ...] | tuple[float, ...]

#: What a node, and what a tensor or an attribute takes in memory beside its texts and numbers.
NODE_BYTES, TENSOR_BYTES = 512, 256
#: A model's first field is its version, a small number.
FIRST_BYTE = b"\x08"
#: Domains of operations that go by their bare names: ONNX' own, and those that QONNX, FINN and Brevitas share.
ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
QONNX_DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "finn", "onnx.brevitas")
#: QONNX' Conv, MaxPool and BatchNormalization on maps with their channels last.
CHANNELS_LAST_DOMAIN = "qonnx.custom_op.channels_last"
#: TensorProto.DataType, from 1 on; bfloat16 is not read.
TYPES = numbered_types("float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 uint64")
NUMBERS = {name: number for number, name in TYPES.items()}


#: Functions of a model by domain, name and overload, FunctionProtos; so many calls of them a node may lie in.
Functions: TypeAlias = dict[tuple[str, str, str], Message]
MOST_CALLS = 16
#: Operations that are of all numbers of a sample where they say no axis, before this version of ONNX' operations.
_OF_LAST_AXIS, _SINCE = ("Softmax", "LogSoftmax", "Hardmax"), 13


@dataclass(frozen=True)
class OnnxNode:
    """A NodeProto.  operation: in a domain of others `domain.name`, as it is not what ONNX calls so."""

    operation: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class OnnxGraph:
    """A GraphProto: nodes in the order of computation, constants by name, names of real inputs and of outputs.

    shape: of the first real input, rows first, None for lengths that are open; None where it is not said.  scopes: value -> the
    module that it was computed in, of files that say so otherwise than by names of nodes (`a/b/Sign` is of a/b); several where
    one operation was made of those of several.
    """

    nodes: tuple[OnnxNode, ...]
    constants: dict[str, RawTensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    producer: str
    shape: tuple[int | None, ...] | None = None
    scopes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_onnx(path: Path) -> OnnxGraph:
    """Read a model.  Raises SourceError."""
    return _read(path, DataFiles(path))


def data_files(path: Path) -> list[Path]:
    """The files beside a model that hold tensors of it; none where it is no model, which reading it tells."""
    files = DataFiles(path)
    # It was read, or will be, under its budget; charged twice, a file could be left out.
    with contextlib.suppress(SourceError, OSError), budget.unlimited(path.name), path.open("rb") as stream:
        if stream.read(1) == FIRST_BYTE:
            _read(path, files, are_inlined=False)
    return list(dict.fromkeys(files.opened.values()))


def _read(path: Path, files: DataFiles, *, are_inlined: bool = True) -> OnnxGraph:
    """are_inlined: whether nodes of the model's functions stand where they are called, which only a budget bounds."""
    try:
        model = Message(memoryview(path.read_bytes()))
        if 7 not in model:
            raise WireError("holds no graph")
        functions: Functions = {}
        for function in model.messages(25):
            spend_bytes(NODE_BYTES, "the functions of a model")
            if function.text(10) in ONNX_DOMAINS:
                raise SourceError(f"{path.name} gives ONNX' operation {function.text(1)!r} a meaning of its own: not supported")
            key = function.text(10), function.text(1), function.text(13)
            if functions.setdefault(key, function) is not function:
                raise WireError(f"holds two functions called {'.'.join(filter(None, key))!r}")
        version = _version(model.messages(8))
        return _read_graph(model.bytes(7), model.text(2), files, functions if are_inlined else {}, version)
    except WireError as error:
        raise SourceError(f"{path.name} is damaged, truncated or no ONNX model: it {error}") from None


def _version(opsets: Iterable[Message]) -> int:
    """Of ONNX' operations, 0 where it is not said."""
    return next((opset.integer(2) for opset in opsets if opset.text(1) in ("", "ai.onnx")), 0)


def _read_graph(message: memoryview, producer: str, files: DataFiles, functions: Functions, version: int) -> OnnxGraph:
    nodes: list[OnnxNode] = []
    constants: dict[str, RawTensor] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    scopes: dict[str, tuple[str, ...]] = {}
    shapes: dict[str, tuple[int | None, ...] | None] = {}
    for number, value in fields(message):
        spend_steps(what="reading its graph")
        if number == 1:
            node = Message(value)
            nodes += _nodes_of(node, files, functions, {}, version)
            scope = _scope_of(node)
            if scope is not None:
                scopes |= dict.fromkeys(node.texts(2), (scope,))
        elif number == 5:
            tensor = read_tensor(Message(value), files)
            if tensor.name in constants:
                raise WireError(f"holds two tensors called {tensor.name!r}")
            constants[tensor.name] = tensor
        elif number in (11, 12):
            (inputs if number == 11 else outputs).append(Message(value).text(1))
            if number == 11:
                shapes[inputs[-1]] = _read_shape(Message(value))
        elif number == 15:
            raise WireError("holds sparse tensors, which are not supported")
    real = tuple(name for name in inputs if name not in constants)  # old files list parameters as inputs, too
    shape = shapes.get(real[0]) if real else None
    return OnnxGraph(tuple(nodes), constants, real, tuple(outputs), producer, shape, scopes)


def _scope_of(node: Message) -> str | None:
    """The module that PyTorch says a node is of, as a/b: the last before its own name in `['', 'a', 'a.b', 'conv2d']`."""
    for entry in node.messages(9):
        if entry.text(1) == "pkg.torch.onnx.name_scopes":
            return next(iter(re.findall(r"'([^']*)', '[^']*'\]$", entry.text(2))), "").replace(".", "/")
    return None


def _read_shape(message: Message) -> tuple[int | None, ...] | None:
    """The shape of a ValueInfoProto, None where it is not said."""
    for field_number in (2, 1, 2):  # its type, that of a tensor, the shape of that
        if field_number not in message:
            return None
        message = message.message(field_number)
    sizes = (dim.signed(1) if 1 in dim else None for dim in message.messages(1))
    return tuple(size if size is not None and size > 0 else None for size in sizes)


def _nodes_of(
    message: Message, files: DataFiles, functions: Functions, said: Mapping[str, Attribute], version: int, depth: int = 0
) -> Iterator[OnnxNode]:
    """A node; those of a function of the model in the place of one that calls it.  said: what the call that it is in says;
    version: of ONNX' operations."""
    spend_bytes(NODE_BYTES, "the nodes of a graph")
    spend_steps(what="reading its graph")
    node = _read_node(message, files)
    refers = {one.text(1): one.text(21) for one in message.messages(5) if 21 in one}
    node.attributes.update({key: said[name] for key, name in refers.items() if name in said})
    function = functions.get((message.text(7), message.text(4), message.text(8)))
    if function is None:
        if node.operation in _OF_LAST_AXIS and 0 < version < _SINCE:
            node.attributes.setdefault("axis", 1)
        yield node
        return
    if depth == MOST_CALLS:
        raise WireError(f"has functions that call one another more than {MOST_CALLS} times")
    unsaid = {one.text(1): _read_attribute(one, files) for one in function.messages(11)}
    said = {**{key: value for key, value in unsaid.items() if value is not None}, **node.attributes}
    place = next(filter(None, node.outputs), node.name)
    names = {"": "", **dict.fromkeys(function.texts(4), ""), **dict(zip(function.texts(4), node.inputs, strict=False))}
    copied = []
    for name, result in zip(function.texts(5), node.outputs, strict=False):
        if result and names.setdefault(name, result) != result:
            copied.append(OnnxNode("Identity", f"{node.name}/{name}", (names[name],), (result,)))
    version = _version(function.messages(9))
    for inner in function.messages(7):
        for one in _nodes_of(inner, files, functions, said, version, depth + 1):
            inputs, outputs = (
                tuple(names.get(name, f"{place}/{name}") for name in values) for values in (one.inputs, one.outputs)
            )
            yield replace(one, name=f"{node.name}/{one.name}", inputs=inputs, outputs=outputs)
    yield from copied


def _read_node(message: Message, files: DataFiles) -> OnnxNode:
    inputs, outputs, name, operation = message.texts(1), message.texts(2), message.text(3), message.text(4)
    domain = message.text(7)
    if domain not in (*ONNX_DOMAINS, *QONNX_DOMAINS, CHANNELS_LAST_DOMAIN):
        operation = f"{domain}.{operation}"
    if not outputs:
        raise WireError(f"holds a node {name or operation!r} without an output")
    attributes = {one.text(1): _read_attribute(one, files) for one in message.messages(5)}
    known = {key: value for key, value in attributes.items() if value is not None}
    known.pop("channels_last", None)  # an attribute of none
    if domain == CHANNELS_LAST_DOMAIN:
        known["channels_last"] = 1
    return OnnxNode(operation, name or outputs[0], tuple(inputs), tuple(outputs), known)


def _read_attribute(message: Message, files: DataFiles) -> Attribute | None:
    """None for what no network here needs: lists of texts, graphs."""
    spend_bytes(TENSOR_BYTES, "attributes of its nodes")
    if 8 in message:
        return tuple(message.integers(8).tolist())
    if 7 in message:
        return tuple(message.reals(7).tolist())
    if 5 in message:
        return read_tensor(message.message(5), files)
    if 4 in message:
        return bytes(message.bytes(4)).decode("utf-8", "replace")
    if 3 in message:
        return message.signed(3)
    return message.real(2) if 2 in message else None


def read_tensor(message: Message, files: DataFiles) -> RawTensor:
    """A TensorProto.  Raises WireError for what is no plain array of numbers, SourceError for what is wrong with its file."""
    spend_bytes(TENSOR_BYTES, "a list of its tensors")
    name, number = message.text(8), message.integer(2)
    shape = tuple(message.integers(1).tolist())
    kind = TYPES.get(number, "")
    if kind not in STORED:
        raise WireError(f"holds tensor {name!r} of the unsupported type {number}")
    code = np.dtype(STORED[kind])
    require_shape(f"tensor {name!r}", shape, code.itemsize)
    size = element_count(shape)
    raw: memoryview | NDArray[np.uint8] | None = message.bytes(9) if 9 in message else None
    if message.integer(14) == 1:
        raw = files.read(name, {entry.text(1): entry.text(2) for entry in message.messages(13)}, size * code.itemsize)
    if raw is not None:
        if len(raw) != size * code.itemsize:
            raise WireError(f"says that tensor {name!r} is {shape} but has {len(raw)} bytes for it")
        return RawTensor(name, np.frombuffer(raw, code).reshape(shape), kind)
    flat = message.numbers(floats=4, doubles=10, whole=(5, 7, 11))
    if flat.size != size:
        raise WireError(f"says that tensor {name!r} is {shape} but has {flat.size} numbers for it")
    if kind == "float16":  # stored as the bits of an integer
        flat = flat.astype(np.uint16).view(np.float16)
    return RawTensor(name, flat.astype(code).reshape(shape), kind)

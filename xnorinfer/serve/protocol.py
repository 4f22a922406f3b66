"""The Open Inference Protocol v2 with its binary tensor extension: requests to arrays, arrays to responses, errors.

A request that is not exactly right is refused with what was found and what would be right; a parameter that is not known is
refused as well, because it would have changed the answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from xnorinfer.engine.margins import NO_MARGIN, Margins
from xnorinfer.engine.model import Model, canonical_input
from xnorinfer.engine.plan import INPUT_DTYPES
from xnorinfer.errors import InputError, XnorinferError
from xnorinfer.packing.packed import PackedModel

#: Header with the bytes of the JSON in front of binary tensors.
JSON_LENGTH = "inference-header-content-length"
PLATFORM = "xnorinfer_safetensors"
EXTENSIONS = ("binary_tensor_data",)

#: Datatypes of the protocol.
DATATYPES = {
    np.dtype(dtype): name
    for dtype, name in ((np.uint8, "UINT8"), (np.int8, "INT8"), (np.float32, "FP32"), (np.float64, "FP64"), (np.int64, "INT64"))
}
#: What enters a network, by the kind of its input.
_DTYPES = {kind: np.dtype(dtype) for kind, dtype in INPUT_DTYPES.items()}

INPUT = "input"
#: Outputs that every model gives, and those that are computed only where they are named.
USUAL, ON_REQUEST = ("scores", "classes"), ("gaps", "margins")


class ProtocolError(XnorinferError):
    """A request that is answered with an error.  status: of HTTP.  headers: that the answer has besides."""

    def __init__(self, message: str, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def error_body(message: str) -> bytes:
    """The protocol's object of an error."""
    return json.dumps({"error": message}).encode()


# ---------------------------------------------------------------- what a model takes and gives


def metadata(name: str, version: str, model: Model) -> dict[str, Any]:
    """The protocol's object about a model."""
    packed, shape = model.packed, [-1, *model.score_shape]
    return {
        "name": name,
        "versions": [version],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": input_datatype(packed), "shape": [-1, *packed.shape]}],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": shape},
            {"name": "classes", "datatype": "INT64", "shape": shape[:-1]},
        ],
    }


def input_datatype(packed: PackedModel) -> str:
    """The protocol's name of the type that a model takes: UINT8 pixels, INT8 signs, FP32 reals."""
    return DATATYPES[_DTYPES[packed.input.kind]]


# ---------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class Request:
    """x: canonical, (rows, depth).  wanted: names of outputs, and whether each is given as binary data."""

    x: NDArray[Any]
    wanted: tuple[tuple[str, bool], ...]
    identifier: str | None = None

    @property
    def margins(self) -> bool:
        return any(name in ON_REQUEST for name, _ in self.wanted)


def parse(body: bytes, json_length: str | None, packed: PackedModel, most_rows: int) -> Request:
    """A request to a model.  json_length: the header that binary tensors come with.  Raises ProtocolError."""
    length = _json_length(json_length, len(body))
    try:
        if length == 0:
            return _raw(body, packed, most_rows)
        text = body if length is None else body[:length]
        document = _document(text)
        binary = memoryview(b"" if length is None else body)[length or 0 :]
        identifier, parameters, inputs, outputs = _fields(document)
        booleans = b"true" in text or b"false" in text
        x = canonical_input(packed, _tensor(inputs, binary, packed, most_rows, booleans))
    except ProtocolError:
        raise
    except InputError as error:
        raise ProtocolError(str(error)) from None
    return Request(x, _wanted(outputs, parameters), identifier)


def _raw(body: bytes, packed: PackedModel, most_rows: int) -> Request:
    """A body that is the tensor alone, which the extension allows where there is one input: outputs are JSON."""
    dtype = _DTYPES[packed.input.kind]
    rows, rest = divmod(len(body), packed.depth * dtype.itemsize)
    if rest or not rows:
        raise ProtocolError(
            f"the body has {len(body)} bytes; needed are whole rows of {packed.depth} values of {input_datatype(packed)}, "
            f"{packed.depth * dtype.itemsize} bytes each"
        )
    _require_rows(rows, most_rows)
    return Request(
        canonical_input(packed, _from_bytes(body, dtype, [rows, packed.depth])), tuple((one, False) for one in USUAL)
    )


def _json_length(text: str | None, size: int) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ProtocolError(f"the header {JSON_LENGTH} is {text!r}, needed is a number of bytes")
    if int(text) > size:
        raise ProtocolError(f"the header {JSON_LENGTH} is {text}, but the body has {size} bytes")
    return int(text)


class _NoJson(ValueError):
    """A constant that JSON does not have."""


def _no_constant(text: str) -> float:
    raise _NoJson(f"it holds {text}, which JSON does not have")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _document(text: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
    except ValueError:
        document = _decoded(text)
    return _object(document, "the request")


def _decoded(text: bytes) -> Any:
    """What orjson does not take, by the standard library, which takes numbers beyond float64 and half characters, and says what
    is wrong with the rest.  Raises ProtocolError."""
    try:
        return _DECODER.decode(text.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ProtocolError(f"the request is no JSON: {reason}") from None


def _encoded(document: dict[str, Any]) -> bytes:
    try:
        text: bytes = orjson.dumps(document)
        return text
    except TypeError:  # a request's id with half characters
        return json.dumps(document).encode()


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} is {_kind(value)}, needed is an object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ProtocolError(f"{what} is {_kind(value)}, needed is a list")
    return value


_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def _known(value: dict[str, Any], what: str, fields: Sequence[str]) -> None:
    for name in value:
        if name not in fields:
            raise ProtocolError(f"{what} has {name!r}, which is not known here; there is {', '.join(fields)}")


def _boolean(parameters: dict[str, Any], name: str, what: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise ProtocolError(f"{what}: {name} is {_kind(value)}, needed is true or false")
    return value


def _fields(document: dict[str, Any]) -> tuple[str | None, dict[str, Any], list[Any], list[Any] | None]:
    """The request's id, parameters, inputs, and outputs if it names any."""
    _known(document, "the request", ("id", "parameters", "inputs", "outputs"))
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise ProtocolError(f"id is {_kind(identifier)}, needed is a string")
    parameters = _object(document.get("parameters", {}), "parameters")
    _known(parameters, "parameters", ("binary_data_output",))
    if "inputs" not in document:
        raise ProtocolError("the request has no inputs")
    outputs = document.get("outputs")
    return identifier, parameters, _list(document["inputs"], "inputs"), None if outputs is None else _list(outputs, "outputs")


def _tensor(inputs: list[Any], binary: memoryview, packed: PackedModel, most_rows: int, booleans: bool) -> NDArray[Any]:
    """The one input, in the shape that it is given in.  booleans: whether the request holds any.

    Raises ProtocolError, which names what is wrong with it.
    """
    if len(inputs) != 1:
        raise ProtocolError(f"the request has {len(inputs)} inputs; this model takes one, {INPUT!r}")
    tensor = _object(inputs[0], "the input")
    _known(tensor, "the input", ("name", "shape", "datatype", "parameters", "data"))
    wanted = input_datatype(packed)
    if tensor.get("name") != INPUT:
        raise ProtocolError(f"there is no input {tensor.get('name')!r}; this model takes {INPUT!r}")
    if tensor.get("datatype") != wanted:
        raise ProtocolError(f"{INPUT} has the datatype {tensor.get('datatype')!r}; this model takes {wanted}")
    shape = _shape(tensor.get("shape"), packed, most_rows)
    parameters = _object(tensor.get("parameters", {}), "parameters of the input")
    _known(parameters, "the input's parameters", ("binary_data_size",))
    dtype = _DTYPES[packed.input.kind]
    if "binary_data_size" not in parameters:
        if "data" not in tensor:
            raise ProtocolError(f"{INPUT} has no data, and no binary_data_size")
        if len(binary):
            raise ProtocolError(f"{len(binary)} bytes follow the JSON, and no input has a binary_data_size")
        return _from_json(tensor["data"], dtype, shape, booleans).reshape(shape)
    if "data" in tensor:
        raise ProtocolError(f"{INPUT} has data as well as binary_data_size")
    size, needed = parameters["binary_data_size"], math.prod(shape) * dtype.itemsize
    if type(size) is not int or size != needed:
        raise ProtocolError(f"{INPUT} has a binary_data_size of {size!r}; its shape and datatype take {needed} bytes")
    if len(binary) != needed:
        raise ProtocolError(f"{len(binary)} bytes follow the JSON; {INPUT} takes {needed}")
    return _from_bytes(binary, dtype, shape)


def _from_bytes(data: bytes | memoryview, dtype: np.dtype[Any], shape: list[int]) -> NDArray[Any]:
    array = np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)
    return array if array.flags.aligned and array.dtype.isnative else np.array(array, dtype)


def _shape(shape: Any, packed: PackedModel, most_rows: int) -> list[int]:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ProtocolError(f"the shape of {INPUT} is no list of whole numbers, 0 or above")
    if len(shape) < 2 or math.prod(shape[1:]) != packed.depth:
        raise ProtocolError(f"{INPUT} has shape {shape}; this model takes {[-1, *packed.shape]}, or [rows, ...] of that size")
    if len(shape) > 32:
        raise ProtocolError(f"{INPUT} has {len(shape)} dimensions, at most 32 are taken")
    _require_rows(shape[0], most_rows)
    return shape


def _require_rows(rows: int, most: int) -> None:
    if rows > most:
        raise ProtocolError(f"the request has {rows} rows; this server takes {most} at once", 413)


def _from_json(data: Any, dtype: np.dtype[Any], shape: list[int], booleans: bool) -> NDArray[Any]:
    """The numbers of a tensor, flat or as its shape has them, if the datatype holds them as they are."""
    what = f"the data of {INPUT}"
    quick = _bytes(_list(data, what)) if dtype == np.uint8 and not booleans else None
    if quick is not None and quick.size == math.prod(shape):
        return quick
    try:
        array = np.array(data)
    except (ValueError, OverflowError):  # not rectangular
        raise ProtocolError(f"{what} is ragged; needed is a flat list, or one of shape {shape}") from None
    if array.size != math.prod(shape) or (array.ndim != 1 and array.shape != tuple(shape)):
        raise ProtocolError(f"{what} has shape {list(array.shape)}; needed is a flat list, or one of shape {shape}")
    if not array.size:
        return np.empty(0, dtype)
    kind = "b" if booleans and _holds_boolean(data) else array.dtype.kind
    if dtype.kind == "f":
        if kind not in "iuf":
            raise ProtocolError(f"{what} is not numbers alone")
        with np.errstate(over="ignore"):  # what becomes infinite is named by the check of the inputs
            return array.astype(dtype)
    if kind not in "iu":
        raise ProtocolError(f"{what} is not whole numbers alone, which {DATATYPES[dtype]} holds")
    limits = np.iinfo(dtype)
    if int(array.min()) < limits.min or int(array.max()) > limits.max:
        raise ProtocolError(
            f"{what} reaches from {array.min()} to {array.max()}; {DATATYPES[dtype]} holds {limits.min} to {limits.max}"
        )
    return array.astype(dtype)


def _bytes(data: list[Any]) -> NDArray[np.uint8] | None:
    """A flat list of bytes as an array, ten times as fast as numpy makes it; None for what needs a closer look."""
    try:
        return np.frombuffer(bytes(data), np.uint8)
    except (TypeError, ValueError):
        return None


def _holds_boolean(data: list[Any]) -> bool:
    """Whether a list, whose lists are a few deep, has a boolean among its numbers, which numpy would take for 0 or 1."""
    return any(isinstance(one, bool) or (isinstance(one, list) and _holds_boolean(one)) for one in data)


def _wanted(outputs: list[Any] | None, parameters: dict[str, Any]) -> tuple[tuple[str, bool], ...]:
    """Which outputs to give, and which of them as binary data."""
    every = _boolean(parameters, "binary_data_output", "parameters") or False
    if not outputs:
        return tuple((name, every) for name in USUAL)
    wanted: dict[str, bool] = {}
    for one in outputs:
        output = _object(one, "an output")
        _known(output, "an output", ("name", "parameters"))
        name = output.get("name")
        if name not in (*USUAL, *ON_REQUEST):
            raise ProtocolError(f"there is no output {name!r}; there is {', '.join((*USUAL, *ON_REQUEST))}")
        if name in wanted:
            raise ProtocolError(f"the output {name!r} is asked for twice")
        own = _object(output.get("parameters", {}), "parameters of an output")
        _known(own, "an output's parameters", ("binary_data",))
        binary = _boolean(own, "binary_data", f"output {name}")
        wanted[name] = every if binary is None else binary
    return tuple(wanted.items())


# ---------------------------------------------------------------- responses


def respond(
    model: tuple[str, str], request: Request, scores: NDArray[np.float32], margins: Margins | None, about: dict[str, float]
) -> tuple[bytes, int | None]:
    """The body of a response, and the bytes of its JSON where binary data follows.

    model: name and version.  about: the response's parameters.  Raises ProtocolError for numbers that JSON does not have.
    """
    described, parts = [], []
    for name, binary in request.wanted:
        array = _output(name, scores, margins)
        entry: dict[str, Any] = {"name": name, "datatype": DATATYPES[array.dtype], "shape": list(array.shape)}
        if binary:
            part = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            entry["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ProtocolError(
                    f"{name} holds infinite numbers or NaN, which JSON does not have; ask for it as binary_data"
                )
            entry["data"] = array.ravel().tolist()
        described.append(entry)
    name, version = model
    identifier = {} if request.identifier is None else {"id": request.identifier}
    document = {"model_name": name, "model_version": version, **identifier, "parameters": about, "outputs": described}
    text = _encoded(document)
    return (b"".join([text, *parts]), len(text)) if parts else (text, None)


def _output(name: str, scores: NDArray[np.float32], margins: Margins | None) -> NDArray[Any]:
    if name == "scores":
        return scores
    if name == "classes":
        return np.asarray(scores.argmax(axis=-1), np.int64)
    assert margins is not None
    if name == "gaps":
        return margins.gaps
    found = np.empty((len(scores), len(margins.layers)), np.float64)
    for column, layer in enumerate(margins.layers):
        found[:, column] = np.where(layer.smallest == NO_MARGIN, np.inf, layer.smallest)
    return found

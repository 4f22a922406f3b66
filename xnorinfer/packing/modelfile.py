"""The packed model file: a `safetensors` container, written atomically, validated completely before use.

Format version 2, little endian as safetensors defines it:

    metadata["xnorinfer"]   one JSON object, keys sorted, without spaces:
        format_version      2
        input               the input mapping (`net.values.input_to_json`)
        profile             name of the source's tie profile
        input_bits          true if inputs are binarized one by one before the first layer
        layers              list of {"kind": "dense", "reads", "depth", "output": "threshold"} or
                            {..., "output": "affine", "ops": [...]} or {"kind": "float", ...} without "reads"
        names               list of strings, what the source calls the layers (the input's first, where it has bits)
        content_digest      SHA-256 of the network: this object without the two digests, names, profile and provenance, then
                            every tensor's name and bytes in layer order.  Two sources of one network have the same content
                            digest (`canonical` says what "the same" means).
        provenance          source file name, its digest, options of the conversion and what it said (`report`)
        header_digest       SHA-256 of this object without header_digest: covers the provenance as well
    input.limits            (depth,) I32 for pixels, F32 for reals (`packed.Binarize`)
    input.mirrored          (depth,) BOOL
    layers.N.bits           (neurons, words) U64, the signs of the weights (`bits`), pad bits 0
    layers.N.limits         (neurons,) I32, or F32 where a layer reads reals
    layers.N.steps          (len(ops), 2, neurons) F32, the vectors of the float32 steps (`packed.Affine`)
    layers.N.weight         (neurons, depth) F32, float layers

Format version 1 differs in one thing: its content digest covers the profile.  Such files are read, and saved as they were.

Format version 3 holds what is no chain of dense layers.  Instead of `input_bits` and `layers` it has

        shape               the shape of one sample, [features] or [height, width, channels]
        nodes               list of entries in order of execution, each with "inputs": numbers of earlier nodes, -1 the input
            {"kind": "dense" or "float", "reads", "depth", "output", "ops"} as above, "reads" in both, and "window" (null, or
                {"size", "stride", "dilation": [height, width], "padding": [top, bottom, left, right]}), "groups", "pad"
            {"kind": "pool", "of": "max" or "average", "window", "padded", "falling": whether it has that tensor}
            {"kind": "steps", "ops"}, {"kind": "bits"}, {"kind": "mapped"}

Format version 4 is version 3 with what joins branches: {"kind": "concat", "flat": whether all are vectors}, which reads several
nodes, or one map that becomes a vector, {"kind": "product"} of two nodes, {"kind": "moved", "padding", "value"}, numbers in
other places, and the operations "side", of a node with two inputs, and "prelu", "tanh" and "sigmoid"
in "ops".

Format version 5 is version 4 with levels: {"kind": "levels"}, which makes codes of numbers, the output "levels", and layers
whose "reads" is "levels", with "low" (`packed.Dot`).

In all three there are names for all nodes.  Tensors are called as above, N counting all nodes behind the bits of inputs, with

    layers.N.bits           (neurons, words) U64, the inputs of a neuron in the order (kernel row, kernel column, channel)
    layers.N.limits         (border classes, neurons) I32 where the border of a padded map makes several (`packed.Dot`); of a
                            comparison (kind bits) (channels,) as `input.limits`, with layers.N.mirrored
                            where codes of levels are given, those of each code from 1 on: (top, neurons), (top, border classes,
                            neurons), of kind levels (top, channels)
    layers.N.falling        (channels,) BOOL, channels of a pool of bits that take AND instead of OR, of levels the smallest
                            instead of the largest (`packed.Pool`)
    layers.N.channels       (channels,) I32, which channel each is (kind moved), -1: none
    layers.N.values         (256, channels) or (256, 1) F32, what pixels enter as, of levels (levels, 1), what codes stand for
                            (kind mapped)
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import shipped
from xnorinfer.errors import (
    DigestError,
    MalformedModelError,
    NewerFormatError,
    NotAModelError,
    OptionError,
    OutputError,
)
from xnorinfer.files import write_bytes
from xnorinfer.graph import Interpretation
from xnorinfer.mappedtensors import mapped_tensors
from xnorinfer.net.values import InputMapping, ThresholdInput, input_from_json, input_to_json
from xnorinfer.packing.fileentries import bits_of_inputs, dense_entry, dense_layer, entry_of, node_of, whole_numbers
from xnorinfer.packing.packed import (
    PACKED_OPS,
    Affine,
    Binarize,
    Concat,
    Digitize,
    Dot,
    Elementwise,
    Mapped,
    Moved,
    Multiply,
    PackedModel,
    PackedOp,
    Pool,
)

KEY = "xnorinfer"
#: The newest format.
FORMAT_VERSION = 5


#: Endings of files of other kinds, which a model file must not pass for -> what they are called.
OTHER_ENDINGS = {
    ".onnx": "ONNX",
    ".tflite": "TensorFlow Lite",
    ".pb": "TensorFlow",
    ".ckpt": "TensorFlow",
    ".index": "TensorFlow",
    ".h5": "HDF5 or Keras",
    ".hdf5": "HDF5",
    ".keras": "Keras",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".pt2": "PyTorch",
    ".pkl": "pickle",
    ".npz": "numpy",
    ".npy": "numpy",
    ".h": "C",
    ".c": "C",
    ".csv": "CSV",
    ".parquet": "Parquet",
    ".json": "JSON",
    ".toml": "TOML",
    ".txt": "text",
    ".zip": "zip",
    ".gz": "gzip",
}
#: What `xnorinfer extract` writes.
EXTRACTED = (".npz", ".h")


def require_ending(path: Path) -> None:
    """Raise OutputError for a name that ends like a file of another kind, with what would be right."""
    ending = path.suffix.lower()
    if ending in OTHER_ENDINGS:
        way = f"; 'xnorinfer extract' writes {ending} from it" if ending in EXTRACTED else ""
        raise OutputError(
            f"{path}: ends in {path.suffix} like {OTHER_ENDINGS[ending]}, which is not what is written here: a packed model is "
            f"a .safetensors file of xnorinfer's own; write {path.with_suffix('.safetensors')}{way}"
        )


def save(packed: PackedModel, path: str | Path) -> None:
    """Write a model file: `path` is then the old file or the complete new one.

    Raises OutputError if it cannot be written or its name ends like a file of another kind, MalformedModelError if the model
    itself is inconsistent or branches.
    """
    from safetensors.numpy import save as to_bytes

    path = Path(path)
    require_ending(path)
    problems = packed.check()
    if problems:
        raise MalformedModelError(f"{path}: not written, the model is inconsistent: {'; '.join(problems)}")
    tensors = {name: np.ascontiguousarray(array) for name, array in packed.tensors()}
    write_bytes(path, to_bytes(tensors, metadata={KEY: _canonical(header_of(packed))}))


def header_of(packed: PackedModel) -> dict[str, Any]:
    """The JSON object of the file, digests included.

    Raises MalformedModelError for a provenance that JSON cannot say.
    """
    stored = [node for _, node in packed.stored()]
    network: dict[str, Any] = {"format_version": version_of(packed), "input": input_to_json(packed.input)}
    if packed.is_dense_chain:
        layers = [entry_of(node) for node in packed.layers]
        network.update(input_bits=packed.own_limits is not None, layers=[dense_entry(entry) for entry in layers])
    else:
        stored = list(packed.nodes)
        network.update(shape=list(packed.shape), nodes=[{"inputs": list(node.inputs), **entry_of(node)} for node in stored])
    outside = {"profile": packed.profile}
    if network["format_version"] == 1:
        network, outside = {**network, **outside}, {}
    content = hashlib.sha256(_canonical(network).encode())
    for name, array in packed.tensors():
        content.update(name.encode() + b"\0")
        content.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    names = [node.name for node in stored]
    header = {**network, **outside, "names": names, "content_digest": content.hexdigest(), "provenance": packed.provenance}
    try:
        text = _canonical(header)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedModelError(f"the provenance cannot be written as JSON: {error}") from None
    return {**header, "header_digest": hashlib.sha256(text.encode()).hexdigest()}


def version_of(packed: PackedModel) -> int:
    """The format that its file has: the oldest that says it, but for one that was loaded from a file of version 1."""
    if packed.is_dense_chain:
        return packed.format_version or 2
    return max(_oldest(node) for node in packed.nodes)


#: Steps that format 3 does not have.
_NEW_STEPS = {"prelu", "side", "tanh", "sigmoid"}
#: Op -> the oldest format that says it, of maps.
_oldest: Interpretation[[], int] = Interpretation("the format of a file", PACKED_OPS)


@_oldest.of(Binarize, Pool, Mapped)
def _(op: Binarize | Pool | Mapped) -> int:
    return 3


@_oldest.of(Concat, Multiply, Moved)
def _(op: Concat | Multiply | Moved) -> int:
    return 4


@_oldest.of(Digitize)
def _(op: Digitize) -> int:
    return 5


@_oldest.of(Elementwise)
def _(op: Elementwise) -> int:
    return 4 if _NEW_STEPS & set(op.steps.ops) else 3


@_oldest.of(Dot)
def _(op: Dot) -> int:
    if "levels" in (op.reads, op.gives):
        return 5
    return 4 if isinstance(op.output, Affine) and _NEW_STEPS & set(op.output.ops) else 3


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def load(path: str | Path, *, mapped: bool = False) -> PackedModel:
    """Read and validate a model file.

    mapped: leave the arrays in the file, mapped read-only, so that processes share their pages.  The file must then not be
    changed in place; replacing it, as `save` does, is safe.
    Raises NotAModelError (missing, truncated, another kind of file), NewerFormatError, MalformedModelError (a field, shape or
    type that is not allowed) or DigestError (content changed after it was written).
    """
    path = Path(path)
    text, tensors = _read_container(path, mapped)
    try:
        header = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        _canonical(header)
    except (ValueError, RecursionError) as error:
        reason = f" ({error})" if isinstance(error, _NumberError) else ""
        raise MalformedModelError(f"{path}: its header is not JSON{reason}") from None
    if not isinstance(header, dict) or not isinstance(header.get("format_version"), int):
        raise MalformedModelError(f"{path}: its header has no format version")
    if header["format_version"] < 1 or isinstance(header["format_version"], bool):
        raise MalformedModelError(f"{path}: there is no format version {header['format_version']}")
    if header["format_version"] > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path}: has format version {header['format_version']}, this xnorinfer reads up to "
            f"{FORMAT_VERSION}; upgrade xnorinfer"
        )
    packed = _build(path, header, tensors)
    problems = packed.check()
    if problems:
        raise MalformedModelError(f"{path}: {'; '.join(problems)}")
    expected = header_of(packed)
    for name in ("content_digest", "header_digest"):
        if header.get(name) != expected[name]:
            raise DigestError(f"{path}: {name} does not match the content; the file was changed or damaged, convert it again")
    return packed


#: First bytes of files that trained networks are saved in.
_CHECKPOINTS = {
    b"PK": "a zip archive, as PyTorch, numpy and Keras save networks",
    b"\x89HDF": "an HDF5 file, as Keras saves networks",
    b"\x80": "a Python pickle, as PyTorch saved networks",
    b"\x93NUMPY": "an array of numpy",
}


def _no_model(path: Path, error: Exception) -> str:
    """Why a file is no model; a checkpoint is told from a damaged one."""
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
    except OSError:
        start = b""
    if not path.stat().st_size:
        return "not an xnorinfer model: the file is empty"
    kind = next((meaning for signature, meaning in _CHECKPOINTS.items() if start.startswith(signature)), None)
    if kind is None:
        return f"not an xnorinfer model, or truncated ({error})"
    return f"not an xnorinfer model, but {kind}; {_convert_first(path)}"


def _convert_first(path: Path) -> str:
    return f"convert a checkpoint first: xnorinfer convert {shlex.quote(str(path))} -o MODEL.safetensors"


class _NumberError(ValueError):
    """A number that JSON does not have, or float64 does not hold."""


def _no_number(text: str) -> float:
    raise _NumberError(f"it holds {text}")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:40])


def _read_container(path: Path, mapped: bool = False) -> tuple[str, dict[str, NDArray[Any]]]:
    from safetensors import SafetensorError, safe_open

    try:
        if not path.exists():
            names = ", ".join(shipped.names())
            raise NotAModelError(f"{path}: no such file, and no model that ships with xnorinfer ({names}) has this name")
        if not path.is_file():
            raise NotAModelError(f"{path}: is not a file")
    except OSError as error:  # in a folder that may not be looked into
        raise NotAModelError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        with safe_open(path, framework="numpy") as container:
            metadata = container.metadata() or {}
            if KEY not in metadata:
                raise NotAModelError(f"{path}: a safetensors file, but not an xnorinfer model; {_convert_first(path)}")
            if mapped:
                return metadata[KEY], _mapped_tensors(path)
            tensors = {name: container.get_tensor(name) for name in container.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, TypeError, ValueError, KeyError, AttributeError) as error:
        # safetensors answers types that numpy lacks (bfloat16, float8) with TypeError or AttributeError.
        raise NotAModelError(f"{path}: {_no_model(path, error)}") from None
    return metadata[KEY], tensors


#: The types of a model file as safetensors calls them.
_DTYPES = {"BOOL": "|b1", "I32": "<i4", "U64": "<u8", "F32": "<f4"}


def _mapped_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """As read-only views of the mapped file.  Raises as `mapped_tensors` does, and for types that no model has."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, (kind, shape, raw) in mapped_tensors(path).items():
        dtype = np.dtype(_DTYPES[kind])
        if raw.size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"tensor {name} has {raw.size} bytes, {math.prod(shape) * dtype.itemsize} are needed")
        array = raw.view(dtype)
        tensors[name] = (array if array.flags.aligned else array.copy()).reshape(shape)
    return tensors


#: Fields of the header by format version, but for those of all.
FIELDS = {1: {"input_bits", "layers"}, 2: {"input_bits", "layers"}, **{version: {"shape", "nodes"} for version in (3, 4, 5)}}
COMMON = {"format_version", "input", "names", "profile", "content_digest", "provenance", "header_digest"}


def _build(path: Path, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> PackedModel:
    """The model that header and tensors describe; every tensor is used, every field is known."""
    version = header["format_version"]
    wanted = COMMON | FIELDS[version]
    if set(header) != wanted:
        raise MalformedModelError(
            f"{path}: header fields are {', '.join(sorted(header))}; needed are {', '.join(sorted(wanted))}"
        )
    try:
        mapping = input_from_json(header["input"])
    except OptionError as error:
        raise MalformedModelError(f"{path}: {error}") from None
    listed = header["layers" if version < 3 else "nodes"]
    if not isinstance(listed, list) or not isinstance(header["profile"], str):
        raise MalformedModelError(f"{path}: {'layers' if version < 3 else 'nodes'} or profile have the wrong type")
    if not isinstance(header["provenance"], dict):
        raise MalformedModelError(f"{path}: provenance has the wrong type")
    left = dict(tensors)
    build = _build_chain if version < 3 else _build_nodes
    packed = build(path, header, mapping, left)
    if left:
        raise MalformedModelError(f"{path}: tensors that no layer uses: {', '.join(sorted(left))}")
    return packed


def _names(path: Path, header: dict[str, Any], count: int) -> list[str]:
    names = header["names"]
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise MalformedModelError(f"{path}: names is no list of {count} strings")
    return names


def _build_chain(path: Path, header: dict[str, Any], mapping: InputMapping, left: dict[str, NDArray[Any]]) -> PackedModel:
    """Of the formats 1 and 2."""
    if not isinstance(header["input_bits"], bool):
        raise MalformedModelError(f"{path}: input_bits is neither true nor false")
    names = _names(path, header, len(header["layers"]) + header["input_bits"])
    ops: list[PackedOp] = []
    if header["input_bits"]:
        ops.append(bits_of_inputs(str(path), left))
    ops += [dense_layer(str(path), index, entry, left) for index, entry in enumerate(header["layers"])]
    first = ops[0] if ops else None
    if isinstance(mapping, ThresholdInput) and isinstance(first, Dot):
        names, ops = ["input", *names], [Binarize.at_pixel(mapping.threshold, first.depth), *ops]
    version = 1 if header["format_version"] == 1 else None
    named = zip(names, ops, strict=True)
    return PackedModel.chain(mapping, named, header["profile"], provenance=header["provenance"], format_version=version)


def _build_nodes(path: Path, header: dict[str, Any], mapping: InputMapping, left: dict[str, NDArray[Any]]) -> PackedModel:
    """Of format 3, which holds nothing that format 2 does."""
    listed = header["nodes"]
    names = _names(path, header, len(listed))
    shape = whole_numbers(f"{path}: shape", header["shape"])
    leading = bool(listed) and isinstance(listed[0], dict) and listed[0].get("kind") == "bits"
    nodes = []
    for index, (name, entry) in enumerate(zip(names, listed, strict=True)):
        place = "input" if leading and not index else f"layers.{index - leading}"
        nodes.append(node_of(f"{path}: node {index}", name, entry, place, left))
    packed = PackedModel(mapping, shape, tuple(nodes), header["profile"], header["provenance"])
    if packed.is_dense_chain:
        raise MalformedModelError(f"{path}: a chain of dense layers, which format version 2 holds, says that it has version 3")
    said, needed = header["format_version"], version_of(packed)
    if said != needed:
        raise MalformedModelError(f"{path}: says that it has format version {said}, what it holds is of version {needed}")
    return packed

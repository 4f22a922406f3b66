"""The entries of a model file: what its header says of every op beside the tensors, and the way back, which trusts nothing."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import MalformedModelError
from xnorinfer.graph import Interpretation, Node
from xnorinfer.net.values import is_finite_number
from xnorinfer.net.windows import POOL_KINDS, Window
from xnorinfer.packing.packedops import (
    PACKED_OPS,
    Affine,
    Binarize,
    Concat,
    Digitize,
    Dot,
    Elementwise,
    Grades,
    Mapped,
    Moved,
    Multiply,
    PackedOp,
    Pool,
    Reads,
    Threshold,
)

# ---------------------------------------------------------------- what is written

#: Op -> its entry in `nodes`.
entry_of: Interpretation[[], dict[str, Any]] = Interpretation("modelfile", PACKED_OPS)


@entry_of.of(Binarize)
def _(op: Binarize) -> dict[str, Any]:
    return {"kind": "bits"}


@entry_of.of(Digitize)
def _(op: Digitize) -> dict[str, Any]:
    return {"kind": "levels"}


@entry_of.of(Mapped)
def _(op: Mapped) -> dict[str, Any]:
    return {"kind": "mapped"}


@entry_of.of(Concat)
def _(op: Concat) -> dict[str, Any]:
    return {"kind": "concat", "flat": op.flat}


@entry_of.of(Multiply)
def _(op: Multiply) -> dict[str, Any]:
    return {"kind": "product"}


@entry_of.of(Moved)
def _(op: Moved) -> dict[str, Any]:
    return {"kind": "moved", "padding": list(op.padding), "value": op.value}


@entry_of.of(Elementwise)
def _(op: Elementwise) -> dict[str, Any]:
    return {"kind": "steps", "ops": list(op.steps.ops)}


@entry_of.of(Pool)
def _(op: Pool) -> dict[str, Any]:
    falling = op.falling is not None
    return {"kind": "pool", "of": op.kind, "window": _window(op.window), "padded": op.padded, "falling": falling}


@entry_of.of(Dot)
def _(op: Dot) -> dict[str, Any]:
    gives: dict[str, Any] = {"output": "levels" if isinstance(op.output, Grades) else "threshold"}
    if isinstance(op.output, Affine):
        gives = {"output": "affine", "ops": list(op.output.ops)}
    if op.reads == "levels":
        gives["low"] = op.low
    window = None if op.window is None else _window(op.window)
    kind = "dense" if op.binary else "float"
    return {"kind": kind, "reads": op.reads, "depth": op.depth, **gives, "window": window, "groups": op.groups, "pad": op.pad}


def dense_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """The same in `layers` of a chain of dense layers, whose float ones read real numbers."""
    left_out = ("window", "groups", "pad", *(("reads",) if entry["kind"] == "float" else ()))
    return {name: value for name, value in entry.items() if name not in left_out}


_WINDOW = {"size": 2, "stride": 2, "dilation": 2, "padding": 4}


def _window(window: Window) -> dict[str, list[int]]:
    return {name: list(getattr(window, name)) for name in _WINDOW}


# ---------------------------------------------------------------- what is read

#: Types and numbers of dimensions of tensors by the last part of their names.
TENSORS: dict[str, tuple[tuple[type[Any], ...], tuple[int, ...]]] = {
    "mirrored": ((np.bool_,), (1,)),
    "bits": ((np.uint64,), (2,)),
    "limits": ((np.int32, np.float32), (1, 2, 3)),
    "steps": ((np.float32,), (3,)),
    "weight": ((np.float32,), (2,)),
    "falling": ((np.bool_,), (1,)),
    "values": ((np.float32,), (2,)),
    "channels": ((np.int32,), (1,)),
}

#: Fields of a layer entry by (kind, output).
LAYER_FIELDS = {
    ("dense", "threshold"): {"kind", "output", "depth", "reads"},
    ("dense", "affine"): {"kind", "output", "depth", "reads", "ops"},
    ("float", "affine"): {"kind", "output", "depth", "ops"},
}
#: Fields of the entries of formats from 3 on by kind; layers have those above as well, "reads" in all, "ops" with an output by
#: steps, "low" where they read levels.
NODE_FIELDS = {
    "bits": {"kind", "inputs"},
    "levels": {"kind", "inputs"},
    "mapped": {"kind", "inputs"},
    "steps": {"kind", "inputs", "ops"},
    "concat": {"kind", "inputs", "flat"},
    "product": {"kind", "inputs"},
    "moved": {"kind", "inputs", "padding", "value"},
    "pool": {"kind", "inputs", "of", "window", "padded", "falling"},
    "dense": {"kind", "inputs", "output", "depth", "reads", "window", "groups", "pad"},
    "float": {"kind", "inputs", "output", "depth", "reads", "window", "groups", "pad"},
}

Tensors = dict[str, NDArray[Any]]


def bits_of_inputs(where: str, left: Tensors) -> Binarize:
    """What makes bits of inputs at limits of their own."""
    return _bits(where, "input", left)


def dense_layer(path: str, index: int, entry: Any, left: Tensors) -> Dot:
    """A layer of the formats 1 and 2.  Raises MalformedModelError."""
    where, place = f"{path}: layer {index}", f"layers.{index}"
    kinds = (str(entry.get("kind")), str(entry.get("output"))) if isinstance(entry, dict) else ("", "")
    if kinds not in LAYER_FIELDS or set(entry) != LAYER_FIELDS[kinds]:
        raise MalformedModelError(f"{where}: entry {_shorten(entry)} is no layer of format version 1 or 2")
    return _dot(where, place, {"reads": "reals", "window": None, "groups": 1, "pad": 0, **entry}, left)


def node_of(where: str, name: str, entry: Any, place: str, left: Tensors) -> Node[PackedOp]:
    """A node of formats from 3 on.  Raises MalformedModelError."""
    kind = str(entry.get("kind")) if isinstance(entry, dict) else ""
    fields = set(NODE_FIELDS.get(kind, ()))
    if kind in ("dense", "float") and entry.get("output") == "affine":
        fields.add("ops")
    if kind == "dense" and entry.get("reads") == "levels":
        fields.add("low")
    if not fields or set(entry) != fields:
        raise MalformedModelError(f"{where}: entry {_shorten(entry)} is no node of format version 3, 4 or 5")
    inputs = whole_numbers(f"{where}: inputs", entry["inputs"])
    op: PackedOp
    if kind == "bits":
        op = _bits(where, place, left)
    elif kind == "levels":
        op = Digitize(_take(where, f"{place}.limits", left), _take(where, f"{place}.mirrored", left))
    elif kind == "mapped":
        op = Mapped(_take(where, f"{place}.values", left))
    elif kind == "steps":
        op = Elementwise(_steps(where, place, entry, left))
    elif kind == "concat":
        if not isinstance(entry["flat"], bool):
            raise MalformedModelError(f"{where}: flat is neither true nor false")
        op = Concat(entry["flat"])
    elif kind == "product":
        op = Multiply()
    elif kind == "moved":
        op = _moved(where, place, entry, left)
    elif kind == "pool":
        op = _pool(where, place, entry, left)
    else:
        op = _dot(where, place, entry, left)
    return Node(name, op, inputs)


def whole_numbers(what: str, value: Any, count: int | None = None) -> tuple[int, ...]:
    """A list of whole numbers, of so many.  Raises MalformedModelError."""
    right = isinstance(value, list) and all(type(number) is int for number in value)
    if not right or not value or len(value) != (len(value) if count is None else count):
        raise MalformedModelError(f"{what} is {_shorten(value)}, needed are {count or 'some'} whole numbers")
    return tuple(value)


def _bits(where: str, place: str, left: Tensors) -> Binarize:
    return Binarize(_take(where, f"{place}.limits", left), _take(where, f"{place}.mirrored", left))


def _pool(where: str, place: str, entry: dict[str, Any], left: Tensors) -> Pool:
    if entry["of"] not in POOL_KINDS:
        raise MalformedModelError(f"{where}: pool {_shorten(entry['of'])} is none of {', '.join(POOL_KINDS)}")
    if not isinstance(entry["padded"], bool) or not isinstance(entry["falling"], bool):
        raise MalformedModelError(f"{where}: padded or falling is neither true nor false")
    falling = _take(where, f"{place}.falling", left) if entry["falling"] else None
    return Pool(entry["of"], _read_window(where, entry["window"]), falling, entry["padded"])


def _moved(where: str, place: str, entry: dict[str, Any], left: Tensors) -> Moved:
    padding = whole_numbers(f"{where}: padding", entry["padding"], 4)
    if not is_finite_number(entry["value"]):
        raise MalformedModelError(f"{where}: value has the wrong type")
    return Moved(_take(where, f"{place}.channels", left), padding, float(entry["value"]))  # type: ignore[arg-type]


def _steps(where: str, place: str, entry: dict[str, Any], left: Tensors) -> Affine:
    ops = entry["ops"]
    if not isinstance(ops, list) or not all(isinstance(op, str) for op in ops):
        raise MalformedModelError(f"{where}: ops have the wrong type")
    return Affine(tuple(ops), _take(where, f"{place}.steps", left))


def _dot(where: str, place: str, entry: dict[str, Any], left: Tensors) -> Dot:
    depth = _whole(where, "depth", entry["depth"])
    window = None if entry["window"] is None else _read_window(where, entry["window"])
    groups, pad, low = (_whole(where, name, entry.get(name, 0)) for name in ("groups", "pad", "low"))
    output: Threshold | Grades | Affine
    if entry["output"] == "affine":
        output = _steps(where, place, entry, left)
    elif entry["output"] == "threshold":
        output = Threshold(_take(where, f"{place}.limits", left))
    elif entry["output"] == "levels":
        output = Grades(_take(where, f"{place}.limits", left))
    else:
        raise MalformedModelError(f"{where}: output is {_shorten(entry['output'])}")
    if entry["reads"] not in get_args(Reads):
        raise MalformedModelError(f"{where}: reads {_shorten(entry['reads'])}")
    reads: Reads = entry["reads"]
    if entry["kind"] == "float":
        weights = _take(where, f"{place}.weight", left)
        if weights.shape[1] != depth:
            raise MalformedModelError(f"{where}: depth is {depth}, its weights have {weights.shape[1]}")
    else:
        weights = _take(where, f"{place}.bits", left)
        if depth < 1 or depth > 64 * weights.shape[1]:
            raise MalformedModelError(f"{where}: depth {depth} does not fit {weights.shape[1]} words of bits")
    return Dot(reads, depth, weights, output, window, groups, pad, low)


def _whole(where: str, name: str, value: Any) -> int:
    if type(value) is not int:
        raise MalformedModelError(f"{where}: {name} has the wrong type")
    return value


def _read_window(where: str, value: Any) -> Window:
    if not isinstance(value, dict) or set(value) != set(_WINDOW):
        raise MalformedModelError(f"{where}: window is {_shorten(value)}, needed are {', '.join(_WINDOW)}")
    parts = (whole_numbers(f"{where}: {name} of its window", value[name], count) for name, count in _WINDOW.items())
    return Window(*parts)  # type: ignore[arg-type]


def _take(where: str, name: str, left: Tensors) -> NDArray[Any]:
    array = left.pop(name, None)
    if array is None:
        raise MalformedModelError(f"{where}: tensor {name} is missing")
    dtypes, dimensions = TENSORS[name.rpartition(".")[2]]
    if array.dtype not in dtypes or array.ndim not in dimensions:
        raise MalformedModelError(f"{where}: tensor {name} is {array.shape} {array.dtype}")
    return array


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""Operations on constants alone, computed as the graph spells them: each in float32, in order.

Sums and means of many numbers have PyTorch's order in its own programs; others are added exactly and rounded once, while
frameworks round in an order of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes
from xnorinfer.converters.containers.arrays import STORED, RawTensor, as_float32
from xnorinfer.converters.containers.onnxfile import TYPES, OnnxNode
from xnorinfer.converters.graphs.elementwise import OPERATIONS, Table, cuts, evaluate
from xnorinfer.converters.graphs.livevalues import Constant, Signed
from xnorinfer.converters.graphs.problems import Problems
from xnorinfer.converters.graphs.stepfunction import binary, step_values
from xnorinfer.converters.graphs.torchsums import torch_sum
from xnorinfer.converters.reading import Notes
from xnorinfer.float32 import F32

#: ONNX types of casts -> numpy's.
CAST = {number: STORED[name] for number, name in TYPES.items() if name in STORED}


class Constants:
    """Computes with constants."""

    def __init__(self, table: Table, problems: Problems, notes: Notes) -> None:
        self.table = table
        self.problems = problems
        self.warnings = notes.warnings
        self.producer = problems.producer.partition(" ")[0]  # without its version

    def of(self, array: NDArray[Any], names: tuple[str, ...]) -> Constant:
        """Numbers as they are."""
        if array.size == 1 and array.dtype.kind in "fiub":
            return Constant(array, names, self.table.const(array.reshape(())))
        leaf = self.table.value(", ".join(names[:1]))
        return Constant(array, names, leaf, array, leaf)

    def elementwise(self, node: OnnxNode, op: str, args: Sequence[Constant]) -> Constant:
        """One of `elementwise.OPERATIONS`.  Raises Refused."""
        names = tuple(dict.fromkeys(name for arg in args for name in arg.names))
        self.room(node, np.broadcast_shapes(*(arg.array.shape for arg in args)))
        arrays = [arg.array for arg in args]
        if not all(array.dtype.kind in "fiub" for array in arrays):
            self.problems.refuse(node, f"computes with {arrays[0].dtype}, which is not supported in a binary network")
        for arg in args:
            if arg.array.dtype == np.float64 and arg.array.ndim:
                found: list[str] = []
                as_float32(RawTensor(", ".join(arg.names[:1]) or node.name, arg.array, "float64"), found)
                self.warnings.extend(text for text in found if text not in self.warnings)
        array = computed(op, arrays)
        many = [arg for arg in args if arg.array.size != 1]
        leaves = {arg.leaf.number for arg in many if arg.leaf is not None}
        if many and len(leaves) == 1 and all(arg.array.shape == array.shape for arg in many) and array.dtype.kind == "f":
            expr = self.table.node(op, [arg.expr for arg in args if arg.expr is not None], node.outputs[0])
            root, leaf = many[0].root, many[0].leaf
            assert root is not None
            if expr.op != op:  # x + (q - x)
                array = evaluate(expr, np.asarray(root, np.float32), None, leaf)
            return Constant(array, names, expr, root, leaf)
        made = self.of(array, names)
        return Constant(made.array, names, made.expr, made.root, made.leaf, self._scaled(op, args, array))

    def _scaled(self, op: str, args: Sequence[Constant], array: NDArray[Any]) -> Signed | None:
        """Binarized numbers times or divided by others above 0 are binarized numbers with a scale."""
        if op not in ("Mul", "Div") or len(args) != 2:
            return None
        for one, other in (args, args[::-1]) if op == "Mul" else (args,):
            factor = np.asarray(other.array, np.float32)
            if one.array.shape == array.shape and ((factor > 0) & np.isfinite(factor)).all():
                signed = self.signed(one)
                if signed is not None:
                    with np.errstate(all="ignore"):
                        scale = np.asarray(OPERATIONS[op](signed.scale, factor), np.float32)
                    return Signed(signed.latent, signed.rule, np.broadcast_to(scale, array.shape))
        return None

    def signed(self, value: Constant) -> Signed | None:
        """How a constant is binarized, where the graph does it; None where it does not."""
        if value.signed is not None or value.expr is None or value.root is None or value.leaf is None:
            return value.signed
        root = np.asarray(value.root, np.float32)
        for cut in reversed(cuts(value.expr)[:-1]):
            steps = step_values(value.expr, cut, 1)
            found = None if steps is None else binary(steps)
            if found is None or isinstance(found, str) or found.rule is None or found.low != -found.high:
                continue
            latent = evaluate(cut, root, None, value.leaf)
            return Signed(latent, found.rule, np.broadcast_to(np.float32(found.high), latent.shape))
        return None

    def computed(self, node: OnnxNode, inputs: Sequence[Constant]) -> Constant:
        """Any other operation on constants.  Raises Refused."""
        names = tuple(dict.fromkeys(name for value in inputs for name in value.names))
        if not inputs:
            self._refuse(node)
        first = inputs[0]
        arrays = [value.array for value in inputs]
        operation = node.operation
        if operation in ("Identity", "Dropout"):
            return first
        if operation in ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            move = _moves(node, arrays)
            return self.moved(first, move, names)
        if operation == "Cast":
            kind = CAST.get(_whole(node, "to", 1))
            if kind is None:
                self.problems.refuse(node, "casts to a type that is not supported in a binary network")
            if np.dtype(kind).kind == "f" and first.array.dtype.kind == "f":
                return first  # halves and doubles are computed with as float32
            with np.errstate(all="ignore"):
                return self.of(first.array.astype(kind), names)
        if operation in REDUCTIONS:
            axes = _axes(node, arrays)
            with np.errstate(all="ignore"):
                own = self._summed(node, arrays[0], axes)
                if own is not None:
                    return self.of(own, names)
                wide = REDUCTIONS[operation](arrays[0].astype(np.float64), axes, bool(_whole(node, "keepdims", 1)))
            kept = arrays[0].dtype if arrays[0].dtype.kind in "iu" and operation != "ReduceMean" else np.float32
            return self.of(np.asarray(wide).astype(kept), names)
        if operation == "MatMul":
            one, other = (array.astype(np.float64) for array in arrays)
            outer = np.broadcast_shapes(one.shape[:-2], other.shape[:-2])
            self.room(node, (*outer, *one.shape[-2:-1], *other.shape[-1:]))
            return self.of(np.asarray(one @ other, np.float32), names)
        if operation in SHAPING:
            found = SHAPING[operation](self, node, arrays)
            if found is not None:
                return self.of(np.asarray(found), names)
        return self._refuse(node)

    def _refuse(self, node: OnnxNode) -> NoReturn:
        self.problems.refuse(node, f"computes constants in a way that is not supported{_FOLD.get(self.producer, '')}")

    def _summed(self, node: OnnxNode, array: NDArray[Any], axes: tuple[int, ...] | None) -> F32 | None:
        """A sum as PyTorch rounds it, in its own programs; None of all else."""
        sums = torch_sum(node.operation, array, axes) if self.producer in PYTORCH else None
        if sums is None or not _whole(node, "keepdims", 1):
            return sums
        over = range(array.ndim) if axes is None else {axis % array.ndim for axis in axes}
        return sums.reshape([1 if axis in over else size for axis, size in enumerate(array.shape)])

    def moved(self, value: Constant, move: Callable[[Any], Any], names: tuple[str, ...]) -> Constant:
        """The same numbers in another shape."""
        array = move(value.array)
        signed = self.signed(value)
        if signed is not None:
            signed = Signed(move(signed.latent), signed.rule, move(np.ascontiguousarray(signed.scale)))
        root = None if value.root is None else move(value.root)
        return Constant(array, names, value.expr, root, value.leaf, signed)

    def room(self, node: OnnxNode, shape: Sequence[int]) -> None:
        """Charge what is about to be computed.  Raises SourceError."""
        spend_bytes(4 * math.prod(shape), f"the constant {node.name} {tuple(shape)}")


#: Who writes PyTorch's own programs.
PYTORCH = ("TorchScript", "torch")
#: What computes constants beforehand, by who wrote the graph.
_FOLD = {
    "TorchScript": "; torch.onnx.export(module, args, 'net.onnx', dynamo=True) computes them beforehand",
    "torch": "; torch.onnx.export(module, args, 'net.onnx', dynamo=True) computes them beforehand",
    "pytorch": "; export with dynamo=True, which computes them beforehand",
}


def computed(op: str, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """An elementwise operation: on whole numbers as such where all are, else in float32."""
    with np.errstate(all="ignore"):
        if op in _ON_INTEGERS and all(array.dtype.kind in "iu" for array in arrays):
            return np.asarray(_ON_INTEGERS[op](*(array.astype(np.int64) for array in arrays)))
        return np.asarray(OPERATIONS[op](*(np.asarray(array, np.float32) for array in arrays)), np.float32)


_ON_INTEGERS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": lambda a, b: np.trunc(a / b).astype(np.int64) if np.all(b) else np.full(np.broadcast_shapes(a.shape, b.shape), 0),
    "Neg": np.negative,
    "Min": np.minimum,
    "Max": np.maximum,
}

REDUCTIONS: dict[str, Callable[[Any, tuple[int, ...] | None, bool], Any]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axis=axes, keepdims=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axis=axes, keepdims=keep),
    "ReduceMax": lambda x, axes, keep: x.max(axis=axes, keepdims=keep),
    "ReduceMin": lambda x, axes, keep: x.min(axis=axes, keepdims=keep),
    "ReduceL1": lambda x, axes, keep: np.abs(x).sum(axis=axes, keepdims=keep),
    "ReduceL2": lambda x, axes, keep: np.sqrt((x * x).sum(axis=axes, keepdims=keep)),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axis=axes, keepdims=keep),
    "ReduceProd": lambda x, axes, keep: x.prod(axis=axes, keepdims=keep),
    "ReduceStd": lambda x, axes, keep: x.std(axis=axes, keepdims=keep, ddof=1),
    "ReduceVar": lambda x, axes, keep: x.var(axis=axes, keepdims=keep, ddof=1),
}


def _whole(node: OnnxNode, name: str, default: int) -> int:
    value = node.attributes.get(name, default)
    return int(value) if isinstance(value, int | float) else default


def _axes(node: OnnxNode, arrays: Sequence[NDArray[Any]]) -> tuple[int, ...] | None:
    given = node.attributes.get("axes")
    if isinstance(given, tuple):
        return tuple(int(axis) for axis in given)
    axes = tuple(int(axis) for axis in arrays[1].reshape(-1)) if len(arrays) > 1 else ()
    return axes if axes or _whole(node, "noop_with_empty_axes", 0) else None


def _moves(node: OnnxNode, arrays: Sequence[NDArray[Any]]) -> Callable[[Any], Any]:
    """What an operation does to a shape."""
    operation = node.operation
    if operation == "Transpose":
        order = node.attributes.get("perm")
        return lambda x: x.transpose(order)
    if operation == "Reshape":
        wanted = [int(size) for size in arrays[1].reshape(-1)]
        sizes = [
            arrays[0].shape[i] if size == 0 and not _whole(node, "allowzero", 0) else size for i, size in enumerate(wanted)
        ]
        return lambda x: x.reshape(sizes)
    if operation == "Flatten":
        axis = _whole(node, "axis", 1)
        shape = arrays[0].shape
        first = math.prod(shape[:axis])
        return lambda x: x.reshape(first, -1)
    axes = _axes(node, arrays)
    if operation == "Squeeze":
        return lambda x: np.squeeze(x, axes)
    if axes is None:
        raise ValueError("it has no axes")
    return lambda x: np.expand_dims(x, axes)


def _expand(constants: Constants, node: OnnxNode, arrays: Sequence[NDArray[Any]]) -> Any:
    shape = tuple(int(size) for size in arrays[1].reshape(-1))
    wanted = np.broadcast_shapes(arrays[0].shape, shape)
    constants.room(node, wanted)
    return np.broadcast_to(arrays[0], wanted)


def _filled(constants: Constants, node: OnnxNode, arrays: Sequence[NDArray[Any]]) -> Any:
    shape = tuple(int(size) for size in arrays[0].reshape(-1))
    constants.room(node, shape)
    return np.full(shape, filler(node))


def filler(node: OnnxNode) -> Any:
    """The number of a ConstantOfShape."""
    value = getattr(node.attributes.get("value"), "array", np.zeros(1, np.float32))
    return value.reshape(-1)[0]


def _concat(constants: Constants, node: OnnxNode, arrays: Sequence[NDArray[Any]]) -> Any:
    constants.room(node, (sum(array.size for array in arrays),))
    return np.concatenate(arrays, _whole(node, "axis", 0))


def _dequantized(constants: Constants, node: OnnxNode, arrays: Sequence[NDArray[Any]]) -> Any:
    """Whole numbers, their distance from a zero point times a scale, of all or of each place along an axis."""
    x, scale, *zero = arrays
    if x.dtype.kind not in "iu" or scale.dtype != np.float32 or _whole(node, "block_size", 0):
        return None
    constants.room(node, x.shape)
    shape = [-1 if axis == _whole(node, "axis", 1) % x.ndim else 1 for axis in range(x.ndim)] if scale.ndim else ()
    wide = x.astype(np.int64) - (zero[0].reshape(shape) if zero else 0)
    return wide.astype(np.float32) * scale.reshape(shape)


def _gather(constants: Constants, node: OnnxNode, arrays: Sequence[NDArray[Any]]) -> Any:
    axis = _whole(node, "axis", 0)
    constants.room(node, (arrays[0].size // max(arrays[0].shape[axis], 1), arrays[1].size))
    return np.take(arrays[0], arrays[1].astype(np.int64), axis)


def _slice(constants: Constants, node: OnnxNode, arrays: Sequence[NDArray[Any]]) -> Any:
    given = [[int(n) for n in array.reshape(-1)] for array in arrays[1:]]
    for name, place in (("starts", 0), ("ends", 1), ("axes", 2)):
        values = node.attributes.get(name)
        if len(given) == place and isinstance(values, tuple):
            given.append([int(n) for n in values])
    starts, ends = given[:2]
    axes = given[2] if len(given) > 2 else list(range(len(starts)))
    strides = given[3] if len(given) > 3 else [1] * len(starts)
    chosen = [slice(None)] * arrays[0].ndim
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        least = -(1 << 62)
        chosen[axis] = slice(start, None if stride < 0 and end < -arrays[0].shape[axis] else max(end, least), stride)
    return arrays[0][tuple(chosen)]


def _shape(constants: Constants, node: OnnxNode, arrays: Sequence[NDArray[Any]]) -> Any:
    return np.array(arrays[0].shape, np.int64)


def _size(constants: Constants, node: OnnxNode, arrays: Sequence[NDArray[Any]]) -> Any:
    return np.array(arrays[0].size, np.int64)


SHAPING: dict[str, Callable[[Constants, OnnxNode, Sequence[NDArray[Any]]], Any]] = {
    "Expand": _expand,
    "ConstantOfShape": _filled,
    "Concat": _concat,
    "DequantizeLinear": _dequantized,
    "Gather": _gather,
    "Slice": _slice,
    "Shape": _shape,
    "Size": _size,
}


def scale_of(rows: F32) -> F32:
    """The magnitude of each row, (neurons, 1): that of its middle number."""
    return np.asarray(np.median(np.abs(rows), axis=1, keepdims=True), np.float32)

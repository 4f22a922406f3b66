"""Operations of TensorFlow on values that do not depend on the network's input, in float32 as TensorFlow computes them.

Sums and means are added in float64 and rounded once: TensorFlow's order of additions depends on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import element_count
from xnorinfer.converters.containers.tfbundle import DTYPES
from xnorinfer.converters.tfgraphs.tfnodes import TfNode

Array = NDArray[Any]


def _rsqrt(x: Array) -> Array:
    one: Array = np.asarray(1, x.dtype)
    return np.asarray(one / np.sqrt(x))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))))


def _div_no_nan(x: Array, by: Array) -> Array:
    return np.where(by == 0, np.zeros(1, x.dtype), x / by)


_PLAIN: dict[str, Callable[..., Any]] = {
    **{"Add": np.add, "AddV2": np.add, "BiasAdd": np.add, "Sub": np.subtract, "Mul": np.multiply},
    **{"RealDiv": np.divide, "Div": np.divide, "Maximum": np.maximum, "Minimum": np.minimum, "Neg": np.negative},
    **{"Abs": np.abs, "Sign": np.sign, "Round": np.round, "Rint": np.round, "Floor": np.floor, "Ceil": np.ceil},
    **{"Sqrt": np.sqrt, "Rsqrt": _rsqrt, "Square": np.square, "Pow": np.power, "Exp": np.exp, "Log": np.log},
    **{"Tanh": np.tanh, "DivNoNan": _div_no_nan, "Sigmoid": _sigmoid, "Reciprocal": np.reciprocal, "Inv": np.reciprocal},
    **{"Greater": np.greater, "GreaterEqual": np.greater_equal, "Less": np.less, "LessEqual": np.less_equal},
    **{"Equal": np.equal, "NotEqual": np.not_equal, "LogicalNot": np.logical_not, "LogicalAnd": np.logical_and},
    **{
        "LogicalOr": np.logical_or,
        "ClipByValue": np.clip,
        "SelectV2": np.where,
        "SquaredDifference": lambda a, b: (a - b) ** 2,
    },
    **{"Relu": lambda x: np.maximum(x, 0), "Relu6": lambda x: np.clip(x, 0, 6), "OnesLike": np.ones_like},
    **{"ZerosLike": np.zeros_like, "AddN": lambda *values: sum(values[1:], values[0])},
}
_REDUCED: dict[str, Callable[..., Any]] = {"Mean": np.mean, "Sum": np.sum, "Max": np.max, "Min": np.min, "Prod": np.prod}
_SHAPED = ("Reshape", "Transpose", "ExpandDims", "Squeeze", "Cast", "Fill", "Pack", "ConcatV2", "Select", "Shape", "Range")
COMPUTED = (*_PLAIN, *_REDUCED, *_SHAPED, "MatMul", "Size", "Rank")


def compute(node: TfNode, inputs: Sequence[Array]) -> Array:
    """What a node in `COMPUTED` gives.  Raises ValueError and the like where shapes do not go together."""
    operation = node.operation
    with np.errstate(all="ignore"):
        if operation in _PLAIN:
            shape = np.broadcast_shapes(*(value.shape for value in inputs))
            budget.spend_bytes(8 * element_count(shape), f"{node.name} of shape {shape}")
            result: Array = np.asarray(_PLAIN[operation](*inputs))
            # numpy's and TensorFlow's types of a result are the same but for functions that are computed in float64 here.
            return np.asarray(result, inputs[0].dtype if result.dtype == np.float64 else result.dtype)
        if operation in _REDUCED:
            return _reduced(node, *inputs)
        budget.spend_bytes(8 * sum(value.size for value in inputs), node.name)
        return _shaped(node, inputs)


def _reduced(node: TfNode, value: Array, axes: Array) -> Array:
    axis = tuple(int(a) for a in axes.reshape(-1))
    budget.spend_bytes(8 * value.size, node.name)
    wide = value.astype(np.float64) if value.dtype.kind == "f" else value
    result = np.asarray(_REDUCED[node.operation](wide, axis=axis, keepdims=node.flag("keep_dims")))
    return np.asarray(result, value.dtype)


def _shaped(node: TfNode, inputs: Sequence[Array]) -> Array:
    first = inputs[0]
    match node.operation:
        case "Reshape":
            return first.reshape([int(n) for n in inputs[1].reshape(-1)])
        case "Transpose":
            return np.transpose(first, [int(n) for n in inputs[1].reshape(-1)])
        case "ExpandDims":
            return np.expand_dims(first, int(inputs[1].reshape(-1)[0]))
        case "Squeeze":
            return first.squeeze()
        case "Cast":
            code = DTYPES.get(node.kind("DstT"))
            if code is None:
                raise ValueError(f"a cast to type {node.kind('DstT')}")
            return first.astype(code)
        case "Fill":
            shape = tuple(int(n) for n in first.reshape(-1))
            budget.spend_bytes(8 * element_count(shape), f"{node.name} of shape {shape}")
            return np.full(shape, inputs[1].reshape(()))
        case "Pack":
            return np.stack(inputs, axis=node.integer("axis"))
        case "ConcatV2":
            return np.concatenate(inputs[:-1], axis=int(inputs[-1]))
        case "Select":
            return np.where(first, inputs[1], inputs[2])
        case "Shape":
            return np.array(first.shape, np.int32)
        case "Size":
            return np.array(first.size, np.int32)
        case "Rank":
            return np.array(first.ndim, np.int32)
        case "Range":
            start, stop, step = (int(value) for value in inputs)
            budget.spend_bytes(8 * max(0, (stop - start) // (step or 1)), node.name)
            return np.arange(start, stop, step, dtype=np.int32)
        case "MatMul":
            left = first.T if node.flag("transpose_a") else first
            right = inputs[1].T if node.flag("transpose_b") else inputs[1]
            budget.spend_bytes(8 * left.shape[0] * right.shape[1], node.name)
            return np.asarray(left.astype(np.float64) @ right.astype(np.float64), first.dtype)
    raise ValueError(f"{node.operation} is not known")

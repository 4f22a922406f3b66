"""PyTorch's operations as the nodes of a graph: what `torch.export` and TorchScript archives have in common.

Both say which operations of ATen a network is made of, with what arguments; a `Recorder` is told them one by one, in order, and
writes down a graph that `walk` understands.  Shapes are followed for tensors of the file, whose axes decide what is scaled by
what; those of the network's values `walk` follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NoReturn, TypeGuard

import numpy as np

from xnorinfer.budget import spend_bytes, spend_steps
from xnorinfer.converters.containers.arrays import RawTensor
from xnorinfer.converters.containers.onnxfile import NUMBERS, Attribute, OnnxGraph, OnnxNode
from xnorinfer.converters.graphs.operations import OTHER_TYPE
from xnorinfer.converters.graphs.problems import UNREAD
from xnorinfer.converters.torchgraphs import torchjoins, torchmaps
from xnorinfer.converters.torchgraphs.torchmemory import Memory
from xnorinfer.converters.torchgraphs.torchschemas import (
    BINARY,
    BITWISE,
    COPYING,
    FILLED,
    OTHER,
    PASSING,
    PICKING,
    PRODUCTS,
    REDUCING,
    SCHEMAS,
    UNARY,
    WHOLE,
    gives_truths,
)
from xnorinfer.converters.torchgraphs.torchshapes import result_shape
from xnorinfer.converters.torchgraphs.torchvalues import Ref
from xnorinfer.errors import SourceError

#: What to do with code that decides or repeats: a trace has only what was done.
WAY_OUT = "torch.export.export(module, (example,)) and torch.jit.trace(module, example) write down what is computed alone"
EVAL = "call eval() first"


class Recorder:
    """Writes a graph down.  constants: the tensors of the file by name, floats: the types that stand for float32."""

    def __init__(self, about: str, constants: Mapping[str, RawTensor], floats: tuple[int, ...]) -> None:
        self.about = about
        self.constants = dict(constants)
        self.floats = floats
        self.nodes: list[OnnxNode] = []
        self.module = ""  # which is being told, by its path
        self.scopes: dict[str, tuple[str, ...]] = {}
        self.shapes: dict[str, tuple[int, ...] | None] = {name: tensor.shape for name, tensor in self.constants.items()}
        self.memory = Memory()
        self.stacks: dict[str, tuple[list[Ref], int]] = {}  # of the network's values: what was stacked, along which axis
        self.others = {name for name, tensor in self.constants.items() if tensor.dtype != "float32"}  # of another type
        self.truths = {name for name, tensor in self.constants.items() if tensor.dtype == "bool"}

    def graph(self, entry: str, results: Sequence[Ref], producer: str, shape: tuple[int | None, ...] | None) -> OnnxGraph:
        """All of it; entry: the name of the network's input, shape: that of its tensor.  results: what the program gives, which
        go by their places, 0 and so on, where they are several."""
        names = tuple(self._current(result).name for result in results)
        if len(names) > 1:
            places = [str(place) for place in range(len(names))]
            self.nodes += [OnnxNode("Identity", p, (name,), (p,)) for p, name in zip(places, names, strict=True)]
            names = tuple(places)
        return OnnxGraph(tuple(self.nodes), self.constants, (entry,), names, producer, shape, self.scopes)

    def record(self, operation: str, positional: list[Any], named: dict[str, Any]) -> Any:
        """One operation (`linear`, `hardtanh_`); the tensor that it gives, or the parts that it takes one apart into.  Raises
        SourceError."""
        spend_steps(1, "following its operations")
        base = operation.rstrip("_") if not operation.startswith("__") else operation
        before = len(self.nodes)
        if named.get("out") is not None:
            self.refuse(operation, "writes what it gives into another tensor (out=), which is not followed")
        given = positional[0] if positional else named.get("self", named.get("input"))
        writes = base != operation and base not in PASSING
        if writes and isinstance(given, Ref) and given.origin.endswith("num_batches_tracked"):
            self.refuse(operation, f"counts batches: the network was saved in training mode, {EVAL}")
        if writes and isinstance(given, Ref) and self.memory.owner(given) in self.constants:
            self.refuse(operation, f"writes into the tensor {given.origin} of the file, which another call would find changed")
        if base in PASSING:
            value = self.tensor(operation, given)
            result = self.node("Identity", value) if base in COPYING else self.view("Identity", value)
            if base in ("detach", "alias"):
                self.memory.lies_in(result, value, lambda _, part: self.node("Identity", part))
        elif base in SCHEMAS or base in UNARY or base in BINARY or base in self._handlers:
            names = SCHEMAS.get(base, ("self", "other"))
            result = self._known(base, dict(zip(names, positional, strict=False)) | named)
        else:
            result = self._other(base, [*positional, *named.values()])
        made = {name for node in self.nodes[before:] for name in node.outputs}
        if isinstance(result, Ref) and result.name not in made and base not in torchmaps.VIEWS:
            result = self.node("Identity", result)  # one that was there already, but the program's is a tensor of its own
        if writes:
            self.memory.write(self.tensor(operation, given), result)
        return result

    def refuse(self, operation: str, reason: str) -> NoReturn:
        raise SourceError(f"{self.about}: operation {operation} {reason}")

    def of_others(self, operation: str, given: Sequence[Any]) -> Ref:
        """What an operation gives that is none of PyTorch's: nobody knows."""
        why: dict[str, Any] = {UNREAD: "is not supported in a binary network"}
        return self.node(operation, *(one for one in given if isinstance(one, Ref)), **why)

    def shape_of(self, value: Any) -> tuple[int, ...] | None:
        """The shape of a tensor of the file, or of what was made of such ones; None for the network's values."""
        return self.shapes.get(self._current(value).name) if isinstance(value, Ref) and value.origin else None

    # ---------------------------------------------------------------- operations

    def _known(self, operation: str, given: dict[str, Any]) -> Any:
        handler = self._handlers.get(operation)
        if handler is not None:
            return handler(self, operation, given)
        if operation in UNARY:
            value = self.tensor(operation, given.get("self", given.get("input")))
            if operation in BITWISE and value.name not in self.truths:
                return self._other(operation, [value])
            return self.node(UNARY[operation], value)
        if operation in BINARY:
            both = self._both(operation, given)
            if operation in BITWISE and not all(value.name in self.truths for value in both):
                return self._other(operation, both)
            return self.node(BINARY[operation], *both)
        if operation in PICKING:
            value = self.tensor(operation, given.get("self", given.get("input")))
            dim = given.get("dim")
            axis = dim if isinstance(dim, int) else -1
            return self.node(PICKING[operation], value, axis=axis, largest=int(bool(given.get("largest", True))))
        if operation in PRODUCTS:
            one, two = (self.tensor(operation, given.get(name)) for name in SCHEMAS[operation])
            return self.node("MatMul", one, two)
        return self._filled(operation, given)

    def _other(self, operation: str, arguments: Sequence[Any]) -> Ref:
        """An operation that nothing here knows: the graph says what that means."""
        found: list[Ref] = []
        for argument in arguments:
            found += [one for one in (argument if isinstance(argument, list | tuple) else [argument]) if isinstance(one, Ref)]
        return self.node(operation, *(self._current(one) for one in found))

    def _linear(self, operation: str, given: dict[str, Any]) -> Ref:
        bias = [] if given.get("bias") is None else [self.tensor(operation, given["bias"])]
        weight = self.tensor(operation, given.get("weight", given.get("other")))
        value = self.tensor(operation, given.get("input", given.get("self")))
        return self.node("Gemm", value, weight, *bias, transB=1)

    def _addmm(self, operation: str, given: dict[str, Any]) -> Ref:
        product = self.node("MatMul", self.tensor(operation, given.get("mat1")), self.tensor(operation, given.get("mat2")))
        product = self._scaled(operation, product, given.get("alpha", 1))
        return self.node(
            "Add", product, self._scaled(operation, self.tensor(operation, given.get("self")), given.get("beta", 1))
        )

    def _einsum(self, operation: str, given: dict[str, Any]) -> Ref:
        tensors = given.get("tensors")
        if not isinstance(given.get("equation"), str) or not isinstance(tensors, list | tuple):
            self.refuse(operation, "has no equation of two tensors")
        return self.node("Einsum", *(self.tensor(operation, one) for one in tensors), equation=given["equation"])

    def _tensordot(self, operation: str, given: dict[str, Any]) -> Ref:
        one, two = self.tensor(operation, given.get("self")), self.tensor(operation, given.get("other"))
        dims = (given.get("dims_self"), given.get("dims_other"))
        if dims == ([1], [1]) or dims == ([-1], [-1]) or dims == ([-1], [1]):
            return self.node("Gemm", one, two, transB=1)
        if dims in (([1], [0]), ([-1], [0])):
            return self.node("MatMul", one, two)
        return self._other(operation, [one, two])

    def _transpose(self, operation: str, given: dict[str, Any]) -> Ref:
        value = self.tensor(operation, given.get("self"))
        shape = self.shape_of(value)
        dims = given.get("dims")
        if shape is None:
            return torchmaps.transposed(self, operation, given, value)
        order = list(range(len(shape)))
        if operation == "permute" and isinstance(dims, list | tuple):
            order = [int(dim) % len(shape) for dim in dims]
        elif operation == "transpose" or operation in ("t", "mT", "adjoint"):
            one, two = (given.get("dim0"), given.get("dim1")) if operation == "transpose" else (-2, -1)
            if not isinstance(one, int) or not isinstance(two, int):
                self.refuse(operation, "has no two axes")
            if len(shape) > 1:
                order[one], order[two] = order[two], order[one]
        else:
            order.reverse()
        return self.view("Transpose", value, perm=tuple(order))

    def _reshape(self, operation: str, given: dict[str, Any]) -> Ref:
        """Into the shape that is said."""
        value = self.tensor(operation, given.get("self", given.get("input")))
        shape = self.shape_of(value)
        if not value.origin:
            return torchmaps.reshaped(self, operation, given, value)
        wanted = given.get("size", given.get("shape"))
        if operation in ("expand_as", "view_as", "reshape_as"):
            wanted = self.shape_of(given.get("other"))
            if wanted is None:  # of the network's values, whose broadcasting does the same
                return value
        if operation == "flatten" and shape is not None:
            first, last = (given.get(name, other) for name, other in (("start_dim", 0), ("end_dim", -1)))
            size = len(shape)
            wanted = [*shape[: first % size], math.prod(shape[first % size : last % size + 1]), *shape[last % size + 1 :]]
        if operation in ("squeeze", "unsqueeze"):
            dims = given.get("dim")
            axes = tuple(dims) if isinstance(dims, list | tuple) else () if dims is None else (dims,)
            if operation == "squeeze":
                axes = tuple(a for a in axes or range(len(shape or ())) if shape is None or shape[a] == 1)
                if not axes:
                    return value
            return self.view("Squeeze" if operation == "squeeze" else "Unsqueeze", value, axes=axes)
        if not isinstance(wanted, list | tuple) or not all(isinstance(n, int) for n in wanted):
            self.refuse(operation, "gives a tensor of the file a shape that hangs on the input")
        if operation.startswith("expand"):
            kept = (*(None,) * (len(wanted) - len(shape or ())), *(shape or ()))
            wanted = [size if n == -1 else n for n, size in zip(wanted, kept, strict=True)]
        sizes = self.constant(np.array(wanted, np.int64))
        result = self.view("Expand" if operation.startswith("expand") else "Reshape", value, sizes, allowzero=1)
        if shape is not None and wanted.count(-1) == 1:
            rest = math.prod(n for n in wanted if n != -1)
            wanted = [math.prod(shape) // max(rest, 1) if n == -1 else n for n in wanted]
        self.shapes[result.name] = tuple(wanted)
        return result

    def _batch_norm(self, operation: str, given: dict[str, Any]) -> Ref:
        if given.get("training", False) is not False or given.get("running_mean") is None:
            self.refuse(operation, f"takes its statistics from the batch: the network was saved in training mode, {EVAL}")
        mean = self.tensor(operation, given.get("running_mean"))
        variance = self.tensor(operation, given.get("running_var"))
        size = math.prod(self.shape_of(mean) or ())
        gamma, beta = (
            self.constant(np.full(size, filler, np.float32)) if given.get(name) is None else self.tensor(operation, given[name])
            for name, filler in (("weight", 1), ("bias", 0))
        )
        epsilon = given.get("eps")
        if not isinstance(epsilon, int | float):
            self.refuse(operation, "has no epsilon")
        value = self.tensor(operation, given.get("input"))
        return self.node("BatchNormalization", value, gamma, beta, mean, variance, named=mean, epsilon=float(epsilon))

    def _clip(self, operation: str, given: dict[str, Any]) -> Ref:
        low, high = (
            (given.get("min_val", -1), given.get("max_val", 1))
            if operation == "hardtanh"
            else (given.get("min"), given.get("max"))
        )
        result = self.tensor(operation, given.get("self"))
        numbers = all(end is None or isinstance(end, int | float) for end in (low, high))
        if numbers and low is not None and high is not None:
            return self.node("Clip", result, min=float(low), max=float(high))
        for end, kind in ((low, "Max"), (high, "Min")):
            if end is not None:
                result = self.node(kind, result, self._operand(operation, end))
        return result

    def _relu6(self, operation: str, given: dict[str, Any]) -> Ref:
        """That, and what is made of it or of sigmoid, in ATen's order of operations."""
        value = self.tensor(operation, given.get("self", given.get("input")))
        if operation == "relu6":
            return self.node("Clip", value, min=0.0, max=6.0)
        if operation == "silu":
            return self.node("Mul", value, self.node("Sigmoid", value))
        moved = self.node("Clip", self.node("Add", value, self._number(3.0)), min=0.0, max=6.0)
        moved = self.node("Mul", value, moved) if operation == "hardswish" else moved
        return self.node("Div", moved, self._number(6.0))

    def _dropout(self, operation: str, given: dict[str, Any]) -> Ref:
        if given.get("train") is not False:
            self.refuse(operation, f"is active: the network was saved in training mode, {EVAL}")
        return self.view("Identity", self.tensor(operation, given.get("input")))

    def _where(self, operation: str, given: dict[str, Any]) -> Ref:
        chosen = [self._operand(operation, given.get(name)) for name in ("self", "other")]
        return self.node("Where", self.tensor(operation, given.get("condition")), *chosen)

    def _filling(self, operation: str, given: dict[str, Any]) -> Ref:
        value = self.tensor(operation, given.get("self"))
        mask = given.get("mask")
        if operation == "index_put":
            indices = given.get("indices")
            mask = indices[0] if isinstance(indices, list | tuple) and len(indices) == 1 else None
        chosen = self._operand(operation, given.get("value", given.get("values")))
        return self.node("Where", self.tensor(operation, mask), chosen, value)

    def _heaviside(self, operation: str, given: dict[str, Any]) -> Ref:
        value, zero = self.tensor(operation, given.get("self")), self._number(0.0)
        above = self.node("Greater", value, zero)
        return self.node("Where", self.node("Equal", value, zero), self._operand(operation, given.get("values")), above)

    def _threshold(self, operation: str, given: dict[str, Any]) -> Ref:
        value = self.tensor(operation, given.get("self"))
        above = self.node("Greater", value, self._operand(operation, given.get("threshold")))
        return self.node("Where", above, value, self._operand(operation, given.get("value")))

    def _shrunk(self, operation: str, given: dict[str, Any]) -> Ref:
        """Towards 0 by a number at most."""
        value, by = self.tensor(operation, given.get("self")), given.get("lambd", 0.5)
        if not isinstance(by, int | float):
            self.refuse(operation, "shrinks by something that is no number")
        return self.node("Sub", value, self.node("Clip", value, min=-float(by), max=float(by)))

    def _bent(self, operation: str, given: dict[str, Any]) -> Ref:
        value = self.tensor(operation, given.get("self"))
        if operation == "prelu":
            return self.node("PRelu", value, self.tensor(operation, given.get("weight")), of_channels=1)
        if operation == "rrelu" and given.get("training", False) is False:
            slope = (float(given.get("lower", 1 / 8)) + float(given.get("upper", 1 / 3))) / 2
            return self.node("LeakyRelu", value, alpha=slope)
        if operation == "leaky_relu":
            return self.node("LeakyRelu", value, alpha=float(given.get("negative_slope", 0.01)))
        if operation == "elu" and given.get("scale", 1) == 1 and given.get("input_scale", 1) == 1:
            return self.node("Elu", value, alpha=float(given.get("alpha", 1)))
        if operation == "softplus" and given.get("beta", 1) == 1 and given.get("threshold", 20) == 20:
            return self.node("Softplus", value)
        if operation == "round" and given.get("decimals", 0) == 0:
            return self.node("Round", value)
        return self._other(operation, [value])

    def _copied(self, operation: str, given: dict[str, Any]) -> Ref:
        """What stands in a tensor from then on."""
        return self.node("Identity", self.tensor(operation, given.get("src")))

    def _sum(self, operation: str, given: dict[str, Any]) -> Ref:
        one, two = self._both(operation, given)
        if operation == "rsub":
            one, two = two, one
            one = self._scaled(operation, one, 1)
            two = self._scaled(operation, two, given.get("alpha", 1))
        else:
            two = self._scaled(operation, two, given.get("alpha", 1))
        if one.name in self.truths and two.name in self.truths:
            return self.node("Or", one, two)  # the sum of two truths is one
        return self.node("Add" if operation == "add" else "Sub", one, two)

    def _quotient(self, operation: str, given: dict[str, Any]) -> Ref:
        result = self.node("Div", *self._both(operation, given))
        mode = given.get("rounding_mode")
        if mode is None:
            return result
        return self.node({"floor": "Floor", "trunc": "Trunc"}.get(mode, f"{operation} with rounding {mode}"), result)

    def _power(self, operation: str, given: dict[str, Any]) -> Ref:
        one, two = (self._operand(operation, given.get(name)) for name in ("self", "exponent"))
        return self.node("Pow", one, two)

    def _rsqrt(self, operation: str, given: dict[str, Any]) -> Ref:
        return self.node("Reciprocal", self.node("Sqrt", self.tensor(operation, given.get("self"))))

    def _cast(self, operation: str, given: dict[str, Any]) -> Ref:
        value, kind = self.tensor(operation, given.get("self")), given.get("other", given.get("dtype"))
        if not isinstance(kind, int | Ref):
            kind = given.get("behind_device")
        if isinstance(kind, Ref) and self._current(kind).name in self.others:
            self.refuse(operation, OTHER_TYPE)
        if self._is_other(kind):
            shift = self.floats[0] - 6  # torch.export counts from 1
            if kind == 11 + shift:
                return self.node("Cast", value, to=NUMBERS["bool"])
            if kind in range(shift, 5 + shift):
                return self.node("Cast", value, to=NUMBERS[WHOLE[kind - shift]])
            self.refuse(operation, OTHER_TYPE)
        result = self.view("Identity", value)
        if kind is not None:
            self.others.discard(result.name)
            self.truths.discard(result.name)
        return result

    def _is_other(self, kind: Any) -> TypeGuard[int]:
        """Whether a type's number is that of another than float32."""
        return isinstance(kind, int) and not isinstance(kind, bool) and kind not in self.floats

    def _reduced(self, operation: str, given: dict[str, Any]) -> Ref:
        value = self.tensor(operation, given.get("self"))
        dims, keep = given.get("dim"), bool(given.get("keepdim", False))
        kind = REDUCING.get(operation, "")
        if operation in ("linalg_vector_norm", "norm"):
            kind = {1: "ReduceL1", 2: "ReduceL2"}.get(given.get("ord", given.get("p", 2)), "")
        corrected = given.get("correction", 1) if given.get("unbiased", True) is True else 0
        if dims is True or dims is False:  # std(x, unbiased)
            dims, corrected = None, 1 if dims else 0
        if not kind or (operation in ("std", "var") and corrected not in (1, None)):
            return self._other(operation, [value])
        axes = dims if isinstance(dims, list | tuple) else [] if dims is None else [dims]
        if not all(isinstance(axis, int) for axis in axes):
            self.refuse(operation, "has axes that hang on the input")
        of_stack = None if keep else torchjoins.summed(self, value, axes, kind)
        if of_stack is not None:
            return of_stack
        if axes:
            return self.node(kind, value, axes=tuple(axes), keepdims=int(keep))
        return self.node(kind, value, keepdims=0)

    def _filled(self, operation: str, given: dict[str, Any]) -> Ref:
        """Tensors of one number: of a known size as such, else of one that is computed, or the number, which broadcasts."""
        number = FILLED.get(operation, given.get("fill_value", given.get("s")))
        if isinstance(number, Ref):
            return self.tensor(operation, number)
        if not isinstance(number, int | float):
            self.refuse(operation, "has no number to fill a tensor with")
        size = given.get("size") if operation in ("ones", "zeros", "full", "new_ones", "new_zeros", "new_full") else None
        if operation in ("ones_like", "zeros_like", "full_like"):
            size = self.shape_of(given.get("self"))
        if not isinstance(size, list | tuple) or not all(isinstance(n, int) and n >= 0 for n in size):
            like = given.get("self") if operation.endswith("_like") else size
            result = torchmaps.of_size(self, float(number), like) or self._number(float(number))
        else:
            spend_bytes(4 * math.prod(size), f"the tensor {tuple(size)} of operation {operation}")
            result = self.constant(np.full(size, number, np.float32))
        if self._is_other(given.get("dtype")):
            self.others.add(result.name)
        return result

    _handlers: ClassVar[dict[str, Callable[[Recorder, str, dict[str, Any]], Any]]] = {
        **dict.fromkeys(("linear", "inner"), _linear),
        "addmm": _addmm,
        "einsum": _einsum,
        "tensordot": _tensordot,
        **dict.fromkeys(("t", "numpy_T", "mT", "adjoint", "transpose", "permute"), _transpose),
        **dict.fromkeys(torchmaps.VIEWS, _reshape),
        **dict.fromkeys(("batch_norm", "_batch_norm_impl_index", "_native_batch_norm_legit_no_training"), _batch_norm),
        **dict.fromkeys(("hardtanh", "clamp", "clip", "clamp_min", "clamp_max"), _clip),
        **dict.fromkeys(("relu6", "hardsigmoid", "hardswish", "silu"), _relu6),
        **dict.fromkeys(("dropout", "alpha_dropout", "feature_dropout"), _dropout),
        "where": _where,
        **dict.fromkeys(("masked_fill", "index_put"), _filling),
        "heaviside": _heaviside,
        "threshold": _threshold,
        "softshrink": _shrunk,
        **dict.fromkeys(("prelu", "leaky_relu", "rrelu", "elu", "softplus", "round"), _bent),
        **dict.fromkeys(("add", "sub", "subtract", "rsub"), _sum),
        **dict.fromkeys(("div", "divide", "true_divide"), _quotient),
        "copy": _copied,
        "pow": _power,
        "rsqrt": _rsqrt,
        **dict.fromkeys(("to", "_to_copy", "type_as"), _cast),
        **dict.fromkeys((*REDUCING, "linalg_vector_norm", "norm"), _reduced),
        **torchmaps.HANDLERS,
        **torchjoins.HANDLERS,
    }

    # ---------------------------------------------------------------- help

    def _current(self, value: Ref) -> Ref:
        """What a tensor has become that was written into."""
        found = self.memory.current(value)
        if found is None:
            raise SourceError(f"{self.about}: it uses a view of a tensor that was written into through another. {WAY_OUT}")
        return found

    def tensor(self, operation: str, value: Any) -> Ref:
        if not isinstance(value, Ref):
            self.refuse(operation, "has no tensor where one is needed")
        current: Ref = self._current(value)
        return current

    def _operand(self, operation: str, value: Any) -> Ref:
        """A tensor, or a number as one."""
        if isinstance(value, int | float):
            number = self._number(float(value))
            if isinstance(value, bool):
                self.truths.add(number.name)
            return number
        return self.tensor(operation, value)

    def _both(self, operation: str, given: dict[str, Any]) -> tuple[Ref, Ref]:
        return self._operand(operation, given.get("self")), self._operand(operation, given.get("other"))

    def _scaled(self, operation: str, value: Ref, factor: Any) -> Ref:
        if not isinstance(factor, int | float):
            self.refuse(operation, "scales its terms by something that is no number")
        return value if factor == 1 else self.node("Mul", value, self._number(float(factor)))

    def _number(self, value: float) -> Ref:
        return self.constant(np.array(value, np.float32))

    def constant(self, array: Any) -> Ref:
        """Numbers that stand in the code: a node that gives them, so that they are no tensor of the file."""
        name = f"%{len(self.nodes)}"
        self.nodes.append(OnnxNode("Constant", name, (), (name,), {"value": RawTensor(name, array, str(array.dtype))}))
        self.shapes[name] = array.shape
        return Ref(name, name)

    def view(self, operation: str, value: Ref, *others: Ref, **attributes: Any) -> Ref:
        """A node whose result may share its argument's memory."""
        result = self.node(operation, value, *others, **attributes)
        self.memory.share(result.name, value)
        return result

    def apart(self, operation: str, value: Ref, many: int, **attributes: Any) -> list[Ref]:
        """A node with as many results, which may share its argument's memory."""
        result = self.view(operation, value, **attributes)
        names = (result.name, *(f"{result.name}.{number}" for number in range(1, many)))
        self.nodes[-1] = replace(self.nodes[-1], outputs=names)
        for name in names:
            self.memory.share(name, value)
        return [Ref(name, result.origin) for name in names]

    def node(self, operation: str, *inputs: Ref, named: Ref | None = None, **attributes: Attribute) -> Ref:
        """named: the tensor whose module gives the node its name; else the second input's."""
        name = f"%{len(self.nodes)}"
        origin = (named or (inputs[1] if len(inputs) > 1 else inputs[0] if inputs else Ref(""))).origin
        module, _, last = origin.rpartition(".")
        called = {"": f"{operation}{len(self.nodes)}", "CONSTANTS": last}.get(module, module)
        self.nodes.append(OnnxNode(operation, called, tuple(value.name for value in inputs), (name,), attributes))
        self.scopes[name] = (self.module,)
        if operation in OTHER or (inputs and all(value.name in self.others for value in inputs)):
            self.others.add(name)
        if gives_truths(operation, [value.name in self.truths for value in inputs], attributes):
            self.truths.add(name)
        constant = bool(inputs) and all(value.origin for value in inputs)
        if constant:
            self.shapes[name] = result_shape(operation, [self.shapes.get(value.name) for value in inputs], attributes)
        return Ref(name, inputs[0].origin if constant else "")

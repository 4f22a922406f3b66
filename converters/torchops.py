"""PyTorch's operations as the nodes of a graph: what `torch.export` and TorchScript archives have in common.

Both say which operations of ATen a network is made of, with what arguments; a `Recorder` is told them one by one, in order, and
writes down a graph that `graph` understands.  Operations that no binary network needs are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xnorinfer.converters.arrays import RawTensor
from xnorinfer.converters.onnxfile import Attribute, OnnxGraph, OnnxNode
from xnorinfer.errors import SourceError

#: What to do with a program that is not understood.
WAY_OUT = "If its tensors alone say enough, save those: torch.save(module.state_dict(), 'net.pt')"


@dataclass(frozen=True)
class Ref:
    """A tensor of the graph, by name.  origin: the tensor of the file that it comes from, "" for the network's values."""

    name: str
    origin: str = ""


@dataclass(frozen=True)
class Unknown:
    """Something that depends on shapes, or that no operation here needs to know."""


#: Names of arguments, in the order of ATen's schemas.
SCHEMAS: dict[str, tuple[str, ...]] = {
    "linear": ("input", "weight", "bias"),
    "matmul": ("self", "other"),
    "mm": ("self", "mat2"),
    "addmm": ("self", "mat1", "mat2", "beta", "alpha"),
    "t": ("self",),
    "numpy_T": ("self",),
    "transpose": ("self", "dim0", "dim1"),
    "permute": ("self", "dims"),
    "sign": ("self",),
    "neg": ("self",),
    "batch_norm": (
        "input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled"
    ),
    "_native_batch_norm_legit_no_training": ("input", "weight", "bias", "running_mean", "running_var", "momentum", "eps"),
    "hardtanh": ("self", "min_val", "max_val"),
    "clamp": ("self", "min", "max"),
    "dropout": ("input", "p", "train"),
    "where": ("condition", "self", "other"),
    "scalar_tensor": ("s",),
    **dict.fromkeys(("ge", "gt", "le", "lt"), ("self", "other")),
    **dict.fromkeys(("add", "sub"), ("self", "other", "alpha")),
    "mul": ("self", "other"),
    "div": ("self", "other", "rounding_mode"),
    "to": ("self", "dtype"),
    "_to_copy": ("self", "dtype"),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax", "argmax"), ("self",)),
}  # fmt: skip

#: They change the shape at most.
PASSING = (
    "flatten", "view", "reshape", "contiguous", "detach", "alias", "clone", "lift_fresh", "lift_fresh_copy", "squeeze",
    "unsqueeze"
)  # fmt: skip

_COMPARISONS = {"ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less"}
_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}
_PICKING = {
    "softmax": "Softmax",
    "_softmax": "Softmax",
    "log_softmax": "LogSoftmax",
    "_log_softmax": "LogSoftmax",
    "argmax": "ArgMax",
}
#: Operations that may write into their argument: hardtanh and dropout leave nothing else behind that could be seen.
_IN_PLACE = ("hardtanh", "clamp", "dropout", "sign")


class Recorder:
    """Writes a graph down.  constants: the tensors of the file by name, floats: the types that stand for float32."""

    def __init__(self, about: str, constants: Mapping[str, RawTensor], floats: tuple[int, ...]) -> None:
        self.about = about
        self.constants = dict(constants)
        self.floats = floats
        self.nodes: list[OnnxNode] = []
        self.replaced: dict[str, Ref] = {}  # tensors that were written into, and what they became
        self.memory: dict[str, str] = {}  # views -> the tensor whose memory they share
        self.stale: set[str] = set()  # memories that were written into through another view

    def graph(self, entry: str, result: Ref, producer: str) -> OnnxGraph:
        """All of it; entry: the name of the network's input."""
        return OnnxGraph(tuple(self.nodes), self.constants, (entry,), (self._current(result).name,), producer)

    def record(self, operation: str, positional: list[Any], named: dict[str, Any]) -> Ref:
        """One operation (`linear`, `hardtanh_`); the tensor that it gives.  Raises SourceError."""
        base = operation.rstrip("_") if not operation.startswith("__") else operation
        if base != operation and base not in (*_IN_PLACE, *PASSING):
            written = positional[0] if positional else named.get("self")
            if isinstance(written, Ref) and written.origin.endswith("num_batches_tracked"):
                self.refuse(operation, "counts batches: the network was saved in training mode, call eval() first")
            self.refuse(operation, "writes into a tensor, which is not supported")
        if base in PASSING:
            given = positional[0] if positional else named.get("self", named.get("input"))
            result = self._view("Identity", self._tensor(operation, given))
        elif base in SCHEMAS:
            names = SCHEMAS[base]
            arguments = dict(zip(names, positional, strict=False)) | named
            result = self._known(base, arguments)
        else:
            self.refuse(operation, "is not supported in a binary network")
        if base != operation and base not in PASSING:
            target = self._tensor(operation, positional[0] if positional else named.get("self", named.get("input")))
            self.replaced[target.name] = result
            self.stale.add(self.memory.get(target.name, target.name))
            self.memory.pop(result.name, None)
        return result

    def refuse(self, operation: str, reason: str) -> Any:
        raise SourceError(f"{self.about}: operation {operation} {reason}. {WAY_OUT}")

    # ---------------------------------------------------------------- operations

    def _known(self, operation: str, given: dict[str, Any]) -> Ref:
        if operation == "scalar_tensor":
            return self._operand(operation, given.get("s"))
        handler = self._handlers.get(operation)
        if handler is not None:
            return handler(self, operation, given)
        value = self._tensor(operation, given.get("self", given.get("input")))
        if operation == "sign":
            return self._node("Sign", value)
        if operation == "neg":
            return self._node("Mul", value, self._number(-1.0))
        if operation in _PICKING:
            return self._node(_PICKING[operation], value)
        if operation in _COMPARISONS:
            return self._node(_COMPARISONS[operation], value, self._operand(operation, given.get("other")))
        return self._node("MatMul", value, self._tensor(operation, given.get("other", given.get("mat2"))))

    def _linear(self, operation: str, given: dict[str, Any]) -> Ref:
        bias = [] if given.get("bias") is None else [self._tensor(operation, given["bias"])]
        weight = self._tensor(operation, given.get("weight"))
        return self._node("Gemm", self._tensor(operation, given.get("input")), weight, *bias, transB=1)

    def _addmm(self, operation: str, given: dict[str, Any]) -> Ref:
        if given.get("beta", 1) != 1 or given.get("alpha", 1) != 1:
            self.refuse(operation, "scales its terms")
        product = self._node("MatMul", self._tensor(operation, given.get("mat1")), self._tensor(operation, given.get("mat2")))
        return self._node("Add", product, self._tensor(operation, given.get("self")))

    def _transpose(self, operation: str, given: dict[str, Any]) -> Ref:
        dims = given.get("dims", [given.get("dim0", 0), given.get("dim1", 1)])
        order = [1, 0] if operation == "permute" else sorted(dims) if all(isinstance(d, int) for d in dims) else dims
        if dims != [1, 0] if operation == "permute" else order not in ([0, 1], [-2, -1], [-1, 0], [-2, 1]):
            self.refuse(operation, f"with the axes {dims} is not supported")
        return self._view("Transpose", self._tensor(operation, given.get("self")), perm=(1, 0))

    def _batch_norm(self, operation: str, given: dict[str, Any]) -> Ref:
        if given.get("training", False) is not False:
            self.refuse(
                operation, "takes its statistics from the batch: the network was saved in training mode, call eval() first"
            )
        mean = self._tensor(operation, given.get("running_mean"))
        variance = self._tensor(operation, given.get("running_var"))
        size = self.constants[mean.origin].array.size if mean.origin in self.constants else 0
        gamma, beta = (
            self._constant(np.full(size, filler, np.float32))
            if given.get(name) is None
            else self._tensor(operation, given[name])
            for name, filler in (("weight", 1), ("bias", 0))
        )
        epsilon = given.get("eps")
        if not isinstance(epsilon, int | float):
            self.refuse(operation, "has no epsilon")
        value = self._tensor(operation, given.get("input"))
        return self._node("BatchNormalization", value, gamma, beta, mean, variance, named=mean, epsilon=float(epsilon))  # type: ignore[arg-type]

    def _clip(self, operation: str, given: dict[str, Any]) -> Ref:
        low, high = (
            (given.get("min_val", -1), given.get("max_val", 1))
            if operation == "hardtanh"
            else (given.get("min"), given.get("max"))
        )
        value = self._tensor(operation, given.get("self"))
        if not isinstance(low, int | float) or not isinstance(high, int | float):
            self.refuse(operation, "has no two limits")
        return self._node("Clip", value, min=float(low), max=float(high))  # type: ignore[arg-type]

    def _dropout(self, operation: str, given: dict[str, Any]) -> Ref:
        if given.get("train") is not False:
            self.refuse(operation, "is active: the network was saved in training mode, call eval() first")
        return self._view("Identity", self._tensor(operation, given.get("input")))

    def _where(self, operation: str, given: dict[str, Any]) -> Ref:
        chosen = [self._operand(operation, given.get(name)) for name in ("self", "other")]
        return self._node("Where", self._tensor(operation, given.get("condition")), *chosen)

    def _arithmetic(self, operation: str, given: dict[str, Any]) -> Ref:
        if given.get("alpha", 1) != 1 or given.get("rounding_mode") is not None:
            self.refuse(operation, "scales or rounds its result")
        one, two = (self._operand(operation, given.get(name)) for name in ("self", "other"))
        return self._node(_ARITHMETIC[operation], one, two)

    def _cast(self, operation: str, given: dict[str, Any]) -> Ref:
        kind = given.get("dtype")
        if isinstance(kind, int) and not isinstance(kind, bool) and kind not in self.floats:
            self.refuse(operation, "changes the type of numbers to something else than float32")
        return self._view("Cast", self._tensor(operation, given.get("self")))

    _handlers: ClassVar[dict[str, Callable[[Recorder, str, dict[str, Any]], Ref]]] = {
        "linear": _linear,
        "addmm": _addmm,
        **dict.fromkeys(("t", "numpy_T", "transpose", "permute"), _transpose),
        **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
        **dict.fromkeys(("hardtanh", "clamp"), _clip),
        "dropout": _dropout,
        "where": _where,
        **dict.fromkeys(("add", "sub", "mul", "div"), _arithmetic),
        **dict.fromkeys(("to", "_to_copy"), _cast),
    }

    # ---------------------------------------------------------------- help

    def _current(self, value: Ref) -> Ref:
        """What a tensor has become that was written into."""
        while value.name in self.replaced:
            value = self.replaced[value.name]
        if self.memory.get(value.name, value.name) in self.stale:
            raise SourceError(f"{self.about}: it uses a view of a tensor that was written into through another. {WAY_OUT}")
        return value

    def _tensor(self, operation: str, value: Any) -> Ref:
        if not isinstance(value, Ref):
            self.refuse(operation, "has no tensor where one is needed")
        current: Ref = self._current(value)
        return current

    def _operand(self, operation: str, value: Any) -> Ref:
        """A tensor, or a number as one."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._number(float(value))
        return self._tensor(operation, value)

    def _number(self, value: float) -> Ref:
        return self._constant(np.array(value, np.float32))

    def _constant(self, array: Any) -> Ref:
        """Numbers that stand in the code: a node that gives them, so that they are no tensor of the file."""
        name = f"%{len(self.nodes)}"
        self.nodes.append(OnnxNode("Constant", name, (), (name,), {"value": RawTensor(name, array, "float32")}))
        return Ref(name, name)

    def _view(self, operation: str, value: Ref, **attributes: Any) -> Ref:
        """A node whose result may share its argument's memory."""
        result = self._node(operation, value, **attributes)
        self.memory[result.name] = self.memory.get(value.name, value.name)
        return result

    def _node(self, operation: str, *inputs: Ref, named: Ref | None = None, **attributes: Attribute) -> Ref:
        """named: the tensor whose module gives the node its name; else the second input's."""
        name = f"%{len(self.nodes)}"
        origin = (named or (inputs[1] if len(inputs) > 1 else inputs[0])).origin
        module, _, last = origin.rpartition(".")
        called = {"": f"{operation}{len(self.nodes)}", "CONSTANTS": last}.get(module, module)
        self.nodes.append(OnnxNode(operation, called, tuple(value.name for value in inputs), (name,), attributes))
        return Ref(name, inputs[0].origin if all(value.origin for value in inputs) else "")

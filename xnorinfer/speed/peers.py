"""The network of a packed model in other libraries: what else one could run it with, as fast as each of them has it.

Thresholds become the bias of a matrix product that a sign follows; pixels are summed as they are, without their mapping, as
xnorinfer does it.  In int8, bits are 0 and 1 as uint8, weights -1 and +1 as int8, and sums are compared with integers.

A library is imported when it is asked for; what is not installed is named.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.engine.plan import INPUT_DTYPES
from xnorinfer.errors import unhandled
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT, Interpretation
from xnorinfer.net.values import InputMapping, PixelInput
from xnorinfer.packing.packed import PACKED_OPS, STEP_NAMES, Affine, Binarize, Dot, PackedModel, Threshold
from xnorinfer.speed.floatnetwork import border_of, numbers

#: Raw inputs (rows, depth) -> scores (rows, classes).
Scores: TypeAlias = Callable[[NDArray[Any]], F32]


@dataclass(frozen=True)
class Peer:
    """A library that runs the network.  around: what must hold while it does."""

    name: str
    scores: Scores
    around: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext

    def predict(self, x: NDArray[Any]) -> NDArray[np.int64]:
        """Classes of raw inputs, (rows, depth) -> (rows,) int64."""
        return np.asarray(np.argmax(self.scores(x), axis=1), np.int64)


def peers(packed: PackedModel, rows: int, threads: int) -> list[Peer]:
    """Every library that is installed, ready for batches of so many rows on so many threads."""
    return [peer(name, packed, rows, threads) for name in _PEERS if not why_left_out(name)]


def peer(name: str, packed: PackedModel, rows: int, threads: int) -> Peer:
    """One of them, of `NAMES`, that is installed."""
    return _PEERS[name][1](name, packed, rows, threads)


def left_out() -> list[str]:
    """What `peers` lacks, and why."""
    return [reason for name in _PEERS if (reason := why_left_out(name))]


def why_left_out(name: str) -> str:
    """Why one cannot run here; empty if it can."""
    missing = [package for package in _PEERS[name][0] if not _can_be_imported(package)]
    return f"{name} is left out: {', '.join(missing)} cannot be imported" if missing else ""


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    names = dict.fromkeys(name for packages, _ in _PEERS.values() for name in packages)
    return {name: importlib.import_module(name).__version__ for name in names if _can_be_imported(name)}


def _can_be_imported(name: str) -> bool:
    """Not either where a library of its own is not there."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        return False
    return True


# ---------------------------------------------------------------- what all have in common


def _product(op: Dot, mapping: InputMapping) -> tuple[F32, F32]:
    """Weights (depth, neurons) and bias (neurons,), so that the sign of the product is the bit, or the product what steps meet.

    No sum is 0: between two integers lies the bias of bits (whose sums have one parity) and pixels.
    """
    weights = numbers(op).T.astype(np.float64)
    bias: NDArray[Any] = np.zeros(op.neurons)
    if isinstance(op.output, Threshold):
        limits = op.output.limits.astype(np.float64)
        if op.reads == "bits":
            bias = 2 * limits - op.depth + 1
        else:
            weights = -weights
            with np.errstate(over="ignore"):  # the largest limit becomes infinity, which means "always", too
                bias = limits + 0.5 if op.reads == "pixels" else np.nextafter(op.output.limits, np.float32(np.inf))
    elif op.reads == "pixels":
        assert isinstance(mapping, PixelInput)
        bias = mapping.intercept / mapping.divisor * weights.sum(axis=0)
        weights = mapping.slope / mapping.divisor * weights
    return np.ascontiguousarray(weights, np.float32), bias.astype(np.float32)


def _steps(op: Dot) -> Affine | None:
    """The float32 steps behind a layer without a threshold."""
    if isinstance(op.output, Threshold):
        return None
    if unknown := set(op.output.ops) - set(STEP_NAMES):
        raise unhandled("bench", min(unknown))
    return op.output


# ---------------------------------------------------------------- PyTorch

#: Op -> a function of tensors: (..., mapping of the input).
_torch_op: Interpretation[[InputMapping], Callable[..., Any]] = Interpretation("bench.torch", PACKED_OPS)


@_torch_op.of(Binarize)
def _(op: Binarize, mapping: InputMapping) -> Callable[..., Any]:
    import torch

    turn, border = (torch.from_numpy(array) for array in border_of(op))
    one, minus_one = torch.tensor(1.0), torch.tensor(-1.0)
    return lambda x: torch.where(x * turn + border >= 0, one, minus_one)


@_torch_op.of(Dot)
def _(op: Dot, mapping: InputMapping) -> Callable[..., Any]:
    import torch

    weights, bias = (torch.from_numpy(array) for array in _product(op, mapping))
    steps = _steps(op)
    if steps is None:
        return lambda x: torch.addmm(bias, x, weights).sign_()
    return lambda x: torch.from_numpy(steps.apply(torch.addmm(bias, x, weights).numpy(), fused=False))


def _torch(name: str, packed: PackedModel, rows: int, threads: int) -> Peer:
    import torch

    nodes = [(_torch_op(node, packed.input), node.inputs) for node in packed.nodes]

    def scores(x: NDArray[Any]) -> F32:
        with torch.inference_mode():
            values = {INPUT: torch.from_numpy(x).float()}
            for index, (compute, inputs) in enumerate(nodes):
                values[index] = compute(*(values[read] for read in inputs))
            found: F32 = values[len(nodes) - 1].numpy()
        return found

    @contextlib.contextmanager
    def limited() -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return Peer(name, scores, limited)


# ---------------------------------------------------------------- ONNX


class _Graph:
    """An ONNX graph that grows; values are names, arrays become constants.

    integers: whether bits are 0 and 1 in uint8 and multiplied as such, instead of -1 and +1 in float32.
    """

    def __init__(self, mapping: InputMapping, integers: bool) -> None:
        self.mapping, self.integers = mapping, integers
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, *inputs: str | NDArray[Any], **attributes: Any) -> str:
        """A node of one output; its name."""
        import onnx

        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                self.constants.append(onnx.numpy_helper.from_array(value, f"c{len(self.constants)}"))
                value = self.constants[-1].name
            names.append(value)
        output = f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, names, [output], **attributes))
        return output

    def cast(self, value: str, dtype: type) -> str:
        import onnx

        return self.add("Cast", value, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def bits(self, condition: str) -> str:
        """A truth as a bit."""
        if self.integers:
            return self.cast(condition, np.uint8)
        return self.add("Where", condition, np.array([1], np.float32), np.array([-1], np.float32))

    def steps(self, value: str, steps: Affine) -> str:
        for op, (a, b) in zip(steps.ops, steps.values, strict=True):
            if op == "step":
                above, below = self.add("GreaterOrEqual", value, a), self.add("LessOrEqual", value, b)
                value = self.add("Sub", self.cast(above, np.float32), self.cast(below, np.float32))
            else:
                for name, operand in {
                    "mul": [("Mul", a)],
                    "add": [("Add", a)],
                    "fma": [("Mul", a), ("Add", b)],
                    "div": [("Div", a)],
                    "clip": [("Max", a), ("Min", b)],
                }[op]:
                    value = self.add(name, value, operand)
        return value


#: Op -> the name of its value in the graph: (..., graph, name of what it reads, whether that is the network's input).
_onnx_op: Interpretation[[_Graph, str, bool], str] = Interpretation("bench.onnx", PACKED_OPS)


@_onnx_op.of(Binarize)
def _(op: Binarize, graph: _Graph, value: str, raw: bool) -> str:
    turn, border = border_of(op)
    moved = graph.add("Add", graph.add("Mul", graph.cast(value, np.float32), turn), border)
    return graph.bits(graph.add("GreaterOrEqual", moved, np.array([0], np.float32)))


@_onnx_op.of(Dot)
def _(op: Dot, graph: _Graph, value: str, raw: bool) -> str:
    steps = _steps(op)
    if graph.integers and op.binary and op.reads != "reals":
        product, mean = _integer_product(op, graph, value, raw)
        if steps is None:
            return graph.bits(product)
        value = graph.add("Add", graph.add("Mul", graph.cast(product, np.float32), mean[0]), mean[1])
    else:
        weights, bias = _product(op, graph.mapping)
        value = graph.add("Gemm", graph.cast(value, np.float32) if raw else value, weights, bias)
        if steps is None:
            return (
                graph.bits(graph.add("Greater", value, np.array([0], np.float32)))
                if graph.integers
                else graph.add("Sign", value)
            )
    return graph.steps(value, steps)


def _integer_product(op: Dot, graph: _Graph, value: str, raw: bool) -> tuple[str, tuple[F32, F32]]:
    """A product in integers: the bit (of a threshold) or the sum, and the factor and the term that make the dot of it."""
    weights = numbers(op).T.astype(np.int8)
    totals = weights.sum(axis=0, dtype=np.int64)
    product = graph.add("MatMulInteger", value, np.ascontiguousarray(weights))
    # Raw inputs are -1 and +1 or pixels, all others 0 and 1.
    factor, term = (1.0, np.zeros(op.neurons)) if raw else (2.0, -totals)
    if op.reads == "pixels":
        assert isinstance(graph.mapping, PixelInput)
        factor = graph.mapping.slope / graph.mapping.divisor
        term = graph.mapping.intercept / graph.mapping.divisor * totals
    if isinstance(op.output, Threshold):
        limits = op.output.limits.astype(np.int64)
        if op.reads == "bits":
            least = op.depth - 2 * limits if raw else (op.depth - 2 * limits + totals) // 2
            product = graph.add("GreaterOrEqual", product, _int32(least))
        else:
            product = graph.add("LessOrEqual", product, _int32(limits))
    return product, (np.array([factor], np.float32), term.astype(np.float32))


def _int32(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """A limit that no sum reaches may lie beyond int32."""
    around = np.iinfo(np.int32)
    return np.clip(values, around.min, around.max).astype(np.int32)


def _onnx_model(packed: PackedModel, rows: int, integers: bool) -> bytes:
    """The network as an ONNX model, x (rows, depth) -> scores (rows, classes) float32."""
    import onnx

    graph = _Graph(packed.input, integers)
    names = {INPUT: "x"}
    for index, node in enumerate(packed.nodes):
        (read,) = node.inputs
        names[index] = _onnx_op(node, graph, names[read], read == INPUT)
    dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(INPUT_DTYPES[packed.input.kind]))
    made = onnx.helper.make_graph(
        graph.nodes,
        "network",
        [onnx.helper.make_tensor_value_info("x", dtype, (rows, packed.depth))],
        [onnx.helper.make_tensor_value_info(names[len(packed.nodes) - 1], onnx.TensorProto.FLOAT, (rows, packed.classes))],
        graph.constants,
    )
    # What every release of the last years reads.
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 16)], ir_version=8)
    onnx.checker.check_model(model)
    found: bytes = model.SerializeToString()
    return found


def _onnxruntime(name: str, packed: PackedModel, rows: int, threads: int, *, integers: bool) -> Peer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only
    model = _onnx_model(packed, rows, integers)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def scores(x: NDArray[Any]) -> F32:
        found: F32 = session.run(None, {"x": x})[0]
        return found

    return Peer(name, scores)


def _openvino(name: str, packed: PackedModel, rows: int, threads: int) -> Peer:
    import openvino

    core = openvino.Core()
    # Left alone it takes bfloat16 where the CPU has it, which rounds sums.
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(_onnx_model(packed, rows, False)), "CPU", settings).create_infer_request()

    def scores(x: NDArray[Any]) -> F32:
        found: F32 = request.infer({0: x}, share_inputs=True, share_outputs=True)[0]
        return found

    return Peer(name, scores)


#: Name -> packages it needs, and what makes it: (name, packed, rows, threads).
_PEERS: dict[str, tuple[tuple[str, ...], Callable[[str, PackedModel, int, int], Peer]]] = {
    "torch float32": (("torch",), _torch),
    "onnxruntime float32": (("onnx", "onnxruntime"), partial(_onnxruntime, integers=False)),
    "onnxruntime int8": (("onnx", "onnxruntime"), partial(_onnxruntime, integers=True)),
    "OpenVINO float32": (("onnx", "openvino"), _openvino),
}

#: Every library, installed or not.
NAMES = tuple(_PEERS)

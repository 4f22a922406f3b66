"""The onnx source: graphs computed operation by operation in the test give the same scores; unclear graphs are refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from onnx_writer import attribute, field, node, tensor, write
from real_networks import checkpoint, mnist_test_set
from refusals import assert_resolvable

from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.converters.graphs.walk import STATED
from xnorinfer.engine.model import Model
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.float32 import fused_dot, sequential_dot
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear, Norm, Steps
from xnorinfer.net.values import PixelInput, SignInput, ThresholdInput
from xnorinfer.packing.lower import lower

F = np.float32
TWO, ONE = np.array(2, F), np.array([1], F)


def kinds_of(reading: Reading, kind: type[Any]) -> list[Any]:
    return [layer for layer in reading.net.ops if isinstance(layer, kind)]


class Graph:
    """A graph of nodes and constants that grows from the input; `value` is the name of the newest value."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[bytes] = []
        self.constants: dict[str, Any] = {}
        self.value = "x"

    def add(self, operation: str, *constants: Any, first: bool = False, **attributes: Any) -> Graph:
        """Apply an operation to the newest value and constants; first: constants come before it."""
        names = []
        for array in constants:
            name = array if isinstance(array, str) else f"c{len(self.constants)}"
            if not isinstance(array, str):
                self.constants[name] = array
            names.append(name)
        self.nodes.append(
            node(operation, [*names, self.value] if first else [self.value, *names], f"v{len(self.nodes)}", **attributes)
        )
        self.value = f"v{len(self.nodes) - 1}"
        return self

    def derived(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """A node on constants alone."""
        self.nodes.append(node(operation, list(inputs), f"v{len(self.nodes)}", **attributes))
        return f"v{len(self.nodes) - 1}"

    def constant(self, array: Any) -> str:
        self.constants[f"c{len(self.constants)}"] = array
        return f"c{len(self.constants) - 1}"

    def signs(self, *shape: int) -> Any:
        return np.where(self.rng.random(shape) < 0.5, -1, 1).astype(F)

    def vector(self, size: int, spread: float = 1.0) -> Any:
        return (self.rng.standard_normal(size) * spread).astype(F)

    def norm(self, size: int, epsilon: float = 1e-3) -> list[Any]:
        gamma = self.vector(size)
        gamma[:4] = [-0.5, 0.0, 1e-6, -1e-6]
        arrays = [gamma, self.vector(size, 0.3), self.vector(size, 4), np.abs(self.vector(size, 60)) + F(0.1)]
        self.add("BatchNormalization", *arrays, epsilon=epsilon)
        return arrays

    def write(self, tmp_path: Path, **options: Any) -> Path:
        return write(tmp_path / "net.onnx", self.nodes, self.constants, self.value, **options)


def sign(x: Any) -> Any:
    return np.where(x >= 0, F(1), F(-1))


def normalize(x: Any, arrays: list[Any], epsilon: float = 1e-3) -> Any:
    gamma, beta, mean, variance = arrays
    alpha = F(1) / np.sqrt(variance + F(epsilon)) * gamma
    return x * alpha + (beta - mean * alpha)


def pixels(width: int, rows: int = 100) -> Any:
    return np.random.default_rng(9).integers(0, 256, (rows, width), dtype=np.uint8)


# ---------------------------------------------------------------- the real network


def test_tfc_from_the_qonnx_model_zoo(mnist_folder: Path) -> None:
    reading = read_source(checkpoint(mnist_folder, "tfc_1w1a/TFC_1W1A.onnx"))
    assert reading.net.input == ThresholdInput(128)
    assert {norm.epsilon for norm in kinds_of(reading, Norm)} == {1e-5}
    assert [t.name for t in reading.tensors if t.ignored] == []
    images, labels = mnist_test_set(mnist_folder)
    assert int((reference.forward(reading.net, images).argmax(axis=1) == labels).sum()) == 9296


# ---------------------------------------------------------------- small graphs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_qonnx_network(tmp_path: Path, seed: int, raw: bool) -> None:
    g = Graph(seed)
    g.add("Mul", TWO).add("Sub", ONE).add("BipolarQuant", np.array(1, F))
    latent = g.rng.uniform(-1, 1, (17, 24)).astype(F)
    latent[0, :3] = [0.0, -0.0, 1e-9]
    quantized = g.derived("BipolarQuant", g.constant(latent), g.constant(np.array(1, F)))
    g.add("MatMul", g.derived("Transpose", quantized, perm=(1, 0)))
    first = g.norm(17)
    g.add("BipolarQuant", np.array(1, F))
    second = g.signs(17, 5)
    g.add("MatMul", second)
    m, s, w, b = (np.array([v], F) for v in (0.449, 17.8, 0.734, -1.14))
    g.add("Sub", m).add("Div", s).add("Mul", w).add("Add", b)
    reading = read_source(g.write(tmp_path, raw=raw))
    x = pixels(24)
    bits = sign((x / 255).astype(F) * F(2) - F(1))
    hidden = sign(normalize(bits @ sign(latent).T, first))
    np.testing.assert_array_equal(reference.forward(reading.net, x), ((hidden @ second) - m) / s * w + b)
    assert reading.net.profile == "ge-zero"
    assert [t.name for t in reading.tensors if t.ignored] == []
    assert sorted(t.name for t in reading.tensors) == sorted(g.constants)
    assert {a.what: a.origin for a in reading.assumptions}["tie profile"] == "graph"


def test_spelled_out_norms_keep_their_order_of_operations(tmp_path: Path) -> None:
    g = Graph(3)
    w1, w2, w3 = g.signs(20, 16), g.signs(16, 12), g.signs(12, 4)
    a, b, c, d, e = g.vector(16, 3), np.abs(g.vector(16)) + F(0.1), g.vector(16), g.vector(12), g.vector(12, 3)
    g.add("MatMul", w1).add("Add", a).add("Div", b).add("Sub", c, first=True).add("Sign")
    g.add("MatMul", w2).add("Mul", d, first=True).add("Add", e, first=True).add("Sign").add("MatMul", w3)
    reading = read_source(g.write(tmp_path), ConvertOptions(input=SignInput()))
    x = g.signs(60, 20)
    hidden = np.sign(np.sign(c - (x @ w1 + a) / b) @ w2 * d + e)
    np.testing.assert_array_equal(reference.forward(reading.net, x), hidden @ w3)
    assert reading.net.profile == "torch-sign"
    assert len(kinds_of(reading, Steps)) == 2


@pytest.mark.parametrize("operation", ["Greater", "GreaterOrEqual"])
def test_comparison_with_where(tmp_path: Path, operation: str) -> None:
    g = Graph(4)
    w1, w2 = g.signs(10, 8), g.signs(8, 3)
    g.add("MatMul", w1)
    g.add(operation, np.array(0, F)).add("Where", np.array(1, F), np.array(-1, F)).add("MatMul", w2)
    reading = read_source(g.write(tmp_path), ConvertOptions(input=SignInput()))
    x = g.signs(60, 10)
    dot = x @ w1
    assert (dot == 0).any()
    hidden = np.where(dot > 0 if operation == "Greater" else dot >= 0, F(1), F(-1))
    np.testing.assert_array_equal(reference.forward(reading.net, x), hidden @ w2)
    assert reading.net.profile == ("gt-zero" if operation == "Greater" else "ge-zero")


@pytest.mark.parametrize("form", ["less", "less or equal", "cast", "cast like", "half", "mapped later", "constants"])
def test_comparisons_that_become_signs(tmp_path: Path, form: str) -> None:
    """x < 0 chooses -1; (x >= 0) * 2 - 1; weights that are compared in the graph."""
    g = Graph(14)
    zero, minus = np.array(0, F), np.array(-1, F)
    weight = g.signs(12, 6)
    g.add("MatMul", weight).add("Add", np.array([0, 1, 0, 2, 0, 0], F))
    rule, scale = "ge", F(1)
    if form in ("less", "less or equal"):
        rule = "ge" if form == "less" else "gt"
        g.add("Less" if form == "less" else "LessOrEqual", zero).add("Where", minus, ONE)
    elif form == "half":
        rule, scale = "gt", F(0.5)
        g.add("Greater", zero).add("Cast", to=1).add("Sub", np.array(0.5, F))
    elif form == "mapped later":
        g.add("GreaterOrEqual", zero).add("Where", np.array(3, F), ONE).add("Sub", TWO)
    elif form == "cast like":
        none = g.derived("CastLike", g.constant(np.array(0, np.int64)), g.value)
        g.add("GreaterOrEqual", none).add("CastLike", ONE).add("Mul", TWO).add("Sub", ONE)
    else:
        g.add("GreaterOrEqual", zero).add("Cast", to=1).add("Mul", TWO, first=form == "cast").add("Sub", ONE)
    second = g.signs(6, 3)
    if form == "constants":
        second[0] = [0, -0.0, -1e-9]
        compared = g.derived("GreaterOrEqual", g.constant(second), g.constant(zero))
        g.add("MatMul", g.derived("Where", compared, g.constant(ONE), g.constant(minus)))
        second = sign(second)
    else:
        g.add("MatMul", second)
    reading = read_source(g.write(tmp_path), ConvertOptions(input=SignInput()))
    x = np.sign(np.random.default_rng(5).standard_normal((200, 12))).astype(np.int8)
    before = x @ weight + F([0, 1, 0, 2, 0, 0])
    assert (before == 0).any()
    hidden = np.where(before >= 0 if rule == "ge" else before > 0, F(1), F(-1))
    np.testing.assert_array_equal(reference.forward(reading.net, x), hidden @ second * scale)


def test_gemm_float_head_on_hardtanh(tmp_path: Path) -> None:
    g = Graph(5)
    w1, b1, w2, b2 = g.signs(9, 12), g.vector(9, 3), g.vector(27).reshape(3, 9), g.vector(3)
    g.add("Flatten").add("Gemm", w1, b1, transB=1)
    norm = g.norm(9)
    g.add("Clip", np.array(-1, F), np.array(1, F)).add("Gemm", w2, b2, transB=1).add("LogSoftmax")
    reading = read_source(g.write(tmp_path), ConvertOptions(input=PixelInput.range(0, 255)))
    assert networks.kinds(reading.net) == ["binary", "add", "norm", "hardtanh", "float", "add"]
    x = pixels(12)
    hidden = np.clip(normalize(x.astype(F) @ w1.T + b1, norm), -1, 1)
    np.testing.assert_allclose(reference.forward(reading.net, x), hidden @ w2.T + b2, rtol=1e-4, atol=1e-4)
    assert any("before LogSoftmax" in a.value for a in reading.assumptions)


def test_steps_on_pixels_join_the_input_mapping(tmp_path: Path) -> None:
    g = Graph(6)
    g.add("Sub", np.array([0.5], F)).add("Div", np.array([0.25], F)).add("MatMul", g.signs(12, 6))
    g.norm(6)
    g.add("BipolarQuant", np.array(1, F)).add("MatMul", g.signs(6, 3)).add("TopK", np.array([1], np.int64))
    reading = read_source(g.write(tmp_path))
    assert reading.net.input == PixelInput(1.0, -127.5, 63.75)
    raw = read_source(tmp_path / "net.onnx", ConvertOptions(input=PixelInput.range(0, 255)))
    assert raw.net.input == PixelInput(1.0, -0.5, 0.25)


def test_binarized_before_export_and_scales(tmp_path: Path) -> None:
    g = Graph(7)
    g.add("BipolarQuant", np.array(0.5, F)).add("MatMul", g.signs(12, 6) * F(0.25))
    g.norm(6)
    g.add("BipolarQuant", np.array(2, F)).add("MatMul", g.signs(6, 3))
    reading = read_source(g.write(tmp_path), ConvertOptions(input=SignInput()))
    assert [layer.h for layer in kinds_of(reading, Linear)] == [0.125, 2.0]


SCALES = np.array([0.5, 0.3, 1.7, 1e-3, 1, 2.5], F)


@pytest.mark.parametrize("form", ["gemm", "matmul", "transposed", "sign times scale", "numbers", "row"])
def test_weights_scaled_by_neuron(tmp_path: Path, form: str) -> None:
    """`fl(dot * scale)`: the matrix product of scaled signs, rounded once."""
    g = Graph(12)
    latent = g.rng.uniform(-1, 1, (6, 12)).astype(F)
    latent[0, :3] = [0.0, -0.0, 1e-9]
    g.add("BipolarQuant", np.array(0.5, F))
    if form == "gemm":
        g.add("Gemm", g.derived("BipolarQuant", g.constant(latent), g.constant(SCALES[:, None])), transB=1)
    elif form == "matmul":
        g.add("MatMul", g.derived("BipolarQuant", g.constant(latent.T), g.constant(SCALES)))
    elif form == "transposed":
        quantized = g.derived("BipolarQuant", g.constant(latent), g.constant(SCALES[:, None]))
        g.add("MatMul", g.derived("Transpose", quantized, perm=(1, 0)))
    elif form == "sign times scale":
        quantized = g.derived("BipolarQuant", g.constant(latent), g.constant(ONE))
        g.add("Gemm", g.derived("Mul", g.constant(SCALES[:, None]), quantized), transB=1)
    elif form == "numbers":
        g.add("MatMul", (sign(latent) * SCALES[:, None]).T)
    else:
        g.add("Gemm", g.derived("BipolarQuant", g.constant(latent), g.constant(np.full((6, 1), 0.3, F))), transB=1)
    bias = g.vector(6)
    g.add("Add", bias)
    reading = read_source(g.write(tmp_path), ConvertOptions(input=SignInput()))
    x = np.sign(np.random.default_rng(3).standard_normal((80, 12))).astype(np.int8)
    factor = F(0.5) * (SCALES if form != "row" else F(0.3))
    np.testing.assert_array_equal(reference.forward(reading.net, x), (x @ sign(latent).T).astype(F) * factor + bias)
    (layer,) = kinds_of(reading, Linear)
    assert (layer.scale is None) == (form == "row")
    assert sorted(t.name for t in reading.tensors) == sorted(g.constants)
    assert not [t.name for t in reading.tensors if t.ignored]


def test_float_weights_that_read_scaled_signs(tmp_path: Path) -> None:
    """The scale goes into the weights where that is exact; else, and where they read 0 and 1, they read numbers."""
    x = np.random.default_rng(5).integers(0, 256, (40, 12), dtype=np.uint8)
    for scale, low in ((0.25, -0.25), (0.3, -0.3), (1, 0)):
        g = Graph(13)
        weight = g.vector(12).reshape(6, 2)
        g.add("MatMul", g.signs(12, 6))
        _ = g.add("BipolarQuant", np.array(scale, F)) if low else g.add("GreaterOrEqual", ZERO).add("Cast", to=1)
        reading = read_source(g.add("MatMul", weight).write(tmp_path))
        _, layer = kinds_of(reading, Linear)
        np.testing.assert_array_equal(layer.weight, weight.T * (F(scale) if scale == 0.25 else 1))
        above = sequential_dot((x / 255).astype(F), g.constants["c0"].T.copy()) >= 0
        wanted = fused_dot(np.where(above, F(scale), F(low)), weight.T.copy())
        np.testing.assert_array_equal(reference.forward(reading.net, x), wanted)
        np.testing.assert_array_equal(Model(lower(reading.net).packed, threads=1).scores(x), wanted)


@pytest.mark.parametrize("form", ["all", "neurons", "zero point"])
def test_weights_that_are_stored_as_whole_numbers(tmp_path: Path, form: str) -> None:
    g = Graph(16)
    signs, zero = g.signs(12, 6), 3 if form == "zero point" else 0
    stored = (signs + zero).astype(np.int8)
    scale = np.array(0.25, F) if form == "all" else np.array([0.25, 0.5, 0.1, 2, 0.3, 1], F)
    zeros = [g.constant(np.full(scale.shape, zero, np.int8))] if zero else []
    g.add("MatMul", g.derived("DequantizeLinear", g.constant(stored), g.constant(scale), *zeros, axis=-1))
    reading = read_source(g.write(tmp_path), ConvertOptions(input=SignInput()))
    x = np.sign(g.rng.standard_normal((50, 12))).astype(np.int8)
    np.testing.assert_array_equal(reference.forward(reading.net, x), (x @ signs) * scale)


@pytest.mark.parametrize("noop", [0, 1])
def test_reductions_of_constants_without_axes(tmp_path: Path, noop: int) -> None:
    g, vector = Graph(17), np.array([1, 4, 2, 8, 0.5, 3], F)
    signs, none = g.signs(12, 6), g.constant(np.zeros(0, np.int64))
    g.add("MatMul", signs).add("Mul", g.derived("ReduceMax", g.constant(vector), none, keepdims=0, noop_with_empty_axes=noop))
    reading = read_source(g.write(tmp_path), ConvertOptions(input=SignInput()))
    x = np.sign(g.rng.standard_normal((50, 12))).astype(np.int8)
    np.testing.assert_array_equal(reference.forward(reading.net, x), (x @ signs) * (vector if noop else vector.max()))


def test_shape_arithmetic_and_constant_nodes(tmp_path: Path) -> None:
    g = Graph(8)
    shape = g.derived("Shape", "x")
    batch = g.derived("Gather", shape, g.constant(np.array(0, np.int64)), axis=0)
    minus = g.derived("Constant", value=np.array([-1], np.int64))
    target = g.derived("Concat", g.derived("Unsqueeze", batch, axes=(0,)), minus, axis=0)
    g.add("Reshape", target).add("MatMul", g.signs(12, 3))
    assert len(kinds_of(read_source(g.write(tmp_path)), Linear)) == 1


# ---------------------------------------------------------------- refusals


def refused(tmp_path: Path, build: Any, message: str, **options: Any) -> None:
    g = Graph()
    build(g)
    with pytest.raises(NetworkError, match=message) as error:
        read_source(g.write(tmp_path), ConvertOptions(**options))
    assert_resolvable(error.value)


def several(g: Graph, operation: str, *constants: Any) -> Graph:
    """A node that gives another value, too."""
    names = [g.constant(array) for array in constants]
    g.nodes.append(node(operation, [g.value, *names], [f"v{len(g.nodes)}", "another"]))
    g.value = f"v{len(g.nodes) - 1}"
    return g


def hidden(g: Graph, *operations: tuple[Any, ...]) -> Graph:
    """A layer, operations behind it, and a binary layer that reads what they give."""
    g.add("MatMul", g.signs(12, 6))
    for operation, *constants in operations:
        g.add(operation, *constants)
    return g.add("MatMul", g.signs(6, 3))


ZERO = np.array(0, F)
REFUSED: dict[str, tuple[Any, str]] = {
    "unknown": (lambda g: hidden(g, ("Erf",)), r"Erf_v1 \(Erf\) is not supported in a binary network"),
    **{  # what sources alone may write
        f"a file's own {operation}": (
            lambda g, operation=operation: hidden(g, (operation,)),
            rf"{operation}_v1 \({operation}\) is not supported in a binary network",
        )
        for operation in STATED
    },
    "norm without gamma": (
        lambda g: hidden(g, ("BatchNormalization", "", *[np.ones(6, F)] * 3)),
        "has a gamma of shape unknown, needed is",
    ),
    "activation": (
        lambda g: hidden(g, ("Sign",), ("Mul", g.vector(6))),
        "gives the values .* and 9 more, where one bit holds two, which is not supported in a binary",
    ),
    "two-sided": (
        lambda g: hidden(g, ("Equal", TWO), ("Where", ONE, -ONE)),
        "steps between -1 and 1 more than once: no single threshold says where",
    ),
    "too many levels": (
        lambda g: hidden(g, ("Clip", np.array(-9, F), np.array(9, F)), ("Round",)),
        r"Round_v2 \(Round\) is an activation that is not supported",
    ),
    "constant": (lambda g: hidden(g, ("Exp",), ("GreaterOrEqual", ZERO), ("Where", ONE, -ONE)), "gives 1 for every value"),
    "convolution": (
        lambda g: g.add("Conv", np.ones((1, 1, 3, 3), F)).add("Relu").add("Conv", np.ones((1, 1, 3, 3), F)),
        r"converted: node Conv_v0 \(Conv\) reads a map whose size is not known: .* --input-shape says it$",
    ),
    "several thresholds": (
        lambda g: hidden(g, ("MultiThreshold", np.ones((6, 31), F)), ("Erf",)),
        r"quantized to several bits, and at most 4 are read \(31 thresholds here\): node MultiThreshold_v1 \(MultiThreshold\)$",
    ),
    "eight bits": (
        lambda g: hidden(g, ("Quant", ONE, ZERO, np.array(8, F))),
        r"quantized to several bits, and at most 4 are read \(8 bits here\): node Quant_v1 \(Quant\)$",
    ),
    "weights of two bits": (
        lambda g: g.add("MatMul", g.derived("Quant", *map(g.constant, (g.signs(12, 6), ONE, ZERO, TWO)))),
        r"quantized to several bits, and one bit is needed \(2 bits here\): node Quant_v0 \(Quant\)$",
    ),
    "branches": (
        lambda g: g.add("MatMul", g.signs(12, 6)).add("Sign").add("MatMul", g.signs(6, 6)).add("Div", "v0"),
        "joins two branches of the network by something else than a sum",
    ),
    "ternary": (
        lambda g: g.add("MatMul", np.array([[1, 0], [-1, 1]], F)),
        "1 of 4 weights are 0; ternary networks are not supported",
    ),
    "no sign between": (lambda g: g.add("MatMul", g.signs(12, 6)).add("MatMul", g.signs(6, 3)), "without a sign between"),
    "ends in signs": (lambda g: g.add("MatMul", g.signs(12, 6)).add("BipolarQuant", ONE), "ends in signs, not in scores"),
    "vector length": (lambda g: hidden(g, ("Add", np.ones(4, F)), ("Sign",)), r"constant of shape \(4,\) for 6 values"),
    "column": (
        lambda g: hidden(g, ("Add", np.arange(6, dtype=F)[:, None]), ("Sign",)),
        r"constant of shape \(6, 1\) for 6 values",
    ),
    "norm length": (
        lambda g: g.add("MatMul", g.signs(12, 6)).add("BatchNormalization", *[np.ones(4, F)] * 4),
        r"gamma of shape \(4,\), needed is \(6,\)",
    ),
    "norm of signs": (
        lambda g: hidden(g, ("Sign",), ("BatchNormalization", *[np.ones(6, F)] * 4)),
        "normalizes signs before the next layer",
    ),
    "unknown value": (lambda g: g.add("MatMul", "nothing"), "uses a value that nothing computes"),
    "constant input": (lambda g: g.add("Mul", np.array(0, F)).add("MatMul", g.signs(3, 2)), "every pixel to one value"),
    "inputs mapped apart": (
        lambda g: g.add("Mul", g.vector(3)).add("MatMul", g.signs(3, 2)),
        "inputs that are not mapped alike",
    ),
    "no step": (
        lambda g: g.add("Add", ONE).add("BipolarQuant", ONE).add("MatMul", g.signs(3, 2)),
        "no step from -1 up to",
    ),
    "pixel of 0": (
        lambda g: g.add("Sub", np.array(51 / 255, F)).add("Sign").add("MatMul", g.signs(3, 2)),
        "gives 0 for pixel 51, which is neither -1 nor .1; --profile ge-zero takes it for .1, gt-zero for -1",
    ),
    "three numbers": (
        lambda g: hidden(g, ("Greater", ZERO), ("Where", np.array(3, F), ONE)),
        "reads the two values 1 and 3, which integers cannot sum: needed are opposite ones, or 0",
    ),
    "scales by input": (
        lambda g: g.add(
            "MatMul",
            g.derived("BipolarQuant", g.constant(g.signs(4, 2)), g.constant(np.ones((4, 1), F) * g.vector(4)[:, None] ** 2)),
        ),
        "scaled by input, not by neuron",
    ),
    "scales of another shape": (
        lambda g: g.add("MatMul", g.derived("BipolarQuant", g.constant(g.signs(4, 2)), g.constant(np.ones(3, F)))),
        "is malformed",
    ),
    "a product of one": (
        lambda g: g.add("MatMul", g.signs(3, 2)).add("Mul"),
        r"is malformed \(it has 1 inputs, needed are 2\)",
    ),
    "a sign of two": (
        lambda g: g.add("MatMul", g.signs(3, 2)).add("Sign", ONE).add("MatMul", g.signs(2, 2)),
        r"is malformed \(it has 2 inputs, needed are 1\)",
    ),
    "signs scaled apart": (
        lambda g: g.add("MatMul", g.signs(4, 2)).add("BipolarQuant", np.array([1, 2], F)).add("MatMul", g.signs(2, 2)),
        "gives the values -2, -1, 1, 2, where one bit holds two",
    ),
    "smallest": (
        lambda g: g.add("MatMul", g.signs(3, 2)).add("TopK", np.array([1], np.int64), largest=0),
        "picks the smallest scores",
    ),
    "training": (
        lambda g: g.add("MatMul", g.signs(12, 6)).add("BatchNormalization", *[np.ones(6, F)] * 4, training_mode=1),
        "takes its statistics from the batch",
    ),
    "statistics given": (
        lambda g: several(g.add("MatMul", g.signs(12, 6)), "BatchNormalization", *[np.ones(6, F)] * 4),
        "takes its statistics from the batch",
    ),
    "whole numbers by a type": (
        lambda g: (
            g.add("MatMul", g.vector(72).reshape(12, 6)).add("CastLike", np.array(1)).add("MatMul", g.vector(18).reshape(6, 3))
        ),
        r"CastLike_v1 \(CastLike\) is an activation that is not supported",
    ),
    "picked along rows": (
        lambda g: g.add("MatMul", g.signs(3, 2)).add("Softmax", axis=0),
        r"\(Softmax\) takes the axis 0, not that of the channels",
    ),
    "picked along rows unsaid": (
        lambda g: g.add("MatMul", g.signs(3, 2)).add("ArgMax"),
        r"\(ArgMax\) takes the axis 0, not that",
    ),
    "picked from behind": (
        lambda g: g.add("MatMul", g.signs(3, 2)).add("ArgMax", axis=1, select_last_index=1),
        "picks the last of equal scores",
    ),
    "in doubles": (lambda g: g.add("MatMul", g.signs(3, 2)).add("Cast", to=11), "to something else than float32"),
    "after picking": (lambda g: g.add("MatMul", g.signs(3, 2)).add("Softmax").add("Add", ONE), "after the scores were picked"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_graphs(tmp_path: Path, case: str) -> None:
    build, message = REFUSED[case]
    refused(tmp_path, build, message, input=PixelInput.range(0, 1))


@pytest.mark.parametrize(
    ("shape", "message"), [((1, *(1,) * 70), "71 dimensions"), ((1, 1 << 40, 1 << 40), "dimensions beyond all memory")]
)
def test_inputs_of_shapes_that_no_array_has(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    path = tmp_path / "net.onnx"
    write(path, [node("MatMul", ["x", "w"], "y")], {"w": np.ones((4, 2), F)}, "y", shape=shape)
    with pytest.raises(SourceError, match=f"the input of net.onnx says that it has {message}"):
        read_source(path, ConvertOptions())


@pytest.mark.parametrize(
    ("joining", "inputs"),
    [("Add", ["a", "p"]), ("Add", ["p", "a"]), ("Mul", ["a", "p"]), ("Concat", ["a", "p"]), ("Concat", ["p", "a"])],
)
def test_picked_scores_are_joined_with_nothing(tmp_path: Path, joining: str, inputs: list[str]) -> None:
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("Softmax", ["a"], "p"),
        node(joining, inputs, "y", **({"axis": 1} if joining == "Concat" else {})),
    ]
    weights = sign(np.random.default_rng(5).standard_normal((4, 3)).astype(F))
    path = write(tmp_path / "net.onnx", nodes, {"w": weights}, "y", shape=("rows", 4))
    with pytest.raises(NetworkError, match="stands after the scores were picked"):
        read_source(path, ConvertOptions(input=PixelInput.range(0, 1)))


def of_domain(path: Path, domain: str, *functions: bytes, operation: str = "Sign") -> Path:
    """A network whose hidden operation is of that domain, in a model with functions of its own."""
    weights = [sign(np.random.default_rng(5).standard_normal(shape).astype(F)) for shape in ((9, 5), (5, 3))]
    nodes = [
        node("MatMul", ["x", "w0"], "a"),
        node(operation, ["a"], "s") + field(7, domain),
        node("MatMul", ["s", "w1"], "y"),
    ]
    write(path, nodes, {f"w{index}": weight for index, weight in enumerate(weights)}, "y")
    path.write_bytes(path.read_bytes() + b"".join(field(25, one) for one in functions))
    return path


def function(domain: str) -> bytes:
    """FunctionProto: what this model calls Sign is the sign of the other side."""
    nodes = node("Neg", ["v"], "n"), node("Sign", ["n"], "w")
    head = field(1, "Sign") + field(4, "v") + field(5, "w")
    return head + b"".join(field(7, one) for one in nodes) + field(10, domain)


def test_an_operation_of_another_domain_is_another_operation(tmp_path: Path) -> None:
    """Only its name is that of ONNX' Sign; the model may say itself what it computes."""
    path, options = tmp_path / "net.onnx", ConvertOptions(input=SignInput())
    for domain in ("", "ai.onnx"):
        assert len(kinds_of(read_source(of_domain(path, domain, function("mine")), options), Linear)) == 2
    for domain in ("qonnx.custom_op.general", "onnx.brevitas", "finn"):
        assert len(kinds_of(read_source(of_domain(path, domain, operation="BipolarQuant"), options), Linear)) == 2
    with pytest.raises(NetworkError, match=r"\(mine\.Sign\) is not supported"):
        read_source(of_domain(path, "mine", function("other")), options)
    ours, turned = (read_source(of_domain(path, domain, function("mine")), options) for domain in ("", "mine"))
    x = np.sign(np.random.default_rng(6).standard_normal((50, 9))).astype(np.int8)
    np.testing.assert_array_equal(reference.forward(turned.net, x), -reference.forward(ours.net, x))
    with pytest.raises(SourceError, match=r"net\.onnx gives ONNX' operation 'Sign' a meaning of its own"):
        read_source(of_domain(path, "", function("")), options)


@pytest.mark.parametrize("slope", [None, 0.25])
def test_functions_of_a_model_stand_where_they_are_called(tmp_path: Path, slope: float | None) -> None:
    """What a call says is what nodes refer to, else what the function says; a value of its own is one in each call."""
    refers = field(5, field(1, "alpha") + field(21, "slope"))
    leaky = field(1, "Leaky") + field(4, "v") + field(5, "w") + field(7, node("LeakyRelu", ["v"], "w") + refers)
    leaky += field(10, "mine") + field(11, attribute("slope", 0.5))
    called = node("Leaky", ["v"], "n") + field(7, "mine") + field(5, field(1, "slope") + field(21, "by"))
    twice = field(1, "Twice") + field(4, "v") + field(5, "w") + field(7, called) + field(10, "mine")
    twice += field(7, node("Leaky", ["n"], "w") + field(7, "mine"))
    said = {} if slope is None else {"by": slope}
    nodes = [node("MatMul", ["x", "c0"], "a")]
    nodes += [node("Twice", [one], other, **said) + field(7, "mine") for one, other in ("ab", "by")]
    signs = sign(np.random.default_rng(5).standard_normal((9, 5)).astype(F))
    path = write(tmp_path / "net.onnx", nodes, {"c0": signs}, "y")
    path.write_bytes(path.read_bytes() + field(25, leaky) + field(25, twice))
    reading = read_source(path, ConvertOptions(input=SignInput()))
    x = np.sign(np.random.default_rng(6).standard_normal((50, 9))).astype(np.int8)
    wanted = x @ signs
    for factor in (slope or 0.5, 0.5, slope or 0.5, 0.5):
        wanted = np.where(wanted < 0, wanted * F(factor), wanted)
    np.testing.assert_array_equal(reference.forward(reading.net, x), wanted)


def test_functions_that_call_themselves(tmp_path: Path) -> None:
    again = field(1, "Sign") + field(4, "v") + field(5, "w") + field(10, "mine")
    again += field(7, node("Sign", ["v"], "w") + field(7, "mine"))
    with pytest.raises(SourceError, match="functions that call one another more than 16 times"):
        read_source(of_domain(tmp_path / "net.onnx", "mine", again))


def test_a_function_without_nodes(tmp_path: Path) -> None:
    """Called first, by a node of which PyTorch says the module."""
    nothing = field(1, "Empty") + field(4, "v") + field(5, "w") + field(10, "mine")
    scopes = field(9, field(1, "pkg.torch.onnx.name_scopes") + field(2, "['', 'a', 'b']"))
    nodes = [node("Empty", ["x"], "a") + field(7, "mine") + scopes, node("MatMul", ["a", "w"], "y")]
    path = write(tmp_path / "net.onnx", nodes, {"w": np.ones((4, 3), F)}, "y", shape=("rows", 4))
    path.write_bytes(path.read_bytes() + field(25, nothing))
    with pytest.raises(NetworkError, match="uses a"):
        read_source(path)


def test_functions_of_one_name_are_told_by_their_overloads(tmp_path: Path) -> None:
    """A call says which it means; without overloads nobody knows."""
    functions = [
        field(1, "Sign") + field(4, "v") + field(5, "w") + field(7, node(operation, ["v"], "w")) + field(10, "mine")
        for operation in ("Sign", "Relu")
    ]
    path = of_domain(tmp_path / "net.onnx", "mine", *(one + field(13, name) for one, name in zip(functions, "ab", strict=True)))
    with pytest.raises(NetworkError, match=r"\(mine\.Sign\) is not supported"):
        read_source(path)
    path = of_domain(tmp_path / "net.onnx", "mine", functions[0], functions[1] + field(13, "b"))
    assert not kinds_of(read_source(path, ConvertOptions(input=SignInput())), Steps)
    path = of_domain(tmp_path / "net.onnx", "mine", *functions)
    with pytest.raises(SourceError, match=r"holds two functions called 'mine\.Sign'"):
        read_source(path)


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    graph = b"".join(field(5, tensor("w0", np.ones((9, 5), F))) for _ in range(2))
    path.write_bytes(field(1, 8) + field(7, graph))
    with pytest.raises(SourceError, match=r"net\.onnx .* holds two tensors called 'w0'"):
        read_source(path)


def test_all_reasons_at_once(tmp_path: Path) -> None:
    """What stands behind a node that cannot be read is read on from the next layer; one reason of many nodes is told once."""
    g = Graph()
    g.add("Hardmax2").add("Relu").add("Mul", np.ones(7, F))
    g.add("MatMul", g.derived("Erf", g.constant(g.signs(9, 6)))).add("BatchNormalization", *[np.ones(4, F)] * 4).add("Sign")
    g.add("MatMul", g.signs(6, 5)).add("Add", np.ones(4, F)).add("Greater", np.array(3, F)).add("Erf")
    g.add("MatMul", g.signs(5, 6))
    for _ in range(5):
        g.add("Erf").add("MatMul", g.signs(6, 6))
    g.add("Erf").add("MatMul", np.array([[1, 0], [-1, 1]], F))
    with pytest.raises(NetworkError) as error:
        read_source(g.write(tmp_path))
    assert_resolvable(error.value)
    assert error.value.problems == (
        "node Hardmax2_v0 (Hardmax2) is not supported in a binary network",
        "node Erf_v3 (Erf) computes constants in a way that is not supported",
        "node Add_v8 (Add) has a constant of shape (4,) for 5 values",
        "node Erf_v10 (Erf) is not supported in a binary network (also: Erf_v12, Erf_v14, Erf_v16 and 3 more)",
        "node MatMul_v23 (MatMul) is ternary: 1 of 4 weights are 0; ternary networks are not supported",
    )


def test_options_that_mean_nothing(tmp_path: Path) -> None:
    g = Graph()
    path = g.add("MatMul", g.signs(3, 2)).write(tmp_path)
    with pytest.raises(OptionError, match="--float-layer"):
        read_source(path, ConvertOptions(float_layers=("a",)))


def test_any_cut_is_refused_in_one_line(tmp_path: Path) -> None:
    g = Graph()
    path = g.add("MatMul", g.signs(12, 6)).write(tmp_path)
    content = path.read_bytes()
    for keep in range(0, len(content), 11):
        path.write_bytes(content[:keep])
        with pytest.raises((SourceError, NetworkError)) as error:
            read_source(path, ConvertOptions(format="onnx"))
        assert "\n" not in str(error.value)


def test_shapes_are_checked_against_the_bytes(tmp_path: Path) -> None:
    graph = field(5, field(1, 1 << 40) + field(2, 1) + field(8, "w") + field(9, bytes(16))) + field(11, field(1, "x"))
    path = tmp_path / "net.onnx"
    path.write_bytes(field(1, 4) + field(7, graph))
    with pytest.raises(SourceError, match=r"says that tensor 'w' is \(1099511627776,\) but has 16 bytes"):
        read_source(path)


@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="the package onnx is not installed")
def test_against_onnx_own_evaluator(tmp_path: Path) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    g = Graph(11)
    g.add("MatMul", g.signs(20, 16)).add("Add", g.vector(16, 3) + F(0.1)).add("Sign").add("MatMul", g.signs(16, 4))
    path = g.write(tmp_path)
    model = onnx.load(str(path))
    model.opset_import.add(version=13)
    x = pixels(20)
    (theirs,) = ReferenceEvaluator(model).run(None, {"x": x.astype(F)})
    reading = read_source(path, ConvertOptions(input=PixelInput.range(0, 255)))
    np.testing.assert_array_equal(reference.forward(reading.net, x), theirs)

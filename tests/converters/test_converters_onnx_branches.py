"""ONNX graphs that branch, written byte by byte: what joins mean, against ONNX' own evaluator, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_writer
import pytest
from numpy.typing import NDArray
from refusals import assert_resolvable

from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.ops import Add, Concat, Linear, Pool, Quantize, Steps
from xnorinfer.net.values import SignInput

F = np.float32
SHAPE = (3, 6, 10)
ONE, MINUS, ZERO = np.array(1, F), np.array(-1, F), np.array(0, F)


class Graph:
    """Nodes by the names of what they read; constants are told by their arrays."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.constants: dict[str, Any] = {}
        self.random = np.random.default_rng(0)

    def __call__(self, operation: str, *inputs: Any, outputs: int = 0, **attributes: Any) -> Any:
        names = []
        for given in inputs:
            if not isinstance(given, str):
                self.constants[f"c{len(self.constants)}"] = np.asarray(given)
                given = f"c{len(self.constants) - 1}"
            names.append(given)
        result = f"v{len(self.nodes)}"
        results = [f"{result}.{number}" for number in range(outputs)] or result
        self.nodes.append(onnx_writer.node(operation, names, results, **attributes))
        return results

    def conv(self, value: str, neurons: int, channels: int, size: int = 3, **attributes: Any) -> str:
        """Of weights that are signs, with a bias that keeps sums from 0, over a padded map."""
        weight = self.random.choice(np.array([-1, 1], F), (neurons, channels, size, size))
        bias = self.random.choice(np.array([-0.5, 0.5, 1.5], F), neurons)
        return str(self("Conv", value, weight, bias, pads=(size // 2,) * 4, **attributes))

    def sign(self, value: str) -> str:
        return str(self("Where", self("GreaterOrEqual", value, ZERO), ONE, MINUS))

    def start(self) -> str:
        """Eight channels of sums."""
        return self.conv("x", 8, 3)

    def end(self, value: str, channels: int) -> str:
        return self.conv(self.sign(value), 4, channels)


def written(build: Callable[[Graph], Any], folder: Path) -> Path:
    graph = Graph()
    last = build(graph)
    shape = ("rows", *SHAPE)
    return onnx_writer.write(folder / "net.onnx", graph.nodes, graph.constants, last, shape=shape)


def read(build: Callable[[Graph], Any], folder: Path) -> Reading:
    return read_source(written(build, folder), ConvertOptions(input=SignInput()))


def evaluated(path: Path, x: NDArray[Any]) -> NDArray[Any]:
    onnx = pytest.importorskip("onnx")
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
    model = onnx.load(str(path))
    model.opset_import.add(version=18)
    (answer,) = evaluator(model).run(None, {"x": x})
    return np.moveaxis(answer, 1, -1).reshape(len(x), -1) if answer.ndim > 2 else answer


def residual(g: Graph) -> str:
    x = g.start()
    return g.end(g("Add", g.conv(g.sign(x), 8, 8), x), 8)


def shared(g: Graph) -> str:
    """One sign that three read, steps before a sign and beside it."""
    x = g("Mul", g.start(), np.linspace(-1, 1, 8, dtype=F).reshape(8, 1, 1))
    signs = g.sign(g("Relu", g("Sub", x, np.array(2, F))))
    return g.end(g("Sum", g.conv(signs, 8, 8), g.conv(signs, 8, 8), g("Relu", x)), 8)


def subtracted(g: Graph) -> str:
    x = g.start()
    y = g.conv(g.sign(x), 8, 8)
    return g.end(g("Sub", g("Add", x, np.array(0.25, F)), g("Mul", y, np.array(3, F))), 8)


def with_signs(g: Graph) -> str:
    """Signs beside and among other numbers, and side by side."""
    x = g.start()
    signs = g.sign(x)
    y = g("Add", g.conv(signs, 8, 8), signs)
    both = g("Concat", g.sign(y), signs, axis=1)
    return g.end(g("Concat", g.conv(both, 4, 16), signs, axis=-3), 12)


def pieces(g: Graph) -> str:
    """Parts of what was concatenated, one of them twice."""
    x = g.start()
    y = g("Concat", x, g.conv(g.sign(x), 4, 8), g.conv(g.sign(x), 4, 8), axis=1)
    last = g("Slice", y, np.array([-8]), np.array([99]), np.array([1]))
    first, middle, end = g("Split", y, np.array([8, 4, 4]), outputs=3, axis=1)
    return g.end(g("Concat", g("Add", first, last), g("Add", middle, end), axis=1), 12)


def cropped(g: Graph) -> str:
    x = g.start()
    y = g("Slice", x, np.array([1, 2]), np.array([-1, 9]), np.array([2, 3]), np.array([1, 3]))
    channels = g("Slice", y, np.array([1]), np.array([8]), np.array([1]), np.array([3]))
    return g.end(g("Add", g.conv(g.sign(y), 3, 8), channels), 3)


def every_second(g: Graph) -> str:
    x = g.start()
    signs = g("Slice", g.sign(x), np.array([0, 0]), np.array([9, 10]), np.array([2, 3]), np.array([2, 3]))
    numbers = g("Slice", x, np.array([0, 0]), np.array([9, 10]), np.array([2, 3]), np.array([2, 3]))
    return g.end(g("Add", g.conv(signs, 8, 8), numbers), 8)


def widened(g: Graph) -> str:
    x = g.start()
    return g.end(g("Add", g.conv(g.sign(x), 12, 8), g("Pad", x, np.array([0, 1, 0, 0, 0, 3, 0, 0]), ZERO)), 12)


def shuffled(g: Graph) -> str:
    x = g("Reshape", g.start(), np.array([0, 2, 4, 6, 10]))
    x = g("Reshape", g("Transpose", x, perm=(0, 2, 1, 3, 4)), np.array([0, 8, 6, 10]))
    return g.end(g("Add", x, np.arange(8, dtype=F).reshape(8, 1, 1)), 8)


def vectors(g: Graph) -> str:
    x = g("Flatten", g("GlobalAveragePool", g.start()))
    y = g("MatMul", g.sign(x), g.random.choice(np.array([-1, 1], F), (8, 8)))
    joined = g("Concat", g("Add", x, y), y, axis=1)
    return str(g("MatMul", g.sign(joined), g.random.choice(np.array([-1, 1], F), (16, 3))))


def unused(g: Graph) -> str:
    x = g.start()
    g.conv(g.sign(x), 5, 8)
    return g.end(x, 8)


def product(g: Graph) -> str:
    x = g.start()
    return g.end(g("Mul", g.conv(g.sign(x), 8, 8), x), 8)


def gated(g: Graph) -> str:
    """A number for each channel, as maps of one pixel and, behind a reshape, of a vector; in both orders."""
    x = g.start()
    x = g("Mul", g("GlobalMaxPool", x), g.conv(g.sign(x), 8, 8))
    least = g("MatMul", g("Flatten", g("GlobalMaxPool", x)), g.random.choice(np.array([-1, 0.5, 2], F), (8, 8)))
    return g.end(g("Mul", x, g("Reshape", g("Relu", least), np.array([0, 8, 1, 1]))), 8)


def gated_by_pixel(g: Graph) -> str:
    x = g.start()
    return g.end(g("Mul", x, g.conv(g.sign(x), 1, 8)), 8)


def parts_of_signs(g: Graph) -> str:
    bits = g.sign(g.start())
    left, right = g("Split", bits, np.array([3, 5]), outputs=2, axis=1)
    shuffled_bits = g(
        "Reshape", g("Transpose", g("Reshape", bits, np.array([0, 2, 4, 6, 10])), perm=(0, 2, 1, 3, 4)), np.array([0, 8, 6, 10])
    )
    cut = g("Slice", bits, np.array([1, 2]), np.array([9, 9]), np.array([2, 3]))
    narrow = g("Pad", cut, np.array([0, 0, 1, 1, 0, 0, 0, 2]), ONE)
    both = g("Add", g.conv(right, 8, 5), g.conv(g("Concat", left, g("Concat", left, shuffled_bits, axis=1), axis=1), 8, 14))
    return g.end(g("Add", both, g.conv(narrow, 8, 8)), 8)


def parts_of_vectors(g: Graph) -> str:
    x = g("Flatten", g("GlobalMaxPool", g.start()))
    left, right = g("Split", x, np.array([3, 5]), outputs=2, axis=1)
    y = g("MatMul", g.sign(g("Concat", right, left, axis=1)), g.random.choice(np.array([-1, 1], F), (8, 3)))
    return str(g("Add", y, g("Slice", x, np.array([1]), np.array([4]), np.array([1]))))


def bordered(g: Graph) -> str:
    """Numbers around real maps that no window has: before largest values and sums, and more than a window reaches."""
    x = g("Pad", g.start(), np.array([0, 0, 1, 2, 0, 0, 1, 0]), np.array(0.5, F))
    x = g("Mul", x, np.arange(1, 9, dtype=F).reshape(8, 1, 1))
    wide = g("MaxPool", x, kernel_shape=(2, 2), strides=(2, 2))
    wide = g("Pad", wide, np.array([0, 0, 2, 2, 0, 0, 2, 2]))
    wide = g("Conv", wide, g.random.choice(np.array([-1, 0.5, 2], F), (8, 8, 1, 1)))
    narrow = g("Slice", x, np.array([0]), np.array([10]), np.array([3]))
    return g.end(g("Add", narrow, wide), 8)


def lines_of_shuffled(g: Graph) -> str:
    """A part of a map whose channels stand in another order, all of them."""
    x = g("Transpose", g("Reshape", g.start(), np.array([0, 2, 4, 6, 10])), perm=(0, 2, 1, 3, 4))
    x = g("Slice", g("Reshape", x, np.array([0, 8, 6, 10])), np.array([1]), np.array([5]), np.array([2]))
    return g.end(g("Mul", x, np.arange(1, 9, dtype=F).reshape(8, 1, 1) - F(4.5)), 8)


def means_with_borders(g: Graph) -> str:
    """Of all pixels of a map and of what pads it, which counts as well; where that is the largest, too."""
    x = g.start()
    means = [g("GlobalAveragePool", g("Pad", x, np.array([0, 0, 1, 2, 0, 0, 0, 3]), np.array(n, F))) for n in (0, 0.5)]
    x = g("Mul", x, g("Add", *means))
    return g.end(g("Mul", x, g("GlobalMaxPool", g("Pad", x, np.array([0, 0, 0, 0, 0, 0, 1, 0]), np.array(1e9, F)))), 8)


JOINED = [
    *(residual, shared, subtracted, with_signs, pieces, cropped, every_second, widened, shuffled, vectors, unused, product),
    *(gated, gated_by_pixel, parts_of_signs, parts_of_vectors, bordered, lines_of_shuffled, means_with_borders),
]


@pytest.mark.parametrize("build", JOINED)
def test_scores_are_those_of_the_graph(tmp_path: Path, build: Callable[[Graph], Any]) -> None:
    x = np.random.default_rng(5).choice(np.array([-1, 1], F), (4, *SHAPE))
    path = written(build, tmp_path)
    reading = read_source(path, ConvertOptions(input=SignInput()))
    ours = reference.forward(reading.net, reading.as_network(x))
    np.testing.assert_array_equal(ours, evaluated(path, x))
    names = [node.name for node in reading.net.nodes]
    assert len(set(names)) == len(names)


def test_what_is_computed_once_is_one_node(tmp_path: Path) -> None:
    kinds = [type(op) for op in read(shared, tmp_path).net.ops]
    assert (kinds.count(Quantize), kinds.count(Add), kinds.count(Linear)) == (2, 2, 4)
    kinds = [type(op) for op in read(pieces, tmp_path).net.ops]
    assert (kinds.count(Concat), kinds.count(Quantize), kinds.count(Linear)) == (2, 2, 4)
    every = read(every_second, tmp_path).net.ops
    assert [op.kind for op in every if isinstance(op, Pool)] == ["max", "max"]
    assert not any(isinstance(op, Linear) and not op.binary for op in every)
    minus = read(subtracted, tmp_path).net.ops
    assert any(isinstance(op, Steps) and [step.function for step in op.steps] == ["mul"] for op in minus)


def test_what_leads_nowhere_is_left_out(tmp_path: Path) -> None:
    reading = read(unused, tmp_path)
    assert len(reading.net.linears) == 2
    (told,) = [assumption for assumption in reading.assumptions if assumption.what == "left out"]
    assert told.value == "Conv_v3: nothing that leads to the scores reads them"

    def of_all_channels(g: Graph) -> str:  # which XNOR-Net's code takes for its gradient
        x = g.start()
        g("Sqrt", g("ReduceMean", g("Abs", x), axes=(1,)))
        return g.end(g("Add", x, g.conv(g.sign(x), 8, 8)), 8)

    assert len(read(of_all_channels, tmp_path).net.linears) == 3

    def dangling(g: Graph) -> str:
        g("Abs", "nothing")
        return of_all_channels(g)

    with pytest.raises(NetworkError, match=r"Abs_v0 \(Abs\) uses a value that nothing computes"):
        read(dangling, tmp_path)


def quotient(g: Graph) -> str:
    x = g.start()
    return g.end(g("Div", g.conv(g.sign(x), 8, 8), x), 8)


def broadcast(g: Graph) -> str:
    x = g.start()
    return g.end(g("Add", x, g("GlobalAveragePool", g.conv(g.sign(x), 8, 8))), 8)


def gated_by_line(g: Graph) -> str:
    x = g.start()
    return g.end(g("Mul", x, g("MaxPool", x, kernel_shape=(6, 1))), 8)


def lines(g: Graph) -> str:
    x = g.start()
    return g.end(g("Concat", x, g.conv(g.sign(x), 8, 8), axis=2), 8)


def raw(g: Graph) -> str:
    return g.end(g("Add", "x", g.conv("x", 3, 3)), 3)


def two_ways(g: Graph) -> str:
    return g.end(g("Add", g.conv("x", 8, 3), g.conv(g("Neg", "x"), 8, 3)), 8)


def other_signs(g: Graph) -> str:
    x = g.start()
    bits = g("Where", g("Greater", x, ZERO), ONE, np.array(1e-9, F))
    return g.end(g("Add", g.conv(g.sign(x), 8, 8), bits), 8)


def some_pixels(g: Graph) -> str:
    x = g.start()
    return g.end(g("Slice", x, np.array([1]), np.array([4]), np.array([2]), np.array([-1])), 8)


def part_of_axes(g: Graph) -> str:
    return g.end(g("Slice", g.start(), np.array([0, 1]), np.array([4, 4]), np.array([2])), 8)


def no_such_axis(g: Graph) -> str:
    x = g.start()
    return g.end(g("Concat", x, g.conv(g.sign(x), 8, 8), axis=5), 16)


def twice(g: Graph) -> str:
    x = g.start()
    g.nodes.append(g.nodes[-1])
    return g.end(x, 8)


REFUSED: dict[str, tuple[Callable[[Graph], Any], str]] = {
    "quotient": (quotient, r"node Div_v4 \(Div\) joins two branches of the network by something else"),
    "a gate of lines": (gated_by_line, r"Mul_v2 \(Mul\) multiplies 6 x 10 x 8 by 1 x 10 x 8, numbers that are neither"),
    "broadcast": (broadcast, r"Add_v5 \(Add\) adds values 6 x 10 x 8 and 1 x 1 x 8 and not two of one shape"),
    "lines": (lines, r"Concat_v4 \(Concat\) joins values 6 x 10 x 8, 6 x 10 x 8 along another axis"),
    "the input": (raw, r"Add_v1 \(Add\) joins the input itself, before the first layer"),
    "the input in two ways": (two_ways, r"Conv_v2 \(Conv\) reads the input in another way than Conv_v0 does"),
    "other signs": (other_signs, r"joins signs that stand for 1e-09 and 1 with other values.*makes them of -1 and 1"),
    "given twice": (twice, "gives a value that another node gives, or the file, as well"),
    "fewer axes": (part_of_axes, "takes a part of values, and does not say which: is malformed"),
    "no such axis": (no_such_axis, "joins values along the axis 5, which they do not have: is malformed"),
    "backwards": (some_pixels, "takes a part of the axis 2 by steps of -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_joins(tmp_path: Path, case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(NetworkError, match=message) as error:
        read(build, tmp_path)
    assert_resolvable(error.value)

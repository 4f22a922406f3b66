"""ONNX graphs with windows, written byte by byte: what nodes mean, against ONNX' own evaluator, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_writer
import pytest
from numpy.typing import NDArray
from onnx_writer import field, node, write

from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.engine.model import Model
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear, Pool
from xnorinfer.net.values import ChannelInput, PixelInput, SignInput, ThresholdInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.lower import lower

F = np.float32
SHAPE = (3, 9, 14)
SIGNS = ConvertOptions(input=SignInput())


class Graph:
    """Nodes one behind the other."""

    def __init__(self, shape: tuple[int | str, ...] = ("rows", *SHAPE)) -> None:
        self.shape = shape
        self.nodes: list[bytes] = []
        self.constants: dict[str, Any] = {}
        self.last = "x"
        self.random = np.random.default_rng(0)

    def add(self, operation: str, *inputs: Any, **attributes: Any) -> Graph:
        """A node that reads the last value, then constants."""
        names = []
        for array in inputs:
            names.append("" if array is None else f"c{len(self.constants)}")
            if array is not None:
                self.constants[names[-1]] = np.asarray(array)
        result = f"v{len(self.nodes)}"
        self.nodes.append(onnx_writer.node(operation, [self.last, *names], result, **attributes))
        self.last = result
        return self

    def conv(self, neurons: int, channels: int, *size: int, **attributes: Any) -> Graph:
        """Of weights that are signs, with a bias that keeps sums from 0."""
        weight = self.random.choice(np.array([-1, 1], F), (neurons, channels, *size))
        return self.add("Conv", weight, np.full(neurons, 0.5, F), **attributes)

    def sign(self) -> Graph:
        above = f"v{len(self.nodes)}"
        self.add("GreaterOrEqual", np.array(0, F))
        self.constants.update(one=np.array(1, F), other=np.array(-1, F))
        self.nodes.append(onnx_writer.node("Where", [above, "one", "other"], f"{above}w"))
        self.last = f"{above}w"
        return self

    def dense(self, neurons: int, depth: int) -> Graph:
        return self.add("MatMul", self.random.choice(np.array([-1, 1], F), (depth, neurons)))

    def write(self, folder: Path) -> Path:
        return onnx_writer.write(folder / "net.onnx", self.nodes, self.constants, self.last, shape=self.shape)


def read(graph: Graph, folder: Path, options: ConvertOptions = SIGNS) -> Reading:
    return read_source(graph.write(folder), options)


def signs(shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    return np.random.default_rng(5).choice(np.array([-1, 1], F), (4, *shape))


def evaluated(path: Path, x: NDArray[Any]) -> NDArray[Any]:
    """What ONNX' own evaluator gives, maps with their channels last, flat."""
    onnx = pytest.importorskip("onnx")
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
    model = onnx.load(str(path))
    model.opset_import.add(version=18)
    (answer,) = evaluator(model).run(None, {"x": x})
    return np.moveaxis(answer, 1, -1).reshape(len(x), -1) if answer.ndim > 2 else answer


AUTO = {"auto_pad": "SAME_UPPER", "strides": (2, 3)}
GRAPHS: dict[str, Any] = {
    "same, what is odd behind": lambda g: g.conv(8, 3, 4, 4, **AUTO).sign().conv(5, 8, 1, 1),
    "same, what is odd before": lambda g: g.conv(8, 3, 4, 4, **AUTO | {"auto_pad": "SAME_LOWER"}).sign().conv(5, 8, 1, 1),
    "valid": lambda g: g.conv(8, 3, 2, 3, auto_pad="VALID", dilations=(2, 1)).sign().conv(5, 8, 1, 1),
    "uneven padding": lambda g: g.conv(8, 3, 3, 3, pads=(2, 0, 1, 1)).sign().conv(6, 4, 3, 2, group=2, pads=(0, 1, 0, 0)),
    "pools": lambda g: (
        g.conv(8, 3, 3, 3)
        .add("MaxPool", kernel_shape=(2, 3), strides=(1, 2), pads=(1, 1, 0, 1))
        .add("AveragePool", kernel_shape=(2, 2), pads=(0, 1, 1, 0), count_include_pad=1)
        .sign()
        .add("MaxPool", kernel_shape=(2, 2))
        .conv(5, 8, 2, 2)
    ),
    "an average of what is on the map": lambda g: (
        g.conv(8, 3, 3, 3).add("AveragePool", kernel_shape=(2, 2), pads=(1, 1, 1, 1), strides=(2, 2)).sign().conv(5, 8, 2, 2)
    ),
    "rounded up": lambda g: (
        g.conv(8, 3, 3, 3)
        .add("MaxPool", kernel_shape=(2, 5), strides=(2, 3), ceil_mode=1)
        .sign()
        .add("MaxPool", kernel_shape=(3, 3), strides=(2, 2), ceil_mode=1)
        .conv(5, 8, 2, 2)
    ),
    "padded twice": lambda g: (
        g.conv(8, 3, 3, 3).sign().add("Pad", PAD, np.array(1, F)).conv(4, 8, 3, 3, pads=(1, 1, 1, 1))
    ),
    "padded with ones": lambda g: (
        g.conv(8, 3, 3, 3)
        .sign()
        .add("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 1]), np.array(1, F))
        .conv(8, 8, 3, 3)
        .add("Pad", np.array([0, 0, 1, 0, 0, 0, 1, 0]), np.array(-7, F), mode="constant")
        .sign()
        .conv(5, 8, 3, 3)
    ),
    "padded before a pool": lambda g: (
        g.conv(8, 3, 3, 3).sign().add("Pad", np.array([0, 0, 1, 1, 0, 0, 0, 0]), np.array(-1, F))
        .add("MaxPool", kernel_shape=(2, 2), strides=(2, 2)).conv(5, 8, 2, 2)
    ),
    "the whole map": lambda g: g.conv(8, 3, 3, 3).sign().conv(5, 8, 3, 3).add("GlobalMaxPool").add("Flatten"),
    "a mean of axes": lambda g: g.conv(8, 3, 3, 3).sign().conv(5, 8, 3, 3).add("ReduceMean", np.array([2, 3]), keepdims=0),
    "a slope for each channel": lambda g: (
        g.conv(8, 3, 3, 3).add("PRelu", np.linspace(-0.5, 0.5, 8).astype(F).reshape(8, 1, 1)).sign().conv(5, 8, 3, 3)
    ),
    "averages of signs": lambda g: (
        g.conv(8, 3, 3, 3).sign().conv(5, 8, 3, 3).sign()
        .add("AveragePool", kernel_shape=(2, 2), pads=(1, 1, 0, 0), count_include_pad=1)
        .add("GlobalAveragePool").add("Flatten").add("MatMul", np.linspace(-2, 2, 15).astype(F).reshape(5, 3))
    ),
    "averages of zeros and ones": lambda g: (
        g.conv(8, 3, 3, 3).sign().conv(5, 8, 3, 3).add("Greater", np.array(0.5, F)).add("Cast", to=1)
        .add("AveragePool", kernel_shape=(4, 4), strides=(2, 2)).sign().conv(5, 5, 1, 1)
    ),
    "zeros and ones in a float layer": lambda g: (
        g.conv(8, 3, 3, 3).add("Greater", np.array(0, F)).add("Cast", to=1)
        .add("Conv", np.arange(-64, 64).astype(F).reshape(4, 8, 2, 2), pads=(1, 0, 0, 1)).sign().conv(5, 4, 3, 3)
    ),
    "zeros and ones, padded, in a float layer": lambda g: (
        g.conv(8, 3, 3, 3).add("Greater", np.array(0, F)).add("Cast", to=1).add("Pad", PAD)
        .add("Conv", np.arange(-16, 16).astype(F).reshape(4, 2, 2, 2), group=4).sign().conv(2, 4, 1, 1)
    ),
    "signs that were pooled and then normalized": lambda g: (
        g.conv(8, 3, 3, 3).sign().add("MaxPool", kernel_shape=(2, 2), strides=(2, 2))
        .add("Mul", np.linspace(-2, 1.5, 8).astype(F).reshape(8, 1, 1))
        .add("Add", np.linspace(-1, 2, 8).astype(F).reshape(8, 1, 1)).sign().conv(5, 8, 2, 2)
    ),
    "zeros and ones that were pooled and then became other levels": lambda g: (
        g.conv(8, 3, 3, 3).add("Greater", np.array(0, F)).add("Cast", to=1).add("MaxPool", kernel_shape=(2, 2))
        .add("Mul", np.arange(-4, 4).astype(F).reshape(8, 1, 1)).add("Clip", np.array(-1, F), np.array(2, F)).add("Round")
        .conv(5, 8, 2, 2)
    ),
    "flattened": lambda g: g.conv(8, 3, 3, 3, strides=(3, 2)).sign().add("Flatten").dense(6, 144).sign().dense(4, 6),
    "reshaped": lambda g: (
        g.conv(8, 3, 3, 3, strides=(3, 2)).add("Reshape", np.array([0, -1])).sign().dense(6, 144).sign().dense(4, 6)
    ),
    "the last axis": lambda g: (
        g.conv(8, 3, 3, 3).sign().add("Transpose", perm=(0, 2, 3, 1)).dense(6, 8).add("Add", np.full(6, 0.5, F)).sign()
        .add("Reshape", np.array([0, -1])).dense(4, 504)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_scores_are_those_of_the_graph(tmp_path: Path, name: str) -> None:
    graph = Graph()
    GRAPHS[name](graph)
    reading = read(graph, tmp_path)
    assert reading.channels_first
    assert reading.net.shape == (9, 14, 3)
    assert not [tensor.name for tensor in reading.tensors if tensor.ignored]
    x = signs()
    ours = reference.forward(reading.net, reading.as_network(x))
    np.testing.assert_array_equal(ours, evaluated(tmp_path / "net.onnx", x))
    if "zeros and ones" in name or "signs" in name:
        np.testing.assert_array_equal(
            Model(lower(reading.net).packed, threads=1).scores(reading.as_network(x)).reshape(ours.shape), ours
        )


def test_lines_have_a_height_of_1(tmp_path: Path) -> None:
    graph = Graph(("rows", 2, 15)).conv(8, 2, 5, strides=(2,), pads=(2, 1)).add("MaxPool", kernel_shape=(2,)).sign()
    reading = read(graph.conv(4, 8, 3, dilations=(2,)).sign().add("Flatten").dense(3, 4 * 2), tmp_path)
    assert reading.net.shape == (1, 15, 2)
    first = reading.net.linears[0][1]
    assert first.window == Window((1, 5), (1, 2), (1, 1), (0, 0, 2, 1))
    x = signs((2, 15))
    np.testing.assert_array_equal(reference.forward(reading.net, reading.as_network(x)), evaluated(tmp_path / "net.onnx", x))


def test_weights_are_the_same_in_nodes_with_their_channels_last(tmp_path: Path) -> None:
    """QONNX' channels_last: tensors and kernels have their channels last; MultiThreshold says by its layout which axis has."""
    limits = np.linspace(-3, 3, 8).astype(F)[:, None]

    def body(g: Graph, *, last: bool) -> Graph:
        where: dict[str, Any] = {"domain": "qonnx.custom_op.channels_last"} if last else {}
        weights = g.random.choice(np.array([-1, 1], F), (8, 3, 3, 2)), g.random.choice(np.array([-1, 1], F), (5, 8, 2, 2))
        first, second = (np.moveaxis(weight, 1, -1) if last else weight for weight in weights)
        if last:
            g.add("Transpose", perm=(0, 2, 3, 1))
        g.add("Conv", first, strides=(2, 1), pads=(1, 0, 1, 1), **where)
        layout = {"data_layout": "NHWC"} if last else {}
        g.add("MultiThreshold", limits, out_scale=2.0, out_bias=-1.0, domain="qonnx.custom_op.general", **layout)
        if last:
            g.add("MaxPoolNHWC", kernel_shape=(2, 2), strides=(2, 2), domain="qonnx.custom_op.general")
        else:
            g.add("MaxPool", kernel_shape=(2, 2), strides=(2, 2))
        g.add("Conv", second, **where)
        return g.add("Transpose", perm=(0, 3, 1, 2)) if last else g

    readings = []
    for last in (False, True):
        (folder := tmp_path / str(last)).mkdir()
        readings.append(read(body(Graph(), last=last), folder))
    x = readings[0].as_network(signs())
    one, other = (reference.forward(reading.net, x) for reading in readings)
    np.testing.assert_array_equal(one, other)
    assert np.unique(one).size > 4


def test_what_is_done_to_each_channel_first(tmp_path: Path) -> None:
    numbers = np.array([0.25, 0.5, 0.75], F).reshape(1, 3, 1, 1), np.array([0.5, 0.25, 0.125], F).reshape(3, 1, 1)

    def graph() -> Graph:
        return Graph().add("Sub", numbers[0]).add("Div", numbers[1])

    reading = read(graph().conv(5, 3, 3, 3), tmp_path, ConvertOptions(input=PixelInput.range(0, 1)))
    assert reading.net.input == ChannelInput.normalize((0.25, 0.5, 0.75), (0.5, 0.25, 0.125))
    raw = Graph().add("Sub", 255 * numbers[0]).add("Div", 255 * numbers[1]).conv(5, 3, 3, 3)
    assert read(raw, tmp_path, ConvertOptions()).net.input == reading.net.input  # it says that these are pixels
    reading = read(graph().sign().conv(5, 3, 3, 3), tmp_path, ConvertOptions(input=PixelInput.range(0, 255)))
    x = np.random.default_rng(0).integers(0, 2, (3, *SHAPE), dtype=np.uint8)
    ours = reference.forward(reading.net, reading.as_network(x))
    np.testing.assert_array_equal(ours, evaluated(tmp_path / "net.onnx", x.astype(F)))
    reading = read(Graph().add("Sub", np.array(0.5, F)).sign().conv(5, 3, 3, 3), tmp_path, ConvertOptions())
    assert reading.net.input == ThresholdInput(128)


def test_a_shape_that_is_open_is_said(tmp_path: Path) -> None:
    def graph() -> Graph:
        return Graph(("rows", 3, "height", "width")).conv(8, 3, 3, 3).sign().conv(5, 8, 3, 3)

    with pytest.raises(NetworkError, match=r"node Conv_v0 \(Conv\) reads a map whose size is not known: .* --input-shape says"):
        read(graph(), tmp_path)
    reading = read(graph(), tmp_path, ConvertOptions(input=SignInput(), input_shape=(3, 9, 14)))
    assert reading.net.shape == (9, 14, 3)
    padded = Graph(("rows", 3, "height", "width")).add("Pad", PAD).conv(5, 3, 3, 3)
    with pytest.raises(NetworkError, match=r"Pad_v0 \(Pad\) pads a tensor whose shape is not known; --input-shape says that"):
        read(padded, tmp_path)
    assert read(padded, tmp_path, ConvertOptions(input=SignInput(), input_shape=(3, 9, 14))).net.shape == (9, 14, 3)
    with pytest.raises(OptionError, match=r"--input-shape 4,9,14: net\.onnx says that its input is 3,\?,\?"):
        read(graph(), tmp_path, ConvertOptions(input=SignInput(), input_shape=(4, 9, 14)))
    with pytest.raises(OptionError, match="input shape"):
        ConvertOptions(input_shape=(3, 0, 14))


def test_channels_of_their_own_groups(tmp_path: Path) -> None:
    reading = read(Graph().conv(6, 1, 3, 3, group=3).sign().conv(5, 6, 1, 1), tmp_path)
    first = reading.net.linears[0][1]
    assert isinstance(first, Linear)
    assert (first.groups, first.weight.shape) == (3, (6, 3, 3, 1))
    assert [op for op in reading.net.ops if isinstance(op, Pool)] == []


PAD = np.array([0, 0, 1, 1, 0, 0, 1, 1])
REFUSED: dict[str, tuple[Any, str]] = {
    "a window larger than the map": (
        lambda g: g.conv(8, 3, 11, 3),
        r"node Conv_v0 \(Conv\) has a window that reaches over 11x3 pixels, and reads a map of 9x14 .*: needed",
    ),
    "no stride": (lambda g: g.conv(8, 3, 3, 3, strides=(0, 1)), r"has the strides 0, 1, needed are numbers from 1 on"),
    "no dilation": (lambda g: g.conv(8, 3, 3, 3, dilations=(1, -1)), r"has the dilations 1, -1, needed are numbers from 1"),
    "picked along lines": (lambda g: g.conv(8, 3, 3, 3).add("Softmax", axis=2), r"\(Softmax\) takes the axis 2, not that"),
    "one stride": (lambda g: g.conv(8, 3, 3, 3, strides=(2,)), r"has the strides \(2,\), needed are two numbers"),
    "padding taken away": (lambda g: g.conv(8, 3, 3, 3, pads=(0, -1, 0, 0)), r"needed are numbers from 0 on"),
    "padding of one axis": (lambda g: g.conv(8, 3, 3, 3, pads=(0, 1)), r"has the pads \(0, 1\), needed are 4 numbers"),
    "more padding than window": (
        lambda g: g.conv(8, 3, 3, 3, pads=(3, 0, 0, 0)),
        r"has a padding of \(3, 0, 0, 0\) \(top, bottom, left, right\) around a window that reaches over 3x3 pixels",
    ),
    "another way to pad": (lambda g: g.conv(8, 3, 3, 3, auto_pad="EVEN"), r"pads by EVEN, needed is NOTSET, SAME_UPPER"),
    "other channels": (lambda g: g.conv(8, 4, 3, 3), r"takes 4 channels, and reads a map of 3"),
    "groups that divide nothing": (
        lambda g: g.conv(8, 1, 3, 3, group=2), r"has 2 groups, by which 3 channels and 8 neurons cannot be divided"
    ),
    "another kernel_shape": (
        lambda g: g.conv(8, 3, 3, 3, kernel_shape=(3, 5)), r"has the kernel_shape \(3, 5\) and weights of shape"
    ),
    "three axes": (lambda g: g.conv(8, 3, 3, 3, 3), r"has weights of shape \(8, 3, 3, 3, 3\); needed are one or two axes"),
    "a line of weights": (lambda g: g.conv(8, 3, 3), r"has weights of shape \(8, 3, 3\) and reads values 3 x 9 x 14"),
    "a pool of the input": (
        lambda g: g.add("MaxPool", kernel_shape=(2, 2)).conv(8, 3, 3, 3), r"pools the input itself, before the first layer"
    ),
    "a pool without a size": (lambda g: g.conv(8, 3, 3, 3).add("MaxPool"), r"has no kernel_shape: is malformed"),
    "a pool of empty windows": (
        lambda g: g.conv(8, 3, 3, 3).add("MaxPool", kernel_shape=(2, 2), pads=(2, 0, 0, 0)).sign().conv(4, 8, 1, 1),
        r"padding is \(2, 0, 0, 0\)",
    ),
    "pixels of its own": (
        lambda g: g.conv(8, 3, 3, 3).add("Mul", g.random.random((7, 12)).astype(F)).sign().conv(4, 8, 1, 1),
        r"node Mul_v1 \(Mul\) has numbers of its own for every pixel of a map, which is not supported",
    ),
    "padded with another number": (
        lambda g: g.conv(8, 3, 3, 3).sign().add("Pad", PAD, np.array(0.5, F)).conv(4, 8, 3, 3),
        r"reads a map that is padded with 0\.5, needed is -1, 1 or 0",
    ),
    "reals padded with ones": (
        lambda g: g.add("Pad", PAD, np.array(1, F)).conv(4, 3, 3, 3), r"is padded with 1, needed is 0"
    ),
    "padded and not convolved": (
        lambda g: g.conv(8, 3, 3, 3).sign().add("Pad", PAD, np.array(0.3, F)).add("Flatten").dense(4, 8 * 9 * 14),
        r"has binary weights and follows Conv_v0 without a sign",
    ),
    "reflected": (lambda g: g.add("Pad", PAD, mode="reflect").conv(4, 3, 3, 3), r"pads by reflect, needed is a constant"),
    "axes in another order": (
        lambda g: g.conv(8, 3, 3, 3).sign().add("Transpose", perm=(0, 1, 3, 2)).conv(4, 8, 3, 3),
        r"reads values 8 x 12 x 7 in another order than that of channels, height and width of the map before, 7 x 12 x 8",
    ),
    "samples mixed": (
        lambda g: g.conv(8, 3, 3, 3).sign().add("Reshape", np.array([-1, 8])).dense(4, 8), r"moves values of 8 x 7 x 12 to -1"
    ),
    "scores in another order": (
        lambda g: g.conv(8, 3, 3, 3).sign().conv(5, 8, 3, 3).add("Flatten"), r"gives the scores of a map flattened, or in"
    ),
    "a map of a vector": (
        lambda g: g.conv(8, 3, 9, 14).sign().add("Flatten").dense(24, 8).sign().add("Reshape", np.array([0, 2, 3, 4]))
        .conv(4, 2, 2, 2),
        r"reads a map that was made of a vector, which is not supported",
    ),
    "channels and lines": (
        lambda g: g.conv(8, 3, 3, 3).sign().conv(5, 8, 3, 3).add("ReduceMean", np.array([1, 2])),
        r"takes the axes \(1, 2\), which",
    ),
    "three pixels": (
        lambda g: g.conv(8, 3, 3, 3).sign().conv(5, 8, 3, 3).add("ReduceSum", np.array([2])),
        r"adds up \d+ pixels, needed is a power of two",
    ),
    "no sign": (lambda g: g.conv(8, 3, 3, 3).conv(5, 8, 3, 3), r"has binary weights and follows Conv_v0 without a sign"),
    "transposed": (lambda g: g.add("ConvTranspose", np.ones((3, 4, 3, 3), F)), r"is a kind of convolution or pool that is not"),
    "weights of the input": (
        lambda g: g.add("Identity").add("Conv", np.ones((0, 3, 3, 3), F)), r"has weights of shape \(0, 3, 3, 3\)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("operation", ["Softmax", "TopK"])
def test_an_axis_that_is_not_said_is_the_last(tmp_path: Path, operation: str) -> None:
    """Of a map a line, whose classes are not those of its pixels; a softmax was of all numbers before version 13."""
    weights = np.random.default_rng(0).choice(np.array([-1, 1], F), (3, 2, 3, 3))
    nodes = [node("Conv", ["x", "w"], "c"), node(operation, ["c", "k"][: 1 + (operation == "TopK")], "y")]
    path = write(tmp_path / "net.onnx", nodes, {"w": weights, "k": np.array([1], np.int64)}, "y", shape=("rows", 2, 6, 5))
    content, options = path.read_bytes(), ConvertOptions(input=PixelInput.range(0, 255))
    for version in (0, 9, 12, 13):
        path.write_bytes(
            content + (field(8, field(1, "ai.onnx.ml") + field(2, 2)) + field(8, field(2, version))) * bool(version)
        )
        if operation == "Softmax" and 0 < version < 13:
            assert isinstance(read_source(path, options).net.nodes[-1].op, Linear)
        else:
            with pytest.raises(NetworkError, match=rf"\({operation}\) takes the axis -1, not that of the channels"):
                read_source(path, options)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    build, message = REFUSED[case]
    graph = Graph()
    build(graph)
    options = ConvertOptions(input=PixelInput.range(0, 1)) if "reals" in case else SIGNS
    with pytest.raises(NetworkError, match=message) as error:
        read(graph, tmp_path, options)
    assert "Error" not in str(error.value)
    assert len(error.value.problems) == 1


def test_a_map_that_is_too_large_is_refused_before_it_is_followed(tmp_path: Path) -> None:
    graph = Graph(("rows", 3, 1 << 19, 1 << 19)).conv(8, 3, 3, 3).sign().conv(5, 8, 3, 3)
    with pytest.raises(SourceError, match=r"net\.onnx: the places of the input, \d+ numbers would take .* --max-memory"):
        read(graph, tmp_path)

"""Zeros, and other numbers, beside the channels of values, as of the shortcuts of ResNets whose channels grow without weights
(option A), against the numbers of the frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_writer import node, write

import xnorinfer
from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.values import PixelInput

F = np.float32
PIXELS = np.random.default_rng(5).integers(0, 256, (24, 2, 6, 4), dtype=np.uint8)


def graph(path: Path, parts: list[bytes], channels: int, **more: Any) -> Path:
    """A binary layer of raw pixels, "v" with BatchNorm, its signs "s"; what makes "t" of them, and the largest of each channel
    of a layer of its signs and of itself."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.choice(np.array([-1, 1], F), (8, 2, 3, 3)),
        "f": rng.choice(np.array([-1, 1], F), (4, channels, 3, 3)),
    }
    constants |= {"m": rng.normal(0, 0.02, (8, 1, 1)).astype(F), "a": rng.normal(size=(8, 1, 1)).astype(F)}
    constants |= {"zero": np.array(0, F), "below": np.array(-1, F), "above": np.array(1, F), **more}
    nodes = [node("Conv", ["x", "w"], "c", pads=(1, 1, 1, 1)), node("Mul", ["c", "m"], "n"), node("Add", ["n", "a"], "v")]
    nodes += [node("GreaterOrEqual", ["v", "zero"], "g"), node("Where", ["g", "above", "below"], "s"), *parts]
    nodes += [node("GreaterOrEqual", ["t", "zero"], "q"), node("Where", ["q", "above", "below"], "y")]
    nodes += [node("Conv", ["y", "f"], "z"), node("GlobalMaxPool", ["z"], "zp"), node("GlobalMaxPool", ["t"], "tp")]
    nodes += [node("Concat", ["zp", "tp"], "both", axis=1), node("Flatten", ["both"], "scores")]
    return write(path, nodes, constants, "scores", shape=("rows", 2, 6, 4))


def read(path: Path) -> Reading:
    return read_source(path, ConvertOptions(input=PixelInput.range(0, 255)))


def by_onnx(path: Path) -> Any:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(str(path))
    model.opset_import.append(onnx.helper.make_opsetid("", 17))
    return ReferenceEvaluator(model).run(None, {"x": PIXELS.astype(F)})[0]


LIKE = [node("Shape", ["v"], "h"), node("ConstantOfShape", ["h"], "o", value=np.zeros(1, F))]
#: Nodes, channels of "t", constants.
GRAPHS: dict[str, tuple[list[bytes], int, dict[str, Any]]] = {
    "turned numbers": (
        [*LIKE, node("Exp", ["o"], "u"), node("Neg", ["u"], "b"), node("Concat", ["v", "b"], "t", axis=1)],
        16,
        {},
    ),
    "as many zeros": ([*LIKE, node("Concat", ["v", "o"], "t", axis=1)], 16, {}),
    "before them": ([*LIKE, node("Concat", ["o", "v"], "t", axis=-3)], 16, {}),
    "on both sides": ([node("Concat", ["k", "v", "k"], "t", axis=1)], 14, {"k": np.zeros((24, 3, 6, 4), F)}),
    "of signs": ([*LIKE, node("Concat", ["s", "o"], "t", axis=1)], 16, {}),
    "of signs and values": ([*LIKE, node("Concat", ["s", "o", "v"], "t", axis=1)], 24, {}),
    "numbers": (
        [node("Concat", ["v", "k"], "t", axis=1)],
        10,
        {"k": np.ones((24, 1, 6, 4), F) * np.array([[[2]], [[-0.5]]], F)},
    ),
    "ones beside signs": ([node("Concat", ["s", "k"], "t", axis=1)], 9, {"k": np.ones((24, 1, 6, 4), F)}),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_numbers_are_onnxs(tmp_path: Path, name: str) -> None:
    parts, channels, more = GRAPHS[name]
    path = graph(tmp_path / "net.onnx", parts, channels, **more)
    reading = read(path)
    rows = reading.as_network(PIXELS)
    wanted = by_onnx(path)
    np.testing.assert_array_equal(reference.forward(reading.net, rows), wanted)
    np.testing.assert_array_equal(xnorinfer.pack(reading.net).scores(rows.reshape(-1, *reading.net.shape)), wanted)


REFUSED: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "of pixels": (
        [node("Concat", ["v", "k"], "t", axis=1)],
        {"k": np.arange(48, dtype=F).reshape(1, 2, 6, 4)},
    ),
    "lines": ([node("Concat", ["v", "k"], "t", axis=2)], {"k": np.zeros((1, 8, 1, 4), F)}),
    "of another height": ([node("Concat", ["v", "k"], "t", axis=1)], {"k": np.zeros((1, 8, 5, 4), F)}),
    "rows": ([node("Concat", ["v", "k"], "t", axis=0)], {"k": np.zeros((1, 8, 6, 4), F)}),
    "of no size": ([node("Concat", ["v", "zero"], "t", axis=1)], {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused(tmp_path: Path, name: str) -> None:
    parts, more = REFUSED[name]
    with pytest.raises(NetworkError, match=r"node Concat_t \(Concat\) joins values of the network and constants"):
        read(graph(tmp_path / "net.onnx", parts, 16, **more))


# ---------------------------------------------------------------- numbers that are as large as a value

AXES = {"axes": np.array([2, 3])}
SIZED: dict[str, tuple[list[bytes], dict[str, Any], str]] = {
    "a sum": (
        [node("ReduceSum", ["o"], "k", keepdims=0), node("Mul", ["v", "k"], "t")],
        {},
        r"ReduceSum_k \(ReduceSum\) takes",
    ),
    "a sum of pixels": (
        [node("ReduceSum", ["o", "axes"], "k"), node("Mul", ["v", "k"], "t")],
        AXES,
        "takes a tensor that is as",
    ),
    "a sum of what is made of it": (
        [node("Neg", ["o"], "b"), node("ReduceL1", ["b"], "k", keepdims=0), node("Mul", ["v", "k"], "t")],
        {},
        r"ReduceL1_k \(ReduceL1\) takes a tensor that is as large as a value of the network as numbers",
    ),
    "a pool": ([node("AveragePool", ["o"], "k", kernel_shape=(2, 2)), node("Mul", ["v", "k"], "t")], {}, "takes a tensor"),
    "spread": (
        [node("GlobalMaxPool", ["v"], "r"), node("Mul", ["r", "o"], "t")],
        {},
        r"Mul_t \(Mul\) spreads values over 8 x 6 x 4",
    ),
    "spread by what is made of it": (
        [node("GlobalMaxPool", ["v"], "r"), node("Neg", ["o"], "b"), node("Mul", ["r", "b"], "t")],
        {},
        "spreads values over 8 x 6 x 4",
    ),
}


@pytest.mark.parametrize("name", SIZED)
def test_their_size_matters(tmp_path: Path, name: str) -> None:
    """A sum of them is not the number that they all are."""
    parts, more, message = SIZED[name]
    with pytest.raises(NetworkError, match=message):
        read(graph(tmp_path / "net.onnx", [*ONES, *parts], 8, **more))


ONES = [node("Shape", ["v"], "h"), node("ConstantOfShape", ["h"], "o", value=np.full(1, 2, F))]
OF_ANY_SIZE: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "a mean": ([node("ReduceMean", ["o"], "k", axes=(2, 3)), node("Mul", ["v", "k"], "t")], {}),
    "the largest": ([node("ReduceMax", ["o"], "k", axes=(1,)), node("Mul", ["v", "k"], "t")], {}),
    "in another order": ([node("Transpose", ["o"], "k", perm=(0, 1, 2, 3)), node("Mul", ["v", "k"], "t")], {}),
    "others as large": (
        [node("Shape", ["o"], "l"), node("ConstantOfShape", ["l"], "k", value=np.ones(1, F)), node("Add", ["v", "k"], "t")],
        {},
    ),
}


@pytest.mark.parametrize("name", OF_ANY_SIZE)
def test_their_size_does_not_matter(tmp_path: Path, name: str) -> None:
    parts, more = OF_ANY_SIZE[name]
    path = graph(tmp_path / "net.onnx", [*ONES, *parts], 8, **more)
    reading = read(path)
    np.testing.assert_array_equal(reference.forward(reading.net, reading.as_network(PIXELS)), by_onnx(path))


def test_many_pixels_beside_zeros(tmp_path: Path) -> None:
    """What is looked at does not grow with the rows that a graph may have."""
    signs = np.random.default_rng(0).choice(np.array([-1, 1], F), (16, 2, 3, 3))
    nodes = [node("Conv", ["x", "w"], "v", pads=(1, 1, 1, 1)), *LIKE, node("Concat", ["v", "o"], "t", axis=1)]
    nodes += [node("GlobalMaxPool", ["t"], "p"), node("Flatten", ["p"], "scores")]
    path = write(tmp_path / "net.onnx", nodes, {"w": signs}, "scores", shape=("rows", 2, 96, 96))
    assert read(path).net.shape == (96, 96, 2)


# ---------------------------------------------------------------- of PyTorch

SPELLINGS = {
    "zeros_like": lambda torch, x: torch.cat([x, torch.zeros_like(x)], 1),
    "zeros": lambda torch, x: torch.cat([x, torch.zeros(x.shape[0], 4, x.shape[2], x.shape[3])], 1),
    "new_zeros": lambda torch, x: torch.cat([x.new_zeros(x.size(0), 2, *x.shape[2:]), x], 1),
    "pad": lambda torch, x: torch.nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3)),
    "pool and cat": lambda torch, x: (
        lambda y: torch.cat([y, y.new_zeros(y.size(0), 8, y.size(2), y.size(3))], 1)
    )(torch.nn.functional.max_pool2d(x, 2)),
    "times 0": lambda torch, x: torch.cat((x, x.mul(0)), 1),
    "ones": lambda torch, x: torch.cat([x, torch.ones_like(x[:, :1])], 1),
    "full": lambda torch, x: torch.cat([x, torch.full_like(x[:, :2], 0.25)], 1),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_sum_of_ones_is_not_one(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            y = torch.nn.functional.conv2d(x, torch.ones(8, 2, 3, 3))
            return (y * torch.ones_like(y).sum((2, 3), keepdim=True)).amax((2, 3))

    torch.jit.save(torch.jit.trace(Net(), torch.zeros(1, 2, 6, 4)), str(tmp_path / "net.pt"))
    with pytest.raises(NetworkError, match=r"\(ReduceSum\) takes a tensor that is as large as a value of the network"):
        read_source(tmp_path / "net.pt", ConvertOptions(input=PixelInput.range(0, 255), input_shape=(2, 6, 4)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", SPELLINGS)
def test_numbers_are_pytorchs(tmp_path: Path, name: str, traced: bool) -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(2, 8, 3, padding=1, bias=False), torch.nn.BatchNorm2d(8)
            with torch.no_grad():
                self.norm.running_var.uniform_(2e4, 9e4)
                self.norm.bias.normal_()

        def forward(self, x: Any) -> Any:
            sums = torch.nn.functional.conv2d(x, torch.where(self.conv.weight >= 0, 1.0, -1.0), padding=1)
            return SPELLINGS[name](torch, self.norm(sums)).amax((2, 3))

    torch.manual_seed(0)
    module, rows = Net().eval(), torch.from_numpy(PIXELS.astype(F))
    with torch.no_grad():
        wanted = module(rows).numpy()
    options = ConvertOptions(input=PixelInput.range(0, 255), input_shape=(2, 6, 4) if traced else None)
    if traced:
        torch.jit.save(torch.jit.trace(module, rows[:1]), str(tmp_path / "net.pt"))
    else:
        torch.export.save(torch.export.export(module, (rows[:1],)), str(tmp_path / "net.pt2"))
    (path,) = tmp_path.iterdir()
    reading = read_source(path, options)
    np.testing.assert_array_equal(reference.forward(reading.net, reading.as_network(PIXELS)), wanted)


# ---------------------------------------------------------------- of TensorFlow

FILLS = {
    "zeros_like": lambda tf, x: tf.concat([x, tf.zeros_like(x)], -1),
    "zeros": lambda tf, x: tf.concat([x, tf.zeros([tf.shape(x)[0], 6, 4, 3])], -1),
}


@pytest.mark.parametrize("kind", ["saved", "tflite"])
@pytest.mark.parametrize("name", ["zeros_like", "zeros"])
def test_numbers_are_tensorflows(tmp_path: Path, name: str, kind: str) -> None:
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    kernel = tf.constant(rng.choice(np.array([-1, 1], F), (3, 3, 2, 8)))
    scale, offset = (tf.constant(rng.normal(size=8).astype(F)) for _ in range(2))

    @tf.function(input_signature=[tf.TensorSpec([None, 6, 4, 2], tf.float32)])  # type: ignore[untyped-decorator]
    def network(x: Any) -> Any:
        sums = tf.nn.conv2d(x, kernel, 1, "SAME") * scale + offset
        return tf.reduce_max(tf.square(FILLS[name](tf, sums)), [1, 2])

    module = tf.Module()
    module.network = network
    pixels = PIXELS.transpose(0, 2, 3, 1)
    wanted = network(tf.constant(pixels.astype(F))).numpy()
    if kind == "saved":
        tf.saved_model.save(module, str(tmp_path / "net"), signatures=network.get_concrete_function())
        path = tmp_path / "net"
    else:
        path = tmp_path / "net.tflite"
        converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()], module)
        path.write_bytes(converter.convert())
    reading = read(path)
    np.testing.assert_allclose(reference.forward(reading.net, reading.as_network(pixels)), wanted, rtol=1e-6)

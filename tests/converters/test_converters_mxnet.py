"""MXNet's models, BMXNet's among them: what is read gives what plain numpy makes of the same files, or is refused by name."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet_reference
import numpy as np
import pytest
from mxnet_files import VERSIONS, Symbol, array_bytes, lenet, params_bytes, random_norm, words
from numpy.typing import NDArray
from real_networks import checkpoint
from refusals import assert_resolvable

import xnorinfer
from xnorinfer.conversion import convert_file
from xnorinfer.converters import ConvertOptions, Reading, files_of, read_source
from xnorinfer.converters.containers.mxnetparams import read_params
from xnorinfer.converters.graphs.elementwise import RISING
from xnorinfer.errors import NetworkError, SourceError
from xnorinfer.net.ops import Linear
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput, RealInput

Array = NDArray[Any]
F = np.float32
RAW = PixelInput.range(0, 255)


def read(path: Path, shape: tuple[int, ...], **given: Any) -> Reading:
    return read_source(path, ConvertOptions(input_shape=shape, **{"input": RAW, **given}))


def images(shape: tuple[int, ...], rows: int = 20) -> Array:
    """(rows, channels, height, width)"""
    return np.random.default_rng(5).integers(0, 256, (rows, *shape), dtype=np.uint8)


def params_of(symbol: Path) -> Path:
    return symbol.with_name(symbol.name.replace("-symbol.json", "-0000.params"))


def assert_alike(path: Path, shape: tuple[int, ...], **given: Any) -> Reading:
    """The network that is read against plain numpy, up to the order of float sums."""
    reading = read(path, shape, **given)
    x = images(shape)
    wanted = mxnet_reference.run(path, params_of(path), x)
    rows = x if x.ndim == 2 else x.transpose(0, 2, 3, 1)
    if isinstance(reading.net.input, RealInput):
        rows = rows.astype(F)
    found = forward(reading.net, np.ascontiguousarray(rows.reshape(len(x), -1)))
    if wanted.ndim == 4:
        wanted = wanted.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, wanted.reshape(len(x), -1), rtol=1e-5, atol=1e-5)
    assert len(np.unique(wanted.reshape(len(x), -1).round(3), axis=0)) > len(x) // 2  # they differ from image to image
    return reading


def assert_packed(path: Path, shape: tuple[int, ...]) -> None:
    """The packed network against the oracle, bit for bit."""
    converted = convert_file(path, ConvertOptions(input_shape=shape, input=RAW))
    x = images(shape, 40)
    rows = x if x.ndim == 2 else np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(40, -1)
    want = forward(read(path, shape).net, rows)
    np.testing.assert_array_equal(xnorinfer.Model(converted.packed, threads=1).scores(rows), want)


# ---------------------------------------------------------------- BMXNet's LeNet


@pytest.mark.parametrize(("bits", "version"), [(0, "stored"), (32, "old"), (64, "old"), (64, "wide"), (0, "numpy")])
def test_lenet(tmp_path: Path, bits: int, version: str) -> None:
    """Weights as floats, and as the converter's words of both sizes, in every version of the arrays."""
    place = "attr" if version == "old" else "attrs"
    path = lenet(bits=bits).write(tmp_path, arrays=version, place=place)
    reading = assert_alike(path, (1, 28, 28))
    layers = [node.op for node in reading.net.nodes if isinstance(node.op, Linear)]
    assert [layer.binary for layer in layers] == [False, True, True, False]
    assert reading.net.profile == "ge-zero"
    plain = read(lenet().write(tmp_path, "plain"), (1, 28, 28)).net
    for ours, theirs in zip(layers, (node.op for node in plain.nodes if isinstance(node.op, Linear)), strict=True):
        assert ours.binary == theirs.binary
        assert ((ours.weight >= 0) == (theirs.weight >= 0)).all()
    assert params_of(path) in files_of(path)
    assert path in files_of(params_of(path))
    used = {use.name for use in reading.tensors if not use.ignored}
    left = {use.name: use.use for use in reading.tensors if use.ignored}
    assert "arg:qconvolution0_weight" in used
    assert left == {f"arg:batchnorm{i}_gamma": f"not used by batchnorm{i}, whose gamma is 1 (fix_gamma)" for i in (0, 2)}


def test_lenet_packed(tmp_path: Path) -> None:
    path = lenet(bits=64).write(tmp_path)
    converted = convert_file(path, ConvertOptions(input_shape=(1, 28, 28), input=RAW))
    x = images((1, 28, 28), 60)
    net = read(path, (1, 28, 28)).net
    scores = xnorinfer.Model(converted.packed, threads=1).scores(x.reshape(60, -1))
    np.testing.assert_array_equal(scores, forward(net, x.reshape(60, -1)))
    wanted = mxnet_reference.run(path, params_of(path), x)
    assert (scores.argmax(axis=1) == wanted.argmax(axis=1)).all()


# ---------------------------------------------------------------- operators


def stem(net: Symbol, rng: np.random.Generator, channels: int, of: int = 3) -> None:
    """A float layer and a BatchNorm over images."""
    net.conv("stem", rng.normal(0, 0.01, (channels, of, 3, 3)).astype(F), binary=False, pad=(1, 1))
    net.norm("bn0", *random_norm(rng, channels, 0, 1), fix_gamma=False)


def latents(rng: np.random.Generator, *shape: int) -> Array:
    """Some of them 0, which is +1."""
    found = rng.uniform(-1, 1, shape).astype(F)
    found[rng.random(shape) < 0.05] = 0
    return found


def chain(name: str) -> tuple[Symbol, tuple[int, ...]]:
    """A network for each thing that an operator can say."""
    rng = np.random.default_rng(len(name))
    net = Symbol()
    shape: tuple[int, ...] = (3, 9, 10)
    if name == "dense":
        shape = (40,)
        net.norm("bn_data", *random_norm(rng, 40, 127, 60))
        net.dense("fc1", latents(rng, 30, 40), rng.integers(-3, 3, 30).astype(F))
        net.norm("bn1", *random_norm(rng, 30, 20, 3), eps=2e-5)
        net.dense("fc2", latents(rng, 6, 30))
        net.norm("bn2", *random_norm(rng, 6, 15, 3), fix_gamma=False)
        return net, shape
    stem(net, rng, 8)
    depth = {"one pixel": 8, "groups and bias": 36, "dilated": 48}.get(name, 72)
    match name:
        case "padded":
            net.conv("conv1", latents(rng, 12, 8, 3, 3), pad=(1, 1), stride=(2, 2))
        case "one pixel":
            net.conv("conv1", latents(rng, 12, 8, 1, 1), stride=(2, 2))
        case "groups and bias":
            net.conv("conv1", latents(rng, 12, 4, 3, 3), rng.integers(-4, 4, 12).astype(F), num_group=2, pad=(1, 0))
        case "dilated":
            net.conv("conv1", latents(rng, 12, 8, 3, 2), dilate=(2, 3), pad=(2, 1))
        case "activation":
            net.add("QActivation", "qactivation1", act_bit=1)
            net.conv("conv1", latents(rng, 12, 8, 3, 3), pad=(1, 1))
        case "pooled signs":
            net.add("QActivation", "qactivation1")
            net.add("Pooling", "pool0", pool_type="max", kernel=(3, 3), stride=(2, 2), pooling_convention="full")
            net.conv("conv1", latents(rng, 12, 8, 3, 3), pad=(1, 1))
        case "two bits":
            net.conv("conv1", latents(rng, 12, 8, 3, 3), pad=(1, 1), act_bit=2)
        case "three bits, said twice, and a bias":
            net.add("QActivation", "qactivation1", act_bit=3)
            net.conv("conv1", latents(rng, 12, 4, 3, 3), rng.normal(size=12).astype(F), num_group=2, stride=(2, 1), act_bit=3)
        case "four bits, pooled":
            net.add("QActivation", "qactivation1", act_bit=4)
            net.add("Pooling", "pool0", pool_type="max", kernel=(3, 3), stride=(1, 1), pad=(1, 1))
            net.conv("conv1", latents(rng, 12, 8, 3, 3), pad=(1, 1), act_bit=4)
        case "first of its kind":
            net.conv("conv1", latents(rng, 12, 8, 3, 3))
            net.nodes[-1]["op"] = "QConvolution_v1"
        case "average":
            net.conv("conv1", latents(rng, 12, 8, 3, 3), pad=(1, 1))
            net.add("Pooling", "pool1", pool_type="avg", kernel=(3, 2), stride=(2, 2), pad=(1, 0))
        case "full":
            net.conv("conv1", latents(rng, 12, 8, 3, 3), pad=(1, 1))
            net.add("Pooling", "pool1", pool_type="max", kernel=(3, 3), stride=(2, 2), pad=(1, 1), pooling_convention="full")
        case "prelu":
            net.conv("conv1", latents(rng, 12, 8, 3, 3))
            slopes = net.variable("prelu_gamma", rng.uniform(0.1, 0.9, 12).astype(F))
            net.add("LeakyReLU", "prelu", [net.last, slopes], act_type="prelu")
    middle = 0 if "bits" in name else depth / 2  # of dots, and of agreements
    net.norm("bn1", *random_norm(rng, 12, middle, depth**0.5 / 2), fix_gamma=False, eps=1e-4)
    if name == "average":
        net.add("Activation", "relu1", act_type="relu")
        net.add("Pooling", "pool2", pool_type="avg", kernel=(7, 7), global_pool=True)
        net.add("Flatten", "flatten")
        net.add("Dropout", "dropout", p=0.5)
        net.dense("fc", rng.normal(size=(5, 12)).astype(F), rng.normal(size=5).astype(F), binary=False)
    else:
        net.add("Pooling", "pool2", pool_type="max", kernel=(2, 2), stride=(2, 2), pooling_convention="full")
        width = {"one pixel": 108, "padded": 108, "full": 108, "pooled signs": 72, "groups and bias": 240}
        width |= {"dilated": 300, "activation": 300}
        width |= {"two bits": 300, "three bits, said twice, and a bias": 96, "four bits, pooled": 300}
        bits = {"act_bit": 2} if "bits" in name else {}
        net.dense("fc", latents(rng, 5, width.get(name, 192)), **bits)
    return net, shape


CHAINS = (
    *("dense", "padded", "one pixel", "groups and bias", "dilated", "activation", "pooled signs", "first of its kind"),
    *("average", "full", "prelu", "two bits", "three bits, said twice, and a bias", "four bits, pooled"),
)


@pytest.mark.parametrize("name", CHAINS)
def test_operators(tmp_path: Path, name: str) -> None:
    """Against plain numpy; and packed, bit for bit."""
    net, shape = chain(name)
    path = net.write(tmp_path)
    assert_alike(path, shape)
    assert_packed(path, shape)


# ---------------------------------------------------------------- networks that branch


def unit(net: Symbol, rng: np.random.Generator, name: str, channels: int, neurons: int, middle: float, bits: int) -> float:
    """A residual unit of BMXNet's, of half the size where it has more neurons: one sign is read by the first convolution and by
    that of the shortcut; the stream is agreements.  middle: of the stream; gives that of its result."""
    before, stride, depth = net.last, 1 + (channels != neurons), 9 * neurons
    first = net.norm(f"{name}_bn1", *random_norm(rng, channels, middle, 3), fix_gamma=False, eps=2e-5)
    net.conv(f"{name}_conv1", latents(rng, neurons, channels, 3, 3), pad=(1, 1), stride=(stride, stride), bits=bits)
    net.norm(f"{name}_bn2", *random_norm(rng, neurons, 9 * channels / 2, 1.5 * channels**0.5), fix_gamma=False, eps=2e-5)
    second = net.conv(f"{name}_conv2", latents(rng, neurons, neurons, 3, 3), pad=(1, 1), bits=bits)
    if stride > 1:
        net.last, middle = first, channels / 2
        before = net.conv(f"{name}_sc", latents(rng, neurons, channels, 1, 1), stride=(stride, stride), bits=bits)
    net.add("elemwise_add", f"{name}_plus", [second, before])
    return depth / 2 + middle


def residual(bits: int = 0, channels: int = 8) -> Symbol:
    """Three units behind a float layer over normed pixels, a mean and a float head, as BMXNet's ResNet."""
    rng = np.random.default_rng(3)
    net = Symbol()
    net.norm("bn_data", *random_norm(rng, 3, 120, 60), eps=2e-5)
    net.conv("conv0", rng.normal(0, 0.3, (channels, 3, 3, 3)).astype(F), binary=False, pad=(1, 1))
    middle = unit(net, rng, "u1", channels, channels, 0, bits)
    middle = unit(net, rng, "u2", channels, 2 * channels, middle, bits)
    middle = unit(net, rng, "u3", 2 * channels, 2 * channels, middle, bits)
    net.norm("bn1", *random_norm(rng, 2 * channels, middle, channels), fix_gamma=False, eps=2e-5)
    net.add("Activation", "relu1", act_type="relu")
    net.add("Pooling", "pool1", pool_type="avg", kernel=(7, 7), global_pool=True)
    net.add("Flatten", "flatten0")
    net.dense("fc1", rng.normal(size=(10, 2 * channels)).astype(F), rng.normal(size=10).astype(F), binary=False)
    net.add("SoftmaxOutput", "softmax", [net.last, net.variable("softmax_label")])
    return net


@pytest.mark.parametrize(("bits", "channels"), [(0, 8), (32, 32), (64, 64)])
def test_residual_units(tmp_path: Path, bits: int, channels: int) -> None:
    path = residual(bits, channels).write(tmp_path, arrays="old" if bits else "stored")
    reading = assert_alike(path, (3, 10, 12))
    assert_packed(path, (3, 10, 12))
    kinds = [type(node.op).__name__ for node in reading.net.nodes]
    assert kinds.count("Add") == 3
    assert kinds.count("Quantize") == 6  # of what two layers read there is one


def gluon(bits: int) -> Symbol:
    """A dense and an improvement block of MeliusNet as Gluon exports them, a gate and other operators of two values."""
    rng = np.random.default_rng(6)
    net = Symbol()
    stem(net, rng, 8)
    before = net.last
    net.gluon_conv("dense0", latents(rng, 4, 8, 3, 3), 1, bits=bits, offset=72)
    made = net.norm("bn1", *random_norm(rng, 4, 36 if bits == 1 else 0, 4), fix_gamma=False, axis=1, use_global_stats=False)
    whole = net.add("Concat", "concat0", [before, made], dim=1, num_args=2)
    net.gluon_conv("improve0", latents(rng, 4, 12, 3, 3), 1, bits=bits, num_group=1)
    made = net.norm("bn2", *random_norm(rng, 4, 0, 5), fix_gamma=False)
    first = net.add("slice_axis", "first", [whole], axis=1, begin=0, end=8)
    last = net.add("slice_axis", "last", [whole], axis=1, begin=-4, end=None)
    added = net.add("elemwise_add", "added", [last, made])
    joined = net.add("Concat", "concat1", [first, added], dim=1)
    net.add("mean", "mean", [joined], axis=(2, 3), keepdims=True)
    gate = net.add("Activation", "gate", act_type="sigmoid")
    net.add("broadcast_mul", "gated", [joined, gate])
    net.add("elemwise_sub", "less", [net.last, joined])
    net.gluon_conv("conv2", latents(rng, 6, 12, 3, 3), bits=bits, stride=(2, 2))
    net.norm("bn3", *random_norm(rng, 6, 0, 4), fix_gamma=False)
    net.add("Pooling", "pool", pool_type="avg", global_pool=True, kernel=(1, 1), layout="NCHW")
    net.add("Reshape", "reshape", shape=(0, -1))
    net.dense("fc", rng.normal(size=(5, 6)).astype(F), rng.normal(size=5).astype(F), binary=False, flatten=True)
    return net


@pytest.mark.parametrize("bits", [1, 2])
def test_networks_of_gluon(tmp_path: Path, bits: int) -> None:
    """BMXNet-v2's layers are operators: weights that a det_sign gives, -1 around maps, what halves a dot."""
    path = gluon(bits).write(tmp_path)
    reading = assert_alike(path, (3, 9, 10))
    assert_packed(path, (3, 9, 10))
    assert sum(isinstance(node.op, Linear) and node.op.binary for node in reading.net.nodes) == 3
    assert {layer.pad for layer in reading.net.ops if isinstance(layer, Linear)} == ({-1, 0} if bits == 1 else {0})


@pytest.mark.parametrize(
    ("name", "said", "message"),
    [
        ("dense0_pad", {"mode": "edge"}, "has the mode edge, which"),
        ("dense0_pad", {"pad_width": "(1, 0, 0, 0, 1, 1, 1, 1)"}, "needed are two numbers for each of 4 axes"),
        ("dense0_pad", {"pad_width": "(1, 1)"}, "needed are two numbers for each of 4 axes"),
        ("first", {"end": "x"}, "has the end x, needed is a whole number"),
        ("reshape", {"shape": "(-1, 3)"}, "has the shape (-1,3), which"),
        ("mean", {"exclude": True}, "takes a mean of other axes than it names"),
        ("dense0_fwd", {"num_filter": 9}, "has weights (4, 8, 3, 3), and 9 filters"),
    ],
)
def test_operators_of_gluon_that_are_refused(tmp_path: Path, name: str, said: dict[str, Any], message: str) -> None:
    net = gluon(1)
    says(net, name, **said)
    with pytest.raises(NetworkError) as caught:
        read(net.write(tmp_path), (3, 9, 10))
    assert message in str(caught.value)
    assert_resolvable(caught.value)


def test_round_ste_is_the_round_of_c() -> None:
    """Halves away from 0; what is next to a half is not rounded to it first."""
    x = np.array([0.5, 1.5, -0.5, -2.5, np.nextafter(F(0.5), F(0)), -np.nextafter(F(0.5), F(0)), 8388609, np.inf, 0], F)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(RISING["RoundHalfAway"](x), np.array([1, 2, -1, -3, 0, 0, 8388609, np.inf, 0], F))


def test_softmax_of_another_axis(tmp_path: Path) -> None:
    def change(net: Symbol) -> None:
        net.nodes = [node for node in net.nodes if node["name"] not in ("fc", "fc_weight")]
        net.last = len(net.nodes) - 1
        net.add("softmax", "softmax", axis=-1)

    assert "takes the axis -1, not that of the channels" in refused(tmp_path, change)


def test_concatenated_maps(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    net = Symbol()
    stem(net, rng, 8)
    before = net.last
    made = net.conv("conv1", latents(rng, 4, 8, 3, 3), pad=(1, 1))
    net.add("Concat", "concat", [before, made], num_args=2)
    mean, *others = random_norm(rng, 12, 0, 1)
    mean[8:] += 36
    net.norm("bn1", mean, *others, fix_gamma=False)
    net.conv("conv2", latents(rng, 5, 12, 3, 3), stride=(2, 2))
    net.norm("bn2", *random_norm(rng, 5, 54, 6))
    net.dense("fc", latents(rng, 4, 80))
    assert_alike(net.write(tmp_path), (3, 9, 10))
    assert_packed(tmp_path / "net-symbol.json", (3, 9, 10))


def test_bmxnets_own_resnet(mnist_folder: Path) -> None:
    """Trained by its authors: all 20 images, packed, and scores as the oracle and plain numpy have them."""
    folder = checkpoint(mnist_folder, "bmxnet_resnet18_cifar10")
    path, params = (next(folder.glob(pattern)) for pattern in ("*-symbol.json", "*.params"))
    with np.load(mnist_folder.parent / "images" / "cifar10_20.npz") as data:
        x, y = data["x"], data["y"]
    options = ConvertOptions(input_shape=(3, 32, 32))
    converted = convert_file(params, options)
    assert not converted.reading.warnings
    scores = xnorinfer.Model(converted.packed, threads=1).scores(x)
    assert (scores.argmax(axis=1) == y).all()
    few = x[:3]
    np.testing.assert_array_equal(scores[:3], forward(read_source(path, options).net, few.reshape(3, -1)))
    wanted = mxnet_reference.run(path, params, few.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(scores[:3], wanted, rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------- what is refused


def refused(tmp_path: Path, change: Callable[[Symbol], Any], name: str = "padded") -> str:
    net, shape = chain(name)
    change(net)
    with pytest.raises(NetworkError) as caught:
        read(net.write(tmp_path), shape)
    assert_resolvable(caught.value)
    return str(caught.value)


def says(net: Symbol, name: str, **said: Any) -> None:
    (node,) = (node for node in net.nodes if node["name"] == name)
    node["attrs"] |= {key: str(value) for key, value in said.items()}


@pytest.mark.parametrize(
    ("name", "said", "message"),
    [
        ("conv1", {"act_bit": 5}, "node conv1 (QConvolution) has activations of 5 bits: it is quantized to several bits"),
        ("conv1", {"weight_bit": 4}, "has weights of 4 bits"),
        ("conv1", {"act_bit": 32}, "has activations of 32 bits"),
        ("conv1", {"scaling_mode": "forward"}, "scales by the mean of its weights (scaling_mode forward)"),
        (
            "conv1",
            {"scaling_mode": "sideways"},
            "has the scaling_mode sideways, which is not supported in a binary network; known: none, backward, forward",
        ),
        (
            "conv1",
            {"kernel": "(3, 3, 3)"},
            "has the kernel (3, 3, 3), which is not supported in a binary network: needed are one or two",
        ),
        ("conv1", {"kernel": "3x3"}, "has the kernel 3x3, needed are whole numbers like (3, 3): is malformed"),
        ("conv1", {"stride": "(0, 1)"}, "has a stride or dilate of 0"),
        ("conv1", {"pad": "(1, 1, 1)"}, "another number of axes than its kernel"),
        ("conv1", {"layout": "NHWC"}, "has the layout NHWC, which is not supported"),
        ("conv1", {"num_filter": 13}, "has weights (12, 8, 3, 3), and 13 neurons"),
        ("conv1", {"num_filter": 0}, "has 0 neurons: is malformed"),
        ("conv1", {"num_filter": 0, "binarized_weights_only": True}, "has 0 neurons: is malformed"),
        ("conv1", {"kernel": "(1, 1)", "pad": "(0, 0)"}, "has weights (12, 8, 3, 3), and 12 neurons of 1 x 1: is malformed"),
        ("conv1", {"num_filter": "many"}, "has the num_filter many, needed is a whole number"),
        ("conv1", {"no_bias": "maybe"}, "has the no_bias maybe, needed is True or False"),
        ("conv1", {"no_bias": False}, "needs the parameter conv1_bias"),
        ("conv1", {"binarized_weights_only": True}, "takes 256 channels, and reads a map of 8"),
        ("conv1", {"rounding": "up", "swish": 2}, "says rounding = up, swish = 2, which is not known here"),
        ("stem", {"num_filter": 9}, "node stem (Convolution) has weights (8, 3, 3, 3), and 9 filters of 3 x 3"),
        ("bn1", {"axis": 3}, "normalizes along the axis 3, which is not supported in a binary network: needed is 1"),
        ("bn1", {"eps": "tiny"}, "has the eps tiny, needed is a number"),
        ("pool2", {"pool_type": "sum"}, "has the pool_type sum, which is not supported in a binary network; known: max, avg"),
        ("pool2", {"pooling_convention": "same"}, "has the pooling_convention same, which"),
        ("pool2", {"global_pool": True, "pad": "(1, 1)"}, "pads a map that it pools as a whole"),
        ("pool2", {"stride": "(4, 9)"}, "windows 2, 2 that lie outside of the map"),
        ("fc", {"act_bit": 8}, "node fc (QFullyConnected) has activations of 8 bits"),
    ],
)
def test_attributes_that_are_refused(tmp_path: Path, name: str, said: dict[str, Any], message: str) -> None:
    assert message in refused(tmp_path, lambda net: says(net, name, **said))


@pytest.mark.parametrize("operation", ["elemwise_add", "add_n", "Concat", "relu"])
def test_nodes_without_inputs(tmp_path: Path, operation: str) -> None:
    def change(net: Symbol) -> None:
        node = next(node for node in net.nodes if node["name"] == "pool2")
        node |= {"op": operation, "attrs": {}, "inputs": []}

    assert "malformed" in refused(tmp_path, change)


def test_what_does_not_matter_may_be_said(tmp_path: Path) -> None:
    """For training, for the machine, for people, or MXNet's own defaults."""
    net, shape = chain("padded")
    says(net, "conv1", workspace=512, cudnn_off=True, scaling_mode="backward", lr_mult="2", mirror_stage=True, layout="None")
    says(net, "conv1", weight_lr_mult="0.1", ctx_group="a", __note__="x", no_bias=1, stride="(2L, 2L)", kernel="[3, 3]")
    says(net, "bn1", momentum=0.9, use_global_stats=True, axis=1)
    assert_alike(net.write(tmp_path), shape)


@pytest.mark.parametrize("operation", ["BatchNorm_v1", "RNN", "Custom", "SliceChannel", "Pooling_v1", "QConvolution_v2"])
def test_unknown_operators(tmp_path: Path, operation: str) -> None:
    found = refused(tmp_path, lambda net: net.nodes[-1].__setitem__("op", operation))
    assert f"node fc ({operation}) is not supported in a binary network" in found


def test_all_reasons_at_once(tmp_path: Path) -> None:
    def change(net: Symbol) -> None:
        says(net, "conv1", act_bit=5)
        says(net, "bn1", axis=2)
        net.nodes[-1]["op"] = "Magic"

    found = refused(tmp_path, change)
    assert "(3 problems)" in found
    assert "fc (Magic)" in found


def test_parameters_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    def half(net: Symbol) -> None:
        net.arrays["arg:stem_weight"] = net.arrays["arg:stem_weight"].astype(np.float16)

    def ints(net: Symbol) -> None:
        net.arrays["arg:conv1_weight"] = np.ones((12, 8, 3, 3), np.int32)

    assert "needs the parameter conv1_weight" in refused(tmp_path, lambda net: net.arrays.pop("arg:conv1_weight"))
    assert "has a weight arg:stem_weight of float16" in refused(tmp_path, half)
    assert "has a weight arg:conv1_weight of int32" in refused(tmp_path, ints)
    assert "has a constant of shape" in refused(tmp_path, lambda net: net.arrays.__setitem__("arg:bn1_beta", np.zeros(11, F)))


def test_words_of_bits_that_do_not_go_together(tmp_path: Path) -> None:
    def packed(net: Symbol, weight: Array) -> None:
        net.arrays["arg:conv1_weight"] = weight
        says(net, "conv1", binarized_weights_only=True)

    message = refused(tmp_path, lambda net: packed(net, np.ones(7, np.float64)))
    assert "has 7 words of 64 bits, 12 neurons, and windows of 3 x 3, which do not go together" in message
    message = refused(tmp_path, lambda net: packed(net, np.ones(12 * 9, np.int32)))
    assert "has words of bits stored as int32, needed are float32 or float64" in message
    message = refused(tmp_path, lambda net: packed(net, words(np.ones((12, 64, 3, 3), F), 64, dense=False)))
    assert "takes 64 channels" in message


def test_outputs(tmp_path: Path) -> None:
    """Several, or those that BatchNorm has beside its first."""
    net, shape = chain("padded")
    path = net.write(tmp_path)
    graph = json.loads(path.read_text())
    for heads, message in (
        ([[net.last, 0, 0], [net.last - 2, 0, 0]], "the symbol gives fc, pool2: one output is supported"),
        ([[net.last, 1, 0]], "one output is supported"),
    ):
        path.write_text(json.dumps({**graph, "heads": heads}))
        with pytest.raises(NetworkError, match=message):
            read(path, shape)
    conv = next(index for index, node in enumerate(graph["nodes"]) if node["name"] == "conv1")
    graph["nodes"][conv]["inputs"][0][1] = 2
    path.write_text(json.dumps(graph))
    with pytest.raises(NetworkError, match="reads the output 2 of bn0"):
        read(path, shape)


def test_shapes_that_are_not_said(tmp_path: Path) -> None:
    """A symbol can say the shape of its input; else an option must, where there are maps."""
    net, shape = chain("padded")
    path = net.write(tmp_path)
    with pytest.raises(NetworkError, match="--input-shape says it"):
        read_source(path, ConvertOptions(input=RAW))
    net.nodes[0]["attrs"] = {"__shape__": str((0, *shape))}
    assert read_source(net.write(tmp_path), ConvertOptions(input=RAW)).net.shape == (9, 10, 3)
    dense, _ = chain("dense")
    assert read_source(dense.write(tmp_path, "dense"), ConvertOptions(input=RAW)).net.shape == (40,)


def test_files_of_a_model(tmp_path: Path) -> None:
    """Either file is enough to find the other; which epoch is not guessed."""
    net, shape = chain("padded")
    path = net.write(tmp_path)
    params = params_of(path)
    assert len(read(params, shape).net.nodes) == len(read(path, shape).net.nodes)
    other = tmp_path / "net-0010.params"
    other.write_bytes(params.read_bytes())
    with pytest.raises(SourceError, match=r"several epochs: give one of net-0000.params, net-0010.params"):
        read(path, shape)
    assert read(other, shape).net.shape == (9, 10, 3)
    for file in (other, params):
        file.unlink()
    with pytest.raises(SourceError, match=r"holds no numbers: parameters called net-0000.params must lie beside it"):
        read(path, shape)
    lonely = tmp_path / "other-0001.params"
    lonely.write_bytes(params_bytes(net.arrays))
    with pytest.raises(SourceError, match=r"the network is in other-symbol.json, which must lie beside it"):
        read(lonely, shape)


# ---------------------------------------------------------------- containers


@pytest.mark.parametrize("version", VERSIONS)
def test_arrays_of_every_version(tmp_path: Path, version: str) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        f"arg:{kind}": (rng.normal(size=(2, 3)) * 50).astype(kind)
        for kind in ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")
    }
    path = tmp_path / "x.params"
    path.write_bytes(params_bytes(arrays, version))
    found = read_params(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (str(array.dtype), array.shape)
        np.testing.assert_array_equal(found[name].array, array)


def test_a_list_without_names(tmp_path: Path) -> None:
    path = tmp_path / "x.params"
    path.write_bytes(struct.pack("<QQQ", 0x112, 0, 2) + 2 * array_bytes(np.ones(3, F)) + struct.pack("<Q", 0))
    assert list(read_params(path)) == ["0", "1"]


def head(count: int) -> bytes:
    return struct.pack("<QQQ", 0x112, 0, count)


ONE = array_bytes(np.ones(3, F))
NAME = struct.pack("<QQ", 1, 1) + b"a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x12\x01" + bytes(3), "does not begin as one|ends within its mark"),
        (head(1), "has 1 arrays|says that it has 1 arrays, in 0 bytes"),
        (head(1 << 60) + ONE, "says that it has 1152921504606846976 arrays, in"),
        (head(2) + ONE, "ends within array 1"),
        (head(1) + ONE[:-1], "ends within array 0"),
        (head(1) + ONE + struct.pack("<Q", 2) + NAME[8:] * 2, "has 1 arrays and 2 names"),
        (head(2) + ONE * 2 + struct.pack("<Q", 2) + NAME[8:] * 2, "holds two arrays called 'a'"),
        (head(1) + ONE + NAME + b"x", "has 1 bytes behind its names"),
        (head(1) + ONE + struct.pack("<QQ", 1, 1 << 62) + b"a", "ends within a name"),
        (head(1) + ONE + struct.pack("<QQ", 1, 1) + b"\xff", "has a name that is no text"),
        (head(1) + struct.pack("<I", 65) + bytes(400), "says that array 0 has 65 dimensions"),
        (head(1) + struct.pack("<I", 0) + NAME, "array 0 has no numbers"),
        (head(1) + struct.pack("<Ii", 0xF993FACA, 0) + struct.pack("<i", -1) + NAME, "array 0 has no numbers"),
        (head(1) + struct.pack("<Iii", 0xF993FAC9, 1, 2) + bytes(99), "array 0 is sparse \\(storage type 1\\)"),
        (head(1) + struct.pack("<Iii2q", 0xF993FAC9, 0, 2, 1 << 40, 1 << 40) + bytes(99), "dimensions beyond all memory"),
        (head(1) + struct.pack("<Iii1q", 0xF993FAC9, 0, 1, -3) + bytes(99), "a negative dimension"),
        (head(1) + struct.pack("<Iii1qiii", 0xF993FAC9, 0, 1, 1 << 40, 1, 0, 0) + NAME, "ends within array 0"),
        (head(1) + struct.pack("<IIiii", 1, 1, 1, 0, 99) + bytes(9), "holds the unknown type 99"),
    ],
)  # fmt: skip
def test_damaged_parameters(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "net-0000.params"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_params(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting"),
        ("[]", "it has no list of nodes"),
        ('{"nodes": [3], "heads": [[0, 0]]}', "node 0 has no op and name"),
        (
            '{"nodes": [{"op": "null", "name": "x", "inputs": [[0, 0]]}], "heads": [[0, 0]]}',
            "inputs of node x are none of nodes",
        ),
        (
            '{"nodes": [{"op": "null", "name": "x", "inputs": [], "attrs": {"a": 3}}], "heads": [[0, 0]]}',
            "are no texts by name",
        ),
        ('{"nodes": [{"op": "null", "name": "x", "inputs": []}], "heads": [[1, 0]]}', "its heads are none of its nodes"),
        ('{"nodes": [{"op": "null", "name": "x", "inputs": []}], "heads": []}', "its heads are none of its nodes"),
        ('{"nodes": ' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_damaged_symbols(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "net-symbol.json"
    path.write_text(content)
    (tmp_path / "net-0000.params").write_bytes(head(1) + ONE + NAME)
    with pytest.raises(SourceError, match=message):
        read_source(path)

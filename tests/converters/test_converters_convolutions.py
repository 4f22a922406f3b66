"""Convolutional networks in TensorFlow's files, against the scores that the frameworks gave."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import DATA, unpack
from refusals import assert_resolvable

import xnorinfer
from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.errors import NetworkError, OptionError
from xnorinfer.net import reference
from xnorinfer.net.ops import Norm, Pool, Steps
from xnorinfer.net.values import PixelInput
from xnorinfer.net.windows import Window
from xnorinfer.proof.frameworks import open_program

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

ARCHIVE = DATA / "tf" / "convolutions.tar.xz"
RANGE = {"input": PixelInput.range(-1, 1)}
ROWS = 24
LARQ = ("same", "valid", "stem", "line", "zeros", "head")
FILES = [
    *(f"{name}.{ending}" for name in LARQ for ending in ("h5", "keras", "pb", "tflite")),
    *("pixels.h5", "pixels.keras", "same_saved", "port.keras", "port.h5", "vgg", "vgg.pb", "first.pb", "lce.tflite"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(ARCHIVE, tmp_path_factory.mktemp("convolutions"))


def read(path: Path) -> Reading:
    if path.suffix in (".h5", ".keras"):
        pytest.importorskip("h5py", reason="Keras's files are read through h5py")
    return read_source(path, ConvertOptions() if path.stem == "port" else ConvertOptions(**RANGE))


@pytest.mark.parametrize("file", FILES)
def test_scores_are_the_frameworks(folder: Path, file: str) -> None:
    name = file.partition(".")[0].partition("_")[0]
    with np.load(folder / "outputs.npz") as outputs:
        x, wanted = outputs[f"{name}/x"], outputs[f"{name}/scores"]
    reading = read(folder / file)
    assert reading.net.shape == (1, *x.shape[1:])[-3:]
    assert reading.channels_first == (name == "first")
    scores = reference.forward(reading.net, x.reshape(len(x), -1))
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-5)


PACKED = ("same.keras", "valid.pb", "stem.h5", "line.tflite", "zeros.keras", "pixels.h5", "vgg", "port.keras", "lce.tflite")


@pytest.mark.parametrize("file", PACKED)
def test_packed_networks_are_equal_to_the_exact_one(folder: Path, file: str) -> None:
    name = file.partition(".")[0]
    with np.load(folder / "outputs.npz") as outputs:
        x = outputs[f"{name}/x"]
    net = read(folder / file).net
    model = xnorinfer.convert(folder / file, input=net.input) if name != "port" else xnorinfer.convert(folder / file)
    wanted = reference.forward(net, x.reshape(len(x), -1))
    np.testing.assert_array_equal(model.scores(x).reshape(wanted.shape), wanted)


@pytest.mark.parametrize("file", ["same.keras", "head.h5", "valid.pb", "line.tflite", "same_saved", "vgg"])
def test_the_frameworks_run_them(folder: Path, file: str) -> None:
    if any(importlib.util.find_spec(package) is None for package in ("tensorflow", "tf_keras", "larq")):
        pytest.skip("tensorflow, tf_keras and larq run the files")
    name = file.partition(".")[0].partition("_")[0]
    options = ConvertOptions(**RANGE)
    reading = read_source(folder / file, options)
    program = open_program(folder / file, reading, options)
    with np.load(folder / "outputs.npz") as outputs:
        x = outputs[f"{name}/x"]
    assert program is not None
    assert program.shape == x.shape[1:]
    scores, given = reference.forward(reading.net, x.reshape(len(x), -1)), program.run(x.reshape(len(x), -1))
    if name == "same":  # gives a softmax
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(given, scores, rtol=1e-5, atol=1e-5)


def test_what_is_read(folder: Path) -> None:
    net = read(folder / "same.keras").net
    first, second, third, fourth, head = (layer for _, layer in net.linears)
    assert first.window == Window((3, 3)).same(9, 7)
    assert second.window == Window((3, 2), (2, 2)).same(4, 3)
    assert second.window is not None
    assert second.window.padding == (0, 1, 0, 1)
    assert (third.pad, fourth.pad, second.pad) == (1, -1, 0)
    assert head.window is None
    assert [type(node.op).__name__ for node in net.nodes[:4]] == ["Linear", "Pool", "Norm", "Quantize"]
    net = read(folder / "valid.h5").net
    assert [layer.groups for _, layer in net.linears] == [1, 2, 8, 1, 1]
    assert [layer.weight.shape for _, layer in net.linears][:3] == [(8, 3, 2, 1), (8, 2, 2, 4), (16, 2, 2, 1)]
    assert [layer.window.dilation for _, layer in net.linears if layer.window][1] == (2, 1)
    kinds = [node.op.kind for node in net.nodes if isinstance(node.op, Pool)]
    assert kinds == ["max", "average"]
    zeros = [layer for _, layer in read(folder / "zeros.pb").net.linears]
    assert (zeros[1].pad, zeros[1].window) == (1, Window((3, 3), padding=(1, 1, 2, 2)))
    port = [layer for _, layer in read(folder / "port.keras").net.linears]
    assert [layer.h for layer in port] == [float(np.float32(np.sqrt(1.5 / (9 * 11)))), 0.5, 1.0]
    assert [layer.rule for layer in port] == ["round-even", "round-even", None]


def test_models_with_their_channels_first(folder: Path, tmp_path: Path) -> None:
    """The same weights, and a Flatten that puts the channels last: the same scores."""
    pytest.importorskip("h5py", reason="Keras's files are read through h5py")

    def change(layers: list[dict[str, Any]]) -> None:
        swap("input_1", batch_input_shape=[None, 3, 9, 7])(layers)
        for one in layers:
            one["config"] |= {"data_format": "channels_first"} if "data_format" in one["config"] else {}
            one["config"] |= {"axis": [1]} if one["class_name"] == "BatchNormalization" and one["build_config"] else {}
        layers[-2]["config"]["axis"] = [-1]  # of a vector

    last = read(folder / "same.h5").net
    reading = read(reconfigured(folder, tmp_path, change))
    assert reading.channels_first
    assert reading.net.shape == last.shape == (9, 7, 3)
    with np.load(folder / "outputs.npz") as outputs:
        x = outputs["same/x"].reshape(ROWS, -1)
    np.testing.assert_array_equal(reference.forward(reading.net, x), reference.forward(last, x))


def test_the_graph_of_a_checkpoint_says_everything(folder: Path) -> None:
    reading = read(folder / "vgg")
    assert not any("--h" in text or "--bn-epsilon" in text for text in reading.warnings)
    assert {op.epsilon for op in reading.net.ops if isinstance(op, Norm)} == {1e-4}
    glorot = [float(np.float32(np.sqrt(1.5 / (size * size * (8 + neurons))))) for size, neurons in ((3, 8), (2, 10))]
    assert [layer.h for _, layer in reading.net.linears] == [1.0, *glorot, 1.0, 1.0]
    kinds = [type(op).__name__ for op in reading.net.ops if not isinstance(op, Steps)]  # biases
    assert kinds[3:8] == ["Linear", "Pool", "Norm", "Quantize", "Linear"]
    used = {tensor.name for tensor in reading.tensors if not tensor.ignored}
    assert len(used) == 5 * 6
    assert not any("binary_weight" in name for name in used)


# ---------------------------------------------------------------- ways to spell it in TensorFlow


def signs(*shape: int) -> Any:
    return np.where(np.random.default_rng(math.prod(shape)).random(shape) < 0.5, -1, 1).astype(np.float32)


#: What stands before the sign of a head: of the module of TensorFlow and the input.  Shapes of a sample beside it.
SPELLED: dict[str, tuple[tuple[int, ...], Callable[[Any, Any], Any]]] = {
    "a vector as an image": ((60,), lambda tf, x: tf.nn.conv2d(tf.reshape(x, [-1, 5, 4, 3]), signs(2, 3, 3, 8), 1, "SAME")),
    "by its rows": (
        (60,),
        lambda tf, x: tf.nn.conv2d(tf.reshape(x, [tf.shape(x)[0], 5, 4, 3]), signs(2, 3, 3, 8), 1, "SAME"),
    ),
    "no axis of channels": ((9, 8), lambda tf, x: tf.nn.conv2d(tf.expand_dims(x, -1), signs(3, 2, 1, 6), 1, "SAME")),
    "transposed": ((3, 9, 8), lambda tf, x: tf.nn.conv2d(tf.transpose(x, [0, 2, 3, 1]), signs(3, 2, 3, 6), 1, "SAME")),
    "flattened with channels first": (
        (9, 8, 3),
        lambda tf, x: tf.transpose(tf.nn.conv2d(x, signs(3, 2, 3, 6), 1, "SAME"), [0, 3, 1, 2]),
    ),
    "dilations": ((9, 8, 2), lambda tf, x: tf.nn.conv2d(x, signs(2, 3, 2, 8), 1, "SAME", dilations=[2, 1])),
    "explicit padding": (
        (9, 8, 2),
        lambda tf, x: tf.nn.conv2d(x, signs(3, 3, 2, 8), [1, 2, 1, 1], [[0, 0], [1, 2], [0, 1], [0, 0]]),
    ),
    "padded before": (
        (9, 8, 2),
        lambda tf, x: tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 0], [0, 2], [0, 0]]), signs(3, 3, 2, 8), 2, "VALID"),
    ),
    "average": ((9, 8, 2), lambda tf, x: tf.nn.avg_pool2d(tf.nn.conv2d(x, signs(3, 3, 2, 8), 1, "VALID"), 3, 2, "SAME")),
    "lines": ((9, 4), lambda tf, x: tf.nn.conv1d(x, signs(3, 2, 8), 2, "SAME")),
    "depthwise": (
        (9, 8, 3),
        lambda tf, x: tf.nn.depthwise_conv2d(x, signs(3, 2, 3, 2), [1, 1, 1, 1], "VALID", dilations=[2, 2]),
    ),
    "a matrix for every pixel": (
        (9, 8, 3),
        lambda tf, x: tf.nn.max_pool2d(
            tf.tensordot(tf.sign(tf.nn.conv2d(x, signs(3, 2, 3, 6), 1, "VALID") - 0.2), signs(6, 4), [[3], [0]]), 2, 2, "SAME"
        ),
    ),
    "groups": ((9, 8, 4), lambda tf, x: tf.nn.conv2d(x, signs(3, 2, 2, 6), 1, "SAME")),
    "a mapping of each channel": (
        (9, 8, 3),
        lambda tf, x: tf.nn.conv2d((x - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.2], signs(3, 2, 3, 6), 1, "VALID"),
    ),
    "the largest of maps": ((9, 8, 3), lambda tf, x: tf.reduce_max(tf.nn.conv2d(x, signs(3, 2, 3, 6), 1, "VALID"), [1, 2])),
    "means that are kept": (
        (9, 8, 3),
        lambda tf, x: tf.squeeze(tf.reduce_mean(tf.nn.conv2d(x, signs(3, 2, 3, 6), 1, "SAME"), [1, 2], keepdims=True), [1, 2]),
    ),
}


def frozen(work: Path, shape: tuple[int, ...], build: Callable[[Any, Any], Any]) -> tuple[Path, Any, Any]:
    """A graph with a head, in a file, pixels, and the scores that TensorFlow makes of them."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed")
    import tensorflow

    tf1 = tensorflow.compat.v1
    pixels = np.random.default_rng(3).integers(0, 256, (16, *shape), dtype=np.uint8)
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        x = tf1.placeholder(tensorflow.float32, [None, *shape])
        value = build(tensorflow, x) - 0.3
        value = tensorflow.reshape(value, [-1, math.prod(int(size) for size in value.shape[1:])])
        bits = tensorflow.where(value >= 0, tensorflow.ones_like(value), -tensorflow.ones_like(value))
        scores = tensorflow.matmul(bits, signs(int(value.shape[1]), 5))
        wanted = session.run(scores, {x: (pixels / 127.5 - 1).astype(np.float32)})
    (work / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    return work / "net.pb", pixels, wanted


@pytest.mark.parametrize("case", SPELLED)
def test_ways_to_spell_a_convolution(tmp_path: Path, case: str) -> None:
    path, pixels, wanted = frozen(tmp_path, *SPELLED[case])
    reading = read_source(path, ConvertOptions(**RANGE))
    assert reading.channels_first == (case == "transposed")
    np.testing.assert_array_equal(reference.forward(reading.net, reading.as_network(pixels)), wanted)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda tf, x: x + tf.nn.conv2d(x, signs(3, 3, 2, 2), 1, "SAME"), "joins the input itself, before the first layer"),
        (lambda tf, x: tf.nn.conv2d(tf.nn.max_pool2d(x, 2, 2, "SAME"), signs(3, 3, 2, 2), 1, "SAME"), "pools the input itself"),
        (lambda tf, x: tf.nn.conv2d(x, x[0, :2, :2, :, None], 1, "SAME"), "StridedSlice.* is not supported"),
        (lambda tf, x: tf.image.resize(tf.nn.conv2d(x, signs(3, 3, 2, 2), 1, "SAME"), [4, 4]), "Resize.* is not supported"),
    ],
)
def test_graphs_that_are_no_network(tmp_path: Path, build: Any, message: str) -> None:
    path, *_ = frozen(tmp_path, (6, 5, 2), build)
    with pytest.raises(NetworkError, match=message):
        read_source(path)


# ---------------------------------------------------------------- without a graph or a config


def test_a_checkpoint_without_its_graph_lists_what_is_missing(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("vgg.[!mp]*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(NetworkError) as error:
        read_source(tmp_path / "vgg")
    (problem,) = error.value.problems
    layers = "conv2d__binary_layer, conv2d__binary_layer_1, conv2d__binary_layer_2"
    for line in (
        "`shape = [HEIGHT, WIDTH, 3]` in [input]",
        f"`stride` and `padding` of {layers}",
        "`pool` of those",
        "vgg.meta",
    ):
        assert line in problem
    shutil.copy(folder / "vgg.meta", tmp_path)
    with pytest.raises(NetworkError, match=r"is read where no option says a part"):
        read_source(tmp_path / "vgg", ConvertOptions(bn_epsilon=1e-4))


def test_a_net_toml_says_what_the_graph_would(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("vgg.[!mp]*"):
        shutil.copy(file, tmp_path)
    names = ["conv2d__binary_layer", "conv2d__binary_layer_1", "conv2d__binary_layer_2", "dense__binary_layer"]
    names += ["dense__binary_layer_1"]
    said = ["", 'h = "glorot"\npool = {kind = "max", size = 2, after = "sum"}', "", "", ""]
    said[2] = said[1] + '\npadding = "valid"'
    text = (
        'profile = "tf1-round"\nlayout = "in_out"\nkernel_layout = "HWIO"\nflatten = "channels_last"\nstride = 1\n'
        'padding = "same"\nepsilon = 1e-4\nignore = ["*/binary_weight"]\n[input]\nrange = [-1, 1]\nshape = [10, 8, 3]\n'
    )
    for index, (name, lines) in enumerate(zip(names, said, strict=True)):
        norm = f"batch_normalization{f'_{index}' if index else ''}"
        parts = {"mean": "moving_mean", "variance": "moving_variance", "gamma": "gamma", "beta": "beta"}
        table = ", ".join(f'{key} = "{norm}/{part}"' for key, part in parts.items())
        text += f'[[layers]]\nweight = "{name}/kernel"\nbias = "{name}/bias"\nnorm = {{{table}}}\n{lines}\n'
    reading = read_source(tmp_path / "vgg", ConvertOptions(net=text))
    with np.load(folder / "outputs.npz") as outputs:
        x, wanted = outputs["vgg/x"], outputs["vgg/scores"]
    np.testing.assert_allclose(reference.forward(reading.net, x.reshape(len(x), -1)), wanted, rtol=1e-5, atol=1e-5)


def test_weights_alone_list_what_is_missing(folder: Path) -> None:
    pytest.importorskip("h5py", reason="Keras's files are read through h5py")
    with pytest.raises(NetworkError, match=r"`stride` and `padding` of quant_conv2d, quant_conv2d_1"):
        read_source(folder / "same_names.h5")


# ---------------------------------------------------------------- what is no network

Change = Callable[[list[dict[str, Any]]], Any]


def swap(name: str, **config: Any) -> Change:
    return lambda layers: next(one["config"] for one in layers if one["config"]["name"] == name).update(config)


def put(index: int, kind: str, **config: Any) -> Change:
    return lambda layers: layers.insert(index, {"class_name": kind, "config": {"name": f"new_{kind.lower()}", **config}})


def reconfigured(folder: Path, work: Path, change: Change) -> Path:
    with zipfile.ZipFile(folder / "same.keras") as archive:
        model = json.loads(archive.read("config.json"))
    change(model["config"]["layers"])
    shutil.copy(folder / "same_names.h5", work / "net.h5")
    (work / "net.json").write_text(json.dumps(model))
    return work / "net.h5"


REFUSED: dict[str, tuple[Change, str]] = {
    "stride of 0": (swap("quant_conv2d", strides=[0, 1]), r"has the strides \[0, 1\], needed are 2 whole numbers above 0"),
    "dilation of 0": (swap("quant_conv2d", dilation_rate=0), r"has the dilation_rate 0"),
    "a stride of text": (swap("quant_conv2d", strides="two"), r"has the strides 'two'"),
    "another size": (
        swap("quant_conv2d", kernel_size=[5, 5]),
        r"kernel of the shape \(3, 3, 3, 8\), needed is \(5, 5, channels",
    ),
    "groups of 3": (swap("quant_conv2d_1", groups=3), r"has 3 groups, by which 8 channels and 10 neurons cannot be divided"),
    "groups of 2": (swap("quant_conv2d_1", groups=2), r"takes 16 channels in 2 groups, and reads a map of 8"),
    "a strange padding": (swap("quant_conv2d", padding="reflect"), r"has the padding 'reflect'"),
    "causal in two dimensions": (swap("quant_conv2d", padding="causal"), r"causal padding, which 1-D convolutions alone have"),
    "half a pad value": (swap("quant_conv2d_2", pad_values=0.5), r"has the pad_values 0.5, needed is 0, 1 or -1"),
    "a pad value beside reals": (swap("quant_conv2d", pad_values=1.0), r"quant_conv2d .* padded with 1, needed is 0"),
    "a window too large": (
        swap("quant_conv2d_3", padding="valid", strides=1),
        r"window that reaches over 2x3 pixels.* of 2x2",
    ),
    "a pool too large": (swap("max_pooling2d", pool_size=[12, 2]), r"max_pooling2d .* reaches over 12x2 pixels.* of 9x7"),
    "a pool of nothing": (swap("max_pooling2d", pool_size=0), r"has the pool_size 0"),
    "a pool's strides": (swap("max_pooling2d", strides=[1, -1]), r"has the strides \[1, -1\]"),
    "zeros below 0": (put(2, "ZeroPadding2D", padding=[[-1, 0], [0, 0]]), r"has the padding \[\[-1, 0\], \[0, 0\]\]"),
    "a pool of vectors": (put(-2, "MaxPooling2D"), r"new_maxpooling2d .* reads values of 1 axes, needed are 3"),
    "a pool of lines": (put(2, "MaxPooling1D"), r"new_maxpooling1d .* reads values of 3 axes, needed are 2"),
    "a transposed convolution": (put(2, "Conv2DTranspose"), r"new_conv2dtranspose .* is not supported in a binary network"),
    "locally connected": (
        put(2, "QuantLocallyConnected2D"),
        r"new_quantlocallyconnected2d .* is not supported in a binary network",
    ),
    "upsampling": (put(2, "UpSampling2D"), r"new_upsampling2d .* is not supported in a binary network"),
    "an open size": (swap("input_1", batch_input_shape=[None, None, None, 3]), r"--input-shape says it"),
    "other channels": (swap("input_1", batch_input_shape=[None, 9, 7, 1]), r"takes 3 channels, and reads a map of 1"),
    "another size of images": (swap("input_1", batch_input_shape=[None, 20, 20, 3]), r"quant_dense: takes 14 inputs"),
    "no sign": (swap("quant_conv2d_1", input_quantizer=None), r"binary weights and follows quant_conv2d without a sign"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_networks(folder: Path, tmp_path: Path, case: str) -> None:
    pytest.importorskip("h5py", reason="Keras's files are read through h5py")
    change, message = REFUSED[case]
    with pytest.raises(NetworkError, match=message) as error:
        read_source(reconfigured(folder, tmp_path, change))
    assert_resolvable(error.value)
    assert len(error.value.problems) == 1


def test_an_option_says_the_size_of_images(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="Keras's files are read through h5py")
    path = reconfigured(folder, tmp_path, swap("input_1", batch_input_shape=[None, None, None, 3]))
    net = read_source(path, ConvertOptions(input_shape=(9, 7, 3), **RANGE)).net
    with np.load(folder / "outputs.npz") as outputs:
        x, wanted = outputs["same/x"], outputs["same/scores"]
    np.testing.assert_allclose(reference.forward(net, x.reshape(len(x), -1)), wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(OptionError, match=r"--input-shape 9,7,1: net\.h5 says that its input is"):
        read_source(path, ConvertOptions(input_shape=(9, 7, 1), **RANGE))

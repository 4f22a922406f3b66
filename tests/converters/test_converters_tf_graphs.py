"""TensorFlow networks read by their graphs, against the scores that TensorFlow gave."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import require_told
from onnx_writer import field, number
from places import DATA, unpack

import xnorinfer
from xnorinfer.converters import ConvertOptions, files_of, read_source
from xnorinfer.converters.containers.protowire import Message
from xnorinfer.converters.containers.tfbundle import read_table, read_text, read_v2
from xnorinfer.converters.tfgraphs.tfmodel import OBJECT_GRAPH
from xnorinfer.converters.tfgraphs.tfnodes import tensor
from xnorinfer.errors import NetworkError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.values import PixelInput

ARCHIVE = DATA / "tf" / "graphs.tar.xz"
RANGE = {"input": PixelInput.range(-1, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(ARCHIVE, tmp_path_factory.mktemp("tf"))


def recorded(folder: Path, name: str) -> tuple[Any, Any]:
    """Pixels and the scores of a network."""
    with np.load(folder / "outputs.npz") as outputs:
        return outputs["x"], outputs[name]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        *((file, "training") for file in ("training", "training.pb", "training_saved", "training_saved/saved_model.pb")),
        ("top_level", "top_level"),
        ("top_level.meta", "top_level"),
        ("module", "module"),
        *((f"larq{end}", "larq") for end in ("", ".pb", "_weights", "_objects", "_objects.index")),
        *((f"relu{end}", "relu") for end in ("", ".pb")),
    ],
)
def test_scores_are_tensorflows(folder: Path, file: str, name: str) -> None:
    x, wanted = recorded(folder, name)
    reading = read_source(folder / file, ConvertOptions(**RANGE))
    scores = reference.forward(reading.net, x)
    np.testing.assert_array_equal(scores.argmax(axis=1), wanted.argmax(axis=1))
    if name == "module":  # gives a softmax
        scores = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, wanted, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(xnorinfer.convert(folder / file, **RANGE).predict(x), wanted.argmax(axis=1))


@pytest.mark.parametrize("file", ["top_level", "training_saved", "module", "larq", "larq_objects"])
def test_every_variable_is_noted_once(folder: Path, file: str) -> None:
    reading = read_source(folder / file, ConvertOptions(**RANGE))
    prefix = folder / file if (folder / f"{file}.index").exists() else folder / file / "variables" / "variables"
    assert sorted(tensor.name for tensor in reading.tensors) == sorted(read_v2(prefix))
    assert all(tensor.use for tensor in reading.tensors)


def test_what_the_graph_says_is_told(folder: Path) -> None:
    told = {a.what: (a.value, a.origin) for a in read_source(folder / "training.pb", ConvertOptions(**RANGE)).assumptions}
    assert told["network"] == ("as the graph computes its scores at inference", "graph")
    assert told["Dropout"] == ("left out", "graph")
    assert "Dropout" not in {a.what for a in read_source(folder / "module", ConvertOptions(**RANGE)).assumptions}


def test_the_files_of_a_saved_model_belong_together(folder: Path) -> None:
    names = {file.name for file in files_of(folder / "module" / "saved_model.pb")}
    assert {"saved_model.pb", "variables.index", "variables.data-00000-of-00001"} <= names


def test_without_its_graph_the_hints_describe_the_network(folder: Path, tmp_path: Path) -> None:
    for suffix in ("index", "data-00000-of-00001"):
        shutil.copy(folder / f"top_level.{suffix}", tmp_path)
    with pytest.raises(NetworkError) as error:
        read_source(tmp_path / "top_level")
    text = str(error.value)
    assert "ignore" not in text
    assert 'steps = [{mul = "fc1_b/scale_factor"}]' in text
    described = 'profile = "ge-zero"\nlayout = "in_out"\nignore = ["Variable"]\n[input]\nrange = [-1, 1]\n'
    for index in (1, 2):
        described += f'[[layers]]\nweight = "W_{index}"\nsteps = [{{norm = {{mean = "norm{index}/moving_mean", variance = '
        described += f'"norm{index}/moving_variance", epsilon = 1e-4, form = "tf"}}}}, {{mul = "fc{index}_b/scale_factor"}}]\n'
    described += '[[layers]]\nweight = "W_out"\nbias = "b_out"\nsteps = [{mul = "factor"}]\n'
    x, wanted = recorded(folder, "top_level")
    scores = xnorinfer.convert(tmp_path / "top_level", net=described).scores(x)
    np.testing.assert_array_equal(scores.argmax(axis=1), wanted.argmax(axis=1))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x0a\x05ab", "damaged or no graph"), (b"\x0a\x00", "could not be told"), (b"\x12\x00", "holds no nodes")],
)
def test_damaged_graphs(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "net.pb").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_source(tmp_path / "net.pb")


def test_a_graph_without_its_variables_names_them(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    shutil.copy(folder / "module" / "saved_model.pb", tmp_path / "model")
    with pytest.raises(SourceError, match=r"variable .* has no value.*no variables lie beside it"):
        read_source(tmp_path / "model")


@pytest.mark.parametrize("file", ["training.pb", "module/saved_model.pb"])
def test_any_cut_or_flipped_byte_is_found_or_harmless(folder: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree((folder / file).parent, tmp_path / "work")
    path = tmp_path / "work" / Path(file).name
    require_told(path, path.read_bytes(), seed=3, count=15)


#: Types of constants, by their numbers: the field of their numbers, and 1.5 (whole ones: 3) as it is written there.
CONSTANTS = {
    "float16": (19, 13, 0x3E00),
    "bfloat16": (14, 13, 0x3FC0),
    "int32": (3, 7, 3),
    "int64": (9, 10, 3),
    "uint8": (4, 7, 3),
    "uint16": (17, 7, 3),
    "uint32": (22, 16, 3),
    "uint64": (23, 17, 3),
}


@pytest.mark.parametrize("kind", CONSTANTS)
def test_constants_of_every_type(kind: str) -> None:
    """One number that stands for all, as TensorFlow writes the constants of a graph."""
    type_number, place, written = CONSTANTS[kind]
    shape = b"".join(field(2, field(1, size)) for size in (2, 3))
    content = field(1, type_number) + field(2, shape) + field(place, number(written))
    found = tensor(Message(memoryview(content)))
    assert found is not None
    np.testing.assert_array_equal(found, np.full((2, 3), 1.5 if "float" in kind else 3))
    assert found.dtype == ("float32" if kind == "bfloat16" else kind)


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float64", *(f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32, 64))]
)
def test_constants_are_those_that_tensorflow_writes(dtype: str) -> None:
    tensorflow = pytest.importorskip("tensorflow", reason="writes constants")
    for value in (3, [[3, 1], [2, 2]]):
        array = tensorflow.cast(tensorflow.constant(value), dtype).numpy()
        written = tensorflow.make_tensor_proto(array, dtype).SerializeToString()
        found = tensor(Message(memoryview(written)))
        np.testing.assert_array_equal(found, array.astype(np.float64))


@pytest.mark.parametrize("file", ["larq_objects", "larq_weights", "module/variables/variables"])
def test_a_flipped_bit_of_the_object_graph_is_found(folder: Path, tmp_path: Path, file: str) -> None:
    """It says which variable belongs to which layer: its CRC is looked at as a tensor's is."""
    shutil.copytree((folder / file).parent, tmp_path / "work")
    prefix = tmp_path / "work" / Path(file).name
    entry = Message(dict(read_table(prefix.with_name(f"{prefix.name}.index")))[OBJECT_GRAPH.encode()])
    (data,) = prefix.parent.glob(f"{prefix.name}.data-*")
    content = data.read_bytes()
    whole = read_text(prefix, OBJECT_GRAPH)
    assert content[entry.integer(4) :][: entry.integer(5)].endswith(whole)
    for position in np.random.default_rng(4).integers(0, entry.integer(5), 40).tolist():
        damaged = bytearray(content)
        damaged[entry.integer(4) + position] ^= 1 << position % 8
        data.write_bytes(damaged)
        with pytest.raises(SourceError, match="damaged"):
            read_text(prefix, OBJECT_GRAPH)


def relu_network(folder: Path, activation: Any) -> tuple[Path, Any]:
    """A checkpoint whose variables are called as those of BinaryNet's port are, with something else between its layers."""
    tensorflow = pytest.importorskip("tensorflow", reason="writes a checkpoint with its graph")
    tf1, rng = tensorflow.compat.v1, np.random.default_rng(5)
    x = rng.integers(0, 256, (60, 10), dtype=np.uint8)
    with tf1.Graph().as_default(), tf1.Session() as session:
        inputs = value = tf1.placeholder(tensorflow.float32, [None, 10])
        for index, (depth, width) in enumerate(((10, 9), (9, 5))):
            suffix = f"_{index}" if index else ""
            kernel = tf1.get_variable(
                f"dense{suffix}/kernel", initializer=rng.uniform(-1, 1, (depth, width)).astype(np.float32)
            )
            value = tensorflow.matmul(value, tensorflow.sign(kernel))
            if not index:
                value = activation(tensorflow, value)
                with tf1.variable_scope("batch_normalization"):
                    start = {"moving_mean": rng.uniform(-2, 2, 9), "moving_variance": rng.uniform(4, 9, 9)}
                    mean, variance = (tf1.get_variable(n, initializer=v.astype(np.float32)) for n, v in start.items())
                value = tensorflow.sign(tensorflow.nn.batch_normalization(value, mean, variance, None, None, 1e-4))
        session.run(tf1.global_variables_initializer())
        scores = session.run(value, {inputs: (x / 127.5 - 1).astype(np.float32)})
        tf1.train.Saver().save(session, str(folder / "net"))
    return folder / "net", (x, scores)


def test_what_names_do_not_say_is_taken_from_the_graph(tmp_path: Path) -> None:
    path, (x, scores) = relu_network(tmp_path, lambda tf, value: tf.nn.relu(value))
    reading = read_source(path, ConvertOptions(**RANGE))
    np.testing.assert_array_equal(reference.forward(reading.net, x), scores)
    assert any("suggest another network than the graph net.meta computes" in warning for warning in reading.warnings)
    path, _ = relu_network(tmp_path, lambda tf, value: tf.nn.softsign(value))
    with pytest.raises(NetworkError):
        read_source(path, ConvertOptions(**RANGE))


SPELLED = """
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

rng = np.random.default_rng(0)
kernels = [rng.choice([-1.0, 1.0], shape).astype("f") for shape in [(20, 16), (16, 12), (12, 5)]]
shifts = [rng.normal(size=n).astype("f") * 3 for n in (16, 12)]
as_float, as_whole = (lambda v: tf.cast(v, tf.float32)), (lambda v: tf.cast(v, tf.int32))
before = {
    "cut": lambda v: as_float(as_whole(v / 3)),
    "cut_clipped": lambda v: as_float(tf.clip_by_value(as_whole(v), -1, 1)),
    "flag": lambda v: as_float(tf.cast(tf.nn.relu(v), tf.bool)) - 0.5,
    "half": lambda v: as_float(tf.cast(v, tf.float16)),
    "both": lambda v: as_float(tf.logical_and(v > -2.0, v > 1.0)) - 0.5,
    "not": lambda v: as_float(tf.logical_not(v < 2.0)) - 0.5,
    "largest": lambda v: tf.reduce_max(v, axis=1, keepdims=True) + tf.zeros_like(v),
}
pixels = rng.integers(0, 256, (200, 20)).astype(np.uint8)
outputs = {"x": pixels}
for name, function in before.items():
    def net(value):
        for index, kernel in enumerate(kernels):
            value = tf.matmul(value, tf.constant(kernel))
            if index < 2:
                value = function(value + shifts[index])
                value = tf.where(value >= 0, tf.ones_like(value), -tf.ones_like(value))
        return value

    traced = tf.function(net).get_concrete_function(tf.TensorSpec((None, 20), tf.float32))
    outputs[name] = traced(tf.constant(pixels / np.float32(127.5) - 1)).numpy()
    open(name + ".pb", "wb").write(convert_variables_to_constants_v2(traced).graph.as_graph_def().SerializeToString())
    one = tf.function(net).get_concrete_function(tf.TensorSpec((1, 20), tf.float32))
    open(name + ".tflite", "wb").write(tf.lite.TFLiteConverter.from_concrete_functions([one]).convert())
np.savez("outputs.npz", **outputs)
function, module = before["cut"], tf.Module()
module.net = tf.function(lambda value: tf.argmax(net(value), axis=0))
signature = module.net.get_concrete_function(tf.TensorSpec((None, 20), tf.float32))
tf.saved_model.save(module, "samples", signatures=signature)
window = rng.choice([-1.0, 1.0], (3, 3, 2, 5)).astype("f")
for axis in (2, 3):
    module.net = tf.function(lambda value: tf.argmax(tf.nn.conv2d(value, tf.constant(window), 1, "VALID"), axis=axis))
    signature = module.net.get_concrete_function(tf.TensorSpec((None, 6, 7, 2), tf.float32))
    tf.saved_model.save(module, f"axis{axis}", signatures=signature)
"""


@pytest.fixture(scope="module")
def spelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs tensorflow")
    place = tmp_path_factory.mktemp("spelled")
    subprocess.run([sys.executable, "-c", SPELLED], cwd=place, check=True, capture_output=True)
    return place


@pytest.mark.parametrize("ending", ["pb", "tflite"])
@pytest.mark.parametrize("name", ["cut", "cut_clipped", "flag", "both", "not"])
def test_types_and_logic_before_a_sign(spelled: Path, name: str, ending: str) -> None:
    x, wanted = recorded(spelled, name)
    reading = read_source(spelled / f"{name}.{ending}", ConvertOptions(**RANGE))
    np.testing.assert_allclose(reference.forward(reading.net, x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ending", ["pb", "tflite"])
@pytest.mark.parametrize(("name", "reason"), [("half", "something else than float32"), ("largest", "is not supported")])
def test_what_is_no_function_of_each_value_is_named(spelled: Path, name: str, reason: str, ending: str) -> None:
    with pytest.raises(NetworkError, match=rf"node (Cast|Max) \(.*{reason}"):
        read_source(spelled / f"{name}.{ending}", ConvertOptions(**RANGE))


def test_an_argmax_of_samples_or_lines_is_no_end_of_a_network(spelled: Path) -> None:
    with pytest.raises(NetworkError, match=r"\(ArgMax\) takes the axis 0, not that of the channels"):
        read_source(spelled / "samples", ConvertOptions(**RANGE))
    with pytest.raises(NetworkError, match=r"\(ArgMax\) takes the axis 2, not that of the channels"):
        read_source(spelled / "axis2", ConvertOptions(**RANGE))
    assert read_source(spelled / "axis3", ConvertOptions(**RANGE)).net.shape == (6, 7, 2)

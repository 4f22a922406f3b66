"""Files that hold a whole program, run by their own framework beside the reference; and why others cannot be."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_files
import numpy as np
import places
import pytest
import test_converters_onnx as graphs
from command_line import fine
from networks import INPUTS, random_inputs, random_network
from real_networks import checkpoint

from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.engine.model import random_inputs as random_samples
from xnorinfer.errors import MissingExtraError
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Norm, Quantize
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput
from xnorinfer.packing.lower import lower
from xnorinfer.proof.agreement import Agreement, compare
from xnorinfer.proof.frameworks import NotRunnable, framework_answers, open_program
from xnorinfer.proof.frameworks.program import Program, input_shape, require

F = np.float32


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


def told(path: Path, rows: int = 200, **options: Any) -> Agreement:
    """What the framework of a file says about random samples."""
    given = ConvertOptions(**options)
    reading = read_source(path, given)
    packed = lower(reading.net).packed
    return compare(framework_answers(path, reading, given, random_samples(packed, rows, 1)), reading.net, packed)


def assert_agrees(found: Agreement, name: str, compared: str = "scores", rows: int = 200) -> None:
    assert found.run is not None
    assert (found.run.program, found.run.framework, found.compared, found.rows) == (True, name, compared, rows)
    assert found.unexplained == 0
    assert found.different == found.by_rounding
    assert found.other_bits <= rows // 50


# ---------------------------------------------------------------- what is counted, with programs written here


def program_of(net: Net, change: Callable[[Any], Any] = lambda scores: scores) -> Program:
    """The exact reference as a program; raw samples are its input."""

    def call(x: Any) -> Any:
        return change(forward(net, x.astype(np.int64) if net.input.kind == "signs" else x))

    return Program("oracle", "1", net.input, None, (net.depth,), call)


def compared(program: Program, net: Net, x: Any) -> Agreement:
    return compare(program.answers("net", x), net, lower(net).packed)


def network(name: str = "signs") -> tuple[Net, Any]:
    net = random_network(31, [40, 50, 45, 6], INPUTS[name])
    return net, random_inputs(np.random.default_rng(1), net.input, 300, 40)


def softmax(scores: Any) -> Any:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True), dtype=F)
    return powers / powers.sum(axis=1, keepdims=True)


OUTPUTS: dict[str, Callable[[Any], Any]] = {
    "scores": lambda scores: scores,
    "softmax": softmax,
    "log_softmax": lambda scores: np.log(softmax(scores.astype(np.float64))).astype(F),
    "classes": lambda scores: scores.argmax(axis=1)[:, None],
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_kind_of_output_agrees_with_itself(kind: str) -> None:
    net, x = network()
    found = compared(program_of(net, OUTPUTS[kind]), net, x)
    assert (found.compared, found.rows, found.different, found.other_bits, found.unexplained) == (kind, 300, 0, 0, 0)
    assert found.largest_score_difference == (0 if kind == "scores" else None)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_another_network_is_unexplained(kind: str) -> None:
    net, x = network()
    first, (name, norm), *rest = net.named
    assert isinstance(norm, Norm)
    mean = norm.mean.copy()
    mean[:20] += 6
    other = Net.chain(net.input, [first, (name, dataclasses.replace(norm, mean=mean)), *rest], net.profile)
    found = compared(program_of(other, OUTPUTS[kind]), net, x)
    different = int((forward(net, x).argmax(axis=1) != forward(other, x).argmax(axis=1)).sum())
    assert found.different == different > 0
    assert found.unexplained >= (1 if kind == "classes" else different)
    assert f"; {found.unexplained} unexplained" in found.text()


def with_means(net: Net, change: Callable[[Any], Any]) -> Net:
    """Three neurons of the second layer reach their threshold exactly, at sums of 2, the others never come near to it."""
    place = [index for index, layer in enumerate(net.ops) if isinstance(layer, Quantize)][1]
    dense, norm, sign = net.ops[place - 2 : place + 1]
    assert isinstance(dense, Linear)
    assert isinstance(norm, Norm)
    assert isinstance(sign, Quantize)
    assert dense.depth % 2 == 0
    chosen = np.arange(dense.neurons) < 3
    mean = np.where(chosen, change(F(2)), F(2.5)).astype(F)
    even = dataclasses.replace(dense, bias=None)
    norm = dataclasses.replace(norm, mean=mean, gamma=np.ones_like(mean), beta=np.zeros_like(mean))
    changed = dict(zip(net.ops[place - 2 : place + 1], [even, norm, dataclasses.replace(sign, rule="ge")], strict=True))
    return net.mapped(lambda op: changed.get(op, op))


@pytest.mark.parametrize("kind", OUTPUTS)
def test_bits_that_fall_otherwise_at_a_tie_are_explained(kind: str) -> None:
    net, x = network()
    ours, theirs = with_means(net, lambda mean: mean), with_means(net, lambda mean: np.nextafter(mean, F(3)))
    expected = (forward(ours, x) != forward(theirs, x)).any(axis=1)
    classes = forward(ours, x).argmax(axis=1) != forward(theirs, x).argmax(axis=1)
    found = compared(program_of(theirs, OUTPUTS[kind]), ours, x)
    assert found.unexplained == 0
    assert found.by_rounding == found.different == classes.sum() > 0
    assert found.other_bits == (classes if kind == "classes" else expected).sum()


def test_what_is_no_inference_cannot_be_run() -> None:
    net, _ = network()
    rng = np.random.default_rng(0)
    require(program_of(net), net)
    for change in (lambda scores: scores - scores.mean(axis=0), lambda scores, rng=rng: scores + rng.random(scores.shape)):
        with pytest.raises(NotRunnable, match="random or depend on the samples beside"):
            require(program_of(net, change), net)
    with pytest.raises(NotRunnable, match=r"it gives float32 \(8, 3\), needed are scores \(8, 6\)"):
        require(program_of(net, lambda scores: scores[:, :3]), net)


def test_shapes_of_inputs() -> None:
    assert input_shape([None, 12], 12) == (None, (12,))
    assert input_shape([1, 1, 3, 4], 12) == (1, (1, 3, 4))
    assert input_shape([None, None, 3], 12) == (None, (4, 3))
    for dims in ([None], [None, 11], [None, None, None], [None, None, 5]):
        with pytest.raises(NotRunnable, match="which samples of 12 values do not fill"):
            input_shape(dims, 12)


# ---------------------------------------------------------------- ONNX


def qonnx_graph(tmp_path: Path) -> Path:
    g = graphs.Graph(3)
    g.add("Mul", graphs.TWO).add("Sub", graphs.ONE).add("BipolarQuant", np.array(1, F))
    g.add("MatMul", g.signs(24, 17))
    g.norm(17)
    g.add("BipolarQuant", np.array(1, F)).add("MatMul", g.signs(17, 5))
    return g.write(tmp_path)


def with_domains(path: Path) -> Path:
    """As exporters write it: versions of operations, and where those of QONNX come from."""
    import onnx

    model = onnx.load(str(path))
    for node in model.graph.node:
        node.domain = "qonnx.custom_op.general" if node.op_type == "BipolarQuant" else ""
    model.opset_import.add(domain="", version=13)
    onnx.save(model, str(path))
    return path


def test_a_missing_framework_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = qonnx_graph(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"--framework for net\.onnx needs the package onnx: pip install onnx$"):
        open_program(path, read_source(path), ConvertOptions())


@needs("onnx", "qonnx")
def test_tfc_in_qonnx(mnist_folder: Path) -> None:
    assert_agrees(told(checkpoint(mnist_folder, "tfc_1w1a/TFC_1W1A.onnx")), "onnx with qonnx")


@needs("onnx", "torch")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fixed", [False, True], ids=["any batch", "exported for 2"])
def test_an_export_of_torch_in_onnx(tmp_path: Path, fixed: bool) -> None:
    import test_converters_torch_programs as programs
    import torch

    net = programs.build()
    axes = None if fixed else {"x": {0: "batch"}}
    how: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": axes, "dynamo": False}
    torch.onnx.export(net, (programs.EXAMPLE,), str(tmp_path / "net.onnx"), **how)
    assert_agrees(told(tmp_path / "net.onnx"), "onnx")


# ---------------------------------------------------------------- PyTorch's programs


@needs("torch")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["scripted", "traced", "exported"])
def test_programs_of_torch(tmp_path: Path, how: str) -> None:
    import test_converters_torch_programs as programs

    float_head = how in ("traced", "exported")
    path = programs.save(how, programs.build(float_head=float_head), tmp_path)
    assert_agrees(told(path), "torch", "log_softmax" if float_head else "scores")


# ---------------------------------------------------------------- Keras


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("h5py")
    return places.unpack(keras_files.MODELS, tmp_path_factory.mktemp("keras"))


@needs("tf_keras", "larq")
@pytest.mark.parametrize("file", ["larq.h5", "larq.keras", "float_head.keras", "input_sign.h5", "magnitude.h5"])
def test_larq_models(models: Path, file: str) -> None:
    assert_agrees(told(models / file), "tf_keras", "softmax" if file.startswith("larq") else "scores")


@needs("keras", "tensorflow")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.long
def test_a_keras_3_model_with_its_own_rescaling(models: Path) -> None:
    """The file's classes are code that lies elsewhere: a file whose script has registered them."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    code = (
        "import sys, json, keras_checkpoints as k\n"
        "from pathlib import Path\n"
        "from test_programs import told\n"
        "k.keras3.saving.register_keras_serializable()(k.binary_dense(k.keras3))\n"
        "k.keras3.saving.register_keras_serializable()(k.binary_tanh)\n"
        "print(json.dumps(told(Path(sys.argv[1])).to_json()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(models / "port3.keras")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert_agrees(Agreement.from_json(json.loads(done.stdout.splitlines()[-1])), "keras", "softmax")


@needs("torch", "keras")
@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("port3.keras", "Could not locate class 'BinaryDense'"),
        ("larq_names.h5", "it holds weights without a config"),
        ("larq_json.weights.h5", "it holds weights without a config"),
    ],
)
def test_keras_files_that_cannot_be_run_are_run_layer_by_layer(models: Path, file: str, why: str) -> None:
    found = told(models / file)
    assert found.run is not None
    assert (found.run.framework, found.run.program, found.run.original, found.unexplained) == ("torch", False, False, 0)
    assert why in str(found.run.instead)
    assert found.text().startswith(f"not possible for the file itself: {found.run.instead}; layer by layer, torch")


# ---------------------------------------------------------------- TensorFlow 1


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tf1")
    done = subprocess.run(
        [sys.executable, str(places.TOOLS / "tf1_checkpoints.py"), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@needs("tensorflow", "tf_keras")
@pytest.mark.parametrize("name", ["net", "layers"])
def test_graphs_of_tensorflow_1(checkpoints: Path, name: str) -> None:
    """`layers` takes the moments of the batch unless its flag is False, and has an optimizer behind its scores."""
    assert_agrees(told(checkpoints / name), "tensorflow")


@needs("torch")
@pytest.mark.parametrize(("name", "why"), [("nograph", "there is no graph nograph.meta beside it")])
def test_checkpoints_of_tensorflow_1_that_cannot_be_run(name: str, why: str) -> None:
    found = told(places.DATA / "tf1" / name)
    assert found.run is not None
    assert (found.run.program, found.run.instead) == (False, why)


@needs("tensorflow", "torch")
def test_a_graph_that_tensorflow_cannot_import() -> None:
    """The committed one is reduced to what the converter reads."""
    found = told(places.DATA / "tf1" / "net")
    assert found.run is not None
    assert str(found.run.instead).startswith("tensorflow refuses it: ")


@pytest.fixture(scope="module")
def tensorflow_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tf")
    for name in ("graphs", "tflite"):
        places.unpack(places.DATA / "tf" / f"{name}.tar.xz", folder)
    return folder


@needs("tensorflow")
@pytest.mark.parametrize(
    ("file", "framework", "compared"),
    [
        ("larq.pb", "tensorflow", "scores"),
        ("module", "tensorflow", "softmax"),
        ("larq", "tensorflow", "scores"),
        ("dense.tflite", "tensorflow-lite", "scores"),
    ],
)
def test_graphs_and_models_of_tensorflow(tensorflow_files: Path, file: str, framework: str, compared: str) -> None:
    assert_agrees(told(tensorflow_files / file, input=PixelInput.range(-1, 1)), framework, compared)


@needs("tensorflow", "torch")
@pytest.mark.parametrize(
    ("file", "why"), [("training.pb", "tensorflow refuses it: "), ("larq_conv.tflite", "unresolved custom op: LceQuantize")]
)
def test_graphs_of_tensorflow_that_cannot_be_run(tensorflow_files: Path, file: str, why: str) -> None:
    found = told(tensorflow_files / file)
    assert found.run is not None
    assert why in str(found.run.instead)


# ---------------------------------------------------------------- the command


@needs("onnx", "qonnx")
def test_the_command_and_its_certificate(tmp_path: Path) -> None:
    path = with_domains(qonnx_graph(tmp_path))
    fine("convert", path, "-o", tmp_path / "m")
    out = tmp_path / "c.json"
    text = " ".join(fine("verify", tmp_path / "m", path, "--framework", "--rows", 50, "--certificate", out).split())
    assert "ran the file itself on 50 samples: 0 predictions differ; the scores agree within rounding in 50 samples" in text
    kept = json.loads(out.read_text())["framework"]
    assert (kept["framework"], kept["rows"], kept["program"]) == ("onnx with qonnx", 50, True)
    assert kept["version"]

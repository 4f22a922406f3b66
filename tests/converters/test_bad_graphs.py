"""Graphs that are none, or none of one network, as every kind of file can say them: all that is wrong is listed with names."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mxnet_files
import numpy as np
import onnx_writer
import pytest
from command_line import fine, run
from refusals import assert_resolvable

import xnorinfer
from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.converters.containers.onnxfile import OnnxNode
from xnorinfer.converters.graphs.structure import circles, in_order, told_outputs
from xnorinfer.errors import NetworkError, OptionError, XnorinferError
from xnorinfer.net import reference
from xnorinfer.net.values import PixelInput

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # for Larq, before anything imports TensorFlow
pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks that write files
F = np.float32
#: How each source writes a network of some kind into a folder.
WRITERS: dict[str, Callable[[Path, str], Path]] = {}
Writer = Callable[[Path, str], Path]


def writes(name: str) -> Callable[[Writer], Writer]:
    def register(writer: Writer) -> Writer:
        WRITERS[name] = writer
        return writer

    return register


# ---------------------------------------------------------------- networks of two heads, and what is wrong with them


def signs(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).choice(np.array([-1, 1], F), shape)


@writes("onnx")
def onnx_file(folder: Path, kind: str) -> Path:
    add = onnx_writer.node
    constants = {"w": signs(8, 3, 3, 3), "u": signs(8, 8, 3, 3), "f": signs(6 * 6 * 8, 4), "g": signs(6 * 6 * 8, 3)}
    constants |= {"half": np.full((8, 1, 1), 0.5, F), "zero": np.zeros((), F), "one": np.ones((), F), "minus": -np.ones((), F)}

    def sign(value: str, result: str) -> list[bytes]:
        compared = add("GreaterOrEqual", [value, "zero"], f"{result}?")
        return [compared, add("Where", [f"{result}?", "one", "minus"], result)]

    nodes = [add("Conv", ["x", "w"], "a", pads=(1, 1, 1, 1)), add("Add", ["a", "half"], "b"), *sign("b", "s")]
    nodes += [add("Conv", ["s", "u"], "c", pads=(1, 1, 1, 1)), add("Add", ["c", "half"], "d")]
    value = "d"
    if kind in ("unknown", "known"):
        one, two = ("Det", "Loop") if kind == "unknown" else ("Tanh", "Tanh")
        nodes += [add(one, ["d"], "e"), add(two, ["b"], "h"), add("Add", ["e", "h"], "i")]
        value = "i"
    elif kind == "unlike":
        constants |= {"from": np.array([0]), "to": np.array([3]), "axis": np.array([2])}
        nodes += [add("Slice", ["b", "from", "to", "axis"], "e"), add("Add", ["d", "e"], "i")]
        value = "i"
    elif kind == "signs":
        nodes += [*sign("d", "e"), *sign("e", "i")]
        value = "i"
    elif kind == "together":
        constants |= {"from": np.array([0]), "to": np.array([3]), "axis": np.array([2])}
        nodes += [
            add("Slice", ["b", "from", "to", "axis"], "e"),
            add("Add", ["d", "e"], "i1"),
            *sign("d", "i2"),
            *sign("i2", "i3"),
        ]
        nodes += [add("Conv", ["i3", "u"], "i4", pads=(1, 1, 1, 1)), add("Det", ["d"], "i5"), add("Loop", ["b"], "i6")]
        nodes += [add("Add", ["i5", "q"], "p"), add("Relu", ["p"], "q"), add("Sum", ["i1", "i4", "i5", "i6", "q"], "i")]
        value = "i"
    elif kind == "circle":
        nodes += [add("Det", ["d"], "r"), add("Add", ["r", "q"], "p"), add("Relu", ["p"], "q"), add("Loop", ["q"], "i")]
        value = "i"
    nodes += [*sign(value, "t"), add("Flatten", ["t"], "v")]
    nodes += [add("MatMul", ["v", "f"], "first"), add("MatMul", ["v", "g"], "second")]
    given = {
        "outputs": ["first", "second"],
        "dangling": ["first", "nowhere"],
        "together": ["first", "nowhere"],
        "twice": ["first", "first"],
    }.get(kind, ["first"])
    shape = ("rows", 3, "height", 6) if kind == "open" else ("rows", 3, 6, 6)
    if kind == "shuffled":
        nodes.reverse()
    path = onnx_writer.write(folder / "net.onnx", nodes, constants, given[0], shape=shape)
    if len(given) > 1:
        onnx = pytest.importorskip("onnx")
        model = onnx.load(str(path))
        model.graph.output.append(onnx.helper.make_tensor_value_info(given[1], 1, None))
        path.write_bytes(model.SerializeToString())
    return path


def torch_module(kind: str) -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            nn = torch.nn
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.f, self.g = nn.Linear(6 * 6 * 8, 4), nn.Linear(6 * 6 * 8, 3)
            self.b.weight.data = torch.sign(self.b.weight.data)

        def forward(self, x: Any) -> Any:
            def sign(value: Any) -> Any:
                return torch.where(value >= 0, 1.0, -1.0)

            a = self.a(x)
            b = self.b(sign(a))
            if kind == "unknown":
                b = torch.cumsum(b, 1) + torch.erfinv(a)
            elif kind == "known":
                b = torch.tanh(b) + torch.tanh(a)
            elif kind == "unlike":
                b = b + a[:, :, :1, :1]
            elif kind == "signs":
                b = sign(sign(b))
            elif kind == "together":
                b = b + a[:, :, :1, :1] + self.b(sign(sign(b))) + torch.cumsum(b, 1) + torch.erfinv(a)
            v = sign(b).flatten(1)
            return (self.f(v), self.g(v)) if kind == "outputs" else self.f(v)

    return Network().eval()


@writes("torch.export")
def export_file(folder: Path, kind: str) -> Path:
    torch = pytest.importorskip("torch")
    x = torch.rand(2, 3, 6, 6)
    module = torch_module(kind)
    dynamic = None
    if kind == "open":
        module.f = module.g = torch.nn.Identity()
        dynamic = ({0: torch.export.Dim("rows"), 2: torch.export.Dim("height", min=4, max=64)},)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=dynamic), folder / "net.pt2")
    return folder / "net.pt2"


@writes("TorchScript")
def script_file(folder: Path, kind: str) -> Path:
    torch = pytest.importorskip("torch")
    module = torch_module(kind)
    if kind == "open":
        chain = torch.nn.Sequential(module.a, torch.nn.Sigmoid(), torch.nn.Flatten(), module.f)
        torch.jit.script(chain).save(str(folder / "net.pt"))
    else:
        torch.jit.trace(module, torch.rand(2, 3, 6, 6), strict=False).save(str(folder / "net.pt"))
    return folder / "net.pt"


def keras_model(kind: str) -> Any:
    keras = pytest.importorskip("tf_keras")
    larq = pytest.importorskip("larq")
    layers, quant = keras.layers, larq.layers
    keras.utils.set_random_seed(0)
    x = keras.Input((None, 6, 3) if kind == "open" else (6, 6, 3))
    a = layers.BatchNormalization(name="na")(layers.Conv2D(8, 3, padding="same", name="a")(x))

    def unit(name: str, value: Any, inner: Any = "ste_sign") -> Any:
        layer = quant.QuantConv2D(8, 3, padding="same", input_quantizer=inner, kernel_quantizer="ste_sign", name=name)
        return layers.BatchNormalization(name=f"n{name}")(layer(value))

    b = unit("b", a)
    if kind in ("unknown", "known"):
        unit_, up = (layers.Activation("tanh", name=name) for name in ("unit", "up"))
        if kind == "unknown":
            unit_, up = layers.UnitNormalization(name="unit"), layers.UpSampling2D(1, name="up")
        b = layers.Add(name="both")([unit_(b), layers.GaussianNoise(0.1)(a)])
        b = layers.Add(name="more")([b, up(a)])
    elif kind == "unlike":
        b = layers.Add(name="sum")([b, layers.GlobalAveragePooling2D(keepdims=True, name="mean")(a)])
    elif kind == "signs":
        b = unit("c", larq.quantizers.SteSign()(b))
    elif kind == "together":
        again = larq.quantizers.SteSign(name="two")(larq.quantizers.SteSign(name="one")(b))
        mean = layers.GlobalAveragePooling2D(keepdims=True, name="mean")(a)
        unknown = layers.Add(name="both")([layers.UnitNormalization(name="unit")(b), layers.UpSampling2D(1, name="up")(a)])
        b = layers.Add(name="all")([layers.Add(name="sum")([b, mean]), unit("c", again), unknown])
    v = layers.GlobalAveragePooling2D(name="pool")(unit("d", b))
    first, second = (layers.Dense(n, name=name)(v) for n, name in ((4, "first"), (3, "second")))
    model = keras.Model(x, [first, second] if kind == "outputs" else first)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):  # no sum is 0 where a framework rounds it to something else
            layer.set_weights([rng.uniform(0.5, 1.5, array.shape).astype(F) for array in layer.get_weights()])
    return model


@writes("Keras")
def keras_file(folder: Path, kind: str) -> Path:
    keras_model(kind).save(folder / "net.keras")
    return folder / "net.keras"


@writes("SavedModel")
def saved_model(folder: Path, kind: str) -> Path:
    pytest.importorskip("tensorflow").saved_model.save(keras_model(kind), str(folder / "net"))
    return folder / "net"


@writes("frozen")
def frozen_file(folder: Path, kind: str) -> Path:
    tensorflow = pytest.importorskip("tensorflow")
    convert = pytest.importorskip("tensorflow.python.framework.convert_to_constants")
    spec = tensorflow.TensorSpec((None, 6, 6, 3))
    traced = tensorflow.function(keras_model(kind).call).get_concrete_function(spec)
    graph = convert.convert_variables_to_constants_v2(traced).graph.as_graph_def()
    (folder / "net.pb").write_bytes(graph.SerializeToString())
    return folder / "net.pb"


@writes("TensorFlow Lite")
def tflite_file(folder: Path, kind: str) -> Path:
    tensorflow = pytest.importorskip("tensorflow")
    (folder / "net.tflite").write_bytes(tensorflow.lite.TFLiteConverter.from_keras_model(keras_model(kind)).convert())
    return folder / "net.tflite"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The file of a source and a kind, written once: TensorFlow takes seconds for some."""
    return functools.cache(lambda source, kind: WRITERS[source](tmp_path_factory.mktemp("network"), kind))


def read(path: Path, **given: Any) -> Reading:
    return read_source(path, ConvertOptions(**{"input": PixelInput.range(-1, 1), **given}))


# ---------------------------------------------------------------- the table

GRAPHS = ("onnx", "torch.export", "TorchScript", "Keras", "SavedModel", "TensorFlow Lite")
UNLIKE = r"\(Add\) adds values 6 x 6 x 8 and \d x \d x 8 and not two of one shape"
AGAIN = (r"node \S+ \(Where\) makes signs of what is signs already, by node \S+ \(Where\).*--sign-of-signs",)
OF_TENSORFLOW = (
    r"up/resize/ResizeNearestNeighbor \(ResizeNearestNeighbor\) is not",
    *(rf"unit/l2_normalize/{name} \({name}\) is not" for name in ("Sum", "Rsqrt")),
)
#: What is wrong -> source -> what each of its problems says; () where the network is one all the same.
WRONG: dict[str, dict[str, tuple[str, ...]]] = {
    "plain": dict.fromkeys(GRAPHS, ()),
    "signs": {
        "onnx": AGAIN * 2,
        **dict.fromkeys(("torch.export", "TorchScript"), AGAIN * 2),
        **dict.fromkeys(("Keras", "SavedModel", "TensorFlow Lite"), ()),  # a layer makes signs of whatever it reads
    },
    "unlike": dict.fromkeys(GRAPHS, (UNLIKE,)),
    "open": dict.fromkeys(GRAPHS, (r"reads a map whose size is not known: .*--input-shape says it",)),
    "unknown": {
        "onnx": (r"node Det_e \(Det\) is not supported", r"node Loop_h \(Loop\) is not supported"),
        "torch.export": (r"node cumsum7 \(cumsum\) is not", r"node erfinv8 \(erfinv\) is not"),
        "TorchScript": (r"node cumsum7 \(cumsum\) is not", r"node erfinv8 \(erfinv\) is not"),
        "Keras": (r"unit \(UnitNormalization\)", r"up \(UpSampling2D\) is not supported"),
        **dict.fromkeys(("SavedModel", "frozen"), OF_TENSORFLOW),
        "TensorFlow Lite": (
            r"/up/.*\(TFLite operator 97 RESIZE_NEAREST_NEIGHBOR\) is not",
            r"/unit/l2_normalize \(TFLite operator 11 L2_NORMALIZATION\) is not",
        ),
    },
    "outputs": {
        **dict.fromkeys(
            ("onnx",), (r"output.* none is computed from all others.*--output-name first or --output-name second",)
        ),
        **dict.fromkeys(("torch.export", "TorchScript"), (r"--output-name 0 or --output-name 1 takes one of them",)),
        "Keras": (r"gives the values of first, second; .*--output-name first or --output-name second takes one",),
        "SavedModel": (r"output.* none is computed from all others.*--output-name first or --output-name second takes one",),
        "frozen": (r"output.* none is computed.*--output-name first/BiasAdd or --output-name second/BiasAdd takes one",),
        "TensorFlow Lite": (r"--output-name 'StatefulPartitionedCall:1' or --output-name 'StatefulPartitionedCall:0'",),
    },
    "circle": {  # what is wrong behind it is told, too
        "onnx": (
            r"in a circle, .*: Add_p -> Relu_q -> Add_p$",
            r"node Det_r \(Det\) is not supported",
            r"node Loop_i \(Loop\) is not supported",
        )
    },
    "dangling": {"onnx": (r"the output nowhere is nothing that the graph computes; --output-name first takes one of them",)},
    "twice": {"onnx": (r"the graph gives first 2 times among its outputs: is malformed",)},
    "together": {  # of each kind that a source can have in one file
        "onnx": (
            r"in a circle, .*: Add_p -> Relu_q -> Add_p$",
            r"the output nowhere is nothing that the graph computes",
            r"node Loop_i6 \(Loop\) is not supported",
            r"node Add_i1 \(Add\) adds values 6 x 6 x 8 and 3 x 6 x 8 and not two of one shape",
            r"node Det_i5 \(Det\) is not supported",
            r"node Where_i3 \(Where\) makes signs of what is signs already, by node Where_i2 \(Where\)",
        ),
        **dict.fromkeys(
            ("torch.export", "TorchScript"),
            (UNLIKE, *AGAIN, r"node cumsum\d+ \(cumsum\) is not", r"node erfinv\d+ \(erfinv\) is not"),
        ),
        "Keras": (
            r"unit \(UnitNormalization\): UnitNormalization is not",
            r"up \(UpSampling2D\) is not",
            r"sum \(Add\) adds values 6 x 6 x 8 and 1 x 1 x 8",
            r"two \(SteSign\).* makes signs of what is signs already, by one \(SteSign\)",
        ),
        **dict.fromkeys(
            ("SavedModel", "frozen"),
            (
                *OF_TENSORFLOW,
                r"two/Sign \(Sign\) makes signs of what is signs already, by node \S*one/Sign_1 \(Sign\)",
                r"sum/add \(Add\) adds values 6 x 6 x 8 and 1 x 1 x 8",
            ),
        ),
        "TensorFlow Lite": (  # its converter takes signs of signs away
            r"/up/.*\(TFLite operator 97\b.*\) is not",
            r"/sum/add \(Add\) adds values 6 x 6 x 8 and 1 x 1 x 8",
            r"/unit/l2_normalize \(TFLite operator 11\b.*\) is not",
        ),
    },
    "shuffled": {"onnx": ()},
}


@pytest.mark.parametrize(("kind", "source"), [(kind, source) for kind, found in WRONG.items() for source in found])
def test_all_that_is_wrong_is_told(kind: str, source: str, tmp_path: Path, written: Callable[[str, str], Path]) -> None:
    path = written(source, kind)
    wanted = WRONG[kind][source]
    if not wanted:
        reading = read(path)
        assert ("order of the nodes" in [one.what for one in reading.assumptions]) == (kind == "shuffled")
        return
    with pytest.raises(NetworkError) as caught:
        read(path)
    assert len(caught.value.problems) == len(wanted)
    for problem, pattern in zip(caught.value.problems, wanted, strict=True):
        assert re.search(pattern, problem), problem
    if kind not in ("circle", "dangling", "together"):
        assert_resolvable(caught.value)
    done = run("convert", path, "-o", tmp_path / "m.safetensors")
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("source", GRAPHS)
def test_one_of_several_outputs(source: str, tmp_path: Path, written: Callable[[str, str], Path]) -> None:
    """Each of both heads, as its framework computes it; what leads to the other alone is left out."""
    path = written(source, "outputs")
    names = {"torch.export": "01", "TorchScript": "01"}.get(source, ("first", "second"))
    if source == "TensorFlow Lite":
        names = ("StatefulPartitionedCall:0", "StatefulPartitionedCall:1")
    classes = []
    for name in names:
        reading = read(path, output_name=name)
        classes.append(reading.net.classes)
        assert not [one for one in reading.warnings if "output" in one]
        out = tmp_path / f"{len(classes)}.safetensors"
        fine("convert", path, "-o", out, "--output-name", name, "--input-range", "-1:1")
        text = fine("verify", out, path, "--rows", 5, "--framework")
        assert "5" in text
    assert sorted(classes) == [3, 4]
    with pytest.raises(OptionError, match=r"^--output-name third: .* gives"):
        read(path, output_name="third")
    if source != "onnx":  # whose unused head is passed over in silence: nothing gives it
        return
    (use,) = (use for use in read(path, output_name="first").tensors if use.name == "g")
    assert use.ignored


@pytest.mark.parametrize("source", GRAPHS)
@pytest.mark.parametrize("kind", ["plain", "outputs"])
def test_output_is_the_file_and_no_value(
    kind: str, source: str, tmp_path: Path, written: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others choose values by options of that name; a file of the same name is written where its ending says that it is one."""
    path = written(source, kind)
    monkeypatch.chdir(tmp_path)
    several = kind == "outputs"
    try:
        (name, *_) = names = [*read(path).outputs]
    except NetworkError as error:
        names = sorted(told_outputs(str(error)))
        name = names[0]
    assert len(names) == 1 + several
    if "/" in name:  # which is where no folder is
        return
    told = run("convert", path, "--output", name, "--input-range", "-1:1")
    assert told.exit_code == 2
    assert f"--output {name}: is a value that the graph gives" in told.stderr
    assert f"-o OUT.safetensors, and --output-name {name}" in " ".join(told.stderr.split())
    assert not Path(name).exists()
    chosen = ["--output-name", name] if several else []
    assert f"--output {name}: is a value" in run("convert", path, "-o", name, *chosen, "--input-range", "-1:1").stderr
    fine("convert", path, "-o", f"{name}.safetensors", *chosen, "--input-range", "-1:1")


def test_live_models_of_several_outputs() -> None:
    x = (np.random.default_rng(0).integers(0, 256, (5, 3, 6, 6)) / 255).astype(F)
    module = torch_module("outputs")
    for place, classes in (("0", 4), ("1", 3)):
        assert xnorinfer.from_torch(module, example=x, output_name=place).scores(x[:2]).shape == (2, classes)
    with pytest.raises(NetworkError, match=r'output_name="0" or output_name="1" takes one of them'):
        xnorinfer.from_torch(module, example=x)
    model = keras_model("outputs")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    for name, classes in (("first", 4), ("second", 3)):
        made = xnorinfer.from_keras(model, example=pixels, output_name=name, input_range=(-1, 1))
        assert made.scores(pixels).shape == (5, classes)
    with pytest.raises(OptionError, match=r"third.*: Functional gives first, second"):
        xnorinfer.from_keras(model, output_name="third")


@pytest.mark.parametrize("how", ["torch.export", "TorchScript"])
def test_operations_of_others_are_listed_with_all_else(how: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    name = f"listed::{how.replace('.', '_')}"
    of_others = torch.library.custom_op(name, torch.clone, mutates_args=(), schema="(Tensor x) -> Tensor")
    of_others.register_fake(torch.empty_like)

    class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(6, 4)

        def forward(self, x: Any) -> Any:
            a = self.a(x)
            return of_others(a) + torch.erfinv(a)

    module, path, x = Network().eval(), tmp_path / "net.pt2", torch.rand(2, 6)
    if how == "TorchScript":
        torch.jit.trace(module, x).save(str(path))
    else:
        torch.export.save(torch.export.export(module, (x,)), path)
    with pytest.raises(NetworkError) as caught:
        read(path)
    first, second = caught.value.problems
    assert re.search(r"ops\.listed\.\w+.* is not supported", first)
    assert re.search(r"erfinv.* is not supported", second)


@pytest.mark.parametrize(
    ("reads", "message"),
    [("c/QuantConv2D", r"it has a loop: (\S+ -> )+\S+"), ("gone", "a node 'gone' is not there")],
)
def test_what_stands_before_a_loop_is_no_network(reads: str, message: str, tmp_path: Path) -> None:
    """A part of a graph that nothing can run is not taken for one."""
    tensorflow = pytest.importorskip("tensorflow")
    path = frozen_file(tmp_path, "together")
    graph = tensorflow.compat.v1.GraphDef.FromString(path.read_bytes())
    (node,) = (node for node in graph.node if node.name == "one/Sign")
    node.input[0] = reads
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(XnorinferError, match=message):
        read(path)


def test_all_that_is_wrong_with_a_config(tmp_path: Path) -> None:
    """A circle of layers, an output that is none, and what is wrong with layers that neither is behind."""
    path = keras_file(tmp_path, "together")
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(held["config.json"])
    config["config"]["output_layers"] = [["first", 0, 0], ["nowhere", 0, 0]]
    (unlike,) = (layer for layer in config["config"]["layers"] if layer["name"] == "sum")
    unlike["inbound_nodes"] = json.loads(json.dumps(unlike["inbound_nodes"]).replace('"mean"', '"all"'))
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (held | {"config.json": json.dumps(config).encode()}).items():
            archive.writestr(name, data)
    with pytest.raises(NetworkError) as caught:
        read(path)
    wanted = (
        r"gives the values of first, nowhere; one output is supported; --output-name first takes one of them",
        r"all takes the values of sum, which are computed from it",
        r"the model gives the values of nowhere, which no layer is",
        r"unit \(UnitNormalization\): UnitNormalization is not",
        r"up \(UpSampling2D\) is not",
        r"two \(SteSign\).* makes signs of what is signs already, by one \(SteSign\)",
    )
    for problem, pattern in zip(caught.value.problems, wanted, strict=True):
        assert re.search(pattern, problem), problem


def test_all_that_is_wrong_with_a_symbol(tmp_path: Path) -> None:
    """Operators that are not known, sums of unlike shapes, signs of signs, a circle, and heads, several or not there."""
    net = mxnet_files.branching()
    (conv,) = (place for place, node in enumerate(net.nodes) if node["name"] == "conv1")
    end = net.last
    net.add("erfinv", "unknown", [conv])
    net.add("Pooling", "pool", [conv], global_pool=True, pool_type="avg", kernel=(1, 1))
    net.add("elemwise_add", "unlike", [net.last, conv])
    net.add("QActivation", "one", [conv], act_bit=1)
    net.add("QActivation", "two", act_bit=1)
    net.conv("after", signs(4, 4, 3, 3), pad=(1, 1))
    net.add("elemwise_add", "round", [net.last, net.last + 2])
    net.add("LRN", "about")
    path = net.write(tmp_path)
    heads = [[place, 0, 0] for place in (end, net.last, net.last - 4, end + 3, len(net.nodes))]
    path.write_text(
        net.json().replace(f'"heads": [\n    [\n      {net.last},\n      0,\n      0\n    ]\n  ]', f'"heads": {heads}')
    )
    with pytest.raises(NetworkError) as caught:
        read(path, input_shape=None)
    wanted = (
        r"in a circle, .*: round -> about -> round$",
        r"node unknown \(erfinv\) is not supported",
        r"node unlike \(Add\) adds values 1 x 1 x 4 and 5 x 4 x 4 and not two of one shape",
        r"node two \(BipolarQuant\) makes signs of what is signs already, by node one \(BipolarQuant\)",
        r"node round \(elemwise_add\) reads about, which stands behind it: is malformed",
        r"node about \(LRN\) is not supported",
        r"gives fc, about, .*: one output is supported, and node \d+ is none of it; --output-name fc or .* takes one of them",
    )
    for problem, pattern in zip(caught.value.problems, wanted, strict=True):
        assert re.search(pattern, problem), problem


def test_mxnet(tmp_path: Path) -> None:
    """Heads of a symbol; nodes that lead to another are not even read."""
    net = mxnet_files.branching()
    first = net.last
    text = net.json()
    net.add("NoSuchThing", "other", [first])
    path = net.write(tmp_path)
    path.write_text(net.json().replace(f'"heads": [\n    [\n      {net.last}', f'"heads": [[{first}, 0, 0], [{net.last}'))
    name = net.nodes[first]["name"]
    with pytest.raises(NetworkError, match="NoSuchThing") as caught:
        read(path, input_shape=None)
    assert any(f"--output-name {name} or --output-name other takes one of them" in one for one in caught.value.problems)
    assert len(caught.value.problems) == 2
    chosen = read(path, output_name=name)
    path.write_text(text)
    rows = np.random.default_rng(1).integers(0, 256, (3, chosen.net.depth), dtype=np.uint8)
    assert np.array_equal(reference.forward(chosen.net, rows), reference.forward(read(path).net, rows))
    with pytest.raises(OptionError, match=r"--output-name none: .* gives"):
        read(path, output_name="none")


def test_the_option_is_of_graphs(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weight=np.ones((3, 4), F))
    with pytest.raises(XnorinferError, match="--output-name chooses among the values that a graph gives"):
        read_source(tmp_path / "a.npz", ConvertOptions(output_name="x", profile="ge-zero"))
    with pytest.raises(OptionError, match="output name 3 is no name of an output"):
        ConvertOptions(output_name=3)  # type: ignore[arg-type]
    assert ConvertOptions.from_json(ConvertOptions(output_name="x").to_json()) == ConvertOptions(output_name="x")


# ---------------------------------------------------------------- orders and circles


def nodes_of(edges: Sequence[tuple[int, ...]]) -> list[OnnxNode]:
    return [OnnxNode("Add", str(at), tuple(f"v{one}" for one in reads), (f"v{at}",)) for at, reads in enumerate(edges)]


@pytest.mark.parametrize("seed", range(20))
def test_orders_and_circles_of_random_graphs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 12))
    edges = [tuple(int(one) for one in rng.integers(0, count, rng.integers(0, 3))) for _ in range(count)]
    reach = [set(reads) for reads in edges]
    for middle, one in itertools.product(range(count), repeat=2):
        if middle in reach[one]:
            reach[one] |= reach[middle]
    for middle, one in itertools.product(range(count), repeat=2):
        if middle in reach[one]:
            reach[one] |= reach[middle]
    circular = {at for at in range(count) if at in reach[at]}
    ordered, left = in_order(nodes_of(edges))
    assert sorted(int(node.name) for node in ordered) == list(range(count))
    assert {int(node.name) for node in left} == {at for at in range(count) if at in circular or reach[at] & circular}
    sure = [int(node.name) for node in ordered if node not in left]
    assert all(sure.index(read) < place for place, at in enumerate(sure) for read in edges[at])
    found = list(circles(left))
    assert bool(found) == bool(circular)
    for circle in found:
        numbers = [int(node.name) for node in circle]
        assert all(one in edges[after] for one, after in itertools.pairwise([*numbers, numbers[0]]))

"""Signs of what is signs already: refused by name, read by an option, and read where the second sign does something."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet_files
import numpy as np
import onnx_writer
import pytest
from command_line import fine, run
from onnx_writer import node

import xnorinfer
from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.errors import NetworkError, OptionError
from xnorinfer.net import reference
from xnorinfer.net.values import PixelInput

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # for Larq, before anything imports TensorFlow
pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks that write files
F = np.float32
PIXELS = np.random.default_rng(5).integers(0, 256, (20, 6 * 6 * 3), dtype=np.uint8)


def read(path: Path, **given: Any) -> Reading:
    return read_source(path, ConvertOptions(**{"input": PixelInput.range(-1, 1), **given}))


def scores(path: Path, **given: Any) -> Any:
    return reference.forward(read(path, **given).net, PIXELS)


def refused(path: Path, *patterns: str, ran: bool = True) -> None:
    """All problems, by name, and the option reads it; ran: on the command line too."""
    with pytest.raises(NetworkError) as caught:
        read(path)
    assert len(caught.value.problems) == len(patterns), caught.value.problems
    for problem, pattern in zip(caught.value.problems, patterns, strict=True):
        assert re.search(pattern, problem), problem
        assert "--sign-of-signs reads them as one" in problem
    if not ran:
        return
    out = path.parent / "m.safetensors"
    said = ("convert", path, "-o", out, "--input-range", "-1:1")
    done = run(*said)
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    fine(*said, "--sign-of-signs")
    fine("verify", out, path)
    assert (xnorinfer.load(out).scores(PIXELS) == scores(path, sign_of_signs=True)).all()


# ---------------------------------------------------------------- ONNX: how a sign is spelled, and what stands between two

CONSTANTS: dict[str, Any] = {
    "zero": np.zeros((), F), "one": np.ones((), F), "minus": -np.ones((), F), "two": np.full((), 2, F),
    "half": np.full((), 0.5, F), "shift": np.full((8, 1, 1), 0.25, F), "small": np.full((), 0.1, F), "bit": np.ones((), F),
}  # fmt: skip


def where(value: str, name: str) -> list[bytes]:
    return [node("GreaterOrEqual", [value, "zero"], f"{name}?"), node("Where", [f"{name}?", "one", "minus"], name)]


def arithmetic(value: str, name: str) -> list[bytes]:
    steps = [node("GreaterOrEqual", [value, "zero"], f"{name}?"), node("Cast", [f"{name}?"], f"{name}01", to=1)]
    return [*steps, node("Mul", [f"{name}01", "two"], f"{name}02"), node("Sub", [f"{name}02", "one"], name)]


def rounding(value: str, name: str) -> list[bytes]:
    steps = [node("Add", [value, "one"], f"{name}a"), node("Div", [f"{name}a", "two"], f"{name}b")]
    steps += [node("Clip", [f"{name}b", "zero", "one"], f"{name}c"), node("Round", [f"{name}c"], f"{name}d")]
    return [*steps, node("Mul", [f"{name}d", "two"], f"{name}e"), node("Sub", [f"{name}e", "one"], name)]


def one(operation: str, *others: str, **attributes: Any) -> Callable[[str, str], list[bytes]]:
    return lambda value, name: [node(operation, [value, *others], name, **attributes)]


QONNX = "qonnx.custom_op.general"
SIGNS: dict[str, Callable[[str, str], list[bytes]]] = {
    "Where": where,
    "Sub": arithmetic,
    "Round": rounding,
    "Sign": one("Sign"),
    "BipolarQuant": one("BipolarQuant", "one", domain=QONNX),
    "Quant": one("Quant", "one", "zero", "bit", domain=QONNX, signed=1, narrow=0),
}


def network(folder: Path, first: list[bytes], second: list[bytes], channels: int = 8) -> Path:
    """A float layer, BatchNorm-like numbers on which no sum is 0, signs from "b" as "s" and from "s" as "t", a binary layer."""
    rng = np.random.default_rng(0)
    constants = CONSTANTS | {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(F),
        "f": rng.choice(np.array([-1, 1], F), (4, channels, 6, 6)),
    }
    nodes = [node("Conv", ["x", "w"], "a", pads=(1, 1, 1, 1)), node("Add", ["a", "shift"], "b"), *first, *second]
    nodes += [node("Conv", ["t", "f"], "c"), node("Flatten", ["c"], "scores")]
    return onnx_writer.write(folder / "net.onnx", nodes, constants, "scores", shape=("rows", 3, 6, 6))


@pytest.mark.parametrize("again", SIGNS)
@pytest.mark.parametrize("before", SIGNS)
def test_however_both_are_spelled(before: str, again: str, tmp_path: Path) -> None:
    path = network(tmp_path, SIGNS[before]("b", "s"), SIGNS[again]("s", "t"))
    if before == "Sign" and again != "Sign":  # the second says what becomes of 0
        assert not read(path).warnings
        return
    names = [{"Sub": "Sub_{}", "Round": "Sub_{}"}.get(how, f"{how}_{{}}") for how in (before, again)]
    refused(
        path,
        rf"^node {names[1].format('t')} \(\w+\) makes signs of what is signs already, by node {names[0].format('s')} ",
        ran=False,
    )
    alone = network(tmp_path, SIGNS[before]("b", "s"), [node("Identity", ["s"], "t")])
    alone_scores = scores(alone)
    path = network(tmp_path, SIGNS[before]("b", "s"), SIGNS[again]("s", "t"))
    assert (scores(path, sign_of_signs=True) == alone_scores).all()


BETWEEN: dict[str, list[bytes]] = {
    "Identity": [node("Identity", ["s"], "u")],
    "Dropout": [node("Dropout", ["s"], "u")],
    "Reshape": [node("Flatten", ["s"], "r"), node("Reshape", ["r", "sizes"], "u")],
    "Transpose": [node("Transpose", ["s"], "r", perm=(0, 2, 3, 1)), node("Transpose", ["r"], "u", perm=(0, 3, 1, 2))],
    "MaxPool": [node("MaxPool", ["s"], "u", kernel_shape=(3, 3), pads=(1, 1, 1, 1), strides=(1, 1))],
    "Cast": [node("Cast", ["s"], "r", to=6), node("Cast", ["r"], "u", to=1)],
    "Concat": [*where("a", "p"), node("Concat", ["s", "p"], "u", axis=1)],
}


@pytest.mark.parametrize("between", BETWEEN)
def test_through_what_leaves_signs_as_they_are(between: str, tmp_path: Path) -> None:
    channels = 16 if between == "Concat" else 8
    CONSTANTS["sizes"] = np.array([-1, 8, 6, 6])
    path = network(tmp_path, where("b", "s"), [*BETWEEN[between], *where("u", "t")], channels)
    whose = "node Where_s \\(Where\\)" + (" and node Where_p \\(Where\\)" if between == "Concat" else "")
    refused(
        path,
        rf"^node Where_t \(Where\) makes signs of what is signs already, by {whose}: it changes nothing",
        ran=between == "MaxPool",
    )


DIFFERENT: dict[str, list[bytes]] = {
    "Add": [node("Add", ["s", "shift"], "u"), *where("u", "t")],
    "Mul": [node("Mul", ["s", "half"], "u"), *where("u", "t")],
    "of two": [*where("a", "p"), node("Add", ["s", "p"], "u"), *where("u", "t")],
    "0 and 1": [
        node("Greater", ["b", "zero"], "g"),
        node("Cast", ["g"], "u", to=1),
        node("Sub", ["u", "half"], "v"),
        *where("v", "t"),
    ],
    "a nudge": [node("Sign", ["b"], "p"), node("Add", ["p", "small"], "u"), node("Sign", ["u"], "t")],
    "of its own value": [node("Sign", ["b"], "p"), node("Equal", ["p", "zero"], "q"), node("Where", ["q", "one", "p"], "t")],
}


@pytest.mark.parametrize("between", DIFFERENT)
def test_what_does_something_is_read(between: str, tmp_path: Path) -> None:
    path = network(tmp_path, where("b", "s"), DIFFERENT[between])
    assert np.isfinite(scores(path)).all()


def test_each_pair_is_told_once_with_all_else(tmp_path: Path) -> None:
    """A third sign is too many as well; a value that two layers read is told once; and so are other defects."""
    more = [*where("s", "r"), *where("r", "t"), node("Det", ["t"], "d")]
    rng = np.random.default_rng(0)
    constants = CONSTANTS | {"w": rng.normal(size=(8, 3, 3, 3)).astype(F), "f": rng.choice(np.array([-1, 1], F), (4, 8, 6, 6))}
    nodes = [node("Conv", ["x", "w"], "a", pads=(1, 1, 1, 1)), node("Add", ["a", "shift"], "b"), *where("b", "s"), *more]
    nodes += [
        node("Conv", ["t", "f"], "c"),
        node("Conv", ["t", "f"], "e"),
        node("Add", ["c", "e"], "g"),
        node("Add", ["g", "d"], "h"),
    ]
    path = onnx_writer.write(tmp_path / "net.onnx", nodes, constants, "h", shape=("rows", 3, 6, 6))
    with pytest.raises(NetworkError) as caught:
        read(path)
    det, *pairs = sorted(caught.value.problems, key=lambda text: "Det" not in text)
    assert "node Det_d (Det) is not supported" in det
    assert [re.findall(r"Where_\w", text) for text in pairs] == [["Where_r", "Where_s"], ["Where_t", "Where_r"]]


def test_the_option_is_one_of_graphs(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.ones((4, 8), F))
    with pytest.raises(OptionError, match=r"--sign-of-signs is about signs in a graph, and a.npz holds none"):
        read_source(tmp_path / "a.npz", ConvertOptions(sign_of_signs=True, profile="ge-zero"))
    with pytest.raises(OptionError, match="sign_of_signs 3 must be True or False"):
        ConvertOptions(sign_of_signs=3)  # type: ignore[arg-type]
    assert ConvertOptions.from_json(ConvertOptions(sign_of_signs=True).to_json()) == ConvertOptions(sign_of_signs=True)


# ---------------------------------------------------------------- PyTorch: signs that are modules, or within layers


def torch_module(kind: str) -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Sign(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return torch.where(x >= 0, 1.0, -1.0)

    class Binary(torch.nn.Linear):  # type: ignore[misc, name-defined]
        """As many write it: it makes signs of whatever it reads."""

        def forward(self, x: Any) -> Any:
            inner = torch.where(x >= 0, 1.0, -1.0)
            if kind == "within":
                inner = torch.where(inner >= 0, 1.0, -1.0)
            return torch.nn.functional.linear(inner, torch.sign(self.weight), self.bias)

    class Two(torch.nn.Module):  # type: ignore[misc, name-defined]
        """Layers that read one value, each of which makes signs of it, or a sign beside them does."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = Binary(128, 16), Binary(128, 16)
            if kind == "beside":
                plain = torch.nn.Linear(128, 16)
                plain.weight.data = torch.sign(plain.weight.data)
                self.other = torch.nn.Sequential(Sign(), plain)

        def forward(self, x: Any) -> Any:
            return self.one(x) + self.other(x)

    signs = [Sign(), Sign()] if kind == "modules" else [Sign()] if kind in ("its own", "two", "beside") else []
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.Flatten(),
        *signs,
        Two() if kind in ("two", "beside") else Binary(128, 16),
        Sign(),
        Binary(16, 4),
    ).eval()


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *itertools.product(("modules", "its own", "within"), ("torch.export", "TorchScript", "onnx", "live")),
        *itertools.product(("two", "beside"), ("torch.export", "TorchScript", "live")),  # ONNX' exporters compute them once
        ("two", "onnx"),
        ("modules", "dynamo"),
        ("its own", "dynamo"),
    ],
)
def test_modules(kind: str, how: str, tmp_path: Path) -> None:
    """A layer takes any values, and makes signs of them itself; two signs of a layer, or outside it, are too many."""
    torch = pytest.importorskip("torch")
    module = torch_module(kind)
    x = torch.rand(2, 3, 6, 6)
    problem = (
        None
        if kind in ("its own", "two")
        else r"^node \S+ \(Where\) makes signs of what is signs already, by node \S+ \(Where\)"
    )
    if how == "live":
        if problem is None:
            xnorinfer.from_torch(module, example=x)
            return
        with pytest.raises(NetworkError, match=r"sign_of_signs=True reads them as one"):
            xnorinfer.from_torch(module, example=x)
        assert xnorinfer.from_torch(module, example=x, sign_of_signs=True).scores(np.zeros((1, 108), np.uint8)).shape == (1, 4)
        return
    path = tmp_path / "net.bin"
    if how == "torch.export":
        path = path.with_suffix(".pt2")
        torch.export.save(torch.export.export(module, (x,), strict=False), path)
    elif how == "TorchScript":
        path = path.with_suffix(".pt")
        torch.jit.trace(module, x).save(str(path))
    else:
        path = path.with_suffix(".onnx")
        if how == "dynamo":
            pytest.importorskip("onnxscript")
        torch.onnx.export(module, (x,), str(path), dynamo=how == "dynamo")
    if problem is None:
        read(path)
    else:
        refused(path, *[problem] * (2 if kind == "within" else 1), ran=kind == "modules")


def test_the_order_of_tensors_does_not_read_it_instead() -> None:
    """Nothing but forward shows a sign of signs, and the answers are the same without it."""
    torch = pytest.importorskip("torch")

    class Dense(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.bn1, self.fc2 = torch.nn.Linear(36, 32), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 4)
            self.fc1.weight.data, self.fc2.weight.data = (torch.sign(one.weight.data) for one in (self.fc1, self.fc2))

        def forward(self, x: Any) -> Any:
            inner = torch.sign(self.bn1(self.fc1(x)))
            return self.fc2(torch.sign(inner))

    module = Dense().eval()
    with pytest.raises(
        NetworkError, match=r"\(Sign\) makes signs of what is signs already, .*sign_of_signs=True reads them as one"
    ):
        xnorinfer.from_torch(module, example=torch.rand(4, 36))
    assert xnorinfer.from_torch(module, example=torch.rand(4, 36), sign_of_signs=True).info["classes"] == 4


# ---------------------------------------------------------------- Keras and TensorFlow


def keras_model(kind: str) -> Any:
    keras = pytest.importorskip("tf_keras")
    larq = pytest.importorskip("larq")
    layers, quant = keras.layers, larq.layers
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 3))
    value = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, padding="same", name="a")(x))
    value = larq.quantizers.SteSign(name="first")(value)

    def layer(name: str, value: Any, own: Any = "ste_sign") -> Any:
        made = quant.QuantConv2D(8, 3, input_quantizer=own, kernel_quantizer="ste_sign", name=name)(value)
        return layers.BatchNormalization(name=f"after_{name}")(made)

    if kind in ("layers", "pool", "two"):
        value = layers.MaxPool2D(2, name="pool")(value)
    elif kind == "pad":
        value = layers.ZeroPadding2D(1, name="pad")(value)
    elif kind == "joined":
        value = layers.Concatenate(name="both")([value, larq.quantizers.SteSign(name="other")(layers.Conv2D(4, 1)(x))])
    second = larq.quantizers.SteSign(name="second")(value) if kind in ("layers", "beside") else value
    if kind == "layers":
        value = layer("b", second, None)
    elif kind in ("two", "beside"):
        value = layers.Add(name="sum")([layer("b", value), layer("c", second, None if kind == "beside" else "ste_sign")])
    else:
        value = layer("b", value)
    return keras.Model(x, layers.Dense(4, name="head")(layers.Flatten(name="flat")(value)))


def keras_file(folder: Path, kind: str) -> Path:
    keras_model(kind).save(folder / "net.keras")
    return folder / "net.keras"


def saved_model(folder: Path, kind: str) -> Path:
    pytest.importorskip("tensorflow").saved_model.save(keras_model(kind), str(folder / "net"))
    return folder / "net"


def tflite_file(folder: Path, kind: str) -> Path:
    tensorflow = pytest.importorskip("tensorflow")
    (folder / "net.tflite").write_bytes(tensorflow.lite.TFLiteConverter.from_keras_model(keras_model(kind)).convert())
    return folder / "net.tflite"


@pytest.mark.parametrize(
    ("kind", "write"),
    [
        *itertools.product(("layers", "beside", "its own"), (keras_file, saved_model, tflite_file)),
        *itertools.product(("two",), (saved_model, tflite_file)),
        *itertools.product(("pool", "pad", "joined"), (tflite_file,)),
    ],
)
def test_layers_of_keras(write: Callable[[Path, str], Path], kind: str, tmp_path: Path) -> None:
    """What stands between, and exporters that compute once what two layers do, hide no layer; nor do layers hide a sign beside
    them that is too many."""
    path = write(tmp_path, kind)
    if kind == "layers" or (kind == "beside" and write is not tflite_file):  # whose converter takes signs of signs away
        refused(path, r"second\S*.*makes signs of what is signs already, by .*first", ran=kind == "layers")
    else:
        assert np.isfinite(scores(path)).all()


# ---------------------------------------------------------------- MXNet


@pytest.mark.parametrize("kind", ["layers", "its own"])
def test_layers_of_bmxnet(kind: str, tmp_path: Path) -> None:
    made = mxnet_files.Symbol()
    rng = np.random.default_rng(0)
    made.conv("a", rng.normal(size=(8, 3, 3, 3)).astype(F), binary=False, pad=(1, 1))
    made.add("QActivation", "first", act_bit=1)
    made.add("Pooling", "pool", kernel=(2, 2), stride=(2, 2), pool_type="max")
    if kind == "layers":
        made.add("QActivation", "second", act_bit=1)
    made.add("Flatten", "flat")
    made.dense("b", rng.normal(size=(32, 72)).astype(F))
    path = made.write(tmp_path)
    if kind == "its own":
        assert read(path, input_shape=(3, 6, 6)).net.classes == 32
        return
    with pytest.raises(NetworkError) as caught:
        read(path, input_shape=(3, 6, 6))
    (problem,) = caught.value.problems
    assert re.search(r"second .* makes signs of what is signs already, by node first", problem)
    assert read(path, input_shape=(3, 6, 6), sign_of_signs=True).net.classes == 32

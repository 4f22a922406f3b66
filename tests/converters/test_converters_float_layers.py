"""Dense float layers in front of binary ones and between them, in every source that says which layers are binary.

`f` is a float layer, `b` a binary one: the scores of what is read are the oracle's, bit for bit, and the framework's, up to the
rounding of its float sums.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_npz
from mxnet_files import Symbol

import xnorinfer
from xnorinfer.conversion import Conversion, convert_file
from xnorinfer.converters import from_torch_module
from xnorinfer.converters.nettoml.writer import net_text
from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.errors import NetworkError
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
pytestmark = pytest.mark.filterwarnings("ignore")

f = np.float32
KINDS = ("fbbf", "fbb", "bfbb", "ffbf", "fb")
WIDTHS = (24, 40, 33, 20)
RANGE = PixelInput.range(-1, 1)
PIXELS = np.random.default_rng(1).integers(0, 256, (60, WIDTHS[0]), dtype=np.uint8)
INPUTS = (PIXELS / 127.5 - 1).astype(f)


def sizes(kind: str) -> list[tuple[int, int]]:
    """Inputs and neurons of every layer."""
    return list(itertools.pairwise([*WIDTHS[: len(kind)], 5]))


def norms(kind: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    return [
        {
            "mean": rng.normal(size=neurons).astype(f),
            "variance": (rng.uniform(0.2, 1, neurons) * (depth if one == "b" else 1)).astype(f),
            "gamma": rng.normal(size=neurons).astype(f),
            "beta": rng.normal(size=neurons).astype(f),
        }
        for one, (depth, neurons) in zip(kind, sizes(kind), strict=True)
    ]


def weights(kind: str) -> list[Any]:
    rng = np.random.default_rng(4)
    return [rng.uniform(-0.3, 0.3, (neurons, depth)).astype(f) for depth, neurons in sizes(kind)]


def equal(read: Reading | Conversion, kind: str, answers: Any) -> Any:
    """The scores of what was read."""
    net = read.net if isinstance(read, Reading) else read.reading.net
    assert "".join("b" if op.binary else "f" for _, op in net.linears) == kind
    scores = xnorinfer.pack(net, threads=1).scores(PIXELS)
    assert np.array_equal(scores, forward(net, PIXELS))
    assert np.abs(scores - answers).max() < 1e-4
    assert (scores.argmax(axis=1) == answers.argmax(axis=1)).all()
    return scores


# ---------------------------------------------------------------- PyTorch


def module(kind: str) -> Any:
    """As torch.nn.Sequential runs it, the class of binary layers in the place of `Linear`."""
    torch = pytest.importorskip("torch")

    def sign(x: Any) -> Any:
        return torch.where(x >= 0, 1.0, -1.0)

    class Binary(torch.nn.Linear):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return torch.nn.functional.linear(x, sign(self.weight), self.bias)

    class Sign(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return sign(x)

    found: list[Any] = []
    for index, (one, weight, norm) in enumerate(zip(kind, weights(kind), norms(kind), strict=True)):
        if index:
            found.append(Sign() if one == "b" else torch.nn.Hardtanh())
        layer = (Binary if one == "b" else torch.nn.Linear)(*weight.T.shape)
        batch = torch.nn.BatchNorm1d(len(weight))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            for parameter, name in (
                ("weight", "gamma"),
                ("bias", "beta"),
                ("running_mean", "mean"),
                ("running_var", "variance"),
            ):
                getattr(batch, parameter).copy_(torch.from_numpy(norm[name]))
        found += [layer, batch]
    return torch.nn.Sequential(*found).eval()


def answers_of(net: Any) -> Any:
    import torch

    with torch.no_grad():
        return net(torch.from_numpy(INPUTS)).numpy()


def graph(net: Any, path: Path, how: str) -> Path:
    import torch

    example = torch.from_numpy(INPUTS[:2])
    if how == "onnx":
        pytest.importorskip("onnx")
        torch.onnx.export(net, (example,), path, dynamo=False)
    elif how == "torchscript":
        torch.jit.trace(net, example).save(path)
    else:
        torch.export.save(torch.export.export(net, (example,)), path)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["onnx", "torchscript", "program"])
def test_graphs_of_pytorch(kind: str, how: str, tmp_path: Path) -> None:
    net = module(kind)
    suffix = {"onnx": "onnx", "torchscript": "pt", "program": "pt2"}[how]
    path = graph(net, tmp_path / f"net.{suffix}", how)
    shape = (WIDTHS[0],) if how == "torchscript" else None
    equal(convert_file(path, ConvertOptions(input=RANGE, input_shape=shape)), kind, answers_of(net))


@pytest.mark.parametrize("kind", KINDS)
def test_modules_and_their_state_dicts(kind: str, tmp_path: Path) -> None:
    """The classes of a module say which layers are binary, of a state dict an option; by default all of its are."""
    torch = pytest.importorskip("torch")
    net = module(kind)
    answers = answers_of(net)
    scores = equal(from_torch_module(net, ConvertOptions(input=RANGE, profile="ge-zero")), kind, answers)
    assert np.array_equal(xnorinfer.from_torch(net, input=RANGE, input_shape=WIDTHS[:1]).scores(PIXELS), scores)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    names = [name.removesuffix(".weight") for name, array in net.state_dict().items() if array.ndim == 2]
    floats = tuple(name for name, one in zip(names, kind, strict=True) if one == "f")
    options = ConvertOptions(input=RANGE, profile="ge-zero", float_layers=floats)
    read = convert_file(tmp_path / "net.pth", options)
    assert np.array_equal(equal(read, kind, answers), scores)
    toml = net_text(tmp_path / "net.pth", read.reading, options)
    assert np.array_equal(xnorinfer.convert(tmp_path / "net.pth", net=toml, threads=1).scores(PIXELS), scores)
    try:
        default = convert_file(tmp_path / "net.pth", ConvertOptions(input=RANGE, profile="ge-zero", answered=True))
    except NetworkError:  # sums of another size than those of binary weights
        return
    assert all(op.binary for _, op in default.reading.net.linears)


# ---------------------------------------------------------------- Keras and Larq


def larq_model(kind: str) -> Any:
    missing = [name for name in ("tensorflow", "tf_keras", "larq") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    import larq
    import tf_keras as keras

    stack: list[Any] = [keras.Input((WIDTHS[0],))]
    for index, (one, (_, neurons)) in enumerate(zip(kind, sizes(kind), strict=True)):
        if one == "b":
            reads = {"input_quantizer": "ste_sign"} if index else {}
            layer = larq.layers.QuantDense(neurons, kernel_quantizer="ste_sign", use_bias=False, **reads)
            stack += [layer, keras.layers.BatchNormalization()]
        else:
            stack += [*([keras.layers.ReLU()] if index else []), keras.layers.Dense(neurons), keras.layers.BatchNormalization()]
    model = keras.Sequential(stack)
    with_weights = [layer for layer in model.layers if layer.weights]
    arrays = zip(weights(kind), norms(kind), strict=True)
    for dense, batch, (weight, norm) in zip(with_weights[::2], with_weights[1::2], arrays, strict=True):
        dense.set_weights([weight.T, *(np.zeros(len(weight), f) for _ in dense.weights[1:])])
        batch.set_weights([norm[name] for name in ("gamma", "beta", "mean", "variance")])
    return model


def saved_h5(model: Any, folder: Path) -> Path:
    model.save(folder / "net.h5")
    return folder / "net.h5"


def saved_keras(model: Any, folder: Path) -> Path:
    model.save(folder / "net.keras")
    return folder / "net.keras"


def saved_model(model: Any, folder: Path) -> Path:
    model.save(folder / "net", save_format="tf")
    return folder / "net"


def tflite(model: Any, folder: Path) -> Path:
    import tensorflow as tf

    (folder / "net.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return folder / "net.tflite"


@pytest.mark.parametrize("kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS[1:])])
def test_models_of_larq(kind: str, tmp_path: Path) -> None:
    model = larq_model(kind)
    answers = model.predict(INPUTS, verbose=0)
    savers: tuple[Callable[[Any, Path], Path], ...] = (saved_h5, saved_keras, saved_model, tflite)
    found = [equal(convert_file(save(model, tmp_path), ConvertOptions(input=RANGE)), kind, answers) for save in savers[:2]]
    found.append(xnorinfer.from_keras(model, input=RANGE).scores(PIXELS))
    assert all(np.array_equal(scores, found[0]) for scores in found)
    for save in savers[2:]:  # whose BatchNorms are spelled out
        equal(convert_file(save(model, tmp_path), ConvertOptions(input=RANGE)), kind, answers)


# ---------------------------------------------------------------- others


def test_a_symbol_of_mxnet(tmp_path: Path) -> None:
    """Its first layer reads images as they are."""
    kind, made = "fbbf", Symbol()
    made.add("Flatten", "flat")
    for index, (one, weight, norm) in enumerate(zip(kind, weights(kind), norms(kind), strict=True)):
        if one == "b":
            made.add("QActivation", f"q{index}", act_bit=1, backward_only=True)
            made.dense(f"fc{index}", weight, act_bit=1)
        else:
            made.dense(f"fc{index}", weight, binary=False)
        made.norm(f"bn{index}", norm["mean"], norm["variance"], norm["gamma"], norm["beta"], fix_gamma=False)
    read = convert_file(made.write(tmp_path), ConvertOptions(input=RANGE, input_shape=(WIDTHS[0],)))
    net = read.reading.net
    assert [op.binary for _, op in net.linears] == [one == "b" for one in kind]
    assert np.array_equal(xnorinfer.pack(net, threads=1).scores(PIXELS), forward(net, PIXELS))


def test_arrays_by_name(tmp_path: Path) -> None:
    """A first float layer reads the inputs themselves, no hardtanh of them."""
    kind = "fbf"
    arrays = {}
    for index, (weight, norm) in enumerate(zip(weights(kind), norms(kind), strict=True)):
        names = {"weight": weight, **{f"bn.{name}": norm[key] for name, key in (("mean", "mean"), ("var", "variance"))}}
        names |= {"bn.gamma": norm["gamma"], "bn.beta": norm["beta"]}
        arrays |= {f"{index}.{name}": array for name, array in names.items()}
    path = write_npz(tmp_path / "net.npz", **arrays)
    options = ConvertOptions(input=RANGE, profile="ge-zero", bn_epsilon=1e-5, float_layers=("0", "2"))
    read = convert_file(path, options)
    net = read.reading.net
    assert [node.name for node in net.nodes] == ["0", "0.bn", "0.sign", "1", "1.bn", "2.hardtanh", "2", "2.bn"]
    assert np.array_equal(xnorinfer.pack(net, threads=1).scores(PIXELS), forward(net, PIXELS))
    toml = net_text(path, read.reading, options)
    assert np.array_equal(xnorinfer.convert(path, net=toml, threads=1).scores(PIXELS), forward(net, PIXELS))


@pytest.mark.parametrize("how", ["signs", "threshold"])
def test_inputs_that_are_signs_are_no_numbers_of_a_float_layer(how: str, tmp_path: Path) -> None:
    kind = "fb"
    arrays = {f"{index}.weight": weight for index, weight in enumerate(weights(kind))}
    for index, norm in enumerate(norms(kind)):
        arrays |= {f"{index}.bn.{name}": norm[key] for name, key in (("mean", "mean"), ("var", "variance"))}
    path = write_npz(tmp_path / "net.npz", **arrays)
    given: dict[str, Any] = {"input_signs": True} if how == "signs" else {"input_threshold": 128}
    with pytest.raises(NetworkError, match="0: takes numbers, and the inputs are signs: that cannot be packed"):
        xnorinfer.convert(path, **given, profile="ge-zero", bn_epsilon=1e-5, float_layers=["0"])

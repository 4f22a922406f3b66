"""The Keras source on files of the real frameworks: committed ones, and fresh ones where all frameworks are installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from checkpoints import random_layers
from keras_files import MODELS, packed
from places import TOOLS, unpack

import xnorinfer
from xnorinfer.converters import ConvertOptions, Reading, files_of, read_source
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear, Norm, Quantize
from xnorinfer.net.values import PixelInput, RealInput, SignInput, ThresholdInput

h5py = pytest.importorskip("h5py", reason="Keras's files are read through h5py")

FRAMEWORKS = ("tensorflow", "tf_keras", "keras", "larq")
UNIT = PixelInput.range(0, 1)
PORT = {"input": UNIT}
NAMES = {"input": UNIT, "bn_epsilon": 1e-6}
#: File -> what was recorded for it, and the options that it needs.
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "larq.h5": ("larq", {}),
    "larq.keras": ("larq", {}),
    "larq_json.weights.h5": ("larq", {}),
    "port2.h5": ("port2", PORT),
    "port2_names.h5": ("port2", NAMES),
    "port2_numbers.weights.h5": ("port2", NAMES),
    "port3.h5": ("port3", {}),
    "port3.keras": ("port3", {}),
    "port3_json.weights.h5": ("port3", {}),
    **{
        f"{name}.{suffix}": (name, {})
        for name in (
            *("float_head", "sign_head", "input_sign", "input_norm", "no_norm", "magnitude"),
            *("relu", "relu_layers", "prelu", "smooth", "relu_head", "heaviside"),
        )
        for suffix in ("h5", "keras")
    },
}


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(MODELS, tmp_path_factory.mktemp("keras"))


def write_fresh(folder: Path, *arguments: Path) -> Path:
    missing = [name for name in FRAMEWORKS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    script = str(TOOLS / "keras_checkpoints.py")
    subprocess.run([sys.executable, script, str(folder), *map(str, arguments)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module", params=["committed", "fresh"])
def folder(request: pytest.FixtureRequest, committed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return committed if request.param == "committed" else write_fresh(tmp_path_factory.mktemp("fresh"))


def kinds_of(reading: Reading, kind: type[Any]) -> list[Any]:
    return [layer for layer in reading.net.ops if isinstance(layer, kind)]


def origins(reading: Reading) -> dict[str, str]:
    return {a.what: a.origin for a in reading.assumptions}


# ---------------------------------------------------------------- against the frameworks


@pytest.mark.parametrize("file", FILES)
def test_scores_are_the_frameworks(folder: Path, file: str) -> None:
    name, options = FILES[file]
    outputs = dict(np.load(folder / "outputs.npz"))
    reading = read_source(folder / file, ConvertOptions(**options))
    scores = reference.forward(reading.net, outputs["x"])
    # A decision that differs moves a score by far more; the frameworks' 1/sqrt and sums of floats are rounded otherwise.
    np.testing.assert_allclose(scores, outputs[f"{name}/scores"], rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(scores.argmax(axis=1), outputs[f"{name}/answers"])


@pytest.mark.parametrize("file", ["larq.keras", "port3.h5", "input_norm.h5", "float_head.h5"])
def test_packed_models_answer_as_the_frameworks(committed: Path, file: str) -> None:
    outputs = dict(np.load(committed / "outputs.npz"))
    model = xnorinfer.convert(committed / file)
    np.testing.assert_array_equal(model.predict(outputs["x"]), outputs[f"{FILES[file][0]}/answers"])


@pytest.mark.parametrize("keras", ["keras2", "keras3"])
def test_batch_norm_is_computed_in_the_order_of_the_form(folder: Path, keras: str) -> None:
    """Bit for bit, but for 1/sqrt: TensorFlow refines an approximation of the CPU, which ends a unit beside the exact one."""
    outputs = dict(np.load(folder / "outputs.npz"))
    gamma, beta, mean, variance = outputs["norm/tensors"]
    x, rsqrt, found = outputs["norm/x"], outputs["norm/rsqrt"], outputs[f"norm/{keras}"]
    alpha = rsqrt * gamma
    np.testing.assert_array_equal(found, x * alpha + (beta - mean * alpha))
    exact = np.float32(1) / np.sqrt(variance + np.float32(1e-4))
    assert (np.abs(rsqrt - exact) <= 2 * np.spacing(exact)).all()
    layer = Norm(mean, variance, gamma=gamma, beta=beta, epsilon=1e-4, form="tf")
    ours = reference.batch_norm(layer, x)
    same = rsqrt == exact
    np.testing.assert_array_equal(ours[:, same], found[:, same])
    np.testing.assert_allclose(ours, found, rtol=1e-6, atol=np.abs(mean * alpha).max() * 1e-6)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", ["larq", "port3"])
def test_every_container_gives_the_same_packed_model(committed: Path, name: str) -> None:
    models = [packed(committed / f"{name}{suffix}") for suffix in (".h5", ".keras", "_json.weights.h5")]
    assert models[0] == models[1] == models[2]
    assert packed(committed / "input_norm.h5") == packed(committed / "input_norm.keras")


@pytest.mark.parametrize("file", [*FILES, "larq_names.h5"])
def test_every_tensor_is_noted_once(committed: Path, tmp_path: Path, file: str) -> None:
    path = committed / file
    reading = read_source(path, ConvertOptions(**FILES.get(file, ("", {}))[1]))
    if file.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            path = Path(archive.extract("model.weights.h5", tmp_path))
    found = {}
    with h5py.File(path) as opened:
        opened.visititems(lambda name, item: found.update({name: item.shape}) if isinstance(item, h5py.Dataset) else None)
    assert sorted(tensor.name for tensor in reading.tensors) == sorted(found)
    assert all(tensor.shape == found[tensor.name] for tensor in reading.tensors)
    assert all(("state" in t.use or "metric" in t.use) == t.ignored for t in reading.tensors)
    if file in ("input_norm.h5", "port3.keras"):
        assert any("optimizer" in tensor.use for tensor in reading.tensors)


def test_what_the_config_says(committed: Path) -> None:
    larq = read_source(committed / "larq.keras")
    assert larq.net.profile == "ge-zero"
    assert [norm.epsilon for norm in kinds_of(larq, Norm)] == [1e-3, 1e-4, 1e-3, 1e-3]
    assert [(norm.gamma is None, norm.beta is None) for norm in kinds_of(larq, Norm)[:3]] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    assert {what: origin for what, origin in origins(larq).items() if origin != "file"} == {"input": "default"}
    assert any("softmax" in a.value and "left out" in a.value for a in larq.assumptions)
    assert len(larq.warnings) == 1
    assert "--input-range=0:1" in larq.warnings[0]
    port = read_source(committed / "port3.keras")
    assert port.net.profile == "keras-round"
    glorot = float(np.float32(np.sqrt(1.5 / (12 + 9))))
    assert [(name, layer.h) for name, layer in port.net.linears] == [
        ("binary_dense", glorot),
        ("inner/binary_dense_1", 1.0),
        ("head", 0.5),
    ]
    assert port.net.input == PixelInput.range(-1, 1)  # Rescaling(1/127.5, -1) of raw pixels
    assert not any("pixels" in warning for warning in port.warnings)


def test_options_come_before_the_config(committed: Path) -> None:
    options = ConvertOptions(profile="gt-zero", bn_epsilon=0.5, h=2.0, input=PixelInput.range(0, 1))
    reading = read_source(committed / "port3.keras", options)
    assert {layer.h for layer in kinds_of(reading, Linear)} == {2.0}
    assert {norm.epsilon for norm in kinds_of(reading, Norm)} == {0.5}
    assert {sign.rule for sign in kinds_of(reading, Quantize)} == {"gt"}
    low = reading.net.input
    assert isinstance(low, PixelInput)
    assert (low.intercept / low.divisor, low.slope / low.divisor) == pytest.approx((-1, 1 / 127.5 / 255))
    assert origins(reading)["input of the model"] == "option"
    with pytest.raises(OptionError, match="no moving averages"):
        read_source(committed / "larq.h5", ConvertOptions(ema=True))


def test_binarized_inputs_become_a_threshold(committed: Path) -> None:
    path = committed / "input_sign.h5"
    assert read_source(path).net.input == ThresholdInput(128)
    assert read_source(path, ConvertOptions(input=PixelInput.range(-2, 1))).net.input == ThresholdInput(170)
    assert read_source(path, ConvertOptions(input=SignInput())).net.input == SignInput()
    real = read_source(path, ConvertOptions(input=RealInput())).net
    assert real.input == RealInput()
    assert isinstance(real.ops[0], Quantize)
    with pytest.raises(NetworkError, match=r"mapped linearly to 0\.\.1: there is no step from -1 up to \+1"):
        read_source(path, ConvertOptions(input=UNIT))


def test_scale_of_magnitude_aware_sign(committed: Path) -> None:
    first, second, head = kinds_of(read_source(committed / "magnitude.h5"), Linear)
    for layer in (first, second):
        np.testing.assert_allclose(layer.scale, np.abs(layer.weight.astype(np.float64)).mean(axis=1), rtol=1e-7)
    assert head.scale is None


def test_weights_alone_are_read_with_warnings(committed: Path) -> None:
    reading = read_source(committed / "port2_names.h5")
    assert networks.names_of(reading.net, Linear) == ["dense1", "dense2", "dense3"]
    assert reading.net.profile == "keras-round"
    assert [norm.epsilon for norm in kinds_of(reading, Norm)] == [1e-3] * 3
    assert any("no config" in w and "binarize" in w for w in reading.warnings)
    assert any("1e-3" in w and "smallest variance" in w for w in reading.warnings)
    assert any("lie on the tie" in w for w in reading.warnings)
    numbered = read_source(committed / "port2_numbers.weights.h5")
    assert origins(numbered)["order of layers"] == "file"  # the only one in which their shapes fit
    for one, other in zip(kinds_of(reading, Linear), kinds_of(numbered, Linear), strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
    assert read_source(committed / "larq_names.h5").net.profile == "ge-zero"


def test_weights_alone_cannot_tell_gamma_from_beta(committed: Path, tmp_path: Path) -> None:
    shutil.copy(committed / "larq_json.weights.h5", tmp_path / "net.weights.h5")
    with pytest.raises(NetworkError, match=r"without gamma or without beta.*model\.to_json\(\)"):
        read_source(tmp_path / "net.weights.h5")


def test_plain_dense_among_quantized_is_a_float_layer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "net.weights.h5", "w") as file:
        for index, shape in enumerate([(6, 5), (5, 4)]):
            name = f"layers/quant_dense_{index}" if index else "layers/quant_dense"
            file[f"{name}/vars/0"] = rng.uniform(-1, 1, shape).astype(np.float32)
            norm = f"layers/batch_normalization_{index}" if index else "layers/batch_normalization"
            for number in range(4):
                file[f"{norm}/vars/{number}"] = rng.uniform(0.5, 1, shape[1]).astype(np.float32)
        file["layers/dense/vars/0"] = rng.uniform(-1, 1, (4, 3)).astype(np.float32)
        file["layers/dense/vars/1"] = rng.uniform(-1, 1, 3).astype(np.float32)
    reading = read_source(tmp_path / "net.weights.h5")
    assert [name for name, layer in reading.net.linears if not layer.binary] == ["dense"]
    assert origins(reading)["float layers, by their names"] == "default"


def test_a_config_of_float64_converts_with_a_warning(committed: Path, tmp_path: Path) -> None:
    shutil.copy(committed / "larq_json.weights.h5", tmp_path / "net.weights.h5")
    text = (committed / "larq_json.json").read_text()
    (tmp_path / "net.json").write_text(text.replace('"dtype": "float32"', '"dtype": "float64"'))
    reading = read_source(tmp_path / "net.weights.h5")
    assert any("computes in float64" in warning and "--expect" in warning for warning in reading.warnings)
    assert origins(reading)["float64"] == "default"
    assert packed(tmp_path / "net.weights.h5") == packed(committed / "larq_json.weights.h5")


def write_numbered(path: Path, layers: dict[str, int | tuple[int, int]]) -> None:
    """Weights of Keras 3 by place: a shape makes a matrix, a number a BatchNorm of that width."""
    rng = np.random.default_rng(4)
    with h5py.File(path, "w") as file:
        for place, size in layers.items():
            if isinstance(size, tuple):
                file[f"{place}/vars/0"] = rng.uniform(-1, 1, size).astype(np.float32)
            else:
                for index in range(4):
                    file[f"{place}/vars/{index}"] = (rng.uniform(4, 9, size) * (1 if index != 2 else -1)).astype(np.float32)
            file[f"{place}/vars"].attrs["name"] = place.rpartition("/")[2]


def expected_scores(path: Path, x: Any, layers: list[str], norms: list[str]) -> Any:
    """By hand, in float64: sign(BatchNorm(x @ sign(W))), the last layer without both."""
    value = 2 * x.astype(np.float64) / 255 - 1
    with h5py.File(path) as file:
        for index, layer in enumerate(layers):
            value = value @ np.where(file[f"{layer}/vars/0"][()] >= 0, 1.0, -1.0)
            if index < len(norms):
                gamma, beta, mean, variance = (file[f"{norms[index]}/vars/{i}"][()].astype(np.float64) for i in range(4))
                value = np.where((value - mean) / np.sqrt(variance + 1e-3) * gamma + beta >= 0, 1.0, -1.0)
    return value


def test_subclassed_models_are_put_in_the_order_of_their_shapes(tmp_path: Path) -> None:
    """Attributes in the order of their names would be another network."""
    layers = {"head": (7, 3), "inner/norm": 7, "a_norm": 5, "zeta": (12, 5), "inner/body": (5, 7)}
    path = tmp_path / "net.weights.h5"
    write_numbered(path, layers)
    x = np.random.default_rng(0).integers(0, 256, (50, 12), dtype=np.uint8)
    wanted = expected_scores(path, x, ["zeta", "inner/body", "head"], ["a_norm", "inner/norm"])
    options = ConvertOptions(profile="ge-zero")
    reading = read_source(path, options)
    np.testing.assert_array_equal(reference.forward(reading.net, x), wanted)
    assert (origins(reading)["order of layers"], origins(reading)["order of BatchNorms, by their widths"]) == ("file", "file")
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Mine", "config": {}}))
        archive.write(path, "model.weights.h5")
    reading = read_source(tmp_path / "net.keras", options)
    np.testing.assert_array_equal(reference.forward(reading.net, x), wanted)
    assert any("subclassed model (Mine), whose code is not in the file" in warning for warning in reading.warnings)


def test_layers_of_one_shape_are_ordered_by_numbers_in_their_names_alone(tmp_path: Path) -> None:
    path = tmp_path / "net.weights.h5"
    numbers = {"fc10": (6, 6), "fc9": (6, 6), "fc1": (8, 6), "bn9": 6, "bn10": 6, "bn1": 6, "fc11": (6, 4)}
    write_numbered(path, numbers)
    reading = read_source(path)
    assert networks.names_of(reading.net, Linear) == ["fc1", "fc9", "fc10", "fc11"]
    assert networks.names_of(reading.net, Norm) == ["bn1", "bn9", "bn10"]
    assert (origins(reading)["order of layers"], len([w for w in reading.warnings if "order" in w])) == ("file", 1)
    write_numbered(path, {"first": (8, 6), "left": (6, 6), "right": (6, 6), "head": (6, 4)})
    with pytest.raises(NetworkError, match=r"order of the layers first, head, left, right, several fit.*net\.json") as error:
        read_source(path)
    # What the refusal says, followed.
    order = ["first", "right", "left", "head"]
    text = 'profile = "ge-zero"\nlayout = "in_out"\n[input]\nrange = [-1, 1]\n'
    for name in order:
        text += f'[[layers]]\nweight = "{name}/vars/0"\nactivation = "{"none" if name == "head" else "sign"}"\n'
    assert "[[layers]] weight" in str(error.value)
    x = np.random.default_rng(0).integers(0, 256, (50, 8), dtype=np.uint8)
    value = 2 * x.astype(np.float64) / 255 - 1
    with h5py.File(path) as file:
        for name in order:
            value = value @ np.where(file[f"{name}/vars/0"][()] >= 0, 1, -1)
            value = value if name == "head" else np.where(value >= 0, 1, -1)
    np.testing.assert_array_equal(xnorinfer.convert(path, net=text).scores(x), value)
    write_numbered(path, {"a": (8, 6), "b": (6, 6), "c": (6, 4), "norm": 6})
    with pytest.raises(NetworkError, match="not clear which BatchNorm belongs to which layer"):
        read_source(path)


@pytest.mark.parametrize(
    ("weights", "config"),
    [
        ("net.h5", "net.json"),
        ("net.weights.h5", "net.json"),
        ("net_weights.h5", "net.json"),
        ("net_weights.h5", "net_weights.json"),
        ("net-weights.h5", "net.json"),
        ("net.h5", "net_config.json"),
        ("net_weights.h5", "net_architecture.json"),
        ("netWeights.hdf5", "net-model.json"),
    ],
)
def test_the_config_is_found_beside_its_weights(committed: Path, tmp_path: Path, weights: str, config: str) -> None:
    shutil.copy(committed / "larq_json.weights.h5", tmp_path / weights)
    shutil.copy(committed / "larq_json.json", tmp_path / config)
    reading = read_source(tmp_path / weights)
    assert any(a.value == f"as in the model's config in {config}" for a in reading.assumptions)
    assert packed(tmp_path / weights) == packed(committed / "larq_json.weights.h5")
    assert files_of(tmp_path / weights) == [tmp_path / weights, tmp_path / config]
    (tmp_path / "net.config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"which differ: leave only the config of this model"):
        read_source(tmp_path / weights)


@pytest.mark.parametrize("shape", [(3, 4, 1), (2, 3, 2)])
def test_norm_of_image_channels_before_flatten(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """Each channel is one threshold for all of its pixels."""
    rng = np.random.default_rng(2)
    channels, depth = shape[2], int(np.prod(shape))
    gamma, beta, mean = rng.standard_normal((3, channels)).astype(np.float32)
    variance = rng.uniform(0.1, 1, channels).astype(np.float32)
    kernels = rng.uniform(-1, 1, (depth, 5)).astype(np.float32), rng.uniform(-1, 1, (5, 3)).astype(np.float32)
    with h5py.File(tmp_path / "net.weights.h5", "w") as file:
        for index, vector in enumerate((gamma, beta, mean, variance)):
            file[f"layers/batch_normalization/vars/{index}"] = vector
        file["layers/quant_dense/vars/0"], file["layers/quant_dense_1/vars/0"] = kernels
    sign = {"use_bias": False, "input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
    layers = [
        ("InputLayer", {"batch_shape": [None, *shape]}),
        ("BatchNormalization", {"axis": -1, "epsilon": 1e-3, "momentum": 0.9}),
        ("Flatten", {}),
        ("QuantDense", sign),
        ("QuantDense", sign),
    ]
    described = [{"class_name": kind, "config": {"name": str(i), **config}} for i, (kind, config) in enumerate(layers)]
    (tmp_path / "net.json").write_text(json.dumps({"class_name": "Sequential", "config": {"layers": described}}))
    x = rng.integers(0, 256, (200, depth), dtype=np.uint8)
    images = ((2 * x.astype(np.float64) - 255) / 255).astype(np.float32).reshape(-1, *shape)
    alpha = np.float32(1) / np.sqrt(variance + np.float32(1e-3)) * gamma
    value = np.where(images * alpha + (beta - mean * alpha) >= 0, 1, -1).reshape(-1, depth)
    for kernel in kernels:
        value = (value if kernel is kernels[0] else np.where(value >= 0, 1, -1)) @ np.where(kernel >= 0, 1, -1)
    reading = read_source(tmp_path / "net.weights.h5")
    np.testing.assert_array_equal(reference.forward(reading.net, x), value.astype(np.float32))
    np.testing.assert_array_equal(xnorinfer.convert(tmp_path / "net.weights.h5").scores(x), value.astype(np.float32))


@pytest.mark.parametrize("case", ["heaviside of inputs", "relu of signs", "half a heaviside", "tanh of inputs"])
def test_functions_before_a_sign_and_behind_it(tmp_path: Path, case: str) -> None:
    """What the layers compute together decides, wherever a function stands."""
    rng = np.random.default_rng(5)
    kernels = rng.uniform(-1, 1, (12, 6)).astype(np.float32), rng.uniform(-1, 1, (6, 3)).astype(np.float32)
    with h5py.File(tmp_path / "net.weights.h5", "w") as file:
        file["layers/quant_dense/vars/0"], file["layers/quant_dense_1/vars/0"] = kernels
    first: list[dict[str, Any]] = [
        {"kernel_quantizer": "ste_sign"},
        {"kernel_quantizer": "ste_sign", "input_quantizer": "ste_sign"},
    ]
    before: tuple[list[tuple[str, str]], list[tuple[str, str]]] = [], []
    if case == "heaviside of inputs":
        first[0]["input_quantizer"] = "ste_heaviside"
    elif case == "tanh of inputs":
        before[0].append(("Activation", "tanh"))
        first[0]["input_quantizer"] = "ste_sign"
    else:
        before[1].append(
            ("Activation", "ste_sign") if case == "relu of signs" else ("QActivation", "binary(use_01=1, alpha=0.5)")
        )
        before[1].append(("Activation", "relu"))
        first[1]["input_quantizer"] = None
    layers = [
        layer
        for functions, dense in zip(before, first, strict=True)
        for layer in [*((kind, {"activation": name}) for kind, name in functions), ("QuantDense", {"use_bias": False, **dense})]
    ]
    described = [{"class_name": kind, "config": {"name": str(i), **config}} for i, (kind, config) in enumerate(layers)]
    (tmp_path / "net.json").write_text(json.dumps({"class_name": "Sequential", "config": {"layers": described}}))
    x = rng.integers(0, 256, (200, 12), dtype=np.uint8)
    value = 2 * x.astype(np.int64) - 255  # exact: times 255
    if case.endswith("inputs"):
        value = np.where(value > 0, 1.0, 0.0 if case == "heaviside of inputs" else -1.0)
    value = value @ np.where(kernels[0] >= 0, 1, -1)
    low, high = {"relu of signs": (0.0, 1.0), "half a heaviside": (0.0, 0.5)}.get(case, (-1.0, 1.0))
    value = np.where(value >= 0, high, low) @ np.where(kernels[1] >= 0, 1, -1)
    np.testing.assert_array_equal(xnorinfer.convert(tmp_path / "net.weights.h5").scores(x), value.astype(np.float32))


def test_a_batch_norm_in_one_layer_with_its_weights(tmp_path: Path) -> None:
    """A class of someone's own that holds both."""
    h5py = pytest.importorskip("h5py")
    layers = random_layers((20, 16, 12, 5), 3)
    names = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    for file, split in (("apart", True), ("together", False)):
        with h5py.File(tmp_path / f"{file}.h5", "w") as saved:
            for number, layer in enumerate(layers, 1):
                arrays = (layer.weight.T, layer.bias, layer.gamma, layer.beta, layer.mean, layer.variance)
                for name, array in zip(names, arrays, strict=True):
                    scope = f"bn_{number}" if split and name not in names[:2] else f"block_{number}"
                    group = saved.require_group(scope)
                    group[f"{scope}/{name}:0"] = array
            for scope, group in saved.items():
                group.attrs["weight_names"] = [f"{scope}/{name}".encode() for name in group[scope]]
            saved.attrs["layer_names"] = [name.encode() for name in saved]
    options = ConvertOptions(bn_epsilon=1e-3, profile="ge-zero")
    apart, together = (read_source(tmp_path / f"{file}.h5", options) for file in ("apart", "together"))
    x = np.random.default_rng(0).integers(0, 256, (50, 20), np.uint8)
    np.testing.assert_array_equal(reference.forward(together.net, x), reference.forward(apart.net, x))


@pytest.mark.parametrize("order", [("alone", "block", "bn"), ("block", "bn", "alone"), ("alone", "block", "bn", "head")])
def test_a_batch_norm_behind_a_layer_that_has_its_own(tmp_path: Path, order: tuple[str, ...]) -> None:
    """It may be a second one, or that of another layer: never of the layer before, which has none, in silence."""
    h5py = pytest.importorskip("h5py")
    made = random_layers((16, 16, 16, 16), 3)
    with h5py.File(tmp_path / "net.h5", "w") as saved:
        for scope, layer in zip(order, made[:1] * len(order), strict=True):
            norm = {
                role: getattr(layer, role.removeprefix("moving_"))
                for role in ("gamma", "beta", "moving_mean", "moving_variance")
            }
            arrays = {} if scope == "bn" else {"kernel": layer.weight.T, "bias": layer.bias}
            arrays |= norm if scope in ("bn", "block") else {}
            for name, array in arrays.items():
                saved.require_group(scope)[f"{scope}/{name}:0"] = array
            saved[scope].attrs["weight_names"] = [f"{scope}/{name}:0".encode() for name in arrays]
        saved.attrs["layer_names"] = [name.encode() for name in order]
    stood = ", ".join(f"{one} ({ {'bn': 'BatchNorm', 'block': 'dense and BatchNorm'}.get(one, 'dense') })" for one in order)
    with pytest.raises(NetworkError, match="not clear which BatchNorm belongs to which layer") as error:
        read_source(tmp_path / "net.h5", ConvertOptions(bn_epsilon=1e-3))
    assert stood in str(error.value)

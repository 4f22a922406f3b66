"""What the Keras source refuses: configs that are no binary network, damaged and hostile files."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import require_told
from keras_files import MODELS, packed
from places import unpack
from refusals import assert_resolvable

from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.converters.kerasmodels.config import read_config
from xnorinfer.converters.kerasmodels.quantizers import identify
from xnorinfer.errors import MissingExtraError, NetworkError, OptionError, SourceError
from xnorinfer.net.ops import Linear, Quantize
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput, RealInput

h5py = pytest.importorskip("h5py", reason="Keras's files are read through h5py")

UNIT = PixelInput.range(0, 1)


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(MODELS, tmp_path_factory.mktemp("keras"))


# ---------------------------------------------------------------- configs


@pytest.mark.parametrize(
    "value",
    [
        "ste_sign",
        "SteSign",
        {"class_name": "SteSign", "config": {"clip_value": 1.0}},
        {"class_name": "Custom>SteSign", "config": {}},
        {"module": "larq.quantizers", "class_name": "SteSign", "config": {"name": "q"}, "registered_name": "SteSign"},
        {"module": "builtins", "class_name": "function", "config": "ste_sign", "registered_name": "function"},
        {"class_name": "function", "config": {"module": "larq.quantizers", "name": "ste_sign"}},
    ],
)
def test_quantizers_in_any_form(value: Any) -> None:
    assert identify(value) == "stesign"
    assert identify(None) is None


def functional(inbound: dict[str, Any], output: Any) -> str:
    layers = [
        {"class_name": "Dense", "name": name, "config": {"name": name}, "inbound_nodes": nodes}
        for name, nodes in inbound.items()
    ]
    return json.dumps({"class_name": "Functional", "config": {"layers": layers, "output_layers": output}})


def tensor(name: str) -> dict[str, Any]:
    return {"args": [{"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}], "kwargs": {"mask": None}}


def test_functional_configs_of_both_forms() -> None:
    old = {"c": [[["b", 0, 0, {}]]], "a": [], "b": [[["a", 0, 0, {}]]]}
    new = {"c": [tensor("b")], "a": [], "b": [tensor("a")]}
    for inbound, output in ((old, [["c", 0, 0]]), (new, ["c", 0, 0])):
        problems: list[str] = []
        assert [layer.name for layer in read_config(functional(inbound, output), "it", problems)] == ["a", "b", "c"]
        assert not problems


@pytest.mark.parametrize(
    ("inbound", "output", "message"),
    [
        ({"a": [], "b": [tensor("a")], "c": [tensor("a")]}, ["c", 0, 0], "b do not lead to"),
        ({"a": [], "b": [tensor("a")]}, [["a", 0, 0], ["b", 0, 0]], "the model gives the values of a, b"),
        ({"a": [], "b": [{"args": [tensor("a")["args"] * 2]}]}, ["b", 0, 0], "b takes the values of a, a"),
        ({"a": [tensor("b")], "b": [tensor("a")]}, ["b", 0, 0], "a, which are computed from it"),
        ({"a": []}, ["gone", 0, 0], "the values of gone"),
        ({"a": []}, [], "do not lead to"),
    ],
)
def test_configs_that_are_no_network(inbound: dict[str, Any], output: Any, message: str) -> None:
    problems: list[str] = []
    read_config(functional(inbound, output), "it", problems)
    assert len(problems) == 1
    assert message in problems[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        "[]",
        "[" * 100_000,
        '{"class_name": "MyModel", "config": {}}',
        '{"class_name": "Sequential"}',
        '{"class_name": "Sequential", "config": {"layers": [1]}}',
        '{"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": 1}]}}',
        '{"class_name": "Sequential", "config": {"layers": [{"class_name": "A", "config": {"name": "a"}}, '
        '{"class_name": "A", "config": {"name": "a"}}]}}',
    ],
)
def test_damaged_configs(text: str) -> None:
    with pytest.raises(SourceError) as error:
        read_config(text, "it", [])
    assert "\n" not in str(error.value)


Change = Callable[[list[dict[str, Any]]], Any]


def layer(kind: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": f"new_{kind.lower()}", **config}}


def swap(index: int, **config: Any) -> Change:
    return lambda layers: layers[index]["config"].update(config)


def put(index: int, kind: str, **config: Any) -> Change:
    return lambda layers: layers.insert(index, layer(kind, **config))


#: Layers of larq_json: input, flatten, quant, norm, quant, norm, dropout, quant, norm, quant, norm, softmax.
REFUSED: dict[str, tuple[Change, str]] = {
    "heaviside kernel": (swap(4, kernel_quantizer="ste_heaviside"), "ste_heaviside gives 0 and 1"),
    "sign of 0 and 1": (put(4, "SteHeaviside"), r"new_steheaviside \(SteHeaviside\): SteHeaviside gives 1 for every value"),
    "ternary kernel": (swap(4, kernel_quantizer="ste_tern"), "the kernel_quantizer ste_tern is ternary"),
    "dorefa": (
        swap(4, input_quantizer={"class_name": "DoReFa", "config": {"k_bit": 5}}),
        "DoReFa, which has more than two values",
    ),
    "own quantizer": (swap(4, kernel_quantizer="mine"), "the kernel_quantizer mine is not known"),
    "no-op": (swap(4, kernel_quantizer={"class_name": "NoOp", "config": {"precision": 1}}), "not all of one magnitude"),
    "scaled inputs": (swap(4, input_quantizer="magnitude_aware_sign"), "scales by a mean over the batch"),
    "real inputs": (swap(4, input_quantizer=None), r"quant_dense_1 \(QuantDense\) .* follows quant_dense without a sign"),
    "float everywhere": (
        lambda layers: [swap(index, kernel_quantizer=None)(layers) for index in (2, 4, 7, 9)],
        "quant_dense: no layer is binary; .* `kind` in a net.toml",
    ),
    "float first without a sign": (
        lambda layers: [swap(2, kernel_quantizer=None)(layers), swap(4, input_quantizer=None)(layers)],
        r"quant_dense_1 \(QuantDense\) .* follows quant_dense without a sign",
    ),
    "swish": (put(4, "Activation", activation="swish"), "swish is not supported .* it falls and rises"),
    "relu of signs": (
        lambda layers: [put(4, "ReLU")(layers), put(4, "SteSign")(layers)],
        r"new_stesign \(SteSign\): SteSign gives 1 for every value",
    ),
    "relu of inputs": (put(2, "ReLU"), r"quant_dense \(QuantDense\) reads inputs that are not mapped alike"),
    "relu with a threshold": (put(4, "ReLU", threshold=0.5), r"ReLU with threshold 0\.5 is not supported"),
    "own activation": (swap(4, activation={"class_name": "function", "config": "relu_max"}), "relu_max is not supported"),
    "leaky relu of a text": (put(4, "LeakyReLU", alpha="a"), "LeakyReLU has the slope 'a', which is no number"),
    "slopes missing": (put(4, "PReLU"), "alpha should be in the file and is not"),
    "softmax inside": (put(4, "Softmax"), "follows Softmax"),
    "ends in signs": (lambda layers: layers[-1]["config"].update(activation="ste_sign"), "ends in signs"),
    "softmax of rows": (
        lambda layers: layers.__setitem__(11, layer("Softmax", axis=0)),
        r"new_softmax \(Softmax\): Softmax takes the axis 0, not that of the channels",
    ),
    "dropout at work": (
        lambda layers: layers[6].update(inbound_nodes=[[["norm", 0, 0, {"training": True}]]]),
        r"dropout \(Dropout\) is called with training=True, so that it works as in training",
    ),
    "dropout of one's own": (put(4, "MonteCarloDropout", rate=0.5), "MonteCarloDropout is not supported in a binary network"),
    "no config": (lambda layers: layers[6].update(config=[]), r"\(Dropout\) has no config: is malformed"),
    "transposed convolution": (put(2, "Conv2DTranspose"), r"new_conv2dtranspose .* is not supported in a binary network"),
    "pooling of a vector": (put(2, "MaxPooling2D"), r"reads values of 1 axes, needed are 3, the channels among them"),
    "code": (put(2, "Lambda", function="4wEAAA=="), r"new_lambda \(Lambda\): Lambda is not supported"),
    "custom layer": (put(4, "Whatever"), "Whatever is not supported"),
    "no flatten": (lambda layers: layers.pop(1), "a Flatten must come before it"),
    "channels first": (swap(1, data_format="channels_first"), "reorders channels_first images"),
    "norm of signs": (put(3, "Activation", activation="ste_sign"), "normalizes signs before the next layer"),
    "norm before": (
        lambda layers: layers.insert(2, layers.pop(3)),
        r"quant_dense \(QuantDense\) reads what a BatchNorm made of the inputs without a sign",
    ),
    "norm axis": (swap(3, axis=[0]), r"works on axis 0"),
    "norm epsilon": (swap(3, epsilon="small"), "epsilon 'small' is no number"),
    "gamma missing": (swap(3, scale=True), "should be in the file and is not"),
    "bias missing": (swap(4, use_bias=True), "bias should be in the file"),
    "late rescaling": (put(4, "Rescaling", scale=0.5), "only the input can be rescaled"),
    "rescaling to nothing": (put(1, "Rescaling", scale=0.0), "maps every pixel to one value"),
    "rescaling by channel": (put(1, "Rescaling", scale=[0.5, 1]), "must be single numbers"),
    "half precision": (swap(4, dtype={"class_name": "Policy", "config": {"name": "mixed_float16"}}), "in mixed_float16"),
}


def reconfigured(committed: Path, folder: Path, change: Change) -> Path:
    model = json.loads((committed / "larq_json.json").read_text())
    change(model["config"]["layers"])
    shutil.copy(committed / "larq_json.weights.h5", folder / "net.weights.h5")
    (folder / "net.json").write_text(json.dumps(model))
    return folder / "net.weights.h5"


@pytest.mark.parametrize("case", REFUSED)
def test_refused_networks(committed: Path, tmp_path: Path, case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(NetworkError, match=message) as error:
        read_source(reconfigured(committed, tmp_path, change))
    assert_resolvable(error.value)


def test_what_works_in_training_alone_is_no_part_of_the_network(committed: Path, tmp_path: Path) -> None:
    """Augmentation, noise and dropout; `training` in the calls of Keras 3 is what the model's own call says."""
    kinds = ("RandomFlip", "RandomRotation", "RandomZoom", "RandomContrast", "RandomTranslation", "RandomBrightness")

    def change(layers: list[dict[str, Any]]) -> None:
        layers[6]["inbound_nodes"] = [{"args": [], "kwargs": {"training": True}}]
        layers[9:9] = [layer(kind) for kind in ("AlphaDropout", "GaussianDropout", "SpatialDropout2D", "GaussianNoise")]
        layers[1:1] = map(layer, kinds)

    reading, plain = (read_source(reconfigured(committed, tmp_path, one)) for one in (change, lambda layers: None))
    x = np.random.default_rng(0).integers(0, 256, (9, plain.net.depth), np.uint8)
    np.testing.assert_array_equal(forward(reading.net, x), forward(plain.net, x))


def test_each_layer_has_its_own_tie_rule(committed: Path, tmp_path: Path) -> None:
    """A model that binarizes in several ways; an option takes one rule for all."""
    change = swap(4, input_quantizer={"class_name": "function", "config": "binary_tanh"})
    path = reconfigured(committed, tmp_path, change)
    reading = read_source(path)
    assert [layer.rule for layer in reading.net.ops if isinstance(layer, Quantize)] == ["round-even", "ge", "ge"]
    assert {layer.rule for layer in reading.net.ops if isinstance(layer, Linear)} == {"ge"}
    assert any(a.what == "ties" and "quant_dense_1 reads round-even" in a.value for a in reading.assumptions)
    both = reconfigured(committed, tmp_path, lambda layers: (swap(2, input_quantizer="binary_tanh")(layers), change(layers)))
    real = read_source(both, ConvertOptions(input=RealInput())).net
    assert [layer.rule for layer in real.ops if isinstance(layer, Quantize)] == ["round-even", "round-even", "ge", "ge"]
    reading = read_source(reconfigured(committed, tmp_path, change), ConvertOptions(profile="gt-zero"))
    assert {layer.rule for layer in reading.net.ops if isinstance(layer, Quantize | Linear)} == {"gt"}


def test_another_kind_of_network_is_told_alone(committed: Path, tmp_path: Path) -> None:
    """A network of several bits or ternary: nothing that follows from it is told."""

    def change(layers: list[dict[str, Any]]) -> None:
        for index in (2, 4):
            swap(index, kernel_quantizer="ste_tern", input_quantizer={"class_name": "DoReFa", "config": {"k_bit": 8}})(layers)
        swap(5, epsilon=None)(layers)

    with pytest.raises(NetworkError) as error:
        read_source(reconfigured(committed, tmp_path, change))
    both, end = "also: quant_dense_1 (QuantDense)", "only binary networks can be converted"
    assert list(error.value.problems) == [
        f"quant_dense (QuantDense): DoReFa is DoReFa, which has more than two values (8 bits); {end} ({both})",
        f"quant_dense (QuantDense): the kernel_quantizer ste_tern is ternary (-1, 0 and +1); {end} ({both})",
    ]


def test_all_problems_at_once(committed: Path, tmp_path: Path) -> None:
    def change(layers: list[dict[str, Any]]) -> None:
        swap(4, kernel_quantizer="mine", input_quantizer=None)(layers)
        swap(5, epsilon=None)(layers)
        put(7, "Activation", activation="swish")(layers)

    with pytest.raises(NetworkError) as error:
        read_source(reconfigured(committed, tmp_path, change))
    assert len(error.value.problems) == 4


def test_binarized_layers_cannot_be_named_float(committed: Path) -> None:
    with pytest.raises(NetworkError, match=r"--float-layer quant_dense_3: the file says that its kernel is binarized"):
        read_source(committed / "larq.h5", ConvertOptions(float_layers=("quant_dense_3",)))
    with pytest.raises(OptionError, match="there is no such layer"):
        read_source(committed / "larq.h5", ConvertOptions(float_layers=("dense",)))


def test_a_sign_layer_is_an_input_quantizer(committed: Path, tmp_path: Path) -> None:
    """Written in the next layer, or as a layer of its own, or both."""

    def change(layers: list[dict[str, Any]]) -> None:
        layers[9]["config"]["input_quantizer"] = None
        layers.insert(9, layer("SwishSign", beta=5.0))
        layers.insert(4, layer("Activation", activation="ste_sign"))

    assert packed(reconfigured(committed, tmp_path, change)) == packed(committed / "larq.h5")


@pytest.mark.parametrize(
    ("scale", "offset", "mapping"),
    [(1 / 255, 0.0, UNIT), (1 / 127.5, -1.0, PixelInput.range(-1, 1)), (1, 0, PixelInput.range(0, 255)), (0.3, 0.1, None)],
)
def test_rescaling(committed: Path, tmp_path: Path, scale: float, offset: float, mapping: PixelInput | None) -> None:
    net = read_source(reconfigured(committed, tmp_path, put(1, "Rescaling", scale=scale, offset=offset))).net
    assert isinstance(net.input, PixelInput)
    assert mapping is None or net.input == mapping
    pixels = np.arange(256)
    mapped = (net.input.slope * pixels + net.input.intercept) / net.input.divisor
    np.testing.assert_allclose(mapped, scale * pixels + offset, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- files that mean harm


def test_needs_h5py(committed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'xnorinfer\[keras\]'"):
        read_source(committed / "larq.h5")


@pytest.mark.parametrize("file", ["larq.h5", "larq.keras", "port2_numbers.weights.h5"])
def test_any_cut_is_found(committed: Path, tmp_path: Path, file: str) -> None:
    data = (committed / file).read_bytes()
    for keep in (1, 8, 40, 600, len(data) // 2, len(data) - 1):
        path = tmp_path / file
        path.write_bytes(data[:keep])
        with pytest.raises(SourceError) as error:
            read_source(path)
        assert "\n" not in str(error.value)


def test_any_flipped_byte_is_found_or_harmless(committed: Path, tmp_path: Path) -> None:
    data = (committed / "port2_names.h5").read_bytes()
    require_told(tmp_path / "net.h5", data, seed=1, count=75)


def links(file: Any, folder: Path) -> None:
    file["layers/dense/vars/0"] = h5py.SoftLink("/elsewhere")


def external_links(file: Any, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.ones((4, 4), np.float32)
    file["layers/dense/vars/0"] = h5py.ExternalLink("other.h5", "secret")


def external_data(file: Any, folder: Path) -> None:
    (folder / "raw").write_bytes(bytes(64))
    file.create_dataset("layers/dense/vars/0", (4, 4), "f4", external=[(str(folder / "raw"), 0, 64)])


def virtual_data(file: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout((4, 4), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "secret", (4, 4))
    file.create_virtual_dataset("layers/dense/vars/0", layout)


def huge_claim(file: Any, folder: Path) -> None:
    file.create_dataset("layers/dense/vars/0", (1 << 20, 1 << 20), "f4")


def sparse_chunks(file: Any, folder: Path) -> None:
    file.create_dataset("layers/dense/vars/0", (40, 40), "f4", chunks=(4, 4))[:4, :4] = 1


def compressed(file: Any, folder: Path) -> None:
    file.create_dataset("layers/dense/vars/0", data=np.zeros((1000, 1000), np.float32), compression="gzip")


def cycle(file: Any, folder: Path) -> None:
    inner = file.create_group("layers/dense")
    inner["again"] = file["layers"]


def objects(file: Any, folder: Path) -> None:
    file.create_dataset("layers/dense/vars/0", data=np.array([["a", "b"]], object), dtype=h5py.string_dtype())


def nothing(file: Any, folder: Path) -> None:
    file["numbers"] = np.zeros(3)


def no_shape(file: Any, folder: Path) -> None:
    file["layers/dense/vars/0"] = h5py.Empty("f4")


HOSTILE: dict[Callable[[Any, Path], None], str] = {
    links: "is a link to somewhere else",
    external_links: "is a link to somewhere else",
    external_data: "keeps its numbers in other files",
    virtual_data: "keeps its numbers in other files",
    huge_claim: "more than the file holds",
    sparse_chunks: "more than the file holds",
    compressed: "is compressed, which Keras never does",
    cycle: "reached twice",
    objects: "holds object, needed are numbers",
    nothing: "neither layer_names nor layers, but numbers",
    no_shape: "has no shape",
}


@pytest.mark.parametrize("write", HOSTILE, ids=lambda write: write.__name__)
def test_hostile_files(tmp_path: Path, write: Callable[[Any, Path], None]) -> None:
    with h5py.File(tmp_path / "net.h5", "w") as file:
        write(file, tmp_path)
    with pytest.raises(SourceError, match=HOSTILE[write]) as error:
        read_source(tmp_path / "net.h5")
    assert "\n" not in str(error.value)


def test_hostile_archives(committed: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(200 << 20))
    with pytest.raises(SourceError, match=r"unpacking it would take 200 MiB, .* --max-memory"):
        read_source(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(SourceError, match=r"without config\.json and model\.weights\.h5"):
        read_source(path, ConvertOptions(format="keras"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", (committed / "larq_json.weights.h5").read_bytes())
    with pytest.raises(SourceError, match="needed is a Sequential or functional model"):
        read_source(path)

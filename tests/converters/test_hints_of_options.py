"""Options that refusals and warnings propose are taken out of the texts and given: the network is numpy's of the true one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import Layer, named_arrays, random_layers, signs, state_arrays, write_npz
from following import (
    EPSILON,
    GIVEN,
    WIDTHS,
    Array,
    after_options,
    equal,
    f,
    filled,
    forward,
    lines_of,
    named,
    networks,
    option,
    rows,
    told,
    toml,
)
from onnx_writer import node, write
from test_evidence_file import ge, network, relu, same, state
from test_evidence_file import named as in_npz
from test_evidence_input import images

from xnorinfer.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::xnorinfer.ConversionWarning")


# ---------------------------------------------------------------- epsilon, ties


def test_an_epsilon_that_is_no_number(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers), **{"0.bn.epsilon": np.array([1e-3, 1e-3], f)})
    text = told(path, "--profile", "ge-zero", "--input-signs")
    given = [*option(text, "--ignore", "0.bn.epsilon"), *option(text, "--bn-epsilon", "1e-3")]
    assert "--ignore 0.bn.epsilon with" in text
    equal(after_options(path, tmp_path, "--profile", "ge-zero", "--input-signs", *given), forward(layers))


@pytest.mark.parametrize("container", ["npz", "state dict"])
def test_the_epsilon_of_a_file_without_one(tmp_path: Path, container: str) -> None:
    layers = random_layers(WIDTHS, 3)
    for layer in layers:
        layer.variance = np.linspace(1e-3, 0.1, len(layer.weight)).astype(f)
    arrays = named_arrays(layers) if container == "npz" else state_arrays(layers)
    path = write_npz(tmp_path / "net.npz", **arrays)
    given = ("--profile", "ge-zero", "--input-signs")
    text = told(path, *given)
    if container == "npz":
        assert "1e-3" in text
        assert "check --bn-epsilon" in text
    equal(after_options(path, tmp_path, *given, "--bn-epsilon", "0.01"), forward(layers, epsilon=0.01))


@pytest.mark.parametrize("profile", ["ge-zero", "gt-zero"])
@pytest.mark.parametrize("where", ["weights", "sums"])
def test_zeros_that_one_bit_cannot_hold(tmp_path: Path, where: str, profile: str) -> None:
    layers = random_layers(WIDTHS, 3, bias=False, affine=False, head_norm=False)
    if where == "weights":
        layers[0].weight[:2, 1] = 0
    else:
        layers[0].mean = layers[0].variance = None  # sums of 24 signs are even
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers))
    text = told(path, "--profile", "torch-sign", "--input-signs", "--bn-epsilon", EPSILON)
    assert re.search(r"hoose --profile (ge-zero|gt-zero) \(0 becomes [+-]1\) or (ge|gt)-zero", text)
    found = after_options(path, tmp_path, "--profile", profile, "--input-signs", "--bn-epsilon", EPSILON)
    assert f"{profile} (0 becomes {'+1' if profile == 'ge-zero' else '-1'})" in text
    equal(found, forward(layers, at_zero=1 if profile == "ge-zero" else -1))


@pytest.mark.parametrize("profile", ["ge-zero", "gt-zero"])
def test_ties_that_nothing_decides(tmp_path: Path, profile: str) -> None:
    layers = random_layers(WIDTHS, 3)
    layers[0].weight[:3, 1] = 0
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers))
    text = told(path, *GIVEN[2:])
    assert "Your training code says which is right; give it with --profile" in text
    given = option(text, "--profile", profile)
    equal(after_options(path, tmp_path, *given, *GIVEN[2:]), forward(layers, at_zero=1 if profile == "ge-zero" else -1))


def test_floats_that_are_no_pixels(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers))
    given = ("--profile", "ge-zero", "--bn-epsilon", EPSILON)
    x = np.random.default_rng(1).normal(size=(200, 24)).astype(f)
    with pytest.raises(InputError) as error:
        after_options(path, tmp_path, *given, "--input-range=-1:1", x=x)
    equal(after_options(path, tmp_path, *given, *option(str(error.value), "--input-real"), x=x), forward(layers, inputs=x))


def test_latents_beyond_h(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    for layer in layers:
        layer.weight *= f(2)
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers))
    (warning,) = (
        line for line in told(path, *GIVEN).splitlines() if "latents are larger than H" in line or "check --h" in line
    )
    found = after_options(path, tmp_path, *GIVEN, *option(warning, "--h", "2"))
    equal(found, forward(layers, weights=lambda n, w: 2 * signs(w, 1)))


# ---------------------------------------------------------------- the file's own evidence

PIXELS = ("--profile", "ge-zero", "--input-range", "-1:1")


def leaky(value: Array) -> Array:
    return np.where(value > 0, value, 0.01 * value)


def sigmoid(value: Array) -> Array:
    return 1 / (1 + np.exp(-value))


def by_mean(weight: Array) -> Array:
    return ge(weight) * np.abs(weight).mean(axis=1, keepdims=True)


def by_layer(weight: Array) -> Array:
    return ge(weight) * np.abs(weight).mean()


def glorot(weight: Array) -> Array:
    return ge(weight) * np.sqrt(1.5 / sum(weight.shape))


def clip(value: Array) -> Array:
    return np.clip(value, -1, 1)


#: What the network does that its file does not say; the option, and what its place in the text is filled with.
EVIDENCE: dict[str, tuple[dict[str, Any], str, str]] = {
    "relu": ({"before": relu}, "--before-norm", "relu"),
    "leaky relu": ({"before": leaky}, "--before-norm", "leaky-relu:0.01"),
    "sigmoid, which is above 0": ({"before": sigmoid}, "--before-norm", "sigmoid"),
    "tanh": ({"before": np.tanh}, "--before-norm", "tanh"),
    "hardtanh": ({"before": clip}, "--before-norm", "hardtanh"),
    "scaled weights": ({"weights": by_mean, "size": 0.2}, "--scale-by", "mean-abs"),
    "weights scaled by layer": ({"weights": by_layer, "size": 0.2}, "--scale-by", "mean-abs-layer"),
    "centred weights": ({"weights": lambda w: ge(w - w.mean(axis=1, keepdims=True)), "shift": 0.3}, "--center", ""),
    "H of Glorot": ({"weights": glorot, "size": 0.09}, "--h", "glorot"),
    "large scales": ({"weights": by_mean, "size": 40.0}, "--scale-by", "mean-abs"),
    "an H of 20": ({"weights": lambda w: 20 * ge(w)}, "--h", "20"),
}


def of_evidence(layers: list[Layer], given: dict[str, Any]) -> Array:
    weights: Callable[[Array], Array] = given.get("weights", ge)
    before = given.get("before", same)
    last = len(layers) - 1
    return forward(
        layers,
        lambda n, value: value if n == last else before(value),
        inputs=images(0)[:200] / 127.5 - 1,
        weights=lambda n, weight: weights(weight),
        epsilon=1e-5,
    )


@pytest.mark.parametrize("case", EVIDENCE)
def test_what_statistics_contradict(tmp_path: Path, case: str) -> None:
    given, name, value = EVIDENCE[case]
    layers = network(**given)
    path = state(tmp_path, layers)
    text = told(path, *PIXELS)
    assert name in text
    assert value.partition(":")[0] in text or "say the magnitude" in text
    found = after_options(path, tmp_path, *PIXELS, *option(text, name, value), x=images(0)[:200].astype(np.uint8))
    equal(found, of_evidence(layers, given))


@pytest.mark.parametrize("how", ["statistics", "weights", "guess"])
def test_a_float_head(tmp_path: Path, how: str) -> None:
    """Told by its sums, by the weights of all others, or by nothing: the network then reads hardtanh."""
    layers = network(head=same, size=0.1 if how == "statistics" else 0.5)
    if how != "statistics":
        layers[2].mean = layers[2].variance = layers[2].gamma = layers[2].beta = None
    if how == "weights":
        for layer in layers[:2]:
            layer.weight = ge(layer.weight).astype(f)
    path = state(tmp_path, layers)
    given = option(told(path, *PIXELS), "--float-layer", "fc3")
    x = images(0)[:200].astype(np.uint8)
    hidden = of_evidence(layers[:2], {})
    # forward gives BatchNorm's values of the last layer, which the head reads clipped
    value = np.clip(hidden, -1, 1) @ layers[2].weight.astype(np.float64).T + layers[2].bias
    if layers[2].mean is not None:
        assert layers[2].variance is not None
        value = (value - layers[2].mean) / np.sqrt(layers[2].variance + 1e-5) * layers[2].gamma + layers[2].beta
    equal(after_options(path, tmp_path, *PIXELS, *given, x=x), value)


@pytest.mark.parametrize("widths", [(100, 48, 32, 10), (100, 48, 10)], ids=len)
def test_float_layers_behind_a_first_one(tmp_path: Path, widths: tuple[int, ...]) -> None:
    """Whose sums are too small: each is named."""
    layers = network(weights=lambda w: ge(w) if len(w) == 48 else w, after=clip, size=0.05, widths=widths)
    path = state(tmp_path, layers)
    given = re.findall(r"--float-layer (\w+)", told(path, *PIXELS))
    assert given == ["fc2", "fc3"][: len(widths) - 2]
    x = images(0)[:200]
    value = x / 127.5 - 1
    for n, layer in enumerate(layers):
        assert layer.mean is not None
        assert layer.variance is not None
        value = (np.clip(value, -1, 1) if n else value) @ (layer.weight.astype(np.float64) if n else ge(layer.weight)).T
        value = (value + layer.bias - layer.mean) / np.sqrt(layer.variance + 1e-5) * layer.gamma + layer.beta
    options = [f"--float-layer={name}" for name in given]
    equal(after_options(path, tmp_path, *PIXELS, *options, x=x.astype(np.uint8)), value)


@pytest.mark.parametrize("floats", [(0,), (0, 3), (1,)], ids=["first", "first and last", "middle"])
def test_float_layers_before_binary_ones(tmp_path: Path, floats: tuple[int, ...]) -> None:
    """Named one after the other, by their sums."""
    widths = (100, 64, 48, 32, 10)
    layers = network(weights=lambda w: w if widths[1:].index(len(w)) in floats else ge(w), size=0.05, widths=widths)
    path = state(tmp_path, layers)
    given: list[str] = []
    for n in sorted(floats, reverse=True):
        given += option(told(path, *PIXELS, *given), "--float-layer", f"fc{n + 1}")
    x = images(0)[:200]
    value = x / 127.5 - 1
    for n, layer in enumerate(layers):
        assert layer.mean is not None
        assert layer.variance is not None
        weight = layer.weight.astype(np.float64) if n in floats else ge(layer.weight)
        reads = value if not n else np.clip(value, -1, 1) if n in floats else ge(value)
        value = (reads @ weight.T + layer.bias - layer.mean) / np.sqrt(layer.variance + 1e-5) * layer.gamma + layer.beta
    equal(after_options(path, tmp_path, *PIXELS, *given, x=x.astype(np.uint8)), value)


@pytest.mark.parametrize("behind", [relu, clip], ids=["relu", "hardtanh"])
def test_a_network_of_floats_is_none_whatever_is_said(tmp_path: Path, behind: Callable[[Array], Array]) -> None:
    """No option is proposed that would only lead to the next refusal."""
    path = state(tmp_path, network(weights=same, after=behind, size=0.2))
    text = told(path, *PIXELS)
    assert "a network of float layers cannot be converted" in text
    assert "--float-layer" not in text


def test_a_matrix_behind_the_head(tmp_path: Path) -> None:
    layers = network(widths=(100, 64, 48, 10))
    extra = np.random.default_rng(5).uniform(-1, 1, (10, 10)).astype(f)
    path = write_npz(tmp_path / "net.npz", **state_arrays(layers), **{"extra.weight": extra})
    given = option(told(path, *PIXELS), "--ignore")
    equal(after_options(path, tmp_path, *PIXELS, *given, x=images(0)[:200].astype(np.uint8)), of_evidence(layers, {}))


@pytest.mark.parametrize("how", ["profile", "values"])
def test_bits_that_are_read_as_latents(tmp_path: Path, how: str) -> None:
    layers = network()
    wanted = of_evidence(layers, {})
    for layer in layers:
        layer.weight = (layer.weight >= 0).astype(f)
    path = in_npz(tmp_path, layers)
    text, x = told(path, *PIXELS), images(0)[:200].astype(np.uint8)
    if how == "profile":
        profile = option(text[text.index("they are bits") :], "--profile")
        equal(after_options(path, tmp_path, *profile, *PIXELS[2:], "--bn-epsilon", "1e-5", x=x), wanted)
    else:
        (line,) = lines_of(text, "they are bits")
        equal(networks(path, with_pixels(toml([named(n) for n in range(3)], {n: [line] for n in range(3)})), x), wanted)


def with_pixels(text: str) -> str:
    return text.replace("signs = true", "range = [-1, 1]").replace(f"epsilon = {EPSILON}", "epsilon = 1e-5")


def test_weights_that_are_stored_elsewhere(tmp_path: Path) -> None:
    layers = network()
    arrays = named_arrays(layers) | {"1.weight": np.zeros_like(layers[1].weight)}
    path = write_npz(tmp_path / "net.npz", **arrays)
    (line,) = lines_of(told(path, *PIXELS), "all weights are 0")
    path = write_npz(tmp_path / "net.npz", **arrays, other=layers[1].weight)
    text = toml([named(n) for n in range(3)], {1: [filled(line, '"other"')]}, top='ignore = ["1.weight"]')
    equal(networks(path, with_pixels(text), images(0)[:200].astype(np.uint8)), of_evidence(layers, {}))


def test_a_variance_that_is_called_inv_std(tmp_path: Path) -> None:
    layers = network()
    wanted = of_evidence(layers, {})
    for layer in layers:
        layer.inv_std, layer.variance = layer.variance, None
    path = in_npz(tmp_path, layers)
    (line,) = lines_of(told(path, *PIXELS), "as a variance it fits")
    said = {}
    for n in range(3):
        roles = (f'"{n}.bn.{name}"' for name in ("gamma", "beta", "mean", "inv_std"))
        said[n] = [filled(line, *roles).replace("}", ', form = "tf"}')]
    text = toml([named(n) for n in range(3)], said)
    equal(networks(path, with_pixels(text), images(0)[:200].astype(np.uint8)), wanted)


def test_layers_in_another_order(tmp_path: Path) -> None:
    layers = network(widths=(100, 40, 40, 40, 10))
    order = [0, 2, 1, 3]
    path = in_npz(tmp_path, [layers[n] for n in order])
    text = told(path, *PIXELS)
    assert "a net.toml (--net) can say the order of [[layers]] and each `norm`" in text
    found = networks(path, with_pixels(toml([named(n) for n in order])), images(0)[:200].astype(np.uint8))
    equal(found, of_evidence(layers, {}))


def test_a_head_of_latents_behind_signs(tmp_path: Path) -> None:
    """All other weights are stored as -1 and +1; the head is binarized in use, too."""
    layers = network()
    layers[2].mean = layers[2].variance = layers[2].gamma = layers[2].beta = None
    for layer in layers[:2]:
        layer.weight = ge(layer.weight).astype(f)
    path = in_npz(tmp_path, layers)
    (line,) = lines_of(told(path, *PIXELS), "are exactly -1 and +1")
    names = [named(0), named(1), {role: named(2)[role] for role in ("weight", "bias")}]
    found = networks(path, with_pixels(toml(names, {2: [line]})), images(0)[:200].astype(np.uint8))
    equal(found, of_evidence(layers, {}))


def test_nothing_between_sums_and_batch_norm(tmp_path: Path) -> None:
    """Means of one sign, and yet no ReLU: a net.toml says so by saying nothing."""
    layers = network(before=relu)
    path = in_npz(tmp_path, layers)
    assert "a net.toml (--net) that there is nothing" in told(path, *PIXELS)
    found = networks(path, with_pixels(toml([named(n) for n in range(3)])), images(0)[:200].astype(np.uint8))
    equal(found, of_evidence(layers, {}))


@pytest.mark.parametrize("trained", ["0:255", "0:1"])
def test_a_range_that_statistics_leave(tmp_path: Path, trained: str) -> None:
    low, high = map(float, trained.split(":"))
    layers = network(enters=lambda p: p / 255 * (high - low) + low)
    path = state(tmp_path, layers)
    text = told(path, "--profile", "ge-zero")
    given = option(text[re.search(r"by these statistics|statistics leave", text).start() :], "--input-range")  # type: ignore[union-attr]
    if trained == "0:255":
        assert given == ["--input-range=0:255"]
    given = option(text, "--input-range", trained)
    found = after_options(path, tmp_path, "--profile", "ge-zero", *given, x=images(0)[:200].astype(np.uint8))
    value = images(0)[:200] / 255 * (high - low) + low
    equal(found, forward(layers, inputs=value, epsilon=1e-5))


#: Option, its value, what it makes of inputs, inputs.
ENTERS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "--input-range": ("0:1", lambda p: p / 255),
    "--input-normalize": ("0.5:0.25", lambda p: (p / 255 - 0.5) / 0.25),
    "--input-threshold": ("100", lambda p: np.where(p >= 100, 1, -1)),
    "--input-signs": ("", same),
    "--input-real": ("", same),
}


@pytest.mark.parametrize("name", ENTERS)
@pytest.mark.parametrize("source", ["arrays", "graph"])
def test_how_inputs_enter(tmp_path: Path, source: str, name: str) -> None:
    """Where nothing says it, the warning names all options."""
    value, enters = ENTERS[name]
    layers = random_layers([24, 18, 6] if source == "arrays" else [24, 6], 3, head_norm=False)
    layers[0].mean = layers[0].variance = layers[0].gamma = layers[0].beta = None
    rng = np.random.default_rng(2)
    x: Array = rng.integers(0, 256, (200, 24), np.uint8)
    if name in ("--input-signs", "--input-real"):
        x = rows() if name == "--input-signs" else rng.normal(size=(200, 24)).astype(f)
    if source == "arrays":
        path, given = write_npz(tmp_path / "net.npz", **named_arrays(layers)), ["--profile", "ge-zero"]
    else:
        layers[0].bias, given = None, []
        nodes = [node("MatMul", ["x", "w"], "y")]
        path = write(tmp_path / "net.onnx", nodes, {"w": signs(layers[0].weight, 1).T.astype(f)}, "y")
    found = after_options(
        path, tmp_path, *given, *option(told(path, *given, "--format", "npz" if given else "onnx"), name, value), x=x
    )
    equal(found, forward(layers, inputs=enters(x.astype(np.float64))))


# ---------------------------------------------------------------- graphs

WEIGHT = signs(np.random.default_rng(7).uniform(-1, 1, (12, 3)), 1).astype(f)


def graph(folder: Path, constants: dict[str, float], *operations: tuple[str, str]) -> Path:
    """Operations on the input, each with a constant, a sign for "Sign", then the layer."""
    nodes, last = [], "x"
    for n, (operation, constant) in enumerate(operations):
        nodes.append(node(operation, [last, constant] if constant else [last], f"v{n}"))
        last = f"v{n}"
    nodes.append(node("MatMul", [last, "w"], "y"))
    return write(folder / "net.onnx", nodes, {"w": WEIGHT, **{k: np.array(v, f) for k, v in constants.items()}}, "y")


def pixels() -> Array:
    return np.random.default_rng(3).integers(0, 256, (300, 12), dtype=np.uint8)


#: Constants, operations, options first given, words of the refusal, option and what fills it, what the graph computes.
GRAPHS: dict[str, tuple[dict[str, float], list[tuple[str, str]], list[str], str, str, str, Callable[[Array], Array]]] = {
    "a pixel that gives 0": (
        {"c": 51},
        [("Sub", "c"), ("Sign", "")],
        ["--input-range", "0:255"],
        "gives 0 for pixel 51",
        "--profile",
        "",
        lambda p: np.where(p >= 51, 1, -1),
    ),
    "no step": (
        {"c": 99.5},
        [("Sub", "c"), ("Sign", "")],
        ["--input-range", "0:1"],
        "no step from -1 up to",
        "--input-range",
        "0:255",
        lambda p: np.where(p >= 100, 1, -1),
    ),
    "a graph that computes with signs": (
        {"c": 1 / 255},
        [("Mul", "c")],
        ["--input-signs"],
        "the graph computes with its input",
        "--input-range",
        "0:255",
        same,
    ),
    "a graph that binarizes signs": (
        {"c": 99.5},
        [("Sub", "c"), ("Sign", "")],
        ["--input-signs"],
        "binarizes the input, which the mapping",
        "--input-range",
        "0:255",
        lambda p: np.where(p >= 100, 1, -1),
    ),
    "infinity": (
        {"c": 2e36},
        [("Mul", "c")],
        ["--input-range", "0:255"],
        "takes pixels out of the range of float32",
        "--input-range",
        "0:1",
        same,
    ),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_what_a_graph_makes_of_its_input(tmp_path: Path, case: str) -> None:
    constants, operations, first, words, name, value, enters = GRAPHS[case]
    path = graph(tmp_path, constants, *operations)
    text = told(path, *first)
    assert words in text
    given = option(text[text.index(words) :], name, value)
    if name == "--profile":
        given += first
    found = after_options(path, tmp_path, *given, x=pixels())
    wanted = enters(pixels().astype(np.float64)) @ WEIGHT
    unit = {"infinity": 2e36 / 255, "a graph that computes with signs": 1 / 255}.get(case, 1.0)
    np.testing.assert_allclose(found / unit, wanted, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1))

"""What training code does and a checkpoint does not hold, said by options or in a net.toml, against plain numpy and PyTorch.

Functions between sum and BatchNorm, weights centred and scaled before their sign, networks without BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import Layer, named_arrays, random_layers, signs, write_npz
from command_line import fine, wrong
from numpy.typing import NDArray
from onnx_writer import node, write

import xnorinfer
from xnorinfer.conversion import convert_file
from xnorinfer.converters import read_source
from xnorinfer.converters.reading import FUNCTION_NAMES, ConvertOptions, function_named
from xnorinfer.errors import NetworkError, OptionError
from xnorinfer.net.values import PixelInput, SignInput

f = np.float32
Array = NDArray[Any]
pytestmark = pytest.mark.filterwarnings("ignore::xnorinfer.ConversionWarning")

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, f(0)),
    "leaky-relu": lambda x: np.where(x > 0, x, f(0.01) * x),
    "leaky-relu:0.3": lambda x: np.where(x > 0, x, f(0.3) * x),
    "tanh": lambda x: np.tanh(x.astype(np.float64)).astype(f),
    "sigmoid": lambda x: (1 / (1 + np.exp(-x.astype(np.float64)))).astype(f),
    "hardtanh": lambda x: np.clip(x, f(-1), f(1)),
    "clip:0:6": lambda x: np.clip(x, f(0), f(6)),
}


def identity(x: Array) -> Array:
    return x


def forward(
    layers: list[Layer], x: Array, function: Callable[[Array], Array] = identity, weights: list[Array] | None = None
) -> Array:
    """Scores in float32, operation by operation (TensorFlow's order of BatchNorm), of inputs -1/+1; 0 is +1."""
    value = x.astype(f)
    for index, layer in enumerate(layers):
        sign = signs(layer.weight if weights is None else weights[index], 1)
        value = (value.astype(np.int64) @ sign.T.astype(np.int64)).astype(f)
        value = value if layer.bias is None else value + layer.bias
        last = index + 1 == len(layers)
        value = value if last else function(value)
        if layer.mean is not None:
            assert layer.variance is not None
            scale = f(1) / np.sqrt(layer.variance + f(1e-3)) * layer.gamma
            value = value * scale + (layer.beta - layer.mean * scale)
        value = value if last else np.where(value >= 0, f(1), f(-1))
    return value


def inputs(depth: int, rows: int = 300) -> Array:
    return np.random.default_rng(depth).choice(np.array([-1, 1], np.int8), (rows, depth))


OPTIONS: dict[str, Any] = {"profile": "ge-zero", "input": SignInput(), "bn_epsilon": 1e-3, "threads": 1}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_before_batch_norm(tmp_path: Path, function: str) -> None:
    """By option, by the top of a net.toml and layer by layer: one network, numpy's, and not the one without the function."""
    layers = random_layers([24, 18, 14, 6], 3)
    for layer in layers:
        layer.mean = np.abs(layer.mean) % f(3)
    path, x = write_npz(tmp_path / "net.npz", **named_arrays(layers)), inputs(24)
    want = forward(layers, x, FUNCTIONS[function])
    model = xnorinfer.convert(path, before_norm=function, **OPTIONS)
    assert (model.scores(x) == want).all()
    assert (want != forward(layers, x)).any()
    said = [f'before_norm = "{function}"', "", ""], ["", f'before_norm = "{function}"', f'before_norm = "{function}"']
    for top, first, second in said:
        assert (xnorinfer.convert(path, net=toml(top, [first, second, ""]), threads=1).scores(x) == want).all()


def toml(top: str, lines: list[str]) -> str:
    text = 'profile = "ge-zero"\nlayout = "out_in"\nepsilon = 1e-3\nform = "tf"\n' + f"{top}\n[input]\nsigns = true\n"
    for i, line in enumerate(lines):
        norm = ", ".join(f'{key} = "{i}.bn.{name}"' for key, name in NORM.items())
        text += f'[[layers]]\nname = "{i}"\nweight = "{i}.weight"\nbias = "{i}.bias"\nnorm = {{{norm}}}\n{line}\n'
    return text


NORM = {"mean": "mean", "variance": "var", "gamma": "gamma", "beta": "beta"}


def test_slopes_of_a_prelu_in_a_net_toml(tmp_path: Path) -> None:
    layers = random_layers([24, 18, 6], 5)
    layers[0].mean = np.abs(layers[0].mean) % f(3)
    slopes = np.random.default_rng(1).uniform(0, 0.9, 18).astype(f)
    path, x = write_npz(tmp_path / "net.npz", **named_arrays(layers), slopes=slopes[:, None]), inputs(24)
    want = forward(layers, x, lambda v: np.where(v > 0, v, slopes * v))
    assert (xnorinfer.convert(path, net=toml("", ['prelu = "slopes"', ""]), threads=1).scores(x) == want).all()
    falling = write_npz(tmp_path / "falling.npz", **named_arrays(layers), slopes=-slopes)
    want = forward(layers, x, lambda v: np.where(v > 0, v, -slopes * v))
    assert (xnorinfer.convert(falling, net=toml("", ['prelu = "slopes"', ""]), threads=1).scores(x) == want).all()
    with pytest.raises(NetworkError, match=r"layers\[0\].prelu: and before_norm exclude each other"):
        xnorinfer.convert(path, net=toml("", ['prelu = "slopes"\nbefore_norm = "relu"', ""]))


# ---------------------------------------------------------------- weights before their sign


def with_scales(layers: list[Layer], x: Array, weights: list[Array], scales: list[Array]) -> Array:
    value = x.astype(f)
    for index, (layer, weight, scale) in enumerate(zip(layers, weights, scales, strict=True)):
        value = (value.astype(np.int64) @ signs(weight, 1).T.astype(np.int64)).astype(f) * scale
        assert layer.variance is not None
        alpha = f(1) / np.sqrt(layer.variance + f(1e-3)) * layer.gamma
        value = value * alpha + (layer.beta - layer.mean * alpha)
        value = value if index + 1 == len(layers) else np.where(value >= 0, f(1), f(-1))
    return value


def exact_mean(values: Array) -> np.float32:
    """The mean by exact integer arithmetic on the bits of the floats, rounded once."""
    from fractions import Fraction

    return f(float(sum(Fraction(float(value)) for value in values.ravel()) / values.size))


def centred(weight: Array) -> Array:
    return np.stack([row - exact_mean(row) for row in weight])


ORDERS: dict[str, tuple[str, Callable[[Array], Array], Callable[[Array], Array]]] = {
    "centre, clip, magnitude": (
        'center = true\nclip_weights = 1\nscale_by = "mean-abs"',
        lambda w: np.clip(centred(w), f(-1), f(1)),
        lambda w: np.array([exact_mean(np.abs(row)) for row in np.clip(centred(w), f(-1), f(1))], f),
    ),
    "centre, magnitude": (
        'center = true\nscale_by = "mean-abs"',
        centred,
        lambda w: np.array([exact_mean(np.abs(row)) for row in centred(w)], f),
    ),
    "magnitude of what is stored": (
        'center = true\nscale_by = "mean-abs"\nscale_of = "stored"',
        centred,
        lambda w: np.array([exact_mean(np.abs(row)) for row in w], f),
    ),
    "magnitude of the layer": (
        'scale_by = "mean-abs-layer"',
        identity,
        lambda w: np.full(len(w), exact_mean(np.abs(w)), f),
    ),
}


def off_centre(widths: list[int], seed: int) -> list[Layer]:
    layers = random_layers(widths, seed, bias=False)
    rng = np.random.default_rng(seed)
    for layer in layers:
        layer.weight = (layer.weight + rng.standard_normal((len(layer.weight), 1)) * 0.4).astype(f)
        layer.mean = layer.mean / f(2)
    return layers


@pytest.mark.parametrize("order", ORDERS)
def test_orders_of_centring_and_scaling(tmp_path: Path, order: str) -> None:
    lines, weights_of, scales_of = ORDERS[order]
    layers = off_centre([30, 20, 16, 5], 8)
    path, x = write_npz(tmp_path / "net.npz", **named_arrays(layers)), inputs(30)
    weights, scales = [weights_of(layer.weight) for layer in layers], [scales_of(layer.weight) for layer in layers]
    want = with_scales(layers, x, weights, scales)
    text = "".join(line for line in toml("", [lines] * 3).splitlines(keepends=True) if not line.startswith("bias"))
    assert (xnorinfer.convert(path, net=text, threads=1).scores(x) == want).all()
    assert (want.argmax(axis=1) != forward(layers, x).argmax(axis=1)).any()
    if "clip" not in order and "stored" not in order:
        options = {"center": "center" in lines, "scale_by": lines.split('"')[1]}
        assert (xnorinfer.convert(path, **options, **OPTIONS).scores(x) == want).all()
        top = "".join(line for line in toml(lines, [""] * 3).splitlines(keepends=True) if not line.startswith("bias"))
        assert (xnorinfer.convert(path, net=top, threads=1).scores(x) == want).all()


def test_xnor_net_in_pytorch(tmp_path: Path) -> None:
    """Its `BinOp` (centre, clamp, sign, mean of |w|) run by PyTorch: the same classes, scores up to its rounding."""
    torch = pytest.importorskip("torch")
    layers = off_centre([30, 20, 16, 5], 9)
    path, x = write_npz(tmp_path / "net.npz", **named_arrays(layers)), inputs(30)
    text = toml('center = true\nscale_by = "mean-abs"', ["clip_weights = 1"] * 3)
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("bias"))
    got = xnorinfer.convert(path, net=text, threads=1).scores(x)
    value = torch.from_numpy(x.astype(f))
    for index, layer in enumerate(layers):
        weight = torch.from_numpy(layer.weight)
        weight = weight.add(weight.mean(1, keepdim=True).mul(-1)).clamp(-1.0, 1.0)
        scale = weight.norm(1, 1, keepdim=True).div(weight.shape[1])
        value = torch.nn.functional.linear(value, weight.sign().mul(scale.expand(weight.shape)))
        vectors = (torch.from_numpy(v) for v in (layer.mean, layer.variance, layer.gamma, layer.beta))
        value = torch.nn.functional.batch_norm(value, *vectors, False, 0.0, 1e-3)
        value = value if index == 2 else torch.where(value >= 0, 1.0, -1.0)
    assert (got.argmax(axis=1) == value.numpy().argmax(axis=1)).all()
    assert np.allclose(got, value.numpy(), rtol=1e-5, atol=1e-5)


def test_a_clip_that_only_a_net_toml_says_is_proposed(tmp_path: Path) -> None:
    layers = off_centre([30, 20, 5], 2)
    count = int((np.abs(centred(layers[0].weight)) > 1).sum())
    assert count
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers))
    options = ConvertOptions(profile="ge-zero", input=SignInput(), center=True, scale_by="mean-abs")
    warnings = [w for w in read_source(path, options).warnings if "clip_weights" in w]
    assert warnings[0].startswith(f"0: {count} centred weights lie beyond -1..1, where XNOR-Net-PyTorch clips before the mean")
    assert not any("check --h" in w for w in read_source(path, options).warnings)


# ---------------------------------------------------------------- without BatchNorm


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("before", [None, "tanh"])
def test_networks_without_batch_norm(tmp_path: Path, bias: bool, before: str | None) -> None:
    layers = random_layers([15, 12, 9, 4], 4, bias=bias)
    for layer in layers:
        layer.mean = layer.variance = layer.gamma = layer.beta = None
    path, x = write_npz(tmp_path / "net.npz", **named_arrays(layers)), inputs(15)
    want = forward(layers, x)  # tanh keeps signs
    options = ConvertOptions(profile="ge-zero", input=SignInput(), before_norm=before)
    conversion = convert_file(path, options)
    said = next(one for one in conversion.reading.assumptions if one.what == "BatchNorm")
    assert said.value == f"none in the file: hidden bits are the signs of sums{' and biases' if bias else ''}"
    assert said.origin == "default"
    assert sum("holds no BatchNorm" in warning for warning in conversion.warnings) == 1
    assert (xnorinfer.Model(conversion.packed, threads=1).scores(x) == want).all()


def test_one_missing_batch_norm_is_refused_and_the_hint_works(tmp_path: Path) -> None:
    layers = random_layers([24, 18, 14, 6], 6, bias=False)
    layers[1].mean = layers[1].variance = layers[1].gamma = layers[1].beta = None
    path, x = write_npz(tmp_path / "net.npz", **named_arrays(layers)), inputs(24)
    refused = wrong("convert", path, "--dry-run", "--profile", "ge-zero")
    assert "1: no BatchNorm between this hidden binary layer and 2, while other layers have one" in refused
    assert '`activation = "sign"`' in refused
    text = "".join(line for line in toml("", [""] * 3).splitlines(keepends=True) if not line.startswith("bias"))
    lines = [line for line in text.splitlines() if '"1.bn' not in line]
    lines.insert(lines.index('weight = "1.weight"'), 'activation = "sign"')
    assert (xnorinfer.convert(path, net="\n".join(lines), threads=1).scores(x) == forward(layers, x)).all()


# ---------------------------------------------------------------- what cannot be meant


def test_a_layer_whose_neurons_are_all_dead_is_a_warning(tmp_path: Path) -> None:
    layers = random_layers([24, 18, 14, 6], 6)
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers))
    options = ConvertOptions(profile="ge-zero", input=SignInput(), bn_epsilon=1e-3)
    assert not [w for w in convert_file(path, options).warnings if "dead" in w]
    layers[1].beta = np.where(np.arange(14) < 5, f(1e6), f(-1e6))
    path = write_npz(tmp_path / "dead.npz", **named_arrays(layers))
    found = [w for w in convert_file(path, options).warnings if "dead" in w]
    assert len(found) == 1
    assert found[0].startswith(
        "1: all 14 neurons are dead: whatever the input, 9 are -1, 5 are +1, and all samples get the same"
    )


# ---------------------------------------------------------------- the options themselves


def test_options_are_recorded_and_checked(tmp_path: Path) -> None:
    options = ConvertOptions(before_norm="leaky-relu:0.1", center=True, scale_by="mean-abs")
    assert ConvertOptions.from_json(options.to_json()) == options
    assert ConvertOptions().to_json() == {}
    for name in ("relu:1", "prelu", "leaky-relu:x", "leaky-relu:1:2", "clip:1", "clip:2:1", "clip:nan:1", "", 5, None):
        with pytest.raises(OptionError, match=FUNCTION_NAMES.partition(",")[0]):
            function_named(name, "before_norm")
    for given in ({"before_norm": "swish"}, {"center": 1}, {"scale_by": "max"}, {"scale_by": []}, {"before_norm": 4}):
        with pytest.raises(OptionError):
            ConvertOptions(**given)
    path = write_npz(tmp_path / "net.npz", **named_arrays(random_layers([24, 18, 6], 5)))
    with pytest.raises(OptionError, match="before_norm: use before_norm; center: use center; scale_by: use scale_by"):
        convert_file(path, ConvertOptions(net="x", before_norm="relu", center=True, scale_by="mean-abs"))
    model = tmp_path / "m.safetensors"
    said = fine("convert", path, "-o", model, "--center", "--scale-by", "mean-abs", "--before-norm", "leaky-relu")
    for line in ("signs of the latents minus their neuron's mean", "mean of |weights| of each neuron", "leaky-relu "):
        assert line in said
    assert "holds" in fine("verify", model, path)


def test_options_that_a_graph_says_itself_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "net.onnx"
    nodes = [node("Sign", ["w1"], "s1"), node("MatMul", ["x", "s1"], "a"), node("Sign", ["a"], "b")]
    nodes += [node("Sign", ["w2"], "s2"), node("MatMul", ["b", "s2"], "y")]
    weights = {"w1": rng.uniform(0.1, 1, (8, 5)).astype(f), "w2": rng.uniform(0.1, 1, (5, 3)).astype(f)}
    write(path, nodes, weights, "y")
    given: list[dict[str, Any]] = [{"before_norm": "relu"}, {"center": True}, {"scale_by": "mean-abs"}]
    for option in given:
        with pytest.raises(OptionError, match="means nothing for a graph, which says itself what is computed"):
            read_source(path, ConvertOptions(profile="ge-zero", input=PixelInput.range(-1, 1), **option))

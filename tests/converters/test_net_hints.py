"""Hints are followed: what a refusal or a warning of `assemble` and of a net.toml proposes gives the network that was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import Layer, named_arrays, random_layers, signs, write_npz
from numpy.typing import NDArray

import xnorinfer
from xnorinfer.conversion import convert_file
from xnorinfer.converters.nettoml.draft import draft_text
from xnorinfer.converters.nettoml.writer import net_text
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.errors import NetworkError
from xnorinfer.float32 import fma
from xnorinfer.net.values import SignInput

f = np.float32
Array = NDArray[Any]
OPTIONS = ConvertOptions(profile="ge-zero", input=SignInput(), bn_epsilon=1e-3)
pytestmark = pytest.mark.filterwarnings("ignore::xnorinfer.ConversionWarning")


def norm(layer: Layer, value: Array) -> Array:
    if layer.mean is None:
        return value
    assert layer.variance is not None
    scale = f(1) / np.sqrt(layer.variance + f(1e-3)) * layer.gamma
    return np.asarray(value * scale + (layer.beta - layer.mean * scale))


def dot(layer: Layer, value: Array) -> Array:
    total = (value.astype(np.int64) @ signs(layer.weight, 1).T.astype(np.int64)).astype(f)
    return total if layer.bias is None else total + layer.bias


def float_dot(layer: Layer, value: Array) -> Array:
    """Fused multiply-adds in input order."""
    total = np.zeros((len(value), len(layer.weight)), f)
    for column, weights in zip(value.T, layer.weight.T, strict=True):
        total = fma(np.broadcast_to(column[:, None], total.shape), np.broadcast_to(weights, total.shape), total)
    return total if layer.bias is None else total + layer.bias


def sign(value: Array) -> Array:
    return np.where(value >= 0, f(1), f(-1))


def rows(depth: int) -> Array:
    return np.random.default_rng(depth).choice(np.array([-1, 1], np.int8), (200, depth))


def scores(path: Path, toml: str) -> Array:
    return xnorinfer.convert(path, net=toml, threads=1).scores(rows(24))


def refusal(path: Path, options: ConvertOptions = OPTIONS) -> tuple[str, str]:
    """What is said, and the draft that goes with it, without the line that makes it one."""
    with pytest.raises(NetworkError) as error:
        convert_file(path, options)
    draft = draft_text(path, error.value, ConvertOptions())
    return str(error.value), "\n".join(line for line in draft.splitlines() if not line.startswith("draft ="))


def within(toml: str, layer: str, line: str) -> str:
    """A line more in the table of a layer."""
    before, name, after = toml.partition(f'name = "{layer}"\n')
    assert name
    return f"{before}{name}{line}\n{after}"


@pytest.mark.parametrize("activation", ["sign", "none", "hardtanh"])
def test_what_a_float_layer_reads(tmp_path: Path, activation: str) -> None:
    layers = random_layers([24, 18, 6], 3, head_norm=False)
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers))
    options = ConvertOptions(profile="ge-zero", input=SignInput(), bn_epsilon=1e-3, float_layers=("1",))
    conversion = convert_file(path, options)
    warning = next(w for w in conversion.warnings if "hardtanh" in w)
    if activation != "hardtanh":
        assert f'`activation = "{activation}"`' in warning
    toml = net_text(path, conversion.reading, options).replace('activation = "hardtanh"', f'activation = "{activation}"')
    hidden = norm(layers[0], dot(layers[0], rows(24)))
    reads = {"sign": sign(hidden), "none": hidden, "hardtanh": np.clip(hidden, f(-1), f(1))}[activation]
    assert (scores(path, toml) == float_dot(layers[1], reads)).all()


@pytest.mark.parametrize("said", ["activation", "norm", "threshold"])
def test_a_missing_batch_norm(tmp_path: Path, said: str) -> None:
    """It is none; or the file has it under other names; or thresholds."""
    layers = random_layers([24, 18, 14, 6], 6)
    arrays = named_arrays(layers)
    lost = layers[1]
    assert lost.mean is not None
    names = {"mean": "other/m", "variance": "other/v", "gamma": "other/g", "beta": "other/b"}
    vectors = {name: getattr(lost, key) for key, name in names.items()}
    arrays = {key: array for key, array in arrays.items() if not key.startswith("1.bn")}
    thresholds = {"t": np.arange(14, dtype=np.int64) - 5}
    extra: dict[str, Array] = {"norm": vectors, "threshold": thresholds, "activation": {}}[said]  # type: ignore[assignment]
    path = write_npz(tmp_path / "net.npz", **arrays)
    text, toml = refusal(path)
    assert f"`{said} = " in text
    path = write_npz(tmp_path / "net.npz", **arrays, **extra)
    line = {
        "activation": 'activation = "sign"',
        "norm": f'norm = {{{", ".join(f"""{key} = "{name}" """ for key, name in names.items())}, epsilon = 1e-3, form = "tf"}}',
        "threshold": 'threshold = {value = "t", on = "sum", compare = ">="}',
    }[said]
    one = sign(norm(layers[0], dot(layers[0], rows(24))))
    sums = dot(lost, one)
    two = {"activation": sign(sums), "norm": sign(norm(lost, sums)), "threshold": sign(sums - thresholds["t"])}[said]
    assert (scores(path, within(toml, "1", line)) == norm(layers[2], dot(layers[2], two))).all()


def test_a_file_without_batch_norm_whose_thresholds_stand_elsewhere(tmp_path: Path) -> None:
    layers = random_layers([24, 18, 6], 7, head_norm=False)
    layers[0].mean = layers[0].variance = layers[0].gamma = layers[0].beta = None
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers))
    conversion = convert_file(path, OPTIONS)
    warning = next(w for w in conversion.warnings if "holds no BatchNorm" in w)
    toml = net_text(path, conversion.reading, OPTIONS)
    shift = np.arange(18, dtype=f) - f(8.5)
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers), t=shift)
    for line in ('threshold = {value = "t", on = "sum", compare = ">="}', 'steps = [{sub = "t"}]'):
        assert f"`{line.partition(' ')[0]} = " in warning
        want = dot(layers[1], sign(dot(layers[0], rows(24)) - shift))
        assert (scores(path, within(toml, "0", line)) == want).all()


def test_the_clip_that_xnor_net_has(tmp_path: Path) -> None:
    layers = random_layers([24, 18, 6], 8, bias=False)
    layers[0].weight = (layers[0].weight * 2).astype(f)
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers))
    options = ConvertOptions(profile="ge-zero", input=SignInput(), bn_epsilon=1e-3, center=True, scale_by="mean-abs")
    warning = next(w for w in convert_file(path, options).warnings if "XNOR-Net-PyTorch" in w)
    assert warning.endswith("`clip_weights = 1`")
    plain = convert_file(path, OPTIONS).reading
    toml = 'center = true\nscale_by = "mean-abs"\n' + within(net_text(path, plain, OPTIONS), "0", "clip_weights = 1")
    value = rows(24).astype(f)
    for index, layer in enumerate(layers):
        mean = layer.weight.mean(axis=1, dtype=np.float64, keepdims=True).astype(f)
        weight = np.clip(layer.weight - mean, f(-1), f(1)) if index == 0 else layer.weight - mean
        scale = np.abs(weight).mean(axis=1, dtype=np.float64).astype(f)
        value = norm(layer, dot(Layer(weight), value) * scale)
        value = value if index else sign(value)
    assert (scores(path, toml) == value).all()


@pytest.mark.parametrize("how", ["order", "layout"])
def test_the_order_and_the_layout_of_layers(tmp_path: Path, how: str) -> None:
    """Layers that do not fit each other: the order of [[layers]] or the layout is what the hint names."""
    layers = random_layers([24, 18, 6], 9)
    arrays = named_arrays(layers)
    if how == "order":
        swapped = {f"{1 - int(key[0])}{key[1:]}": array for key, array in arrays.items()}
    else:
        swapped = {key: array.T if key.endswith("weight") else array for key, array in arrays.items()}
    path = write_npz(tmp_path / "net.npz", **swapped)
    text, toml = refusal(path)
    assert "the order of [[layers]] in a net.toml (--net) decides what follows what, `layout` which axis is which" in text
    if how == "order":
        head, *tables = toml.split("[[layers]]\n")
        toml = "[[layers]]\n".join([head, tables[1] + "\n", tables[0]])
    else:
        toml = toml.replace('layout = "out_in"', 'layout = "in_out"')
    want = norm(layers[1], dot(layers[1], sign(norm(layers[0], dot(layers[0], rows(24))))))
    assert (scores(path, toml) == want).all()


def test_vectors_that_belong_elsewhere(tmp_path: Path) -> None:
    """Biases of two layers changed places: the hint names the keys that say which array is whose."""
    layers = random_layers([24, 18, 6], 9)
    arrays = named_arrays(layers)
    arrays["0.bias"], arrays["1.bias"] = arrays["1.bias"], arrays["0.bias"]
    path = write_npz(tmp_path / "net.npz", **arrays)
    text, toml = refusal(path)
    assert "`norm`, `bias` and `scale` in a net.toml (--net) say which array is whose" in text
    toml = toml.replace('bias = "0.bias"', "@").replace('bias = "1.bias"', 'bias = "0.bias"').replace("@", 'bias = "1.bias"')
    want = norm(layers[1], dot(layers[1], sign(norm(layers[0], dot(layers[0], rows(24))))))
    assert (scores(path, toml) == want).all()


def test_a_float_layer_among_binary_ones(tmp_path: Path) -> None:
    layers = random_layers([24, 18, 14, 6], 6, bias=False)
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers))
    wrong = ConvertOptions(profile="ge-zero", input=SignInput(), bn_epsilon=1e-3, float_layers=("0", "1", "2"))
    text, toml = refusal(path, wrong)
    assert "0: no layer is binary; where its weights are binarized in use, `kind` in a net.toml (--net) says so" in text
    for index in (0, 2):
        before, name, after = toml.partition(f'name = "{index}"\n')
        toml = before + name + after.replace('kind = "float"', "", 1)
    toml = toml.replace('activation = "hardtanh"\n', "", 2)
    toml = within(toml, "0", 'activation = "hardtanh"')
    hidden = np.clip(norm(layers[0], dot(layers[0], rows(24))), f(-1), f(1))
    value = sign(norm(layers[1], float_dot(layers[1], hidden)))
    assert (scores(path, toml) == norm(layers[2], dot(layers[2], value))).all()
    given = ConvertOptions(profile="ge-zero", input=SignInput(), bn_epsilon=1e-3, float_layers=("1",))
    model = xnorinfer.Model(convert_file(path, given).packed, threads=1)
    assert (model.scores(rows(24)) == scores(path, toml)).all()

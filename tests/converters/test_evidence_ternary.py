"""Ternary networks whose latents are not 0 are told from binary ones by the means that BatchNorm saw.

As in `test_evidence_file`, networks here are numpy with random latents; what a layer makes of them, `use`, is in no file.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import Layer, lasagne_arrays, named_arrays, random_layers, write_npz
from places import PACKAGE_DATA
from test_evidence_file import OPTIONS, RANGE, WRITERS, findings, ge, network, refused, state

from xnorinfer.converters import read_source
from xnorinfer.converters.reading import ConvertOptions

Array = Any
Use = Callable[[Array], Array]
WIDTHS = (100, 96, 64, 10)


def ternary(threshold: float | Use) -> Use:
    return lambda w: np.where(np.abs(w) < (threshold(w) if callable(threshold) else threshold), 0.0, np.sign(w))


def in_turn(*uses: Use) -> Use:
    """What the layers do, each as often as it is asked: once."""
    left = iter(uses)
    return lambda w: next(left)(w)


def small(layers: Sequence[Layer], power: float) -> list[Layer]:
    """Latents pushed towards 0, as by weight decay; signs stay."""
    for layer in layers:
        layer.weight = (np.sign(layer.weight) * np.abs(layer.weight) ** power).astype(np.float32)
    return list(layers)


THRESHOLDS: dict[str, float | Use] = {
    "a tenth": 0.1,
    "a third": 0.33,
    "most": 0.8,
    "TWN": lambda w: 0.7 * np.abs(w).mean(),
    "TWN, of neurons": lambda w: 0.7 * np.abs(w).mean(axis=1, keepdims=True),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_ternary_networks_are_refused_with_what_they_have(threshold: str, writer: str, tmp_path: Path) -> None:
    layers = network(weights=ternary(THRESHOLDS[threshold]), widths=WIDTHS)
    path = WRITERS[writer](tmp_path, layers)
    text = refused(path)
    assert "the network is ternary" in text
    assert "--expect" in text
    found = [float(share) for share in re.findall(r"(\d+)% of \S+'s \(below", text)][:2]
    used = [np.mean(ternary(THRESHOLDS[threshold])(layer.weight) == 0) * 100 for layer in layers[:2]]
    assert found == pytest.approx(used, abs=4)


@pytest.mark.parametrize("seed", [53, 182, 189, 207])
def test_statistics_that_are_any_numbers_show_no_ternary_weights(seed: int, tmp_path: Path) -> None:
    """By chance some ternary weights fit them far better than signs do, and yet explain next to nothing of them."""
    for widths in ((30, 40, 35, 6), (20, 64, 64, 10)):
        layers = random_layers(widths, seed, inv_std=seed % 2 == 1)
        arrays = {"args": lasagne_arrays(layers), "named": {}} if seed % 2 else {"args": [], "named": named_arrays(layers)}
        path = write_npz(tmp_path / "net.npz", *arrays["args"], **arrays["named"])
        reading = read_source(path, ConvertOptions())
        assert not any("ternary" in text for text in reading.warnings)


def test_larqs_own_threshold_and_numbered_arrays(tmp_path: Path) -> None:
    layers = network(weights=ternary(0.05), size=0.12, widths=WIDTHS)
    path = write_npz(tmp_path / "net.npz", *lasagne_arrays(with_inv_std(layers)))
    text = refused(path, ConvertOptions(profile="theano", input=RANGE(-1, 1)))
    assert "(below 0.05)" in text


def with_inv_std(layers: list[Layer]) -> list[Layer]:
    for layer in layers:
        assert layer.variance is not None
        layer.inv_std, layer.variance = 1 / np.sqrt(layer.variance + np.float32(1e-4)), None
    return layers


@pytest.mark.parametrize("which", range(2))
def test_one_ternary_layer_is_named_alone(which: int, tmp_path: Path) -> None:
    uses: list[Use] = [ge, ge, ge]
    uses[which] = ternary(0.33)
    text = refused(state(tmp_path, network(weights=in_turn(*uses), widths=WIDTHS)))
    assert re.findall(r"of (\S+)'s \(below", text) == [f"fc{which + 1}"]


def test_scaled_ternary_weights_are_refused_when_the_hint_is_followed(tmp_path: Path) -> None:
    def scaled(w: Array) -> Array:
        return ternary(THRESHOLDS["TWN"])(w) * np.abs(w).mean(axis=1, keepdims=True)

    path = state(tmp_path, network(weights=scaled, size=0.2, widths=WIDTHS))
    assert "--scale-by mean-abs" in refused(path)
    assert "the network is ternary" in refused(path, ConvertOptions(profile="ge-zero", input=RANGE(-1, 1), scale_by="mean-abs"))


def test_outputs_or_a_net_toml_decide(tmp_path: Path) -> None:
    path = state(tmp_path, network(weights=ternary(0.33), widths=WIDTHS))
    answered = ConvertOptions(profile="ge-zero", input=RANGE(-1, 1), answered=True)
    (warning,) = findings(read_source(path, answered))
    assert "the network is ternary" in warning


#: Binary networks: what they make of latents on average, and how latents are spread.
BINARY: dict[str, tuple[Use, float]] = {
    "plain": (ge, 1.0),
    "latents mostly small": (ge, 3.0),
    "latents decayed to nothing": (ge, 12.0),
    "small weights changed their signs while the means were taken": (lambda w: np.vectorize(math.erf)(w / 0.05), 1.0),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", BINARY)
def test_binary_networks_raise_no_alarm(kind: str, seed: int, tmp_path: Path) -> None:
    use, power = BINARY[kind]
    path = state(tmp_path, small(network(weights=use, widths=WIDTHS, seed=seed), power))
    assert not findings(read_source(path, OPTIONS))


def test_inputs_without_any_use_are_no_ternary_weights(tmp_path: Path) -> None:
    """Where pixels are always 0 weights get no gradient, decay, and add nothing: signs explain that as well."""
    unused = np.arange(100) < 40
    layers = network(widths=WIDTHS, enters=lambda p: p / 255 * ~unused)
    layers[0].weight[:, unused] *= 0.01
    assert not findings(read_source(state(tmp_path, layers), ConvertOptions(profile="ge-zero", input=RANGE(0, 1))))


@pytest.mark.parametrize(
    "use",
    [lambda w: np.round(w * 3.5 - 0.5) / 3.5 + 0.5 / 3.5, lambda w: np.clip(w * 3, -1, 1)],
    ids=["3 bits", "clipped floats"],
)
def test_weights_that_count_by_their_size_are_a_warning_at_least(use: Use, tmp_path: Path) -> None:
    options = ConvertOptions(profile="ge-zero", input=RANGE(-1, 1), answered=True)
    found = findings(read_source(state(tmp_path, network(weights=use, widths=WIDTHS)), options))
    assert re.search("the smaller weights of .*fc2 count for less", "\n".join(found))


# ---------------------------------------------------------------- trained in Larq

FRAMEWORKS = ("tensorflow", "tf_keras", "larq", "h5py")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantizer", ["ste_sign", "ste_tern"])
def test_weights_alone_of_trained_larq_networks(quantizer: str, tmp_path: Path) -> None:
    missing = [name for name in FRAMEWORKS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import larq
        import tf_keras as keras
    with np.load(PACKAGE_DATA / "digits-test.npz") as archive:
        x, y = archive["x"].astype(np.float32) / 127.5 - 1, archive["y"]
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((64,))])
    for index, neurons in enumerate((64, 64, 10)):
        signs = {"input_quantizer": "ste_sign"} if index else {}
        model.add(
            larq.layers.QuantDense(
                neurons, kernel_quantizer=quantizer, kernel_constraint="weight_clip", use_bias=False, **signs
            )
        )
        model.add(keras.layers.BatchNormalization(momentum=0.9))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=32, epochs=10, verbose=0)
    model.save_weights(tmp_path / "net.h5")
    options = ConvertOptions(input=RANGE(-1, 1))
    if quantizer == "ste_sign":
        assert not findings(read_source(tmp_path / "net.h5", options))
    else:
        assert "the network is ternary" in refused(tmp_path / "net.h5", options)

"""What a file's weights and BatchNorm statistics say against the plain reading of it, in several sources.

Networks here are plain numpy, with random weights; their statistics are those of their own sums over images, as training leaves
them.  Each kind computes something that its file does not say.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import Layer, lasagne_arrays, named_arrays, state_arrays, write_npz
from refusals import assert_resolvable
from test_evidence_input import images

from xnorinfer.conversion import convert_file
from xnorinfer.converters import read_source
from xnorinfer.converters.reading import EPSILON, INPUT, ConvertOptions, Reading
from xnorinfer.errors import NetworkError
from xnorinfer.net.values import InputMapping, PixelInput, ThresholdInput

Array = Any
RANGE = PixelInput.range
WIDTHS = (100, 48, 32, 10)


def ge(x: Array) -> Array:
    return np.where(x >= 0, 1.0, -1.0)


def same(x: Array) -> Array:
    return x


def network(
    *,
    weights: Callable[[Array], Array] = ge,
    before: Callable[[Array], Array] = same,
    after: Callable[[Array], Array] = ge,
    head: Callable[[Array], Array] | None = None,
    enters: Callable[[Array], Array] = lambda p: p / 127.5 - 1,
    inv_std: bool = False,
    shift: float = 0.0,
    size: float = 1.0,
    widths: tuple[int, ...] = WIDTHS,
    seed: int = 3,
) -> list[Layer]:
    """weights: what layers make of theirs, head: what the last one does; before, after: BatchNorm; shift: of each neuron's
    latents, size: of all."""
    rng = np.random.default_rng(seed)
    x = enters(images(0).astype(np.float64))
    layers = []
    for index, (depth, neurons) in enumerate(itertools.pairwise(widths)):
        last = index + 2 == len(widths)
        latent = ((rng.uniform(-1, 1, (neurons, depth)) + shift * rng.normal(size=(neurons, 1))) * size).astype(np.float32)
        use = head if last and head is not None else weights
        bias = (rng.normal(size=neurons) * size).astype(np.float32)
        sums = x @ use(latent.astype(np.float64)).T + bias
        sums = sums if last else before(sums)
        mean, variance = sums.mean(axis=0), sums.var(axis=0)
        gamma, beta = rng.normal(size=neurons), rng.normal(size=neurons) * 0.5
        x = after((sums - mean) / np.sqrt(variance + 1e-5) * gamma + beta)
        vectors = [vector.astype(np.float32) for vector in (mean, variance, gamma, beta)]
        layer = Layer(latent, bias, vectors[0], vectors[1], None, vectors[2], vectors[3])
        if inv_std:
            layer.variance, layer.inv_std = None, 1 / np.sqrt(vectors[1])
        layers.append(layer)
    return layers


def state(folder: Path, layers: list[Layer]) -> Path:
    """A PyTorch state dict, dumped."""
    return write_npz(folder / "net.npz", **state_arrays(layers))


def named(folder: Path, layers: list[Layer]) -> Path:
    return write_npz(folder / "net.npz", **named_arrays(layers))


def keras(folder: Path, layers: list[Layer]) -> Path:
    """Keras weights without a config."""
    h5py = pytest.importorskip("h5py")
    names = []
    with h5py.File(folder / "net.h5", "w") as file:
        for number, layer in enumerate(layers):
            dense, norm = f"dense_{number}", f"batch_normalization_{number}"
            groups = {
                dense: {"kernel": layer.weight.T, "bias": layer.bias},
                norm: {"gamma": layer.gamma, "beta": layer.beta, "moving_mean": layer.mean, "moving_variance": layer.variance},
            }
            for name, arrays in groups.items():
                names.append(name)
                file.create_group(name).attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in arrays]
                for key, array in arrays.items():
                    file[name][f"{name}/{key}:0"] = array
        file.attrs["layer_names"] = [name.encode() for name in names]
    return folder / "net.h5"


WRITERS = {"state dict": state, "named npz": named, "keras": keras}
OPTIONS = ConvertOptions(profile="ge-zero", input=RANGE(-1, 1))


def refused(path: Path, options: ConvertOptions = OPTIONS) -> str:
    with pytest.raises(NetworkError) as caught:
        read_source(path, options)
    assert_resolvable(caught.value)
    return str(caught.value)


def findings(reading: Reading) -> list[str]:
    """What the file itself shows; that it does not say BatchNorm's epsilon is no evidence."""
    return [text for text in reading.warnings if getattr(text, "about", EPSILON) != EPSILON]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


KINDS: dict[str, tuple[dict[str, Any], str, ConvertOptions | None]] = {
    "relu before BatchNorm": (
        {"before": relu},
        r"80 of the 80 means in .* are 0 or above.*--before-norm relu",
        ConvertOptions(profile="ge-zero", input=RANGE(-1, 1), before_norm="relu"),
    ),
    "leaky relu before BatchNorm": (
        {"before": lambda x: np.where(x > 0, x, 0.01 * x)},
        r"means in .* are 0 or above.*leaky-relu",
        ConvertOptions(profile="ge-zero", input=RANGE(-1, 1), before_norm="leaky-relu:0.01"),
    ),
    "tanh before BatchNorm": (
        {"before": lambda x: np.tanh(x / 8)},
        "sums are too small for binary weights.*--before-norm tanh",
        None,
    ),
    "scaled weights": (
        {"weights": lambda w: ge(w) * np.abs(w).mean(axis=1, keepdims=True), "size": 0.2},
        "sums are too small for binary weights.*mean magnitude, as in XNOR-Net.*--scale-by mean-abs",
        ConvertOptions(profile="ge-zero", input=RANGE(-1, 1), scale_by="mean-abs"),
    ),
    "centred weights": (
        {"weights": lambda w: ge(w - w.mean(axis=1, keepdims=True)), "shift": 0.3},
        "weights are centred.*--center",
        ConvertOptions(profile="ge-zero", input=RANGE(-1, 1), center=True),
    ),
    "float weights": ({"weights": same, "size": 0.2}, "sums are too small for binary weights.*ordinary floats", None),
    "an ordinary relu network": (
        {"weights": same, "after": relu, "size": 0.2},
        "ordinary float weights behind ReLUs: it is no binary network",
        None,
    ),
    "relu activations": ({"after": relu}, "those of sums over ReLUs.*activations are not binarized", None),
    "a float head": ({"head": same, "size": 0.1}, "is an ordinary float layer; --float-layer", None),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_file_does_not_say_is_refused_and_the_option_answers(kind: str, writer: str, tmp_path: Path) -> None:
    given, expected, answer = KINDS[kind]
    path = WRITERS[writer](tmp_path, network(**given))
    assert re.search(expected, refused(path))
    if answer is not None:
        assert not findings(read_source(path, answer))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_plain_network_is_confirmed_without_a_warning(writer: str, seed: int, tmp_path: Path) -> None:
    reading = read_source(WRITERS[writer](tmp_path, network(seed=seed)), OPTIONS)
    assert not findings(reading)
    origins = {one.what: one.origin for one in reading.assumptions}
    assert origins["binary layers"] == "statistics"
    assert origins["between sum and sign"] == "statistics"


def test_answers_and_net_toml_decide_against_statistics(tmp_path: Path) -> None:
    path = state(tmp_path, network(before=relu))
    options = ConvertOptions(profile="ge-zero", input=RANGE(-1, 1), answered=True)
    assert "are 0 or above" in findings(read_source(path, options))[0]
    assert convert_file(path, ConvertOptions.from_json(options.to_json())).warnings


def test_a_variance_that_is_read_as_inv_std(tmp_path: Path) -> None:
    layers = network()
    for layer in layers:
        layer.inv_std, layer.variance = layer.variance, None
    text = refused(named(tmp_path, layers))
    assert "0, 1, 2: what is read as inv_std is" in text
    assert "as a variance it fits" in text
    path = write_npz(tmp_path / "lasagne.npz", *lasagne_arrays(network(inv_std=True)))
    assert not findings(read_source(path, ConvertOptions(profile="theano", input=RANGE(-1, 1))))


def test_layers_in_another_order(tmp_path: Path) -> None:
    layers = network(widths=(100, 40, 40, 40, 10))
    layers[1], layers[2] = layers[2], layers[1]
    assert "stand in another order than they are computed in" in refused(state(tmp_path, layers))


# ---------------------------------------------------------------- how inputs enter

ENTERS: dict[str, tuple[InputMapping, Callable[[Array], Array]]] = {
    "-1..1": (RANGE(-1, 1), lambda p: p / 127.5 - 1),
    "0..1": (RANGE(0, 1), lambda p: p / 255),
    "0..255": (RANGE(0, 255), same),
    "threshold": (ThresholdInput(128), lambda p: np.where(p >= 128, 1.0, -1.0)),
}
#: What the network was trained with, what is said -> whether it is refused.
MAPPINGS = {
    ("0..255", "-1..1"): True,
    ("0..255", "threshold"): True,
    ("-1..1", "0..255"): False,
    ("-1..1", "0..1"): False,
    ("threshold", "0..1"): False,
}


@pytest.mark.parametrize(("trained", "said"), MAPPINGS)
def test_statistics_contradict_a_mapping(trained: str, said: str, tmp_path: Path) -> None:
    """What no sums can have is refused; what is only most unlikely is a warning where the user says it."""
    right, enters = ENTERS[trained]
    path = state(tmp_path, network(enters=enters))
    assert not findings(read_source(path, ConvertOptions(profile="ge-zero", input=right)))
    options = ConvertOptions(profile="ge-zero", input=ENTERS[said][0])
    if MAPPINGS[trained, said]:
        assert "inputs enter in another range" in refused(path, options)
    else:
        (warning,) = findings(read_source(path, options))
        assert "inputs enter in another range" in warning


def test_a_default_that_is_contradicted_is_refused_and_names_what_fits(tmp_path: Path) -> None:
    path = state(tmp_path, network(enters=same))
    text = refused(path, ConvertOptions(profile="ge-zero"))
    assert "by these statistics --input-range=0:255 for images with an average pixel of" in text


def test_a_default_names_all_alternatives_and_what_statistics_leave(tmp_path: Path) -> None:
    reading = read_source(state(tmp_path, network()), ConvertOptions(profile="ge-zero"))
    (hint,) = (text for text in findings(reading) if text.about == INPUT)  # type: ignore[attr-defined]
    for option in ("--input-range", "--input-normalize", "--input-threshold", "--input-signs", "--input-real"):
        assert option in hint
    assert "bn1's statistics leave --input-range=-1:1 for images with an average pixel of" in hint
    assert "--input-range=0:1" not in hint


# ---------------------------------------------------------------- weights


def test_bits_are_no_latents_whatever_the_profile(tmp_path: Path) -> None:
    layers = network()
    for layer in layers:
        layer.weight = (layer.weight >= 0).astype(np.float32)
    path = named(tmp_path, layers)
    for options in (ConvertOptions(profile="torch-sign"), OPTIONS):
        text = refused(path, options)
        assert "0, 1, 2: all weights are 0 or 1: they are bits" in text
        assert 'values = "bits"' in text
        assert "weights are exactly 0" not in text
    (warning,) = findings(read_source(path, ConvertOptions(profile="gt-zero", input=RANGE(-1, 1))))
    assert "they are bits" in warning


@pytest.mark.parametrize("share", [0.1, 0.51])
@pytest.mark.parametrize("options", [ConvertOptions(), OPTIONS], ids=["default", "ge-zero"])
def test_ternary_weights_are_refused_whatever_the_profile(share: float, options: ConvertOptions, tmp_path: Path) -> None:
    layers = network()
    layers[1].weight[np.random.default_rng(1).random(layers[1].weight.shape) < share] = 0
    text = refused(state(tmp_path, layers), options)
    assert "of fc2's weights are exactly 0: the network is ternary" in text
    assert "--profile" not in text


def test_zeros_of_a_copy_of_16_bits_are_a_warning_with_their_number(tmp_path: Path) -> None:
    layers = network()
    for layer in layers:
        layer.weight = layer.weight.astype(np.float16).astype(np.float32)
    layers[0].weight[:5, 0] = 0
    path = state(tmp_path, layers)
    (warning,) = findings(read_source(path, OPTIONS))
    assert "fc1: 5 weights are exactly 0 in a copy of 16 bits" in warning
    assert "exact in 16 bits: convert the checkpoint of 32 bits" in refused(path, ConvertOptions(input=RANGE(-1, 1)))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_head_that_is_not_binarized_where_all_else_is(writer: str, tmp_path: Path) -> None:
    layers = network(head=same, size=0.5)
    for layer in layers[:2]:
        layer.weight = ge(layer.weight).astype(np.float32)
    layers[2].mean = layers[2].variance = layers[2].gamma = layers[2].beta = None
    path = (state if writer == "keras" else WRITERS[writer])(tmp_path, layers)
    text = refused(path)
    name = "2" if writer == "named npz" else "fc3"
    assert f"those of {name} are not" in text
    assert f"--float-layer {name}" in text
    reading = read_source(path, ConvertOptions(profile="ge-zero", input=RANGE(-1, 1), float_layers=(name,)))
    assert not findings(reading)


def test_a_last_layer_without_statistics_is_a_guess(tmp_path: Path) -> None:
    layers = network()
    layers[2].mean = layers[2].variance = layers[2].gamma = layers[2].beta = None
    reading = read_source(state(tmp_path, layers), OPTIONS)
    (warning,) = findings(reading)
    assert "fc3: no BatchNorm follows" in warning
    assert "--float-layer fc3" in warning
    assert ("binary layers", "default") in {(one.what, one.origin) for one in reading.assumptions}


def test_near_equal_warnings_are_one(tmp_path: Path) -> None:
    layers = network(size=2.0)
    for layer in layers:
        layer.weight[::7, 0] = 0
    reading = read_source(state(tmp_path, layers), ConvertOptions(profile="ge-zero", input=RANGE(-1, 1)))
    assert len([text for text in reading.warnings if "larger than H" in text]) == 1
    reading = read_source(named(tmp_path, layers), ConvertOptions(input=RANGE(-1, 1)))
    assert len([text for text in reading.warnings if text.startswith("0, 1, 2: 14 of 6656 latents lie on the tie")]) == 1


def test_a_matrix_that_fits_behind_the_head_is_a_warning(tmp_path: Path) -> None:
    arrays = state_arrays(network(widths=(100, 64, 48, 10)))
    arrays["extra.weight"] = np.random.default_rng(5).uniform(-1, 1, (10, 10)).astype(np.float32)
    path = write_npz(tmp_path / "net.npz", **arrays)
    assert any(
        "extra is no layer of the network, but a matrix that fits" in text for text in findings(read_source(path, OPTIONS))
    )
    without = ConvertOptions(profile="ge-zero", input=RANGE(-1, 1), ignore=("extra*",))
    assert not findings(read_source(path, without))


def test_a_net_toml_says_it_all_and_is_warned_about_what_contradicts_it(tmp_path: Path) -> None:
    path = named(tmp_path, network(before=relu))
    layers = "".join(
        f'[[layers]]\nweight = "{n}.weight"\nbias = "{n}.bias"\nnorm = {{gamma = "{n}.bn.gamma", beta = "{n}.bn.beta", '
        f'mean = "{n}.bn.mean", variance = "{n}.bn.var", epsilon = 1e-5}}\n'
        for n in range(3)
    )
    text = f'profile = "ge-zero"\nlayout = "out_in"\nform = "tf"\n[input]\nrange = [-1, 1]\n{layers}'
    assert any("are 0 or above" in warning for warning in read_source(path, ConvertOptions(net=text)).warnings)

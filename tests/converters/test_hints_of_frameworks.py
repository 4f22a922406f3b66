"""What refusals of TensorFlow's checkpoints and of Keras' files propose is followed; the network is numpy's of the true one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import Layer, random_layers
from following import (
    EPSILON,
    GIVEN,
    WIDTHS,
    Array,
    Names,
    after_options,
    equal,
    f,
    filled,
    forward,
    lines_of,
    networks,
    option,
    rows,
    told,
    toml,
)
from onnx_writer import field
from tf1_writer import write_bundle

pytestmark = pytest.mark.filterwarnings("ignore::xnorinfer.ConversionWarning")
ROLES = {"mean": "moving_mean", "variance": "moving_variance", "gamma": "gamma", "beta": "beta"}
Arrays = dict[str, Any]


# ---------------------------------------------------------------- TensorFlow 1


def variables(layers: list[Layer]) -> Arrays:
    found: Arrays = {}
    for n, layer in enumerate(layers):
        end = f"_{n}" if n else ""
        found |= {f"dense{end}/kernel": layer.weight.T, f"dense{end}/bias": layer.bias}
        found |= {f"bn{end}/{name}": getattr(layer, role) for role, name in ROLES.items()}
    return {name: array for name, array in found.items() if array is not None}


def of_bundle(n: int) -> Names:
    end = f"_{n}" if n else ""
    names = {"weight": f'"dense{end}/kernel"', "bias": f'"dense{end}/bias"'}
    return names | {role: f'"bn{end}/{name}"' for role, name in ROLES.items()}


def without(names: Names, *roles: str) -> Names:
    return {role: name for role, name in names.items() if role not in roles}


ALPHA = np.linspace(-1, 2, 6).astype(f)


@pytest.mark.parametrize("truth", ["scale", "steps"])
def test_a_vector_beside_a_kernel(tmp_path: Path, truth: str) -> None:
    layers = random_layers(WIDTHS, 3, head_norm=truth == "scale")
    path = write_bundle(tmp_path, {**variables(layers), "dense_1/alpha": ALPHA})
    (line,) = (one for one in lines_of(told(path), "what dense_1/alpha") if one.startswith(truth))
    names = [of_bundle(0), of_bundle(1) if truth == "scale" else without(of_bundle(1), *ROLES)]
    last = layers[1].bias
    assert last is not None
    found = networks(path, toml(names, {1: [line]}, layout="in_out"))
    equal(found, forward(layers, lambda n, v: v if not n else v * ALPHA if truth == "steps" else (v - last) * ALPHA + last))


@pytest.mark.parametrize("truth", ["norm", "steps", "bias"])
def test_vectors_of_no_known_module(tmp_path: Path, truth: str) -> None:
    layers = random_layers(WIDTHS, 3, head_norm=truth == "norm")
    names = [of_bundle(0), of_bundle(1) if truth == "norm" else without(of_bundle(1), *ROLES)]
    arrays, about, value = variables(layers), "what thing/x", ALPHA
    if truth == "norm":
        assert layers[1].mean is not None
        layers[1].mean *= 0
        del arrays["bn_1/moving_mean"]
        about = "what bn_1/"
    else:
        arrays["thing/x"] = ALPHA
    if truth == "bias":
        layers[1].bias = ALPHA
        del arrays["dense_1/bias"]
    path = write_bundle(tmp_path, arrays)
    (line,) = (one for one in lines_of(told(path), about) if one.startswith(truth))
    if truth == "norm":
        norm = ", ".join(f"{role} = {name}" for role, name in names[1].items() if role in ("variance", "gamma", "beta"))
        line = filled(line, f'mean = 0, {norm}, form = "tf"')
    found = networks(path, toml(names, {1: [line]}, layout="in_out"))
    equal(found, forward(layers, lambda n, v: v * value if n and truth == "steps" else v))


def test_a_number_of_no_known_module(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3, head_norm=False)
    path = write_bundle(tmp_path, {**variables(layers), "thing/x": f(2.5)})
    (line,) = lines_of(told(path), "what thing/x")
    found = networks(path, toml([of_bundle(0), without(of_bundle(1), *ROLES)], {1: [line]}, layout="in_out"))
    equal(found, forward(layers, lambda n, v: v * 2.5 if n else v))


def test_two_matrices_of_one_module(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    path = write_bundle(tmp_path, {**variables(layers), "dense_1/other": -layers[1].weight.T})
    line = lines_of(told(path), "dense_1/other")[0]
    wanted = "dense_1/kernel" in line
    names = [of_bundle(0), of_bundle(1)]
    rest = "dense_1/other" if wanted else "dense_1/kernel"
    if not wanted:
        layers[1].weight = -layers[1].weight
    text = toml(names, {1: [filled(line)]}, top=f'ignore = ["{rest}"]', layout="in_out")
    equal(networks(path, text), forward(layers))


def test_a_kernel_that_the_graph_does_not_binarize(tmp_path: Path) -> None:
    """A graph with an operation that is not known tells still what becomes of kernels."""
    layers = random_layers(WIDTHS, 3)
    path = write_bundle(tmp_path, variables(layers))
    nodes = [("x", "Placeholder"), ("dense/kernel", "VarHandleOp"), ("dense/read", "ReadVariableOp", "dense/kernel")]
    nodes += [("dense/sign", "Sign", "dense/read"), ("dense/MatMul", "MatMul", "x", "dense/sign")]
    nodes += [("own", "OperationOfSomeone", "dense/MatMul"), ("dense_1/kernel", "VarHandleOp")]
    nodes += [("dense_1/read", "ReadVariableOp", "dense_1/kernel"), ("dense_1/MatMul", "MatMul", "own", "dense_1/read")]
    graph = b""
    for name, operation, *inputs in nodes:
        body = field(1, name) + field(2, operation) + b"".join(field(3, one) for one in inputs)
        graph += field(1, body)
    (tmp_path / "net.meta").write_bytes(field(2, graph))
    given = option(told(path), "--float-layer")
    assert given == ["--float-layer=dense_1"]
    equal(after_options(path, tmp_path, *GIVEN, *given), with_float_head(layers))


def with_float_head(layers: list[Layer]) -> Array:
    """The last of two layers reads hardtanh."""
    head = layers[1]
    assert head.mean is not None
    assert head.variance is not None
    value = np.clip(forward(layers[:1]), -1, 1) @ head.weight.T + head.bias
    return np.asarray((value - head.mean) / np.sqrt(head.variance + EPSILON) * head.gamma + head.beta)


# ---------------------------------------------------------------- Keras' weights without a config


def write_h5(path: Path, groups: dict[str, list[Array]], *, keras2: dict[str, list[str]] | None = None) -> Path:
    """Keras 3's file of weights by place; with the names of weights: Keras 2's."""
    h5py = pytest.importorskip("h5py", reason="Keras's files are read through h5py")
    with h5py.File(path, "w") as file:
        if keras2 is None:
            for place, arrays in groups.items():
                for index, array in enumerate(arrays):
                    file[f"layers/{place}/vars/{index}"] = array
                file[f"layers/{place}/vars"].attrs["name"] = place
            return path
        for name, arrays in groups.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{leaf}:0".encode() for leaf in keras2[name]]
            for leaf, array in zip(keras2[name], arrays, strict=True):
                group[f"{name}/{leaf}:0"] = array
        file.attrs["layer_names"] = [name.encode() for name in groups]
    return path


def groups(layers: list[Layer], dense: str = "fc{}", norm: str = "bn{}") -> dict[str, list[Array]]:
    found: dict[str, list[Array]] = {}
    for n, layer in enumerate(layers):
        found[dense.format(n)] = [array for array in (layer.weight.T, layer.bias) if array is not None]
        vectors = [getattr(layer, role) for role in ("gamma", "beta", "mean", "variance")]
        if layer.mean is not None:
            found[norm.format(n)] = [vector for vector in vectors if vector is not None]
    return found


def of_h5(dense: str, norm: str, roles: tuple[str, ...] = ("gamma", "beta", "mean", "variance")) -> Names:
    names = {"weight": f'"layers/{dense}/vars/0"', "bias": f'"layers/{dense}/vars/1"'}
    return names | {role: f'"layers/{norm}/vars/{i}"' for i, role in enumerate(roles)}


def whole(line: str, names: Names) -> str:
    """A proposed `norm` with all that the BatchNorm has."""
    norm = ", ".join(f"{role} = {name}" for role, name in names.items() if role in ROLES)
    return f'{filled(line).partition("{")[0]}{{{norm}, form = "tf"}}'


@pytest.mark.parametrize("case", ["families", "other order"])
def test_batch_norms_of_one_width(tmp_path: Path, case: str) -> None:
    """Names that tell no order are refused; those that tell one are a warning, and the network may have another."""
    layers = random_layers([24, 18, 18], 3)
    first, second = ("red", "green") if case == "families" else ("bn1", "bn0")
    both = groups(layers)
    both[first], both[second] = both.pop("bn0"), both.pop("bn1")
    path = write_h5(tmp_path / "net.weights.h5", both)
    about = "it is not clear which BatchNorm" if case == "families" else "are taken in the order of their names"
    (line,) = lines_of(told(path), about)
    names = [of_h5("fc0", first), of_h5("fc1", second)]
    equal(networks(path, toml(names, {n: [whole(line, one)] for n, one in enumerate(names)}, layout="in_out")), forward(layers))


@pytest.mark.parametrize("lost", ["gamma", "beta"])
def test_a_batch_norm_of_three_vectors(tmp_path: Path, lost: str) -> None:
    layers = random_layers(WIDTHS, 3)
    setattr(layers[0], lost, None)
    path = write_h5(tmp_path / "net.weights.h5", groups(layers))
    (line,) = lines_of(told(path), "a BatchNorm without gamma or without beta")
    roles = tuple(role for role in ("gamma", "beta", "mean", "variance") if role != lost)
    names = [of_h5("fc0", "bn0", roles), of_h5("fc1", "bn1")]
    equal(networks(path, toml(names, {0: [whole(line, names[0])]}, layout="in_out")), forward(layers))


@pytest.mark.parametrize("truth", ["prelu", "mul"])
def test_a_vector_of_no_known_layer(tmp_path: Path, truth: str) -> None:
    layers = random_layers(WIDTHS, 3, head_norm=False)
    layers[0].mean = layers[0].variance = layers[0].gamma = layers[0].beta = None
    layers[0].bias = np.linspace(-5, 5, 18).astype(f)
    slopes = np.linspace(-0.9, -0.1, 18).astype(f) if truth == "mul" else np.linspace(0.1, 0.9, 18).astype(f)
    path = write_h5(tmp_path / "net.weights.h5", groups(layers) | {"thing": [slopes]})
    (line,) = (one for one in lines_of(told(path), "do is not known") if truth in one)
    line = line.removesuffix(" in the layer before, if it is a PReLU")
    names = [without(of_h5(f"fc{n}", ""), *ROLES) for n in range(2)]

    def change(n: int, value: Array) -> Array:
        if n:
            return value
        return value * slopes if truth == "mul" else np.where(value > 0, value, value * slopes)

    equal(networks(path, toml(names, {0: [line]}, layout="in_out")), forward(layers, change))


def test_matrices_of_no_known_layer(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    both = groups(layers)
    both["fc1"].append(np.ones((2, 2), f))
    path = write_h5(tmp_path / "net.weights.h5", both)
    (line,) = lines_of(told(path), "do is not known")
    text = toml([of_h5("fc0", "bn0"), of_h5("fc1", "bn1")], {1: [filled(line)]}, 'ignore = ["layers/fc1/vars/2"]', "in_out")
    equal(networks(path, text), forward(layers))


def test_a_float_layer_by_name(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    path = write_h5(tmp_path / "net.weights.h5", groups(layers))
    given = option(told(path), "--float-layer", "fc1")
    equal(after_options(path, tmp_path, *GIVEN, *given), with_float_head(layers))


# ---------------------------------------------------------------- Keras' configs

Change = Callable[[list[dict[str, Any]], dict[str, list[Array]]], Any]


def model(folder: Path, layers: list[Layer], change: Change = lambda config, arrays: None) -> Path:
    """A Larq network: its config beside its weights."""
    config: list[dict[str, Any]] = []
    for n, layer in enumerate(layers):
        signs = {"kernel_quantizer": "ste_sign", "input_quantizer": "ste_sign" if n else None}
        config.append({"class_name": "QuantDense", "config": {"name": f"fc{n}", "units": len(layer.weight), **signs}})
        if layer.mean is not None:
            config.append({"class_name": "BatchNormalization", "config": {"name": f"bn{n}", "epsilon": EPSILON, **NORMAL}})
    arrays = groups(layers)
    change(config, arrays)
    arrays = {PLACES.get(name, name): found for name, found in arrays.items()}
    (folder / "net.json").write_text(json.dumps({"class_name": "Sequential", "config": {"name": "s", "layers": config}}))
    return write_h5(folder / "net.weights.h5", arrays)


#: Keras 3 keeps weights by the layers' classes.
PLACES = {"fc0": "quant_dense", "fc1": "quant_dense_1", "bn0": "batch_normalization", "bn1": "batch_normalization_1"}
NORMAL = {"axis": [-1], "momentum": 0.99, "scale": True, "center": True}
SIGNS = ("--input-signs",)


def both_layers() -> list[Names]:
    return [of_h5(PLACES[f"fc{n}"], PLACES[f"bn{n}"]) for n in range(2)]


def in_out(said: dict[int, list[str]], top: str = "", names: list[Names] | None = None) -> str:
    return toml(names or both_layers(), said, top, "in_out")


def test_a_config_is_read(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    equal(after_options(model(tmp_path, layers), tmp_path, *SIGNS), forward(layers))


#: What is wrong with the config (or the arrays), words of the refusal, how the line is completed.
CONFIGS: dict[str, tuple[Change, str, Callable[[str], str]]] = {
    "ends in signs": (
        lambda c, a: c.append({"class_name": "Activation", "config": {"name": "s", "activation": "ste_sign"}}),
        "the network ends in signs",
        lambda line: line.removesuffix(" in the last layer"),
    ),
    "an epsilon of text": (
        lambda c, a: c[3]["config"].update(epsilon="small"),
        "is no number",
        lambda line: whole("norm = {", both_layers()[1]).replace("}", f", {filled(line, '1e-3')}}}"),
    ),
    "a quantizer of one's own": (
        lambda c, a: c[2]["config"].update(kernel_quantizer="mine"),
        "the kernel_quantizer mine is not known",
        lambda line: line.removesuffix(" if it takes the signs of the weights"),
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_what_a_config_leaves_open(tmp_path: Path, case: str) -> None:
    change, words, complete = CONFIGS[case]
    layers = random_layers(WIDTHS, 3)
    path = model(tmp_path, layers, change)
    line = lines_of(told(path, *SIGNS), words)[0]
    equal(networks(path, in_out({1: [complete(line)]})), forward(layers))


def rescaling(scale: Any) -> dict[str, Any]:
    return {"class_name": "Rescaling", "config": {"name": "r", "scale": scale}}


def test_a_number_that_multiplies_later(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    path = model(tmp_path, layers, lambda config, arrays: config.append(rescaling(0.5)))
    (line,) = lines_of(told(path, *SIGNS), "only the input can be rescaled")
    norm = whole("norm = {", both_layers()[1])
    line = filled(line, "0.5").replace("[{", f"[{{{norm}}}, {{")
    names = [both_layers()[0], without(both_layers()[1], *ROLES)]
    equal(networks(path, in_out({1: [line]}, names=names)), forward(layers) * 0.5)


def test_a_rescaling_of_several_numbers(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    path = model(tmp_path, layers, lambda config, arrays: config.insert(0, rescaling([1 / 255, 1 / 255])))
    (line,) = lines_of(told(path), "must be single numbers")
    x = np.random.default_rng(1).integers(0, 256, (200, 24), np.uint8)
    line = line.removeprefix("[input] ").replace("LOW", "0").replace("HIGH", "1")
    found = networks(path, in_out({}).replace("signs = true", line), x)
    equal(found, forward(layers, inputs=x / 255))


@pytest.mark.parametrize("truth", ["steps", "scale", "bias"])
def test_an_array_that_a_layer_does_not_have(tmp_path: Path, truth: str) -> None:
    """In Keras 2's files, which name the weights of each layer."""
    layers = random_layers(WIDTHS, 3, bias=False, head_norm=False)

    def change(config: list[dict[str, Any]], arrays: dict[str, list[Array]]) -> None:
        config[0]["config"]["use_bias"] = config[2]["config"]["use_bias"] = False

    path = model(tmp_path, layers, change)
    leaves = {"fc0": ["kernel"], "bn0": ["gamma", "beta", "moving_mean", "moving_variance"], "fc1": ["kernel", "alpha"]}
    arrays = groups(layers)
    write_h5(path, arrays | {"fc1": [*arrays["fc1"], ALPHA]}, keras2=leaves)
    (line,) = (one for one in lines_of(told(path, *SIGNS), "do is not known") if one.startswith(truth))
    places = {"mean": "moving_mean", "variance": "moving_variance"}
    norm = {role: f'"bn0/bn0/{places.get(role, role)}:0"' for role in ROLES}
    names = [{"weight": '"fc0/fc0/kernel:0"', **norm}, {"weight": '"fc1/fc1/kernel:0"'}]
    found = networks(path, in_out({1: [line]}, names=names))
    equal(found, forward(layers, lambda n, v: v if not n else v + ALPHA if truth == "bias" else v * ALPHA))


@pytest.mark.parametrize("lost", ["bias", "variance"])
def test_an_array_that_is_missing(tmp_path: Path, lost: str) -> None:
    """It has a place of its own."""
    layers = random_layers(WIDTHS, 3)

    def change(config: list[dict[str, Any]], arrays: dict[str, list[Array]]) -> None:
        arrays["elsewhere"] = [arrays["fc1" if lost == "bias" else "bn1"].pop()]

    path = model(tmp_path, layers, change)
    (line,) = lines_of(told(path, *SIGNS), "should be in the file and is not")
    line = line.replace("ARRAY", "layers/elsewhere/vars/0")
    if lost == "variance":
        norm = ", ".join(f"{role} = {both_layers()[1][role]}" for role in ("mean", "gamma", "beta"))
        line = filled(line, f'{norm}, form = "tf"')
    equal(networks(path, in_out({1: [line]})), forward(layers))


@pytest.mark.parametrize("kind", ["matrix", "vector"])
def test_arrays_of_no_layer_of_the_config(tmp_path: Path, kind: str) -> None:
    """The config is that of a smaller model."""
    layers = random_layers(WIDTHS, 3, head_norm=False)
    more = random_layers([6, 5], 4, bias=False, head_norm=False)[0].weight if kind == "matrix" else ALPHA

    def change(config: list[dict[str, Any]], arrays: dict[str, list[Array]]) -> None:
        arrays["more"] = [np.ascontiguousarray(more.T)]

    path = model(tmp_path, layers, change)
    (line,) = lines_of(told(path, *SIGNS), "belongs to no layer of the config")
    names = [both_layers()[0], without(both_layers()[1], *ROLES)]
    if kind == "vector":
        equal(networks(path, in_out({1: [line]}, names=names)), forward(layers, lambda n, v: v * ALPHA if n else v))
    else:
        text = in_out({1: ['activation = "sign"'], 2: [filled(line)]}, names=[*names, {}])
        equal(networks(path, text), forward([*layers, Layer(more)]))


@pytest.mark.parametrize("case", ["no quantizer", "option"])
def test_a_head_that_is_float(tmp_path: Path, case: str) -> None:
    """A quantizer that does nothing; or the user says so against the config: the head reads signs."""
    layers = random_layers(WIDTHS, 3, head_norm=False)

    def change(config: list[dict[str, Any]], arrays: dict[str, list[Array]]) -> None:
        if case == "no quantizer":
            config[2]["config"]["kernel_quantizer"] = {"class_name": "NoOp", "config": {"precision": 1}}

    path = model(tmp_path, layers, change)
    given = SIGNS if case == "no quantizer" else (*SIGNS, "--float-layer", "fc1")
    (line,) = lines_of(told(path, *given), "fc1")
    names = [both_layers()[0], without(both_layers()[1], *ROLES)]
    found = networks(path, in_out({0: ['activation = "sign"'], 1: [line]}, names=names))
    value = np.where(forward(layers[:1]) >= 0, 1, -1) @ layers[1].weight.T + layers[1].bias
    equal(found, value)


def activation(kind: str, function: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": "a", "activation": function}}


def test_an_h_of_text(tmp_path: Path) -> None:
    """Layers of a port of BinaryNet."""
    layers = random_layers(WIDTHS, 3)

    def change(config: list[dict[str, Any]], arrays: dict[str, list[Array]]) -> None:
        for n in (0, 2):
            config[n] = {"class_name": "BinaryDense", "config": {"name": config[n]["config"]["name"], "H": "large"}}
        config.insert(2, activation("Activation", "binary_tanh"))
        arrays["binary_dense"], arrays["binary_dense_1"] = arrays.pop("fc0"), arrays.pop("fc1")

    path = model(tmp_path, layers, change)
    given = option(told(path, *SIGNS), "--h", "0.5")
    found = after_options(path, tmp_path, *SIGNS, *given)
    equal(found, forward(layers, weights=lambda n, weight: np.where(weight > 0, 0.5, -0.5)))


def test_layers_beside_the_chain(tmp_path: Path) -> None:
    """A functional model with a branch that leads nowhere."""
    layers = random_layers(WIDTHS, 3)
    path = model(tmp_path, layers, lambda config, arrays: arrays.update(side=[np.ones((24, 3), f)]))
    config = json.loads((tmp_path / "net.json").read_text())["config"]["layers"]
    places = ["fc0", "bn0", "fc1", "bn1"]
    for one, before in zip(config, [None, *places], strict=False):
        one |= {"name": one["config"]["name"], "inbound_nodes": [[[before, 0, 0, {}]]] if before else []}
    config.append({"class_name": "Dense", "name": "side", "config": {"name": "side"}, "inbound_nodes": [[["fc0", 0, 0, {}]]]})
    whole_model = {"class_name": "Functional", "config": {"layers": config, "output_layers": [["bn1", 0, 0]]}}
    (tmp_path / "net.json").write_text(json.dumps(whole_model))
    (line,) = lines_of(told(path, *SIGNS), "do not lead to the model's output")
    top = line.replace("LAYER", "layers/side/").removesuffix(" beside [[layers]] for the others")
    equal(networks(path, in_out({}, top)), forward(layers))


@pytest.mark.parametrize("case", ["rescaled signs", "no step"])
def test_the_input_of_a_config(tmp_path: Path, case: str) -> None:
    layers = random_layers(WIDTHS, 3)
    x = np.random.default_rng(1).integers(0, 256, (200, 24), np.uint8)

    def change(config: list[dict[str, Any]], arrays: dict[str, list[Array]]) -> None:
        if case == "rescaled signs":
            config.insert(0, rescaling(1 / 255))
        else:
            config[0]["config"]["input_quantizer"] = "ste_sign"

    path = model(tmp_path, layers, change)
    text = told(path, *(SIGNS if case == "rescaled signs" else ("--input-range", "0:1")))
    words = "the model rescales its input" if case == "rescaled signs" else "there is no step from -1 up to +1"
    assert words in text
    given = option(text[text.index(words) :], "--input-range", "0:255" if case == "rescaled signs" else "-1:1")
    wanted = forward(layers, inputs=x / 255 if case == "rescaled signs" else np.where(x >= 127.5, 1, -1))
    equal(after_options(path, tmp_path, *given, x=x), wanted)


@pytest.mark.parametrize("source", ["tf1", "keras"])
def test_defaults_of_frameworks(tmp_path: Path, source: str) -> None:
    """Epsilon and input that no file of weights says."""
    layers = random_layers(WIDTHS, 3)
    bundle = source == "tf1"
    path = write_bundle(tmp_path, variables(layers)) if bundle else write_h5(tmp_path / "net.weights.h5", groups(layers))
    text = told(path, "--profile", "ge-zero")
    given = [*option(text, "--bn-epsilon", "0.5"), *option(text, "--input-signs")]
    equal(after_options(path, tmp_path, "--profile", "ge-zero", *given, x=rows()), forward(layers, epsilon=0.5))

"""Each hint is followed: the line or the option is taken out of the text itself, and the network is numpy's of the true one.

`hints.py` finds all that the sources can propose; `test_every_hint_is_followed` fails for one that no test here or elsewhere
follows.  Networks are tiny; scores are float64's, up to float32's rounding, classes are equal.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import hints
import numpy as np
import pytest
from checkpoints import Layer, lasagne_arrays, named_arrays, random_layers, state_arrays, write_npz
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
    listed,
    named,
    networks,
    of_state,
    told,
    toml,
)
from places import TESTS

pytestmark = pytest.mark.filterwarnings("ignore::xnorinfer.ConversionWarning")
COUNTERS = 'ignore = ["*num_batches_tracked"]'


# ---------------------------------------------------------------- named and numbered arrays


def test_a_gap_in_the_names(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    path = write_npz(tmp_path / "net.npz", **{re.sub("^1", "2", k): v for k, v in named_arrays(layers).items()})
    (line,) = lines_of(told(path), "1.weight is missing: ")
    equal(networks(path, toml([named(0), named(2)], {1: [filled(line, '"2.weight"')]})), forward(layers))


def test_a_layer_without_a_matrix(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers), **{"2.bias": np.ones(6, f)})
    (line,) = lines_of(told(path), "2.weight is missing")
    equal(networks(path, toml([named(0), named(1)], top=filled(line, '"2.bias"'))), forward(layers))


@pytest.mark.parametrize("lost", ["mean", "variance", "inv_std"])
def test_a_half_of_batch_norm(tmp_path: Path, lost: str) -> None:
    """Without a mean, which is 0; without a variance, which is 1; with both a variance and an inv_std, which is right."""
    layers = random_layers(WIDTHS, 3)
    first = layers[0]
    assert first.mean is not None
    names, arrays, top = named(0), named_arrays(layers), ""
    if lost == "inv_std":
        first.inv_std = arrays["0.bn.inv_std"] = (1 / np.sqrt(np.linspace(1, 9, 18))).astype(f)
        path = write_npz(tmp_path / "net.npz", **arrays)
        top = lines_of(told(path), "needs exactly one of 0.bn.var and 0.bn.inv_std")[0]
        names = {role: name for role, name in names.items() if role != "variance"} | {"inv_std": '"0.bn.inv_std"'}
    else:
        del arrays[{"mean": "0.bn.mean", "variance": "0.bn.var"}[lost]]
        first.mean, first.variance = (first.mean * 0, first.variance) if lost == "mean" else (first.mean, np.ones(18, f))
        path = write_npz(tmp_path / "net.npz", **arrays)
        about = {"mean": "0.bn.mean is missing", "variance": "needs exactly one of 0.bn.var and 0.bn.inv_std"}[lost]
        role, _, value = lines_of(told(path), about)[-1].partition(" = ")
        assert role == lost
        names[role] = value
    equal(networks(path, toml([names, named(1)], top=top)), forward(layers))


def test_names_of_two_layouts(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    path = write_npz(tmp_path / "net.npz", **named_arrays(layers), more=np.ones(3, f))
    (line,) = lines_of(told(path), "holds more: neither")
    text = toml([named(0), named(1)], {0: [filled(line, '"0.weight"')]}, top='ignore = ["more"]')
    equal(networks(path, text), forward(layers))


def test_no_layer_at_all(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    path = write_npz(tmp_path / "net.npz", **state_arrays(layers))
    (line,) = lines_of(told(path, *GIVEN, "--ignore", "fc*"), "it holds no dense layer")
    said = {0: [filled(line, '"fc1.weight"')]}
    equal(networks(path, toml([of_state(0), of_state(1)], said, top=COUNTERS)), forward(layers))


LASAGNE = ("weight", "bias", "beta", "gamma", "mean", "inv_std")
KERAS = ("weight", "bias", "gamma", "beta", "mean", "variance")


def test_a_gap_in_the_numbers(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3, inv_std=True)
    arrays = lasagne_arrays(layers)
    path = write_npz(tmp_path / "net.npz", **{f"arr_{n if n < 6 else n + 1}": array for n, array in enumerate(arrays)})
    weight, norm = lines_of(told(path), "arr_6 is missing")
    first, second = listed(0, *LASAGNE), listed(7, *LASAGNE)
    inside = "{" + ", ".join(f"{role} = {name}" for role, name in second.items() if role not in ("weight", "bias")) + "}"
    said = {1: [filled(weight, '"arr_7"'), filled(norm, inside)]}
    equal(networks(path, toml([first, second], said, layout="in_out")), forward(layers))


def test_numbers_that_begin_with_a_vector(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3, inv_std=True)
    path = write_npz(tmp_path / "net.npz", np.ones(24, f), *lasagne_arrays(layers))
    (line,) = lines_of(told(path), "stands where weights (inputs, neurons) are expected")
    names = [listed(1, *LASAGNE), listed(7, *LASAGNE)]
    text = toml(names, {0: [filled(line, '"arr_1"')]}, top='ignore = ["arr_0"]', layout="in_out")
    equal(networks(path, text), forward(layers))


@pytest.mark.parametrize("truth", [LASAGNE, KERAS], ids=["lasagne", "keras"])
def test_vectors_that_fit_two_orders(tmp_path: Path, truth: tuple[str, ...]) -> None:
    rng = np.random.default_rng(2)
    arrays: list[Array] = []
    layers = []
    for depth, width in ((24, 18), (18, 6)):
        parts = {role: rng.uniform(0.4, 0.6, width).astype(f) for role in truth[1:]}
        parts["mean"], last = rng.normal(size=width).astype(f), rng.uniform(0.9, 1.1, width).astype(f)
        parts[truth[-1]] = last
        weight = rng.uniform(-1, 1, (width, depth)).astype(f)
        layers.append(Layer(weight, **{role: parts.get(role) for role in (*truth[1:],)}))
        arrays += [weight.T, *(parts[role] for role in truth[1:])]
    path = write_npz(tmp_path / "net.npz", *arrays)
    proposed = lines_of(told(path), "their numbers fit both")
    (line,) = (line for line in proposed if truth[-1] in line)
    names = [listed(0, *truth), listed(6, *truth)]
    norms = [filled(line, one["mean"], one[truth[-1]]).replace("}", "") for one in names]
    more = ', form = "tf"' if truth is KERAS else ""
    said = {
        n: [f"{norm}, gamma = {one['gamma']}, beta = {one['beta']}{more}}}"]
        for n, (norm, one) in enumerate(zip(norms, names, strict=True))
    }
    equal(networks(path, toml(names, said, layout="in_out")), forward(layers))


@pytest.mark.parametrize("truth", ["no beta", "keras"])
def test_vectors_that_are_taken_in_one_order(tmp_path: Path, truth: str) -> None:
    """A warning says which: four of them, of which one can be b; five in the order of Keras."""
    keras = truth == "keras"
    layers = random_layers(WIDTHS, 3, inv_std=not keras)
    roles = KERAS if keras else tuple(role for role in LASAGNE if role != "beta")
    for layer in layers:
        layer.beta = layer.beta if keras else None
    vectors = [[getattr(layer, role) for role in roles[1:]] for layer in layers]
    arrays = [a for layer, rest in zip(layers, vectors, strict=True) for a in (layer.weight.T, *rest)]
    path = write_npz(tmp_path / "net.npz", *arrays)
    lines = lines_of(told(path), "in the order of Keras" if keras else "four vectors are read as")
    names = [listed(0, *roles), listed(len(roles), *roles)]
    said = {}
    for n, one in enumerate(names):
        norm = ", ".join(f"{role} = {name}" for role, name in one.items() if role not in ("weight", "bias"))
        said[n] = [filled(lines[-1], norm + (', form = "tf"' if keras else ""))]
        said[n] += [] if keras else [filled(lines[0], one["bias"])]
    equal(networks(path, toml(names, said, layout="in_out")), forward(layers))


@pytest.mark.parametrize("source", ["state dict", "numbers"])
def test_weights_of_packed_bits(tmp_path: Path, source: str) -> None:
    layers = random_layers(WIDTHS, 3)
    words = [np.packbits(layer.weight >= 0, axis=1, bitorder="little") for layer in layers]
    if source == "state dict":
        arrays = state_arrays(layers) | {"fc1.weight": words[0]}
        path = write_npz(tmp_path / "net.npz", **arrays)
        names, top, layout = [of_state(0), of_state(1)], COUNTERS, "out_in"
    else:
        roles = ("weight", "bias", "gamma", "beta", "mean", "variance")
        listed_arrays = [getattr(layer, role) for layer in layers for role in roles]
        path = write_npz(tmp_path / "net.npz", words[0], *listed_arrays[1:])
        names, top, layout = [listed(0, *roles), listed(6, *roles)], "", "out_in"
    text = told(path)
    (line,) = lines_of(text, "or bits that are packed")
    more = re.findall(r"`([^`]+)`", text[text.index(line) + len(line) + 1 :].partition("in [[layers]]")[0])
    line = line.replace("NEURONS", "18").replace("INPUTS", "24")
    equal(networks(path, toml(names, {0: [one for one in more if " = " in one]}, f"{line}\n{top}", layout)), forward(layers))


def test_three_vectors(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3, inv_std=True, affine=False)
    path = write_npz(tmp_path / "net.npz", *lasagne_arrays(layers))
    (line,) = lines_of(told(path), "could be b or beta or gamma")
    names = [listed(0, "weight", "bias", "mean", "inv_std"), listed(4, "weight", "bias", "mean", "inv_std")]
    said = {n: [filled(line, f"mean = {one['mean']}, inv_std = {one['inv_std']}")] for n, one in enumerate(names)}
    equal(networks(path, toml(names, said, layout="in_out")), forward(layers))


def test_matrices_of_the_other_layout(tmp_path: Path) -> None:
    """PyTorch's, the last layer first."""
    layers = random_layers(WIDTHS, 3)
    roles = ("weight", "bias", "gamma", "beta", "mean", "variance")
    arrays = [getattr(layer, role) for layer in layers[::-1] for role in roles]
    path = write_npz(tmp_path / "net.npz", *arrays)
    (line,) = set(lines_of(told(path), "needed is ("))
    equal(networks(path, toml([listed(6, *roles), listed(0, *roles)], top=line)), forward(layers))


# ---------------------------------------------------------------- state dicts


@pytest.mark.parametrize("values", ["bits", "bits-inverted"])
def test_weights_of_bits(tmp_path: Path, values: str) -> None:
    layers = random_layers(WIDTHS, 3)
    arrays = state_arrays(layers)
    for n, layer in enumerate(layers, start=1):
        arrays[f"fc{n}.weight"] = (layer.weight > 0) == (values == "bits")
    path = write_npz(tmp_path / "net.npz", **arrays)
    (line,) = (one for one in lines_of(told(path), "all weights are 0 or 1") if one.endswith(f'"{values}"'))
    text = toml([of_state(0), of_state(1)], {0: [line], 1: [line]}, top=COUNTERS)
    equal(networks(path, text), forward(layers))


def test_a_module_that_multiplies_and_adds(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    rng = np.random.default_rng(1)
    act = {"act1.weight": rng.normal(size=18).astype(f), "act1.bias": rng.normal(size=18).astype(f)}
    path = write_npz(tmp_path / "net.npz", **state_arrays(layers), **act)
    (line,) = lines_of(told(path), "One that only multiplies and adds")
    norm = ", ".join(f"{r} = {name}" for r, name in of_state(0).items() if r not in ("weight", "bias"))
    names = [{role: of_state(0)[role] for role in ("weight", "bias")}, of_state(1)]
    line = line.replace("...", f'{{norm = {{{norm}, form = "tf"}}}}')
    found = networks(path, toml(names, {0: [line]}, top=COUNTERS))
    equal(found, forward(layers, lambda n, v: v if n else v * act["act1.weight"] + act["act1.bias"]))


@pytest.mark.parametrize("truth", ["steps", "scale", "ignore"])
def test_a_module_of_unknown_meaning(tmp_path: Path, truth: str) -> None:
    layers = random_layers(WIDTHS, 3)
    a, b = np.linspace(-2, 1, 18).astype(f), np.linspace(0, 3, 18).astype(f)
    path = write_npz(tmp_path / "net.npz", **state_arrays(layers), **{"z.a": a, "z.b": b})
    text = told(path)
    steps, scale = lines_of(text, "module z ")
    if truth == "ignore":
        option = re.search(r"--ignore '[^']+'", text)
        assert option
        equal(after_options(path, tmp_path, *GIVEN, *shlex.split(option[0])), forward(layers))
        return
    norm = ", ".join(f"{r} = {name}" for r, name in of_state(0).items() if r not in ("weight", "bias"))
    names = [of_state(0), of_state(1)]
    top = COUNTERS
    if truth == "steps":
        names[0] = {role: of_state(0)[role] for role in ("weight", "bias")}
        line = filled(steps, f'{{mul = "z.a"}}, {{sub = "z.b"}}, {{norm = {{{norm}, form = "tf"}}}}')
        equal(networks(path, toml(names, {0: [line]}, top=top)), forward(layers, lambda n, v: v if n else v * a - b))
    else:
        top = 'ignore = ["*num_batches_tracked", "z.b"]'
        for layer in layers:
            layer.bias = None
        path = write_npz(tmp_path / "net.npz", **state_arrays(layers), **{"z.a": a, "z.b": b})
        names = [{role: name for role, name in one.items() if role != "bias"} for one in names]
        line = filled(scale, '"z.a"')
        equal(networks(path, toml(names, {0: [line]}, top=top)), forward(layers, lambda n, v: v if n else v * a))


def with_norms(layers: list[Layer], colours: list[str]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Tensors of layers fc1, fc2, ..., and those of BatchNorms of these names."""
    arrays: dict[str, Array] = {}
    for n, (layer, colour) in enumerate(zip(layers, colours, strict=True), start=1):
        arrays |= {k: v for k, v in state_arrays([layer], f"fc{n}", colour).items() if "num_batches" not in k}
    norms = {k: v for k, v in arrays.items() if k.split(".")[0] in colours}
    return {k: v for k, v in arrays.items() if k not in norms}, norms


def whole_norm(line: str, names: dict[str, str]) -> str:
    """The proposed `norm`, with what else the BatchNorm has."""
    line = filled(line, names["mean"], names["variance"]) if "mean" in line else filled(line, f"mean = {names['mean']}")
    more = "" if "variance" in line else f", variance = {names['variance']}"
    return f'{line.rstrip("}")}{more}, gamma = {names["gamma"]}, beta = {names["beta"]}, form = "tf"}}'


@pytest.mark.parametrize("door", ["safetensors", "npz", "in blocks"])
def test_batch_norms_of_unknown_layers(tmp_path: Path, door: str) -> None:
    """A container without an order; an order that says nothing; all layers, then all BatchNorms, in another order."""
    layers = random_layers([24, 18, 18], 4)
    dense, norms = with_norms(layers, ["red", "green"])
    about = "it is not clear which BatchNorm belongs to which layer"
    path = tmp_path / f"net.{door}"
    if door == "safetensors":
        pytest.importorskip("safetensors.numpy").save_file(dense | norms, path)
    elif door == "npz":
        first = {k: v for k, v in norms.items() if k.startswith("red")}
        path = write_npz(path, **first, **dense, **{k: v for k, v in norms.items() if k not in first})
    else:
        path = write_npz(tmp_path / "net.npz", **dense, **dict(sorted(norms.items())))
        about = "the n-th BatchNorm by name is taken to follow the n-th layer by name"
    (line,) = lines_of(told(path), about)
    names = [of_state(0, norm="red"), of_state(1, norm="green")]
    equal(networks(path, toml(names, {n: [whole_norm(line, one)] for n, one in enumerate(names)})), forward(layers))


def test_batch_norms_named_in_another_order(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    layers = random_layers([24, 18, 18], 4)
    dense, norms = with_norms(layers, ["bn2", "bn1"])
    safetensors.save_file(dense | norms, tmp_path / "net.safetensors")
    (line,) = lines_of(told(tmp_path / "net.safetensors"), "bn1 after fc1")
    names = [of_state(0, norm="bn2"), of_state(1, norm="bn1")]
    said = {n: [whole_norm(line, one)] for n, one in enumerate(names)}
    equal(networks(tmp_path / "net.safetensors", toml(names, said)), forward(layers))


def test_a_batch_norm_of_the_inputs(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3)
    (other,) = random_layers([3, 24], 5)
    norm = {k.replace("bn1", "front"): v for k, v in state_arrays([other]).items() if k.startswith("bn1")}
    path = write_npz(tmp_path / "net.npz", **norm, **state_arrays(layers))
    given = ("--profile", "ge-zero", "--input-range", "0:255")
    (line,) = lines_of(told(path, *given), "front stands before the first layer")
    assert line.startswith("[input] norm = ")
    line = whole_norm(line.removeprefix("[input] "), of_state(0, norm="front"))
    text = toml([of_state(0), of_state(1)], top=COUNTERS).replace("signs = true\n", f"range = [0, 255]\n{line}\n")
    x = np.random.default_rng(1).integers(0, 8, (200, 24), np.uint8)
    value = (x - other.mean) / np.sqrt(other.variance + EPSILON) * other.gamma + other.beta
    equal(networks(path, text, x), forward(layers, inputs=np.where(value >= 0, 1, -1)))


# ---------------------------------------------------------------- arrays under names of one's own


def test_two_arrays_of_one_meaning(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 3, head_norm=False)
    layers[0].mean = layers[0].variance = layers[0].gamma = layers[0].beta = None
    arrays = {"W1": layers[0].weight.T, "b1": layers[0].bias, "W2": layers[1].weight.T, "b2": layers[1].bias}
    path = write_npz(tmp_path / "net.npz", **arrays, w2=-layers[1].weight.T)  # type: ignore[arg-type]
    (line,) = lines_of(told(path), "are the same tensor of")
    names = [{"weight": f'"W{n}"', "bias": f'"b{n}"'} for n in (1, 2)]
    text = toml(names, {1: [filled(line, '"W2"')]}, top='ignore = ["w2"]', layout="in_out")
    equal(networks(path, text), forward(layers))


@pytest.mark.parametrize("truth", ["bias", "beta"])
def test_a_bias_of_a_layer_or_of_its_batch_norm(tmp_path: Path, truth: str) -> None:
    layers = random_layers(WIDTHS, 3)
    first = layers[0]
    names = {"weight": "fc1.weight", truth: "fc1.bias", "mean": "fc1.running_mean", "variance": "fc1.running_var"}
    arrays = {name: array for name, array in state_arrays(layers).items() if "1." not in name}
    arrays = {name: getattr(first, role) for role, name in names.items()} | arrays
    for role in {"bias", "beta", "gamma"} - set(names):
        setattr(first, role, None)
    path = write_npz(tmp_path / "net.npz", **arrays)
    bias, norm = lines_of(told(path), "it is not known to which of the two fc1.bias belong")
    said = {"bias": [filled(bias, '"fc1.bias"')], "beta": [norm.replace("gamma = ..., ", "").replace("...", '"fc1.bias"')]}[
        truth
    ]
    moments = 'mean = "fc1.running_mean", variance = "fc1.running_var", form = "torch"'
    said = [said[0].replace("}", f", {moments}}}")] if truth == "beta" else [*said, f"norm = {{{moments}}}"]
    equal(networks(path, toml([{"weight": '"fc1.weight"'}, of_state(1)], {0: said}, COUNTERS)), forward(layers))


def test_a_matrix_of_no_known_name(tmp_path: Path) -> None:
    layers = random_layers([24, 6], 3, head_norm=False)
    path = write_npz(tmp_path / "net.npz", table=layers[0].weight, b=layers[0].bias)  # type: ignore[arg-type]
    (line,) = lines_of(told(path), "its name does not say that it holds weights")
    equal(networks(path, toml([{"bias": '"b"'}], {0: [filled(line)]})), forward(layers))


@pytest.mark.parametrize("layout", ["in_out", "out_in"])
@pytest.mark.parametrize("count", [1, 2])
def test_square_matrices(tmp_path: Path, layout: str, count: int) -> None:
    layers = random_layers([24] * (count + 1), 3, head_norm=False)
    arrays, names = {}, []
    for n, layer in enumerate(layers):
        layer.mean = layer.variance = layer.gamma = layer.beta = None
        arrays |= {f"W{n}": layer.weight.T if layout == "in_out" else layer.weight, f"b{n}": layer.bias}
        names.append({"weight": f'"W{n}"', "bias": f'"b{n}"'})
    path = write_npz(tmp_path / "net.npz", **arrays)  # type: ignore[arg-type]
    lines = lines_of(told(path), "which axis of" if count == 2 else "is taken to be (neurons, inputs)")
    if count == 1 and layout == "out_in":
        equal(after_options(path, tmp_path, *GIVEN), forward(layers))
        return
    (line,) = (one for one in lines if layout in one)
    equal(networks(path, toml(names, top=line)), forward(layers))


# ---------------------------------------------------------------- all of them


def test_every_hint_is_followed() -> None:
    """A new hint needs a test that follows it, and a line in `hints.FOLLOWED`."""
    known = list(dict.fromkeys(hints.hints()))
    tables = {**hints.FOLLOWED, **hints.NO_PROPOSAL}
    patterns = [pattern for listed_here in tables.values() for pattern in listed_here]
    found = {pattern: hints.matching(pattern, known) for pattern in patterns}
    assert [hint for hint in known if not any(hint in some for some in found.values())] == []
    assert [pattern for pattern, some in found.items() if not some] == []
    for test in hints.FOLLOWED:
        file, _, name = test.partition("::")
        assert f"def {name}(" in next(TESTS.rglob(file)).read_text(encoding="utf-8"), test

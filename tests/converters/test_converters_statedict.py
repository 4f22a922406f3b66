"""State dicts of every habit, in every container: what they come to, and what their refusals propose."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import decide, random_layers, signs, state_arrays
from refusals import assert_resolvable
from safetensors.numpy import save_file

from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.converters.naming.pairing import chains
from xnorinfer.converters.nettoml.writer import net_text
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear
from xnorinfer.net.values import PixelInput

WIDTHS = (20, 16, 33, 5)
LAYERS = random_layers(WIDTHS, 1)
GE = ConvertOptions(profile="ge-zero", input=PixelInput.range(0, 255))
X = np.random.default_rng(0).integers(0, 256, (100, 20), dtype=np.uint8)

State = dict[str, Any]


def pickled(state: State, path: Path) -> Path:
    path.write_bytes(pickle.dumps({"epoch": 1, "state_dict": state}))
    return path


def archived(state: State, path: Path, **how: Any) -> Path:
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in state.items()}, path, **how)
    return path


def safe(state: State, path: Path) -> Path:
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, path)
    return path


def dumped(state: State, path: Path) -> Path:
    np.savez(path, **state)
    return path.with_suffix(".npz")


DOORS: dict[str, Callable[[State, Path], Path]] = {
    "zip": lambda state, folder: archived(state, folder / "net.pt"),
    "old": lambda state, folder: archived(state, folder / "net.pt", _use_new_zipfile_serialization=False),
    "pickle": lambda state, folder: pickled(state, folder / "net.pkl"),
    "safetensors": lambda state, folder: safe(state, folder / "net.safetensors"),
    "npz": lambda state, folder: dumped(state, folder / "net.npz"),
}
every_door = pytest.mark.parametrize("door", DOORS)


def scores(reading: Reading) -> Any:
    return reference.forward(reading.net, X)


def plain(tmp_path: Path, layers: Any = LAYERS) -> Any:
    return scores(read_source(pickled(state_arrays(layers), tmp_path / "plain.pkl"), GE))


def changed(change: Callable[[State], State | None]) -> State:
    state = dict(state_arrays(LAYERS))
    return change(state) or state


def renamed(state: State, **names: str) -> State:
    """The same arrays, whose names end differently."""
    return {re.sub(r"^(fc\d)\.weight$", names["weight"], name): array for name, array in state.items()}


def with_org(state: State, name: str = "weight_org") -> State:
    found: State = {}
    for key, array in state.items():
        if key.startswith("fc") and key.endswith(".weight"):
            found[key] = signs(array, 1).astype(np.float32)
            found[key.removesuffix("weight") + name] = array
        else:
            found[key] = array
    return found


def masked(state: State) -> State:
    found = renamed(state, weight=r"\1.weight_orig")
    for name in [name for name in found if name.endswith("weight_orig")]:
        found[name.replace("_orig", "_mask")] = np.ones_like(found[name])
    return found


def columns(state: State) -> State:
    return {name: array[:, None] if name.endswith("bias") else array[None] if ".running" in name else array
            for name, array in state.items()}  # fmt: skip


def norm_columns(state: State) -> State:
    return {name: array[None] if array.ndim == 1 else array for name, array in state.items()}


def in_one(state: State, *, but: str = "fc0.") -> State:
    """A class of someone's own that holds a layer's tensors and its BatchNorm's."""
    names = {"weight": "gamma", "bias": "beta"}
    return {
        f"fc{name[2:].replace(leaf, names.get(leaf, leaf))}"
        if name.startswith("bn") and not name.startswith(but)
        else name: array
        for name, array in state.items()
        for leaf in [name.rpartition(".")[2]]
    }


ALIKE: dict[str, Callable[[State], State]] = {
    "parametrize": lambda state: renamed(state, weight=r"\1.parametrizations.weight.original"),
    "binarized beside latents": with_org,
    "binarized beside an attribute": lambda state: with_org(state, "weight.org"),
    "pruning that cut nothing": masked,
    "columns": columns,
    "rows": norm_columns,
    "layer and norm in one": in_one,
    "layer and norm in one, but one": lambda state: in_one(state, but="bn2"),
    "DataParallel": lambda state: {f"module.{name}": array for name, array in state.items()},
    "compiled": lambda state: {f"_orig_mod.module.{name}": array for name, array in state.items()},
}


@every_door
@pytest.mark.parametrize("case", ALIKE)
def test_other_names_of_the_same_network(tmp_path: Path, case: str, door: str) -> None:
    state = ALIKE[case](dict(state_arrays(LAYERS)))
    reading = read_source(DOORS[door](state, tmp_path), GE)
    np.testing.assert_array_equal(scores(reading), plain(tmp_path))
    where = "state_dict." if door == "pickle" else ""
    assert sorted(use.name for use in reading.tensors) == sorted(where + name for name in state)


@every_door
@pytest.mark.parametrize("kind", ["float32", "uint8", "bool", "int64"])
@pytest.mark.parametrize("profile", ["ge-zero", "gt-zero", "torch-sign"])
def test_weights_of_0_and_1_are_bits(tmp_path: Path, door: str, kind: str, profile: str) -> None:
    """Whatever the profile says about 0."""
    state = changed(
        lambda state: {
            name: (array > 0).astype(kind) if name.startswith("fc") and array.ndim == 2 else array
            for name, array in state.items()
        }
    )
    reading = read_source(DOORS[door](state, tmp_path), ConvertOptions(profile=profile, input=GE.input))
    for mine, theirs in zip((layer for layer in reading.net.ops if isinstance(layer, Linear)), LAYERS, strict=True):
        np.testing.assert_array_equal(mine.weight, signs(theirs.weight, 1))
    assert sum("read as bits" in warning for warning in reading.warnings) == 1


@every_door
def test_norm_of_the_inputs(tmp_path: Path, door: str) -> None:
    rng = np.random.default_rng(5)
    norm = {"weight": rng.standard_normal(20), "bias": rng.standard_normal(20)}
    norm |= {"running_mean": rng.uniform(0, 255, 20), "running_var": rng.uniform(1, 5000, 20)}
    norm = {f"bn0.{name}": array.astype(np.float32) for name, array in norm.items()}
    reading = read_source(DOORS[door](norm | state_arrays(LAYERS), tmp_path), GE)
    assert any("bn0 stands before the first layer" in warning for warning in reading.warnings)
    x = (X - norm["bn0.running_mean"]) / np.sqrt(norm["bn0.running_var"].astype(np.float64) + 1e-5)
    wanted, closest = decide(LAYERS, signs(x * norm["bn0.weight"] + norm["bn0.bias"], 1), epsilon=1e-5)
    assert closest > 1e-6
    np.testing.assert_allclose(scores(reading), wanted, rtol=1e-5, atol=1e-5)
    toml = described(3, where="state_dict.", first='norm = {mean = "state_dict.bn0.running_mean", '
        'variance = "state_dict.bn0.running_var", gamma = "state_dict.bn0.weight", beta = "state_dict.bn0.bias", '
        'epsilon = 1e-5, form = "torch"}')  # fmt: skip
    by_hand = read_source(pickled(norm | state_arrays(LAYERS), tmp_path / "hand.pkl"), ConvertOptions(net=toml))
    np.testing.assert_array_equal(scores(by_hand), scores(reading))


def described(
    count: int,
    *,
    where: str = "",
    first: str = "",
    extra: Callable[[int], str] = lambda n: "",
    weight: str = "weight",
    top: str = 'ignore = ["*num_batches_tracked"]',
) -> str:
    """A net.toml of the usual names; extra: further lines of each layer."""
    text = f'profile = "ge-zero"\nlayout = "out_in"\n{top}\n[input]\nrange = [0, 255]\n{first}\n'
    for number in range(1, count + 1):
        names = {"mean": "running_mean", "variance": "running_var", "gamma": "weight", "beta": "bias"}
        norm = ", ".join(f'{key} = "{where}bn{number}.{name}"' for key, name in names.items())
        text += f'[[layers]]\nweight = "{where}fc{number}.{weight}"\nbias = "{where}fc{number}.bias"\n{extra(number)}\n'
        text += f'norm = {{{norm}, epsilon = 1e-5, form = "torch"}}\n'
    return text


@every_door
def test_one_norm_for_all_neurons(tmp_path: Path, door: str) -> None:
    """Brevitas' TensorNorm, as the last one and as all of them; its own operations, to the last bit."""
    for numbers in ((3,), (1, 2, 3)):
        state = changed(
            lambda state, numbers=numbers: {  # type: ignore[misc]
                name: array[:1] if name[:3] in {f"bn{n}" for n in numbers} and array.ndim else array
                for name, array in state.items()
            }
        )
        reading = read_source(DOORS[door](state, tmp_path), GE)
        value = X.astype(np.float64)
        for number, layer in enumerate(LAYERS, start=1):
            assert layer.bias is not None
            value = signs(value, 1) if number > 1 else value
            value = (value @ signs(layer.weight, 1).T).astype(np.float32) + layer.bias
            norm = {name: state[f"bn{number}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")}
            deviation = np.sqrt(norm["running_var"] + np.float32(1e-4 if number in numbers else 1e-5))
            value = (value - norm["running_mean"]) / deviation * norm["weight"] + norm["bias"]
        if numbers == (1, 2, 3):
            np.testing.assert_array_equal(scores(reading), value)
        np.testing.assert_allclose(scores(reading), value, rtol=1e-4, atol=1e-4)


@every_door
def test_networks_without_any_norm(tmp_path: Path, door: str) -> None:
    layers = random_layers(WIDTHS, 3)
    for layer in layers:
        layer.mean = None
    wanted, closest = decide(layers, X, epsilon=0)
    assert closest > 1e-6
    state = state_arrays(layers) if door != "npz" else {**state_arrays(layers)}
    if door == "npz":
        pytest.skip("arrays without running statistics are no state dict in an .npz")
    np.testing.assert_allclose(scores(read_source(DOORS[door](state, tmp_path), GE)), wanted, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- refusals, and what they propose


def pruned(state: State) -> State:
    found = masked(state)
    found["fc2.weight_mask"][3, 5:9] = 0
    return found


def shuffled(state: State) -> State:
    found = with_org(state)
    found["fc2.weight_org"] = -found["fc2.weight_org"]
    return found


REFUSED: dict[str, tuple[Callable[[State], State], str]] = {
    "pruned": (pruned, r"fc2: 4 of 528 weights are pruned \(fc2.weight_mask is 0\), so that it is ternary"),
    "weight_norm": (
        lambda s: {**renamed(s, weight=r"\1.weight_v"), "fc1.weight_g": np.ones((16, 1)), "fc2.weight_g": np.ones((33, 1)),
                   "fc3.weight_g": np.ones((5, 1))},
        "weight_norm .*cannot be converted",
    ),
    "weight_norm, parametrized": (
        lambda s: {k: v for k, v in s.items() if k != "fc1.weight"}
        | {"fc1.parametrizations.weight.original0": np.ones((16, 1)), "fc1.parametrizations.weight.original1": s["fc1.weight"]},
        "fc1: its weight is in two parts.*cannot be converted",
    ),
    "spectral_norm": (
        lambda s: renamed(s, weight=r"\1.weight_orig") | {"fc1.weight_u": np.ones(16), "fc1.weight_v": np.ones(20)},
        "spectral_norm",
    ),
    "other signs": (shuffled, r"module fc2 holds 2 matrices .* of different signs"),
    "whose bias": (
        lambda s: {k: v for k, v in in_one(s).items() if k != "fc2.beta"},
        "module fc2 holds a layer and its BatchNorm: .*; it is not known to which of the two fc2.bias belong",
    ),
    "LayerNorm": (lambda s: s | {"ln.weight": np.ones(33), "ln.bias": np.ones(33)}, "LayerNorm and its like"),
    "unknown": (lambda s: s | {"z.a": np.ones(3), "z.b": np.ones(2)}, "module z .* is no part of a network that is known"),
    "a convolution": (
        lambda s: {"conv1.weight": np.ones((4, 1, 3, 3)), "conv2.weight": np.ones((4, 2, 3, 3))} | s,
        r"`shape = \[HEIGHT, WIDTH, 1\]` in \[input\]; `stride` and `padding` of conv1, conv2,",
    ),
}  # fmt: skip


@every_door
@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str, door: str) -> None:
    change, message = REFUSED[case]
    state = {name: np.asarray(array, np.float32) for name, array in change(dict(state_arrays(LAYERS))).items()}
    with pytest.raises(NetworkError, match=message) as error:
        read_source(DOORS[door](state, tmp_path), GE)
    assert_resolvable(error.value)
    assert "ignore = [" not in str(error.value) or case == "other signs"
    assert len(error.value.problems) == (3 if case == "weight_norm" else 1)


def follow(tmp_path: Path, state: State, line: str, toml: str) -> Any:
    """The refusal of a state dict proposes a line; the network that the line makes."""
    path = dumped(state, tmp_path / "net.npz")
    with pytest.raises(NetworkError) as error:
        read_source(path, GE)
    assert f"`{line}" in str(error.value)
    assert line in toml.replace("\n", " ")
    return scores(read_source(path, ConvertOptions(net=toml)))


def test_a_scale_in_any_form(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    alpha = {n: rng.uniform(0.5, 2, width).astype(np.float32) for n, width in enumerate(WIDTHS[1:], start=1)}
    value = X.astype(np.float64)
    for number, layer in enumerate(LAYERS, start=1):
        value = (signs(value, 1) if number > 1 else value) @ signs(layer.weight, 1).T * alpha[number] + layer.bias
        value = (value - layer.mean) / np.sqrt(layer.variance + 1e-5) * layer.gamma + layer.beta  # type: ignore[operator]
    for shape in ((-1,), (-1, 1), (1, -1)):
        state = state_arrays(LAYERS) | {f"fc{n}.alpha": vector.reshape(shape) for n, vector in alpha.items()}
        toml = described(3, extra=lambda n: f'scale = "fc{n}.alpha"')
        found = follow(tmp_path, state, 'scale = "fc1.alpha"', toml)
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [None, 1])
def test_slopes_of_a_prelu(tmp_path: Path, size: int | None) -> None:
    rng = np.random.default_rng(2)
    slope = {n: rng.uniform(0, 1, size or width).astype(np.float32) for n, width in ((1, 16), (2, 33))}
    state = state_arrays(LAYERS) | {f"act{n}.weight": vector for n, vector in slope.items()}
    value = X.astype(np.float64)
    for number, layer in enumerate(LAYERS, start=1):
        value = (signs(value, 1) if number > 1 else value) @ signs(layer.weight, 1).T + layer.bias
        value = np.where(value > 0, value, value * slope[number]) if number < 3 else value
        value = (value - layer.mean) / np.sqrt(layer.variance + 1e-5) * layer.gamma + layer.beta  # type: ignore[operator]
    toml = described(3, extra=lambda n: f'prelu = "act{n}.weight"' if n < 3 else "")
    np.testing.assert_allclose(follow(tmp_path, state, 'prelu = "act1.weight"', toml), value, rtol=1e-3, atol=1e-3)


def test_a_vector_that_scales(tmp_path: Path) -> None:
    state = {name: array for name, array in state_arrays(LAYERS).items() if not name.startswith("bn3")}
    state["out.scale"] = np.linspace(-1, 2, 5).astype(np.float32)
    value, _ = decide([*LAYERS[:2], type(LAYERS[2])(LAYERS[2].weight, LAYERS[2].bias)], X, epsilon=1e-5)
    toml = described(3)
    toml = toml[: toml.rindex("norm = ")] + 'steps = [{mul = "out.scale"}]\n'
    found = follow(tmp_path, state, 'steps = [{mul = "out.scale"}', toml)
    np.testing.assert_allclose(found, value * state["out.scale"], rtol=1e-5, atol=1e-5)


def test_which_of_two_matrices(tmp_path: Path) -> None:
    state = shuffled(dict(state_arrays(LAYERS)))
    layers = [*LAYERS]
    layers[1] = type(LAYERS[1])(**{**vars(LAYERS[1]), "weight": -LAYERS[1].weight})
    ignored = ", ".join(f'"fc{n}.weight"' for n in (1, 2, 3))
    toml = described(3, weight="weight_org", top=f'ignore = ["*num_batches_tracked", {ignored}]')
    path = dumped(state, tmp_path / "net.npz")
    with pytest.raises(NetworkError, match=r'weight = "fc2.weight_org"` in \[\[layers\]\] and `ignore = \["fc2.weight"\]'):
        read_source(path, GE)
    np.testing.assert_array_equal(scores(read_source(path, ConvertOptions(net=toml))), plain(tmp_path, layers))


# ---------------------------------------------------------------- containers without order


def square(names: list[str], norms: list[str]) -> State:
    """Three layers of one width under these names."""
    found: State = {}
    for layer, name, norm in zip(random_layers((12, 12, 12, 12), 4), names, norms, strict=True):
        arrays = state_arrays([layer], name, norm)
        found |= arrays
    return found


NAMES = {
    "numbers": (["fc1", "fc2", "fc10"], ["bn1", "bn2", "bn10"]),
    "one sequence": (["net.0", "net.3", "net.6"], ["net.1", "net.4", "net.7"]),
    "blocks": (["block0.linear", "block1.linear", "block2.linear"], ["block0.norm", "block1.norm", "block2.norm"]),
    "two numbers": (["a1.fc1", "a1.fc2", "a2.fc1"], ["a1.bn1", "a1.bn2", "a2.bn1"]),
    "camel": (["fcLayer1", "fcLayer2", "fcLayer3"], ["batchNorm1", "batchNorm2", "batchNorm3"]),
}


@pytest.mark.parametrize("case", NAMES)
def test_numbers_order_a_container_without_order(tmp_path: Path, case: str) -> None:
    state = square(*NAMES[case])
    x = np.random.default_rng(0).integers(0, 256, (50, 12), dtype=np.uint8)
    wanted = reference.forward(read_source(pickled(state, tmp_path / "net.pkl"), GE).net, x)
    names = list(state)
    for seed in range(3):
        np.random.default_rng(seed).shuffle(names)
        reading = read_source(safe({name: state[name] for name in names}, tmp_path / "net.safetensors"), GE)
        np.testing.assert_array_equal(reference.forward(reading.net, x), wanted)


def test_words_do_not_order_layers_of_one_width(tmp_path: Path) -> None:
    words = ["one", "two", "three"]
    path = safe(square([f"fc_{w}" for w in words], [f"bn_{w}" for w in words]), tmp_path / "net.safetensors")
    with pytest.raises(NetworkError, match=r"keeps no order.*fc_one, fc_three, fc_two") as error:
        read_source(path, GE)
    assert_resolvable(error.value)
    toml = 'profile = "ge-zero"\nlayout = "out_in"\nignore = ["*num_batches_tracked"]\n[input]\nrange = [0, 255]\n'
    for word in words:
        names = {"mean": "running_mean", "variance": "running_var", "gamma": "weight", "beta": "bias"}
        norm = ", ".join(f'{key} = "bn_{word}.{name}"' for key, name in names.items())
        toml += f'[[layers]]\nweight = "fc_{word}.weight"\nbias = "fc_{word}.bias"\n'
        toml += f'norm = {{{norm}, epsilon = 1e-5, form = "torch"}}\n'
    x = np.random.default_rng(0).integers(0, 256, (50, 12), dtype=np.uint8)
    ordered = pickled(square([f"fc_{w}" for w in words], [f"bn_{w}" for w in words]), tmp_path / "net.pkl")
    np.testing.assert_array_equal(
        reference.forward(read_source(path, ConvertOptions(net=toml)).net, x),
        reference.forward(read_source(ordered, GE).net, x),
    )


def test_shapes_order_layers_named_by_words(tmp_path: Path) -> None:
    state: State = {}
    for layer, word in zip(LAYERS, ("zeta", "head", "alpha"), strict=True):
        state |= state_arrays([layer], f"fc_{word}", f"norm_{word}")
    reading = read_source(safe(state, tmp_path / "net.safetensors"), GE)
    np.testing.assert_array_equal(scores(reading), plain(tmp_path))
    origins = {a.what: a.origin for a in reading.assumptions}
    assert origins["order of layers"] == origins["BatchNorms, by their names and widths"] == "file"
    for layer, word in zip(LAYERS, ("zeta", "head", "alpha"), strict=True):  # names that share no word: by the widths
        for name in [name for name in state if name.startswith(f"norm_{word}")]:
            state[name.replace(f"norm_{word}", f"stats{ {'zeta': 7, 'head': 3, 'alpha': 5}[word] }")] = state.pop(name)
        assert layer is not None
    np.testing.assert_array_equal(scores(read_source(safe(state, tmp_path / "net.safetensors"), GE)), plain(tmp_path))


def test_norms_that_nothing_assigns_are_refused(tmp_path: Path) -> None:
    state = square(["fc1", "fc2", "fc3"], ["red", "green", "blue"])
    with pytest.raises(
        NetworkError, match="not clear which BatchNorm belongs to which layer; the file keeps no order"
    ) as error:
        read_source(safe(state, tmp_path / "net.safetensors"), GE)
    assert_resolvable(error.value)


def test_a_norm_whose_width_several_layers_have_is_told(tmp_path: Path) -> None:
    """Names alone give it to the first of two, which is a default."""
    layers = random_layers((20, 5, 5), 2, head_norm=False)
    reading = read_source(safe(dict(state_arrays(layers)), tmp_path / "net.safetensors"), GE)
    np.testing.assert_array_equal(scores(reading), plain(tmp_path, layers))
    assert any(
        "BatchNorms are taken to follow the layers whose names they share (bn1 after fc1)" in w for w in reading.warnings
    )


def test_orders_of_shapes() -> None:
    assert chains([(4, 3), (8, 4), (3, 8)]) == [(0, 2, 1), (1, 0, 2)]
    assert chains([(4, 3), (8, 4)]) == [(1, 0)]
    assert chains([(4, 4), (4, 4)]) == [(0, 1), (1, 0)]
    assert chains([(4, 4), (4, 4)], ["fc", "fc"]) == [(0, 1)]
    assert chains([(4, 4), (4, 4), (4, 2)], ["a", "a", "b"]) == [(0, 1, 2)]
    assert chains([(4, 4), (4, 4), (4, 4)], ["a", "a", "b"]) == [(0, 1, 2), (0, 2, 1)]
    assert chains([(4, 3), (8, 5)]) == []
    assert len(chains([(4, 4)] * 60)) == 2


WRITTEN: dict[str, Callable[[State], State]] = {
    **ALIKE,
    "bits": lambda s: {n: (a > 0) if a.ndim == 2 else a for n, a in s.items()},
    "own names": lambda s: {
        n.replace("running_", "moving_").replace("fc", "dense_").replace(".", "/"): a.T if a.ndim == 2 else a
        for n, a in s.items()
        if "num_batches" not in n
    },
    "one norm for all neurons": lambda s: {n: a[:1] if n.startswith("bn3") and a.ndim else a for n, a in s.items()},
    "averages": lambda s: {**s, **{"ema_" + n.replace(".", "_"): a[::-1] if a.ndim else a for n, a in s.items()}},
}


@pytest.mark.parametrize("door", ["pickle", "npz", "safetensors"])
@pytest.mark.parametrize("case", WRITTEN)
def test_what_was_understood_can_be_written(tmp_path: Path, case: str, door: str) -> None:
    path = DOORS[door](WRITTEN[case](dict(state_arrays(LAYERS))), tmp_path)
    found = []
    for ema in (False, True) if case == "averages" else (False,):
        options = ConvertOptions(profile="ge-zero", input=GE.input, ema=ema)
        reading = read_source(path, options)
        again = read_source(path, ConvertOptions(net=net_text(path, reading, options)))
        np.testing.assert_array_equal(scores(again), scores(reading))
        found.append(scores(reading))
    assert len(found) == 1 or (found[0] != found[1]).any()


def test_names_that_someone_sorted_tell_no_order(tmp_path: Path) -> None:
    """An .npz keeps an order; one that is alphabetical is not that of the modules."""
    words = ["one", "two", "three"]
    state = square([f"fc_{w}" for w in words], [f"bn_{w}" for w in words])
    wanted = read_source(dumped(state, tmp_path / "net.npz"), GE)
    assert [name for name, _ in wanted.net.linears] == [f"fc_{w}" for w in words]
    with pytest.raises(NetworkError, match="keeps no order"):
        read_source(dumped(dict(sorted(state.items())), tmp_path / "net.npz"), GE)
    ordered = dict(sorted(square(*NAMES["blocks"]).items()))
    reading = read_source(dumped(ordered, tmp_path / "net.npz"), GE)
    assert [name for name, _ in reading.net.linears] == NAMES["blocks"][0]


@every_door
def test_one_warning_for_all_tensors_of_a_kind(tmp_path: Path, door: str) -> None:
    state = {n: a.astype(np.float64) * (1 + 2.0**-40) if a.dtype == np.float32 else a for n, a in state_arrays(LAYERS).items()}
    assert state["fc1.weight"].dtype == np.float64
    reading = read_source(DOORS[door](state, tmp_path), ConvertOptions(profile="ge-zero", input=GE.input, h=1))
    rounded = [warning for warning in reading.warnings if "not exact in float32" in warning]
    assert len(rounded) == 1
    assert "so were values of 17 further tensors" in rounded[0]

"""The npz source: both layouts give the network that wrote them; everything unclear is refused with all reasons."""

from __future__ import annotations

import gc
import itertools
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import checkpoints
import networks
import numpy as np
import pytest
from refusals import assert_resolvable

from xnorinfer.converters import SOURCES, ConvertOptions, Reading, read_source
from xnorinfer.converters.containers.numpyfiles import read_npz
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear, Norm
from xnorinfer.net.values import PixelInput

WIDTHS = (20, 16, 33, 5)
RAW = PixelInput.range(0, 255)


def pixels(rows: int = 64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (rows, WIDTHS[0]), dtype=np.uint8)


def dense_of(reading: Reading) -> list[Linear]:
    return [layer for layer in reading.net.ops if isinstance(layer, Linear)]


def norms_of(reading: Reading) -> list[Norm]:
    return [layer for layer in reading.net.ops if isinstance(layer, Norm)]


def assumed(reading: Reading) -> dict[str, tuple[str, str]]:
    return {a.what: (a.value, a.origin) for a in reading.assumptions}


def every_tensor_once(reading: Reading, names: set[str]) -> bool:
    listed = [tensor.name for tensor in reading.tensors]
    return sorted(listed) == sorted(names)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("head_norm", [True, False], ids=["headbn", "headplain"])
def test_lasagne_order_is_the_network(tmp_path: Path, seed: int, bias: bool, head_norm: bool) -> None:
    layers = checkpoints.random_layers(WIDTHS, seed, bias=bias, head_norm=head_norm, inv_std=True)
    arrays = checkpoints.lasagne_arrays(layers)
    path = checkpoints.write_npz(tmp_path / "net.npz", *arrays)
    reading = read_source(path, ConvertOptions(input=RAW))
    assert every_tensor_once(reading, {f"arr_{i}" for i in range(len(arrays))})
    for mine, theirs in zip(dense_of(reading), layers, strict=True):
        np.testing.assert_array_equal(mine.weight, theirs.weight)
        assert (mine.bias is None) == (theirs.bias is None)
    x = pixels()
    scores, closest = checkpoints.decide(layers, x, epsilon=0)
    assert closest > 1e-6, "a decision of this network hangs on rounding; choose another seed"
    np.testing.assert_allclose(reference.forward(reading.net, x), scores, rtol=1e-5, atol=1e-5)


def test_lasagne_without_beta_and_gamma(tmp_path: Path) -> None:
    layers = checkpoints.random_layers(WIDTHS, 5, bias=False, affine=False, inv_std=True)
    reading = read_source(checkpoints.write_npz(tmp_path / "net.npz", *checkpoints.lasagne_arrays(layers)))
    assert all(norm.gamma is None and norm.beta is None for norm in norms_of(reading))
    np.testing.assert_array_equal(norms_of(reading)[1].inv_std, layers[1].inv_std)


def test_lasagne_infinite_inv_std_is_kept(tmp_path: Path) -> None:
    layers = checkpoints.random_layers(WIDTHS, 5, inv_std=True)
    assert layers[0].inv_std is not None
    layers[0].inv_std[2] = np.inf
    reading = read_source(checkpoints.write_npz(tmp_path / "net.npz", *checkpoints.lasagne_arrays(layers)))
    inv_std = norms_of(reading)[0].inv_std
    assert inv_std is not None
    assert inv_std[2] == np.inf


def test_lasagne_three_vectors_are_ambiguous_unless_zero(tmp_path: Path) -> None:
    layers = checkpoints.random_layers(WIDTHS, 5, affine=False, inv_std=True)
    arrays = checkpoints.lasagne_arrays(layers)
    with pytest.raises(NetworkError, match="could be b or beta or gamma") as error:
        read_source(checkpoints.write_npz(tmp_path / "net.npz", *arrays))
    assert sum("could be" in problem for problem in error.value.problems) == 3
    for layer in layers:
        assert layer.bias is not None
        layer.bias[:] = 0
    reading = read_source(checkpoints.write_npz(tmp_path / "zero.npz", *checkpoints.lasagne_arrays(layers)))
    assert len(norms_of(reading)) == 3


def test_lasagne_ten_and_more_arrays_are_ordered_as_numbers(tmp_path: Path) -> None:
    arrays = checkpoints.lasagne_arrays(checkpoints.random_layers(WIDTHS, 5, inv_std=True))
    shuffled = sorted(((f"arr_{i}", array) for i, array in enumerate(arrays)), key=lambda item: item[0])
    reading = read_source(checkpoints.write_npz(tmp_path / "net.npz", **dict(shuffled)))
    np.testing.assert_array_equal(dense_of(reading)[2].weight, arrays[12].T)


def test_lasagne_tie_rule_is_a_measured_warning(tmp_path: Path) -> None:
    layers = checkpoints.random_layers(WIDTHS, 5, inv_std=True)
    layers[1].weight[:3, 0] = [0.0, -0.0, 1e-9]
    path = checkpoints.write_npz(tmp_path / "net.npz", *checkpoints.lasagne_arrays(layers))
    reading = read_source(path)
    assert assumed(reading)["tie profile"][1] == "default"
    assert reading.net.profile == "theano"
    (warning,) = [w for w in reading.warnings if "tie" in w]
    assert warning.startswith("1: 3 of 528 latents")
    assert "theano-0.9" in warning
    assert not read_source(path, ConvertOptions(profile="theano")).warnings


@pytest.mark.parametrize("profile", ["tf1-round", "torch-sign", "ge-zero", "theano"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_named_layout_is_the_network(tmp_path: Path, profile: str, bias: bool, affine: bool) -> None:
    layers = checkpoints.random_layers(WIDTHS, 11, bias=bias, affine=affine)
    if not bias:  # whole means tie with whole sums
        for layer in layers:
            assert layer.mean is not None
            layer.mean += np.float32(0.3)
    arrays = checkpoints.named_arrays(layers)
    path = checkpoints.write_npz(tmp_path / "net.npz", **arrays)
    reading = read_source(path, ConvertOptions(profile=profile, input=RAW, bn_epsilon=1e-3))
    assert every_tensor_once(reading, set(arrays))
    x = pixels()
    scores, closest = checkpoints.decide(layers, x, epsilon=1e-3)
    assert closest > 1e-6
    np.testing.assert_allclose(reference.forward(reading.net, x), scores, rtol=1e-5, atol=1e-5)
    assert {norm.form for norm in norms_of(reading)} == {"torch" if profile == "torch-sign" else "tf"}


def test_named_layout_inv_std_scale_and_stored_epsilon(tmp_path: Path) -> None:
    layers = checkpoints.random_layers(WIDTHS, 11, inv_std=True)
    arrays = checkpoints.named_arrays(layers)
    del arrays["1.bn.inv_std"]
    arrays |= {"1.bn.var": np.full(33, 14, np.float32), "1.bn.epsilon": np.array(2e-5), "0.scale": np.full(16, 0.5, np.float32)}
    reading = read_source(checkpoints.write_npz(tmp_path / "net.npz", **arrays))
    first, second, third = norms_of(reading)
    assert (first.form, second.form, third.form) == ("lasagne", "tf", "lasagne")
    assert second.epsilon == 2e-5
    assert dense_of(reading)[0].scale is not None
    assert assumed(reading)["BatchNorm epsilon"] == ("2e-05", "file")


def test_named_layout_default_epsilon_is_a_warning(tmp_path: Path) -> None:
    path = checkpoints.write_npz(tmp_path / "net.npz", **checkpoints.named_arrays(checkpoints.random_layers(WIDTHS, 1)))
    reading = read_source(path)
    assert assumed(reading)["BatchNorm epsilon"][1] == "default"
    assert any("epsilon" in warning for warning in reading.warnings)
    assert not read_source(path, ConvertOptions(bn_epsilon=1e-4)).warnings


def test_named_layout_float_tail(tmp_path: Path) -> None:
    layers = checkpoints.random_layers(WIDTHS, 3, head_norm=False)
    path = checkpoints.write_npz(tmp_path / "net.npz", **checkpoints.named_arrays(layers))
    reading = read_source(path, ConvertOptions(float_layers=("2",), input=RAW))
    assert networks.kinds(reading.net)[-2:] == ["hardtanh", "float"]
    x = pixels()
    scores, closest = checkpoints.decide(layers, x, epsilon=1e-4, float_head=True)
    assert closest > 1e-6
    np.testing.assert_allclose(reference.forward(reading.net, x), scores, rtol=1e-4, atol=1e-4)
    with pytest.raises(OptionError, match="--float-layer fc9: there is no such layer; the layers are 0, 1, 2"):
        read_source(path, ConvertOptions(float_layers=("fc9",)))


def test_state_dict_dumped_to_npz(tmp_path: Path) -> None:
    arrays = checkpoints.state_arrays(checkpoints.random_layers(WIDTHS, 3))
    reading = read_source(checkpoints.write_npz(tmp_path / "net.npz", **arrays))
    assert every_tensor_once(reading, set(arrays))
    assert reading.net.profile == "torch-sign"
    assert norms_of(reading)[0].form == "torch"


def test_h_glorot_and_a_number(tmp_path: Path) -> None:
    layers = checkpoints.random_layers(WIDTHS, 3, inv_std=True)
    path = checkpoints.write_npz(tmp_path / "net.npz", *checkpoints.lasagne_arrays(layers))
    reading = read_source(path, ConvertOptions(h="glorot"))
    assert [layer.h for layer in dense_of(reading)] == [
        float(np.float32(np.sqrt(1.5 / (a + b)))) for a, b in itertools.pairwise(WIDTHS)
    ]
    assert any("larger than H" in warning for warning in reading.warnings)
    assert not any("larger than H" in warning for warning in read_source(path).warnings)
    assert dense_of(read_source(path, ConvertOptions(h=0.1)))[0].h == float(np.float32(0.1))
    glorot = ConvertOptions(h="glorot", input=RAW)
    scores, closest = checkpoints.decide(layers, pixels(), epsilon=0, h=[layer.h for layer in dense_of(reading)])
    assert closest > 1e-6
    np.testing.assert_allclose(reference.forward(read_source(path, glorot).net, pixels()), scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8"])
def test_other_types_become_float32(tmp_path: Path, dtype: str) -> None:
    layers = checkpoints.random_layers(WIDTHS, 3, inv_std=True)
    layers[0].weight = (layers[0].weight * (100 if dtype == "int8" else 1)).astype(dtype)
    if dtype == "float64":
        layers[0].weight[0, :2] = [0.1, 0.5]
    reading = read_source(
        checkpoints.write_npz(tmp_path / "net.npz", *checkpoints.lasagne_arrays(layers)), ConvertOptions(h=100)
    )
    assert dense_of(reading)[0].weight.dtype == np.float32
    np.testing.assert_array_equal(dense_of(reading)[0].weight, layers[0].weight.astype(np.float32))
    assert reading.tensors[0].dtype == dtype
    assert [w for w in reading.warnings if "not exact" in w] == (
        ["arr_0: 1 of 320 float64 values are not exact in float32 and were rounded"] if dtype == "float64" else []
    )


# ---------------------------------------------------------------- refusals


def broken_named(**changes: Any) -> dict[str, Any]:
    arrays = checkpoints.named_arrays(checkpoints.random_layers(WIDTHS, 1)) | changes
    return {name: array for name, array in arrays.items() if array is not None}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"1.bn.gamma": np.full(33, np.nan, np.float32)}, "NaN"),
    "missing BatchNorm": ({f"1.bn.{n}": None for n in ("gamma", "beta", "mean", "var")}, "no BatchNorm between this hidden"),
    "shapes do not chain": ({"1.weight": np.ones((33, 17), np.float32)}, "takes 17 inputs but"),
    "vector length": ({"1.bn.mean": np.ones(3, np.float32)}, r"mean has shape \(3,\)"),
    "convolution": ({"0.weight": np.ones((16, 1, 3, 3), np.float32)}, "convolution"),
    "no weight": ({"1.weight": None}, "1.weight is missing"),
    "no mean": ({"1.bn.mean": None}, "1.bn.mean is missing"),
    "no variance": ({"1.bn.var": None}, "exactly one of 1.bn.var and 1.bn.inv_std"),
    "both": ({"1.bn.inv_std": np.ones(33, np.float32)}, "exactly one of 1.bn.var and 1.bn.inv_std"),
    "negative variance": ({"1.bn.var": np.full(33, -1, np.float32)}, "negative"),
    "two epsilons": ({"1.bn.epsilon": np.ones(2)}, "must be one number"),
    "gap": ({"4.weight": np.ones((5, 5), np.float32)}, "without gaps"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_networks(tmp_path: Path, case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(NetworkError, match=message) as error:
        read_source(checkpoints.write_npz(tmp_path / "net.npz", **broken_named(**changes)))
    assert "net.npz" in str(error.value)
    assert_resolvable(error.value)


def test_all_reasons_at_once(tmp_path: Path) -> None:
    changes = {"0.bn.var": np.full(16, -1, np.float32), "1.bn.mean": None, "2.weight": np.ones((5, 7), np.float32)}
    with pytest.raises(NetworkError) as error:
        read_source(checkpoints.write_npz(tmp_path / "net.npz", **broken_named(**changes)))
    text = str(error.value)
    assert "negative" in text
    assert "1.bn.mean is missing" in text
    assert "takes 7 inputs" in text


@pytest.mark.parametrize("place", range(6))
def test_signalling_nan_is_a_reason_and_no_warning_of_numpy(tmp_path: Path, place: int) -> None:
    """Every operation of the processor on such a number is an invalid one, a change of its type included."""
    arrays = [np.ascontiguousarray(array) for array in checkpoints.lasagne_arrays(checkpoints.random_layers(WIDTHS, 5))]
    arrays[place].reshape(-1).view(np.uint32)[0] = 0x7F800001
    with pytest.raises(NetworkError, match=r"NaN|numbers fit both"):
        read_source(checkpoints.write_npz(tmp_path / "net.npz", *arrays))


def test_zero_latents_under_torch_sign(tmp_path: Path) -> None:
    arrays = broken_named()
    arrays["1.weight"][2, 3] = 0
    path = checkpoints.write_npz(tmp_path / "net.npz", **arrays)
    with pytest.raises(NetworkError, match=r"1 latent weights are exactly 0, the first at \[2, 3\]"):
        read_source(path, ConvertOptions(profile="torch-sign"))
    read_source(path, ConvertOptions(profile="ge-zero"))


def claiming(array: Any, claim: str) -> bytes:
    """A .npy whose header announces another shape."""
    data, shape = checkpoints.npy_bytes(array).decode("latin-1"), repr(array.shape)
    assert shape in data
    surplus = len(claim) - len(shape)
    return data.replace(shape, claim).replace(" " * surplus + "\n", "\n", 1).encode("latin-1")


def test_objects_without_numbers(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    np.savez(path, np.array([{"a": 1}], object))
    with pytest.raises(SourceError, match="holds dict without any state dict"):
        read_source(path)
    layers = checkpoints.random_layers(WIDTHS, 5, inv_std=True)
    arrays = dict(zip(map("arr_{}".format, range(18)), checkpoints.lasagne_arrays(layers), strict=True))
    np.savez(path, **arrays, none=np.array(None))  # type: ignore[arg-type]
    reading = read_source(path)
    assert every_tensor_once(reading, {*arrays, "none"})
    assert len(norms_of(reading)) == 3


@pytest.mark.parametrize("name", ["net.npy", "net.npz", "net.pkl"])
def test_dicts_and_lists_that_are_pickled(tmp_path: Path, name: str) -> None:
    """np.save of a dict, an object array in an .npz, pickle.dump; names of one's own, numbers, documented names."""
    layers = checkpoints.random_layers(WIDTHS, 5)
    wanted = reference.forward(read_source(write(tmp_path / "s.npz", checkpoints.state_arrays(layers)), OPTIONS).net, pixels())
    own: dict[str, Any] = {}
    for number, layer in enumerate(layers):
        own |= {f"W{number}": layer.weight.T, f"b{number}": layer.bias, f"gamma{number}": layer.gamma}
        own |= {f"beta{number}": layer.beta, f"mean{number}": layer.mean, f"var{number}": layer.variance}
    keys = ("weight", "bias", "gamma", "beta", "mean", "variance")
    numbered = [np.asarray(getattr(layer, key)) for layer in layers for key in keys]
    for content in (checkpoints.state_arrays(layers), own, numbered, {"epoch": 1, "net": own}, {"weights": numbered}):
        reading = read_source(write(tmp_path / name, content), OPTIONS)
        np.testing.assert_array_equal(reference.forward(reading.net, pixels()), wanted)
        assert not any("would run" in warning for warning in reading.warnings)


OPTIONS = ConvertOptions(profile="ge-zero", input=RAW, bn_epsilon=1e-5)


def write(path: Path, content: Any) -> Path:
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    elif path.suffix == ".npy":
        holder = np.empty((), object)
        holder[()] = content
        np.save(path, holder)
    elif isinstance(content, dict) and all(isinstance(value, np.ndarray | np.generic) for value in content.values()):
        np.savez(path, **content)
    else:
        holder = np.empty(1, object)
        holder[0] = content
        np.savez(path, content=holder)
    return path


NAMING = {
    "fc1w": lambda n, role: f"fc{n}{role[0]}" if role in ("weight", "bias") else f"bn{n}_{role}",
    "W1": lambda n, role: {"weight": f"W{n}", "bias": f"b{n}"}.get(role, f"{role}{n}"),
    "w_1": lambda n, role: f"{role}_{n}",
    "layer1/kernel": lambda n, role: f"layer{n}/kernel" if role == "weight" else f"layer{n}/{role}",
    "fc1.kernel": lambda n, role: f"fc{n}.kernel" if role == "weight" else f"fc{n}.{role}",
    "moving": lambda n, role: f"l{n}_moving_{role}" if role in ("mean", "variance") else f"l{n}_{role}",
}


@pytest.mark.parametrize("turned", [False, True], ids=["out_in", "in_out"])
@pytest.mark.parametrize("naming", NAMING)
def test_names_of_ones_own(tmp_path: Path, naming: str, turned: bool) -> None:
    layers = checkpoints.random_layers(WIDTHS, 5)
    wanted = reference.forward(read_source(write(tmp_path / "s.npz", checkpoints.state_arrays(layers)), OPTIONS).net, pixels())
    arrays: dict[str, Any] = {}
    for number, layer in enumerate(layers, start=1):
        for role in ("weight", "bias", "gamma", "beta", "mean", "variance"):
            array = np.asarray(getattr(layer, role))
            arrays[NAMING[naming](number, role)] = array.T if turned and array.ndim == 2 else array
    reading = read_source(write(tmp_path / "net.npz", arrays), OPTIONS)
    np.testing.assert_array_equal(reference.forward(reading.net, pixels()), wanted)
    assert every_tensor_once(reading, set(arrays))


WORDS = ("input", "hidden", "output")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kept", [("bias",), ("mean", "variance"), ("bias", "mean", "variance")])
def test_vectors_tell_the_axes_where_names_tell_no_order(tmp_path: Path, kept: tuple[str, ...], turned: bool) -> None:
    """Matrices that are turned fit in the reverse order."""
    made = checkpoints.random_layers((40, 32, 32, 10), 1, head_norm=False)
    arrays: dict[str, Any] = {}
    for word, layer in zip(WORDS, made, strict=True):
        arrays[f"{word}_w"] = layer.weight.T if turned else layer.weight
        arrays |= {f"{word}_{role}": getattr(layer, role) for role in kept if getattr(layer, role) is not None}
    reading = read_source(checkpoints.write_npz(tmp_path / "net.npz", **dict(sorted(arrays.items()))), ConvertOptions())
    assert [(name, layer.weight.shape) for name, layer in reading.net.linears] == [
        ("input", (32, 40)), ("hidden", (32, 32)), ("output", (10, 32))
    ]  # fmt: skip
    for (_, layer), one in zip(reading.net.linears, made, strict=True):
        np.testing.assert_array_equal(layer.weight, one.weight)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("words", [WORDS, ("hidden", "classifier")])
def test_sorted_matrices_alone_tell_neither_axes_nor_order(tmp_path: Path, words: tuple[str, ...], turned: bool) -> None:
    widths = (40, 32, 32, 10) if len(words) == 3 else (40, 32, 10)
    made = checkpoints.random_layers(widths, 1)
    arrays = {f"{word}_w": layer.weight.T if turned else layer.weight for word, layer in zip(words, made, strict=True)}
    path = checkpoints.write_npz(tmp_path / "net.npz", **dict(sorted(arrays.items())))
    with pytest.raises(NetworkError, match=r"which axis of .* is that of the neurons cannot be told") as error:
        read_source(path, ConvertOptions())
    assert_resolvable(error.value)


def test_axes_that_nothing_tells_are_refused(tmp_path: Path) -> None:
    layers = checkpoints.random_layers((12, 12, 12), 5)
    arrays = {f"W{n}": layer.weight for n, layer in enumerate(layers)}
    with pytest.raises(NetworkError, match=r"cannot be told.*layout = ") as error:
        read_source(write(tmp_path / "net.npz", arrays))
    assert len(error.value.problems) == 1
    for layout in ("in_out", "out_in"):
        text = f'profile = "ge-zero"\nlayout = "{layout}"\n[input]\nrange = [0, 255]\n'
        text += '[[layers]]\nweight = "W0"\nactivation = "sign"\n[[layers]]\nweight = "W1"\n'
        first = dense_of(read_source(tmp_path / "net.npz", ConvertOptions(net=text)))[0]
        np.testing.assert_array_equal(first.weight, arrays["W0"].T if layout == "in_out" else arrays["W0"])


# ---------------------------------------------------------------- the order of numbered arrays


def numbers(layers: Any, *roles: str, turned: bool = True) -> list[Any]:
    found = []
    for layer in layers:
        arrays = [getattr(layer, role) for role in roles]
        found += [array.T if array.ndim == 2 and turned else array for array in arrays if array is not None]
    return found


KERAS = ("weight", "bias", "gamma", "beta", "mean", "variance")


@pytest.mark.parametrize(("bias", "affine"), [(True, True), (False, True), (False, False)])
def test_keras_lists_are_not_lasagnes(tmp_path: Path, bias: bool, affine: bool) -> None:
    layers = checkpoints.random_layers((60, 50, 40, 10), 3, bias=bias, affine=affine)
    for layer in layers:
        layer.variance = (np.asarray(layer.variance) + 5).astype(np.float32)
    path = checkpoints.write_npz(tmp_path / "net.npz", *numbers(layers, *KERAS))
    reading = read_source(path, ConvertOptions(input=RAW))
    assert [norm.form for norm in norms_of(reading)] == ["tf"] * 3
    assert any("in the order of Keras' get_weights" in warning for warning in reading.warnings)
    x = np.random.default_rng(0).integers(0, 256, (50, 60), dtype=np.uint8)
    scores, closest = checkpoints.decide(layers, x, epsilon=1e-3)
    if closest > 1e-6:
        np.testing.assert_allclose(reference.forward(reading.net, x), scores, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(norms_of(reading), layers, strict=True):
        np.testing.assert_array_equal(mine.variance, theirs.variance)
        assert (mine.gamma is None) == (theirs.gamma is None)
        if affine:
            np.testing.assert_array_equal(mine.gamma, theirs.gamma)


def test_lists_of_pytorch(tmp_path: Path) -> None:
    layers = checkpoints.random_layers(WIDTHS, 3)
    state = list(checkpoints.state_arrays(layers).values())
    reading = read_source(checkpoints.write_npz(tmp_path / "net.npz", *state), OPTIONS)
    named = read_source(write(tmp_path / "s.npz", checkpoints.state_arrays(layers)), OPTIONS)
    np.testing.assert_array_equal(reference.forward(reading.net, pixels()), reference.forward(named.net, pixels()))
    assert sum(use.ignored for use in reading.tensors) == 3


def test_scaled_weights_leave_it_to_gammas(tmp_path: Path) -> None:
    """With H = Glorot the sums have variances around 1, and inv_std is around 1, too."""
    rng = np.random.default_rng(1)
    layers = checkpoints.random_layers(WIDTHS, 3, inv_std=True)
    for layer in layers:
        neurons = layer.weight.shape[0]
        layer.inv_std = layer.variance = rng.uniform(0.8, 1.2, neurons).astype(np.float32)
        layer.gamma = rng.uniform(0.7, 1.3, neurons).astype(np.float32)
        layer.beta = (0.3 * rng.standard_normal(neurons)).astype(np.float32)
    glorot = ConvertOptions(h="glorot")
    lasagne = read_source(checkpoints.write_npz(tmp_path / "a.npz", *checkpoints.lasagne_arrays(layers)), glorot)
    assert all(norm.inv_std is not None for norm in norms_of(lasagne))
    keras = read_source(checkpoints.write_npz(tmp_path / "b.npz", *numbers(layers, *KERAS)), glorot)
    assert all(norm.variance is not None for norm in norms_of(keras))
    for layer in layers:
        layer.beta = layer.gamma
    with pytest.raises(NetworkError, match=r"can be Lasagne's .* or Keras'") as error:
        read_source(checkpoints.write_npz(tmp_path / "c.npz", *numbers(layers, *KERAS)))
    assert len(error.value.problems) == 1
    assert_resolvable(error.value)


def test_claimed_sizes_are_checked_before_allocation(tmp_path: Path) -> None:
    data = claiming(np.zeros((4, 4), np.float32), "(400000000, 400)")
    with pytest.raises(SourceError, match="but 64 follow"):
        read_source(checkpoints.write_zip(tmp_path / "net.npz", {"arr_0.npy": data}))


@pytest.mark.parametrize("wrong", [False, True])
def test_archives_are_closed_with_the_last_of_their_arrays(tmp_path: Path, wrong: bool) -> None:
    """Also where arrays and archive hold each other, and where one of them cannot be read."""
    path = checkpoints.write_zip(
        tmp_path / "net.npz", {"a.npy": checkpoints.npy_bytes(np.ones(3)), **({"b.txt": b""} if wrong else {})}
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            ring: list[Any] = [read_npz(path)]
            ring.append(ring)
            assert ring[0]["a"].load().tolist() == [1, 1, 1]
            assert not wrong
        except SourceError:
            assert wrong
        ring = []
        gc.collect()
    assert [one for one in said if one.category is ResourceWarning] == []


def test_zip_bomb_is_refused(tmp_path: Path) -> None:
    data = checkpoints.npy_bytes(np.zeros((5000, 5000), np.float32))
    path = checkpoints.write_zip(tmp_path / "net.npz", {"arr_0.npy": data}, zipfile.ZIP_DEFLATED)
    with pytest.raises(SourceError, match=r"unpacking it would take 95\.4 MiB"):
        read_source(path, ConvertOptions(max_memory=90 << 20))


def test_two_entries_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    data = checkpoints.npy_bytes(np.zeros((4, 4), np.float32))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", data)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("arr_0.npy", data)
    with pytest.raises(SourceError, match=r"two entries called 'arr_0\.npy'"):
        read_source(path)


@pytest.mark.parametrize("keep", [30, 200, 1500, -30])
def test_truncated(tmp_path: Path, keep: int) -> None:
    path = checkpoints.write_npz(tmp_path / "net.npz", **broken_named())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SourceError, match="damaged or truncated"):
        read_source(path)


def test_flipped_byte(tmp_path: Path) -> None:
    path = checkpoints.write_npz(tmp_path / "net.npz", **broken_named())
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match="CRC"):
        read_source(path)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds kernel: neither numbered arrays"):
        read_source(checkpoints.write_npz(tmp_path / "net.npz", kernel=np.ones(3)))


def test_text_arrays(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="needed are real numbers"):
        read_source(checkpoints.write_npz(tmp_path / "net.npz", np.array([["a", "b"]])))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty"),
        (b"hello\nworld\n", "looks like text"),
        (b"\x1f\x8b" + bytes(40), "is gzip-compressed"),
        (bytes(9), "00 00"),
    ],
)
def test_unknown_files_say_what_was_found(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "net.dat"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=found) as error:
        read_source(path)
    # A file without anything is that alone; any other may be described by hand.
    assert all(source.name in str(error.value) for source in SOURCES) == bool(content)
    assert ("--net" in str(error.value)) == bool(content)


def test_missing_file_folder_and_format(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no file .*gone\.npz"):
        read_source(tmp_path / "gone.npz")
    with pytest.raises(SourceError, match="there is no file"):
        read_source(tmp_path / "gone")
    with pytest.raises(SourceError, match="is a folder"):
        read_source(tmp_path)
    with pytest.raises(OptionError, match="format 'caffe' is none of npz"):
        read_source(tmp_path / "gone.npz", ConvertOptions(format="caffe"))


@pytest.mark.parametrize(
    "bad",
    [{"bn_epsilon": -1.0}, {"bn_epsilon": float("nan")}, {"h": 0}, {"h": "big"}, {"profile": "x"}, {"float_layers": "fc4"}],
)
def test_bad_option_values(bad: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ConvertOptions(**bad)


def test_options_survive_json() -> None:
    options = ConvertOptions("npz", "theano", 1e-3, "glorot", RAW, ("fc4",))
    assert ConvertOptions.from_json(options.to_json()) == options
    assert ConvertOptions.from_json({}) == ConvertOptions()


def test_data_is_no_network(tmp_path: Path) -> None:
    """A set of images and labels that was given in the place of a checkpoint."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 20), dtype=np.uint8), rng.integers(0, 10, 40)
    floats = (images / 255).astype(np.float32)
    for content in (
        {"x": images},
        {"x": images, "y": labels},
        {"train_x": floats},
        [images, labels],
        {"W": images, "b": labels},
    ):
        for name in ("net.npy", "net.npz", "net.pkl"):
            with pytest.raises((NetworkError, SourceError)) as error:
                read_source(write(tmp_path / name, content), OPTIONS)
            if isinstance(error.value, NetworkError):
                assert_resolvable(error.value)

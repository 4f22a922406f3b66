"""Extracted arrays: a network rebuilt from them, without xnorinfer, gives the scores of the source network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import conv_networks
import networks
import numpy as np
import packed_networks
import packed_oracle
import pytest
from command_line import CHECKPOINT, DIGITS, fine, wrong
from numpy.typing import NDArray
from safetensors import safe_open

from xnorinfer.engine.model import Model
from xnorinfer.export.plainarrays import arrays, write_arrays
from xnorinfer.float32 import fma
from xnorinfer.net.network import Net
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput, RealInput, SignInput
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Binarize, Dot, PackedModel, Threshold

Numbers = dict[str, NDArray[Any]]


# ---------------------------------------------------------------- what a user of the arrays writes


def rebuilt(net: Numbers, x: NDArray[Any]) -> NDArray[np.float32]:
    """Scores from the arrays alone, as their description says."""
    meta, value = json.loads(str(net["meta"])), x
    mapping = meta["input"]
    if "input.limits" in net:
        value = np.where(np.where(net["input.mirrored"], -x.astype(float), x) <= net["input.limits"], 1, -1)
    elif mapping["kind"] == "threshold":
        value = np.where(x >= mapping["threshold"], 1, -1)
    for n, layer in enumerate(meta["layers"]):
        if layer["kind"] == "binary":
            k = np.arange(layer["inputs"])
            weights = np.where(net[f"layers.{n}.bits"][:, k // 64] >> (k % 64).astype(np.uint64) & np.uint64(1), 1.0, -1.0)
        else:
            weights = net[f"layers.{n}.weight"]
        if layer["kind"] == "float":
            dot = fused_dots(value[:, None, :], weights)
        else:
            dot = np.add.accumulate(value.astype(float)[:, None, :] * weights, axis=2)[:, :, -1]
        if layer["reads"] == "reals":
            dot = dot.astype(np.float32)
        if layer["gives"] == "bits":
            count = (layer["inputs"] - dot) / 2 if layer["reads"] == "bits" else dot
            value = np.where(count <= net[f"layers.{n}.limits"], 1, -1)
            continue
        if layer["reads"] == "pixels":
            dot = (mapping["slope"] * dot + mapping["intercept"] * weights.sum(axis=1)) / mapping["divisor"]
        value = dot.astype(np.float32)
        for op, (a, b) in zip(layer["steps"], net[f"layers.{n}.steps"], strict=True):
            value = APPLY[op](value, a, b)
    return value


def fused_dots(x: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float32]:
    """(..., 1, inputs) and (neurons, inputs) -> (..., neurons)."""
    x, weights = x.astype(np.float32), weights.astype(np.float32)
    total = np.zeros((*x.shape[:-2], len(weights)), np.float32)
    for k in range(weights.shape[1]):
        total = fma(x[..., k], weights[:, k], total)
    return total


APPLY: dict[str, Any] = {
    "mul": lambda v, a, b: v * a,
    "add": lambda v, a, b: v + a,
    "fma": lambda v, a, b: fma(v, np.broadcast_to(a, v.shape), np.broadcast_to(b, v.shape)),
    "clip": lambda v, a, b: np.clip(v, a, b),
    "div": lambda v, a, b: v / a,
    "step": lambda v, a, b: np.where(v >= a, 1, np.where(v <= b, -1, 0)).astype(np.float32),
}


def read(path: Path) -> Numbers:
    """All arrays of an extract, `meta` among them."""
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return dict(archive)
    with safe_open(path, framework="numpy") as container:
        found: Numbers = {name: container.get_tensor(name) for name in container.keys()}  # noqa: SIM118 (not a mapping)
        return {**found, "meta": np.array(container.metadata()["meta"])}


def written(packed: PackedModel, path: Path, **options: Any) -> Numbers:
    write_arrays(packed, path, **options)
    return read(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kind", networks.INPUTS)
def test_a_network_rebuilt_from_the_arrays_gives_the_scores_of_its_source(kind: str, suffix: str, tmp_path: Path) -> None:
    mapping = networks.INPUTS[kind]
    rng = np.random.default_rng(7)
    for number, options in enumerate(OPTIONS):
        if options.get("binarize_input") and not isinstance(mapping, PixelInput | RealInput):
            continue
        net: Net = networks.random_network(40 + number, (70, 65, 9, 3), mapping, **options, awkward=kind != "reals")
        x = networks.random_inputs(rng, mapping, 20, 70)
        numbers = written(lower(net).packed, tmp_path / f"net{suffix}")
        want = forward(net, x)
        got = rebuilt(numbers, x)
        assert packed_networks.same(got, want), options
        assert (got.argmax(axis=1) == want.argmax(axis=1)).all()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"form": "torch", "rule": "ge", "profile": "ge-zero", "h": 0.5},
    {"form": "lasagne", "rule": "round-away", "profile": "theano"},
    {"float_tail": True},
    {"float_tail": True, "tail_reads": "sign", "form": "torch"},
    {"chains": True},
    {"binarize_input": True},
]


# ---------------------------------------------------------------- maps


def windows_of(layer: dict[str, Any], x: NDArray[Any], outside: float) -> NDArray[Any]:
    """(rows, height, width, channels) -> (rows, down, across, kernel height, kernel width, channels)."""
    (kh, kw), (sh, sw), (dh, dw) = (layer["window"][name] for name in ("size", "stride", "dilation"))
    top, bottom, left, right = layer["window"]["padding"]
    x = np.pad(x.astype(float), ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=outside)
    down, across = (x.shape[1] - dh * (kh - 1) - 1) // sh + 1, (x.shape[2] - dw * (kw - 1) - 1) // sw + 1
    taps = [
        [x[:, i * dh : i * dh + sh * down : sh, j * dw : j * dw + sw * across : sw][:, :down, :across] for j in range(kw)]
        for i in range(kh)
    ]
    return np.moveaxis(np.array(taps), (0, 1), (3, 4))


def convolved(net: Numbers, n: int, layer: dict[str, Any], value: NDArray[Any], mapping: dict[str, Any]) -> NDArray[Any]:
    """What a layer with a window gives: -1/+1 or float32, before its steps."""
    if layer["kind"] == "binary":
        k = np.arange(layer["inputs"])
        weights = np.where(net[f"layers.{n}.bits"][:, k // 64] >> (k % 64).astype(np.uint64) & np.uint64(1), 1.0, -1.0)
    else:
        weights = net[f"layers.{n}.weight"]
    parts = np.split(windows_of(layer, value, layer["pad"]), layer["groups"], axis=-1)
    inside = np.split(windows_of(layer, np.ones_like(value, float), abs(layer["pad"])), layer["groups"], axis=-1)
    dots, shares, sums = [], [], []
    for part, on, of in zip(parts, inside, np.split(weights, layer["groups"]), strict=True):
        flat, there = (one.reshape(*one.shape[:3], 1, -1) for one in (part, on))
        dots.append(fused_dots(flat, of) if layer["kind"] == "float" else np.add.accumulate(flat * of, axis=-1)[..., -1])
        shares.append(np.broadcast_to(there.sum(axis=-1), dots[-1].shape))
        sums.append((there * of).sum(axis=-1))
    dot, on_map, weight_sums = (np.concatenate(one, axis=-1) for one in (dots, shares, sums))
    if layer["reads"] == "reals":
        dot = dot.astype(np.float32)
    if layer["gives"] == "bits":
        count = (on_map - dot) / 2 if layer["reads"] == "bits" else dot
        limits = net[f"layers.{n}.limits"]
        return np.where(count <= (limits[net[f"layers.{n}.borders"]] if limits.ndim == 2 else limits), 1, -1)
    if layer["reads"] == "pixels":
        dot = (mapping["slope"] * dot + mapping["intercept"] * weight_sums) / mapping["divisor"]
    return dot.astype(np.float32)


def pooled(net: Numbers, n: int, layer: dict[str, Any], value: NDArray[Any]) -> NDArray[Any]:
    if layer["of"] == "average":
        on_map = windows_of(layer, np.ones_like(value, float), layer["padded"])
        taps = windows_of(layer, value, 0).reshape(*on_map.shape[:3], -1, value.shape[-1])
        return (np.add.accumulate(taps, axis=3)[:, :, :, -1] / on_map.sum(axis=(3, 4))).astype(np.float32)
    turn = np.where(net.get(f"layers.{n}.falling", False), -1, 1)
    return (windows_of(layer, value * turn, -np.inf).max(axis=(3, 4)) * turn).astype(value.dtype)


def rebuilt_maps(net: Numbers, x: NDArray[Any]) -> NDArray[np.float32]:
    """Scores of a network of maps from the arrays alone, as their description says."""
    meta = json.loads(str(net["meta"]))
    mapping, value = meta["input"], x.reshape(-1, *meta["shape"])
    if "input.limits" in net:
        value = np.where(np.where(net["input.mirrored"], -value.astype(float), value) <= net["input.limits"], 1, -1)
    elif mapping["kind"] == "threshold":
        value = np.where(value >= mapping["threshold"], 1, -1)
    for n, layer in enumerate(meta["layers"]):
        if layer["kind"] in ("binary", "float"):
            value = convolved(net, n, layer, value, mapping)
        elif layer["kind"] == "pool":
            value = pooled(net, n, layer, value)
        elif layer["kind"] == "mapped":
            table = net[f"layers.{n}.values"]
            value = table[value, 0 if table.shape[1] == 1 else np.arange(value.shape[-1])]
        elif layer["kind"] == "bits":
            turn = np.where(net[f"layers.{n}.mirrored"], -1, 1)
            value = np.where(turn * value.astype(float) <= net[f"layers.{n}.limits"], 1, -1)
        for op, (a, b) in zip(layer["steps"], net.get(f"layers.{n}.steps", ()), strict=True):
            value = APPLY[op](value, a, b)
    return value.reshape(len(x), -1)


@pytest.mark.parametrize("kind", conv_networks.MAPPINGS)
def test_a_network_of_maps_rebuilt_from_the_arrays(kind: str, tmp_path: Path) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        packed = packed_networks.random_maps(rng, conv_networks.MAPPINGS[kind], (7, 5, 3), 1 + seed % 3)
        x = packed_networks.random_rows(rng, packed, 6)
        numbers = written(packed, tmp_path / "net.npz")
        with np.errstate(all="ignore"):
            got = rebuilt_maps(numbers, x)
        assert packed_networks.same(got, packed_oracle.expected(packed, x)[-1].reshape(6, -1)), seed
        for name, matches in numbers.items():
            if name.endswith("min_matches"):
                assert matches.shape == numbers[name.replace("min_matches", "limits")].shape


def test_the_digits_from_signs_in_six_lines(tmp_path: Path) -> None:
    fine("convert", CHECKPOINT, "-o", tmp_path / "digits.safetensors")
    fine("extract", tmp_path / "digits.safetensors", "-o", tmp_path / "digits.npz", "--signs")
    x = np.load(DIGITS)["x"]
    with np.load(tmp_path / "digits.npz") as archive:
        net = dict(archive)
    weights = [net[f"layers.{n}.signs"].T.astype(int) for n in range(3)]
    value = np.where(x @ weights[0] <= net["layers.0.limits"], 1, -1)
    value = np.where((256 - value @ weights[1]) // 2 <= net["layers.1.limits"], 1, -1)
    scores = (value @ weights[2]).astype(np.float32)
    for op, (a, _) in zip(json.loads(str(net["meta"]))["layers"][2]["steps"], net["layers.2.steps"], strict=True):
        scores = {"mul": np.multiply, "add": np.add}[op](scores, a)
    model = Model(modelfile.load(tmp_path / "digits.safetensors"))
    assert (scores == model.scores(x)).all()
    assert (scores.argmax(axis=1) == model.predict(x)).all()


# ---------------------------------------------------------------- the arrays themselves


@pytest.mark.parametrize("kind", ["range", "signs", "reals"])
def test_names_shapes_and_types(kind: str, tmp_path: Path) -> None:
    packed = packed_networks.random_model(np.random.default_rng(1), networks.INPUTS[kind], (70, 65, 130, 5, 3), floats=1)
    found = arrays(packed, signs=True)
    limits = "float32" if kind == "reals" else "int32"
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "layers.0.bits": ((65, 2), "uint64"),
        "layers.0.signs": ((65, 70), "int8"),
        "layers.0.limits": ((65,), limits),
        **({"layers.0.min_matches": ((65,), "int32")} if kind == "signs" else {}),
        "layers.0.constant": ((65,), "int8"),
        "layers.1.bits": ((130, 2), "uint64"),
        "layers.1.signs": ((130, 65), "int8"),
        "layers.1.limits": ((130,), "int32"),
        "layers.1.min_matches": ((130,), "int32"),
        "layers.1.constant": ((130,), "int8"),
        "layers.2.bits": ((5, 3), "uint64"),
        "layers.2.signs": ((5, 130), "int8"),
        "layers.2.steps": ((4, 2, 5), "float32"),
        "layers.3.weight": ((3, 5), "float32"),
        "layers.3.steps": ((4, 2, 3), "float32"),
    }
    for layer in range(3):
        signs = found[f"layers.{layer}.signs"]
        assert (packed_networks.from_words(found[f"layers.{layer}.bits"], signs.shape[1]) == signs).all()
    for suffix in (".npz", ".safetensors"):
        numbers = written(packed, tmp_path / f"all{suffix}", signs=True)
        meta = json.loads(str(numbers.pop("meta")))
        kept = {"index", "name", "kind", "reads", "inputs", "neurons", "gives", "steps"}
        assert meta["layers"][1].keys() == kept | {"weight_bits", "packed_bytes", "float32_bytes", "gives_bytes"}
        assert meta["content_digest"] == modelfile.header_of(packed)["content_digest"]
        assert numbers.keys() == found.keys()
        assert all(packed_networks.same(numbers[name], np.asarray(found[name])) for name in found)


def test_min_matches_is_the_same_decision_on_xnor() -> None:
    packed = packed_networks.random_model(np.random.default_rng(2), SignInput(), (70, 65, 3))
    x = packed_networks.random_rows(np.random.default_rng(3), packed, 50)
    found = arrays(packed, signs=True)
    matches = (x[:, None, :] == found["layers.0.signs"]).sum(axis=2)
    bits = packed_networks.to_words(matches >= found["layers.0.min_matches"])
    assert (bits == packed_networks.expected(packed, x)[0]).all()


def test_constant_neurons_are_marked() -> None:
    words = np.array([[0b011]] * 5, np.uint64)  # weights +1, +1, -1

    def marks(reads: Any, limits: NDArray[Any]) -> list[int]:
        head = Dot("bits", 5, np.zeros((2, 1), np.uint64), packed_networks.random_affine(RNG, 2))
        mapping = {"bits": SignInput(), "pixels": PixelInput.range(-1, 1), "reals": RealInput()}[reads]
        packed = packed_networks.network(mapping, [("fc", Dot(reads, 3, words, Threshold(limits))), ("head", head)])
        assert packed.check() == []
        marked: list[int] = arrays(packed)["layers.0.constant"].tolist()
        return marked

    assert marks("bits", np.array([-1, 0, 2, 3, 1], np.int32)) == [-1, 0, 0, 1, 0]
    assert marks("pixels", np.array([-256, -255, 509, 510, 2**31 - 1], np.int32)) == [-1, 0, 0, 1, 1]
    assert marks("reals", np.array([-np.inf, -1, 0, 3e38, np.inf], np.float32)) == [-1, 0, 0, 0, 1]


RNG = np.random.default_rng(0)


def test_constant_inputs_are_marked() -> None:
    (head,) = packed_networks.random_model(np.random.default_rng(2), SignInput(), (6, 3)).nodes
    limits, mirrored = np.array([-1, 0, 254, 255, -256, 0], np.int32), np.array([0, 0, 0, 0, 1, 1], bool)
    pixels = packed_networks.network(PixelInput.range(-1, 1), [("in", Binarize(limits, mirrored)), ("head", head.op)])
    assert pixels.check() == []
    assert arrays(pixels)["input.constant"].tolist() == [-1, 0, 0, 1, -1, 1]
    limits = np.array([-np.inf, 0, 1, np.inf, -np.inf, np.inf], np.float32)
    reals = packed_networks.network(RealInput(), [("in", Binarize(limits, mirrored)), ("head", head.op)])
    assert reals.check() == []
    assert arrays(reals)["input.constant"].tolist() == [-1, 0, 0, 1, -1, 1]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_the_same_bytes_for_the_same_network(suffix: str, tmp_path: Path) -> None:
    packed = packed_networks.random_model(np.random.default_rng(1), RealInput(), (70, 65, 5, 3), floats=1)
    for name in ("a", "b"):
        write_arrays(packed, tmp_path / f"{name}{suffix}", signs=True)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


# ---------------------------------------------------------------- the command


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network whose hidden layers are called fc1 and fc1, the head head."""
    packed = packed_networks.random_model(np.random.default_rng(1), networks.INPUTS["range"], (20, 9, 8, 3))
    path = tmp_path / "model.safetensors"
    names = ("fc1", "fc1", "head")
    ops = [node.op for node in packed.layers]
    modelfile.save(packed_networks.network(packed.input, zip(names, ops, strict=True)), path)
    return path


def test_the_command_lists_what_it_wrote(model: Path, tmp_path: Path) -> None:
    text = fine("extract", model, "-o", tmp_path / "out.NPZ")
    assert "layers.1.min_matches" in text
    assert f"wrote {tmp_path / 'out.NPZ'}" in text
    assert "layers.2.steps" in read_npz_names(tmp_path / "out.NPZ")


def read_npz_names(path: Path) -> set[str]:
    with np.load(path) as archive:
        return set(archive.files)


def test_layers_by_name_and_number(model: Path, tmp_path: Path) -> None:
    fine("extract", model, "-o", tmp_path / "some.npz", "--layer", "head", "--layer", "0", "--layer", "2")
    numbers = read(tmp_path / "some.npz")
    assert {name.rsplit(".", 1)[0] for name in numbers} == {"meta", "layers.0", "layers.2"}
    described = json.loads(str(numbers["meta"]))["layers"]
    assert [(layer["index"], layer["name"]) for layer in described] == [(0, "fc1"), (2, "head")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.txt"], "x.txt: its ending says what is written; give a name that ends in .npz, .safetensors or .h"),
        (["-o", "x"], "its ending says what is written"),
        (["-o", "x.npz", "--layer", "fc7"], "there is no layer 'fc7'; the model has 0 (fc1), 1 (fc1), 2 (head)"),
        (["-o", "x.npz", "--layer", "3"], "there is no layer '3'"),
        (["-o", "x.npz", "--layer", "fc1"], "2 layers are called 'fc1'; choose by number: 0, 1"),
        (["-o", "x.h", "--layer", "head"], "--layer: only for arrays (.npz, .safetensors), but the output is x.h"),
        (["-o", "x.h", "--signs"], "--signs: only for arrays"),
        (["-o", "x.npz", "--name", "net", "--rows", "3"], "--name and --rows: only for C (.h), but the output is x.npz"),
        (["-o", "x.h", "--rows", "3"], "--data and --rows choose samples for --runner, which is not given"),
        (["-o", "x.h", "--name", "2nd"], "'2nd' cannot begin C names"),
        (["-o", "x.h", "--name", "a-b"], "'a-b' cannot begin C names"),
        (["-o", "x y(1).h", "--runner"], "the runner must #include it"),
        (["-o", "x.h", "--runner", "--data", "nothing.npy"], "nothing.npy: no such file"),
        (["-o", "model.safetensors"], "model.safetensors: is an input of this command"),
        (["-o", "folder.npz"], "folder.npz: is a folder"),
        (["-o", "there/is/none.h"], "there is no folder"),
        (["-o", "lib.h", "--arduino"], "lib.h: --arduino writes a folder; give a name without .h"),
        (["-o", "lib", "--arduino", "--rows", "3", "--signs"], "--signs and --rows: not with --arduino"),
        (["-o", "lib", "--arduino", "--name", "a-b"], "'a-b' cannot begin C names"),
        (["-o", "lib", "--arduino", "--name", "String"], "'String' cannot name an Arduino library, it is taken"),
        (["-o", "lib", "--arduino", "--name", "a" * 64], "it is longer than 63 letters"),
        (
            ["-o", "model.safetensors/x", "--arduino"],
            "model.safetensors/x: cannot be written: there is no folder model.safetensors",
        ),
        (["-o", "model.safetensors", "--arduino"], "model.safetensors: --arduino writes a folder"),
        (["-o", "there/is/none", "--arduino"], "there is no folder"),
        ([], "Missing option '-o'"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npz").mkdir()
    before = sorted(os.listdir(tmp_path))
    assert message in wrong("extract", model.name, *arguments)
    assert sorted(os.listdir(tmp_path)) == before


def test_an_output_that_is_there_is_replaced_and_a_protected_one_kept(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    path.write_text("old")
    fine("extract", model, "-o", path)
    assert "layers.0.bits" in read(path)
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    path.chmod(0o400)
    assert "write-protected" in wrong("extract", model, "-o", path)


def test_samples_that_do_not_fit_leave_nothing(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 21), np.uint8))
    before = sorted(os.listdir(tmp_path))
    assert "the model takes (rows, 20)" in wrong(
        "extract", model, "-o", tmp_path / "x.h", "--runner", "--data", tmp_path / "x.npy"
    )
    assert sorted(os.listdir(tmp_path)) == before


def test_an_extract_is_not_taken_for_a_model(model: Path, tmp_path: Path) -> None:
    fine("extract", model, "-o", tmp_path / "out.safetensors")
    assert "not an xnorinfer model" in wrong("info", tmp_path / "out.safetensors")

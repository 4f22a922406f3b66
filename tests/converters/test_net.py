"""Networks described by a net.toml: everything it can express, against plain integer and float32 arithmetic."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import decide, named_arrays, random_layers, write_npz
from numpy.typing import NDArray

import xnorinfer
from xnorinfer.conversion import Conversion, convert_file
from xnorinfer.converters.nettoml import document as nettoml
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.packing import modelfile

Array = NDArray[Any]
COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
DEPTH, HIDDEN, CLASSES = 20, 12, 5


def read(path: Path, toml: str) -> Conversion:
    return convert_file(path, ConvertOptions(net=toml))


def digest(conversion: Conversion) -> str:
    return str(modelfile.header_of(conversion.packed)["content_digest"])


def scores(path: Path, toml: str, x: Array) -> Array:
    return xnorinfer.convert(path, net=toml, threads=1).scores(x)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def signs_of(rng: np.random.Generator, *shape: int) -> Array:
    return rng.choice(np.array([-1, 1], np.int8), shape)


def pixels_of(rng: np.random.Generator, rows: int = 40, depth: int = DEPTH) -> Array:
    return rng.integers(0, 256, (rows, depth), dtype=np.uint8)


# ---------------------------------------------------------------- the two worked examples of the documentation


def examples() -> list[str]:
    """The indented blocks after "Example N:" in the module's text."""
    assert nettoml.__doc__ is not None
    found = re.findall(r"^Example \d:[^\n]*\n\n((?:    [^\n]*\n|\n)+)", nettoml.__doc__, re.MULTILINE)
    return [re.sub(r"^    ", "", text, flags=re.MULTILINE) for text in found]


def test_every_key_is_documented() -> None:
    folder = Path(nettoml.__file__).parent
    asked = re.compile(
        r'\.(?:choice|text|number|numbers|flag|integer|tables?|texts|shape|sizes|lists|ranges|_?vector)\((?:\w+, )?"(\w+)"'
    )
    keys = {key for file in folder.glob("*.py") for key in asked.findall(file.read_text(encoding="utf-8"))}
    assert len(keys) > 45
    assert nettoml.__doc__ is not None
    assert keys <= set(re.findall(r"\w+", nettoml.__doc__))


def test_first_example(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    rng = rng_of(1)
    w1, b1 = rng.uniform(-1, 1, (DEPTH, HIDDEN)).astype(np.float32), rng.integers(-5, 5, HIDDEN).astype(np.float32)
    # Powers of two and whole means: float32 computes (x - mean) / std * gamma + beta without rounding, ties included.
    mean, beta = rng.integers(-9, 9, HIDDEN), rng.integers(-2, 3, HIDDEN)
    std, gamma = 2.0 ** rng.integers(-3, 4, HIDDEN), 2.0 ** rng.integers(-3, 4, HIDDEN) * rng.choice([-1, 1], HIDDEN)
    w2, t2 = rng.integers(0, 2, (HIDDEN, HIDDEN), dtype=np.uint8), rng.integers(0, HIDDEN, HIDDEN, dtype=np.int32)
    w3, b3 = rng.integers(-900, 900, (HIDDEN, CLASSES), dtype=np.int16), rng.standard_normal(CLASSES).astype(np.float32)
    stacked = np.stack([mean, std, gamma, beta]).astype(np.float32)
    arrays = {"w1": w1, "b1": b1, "bn1": stacked, "w2": w2, "t2": t2, "w3": w3, "b3": b3, "step": np.array(7)}
    save_file(arrays | {"w1/Adam_1": w1 * 0}, tmp_path / "net.safetensors")
    toml = examples()[0]
    x = pixels_of(rng)
    mapped = 2 * x.astype(np.float64) / 255 - 1
    value = (mapped @ np.where(w1 >= 0, 1.0, -1.0) + b1 - mean) / std * gamma + beta
    assert np.abs(value).min() > 1e-4
    bits = value > 0
    matches = (bits[:, :, None] == w2[None].astype(bool)).sum(axis=1)
    second = np.where(matches > t2, 1, -1)
    expected = ((second @ w3.astype(np.int64)) / 256 + b3.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(scores(tmp_path / "net.safetensors", toml, x), expected)


def test_second_example(tmp_path: Path) -> None:
    rng = rng_of(2)
    w1, w2 = rng.integers(0, 2, (12, 40)), signs_of(rng, CLASSES, 12)
    t1 = rng.integers(-10, 10, 12)
    padded = np.pad(w1, ((0, 0), (0, 24))).reshape(12, 2, 32)
    (padded << np.arange(32)).sum(axis=2).astype("<u4").tofile(tmp_path / "layer1.bin")
    (tmp_path / "thresholds.txt").write_text("# one per neuron\n" + "\n".join(map(str, t1)) + "\n")
    rows = ",\n".join("{" + ", ".join(map(str, row)) + "}" for row in w2)
    header = f"#define INPUTS 12\nstatic const int8_t weights2[{CLASSES}][INPUTS] = {{ // signs\n{rows}\n}};\n"
    (tmp_path / "layer2.h").write_text(header)
    (tmp_path / "readme.txt").write_text("not part of the network")
    x = pixels_of(rng, depth=40)
    sums = np.where(x >= 34, 1, -1) @ (2 * w1 - 1).T
    expected = np.where(sums >= t1, 1, -1) @ w2.T.astype(np.int64)
    np.testing.assert_array_equal(scores(tmp_path, examples()[1], x), expected.astype(np.float32))
    ignored = [use.name for use in read(tmp_path, examples()[1]).reading.tensors if use.ignored]
    assert ignored == ["readme.txt"]


# ---------------------------------------------------------------- BatchNorm


def named_net(tmp_path: Path, seed: int = 3) -> tuple[Path, Any]:
    layers = random_layers([DEPTH, HIDDEN, HIDDEN, CLASSES], seed)
    return write_npz(tmp_path / "named.npz", **named_arrays(layers)), layers


STACKS = {
    "mean variance gamma beta": 0,
    "beta gamma variance mean": 1,
    "mean variance beta gamma": "flat",
}


@pytest.mark.parametrize(("order", "axis"), STACKS.items())
@pytest.mark.parametrize("layout", ["in_out", "out_in"])
def test_stacked_norms_and_layouts_are_the_network_of_separate_arrays(
    tmp_path: Path, order: str, axis: Any, layout: str
) -> None:
    path, layers = named_net(tmp_path)
    arrays: dict[str, Array] = {}
    toml = f'profile = "tf1-round"\nlayout = "{layout}"\nepsilon = 1e-4\ninput = {{range = [-1, 1]}}\n'
    for index, layer in enumerate(layers):
        fields = {"mean": layer.mean, "variance": layer.variance, "gamma": layer.gamma, "beta": layer.beta}
        stack = np.stack([fields[word] for word in order.split()], axis=1 if axis == 1 else 0)
        arrays |= {f"n{index}": stack.reshape(-1) if axis == "flat" else stack, f"b{index}": layer.bias}
        arrays[f"w{index}"] = layer.weight.T if layout == "in_out" else layer.weight
        toml += f'[[layers]]\nweight = "w{index}"\nbias = "b{index}"\n'
        toml += f'norm = {{stacked = "n{index}", order = {order.split()}, axis = {1 if axis == 1 else 0}}}\n'
    stacked = read(write_npz(tmp_path / "stacked.npz", **arrays), toml)
    assert digest(stacked) == digest(convert_file(path, ConvertOptions(bn_epsilon=1e-4)))


@pytest.mark.parametrize("spread", ["variance", "std", "std with epsilon", "inv_std"])
def test_spreads(tmp_path: Path, spread: str) -> None:
    """variance, std and inv_std of one network decide alike, where no decision is close."""
    layers = random_layers([DEPTH, HIDDEN, HIDDEN, CLASSES], 4, bias=False)
    toml = 'profile = "ge-zero"\nlayout = "out_in"\ninput = {reals = true}\n'
    arrays: dict[str, Array] = {}
    for index, layer in enumerate(layers):
        assert layer.variance is not None
        deviation = np.sqrt(layer.variance + np.float32(1e-3))
        value, rest = {
            "variance": (layer.variance, 'epsilon = 1e-3\nform = "torch"\n'),
            "std": (deviation, ""),
            "std with epsilon": (np.sqrt(layer.variance), 'epsilon = 1e-3\nform = "tf"\n'),
            "inv_std": (1 / deviation, ""),
        }[spread]
        arrays |= {f"{index}{name}": a for name, a in (("w", layer.weight), ("m", layer.mean), ("s", value)) if a is not None}
        arrays |= {f"{index}g": layer.gamma, f"{index}b": layer.beta}  # type: ignore[dict-item]
        norm = f'mean = "{index}m"\n{spread.split()[0]} = "{index}s"\n{rest}gamma = "{index}g"\nbeta = "{index}b"\n'
        toml += f'[[layers]]\nweight = "{index}w"\n[layers.norm]\n{norm}'
    x = rng_of(5).standard_normal((60, DEPTH)).astype(np.float32)
    expected, closest = decide(layers, x, epsilon=1e-3)
    assert closest > 1e-6
    found = scores(write_npz(tmp_path / "net.npz", **arrays), toml, x)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-4)


def test_norms_in_several_steps(tmp_path: Path) -> None:
    rng = rng_of(6)
    w1, w2 = signs_of(rng, HIDDEN, DEPTH), signs_of(rng, CLASSES, HIDDEN)
    scale, shift = rng.standard_normal((2, HIDDEN)).astype(np.float32)
    arrays = {"w1": w1, "w2": w2, "scale": scale.reshape(1, HIDDEN), "shift": shift}
    toml = """
        profile = "ge-zero"
        layout = "out_in"
        values = "signs"
        input = {signs = true}
        [[layers]]
        weight = "w1"
        steps = [{mul = "scale"}, {hardtanh = true}, {sub = "shift"}, {div = 3}, {add = 0.125}]
        [[layers]]
        weight = "w2"
        steps = [{mul = 0.5}, {add = [1, 2, 3, 4, 5.5]}]
    """
    x = signs_of(rng, 50, DEPTH)
    hidden = np.clip((x @ w1.T).astype(np.float32) * scale, -1, 1)
    hidden = (hidden - shift) / np.float32(3) + np.float32(0.125)
    head = (np.where(hidden >= 0, 1, -1) @ w2.T).astype(np.float32) * np.float32(0.5)
    expected = head + np.array([1, 2, 3, 4, 5.5], np.float32)
    np.testing.assert_array_equal(scores(write_npz(tmp_path / "n.npz", **arrays), toml, x), expected)


# ---------------------------------------------------------------- thresholds


@pytest.mark.parametrize("counted", ["sum", "popcount", "mismatches"])
@pytest.mark.parametrize(("compare", "inverse"), list(itertools.product(COMPARE, [None, "<", ">="])))
def test_thresholds(tmp_path: Path, counted: str, compare: str, inverse: str | None) -> None:
    """All comparisons on all counts, inverted ones included, at every kind of threshold: whole, between, never, always."""
    rng = rng_of(7)
    depth = 9
    w1, w2 = signs_of(rng, 16, depth), signs_of(rng, CLASSES, 16)
    value = rng.integers(-depth, depth, 16).astype(np.float64)
    value[:6] = [0, 0.5, -0.5, np.nextafter(3, 4), 2**31 - 1, -(2**40)]
    gamma = rng.standard_normal(16).astype(np.float32)
    inverted = f', inverted = {{where = "g", below = 0, compare = "{inverse}"}}' if inverse else ""
    toml = f"""
        profile = "gt-zero"
        layout = "out_in"
        values = "signs"
        input = {{signs = true}}
        {"" if inverse else 'ignore = ["g"]'}
        [[layers]]
        weight = "w1"
        threshold = {{value = "t", on = "{counted}", compare = "{compare}"{inverted}}}
        [[layers]]
        weight = "w2"
    """
    x = np.array(list(itertools.product([-1, 1], repeat=depth)), np.int8)
    sums = x.astype(np.int64) @ w1.T
    counts = {"sum": sums, "popcount": (x[:, None] == w1).sum(2), "mismatches": (x[:, None] != w1).sum(2)}[counted]
    bits = COMPARE[compare](counts, value)
    if inverse:
        bits = np.where(gamma < 0, COMPARE[inverse](counts, value), bits)
    path = write_npz(tmp_path / "net.npz", w1=w1, w2=w2, t=value, g=gamma)
    np.testing.assert_array_equal(scores(path, toml, x), (np.where(bits, 1, -1) @ w2.T).astype(np.float32))


def test_inverted_by_flags_and_64_bit_thresholds(tmp_path: Path) -> None:
    rng = rng_of(8)
    w1, w2 = signs_of(rng, HIDDEN, DEPTH), signs_of(rng, CLASSES, HIDDEN)
    value = rng.integers(-2000, 2000, HIDDEN)
    value[:2] = [2**62, -(2**62)]
    flags = rng.integers(0, 2, HIDDEN).astype(bool)
    toml = """
        profile = "gt-zero"
        layout = "out_in"
        values = "signs"
        input = {raw = true}
        [[layers]]
        weight = "w1"
        bias = 3
        [layers.threshold]
        value = "t"
        on = "sum"
        compare = ">"
        inverted = {where = "flags", equals = 1, compare = "<="}
        [[layers]]
        weight = "w2"
    """
    x = pixels_of(rng)
    sums = x.astype(np.int64) @ w1.T + 3
    bits = np.where(flags, sums <= value, sums > value)
    path = write_npz(tmp_path / "net.npz", w1=w1, w2=w2, t=value, flags=flags)
    np.testing.assert_array_equal(scores(path, toml, x), (np.where(bits, 1, -1) @ w2.T).astype(np.float32))


# ---------------------------------------------------------------- weights and values


@pytest.mark.parametrize("values", ["latent", "signs", "bits", "bits-inverted"])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int64, bool])
def test_kinds_of_binary_weights(tmp_path: Path, values: str, dtype: type) -> None:
    rng = rng_of(9)
    w = signs_of(rng, CLASSES, DEPTH)
    stored = {"bits": (w + 1) // 2, "bits-inverted": (1 - w) // 2}.get(values, w)
    if dtype is bool and values in ("latent", "signs"):
        pytest.skip("a bool is 0 or 1")
    path = write_npz(tmp_path / "n.npz", w=stored.astype(dtype))
    toml = f'profile = "ge-zero"\nlayout = "out_in"\n[input]\nraw = true\n[[layers]]\nweight = "w"\nvalues = "{values}"\n'
    x = pixels_of(rng)
    np.testing.assert_array_equal(scores(path, toml, x), (x.astype(np.int64) @ w.T).astype(np.float32))


def test_magnitudes_and_scales(tmp_path: Path) -> None:
    """H, glorot, a scale per neuron and mean|W|: the accumulator is ((dot * H) * scale) + bias in float32."""
    rng = rng_of(10)
    w = rng.uniform(-1, 1, (CLASSES, DEPTH)).astype(np.float32)
    scale, bias = rng.standard_normal((2, CLASSES)).astype(np.float32)
    path = write_npz(tmp_path / "n.npz", w=w, s=scale, b=bias)
    x = signs_of(rng, 30, DEPTH)
    dot = (x @ np.where(w >= 0, 1, -1).T).astype(np.float32)
    head = 'profile = "ge-zero"\nlayout = "out_in"\ninput = {signs = true}\n'
    glorot = np.float32(np.sqrt(1.5 / (CLASSES + DEPTH)))
    mean = np.abs(w).astype(np.float64).mean(axis=1).astype(np.float32)
    cases = {
        'h = "glorot"\nbias = "b"\nscale = "s"\n': (dot * glorot) * scale + bias,
        'h = 0.3\nbias = "b"\nscale = "s"\n': (dot * np.float32(0.3)) * scale + bias,
        'scale_by = "mean-abs"\nbias = "b"\n': dot * mean + bias,
        'scale_by = "mean-abs-layer"\nbias = "b"\n': dot * np.float32(np.abs(w).astype(np.float64).mean()) + bias,
    }
    for extra, expected in cases.items():
        ignore = "" if '"s"' in extra else 'ignore = ["s"]\n'
        np.testing.assert_array_equal(scores(path, f'{ignore}{head}[[layers]]\nweight = "w"\n{extra}', x), expected)


def test_weights_of_a_magnitude(tmp_path: Path) -> None:
    rng = rng_of(11)
    w = signs_of(rng, CLASSES, DEPTH) * np.float32(0.3)
    path = write_npz(tmp_path / "n.npz", w=w)
    toml = (
        'profile = "tf1-round"\nlayout = "out_in"\nvalues = "signs"\nh = 0.3\n[input]\nsigns = true\n[[layers]]\nweight = "w"\n'
    )
    x = signs_of(rng, 20, DEPTH)
    expected = (x @ np.sign(w).T).astype(np.float32) * np.float32(0.3)
    np.testing.assert_array_equal(scores(path, toml, x), expected)


@pytest.mark.parametrize("rule", ["round-even", "round-away", "ge", "gt"])
@pytest.mark.parametrize("h", [1, 0.37])
def test_inputs_of_0_and_1(tmp_path: Path, rule: str, h: float) -> None:
    """Bits that count as 0 and 1 instead of -1 and +1, in the first layer (pixel >= 34) and behind a sign."""
    rng = rng_of(12)
    w1 = rng.uniform(-0.3, 0.3, (HIDDEN, DEPTH)).astype(np.float32)
    w1[:2, :4] = [[0, -0.0, 1e-9, -1e-9]] * 2
    w2 = rng.uniform(-0.3, 0.3, (HIDDEN, HIDDEN)).astype(np.float32)
    w3 = rng.integers(-300, 300, (CLASSES, HIDDEN), dtype=np.int16)
    b1, s1 = rng.standard_normal((2, HIDDEN)).astype(np.float32)
    path = write_npz(tmp_path / "n.npz", w1=w1, w2=w2, w3=w3, b1=b1, s1=s1)
    toml = f"""
        profile = "ge-zero"
        layout = "out_in"
        h = {h}
        [input]
        threshold = 34
        [[layers]]
        weight = "w1"
        weight_rule = "{rule}"
        reads = "01"
        bias = "b1"
        scale = "s1"
        [[layers]]
        weight = "w2"
        reads = "01"
        threshold = {{value = 0.5, on = "sum", compare = ">"}}
        [[layers]]
        weight = "w3"
        kind = "float"
        reads = "01"
        bias = 0.25
        steps = [{{mul = 0.125}}]
    """
    at_zero = {"round-even": -1, "round-away": 1, "ge": 1, "gt": -1}[rule]
    tiny = {"round-even": -1, "round-away": 1}.get(rule)
    signs = np.where(w1 > 0, 1, np.where(w1 < 0, -1, at_zero))
    if tiny is not None:
        signs = np.where(np.abs(w1) < 1e-8, tiny, signs)
    x = pixels_of(rng)
    first = ((x >= 34).astype(np.int64) @ signs.T).astype(np.float32)
    first = first * np.float32(h) if h != 1 else first
    bits = (first * s1 + b1) >= 0
    second = (bits.astype(np.int64) @ np.where(w2 >= 0, 1, -1).T).astype(np.float32)
    second = second * np.float32(h) if h != 1 else second
    expected = ((second > 0.5).astype(np.int64) @ w3.T.astype(np.int64) + 0.25) * 0.125
    np.testing.assert_array_equal(scores(path, toml, x), expected.astype(np.float32))


def test_no_norm_at_all_and_a_float_head_on_hardtanh(tmp_path: Path) -> None:
    rng = rng_of(13)
    w1, w2 = signs_of(rng, HIDDEN, DEPTH), signs_of(rng, HIDDEN, HIDDEN)
    w3, b3 = rng.integers(-99, 99, (CLASSES, HIDDEN), dtype=np.int16), rng.integers(-500, 500, CLASSES, dtype=np.int16)
    path = write_npz(tmp_path / "n.npz", w1=w1, w2=w2.T, w3=w3, b3=b3)
    toml = """
        profile = "gt-zero"
        layout = "out_in"
        [input]
        signs = true
        [[layers]]
        weight = "w1"
        [[layers]]
        weight = "w2"
        layout = "in_out"
        scale = 0.25
        activation = "hardtanh"
        [[layers]]
        kind = "float"
        weight = "w3"
        bias = "b3"
        bias_scale = 0.5
    """
    x = signs_of(rng, 64, DEPTH)
    hidden = np.where(x.astype(np.int64) @ w1.T > 0, 1, -1)
    expected = np.clip(hidden @ w2.T * 0.25, -1, 1) @ w3.T.astype(np.float64) + b3 * 0.5
    np.testing.assert_array_equal(scores(path, toml, x), expected.astype(np.float32))


# ---------------------------------------------------------------- inputs


INPUTS: dict[str, Callable[[Array], Array]] = {
    "raw = true": lambda p: p,
    "range = [0, 255]": lambda p: p,
    "range = [255, 0]": lambda p: 255 - p,
    "affine = [2, -256, 2]": lambda p: p - 128,
    "threshold = 34": lambda p: np.where(p >= 34, 1, -1),
    "threshold = 255": lambda p: np.where(p == 255, 1, -1),
}


@pytest.mark.parametrize("mapping", INPUTS)
def test_input_mappings(tmp_path: Path, mapping: str) -> None:
    rng = rng_of(14)
    w = signs_of(rng, CLASSES, DEPTH)
    toml = f'profile = "ge-zero"\nlayout = "out_in"\n[input]\n{mapping}\n[[layers]]\nweight = "w"\n'
    x = pixels_of(rng)
    x[0, :4] = [0, 255, 33, 34]
    expected = (INPUTS[mapping](x.astype(np.int64)) @ w.T).astype(np.float32)
    np.testing.assert_array_equal(scores(write_npz(tmp_path / "n.npz", w=w), toml, x), expected)


def test_0_and_1_are_raw_pixels_and_reals_are_themselves(tmp_path: Path) -> None:
    rng = rng_of(15)
    w = signs_of(rng, CLASSES, DEPTH)
    path = write_npz(tmp_path / "n.npz", w=w)
    x = rng.integers(0, 2, (20, DEPTH), dtype=np.uint8)
    expected = (x.astype(np.int64) @ w.T).astype(np.float32)
    for mapping in ("raw", "reals"):
        toml = f'profile = "ge-zero"\nlayout = "out_in"\ninput = {{{mapping} = true}}\n[[layers]]\nweight = "w"\n'
        given = x if mapping == "raw" else x.astype(np.float32)
        np.testing.assert_array_equal(scores(path, toml, given), expected)


@pytest.mark.parametrize("form", ["tf", "torch"])
def test_every_pixel_at_its_own_threshold(tmp_path: Path, form: str) -> None:
    """An input BatchNorm and sign, with variances down to denormals, negative gammas and constant pixels."""
    rng = rng_of(16)
    variance = np.exp(rng.uniform(-100, 0, DEPTH)).astype(np.float32)
    variance[:4] = [0, 1e-45, 1e-40, 1e-38]
    mean = (rng.integers(0, 256, DEPTH) / np.float32(255)).astype(np.float32)
    gamma, beta = rng.standard_normal((2, DEPTH)).astype(np.float32)
    gamma[4:6] = 0
    w = signs_of(rng, CLASSES, DEPTH)
    path = write_npz(tmp_path / "n.npz", w=w, bn=np.stack([mean, variance, beta, gamma]))
    toml = f"""
        profile = "ge-zero"
        layout = "out_in"
        [input]
        range = [0, 1]
        norm = {{stacked = "bn", order = ["mean", "variance", "beta", "gamma"], epsilon = 1e-5, form = "{form}"}}
        [[layers]]
        weight = "w"
    """
    x = pixels_of(rng, 200)
    mapped = (x / np.float64(255)).astype(np.float32)
    alpha = np.float32(1) / np.sqrt(variance + np.float32(1e-5)) * gamma
    value = mapped.astype(np.float64) * alpha + (beta.astype(np.float64) - mean.astype(np.float64) * alpha)
    certain = (np.abs(value) > 1e-4).all(axis=1) | (form == "tf")
    if form == "tf":
        value = mapped * alpha + (beta - mean * alpha)
    expected = (np.where(value >= 0, 1, -1) @ w.T).astype(np.float32)
    assert certain.sum() > 10
    np.testing.assert_array_equal(scores(path, toml, x)[certain], expected[certain])


def test_a_sign_on_the_inputs(tmp_path: Path) -> None:
    rng = rng_of(17)
    w = signs_of(rng, CLASSES, DEPTH)
    toml = """
        profile = "ge-zero"
        layout = "out_in"
        [input]
        range = [-1, 1]
        sign = true
        sign_rule = "gt"
        [[layers]]
        weight = "w"
    """
    x = pixels_of(rng)
    expected = (np.where(x >= 128, 1, -1) @ w.T.astype(np.int64)).astype(np.float32)
    np.testing.assert_array_equal(scores(write_npz(tmp_path / "n.npz", w=w), toml, x), expected)

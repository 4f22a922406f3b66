"""What real repositories hold and a net.toml must be able to say, item by item, on one small network.

The network is w1 (hidden, inputs) -> something -> sign -> w2 (classes, hidden); an item says how it is stored, what stands in
the net.toml, and what its first layer decides, in plain numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from net_containers import Array, write_c, write_torch
from test_net import read, scores

from xnorinfer.errors import NetworkError

F = np.float32
INPUTS, HIDDEN, CLASSES, ROWS = 24, 8, 5, 200
RNG = np.random.default_rng(20)
W1, W2 = (RNG.choice(np.array([-1, 1], np.int8), shape) for shape in ((HIDDEN, INPUTS), (CLASSES, HIDDEN)))
T = np.array([0, 3, -4, 7, 2, -2, 5, 1])
GAMMA = np.array([1, -1, 0.5, -2, 4, 1, -0.25, 2], F)
#: Powers of two and whole numbers, so that (sum - mean) / std * gamma + beta is exact in any order.
MEAN, STD, BETA = T.astype(F), np.array([1, 2, 4, 0.5, 2, 1, 4, 8], F), np.array([0.5, -1, 2, 0.25, -0.5, 1, 0, 0.125], F)
SIGNS = RNG.choice(np.array([-1, 1], np.int8), (ROWS, INPUTS))
PIXELS = RNG.integers(0, 256, (ROWS, INPUTS), dtype=np.uint8)
PIXELS[0, :4] = [0, 33, 34, 255]


def write_npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def normalized(sums: Array) -> Array:
    return np.asarray((sums - MEAN) / STD * GAMMA + BETA >= 0)


@dataclass
class Item:
    """first, second: the tables of the two layers.  arrays: what is stored beside or instead of w1 and w2.

    decide: sums (rows, hidden) of what enters with w1 -> bits.  x, enters: the inputs, and what of them meets w1.  head: bits
    as -1 and +1 -> scores.
    """

    first: str
    decide: Callable[[Array], Array] = lambda sums: sums >= 0
    second: str = ""
    arrays: dict[str, Any] = field(default_factory=dict)
    top: str = ""
    input: str = "signs = true"
    x: Array = field(default_factory=lambda: SIGNS)
    enters: Callable[[Array], Array] = lambda x: x
    head: Callable[[Array], Array] = lambda bits: bits @ W2.T.astype(np.int64)
    write: Callable[[Path, dict[str, Any]], Path] = write_npz
    weights: tuple[str, str] = ("w1", "w2")


NORM = {"m": MEAN, "s": STD, "g": GAMMA, "b": BETA}
FLOAT = RNG.integers(-300, 300, (CLASSES, HIDDEN)).astype(np.int16)
BIAS = RNG.integers(-500, 500, CLASSES).astype(np.int16)
#: Every input at its own threshold: MEAN of the pixel, variances down to denormal ones.
PIXEL_MEAN = RNG.integers(1, 255, INPUTS).astype(F) + F(0.5)
PIXEL_VARIANCE = np.where(np.arange(INPUTS) % 3 == 0, F(1e-40), F(1)).astype(F)
PIXEL_GAMMA = np.where(np.arange(INPUTS) % 4 == 0, F(-1), F(2)).astype(F)


def own_thresholds(x: Array) -> Array:
    return np.where((x.astype(F) - PIXEL_MEAN) * PIXEL_GAMMA >= 0, 1, -1)


def epsilon_item(epsilon: float) -> Item:
    """Neurons whose sum of 2 is above or below the tie by the epsilon alone: variance + epsilon against a beta."""
    variance = np.full(HIDDEN, 1e-4, F)
    beta = np.array([-2 / np.sqrt(1e-4 + e) for e in (1.5e-5, 5e-5, 5e-4, 2e-3)] * 2, F)
    return Item(
        f'norm = {{mean = 0, variance = "v", beta = "b", epsilon = {epsilon}, form = "tf"}}',
        lambda sums: sums / np.sqrt(1e-4 + epsilon) + beta >= 0,
        arrays={"v": variance, "b": beta},
    )


def bits_text(order: str) -> Callable[[Path, dict[str, Any]], Path]:
    def write(path: Path, arrays: dict[str, Any]) -> Path:
        path.mkdir()
        for name in ("w1", "w2"):
            rows = (arrays[name] > 0).astype(int)[:, :: -1 if order == "msb" else 1]
            (path / f"{name}.txt").write_text("\n".join("".join(map(str, row)) for row in rows))
        return path

    return write


def raw_files(path: Path, arrays: dict[str, Any]) -> Path:
    path.mkdir()
    for name, array in arrays.items():
        (path / name).write_bytes(array.astype("<f4").tobytes())
    return path


def declared(name: str, *lines: str) -> str:
    return "\n".join([f"[arrays.{name}]", *lines, ""])


def text_item(order: str) -> Item:
    lines = [declared(name, f'file = "{name}.txt"', 'format = "bits"', f'order = "{order}"') for name in ("w1", "w2")]
    return Item('values = "bits"', second='values = "bits"', write=bits_text(order), top="".join(lines))


RAW = "".join(
    declared(name, f'file = "{name}"', 'format = "raw"', 'dtype = "float32"', f"shape = [{rows}, {columns}]")
    for name, rows, columns in (("w1", HIDDEN, INPUTS), ("w2", CLASSES, HIDDEN))
)
CHAINER = ("predictor/l1/W", "predictor/l2/W")

ITEMS: dict[str, Item] = {
    "> on popcounts": Item(
        'threshold = {value = "t", on = "popcount", compare = ">"}',
        lambda sums: (sums + INPUTS) // 2 > T + 8,
        arrays={"t": T + 8},
    ),
    ">= on sums": Item('threshold = {value = "t", on = "sum", compare = ">="}', lambda sums: sums >= T, arrays={"t": T}),
    "inverted comparisons": Item(
        'threshold = {value = "t", on = "sum", compare = ">=", inverted = {where = "g", below = 0, compare = "<"}}',
        lambda sums: np.where(GAMMA < 0, sums < T, sums >= T),
        arrays={"t": T, "g": GAMMA},
    ),
    "0/1 weights": Item('values = "bits"', arrays={"w1": (W1 + 1) // 2}),
    "transposed kernels": Item('layout = "in_out"', second='layout = "in_out"', arrays={"w1": W1.T, "w2": W2.T}),
    "no norm at all": Item(""),
    "no norm on the head": Item('norm = {mean = "m", std = "s", gamma = "g", beta = "b"}', normalized, arrays=NORM),
    "float head with bias": Item(
        'activation = "sign"',
        second='kind = "float"\nbias = "b"',
        arrays={"w2": FLOAT.astype(F) / 256, "b": BIAS.astype(F) / 256},
        head=lambda bits: (bits @ FLOAT.T.astype(np.int64) + BIAS) / 256,
    ),
    "int16 head with bias": Item(
        'activation = "sign"',
        second='kind = "float"\nbias = "b"',
        arrays={"w2": FLOAT, "b": BIAS},
        head=lambda bits: bits @ FLOAT.T.astype(np.int64) + BIAS,
    ),
    "binarized weights": Item('values = "signs"', arrays={"w1": W1.astype(np.float64)}),
    "weight scales": Item(
        'scale = "s"\nbias = "b"',
        lambda sums: sums * STD - 3 * GAMMA >= 0,
        second='scale = "h"',
        arrays={"s": STD, "b": -3 * GAMMA, "h": np.arange(1, 6, dtype=F) / 4},
        head=lambda bits: bits @ W2.T * (np.arange(1, 6) / 4),
    ),
    "mean|std|gamma|beta in one array": Item(
        'norm = {stacked = "n", order = ["mean", "std", "gamma", "beta"]}',
        normalized,
        arrays={"n": np.stack([MEAN, STD, GAMMA, BETA])},
    ),
    "mean|var|beta|gamma in one array": Item(
        'norm = {stacked = "n", order = ["mean", "variance", "beta", "gamma"], epsilon = 0, form = "tf"}',
        normalized,
        arrays={"n": np.stack([MEAN, STD * STD, BETA, GAMMA])},
    ),
    "input norm and sign with denormal variances": Item(
        "",
        input='raw = true\nnorm = {mean = "pm", variance = "pv", gamma = "pg", epsilon = 0, form = "tf"}',
        arrays={"pm": PIXEL_MEAN, "pv": PIXEL_VARIANCE, "pg": PIXEL_GAMMA},
        x=PIXELS,
        enters=own_thresholds,
    ),
    "raw 0..255": Item("", input="raw = true", x=PIXELS, enters=lambda x: x),
    "raw 0 and 1": Item("", input="raw = true", x=PIXELS >> 7, enters=lambda x: x),
    "pixel >= 34": Item("", input="threshold = 34", x=PIXELS, enters=lambda x: np.where(x >= 34, 1, -1)),
    **{f"epsilon {epsilon:g}": epsilon_item(epsilon) for epsilon in (1e-5, 2e-5, 1e-4, 1e-3)},
    "raw little-endian float32 files": Item("", write=raw_files, top=RAW),
    "text rows, LSB first": text_item("lsb"),
    "text rows, MSB first": text_item("msb"),
    "C header": Item("", write=lambda path, arrays: write_c(path.with_suffix(".h"), arrays)),
    "Chainer npz": Item(
        "",
        arrays={"predictor/l1/b": np.array(None), "updater/iteration": np.array(7)},
        top='ignore = ["predictor/l1/b", "updater/*"]\n',
        weights=CHAINER,
    ),
    "legacy torch pickle": Item(
        "",
        write=lambda path, arrays: write_torch(path.with_suffix(".t7"), arrays, legacy=True),
        weights=("net.w1", "net.w2"),
        top='container = "torch"\n',
    ),
}


def prepared(folder: Path, item: Item) -> tuple[Path, str]:
    stored = {"w1": W1, "w2": W2} | item.arrays
    if item.weights == CHAINER:
        stored = dict(zip(CHAINER, (W1, W2), strict=True)) | item.arrays
    path = item.write(folder / "net", stored)
    layout = "" if "layout" in item.first else 'layout = "out_in"\n'
    names = "".join(
        f'[[layers]]\nweight = "{name}"\n{table}\n' for name, table in zip(item.weights, (item.first, item.second), strict=True)
    )
    keys, _, tables = item.top.partition("[arrays")
    arrays = f"[arrays{tables}" if tables else ""
    return path, f'profile = "ge-zero"\n{layout}{keys}{arrays}[input]\n{item.input}\n{names}'


@pytest.mark.parametrize("name", ITEMS)
def test_it_can_be_said(tmp_path: Path, name: str) -> None:
    item = ITEMS[name]
    path, toml = prepared(tmp_path, item)
    sums = item.enters(item.x).astype(np.int64) @ W1.T.astype(np.int64)
    bits = item.decide(sums)
    assert bits.any(axis=0).sum() >= 2
    assert not bits.all()
    expected = item.head(np.where(bits, 1, -1))
    np.testing.assert_array_equal(scores(path, toml, item.x), np.asarray(expected, F))


@pytest.mark.parametrize("values", ["signs", "bits"])
def test_exact_zeros_are_refused_with_their_count(tmp_path: Path, values: str) -> None:
    w1 = W1.astype(np.int8).copy()
    w1[2, 3:6] = 0
    path, toml = prepared(tmp_path, Item(f'values = "{values}"', arrays={"w1": w1 if values == "signs" else 2 * w1}))
    with pytest.raises(NetworkError, match=r"3 of 192 values of w1 are exactly 0" if values == "signs" else "192 values of w1"):
        read(path, toml)

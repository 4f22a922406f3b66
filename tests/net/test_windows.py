"""Convolutions and pools: what the oracle computes is what PyTorch and TensorFlow compute, and what is no network is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xnorinfer.errors import OptionError
from xnorinfer.graph import Node
from xnorinfer.net import (
    ChannelInput,
    Flatten,
    Linear,
    Net,
    Norm,
    PixelInput,
    Pool,
    Quantize,
    RealInput,
    SignInput,
    Steps,
    ThresholdInput,
    Window,
)
from xnorinfer.net.reference import forward, node_outputs
from xnorinfer.net.values import InputMapping, input_from_json, input_to_json
from xnorinfer.net.windows import borders, taps_by_axis

SHAPE = (7, 5, 4)


def windows(count: int, *, dilated: bool = True) -> Iterator[Window]:
    """Random ones that fit a map of SHAPE."""
    rng = np.random.default_rng(3)
    while count:
        size, stride, dilation = (tuple(map(int, rng.integers(1, most, 2))) for most in (4, 3, 3 if dilated else 2))
        reach = Window(size, stride, dilation).reach
        window = Window(size, stride, dilation, tuple(int(rng.integers(0, reach[i])) for i in (0, 0, 1, 1)))
        if min(window.outputs(*SHAPE[:2])) > 0:
            count -= 1
            yield window


def kernels(neurons: int, window: Window, channels: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((neurons, *window.size, channels), np.float32)


def signs(rows: int = 3, shape: tuple[int, ...] = SHAPE) -> NDArray[np.int8]:
    return np.random.default_rng(9).choice(np.array([-1, 1], np.int8), (rows, int(np.prod(shape))))


def convolution(window: Window, groups: int = 1, pad: int = 0, rule: Any = "ge", channels: int = SHAPE[2]) -> Linear:
    return Linear(kernels(4, window, channels // groups), rule, window=window, groups=groups, pad=pad)


def chain(*ops: Any, entry: InputMapping | None = None, shape: tuple[int, ...] = SHAPE) -> Net:
    named = [(f"n{index}", op) for index, op in enumerate(ops)]
    return Net.chain(entry or SignInput(), named, "ge-zero", shape)


@pytest.mark.parametrize("pad", [0, 1, -1])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_are_those_of_torch(groups: int, pad: int) -> None:
    torch = pytest.importorskip("torch")
    for window in windows(20):
        op = convolution(window, groups, pad)
        net = chain(op)
        assert net.check() == []
        x = signs()
        top, bottom, left, right = window.padding
        maps = torch.tensor(x.reshape(3, *SHAPE).transpose(0, 3, 1, 2).astype(np.float32))
        maps = torch.nn.functional.pad(maps, (left, right, top, bottom), value=pad)
        weights = torch.tensor(np.where(op.weight >= 0, np.float32(1), np.float32(-1)).transpose(0, 3, 1, 2).copy())
        wanted = torch.nn.functional.conv2d(maps, weights, stride=window.stride, dilation=window.dilation, groups=groups)
        np.testing.assert_array_equal(forward(net, x), wanted.numpy().transpose(0, 2, 3, 1).reshape(3, -1))


@pytest.mark.parametrize("padded", [False, True])
def test_pools_are_those_of_torch(padded: bool) -> None:
    torch = pytest.importorskip("torch")
    ones = Linear(np.ones((4, 1, 1, 4), np.float32), "ge", window=Window((1, 1)))
    sums = signs().reshape(3, *SHAPE).sum(axis=3, keepdims=True, dtype=np.float64).repeat(4, axis=3)
    maps = torch.tensor(sums.transpose(0, 3, 1, 2))
    tried = 0
    for window in windows(60, dilated=False):
        top, bottom, left, right = window.padding
        if (top, left) != (bottom, right) or 2 * top > window.size[0] or 2 * left > window.size[1]:
            continue  # torch has no such pool
        tried += 1
        of_torch = torch.nn.functional
        largest = of_torch.max_pool2d(maps, window.size, window.stride, (top, left))
        mean = of_torch.avg_pool2d(maps, window.size, window.stride, (top, left), count_include_pad=padded)
        for kind, wanted in (("max", largest), ("average", mean)):
            net = chain(ones, Pool(kind, window, padded))  # type: ignore[arg-type]
            assert net.check() == []
            of_ours = forward(net, signs())
            np.testing.assert_array_equal(of_ours, wanted.numpy().astype(np.float32).transpose(0, 2, 3, 1).reshape(3, -1))
    assert tried > 5


def test_same_padding_is_that_of_tensorflow() -> None:
    tensorflow = pytest.importorskip("tensorflow")
    for stride in ((1, 1), (2, 1), (2, 2)):
        down, across = -(-SHAPE[0] // stride[0]), -(-SHAPE[1] // stride[1])
        total = [max(0, (n - 1) * s + k - size) for n, s, k, size in zip((down, across), stride, (3, 2), SHAPE, strict=False)]
        before = [one // 2 for one in total]
        window = Window((3, 2), stride, padding=(before[0], total[0] - before[0], before[1], total[1] - before[1]))
        op = convolution(window)
        weights = np.where(op.weight >= 0, np.float32(1), np.float32(-1)).transpose(1, 2, 3, 0)
        maps = signs().reshape(3, *SHAPE).astype(np.float32)
        wanted = tensorflow.nn.conv2d(maps, weights, strides=stride, padding="SAME").numpy()
        np.testing.assert_array_equal(forward(chain(op), signs()), wanted.reshape(3, -1))


def test_pixels_outside_are_zero_behind_their_mapping() -> None:
    window = Window((3, 3), (1, 2), padding=(1, 2, 0, 1))
    op = convolution(window, channels=3)
    shape = (7, 5, 3)
    x = np.random.default_rng(1).integers(0, 256, (2, 105), dtype=np.uint8)
    signs_of = np.where(op.weight >= 0, 1.0, -1.0)
    for entry in (
        PixelInput.range(-1, 1),
        PixelInput(1, 0, 1),
        ThresholdInput(9),
        ChannelInput.normalize((0.5, 0.4, 0.3), (1, 2, 3)),
    ):
        if isinstance(entry, ThresholdInput):
            mapped = np.where(x >= 9, 1.0, -1.0)
        elif isinstance(entry, ChannelInput):
            mean, std = np.tile([0.5, 0.4, 0.3], 35), np.tile([1.0, 2.0, 3.0], 35)
            mapped = (x / 255 - mean) / std
        else:
            mapped = (entry.slope * x + entry.intercept) / entry.divisor
        padded = np.pad(mapped.reshape(2, *shape), ((0, 0), (1, 2), (0, 1), (0, 0)))
        down, across = window.outputs(7, 5)
        wanted = np.zeros((2, down, across, 4))
        for i, j in np.ndindex(3, 3):
            wanted += padded[:, i : i + down, j : j + 2 * across : 2][:, :down, :across] @ signs_of[:, i, j].T
        net = chain(op, entry=entry, shape=shape)
        assert net.check() == []
        np.testing.assert_allclose(forward(net, x), wanted.reshape(2, -1), rtol=1e-5, atol=1e-4)


def test_maps_flow_as_maps() -> None:
    """BatchNorm, functions and signs go by channel; a dense layer takes all of a map, channels innermost."""
    window = Window((3, 2), padding=(1, 1, 0, 0))
    mean, variance = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
    middle = (Norm(mean, variance, epsilon=0.0), Pool("max", Window((2, 2), (2, 2))), Quantize("gt"), Flatten())
    dense = Linear(kernels(3, Window((1, 1)), 24).reshape(3, 24), "ge")
    net = chain(convolution(window), *middle, dense)
    assert net.check() == []
    assert [value.shape for value in net.values] == [(7, 4, 4), (7, 4, 4), (3, 2, 4), (3, 2, 4), (24,), (3,)]
    assert net.classes == 3
    sums, normed, pooled, bits, flat, _ = (value for _, value in node_outputs(net, signs()))
    np.testing.assert_array_equal(normed, sums - mean)
    np.testing.assert_array_equal(pooled, normed[:, :6].reshape(3, 3, 2, 2, 2, 4).max(axis=(2, 4)))
    np.testing.assert_array_equal(bits, np.where(pooled > 0, 1, -1))
    np.testing.assert_array_equal(flat, bits.reshape(3, 24))
    without = chain(convolution(window), *middle[:3], dense)
    assert without.check() == []
    np.testing.assert_array_equal(forward(without, signs()), forward(net, signs()))


def test_border_classes() -> None:
    found = borders(Window((3, 3), padding=(1, 1, 1, 1)), 4, 6)
    assert len(found.inside) == 9
    assert found.of.tolist()[:2] == [[0, 1, 1, 1, 1, 2], [3, 4, 4, 4, 4, 5]]
    assert found.inside[0].astype(int).tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]
    assert found.inside[4].all()
    assert len(borders(Window((2, 2), (2, 2)), 6, 5).inside) == 1
    for window in windows(30):
        of, inside = borders(window, *SHAPE[:2])
        down, across = taps_by_axis(window, *SHAPE[:2])
        assert np.outer(down, across).reshape(-1).tolist() == inside.sum(axis=(1, 2)).tolist()
        rows, columns = window.rows_and_columns(*SHAPE[:2])
        for (y, x), kind in np.ndenumerate(of):
            on_map = ((rows[y] >= 0) & (rows[y] < 7))[:, None] & ((columns[x] >= 0) & (columns[x] < 5))
            np.testing.assert_array_equal(inside[kind], on_map)
        assert len({part.tobytes() for part in inside}) == len(inside)


def head(depth: int = 4) -> Linear:
    return Linear(np.ones((2, depth), np.float32), "ge")


ONE = Window((1, 1))


def filled(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


BAD: dict[str, tuple[Net, str]] = {
    "too large": (chain(convolution(Window((8, 1)))), r"n0: its window reaches over 8x1 pixels, the input gives a map of 7x5"),
    "dilated": (chain(convolution(Window((3, 3), dilation=(1, 3)))), r"n0: its window reaches over 3x7 pixels"),
    "stride": (chain(convolution(Window((1, 1), (0, 1)))), r"n0: its stride is \(0, 1\), needed is at least 1"),
    "dilation": (chain(convolution(Window((1, 1), dilation=(1, 0)))), r"n0: its dilation is \(1, 0\)"),
    "padding": (chain(convolution(Window((3, 3), padding=(0, 3, 0, 0)))), r"n0: its padding is \(0, 3, 0, 0\), and its window"),
    "negative": (chain(convolution(Window((3, 3), padding=(0, -1, 0, 0)))), r"n0: its padding is \(0, -1, 0, 0\)"),
    "no numbers": (chain(convolution(Window((1, 1), stride=(1.5, 1)))), r"n0: its stride is \(1.5, 1\), needed are 2 whole"),  # type: ignore[arg-type]
    "other size": (
        chain(Linear(filled(4, 3, 3, 4), "ge", window=Window((3, 2)))),
        r"its window is 3x2, its weights are of 3x3",
    ),
    "channels": (chain(convolution(ONE, channels=3)), r"n0: takes 3 channels but the input gives 4"),
    "groups": (
        chain(Linear(filled(4, 1, 1, 2), "ge", window=ONE, groups=3)),
        r"n0: has 3 groups, which 4 channels and 4 neurons do not divide by",
    ),
    "dense weights": (
        chain(Linear(filled(4, 4), "ge", window=ONE)),
        r"n0: weights have shape \(4, 4\), needed is \(neurons, kernel height",
    ),
    "4-D weights": (
        chain(Linear(filled(4, 1, 1, 4), "ge")),
        r"n0: weights have shape \(4, 1, 1, 4\), needed is \(neurons, depth\)",
    ),
    "no map": (
        chain(Linear(filled(8, 4), "ge"), Quantize("ge"), convolution(ONE), shape=(4,)),
        r"n2: takes a map \(height, width, channels\), n0 gives \(8,\)",
    ),
    "vector": (chain(convolution(ONE), Norm(filled(7), filled(7), epsilon=1)), r"n1: mean has shape \(7,\), needed is \(4,\)"),
    "pad": (chain(convolution(ONE, pad=2)), r"n0: pads with 2, needed is 0, 1 or -1"),
    "pad of pixels": (
        chain(convolution(Window((2, 2), padding=(1, 0, 0, 0)), pad=1), entry=PixelInput.range(-1, 1)),
        r"n0: pads with 1, which only a binary layer over signs can",
    ),
    "pool": (chain(convolution(ONE), Pool("median")), r"n1: pool 'median' is none of max, average"),  # type: ignore[arg-type]
    "pool of nothing": (
        chain(convolution(ONE), Pool("max", Window((2, 1), dilation=(8, 1), padding=(1, 1, 0, 0)))),
        r"n1: some of its windows have no element",
    ),
    "pool first": (chain(Pool("max", Window((2, 2))), convolution(ONE)), r"n0: a pool comes before the first layer"),
    "pool of a vector": (chain(head(140), Pool("max")), r"n1: takes a map \(height, width, channels\), n0 gives \(2,\)"),
    "float": (chain(convolution(ONE, rule=None)), r"n0: no layer is binary"),
    "no binary": (chain(convolution(ONE, rule=None), convolution(ONE, rule=None)), r"no layer is binary"),
    "no sign": (chain(convolution(ONE, rule=None), convolution(ONE)), r"n1: a binary layer follows n0 without a sign"),
    "shape": (
        Net(SignInput(), (7, 5), (Node("n0", head(35), (-1,)),), "ge-zero"),
        r"the input has the shape \(7, 5\), needed is \(features,\) or \(height, width, channels\)",
    ),
    "channels of the input": (
        chain(convolution(ONE), entry=ChannelInput.normalize((0.5, 0.4, 0.3), (1, 1, 1))),
        r"a mapping for each of 3 channels",
    ),
    "zeros": (
        chain(Linear(np.zeros((4, 1, 1, 4), np.float32), "sign", window=ONE)),
        r"16 latent weights are exactly 0, the first at \[0, 0, 0, 0\]",
    ),
    "sizes": (
        chain(Linear(filled(1, 1, 1, 4), "ge", window=ONE), Pool("max", Window((1 << 21, 1)))),
        r"n1: its size is \(2097152, 1\), needed is at least 1 and at most",
    ),
    "lines": (
        chain(Linear(filled(1, 1, 1, 1), "ge", window=ONE), Pool("max", ONE), shape=((1 << 31) - 1, 1, 1)),
        r"n0: takes a map, the input gives 2147483647 lines of 1, at most 1048576 are known",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_network_is_named(case: str) -> None:
    net, wanted = BAD[case]
    assert any(re.search(wanted, problem) for problem in net.check()), net.check()


def test_any_layers_may_be_float() -> None:
    stem, binary = convolution(Window((1, 1)), rule=None), convolution(Window((1, 1)))
    last = Linear(np.ones((3, 4), np.float32), None)
    net = chain(stem, Quantize("ge"), binary, Steps.of(("relu",)), Pool("average"), last, entry=RealInput())
    assert net.check() == []
    assert forward(net, np.ones((2, 140), np.float32)).shape == (2, 3)
    dense = Linear(np.ones((4, 140), np.float32)), Quantize("ge"), Linear(np.ones((4, 4), np.float32), "ge")
    assert chain(*dense, entry=RealInput()).check() == []
    behind = chain(Linear(np.ones((4, 140), np.float32), "ge"), Linear(np.ones((4, 4), np.float32)), *dense[1:])
    assert behind.check() == []


def test_mappings_of_channels() -> None:
    mapping = ChannelInput.normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
    assert isinstance(mapping, ChannelInput)
    assert input_from_json(input_to_json(mapping)) == mapping
    assert "channel by channel" in mapping.describe()
    assert ChannelInput.normalize((0.5, 0.5), (0.2, 0.2)) == PixelInput.normalize(0.5, 0.2)
    with pytest.raises(OptionError, match="1 means and 2 stds"):
        ChannelInput.normalize((0.5,), (1, 2))
    with pytest.raises(OptionError, match="different mappings"):
        ChannelInput((PixelInput.range(0, 1),))
    with pytest.raises(OptionError, match="needed is a tuple of PixelInput"):
        ChannelInput((1, 2))  # type: ignore[arg-type]
    for wrong in ({"kind": "channels"}, {"kind": "channels", "channels": [1, 2]}, {"kind": "channels", "channels": 3}):
        with pytest.raises(OptionError):
            input_from_json(wrong)

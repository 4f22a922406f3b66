"""Every kernel of the table on convolutions, pools and steps on maps, against plain loops."""

from __future__ import annotations

from typing import Any

import guarded
import numpy as np
import packed_networks as nets
import pytest
from packed_oracle import expected
from seeds import seeds

from xnorinfer.engine import plan as plan_module
from xnorinfer.engine.plan import Plan
from xnorinfer.graph import chain
from xnorinfer.kernels import fields, map_prepack
from xnorinfer.kernels import pool as pool_module
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput, SignInput, ThresholdInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.packed import STEP_NAMES, Affine, Dot, PackedModel, Pool, Value

INPUTS: dict[str, InputMapping] = {
    "pixels": PixelInput.normalize(0.1307, 0.3081),
    "channels": ChannelInput(tuple(PixelInput.normalize(mean, std) for mean, std in ((0.5, 0.2), (0.4, 0.2), (0.45, 0.3)))),
    "threshold": ThresholdInput(128),
    "signs": SignInput(),
    "reals": RealInput(),
}
#: (height, width, channels), three for a mapping of channels.
SHAPES = ((7, 12, 3), (1, 30, 3), (13, 5, 70), (6, 9, 128), (4, 4, 1))


def shape_for(mapping: InputMapping, number: int) -> tuple[int, int, int]:
    height, width, channels = SHAPES[number % len(SHAPES)]
    return height, width, len(mapping.channels) if isinstance(mapping, ChannelInput) else channels


def check(model: PackedModel, kernel: str, threads: int = 1, batches: tuple[int, ...] = (0, 1, 3, 17)) -> None:
    """Every node's output and the scores, exactly."""
    x = nets.random_rows(np.random.default_rng(0), model, max(batches))
    want = expected(model, x)
    plan = Plan(model, threads=threads, kernel=kernel)
    for rows in batches:
        for node, got, right in zip(model.nodes, plan.trace(x[:rows].copy()), want, strict=True):
            assert nets.same(got, right[:rows]), (kernel, rows, node.name, node.op)
        assert nets.same(plan.run(x[:rows].copy()), want[-1][:rows])


@pytest.mark.parametrize("seed", seeds(4, 8))
@pytest.mark.parametrize("source", INPUTS)
def test_random_networks(kernel: str, source: str, seed: int) -> None:
    mapping = INPUTS[source]
    model = nets.random_maps(np.random.default_rng(seed), mapping, shape_for(mapping, seed), 1 + seed % 4)
    check(model, kernel)


def convolution(rng: np.random.Generator, shape: tuple[int, int, int], neurons: int, **parts: Any) -> PackedModel:
    """Signs in, a layer of bits, and one of them with real numbers out."""
    window = parts.pop("window", Window((3, 3), padding=(1, 1, 1, 1)))
    first = nets.random_dot(rng, "bits", shape, neurons, window=window, bits=True, **parts)
    down, across = window.outputs(*shape[:2])
    second = nets.random_dot(rng, "bits", (down, across, neurons), neurons, window=window, bits=False, **parts)
    model = PackedModel(SignInput(), shape, chain([("first", first), ("second", second)]), "ge-zero")
    assert model.check() == []
    return model


@pytest.mark.parametrize("channels", [32, 64, 96, 128, 512, 640])
def test_layers_of_many_channels(kernel: str, channels: int) -> None:
    """Strips that are not full, rows of more words than a part of the parities, pairs of rows without partner."""
    check(convolution(np.random.default_rng(channels), (7, 9, channels), channels), kernel, batches=(1, 4))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("channels", [32, 64, 96, 128])
def test_strides_and_dilations_of_many_channels(kernel: str, channels: int, groups: int) -> None:
    """Runs of pixels that are whole vectors and not, and far apart."""
    rng = np.random.default_rng(channels)
    pixel, neurons = Window((1, 1)), 40 * groups
    for stride, dilation, padding in (
        ((1, 2), (1, 1), (1, 0, 2, 1)),
        ((2, 1), (1, 2), (0, 1, 2, 3)),
        ((1, 3), (2, 1), (0, 0, 0, 0)),
    ):
        window = Window((3, 3), stride, dilation, padding)
        shape = (5, 40, channels * groups)
        first = nets.random_dot(rng, "bits", (5, 40, 3), channels * groups, window=pixel, bits=True)
        layer = nets.random_dot(rng, "bits", shape, neurons, window=window, bits=True, groups=groups)
        head = nets.random_dot(rng, "bits", (*window.outputs(5, 40), neurons), 3, window=pixel, bits=False)
        nodes = chain([("first", first), ("layer", layer), ("head", head)])
        check(PackedModel(SignInput(), (5, 40, 3), nodes, "ge-zero"), kernel, batches=(1, 2))


@pytest.mark.parametrize("pad", [-1, 0, 1])
@pytest.mark.parametrize("groups", [1, 2, 32, 64])
def test_groups_of_channels(kernel: str, groups: int, pad: int) -> None:
    for neurons in (64, 128, 192):
        check(convolution(np.random.default_rng(groups), (5, 6, 128), neurons, groups=groups, pad=pad), kernel, batches=(2,))


@pytest.mark.long
def test_depths_beyond_16_bits(kernel: str) -> None:
    """Counts of a window are kept in parts, with limits of border classes."""
    rng = np.random.default_rng(1)
    check(convolution(rng, (3, 4, 4096), 70), kernel, batches=(1, 2))


def test_windows_that_are_maps(kernel: str) -> None:
    """Dense layers behind maps: pixels of whole words lie as vectors do, others are packed."""
    rng = np.random.default_rng(2)
    for channels in (10, 64, 130):
        shape = (3, 5, 7)
        layers = [nets.random_dot(rng, "bits", shape, channels, window=Window((2, 2)), bits=True)]
        layers.append(nets.random_dot(rng, "bits", (2, 4, channels), 65, window=Window((2, 4)), bits=True))
        layers.append(nets.random_dot(rng, "bits", (1, 1, 65), 10, window=Window((1, 1)), bits=False))
        nodes = chain([(f"layer{i}", layer) for i, layer in enumerate(layers)])
        check(PackedModel(SignInput(), shape, nodes, "ge-zero"), kernel, batches=(1, 3, 150))


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("source", INPUTS)
def test_threads(source: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips, and parts of the neurons of small maps, are shared for few samples; samples for many."""
    monkeypatch.setattr(plan_module, "THREAD_WORK", 0)
    monkeypatch.setattr(pool_module._Account, "PAYBACK", 0)
    mapping = INPUTS[source]
    for seed in range(4):
        model = nets.random_maps(np.random.default_rng(seed), mapping, shape_for(mapping, seed), 3)
        x = nets.random_rows(np.random.default_rng(0), model, 70)
        want = expected(model, x)[-1]
        plan = Plan(model, threads=threads)
        for rows in (1, 2, 7, 16, 17, 70):
            assert nets.same(plan.run(x[:rows].copy()), want[:rows]), (seed, rows)


@pytest.mark.parametrize("channels", [1, 3, 64, 70, 130])
def test_depthwise_float_layers(kernel: str, channels: int) -> None:
    """Each channel by itself, as a blur pool has it, of inputs and of numbers that others make."""
    rng = np.random.default_rng(channels)
    for seed in range(3):
        shape = (6, 5, channels)
        nodes: list[tuple[str, Any]] = []
        for index in range(2):
            window = nets.random_window(rng, shape)
            ways: dict[str, Any] = {"binary": False, "groups": channels, "window": window, "bits": False}
            nodes.append((f"blur{index}", nets.random_dot(rng, "reals", shape, channels, **ways)))
            shape = (*window.outputs(*shape[:2]), channels)
        model = PackedModel(RealInput(), (6, 5, channels), chain(nodes), "ge-zero")
        assert model.check() == []
        check(model, kernel, threads=1 + seed % 2, batches=(1, 4))


@pytest.mark.parametrize("channels", [3, 64, 70])
@pytest.mark.parametrize("reads", ["depthwise", "floats", "bits"])
def test_windows_that_hold_nothing_of_their_map(kernel: str, reads: str, channels: int) -> None:
    """Taps that are apart look past a small map on all sides: such sums are 0."""
    rng, binary = np.random.default_rng(channels), reads == "bits"
    for shape, window in (
        ((1, 9, channels), Window((5, 1), (1, 1), (3, 1), (11, 4, 0, 0))),
        ((9, 1, channels), Window((1, 5), (1, 1), (1, 3), (0, 0, 11, 4))),
        ((2, 6, channels), Window((2, 3), (1, 2), (5, 4), (4, 5, 7, 8))),
    ):
        groups = channels if reads == "depthwise" else 1
        kind = "bits" if binary else "reals"
        layer = nets.random_dot(rng, kind, shape, channels, window=window, bits=False, binary=binary, groups=groups)
        nodes: list[tuple[str, Any]] = [("conv", layer)]
        if binary:
            nodes.insert(0, ("sign", nets.random_binarize(rng, Value("reals", shape))))
        model = PackedModel(RealInput(), shape, chain(nodes), "ge-zero")
        assert model.check() == []
        check(model, kernel, batches=(1, 3))


@pytest.mark.parametrize("neurons", [1, 5, 16, 40, 70])
def test_float_convolutions(kernel: str, neurons: int) -> None:
    """Lines of fewer pixels than a tile has, of more, and with a rest; windows at borders, apart, in groups, single pixels."""
    rng = np.random.default_rng(neurons)
    for number, (shape, window, groups) in enumerate(
        (
            ((5, 31, 3), Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), 1),
            ((9, 18, 4), Window((3, 2), (2, 2), (1, 1), (0, 1, 0, 1)), 1),
            ((7, 9, 6), Window((2, 3), (1, 2), (2, 2), (2, 0, 1, 4)), 2),
            ((1, 3, 8), Window((1, 1)), 1),
            ((22, 23, 5), Window((1, 1)), 1),
            ((7, 7, 4), Window((1, 1), (2, 2)), 2),
            ((2, 3, 5), Window((3, 3), (1, 1), (1, 1), (2, 2, 2, 2)), 1),
        )
    ):
        layer = nets.random_dot(rng, "reals", shape, neurons * groups, window=window, bits=False, binary=False, groups=groups)
        model = PackedModel(RealInput(), shape, chain([("conv", layer)]), "ge-zero")
        assert model.check() == []
        check(model, kernel, threads=1 + number % 2, batches=(1, 3))


@pytest.mark.parametrize("at_start", [False, True])
def test_float_windows_that_are_read_where_they_lie(kernel: str, at_start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines so long that windows inside the map are not copied with its border, in strips at its ends and between."""
    guarded.guard_layouts(monkeypatch, at_start)
    monkeypatch.setattr(map_prepack, "FLOAT_PIXELS", 64)
    rng = np.random.default_rng(0)
    for shape, window, groups in (
        ((9, 47, 3), Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), 1),
        ((9, 95, 2), Window((3, 3), (2, 2), (1, 1), (0, 1, 0, 1)), 1),
        ((14, 97, 4), Window((5, 4), (2, 2), (1, 1), (2, 1, 3, 2)), 2),
        ((9, 60, 2), Window((2, 3), (1, 1), (2, 3), (0, 0, 5, 4)), 1),
        ((12, 50, 1), Window((3, 3), (1, 1), (1, 1), (0, 0, 2, 0)), 1),
    ):
        layer = nets.random_dot(rng, "reals", shape, 20 * groups, window=window, bits=False, binary=False, groups=groups)
        run_guarded(PackedModel(RealInput(), shape, chain([("conv", layer)]), "ge-zero"), kernel, at_start)


@pytest.mark.parametrize("codes", [(), *(fields.PIECES[number] for number in fields.ON_SUMS), (fields.CLIP, fields.MUL)])
def test_steps_on_the_sums_of_a_tile(kernel: str, codes: tuple[int, ...]) -> None:
    """Steps that are taken in registers, and some that are not; whole panels, parts of them, lines of a few pixels."""
    rng = np.random.default_rng(len(codes))
    window = Window((3, 3), (2, 2), (1, 1), (0, 1, 1, 1))
    for neurons in (16, 32, 40, 64):
        values = rng.standard_normal((len(codes), 2, neurons)).astype(np.float32)
        values[:, 1] = np.maximum(values[:, 0], values[:, 1])  # of clip
        steps = Affine(tuple(STEP_NAMES[code] for code in codes), values)
        weights = rng.standard_normal((neurons, 27)).astype(np.float32)
        for shape in ((6, 61, 3), (4, 7, 3)):
            layer = Dot("reals", 27, weights, steps, window)
            check(PackedModel(RealInput(), shape, chain([("conv", layer)]), "ge-zero"), kernel, batches=(1, 2))


@pytest.mark.parametrize("pixels", [8, 16, 24])
def test_small_strips(kernel: str, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_prepack, "STRIP_PIXELS", pixels)
    for channels in (32, 64):
        check(convolution(np.random.default_rng(pixels), (7, 9, channels), channels), kernel, batches=(1, 4))


@pytest.mark.parametrize("at_start", [False, True])
@pytest.mark.parametrize("source", INPUTS)
def test_nothing_is_touched_beyond_its_end(kernel: str, source: str, at_start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the compiled code reads or writes lies between unmapped pages."""
    guarded.guard_layouts(monkeypatch, at_start)
    mapping = INPUTS[source]
    for seed in range(4):
        model = nets.random_maps(np.random.default_rng(10 + seed), mapping, shape_for(mapping, seed), 2)
        run_guarded(model, kernel, at_start)


@pytest.mark.parametrize("neurons", [3, 70])
@pytest.mark.parametrize(("source", "reads"), [("pixels", "pixels"), ("signs", "bits")])
def test_sums_at_borders_touch_nothing_else(
    kernel: str, source: str, reads: str, neurons: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums that go on to steps are compared with nothing, whatever their border class."""
    guarded.guard_layouts(monkeypatch, at_start=False)
    window = Window((3, 3), padding=(1, 1, 1, 1))
    layer = nets.random_dot(np.random.default_rng(0), reads, (4, 5, 3), neurons, window=window, bits=False)
    run_guarded(PackedModel(INPUTS[source], (4, 5, 3), chain([("conv", layer)]), "ge-zero"), kernel, at_start=False)


def run_guarded(model: PackedModel, kernel: str, at_start: bool) -> None:
    """Node by node, between unmapped pages, where layouts are guarded."""
    plan = Plan(model, threads=1, kernel=kernel)
    for rows in (1, 3):
        x = nets.random_rows(np.random.default_rng(0), model, rows)
        source_rows, outputs = guarded.copy_of(x, at_start), expected(model, x)
        for index, want in enumerate(outputs):
            target = guarded.guarded(want.shape, want.dtype, want.dtype.itemsize, at_start)
            plan.run_nodes(source_rows, target, index, index + 1)
            assert nets.same(target.copy(), want), model.nodes[index].op
            source_rows = target


def test_infinities_and_nan_in_pools(kernel: str) -> None:
    """A largest value with NaN among its windows' is NaN, as numpy's."""
    shape = (4, 6, 2)
    pools: list[tuple[str, Any]] = [
        ("largest", Pool("max", Window((2, 2), (1, 2)))),
        ("smallest", Pool("max", Window((2, 2)), np.array([True, False]))),
        ("head", Dot("reals", 2, np.ones((1, 2), np.float32), nets.random_affine(np.random.default_rng(0), 1), Window((1, 1)))),
    ]
    model = PackedModel(RealInput(), shape, chain(pools), "ge-zero")
    x = nets.random_rows(np.random.default_rng(0), model, 3)
    x[0, 5], x[0, 20], x[1, 7], x[2] = np.nan, np.inf, -np.inf, -np.inf
    for got, want in zip(Plan(model, kernel=kernel).trace(x), expected(model, x), strict=True):
        assert np.array_equal(got, want, equal_nan=True)

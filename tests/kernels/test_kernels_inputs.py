"""Inputs that become bits, each at a limit of its own, by every kernel: against comparisons by numpy in wider numbers."""

from __future__ import annotations

import math
from typing import Any

import guarded
import numpy as np
import packed_networks as nets
import pytest
from numpy.typing import NDArray

from xnorinfer.engine import plan as plan_module
from xnorinfer.engine.plan import Plan
from xnorinfer.graph import chain
from xnorinfer.kernels import fields
from xnorinfer.net.values import ChannelInput, PixelInput, RealInput, SignInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.packed import Binarize, Dot, Mapped, PackedModel

DEPTHS = [1, 2, 31, 63, 64, 65, 127, 128, 129, 784, 4161]
KINDS = ["pixels", "reals"]


def network(rng: np.random.Generator, kind: str, limits: NDArray[Any], mirrored: NDArray[np.bool_]) -> PackedModel:
    """Those bits, a layer of bits, and one of scores."""
    inner = nets.random_model(rng, SignInput(), (len(limits), 33, 3))
    ops = [("bits", Binarize(limits, mirrored)), *((node.name, node.op) for node in inner.nodes)]
    model = PackedModel.chain(PixelInput.range(-1, 1) if kind == "pixels" else RealInput(), ops, "ge-zero")
    assert model.check() == []
    return model


def random_network(rng: np.random.Generator, kind: str, depth: int) -> PackedModel:
    """Limits anywhere, beyond both ends, at the ends; both ways round."""
    limits: NDArray[Any]
    if kind == "pixels":
        limits = rng.integers(-300, 300, depth).astype(np.int32)
        odd: list[float] = [-(2**31), 2**31 - 1, -257, -256, -255, -1, 0, 1, 254, 255, 256]
    else:
        limits = (rng.standard_normal(depth) * 10.0 ** rng.integers(-4, 4, depth)).astype(np.float32)
        small = np.finfo(np.float32).smallest_subnormal
        odd = [np.inf, -np.inf, 0.0, -0.0, small, -small, np.finfo(np.float32).max, -np.finfo(np.float32).max]
    special = rng.random(depth) < 0.4
    limits[special] = rng.choice(np.array(odd, limits.dtype), depth)[special]
    return network(rng, kind, limits, rng.integers(0, 2, depth).astype(bool))


def random_rows(rng: np.random.Generator, model: PackedModel, rows: int) -> NDArray[Any]:
    """Inputs anywhere, many of them at the limits and right beside them."""
    assert model.binarize is not None
    limits = model.binarize.op.limits
    near = np.where(rng.integers(0, 2, (rows, len(limits))), limits, -limits.astype(np.float64))
    x: NDArray[Any]
    if limits.dtype == np.int32:
        x = rng.integers(0, 256, near.shape)
        near = (near + rng.integers(-1, 2, near.shape)).clip(0, 255)
        return np.where(rng.integers(0, 2, near.shape), near, x).astype(np.uint8)
    x = rng.standard_normal(near.shape).astype(np.float32)
    with np.errstate(over="ignore"):
        steps = np.stack([np.nextafter(near.astype(np.float32), np.float32(end)) for end in (-np.inf, np.inf)])
    chosen = rng.integers(0, 4, near.shape)
    return np.choose(chosen, [x, near.astype(np.float32), *steps]).astype(np.float32)


def check(plan: Plan, model: PackedModel, x: NDArray[Any]) -> None:
    want = nets.expected(model, x)
    for node, got, right in zip(model.nodes, plan.trace(x), want, strict=True):
        assert nets.same(got, right), node.name
    assert nets.same(plan.run(x), want[-1])


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_random_limits(kernel: str, kind: str, depth: int) -> None:
    rng = np.random.default_rng([depth, len(kind)])
    for rows in (1, 2, 33):
        model = random_network(rng, kind, depth)
        check(Plan(model, threads=1, kernel=kernel), model, random_rows(rng, model, rows))


def test_every_pixel_at_every_limit(kernel: str) -> None:
    limits = np.concatenate([np.arange(-258, 259), [-(2**31), 2**31 - 1]]).astype(np.int32)
    x = np.repeat(np.arange(256, dtype=np.uint8)[:, None], len(limits), axis=1)
    for mirrored in (False, True):
        model = network(np.random.default_rng(1), "pixels", limits, np.full(len(limits), mirrored))
        check(Plan(model, threads=1, kernel=kernel), model, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [3, 40])
def test_threads_share_the_inputs(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "THREAD_WORK", 0)
    rng = np.random.default_rng(rows)
    model = random_network(rng, kind, 3000)
    check(Plan(model, threads=3), model, random_rows(rng, model, rows))


@pytest.mark.parametrize("at_start", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_touched_beyond_its_end(kernel: str, kind: str, at_start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded.guard_layouts(monkeypatch, at_start)
    rng = np.random.default_rng(24)
    for depth in (1, 63, 64, 65, 785):
        model = random_network(rng, kind, depth)
        plan = Plan(model, threads=1, kernel=kernel)
        for rows in (1, 3, 17):
            x = random_rows(rng, model, rows)
            target = guarded.guarded((rows, -(-depth // 64)), np.uint64, 8, at_start)
            plan.run_nodes(guarded.copy_of(x, at_start), target, 0, 1)
            assert nets.same(target.copy(), nets.expected(model, x)[0])


@pytest.mark.parametrize("channels", [1, 3, 5, 70])
def test_pixels_become_numbers(kernel: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One mapping for all channels, one for each, and one that only tables say."""
    guarded.guard_layouts(monkeypatch, at_start=False)
    rng = np.random.default_rng(channels)
    each = tuple(PixelInput.normalize(mean, std) for mean, std in rng.uniform(0.2, 0.6, (channels, 2)))
    odd = PixelInput(1e-310, -1e-308, 1e-309)
    mappings = [PixelInput.range(-1, 1), odd, *([ChannelInput(each), ChannelInput((*each[1:], odd))] if channels > 1 else [])]
    for mapping in mappings:
        by_table = odd in (mapping.channels if isinstance(mapping, ChannelInput) else (mapping,))
        for shape in ((1, 1, channels), (1, 5, channels), (9, 121, channels)):
            weights = np.zeros((1, 1 + channels // 64), np.uint64)
            head = Dot("reals", channels, weights, nets.random_affine(rng, 1), Window((1, 1)))
            model = PackedModel(mapping, shape, chain([("mapped", Mapped.of(mapping)), ("head", head)]), "ge-zero")
            assert model.check() == []
            plan = Plan(model, threads=1, kernel=kernel)
            outer, inner = plan._row_of(plan._passes[0])
            assert isinstance((inner or [outer])[0][fields.SHIFTED], np.ndarray) != by_table
            x = rng.integers(0, 256, (2, math.prod(shape)), np.uint8)
            target = guarded.guarded(x.shape, np.float32, 4, at_start=False)
            plan.run_nodes(guarded.copy_of(x, at_start=False), target, 0, 1)
            assert nets.same(target.copy(), nets.expected(model, x)[0].reshape(x.shape))

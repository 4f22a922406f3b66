"""Statistics of BatchNorms of convolutions, and of mappings of each channel: what they confirm, and what they contradict."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xnorinfer.conversion import with_data
from xnorinfer.converters.evidence.inputmapping import USUAL_COLOURS, judge_mapping
from xnorinfer.converters.evidence.sums import sums_of
from xnorinfer.converters.evidence.weighing import judge
from xnorinfer.converters.reading import INPUT, Assumption, ConvertOptions, Reading
from xnorinfer.errors import InputError
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Flatten, Linear, Named, Norm, Pool, Quantize
from xnorinfer.net.reference import forward, node_outputs
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput
from xnorinfer.net.windows import Window

RANGE = PixelInput.range
SHAPE = (11, 8, 3)
MAPPINGS: tuple[InputMapping, ...] = (RANGE(-1, 1), RANGE(0, 1), RANGE(0, 255), *USUAL_COLOURS)
#: Padded, and at 11 x 8 with borders of many kinds.
WINDOW = Window((3, 3), (2, 1), padding=(1, 1, 2, 0))


@functools.cache
def images(seed: int, rows: int = 200) -> NDArray[np.uint8]:
    """Smooth pictures whose colours differ: more blue than red."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 1, (rows, 4, 3, 3)) ** np.array([2.0, 1.0, 0.6])
    return (255 * small.repeat(3, axis=1).repeat(3, axis=2)[:, :11, :8]).astype(np.uint8)


def trained(mapping: InputMapping, *, stem: bool = False, pool: bool = False, h: float = 1.0) -> Net:
    """Two convolutions and a head, whose BatchNorms have the statistics of `images(0)` under a mapping."""
    rng = np.random.default_rng(3)
    first = Linear(
        rng.uniform(-h, h, (40, 3, 3, 3)).astype(np.float32), None if stem else "ge", h=1.0 if stem else h, window=WINDOW
    )
    second = Linear(rng.uniform(-1, 1, (48, 3, 3, 40)).astype(np.float32), "ge", window=Window((3, 3), padding=(1, 1, 1, 1)))
    made: list[Named] = []
    for number, layer in enumerate((first, second)):
        made.append((f"conv{number}", layer))
        if pool and number == 0:
            made.append(("pool", Pool("max", Window((2, 2), (2, 2)))))
        values = last(mapping, made, images(0))
        mean, variance = (getattr(values.astype(np.float64), of)(axis=(0, 1, 2)).astype(np.float32) for of in ("mean", "var"))
        beta = rng.normal(size=len(mean)).astype(np.float32)
        made += [(f"bn{number}", Norm(mean, variance, beta=beta, epsilon=1e-4)), (f"sign{number}", Quantize("ge"))]
    size = int(np.prod(last(mapping, made, images(0)[:1]).shape[1:]))
    made += [("flatten", Flatten()), ("head", Linear(rng.uniform(-1, 1, (10, size)).astype(np.float32), "ge"))]
    return Net.chain(mapping, made, "ge-zero", SHAPE)


def last(mapping: InputMapping, made: list[Named], x: NDArray[np.uint8]) -> NDArray[np.float32]:
    *_, (_, values) = node_outputs(Net.chain(mapping, made, "ge-zero", SHAPE), x.reshape(len(x), -1))
    return values


@pytest.mark.parametrize("options", [{}, {"stem": True}, {"pool": True}, {"h": 0.05}], ids=str)
@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda one: one.describe())
def test_inputs_tell_the_mapping_of_a_convolution(mapping: InputMapping, options: dict[str, Any]) -> None:
    net = trained(mapping, **options)
    for read_as in MAPPINGS:
        found = judge_mapping(Net(read_as, net.shape, net.nodes, net.profile), images(1))
        assert found is not None
        assert found.fits[0].mapping == mapping or found.fits[0].distance > found.fits[1].distance - 0.1
        alike = {read_as, mapping} <= set(USUAL_COLOURS)
        assert found.confirmed == (read_as == mapping or alike), (read_as, found.describe())
    right = judge_mapping(net, images(1))
    assert right is not None
    assert right.assumed.variance == pytest.approx(1, abs=0.1)
    assert right.assumed.offset < 0.1


def test_borders_are_counted() -> None:
    """Zeros outside the map lie at another place of the range than black: sums without that would be off."""
    net = trained(RANGE(1, 2))
    found = judge_mapping(net, images(0))
    assert found is not None
    assert found.assumed.distance < 1e-3


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda one: one.describe())
def test_statistics_alone_contradict_other_ranges(mapping: InputMapping) -> None:
    net = trained(mapping)
    assert [sums.name for sums in sums_of(net)] == ["conv0", "conv1"]
    right = judge(net, ConvertOptions())
    assert not right.problems
    assert not right.warnings
    assert right.borne_out
    far = RANGE(0, 1) if mapping == RANGE(0, 255) else RANGE(0, 255)
    wrong = judge(Net(far, net.shape, net.nodes, net.profile), ConvertOptions())
    assert any("inputs enter in another range" in text for text in wrong.problems)


def test_one_colour_that_enters_otherwise_is_found() -> None:
    mapping = ChannelInput((RANGE(0, 1), RANGE(0, 1), RANGE(-3, -2)))
    net = trained(mapping)
    assert not judge(net, ConvertOptions()).problems
    other = ChannelInput((RANGE(-3, -2), RANGE(0, 1), RANGE(0, 1)))
    found = judge(Net(other, net.shape, net.nodes, net.profile), ConvertOptions())
    assert any("in channel" in text or "have statistics that no sums" in text for text in found.problems)


def test_a_second_layer_behind_another_norm_is_contradicted() -> None:
    net = trained(RANGE(0, 1))
    ops = dict(net.named)
    rng = np.random.default_rng(0)
    order = rng.permutation(40)
    first, beta = ops["bn0"], ops["bn0"].beta  # type: ignore[union-attr]
    scaled = Norm(first.mean[order], first.variance, beta=beta, epsilon=1e-4)  # type: ignore[union-attr,index]
    assert not judge(net, ConvertOptions()).problems
    tiny = Norm(ops["bn1"].mean / 100, ops["bn1"].variance / 10000, beta=ops["bn1"].beta, epsilon=1e-4)  # type: ignore[union-attr,operator]
    nodes = [(name, {"bn0": scaled, "bn1": tiny}.get(name, op)) for name, op in net.named]
    found = judge(Net.chain(net.input, nodes, net.profile, net.shape), ConvertOptions())
    assert any("sums are too small for binary weights" in text for text in found.problems)


def test_images_with_channels_first_are_what_the_source_has() -> None:
    net = trained(RANGE(0, 1))
    reading = Reading("torch", net, (), (Assumption(INPUT, "pixels", "default"),), (), channels_first=True)
    first = images(1).transpose(0, 3, 1, 2)
    plain, _ = with_data(reading, ConvertOptions(), images(1))
    found, _ = with_data(reading, ConvertOptions(), first)
    assert found.assumptions == plain.assumptions
    assert found.assumptions[0].origin == "data"
    with pytest.raises(InputError, match="channels first; this model takes them last"):
        with_data(Reading("keras", net, (), reading.assumptions, ()), ConvertOptions(), first)


def test_other_inputs_say_what_they_say() -> None:
    net = trained(RANGE(0, 1))
    real = Net(RealInput(), net.shape, net.nodes, net.profile)
    rows = (images(1) / 255).reshape(200, -1).astype(np.float32)
    found = judge_mapping(real, rows * 2 - 5)
    assert found is not None
    assert [fit.mapping for fit in found.fits] == [RealInput()]
    assert forward(real, rows[:1]).shape == (1, 10)

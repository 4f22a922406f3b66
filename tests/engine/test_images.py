"""Images as inputs of a model: which orders of axes it takes, what it says to others, scores of maps."""

from __future__ import annotations

from dataclasses import replace

import conv_networks
import numpy as np
import packed_networks as nets
import pytest
from packed_oracle import expected

from xnorinfer.engine.model import Model, canonical_input, random_inputs
from xnorinfer.errors import InputError
from xnorinfer.graph import chain
from xnorinfer.net.reference import mapped_input
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, SignInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.packed import Mapped, PackedModel

RGB = ChannelInput.normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def model(
    shape: tuple[int, int, int] = (4, 6, 3), mapping: InputMapping = RGB, head: Window | None = None, **parts: object
) -> Model:
    """A convolution, and a head over the whole map or another window."""
    rng = np.random.default_rng(1)
    reads = "reals" if isinstance(mapping, ChannelInput) else "bits" if isinstance(mapping, SignInput) else "pixels"
    first = nets.random_dot(rng, reads, shape, 20, window=Window((2, 3)), bits=True)
    between = (shape[0] - 1, shape[1] - 2, 20)
    last = nets.random_dot(rng, "bits", between, 5, window=head or Window.whole(between), bits=False)
    named = [("first", first), ("head", last)]
    if isinstance(mapping, ChannelInput):
        named.insert(0, ("mapped", Mapped.of(mapping)))
    packed = PackedModel(mapping, shape, chain(named), "ge-zero", dict(parts))
    assert packed.check() == []
    return Model(packed)


def test_images_and_rows() -> None:
    one = model()
    x = random_inputs(one.packed, 7, 0)
    assert x.shape == (7, 72)
    want = expected(one.packed, x)[-1]
    for given in (x, x.reshape(7, 4, 6, 3), x.reshape(7, 4, 6, 3).astype(np.int64), x.reshape(7, 4, 6, 3)[:, ::-1][:, ::-1]):
        assert nets.same(one.scores(given), want)
    assert (one.predict(x) == want.argmax(axis=1)).all()
    assert one.predict(np.zeros((0, 4, 6, 3), np.uint8)).shape == (0,)


@pytest.mark.parametrize("mapping", [PixelInput.range(-1, 1), SignInput()])
def test_one_channel(mapping: InputMapping) -> None:
    one = model((4, 6, 1), mapping)
    x = random_inputs(one.packed, 3, 0)
    want = expected(one.packed, x)[-1]
    for shape in ((3, 24), (3, 4, 6), (3, 4, 6, 1), (3, 1, 4, 6)):
        assert nets.same(one.scores(x.reshape(shape)), want)
    with pytest.raises(InputError, match=r"\(3, 6, 4\); this model takes images \(rows, 4, 6, 1\) or \(rows, 4, 6\), or"):
        one.scores(x.reshape(3, 6, 4))


def test_lines_of_one_pixel_height() -> None:
    packed = replace(model((1 + 1, 6, 3)).packed, nodes=(), shape=(1, 6, 3))
    x = np.arange(36, dtype=np.uint8).reshape(2, 6, 3)
    assert (canonical_input(packed, x) == x.reshape(2, 18)).all()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 4, 6), r"channels first; this model takes them last: x.transpose\(0, 2, 3, 1\)$"),
        ((2, 6, 4, 3), r"\(2, 6, 4, 3\); this model takes images \(rows, 4, 6, 3\), or their values in rows, \(rows, 72\)"),
        ((2, 8, 12, 3), r"\(2, 8, 12, 3\); this model takes images \(rows, 4, 6, 3\)"),
        ((2, 4, 18), r"\(2, 4, 18\); this model takes images"),
        ((2, 71), r"\(2, 71\); this model takes images"),
        ((4, 6, 3), r"looks like one sample; give it a row axis: x\[None\]"),
        ((), r"\(\); this model takes images"),
    ],
)
def test_other_shapes(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model().scores(np.zeros(shape, np.uint8))


def test_channels_first() -> None:
    """Taken where the source of the network has them first, and the shape tells."""
    one = model(channels_first=True)
    x = random_inputs(one.packed, 3, 0).reshape(3, 4, 6, 3)
    assert nets.same(one.scores(np.ascontiguousarray(x.transpose(0, 3, 1, 2))), one.scores(x))
    cube = model((3, 3, 3), channels_first=True)
    with pytest.raises(InputError, match="which axis has them"):
        cube.scores(np.zeros((2, 3, 3, 3), np.uint8))
    assert cube.scores(np.zeros((2, 27), np.uint8)).shape == (2, 5)
    assert model((3, 3, 3)).scores(np.zeros((2, 3, 3, 3), np.uint8)).shape == (2, 5)


def test_floats_that_are_mapped_channel_by_channel() -> None:
    one = model()
    x = random_inputs(one.packed, 3, 0)
    mapped = mapped_input(one.packed.input, x.reshape(3, 4, 6, 3))
    assert (canonical_input(one.packed, mapped) == x).all()
    assert (canonical_input(one.packed, x.astype(np.float32)) == x).all()
    with pytest.raises(InputError, match="which is no mapped pixel"):
        one.scores(mapped + np.float32(0.001))


def test_scores_of_a_map() -> None:
    one = model(head=Window((2, 2)))
    x = random_inputs(one.packed, 3, 0)
    want = expected(one.packed, x)[-1].reshape(3, 2, 3, 5)
    assert nets.same(one.scores(x), want)
    assert nets.same(one.predict(x), want.argmax(axis=-1))
    assert one.scores(x[:0]).shape == (0, 2, 3, 5)


def test_no_images_are_no_answers() -> None:
    """Every way to ask a model takes no rows as it takes some."""
    for seed, mapping in enumerate(2 * list(conv_networks.MAPPINGS.values())):
        packed = nets.random_maps(np.random.default_rng(seed), mapping, (7, 5, 3), 2)
        model = Model(packed, threads=1)
        none = nets.random_rows(np.random.default_rng(0), packed, 1)[:0]
        assert len(model.scores(none)) == len(model.predict(none)) == len(model.margins(none).classes) == 0

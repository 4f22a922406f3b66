"""Convolutional networks, packed: every node equals the reference, and what cannot be packed is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import packed_networks as nets
import pytest
from conv_networks import MAPPINGS, random_conv_network
from networks import random_inputs, random_latents

from xnorinfer.errors import NetworkError
from xnorinfer.float32 import F32
from xnorinfer.graph import chain
from xnorinfer.net.network import Net
from xnorinfer.net.ops import HARDTANH, Flatten, Linear, Named, Norm, Pool, Quantize, Steps
from xnorinfer.net.reference import forward, node_outputs
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput, SignInput, ThresholdInput
from xnorinfer.net.windows import Window
from xnorinfer.packing import packed
from xnorinfer.packing.lower import lower, parts_of, stored_form
from xnorinfer.packing.packed import Binarize, Dot, Threshold

f = np.float32
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the adversarial tensors overflow on purpose
NEAR = Window((3, 3), padding=(1, 1, 1, 1))
HALF = Window((2, 2), (2, 2))


def require_equal(net: Net, x: np.ndarray) -> None:
    """Of every node that stands for one of the float network: its bits and numbers."""
    model = lower(net).packed
    assert model.check() == []
    stored, every = stored_form(net), [value for _, value in node_outputs(net, x)]
    gone = len(net.nodes) - len(stored.nodes)
    traced = zip(parts_of(stored), model.values, nets.expected(model, x), strict=True)
    for part, value, words in traced:
        assert part.gives == value
        if part.end is not None and not part.enters:
            want = every[part.end + gone].reshape(len(x), -1)
            got = value.signs(words) if value.kind == "bits" else words
            np.testing.assert_array_equal(got, want, err_msg=part.name)
    np.testing.assert_array_equal(words, forward(net, x))


@pytest.mark.parametrize("awkward", [False, True])
@pytest.mark.parametrize("name", MAPPINGS)
def test_random_networks_equal_the_reference(name: str, awkward: bool) -> None:
    done = 0
    for seed in range(1 if awkward else 1000, 30 if awkward else 1030):
        net = random_conv_network(seed, MAPPINGS[name], convolutions=1 + seed % 3, awkward=awkward)
        assert net.check() == []
        try:
            require_equal(net, random_inputs(np.random.default_rng(seed), net.input, 3, net.depth))
            done += 1
        except NetworkError as error:
            assert "makes real numbers that are used as they are by a pool" in str(error)  # noqa: PT017
    assert done > 20


# ---------------------------------------------------------------- which nodes become which


def weights(shape: tuple[int, ...], seed: int = 0) -> F32:
    return random_latents(np.random.default_rng(seed), shape[0], int(np.prod(shape[1:])), zeros=False).reshape(shape)


def norm(channels: int, gamma: float = 1.0, mean: float = 0.5) -> Norm:
    signs = np.where(np.arange(channels) % 2, -1, 1) * gamma
    return Norm(
        np.full(channels, mean, f), np.ones(channels, f), gamma=signs.astype(f), beta=np.full(channels, 0.25, f), epsilon=0.0
    )


def network(mapping: InputMapping, shape: tuple[int, int, int], *ops: Named) -> Net:
    net = Net(mapping, shape, chain(ops), "ge-zero")
    assert net.check() == []
    return net


CONV = ("conv", Linear(weights((6, 3, 3, 3)), "ge", window=NEAR))
HEAD = ("head", Linear(weights((2, 6 * 4 * 5)), "ge"))
SIGN = ("sign", Quantize("ge"))
POOL = ("pool", Pool("max", Window((1, 1))))
AVERAGE = ("average", Pool("average", Window((1, 1))))
BN = ("bn", norm(6))
RELU = ("relu", Steps.of(("relu",)))

#: Nodes between a convolution and a dense layer -> the ops that they become, and the ends of those.
REWRITES: dict[str, tuple[list[Named], list[str]]] = {
    "norm and sign": ([BN, SIGN], ["conv", "head"]),
    "pool first": ([POOL, BN, SIGN], ["conv", "pool", "head"]),
    "pool between": ([BN, POOL, SIGN], ["conv", "pool", "head"]),
    "pool last": ([BN, SIGN, POOL], ["conv", "pool", "head"]),
    "pools before and behind": ([POOL, SIGN, ("pool2", Pool("max", Window((2, 1))))], ["conv", "pool", "pool2", "head"]),
    "two pools first": ([POOL, ("pool2", POOL[1]), BN, SIGN], ["conv", "pool", "pool2", "sign", "head"]),
    "average first": ([AVERAGE, BN, SIGN], ["conv", "average", "sign", "head"]),
    "average between": ([BN, AVERAGE, RELU, SIGN], ["conv", "average", "sign", "head"]),
    "average of signs": ([BN, SIGN, AVERAGE, ("sign2", Quantize("gt"))], ["conv", "average", "sign2", "head"]),
    "functions": ([RELU, POOL, BN, ("clip", HARDTANH), SIGN], ["conv", "pool", "head"]),
    "flattened before the sign": ([BN, ("flat", Flatten()), SIGN], ["conv", "head"]),
    "flattened behind it": ([POOL, BN, SIGN, ("flat", Flatten())], ["conv", "pool", "head"]),
}


@pytest.mark.parametrize("what", REWRITES)
@pytest.mark.parametrize("mapping", [SignInput(), PixelInput.range(-1, 1), RealInput()], ids=["signs", "pixels", "reals"])
def test_what_fuses(what: str, mapping: InputMapping) -> None:
    between, names = REWRITES[what]
    pixels = 3 * 5 if what == "pools before and behind" else 4 * 5
    head = ("head", Linear(weights((2, 6 * pixels)), "ge"))
    net = network(mapping, (4, 5, 3), CONV, *between, head)
    assert [part.name for part in parts_of(net)] == names
    require_equal(net, random_inputs(np.random.default_rng(1), mapping, 20, 60))


@pytest.mark.parametrize("gamma", [1.0, -1.0])
@pytest.mark.parametrize("after", [1.0, -1.0])
def test_pools_of_sums_take_and_where_their_largest_makes_the_smallest_bit(gamma: float, after: float) -> None:
    """Rising or falling before the pool, rising or falling behind it: four ways, channels of both signs in each."""
    first, second = ("bn", norm(6, gamma)), ("bn2", norm(6, after, 0.1))
    second = ("bn2", replace(second[1], gamma=np.full(6, after, f)))
    head = ("head", Linear(weights((2, 6 * 2 * 3)), "ge"))
    net = network(SignInput(), (4, 6, 3), CONV, first, ("pool", Pool("max", HALF)), second, SIGN, head)
    model = lower(net).packed
    falling = model.nodes[1].op.falling
    rises = np.where(np.arange(6) % 2, -1, 1) * gamma * after > 0  # the decision as the sum rises
    turned = np.where(np.arange(6) % 2, -1, 1) * gamma < 0
    want = ~rises ^ turned
    assert (falling is None and not want.any()) or (falling == want).all()
    require_equal(net, random_inputs(np.random.default_rng(1), SignInput(), 30, 72))


@pytest.mark.parametrize("mapping", [SignInput(), PixelInput.range(-1, 1), PixelInput.range(0, 1)])
def test_limits_by_border_class(mapping: InputMapping) -> None:
    model = lower(network(mapping, (4, 5, 3), CONV, BN, SIGN, HEAD)).packed
    layer = model.nodes[0].op
    assert isinstance(layer, Dot)
    assert isinstance(layer.output, Threshold)
    assert layer.output.limits.shape == (9, 6)
    one = lower(network(SignInput(), (4, 5, 3), ("conv", replace(CONV[1], pad=-1)), BN, SIGN, HEAD)).packed.nodes[0].op
    assert isinstance(one, Dot)
    assert one.pad == -1
    assert one.output.limits.shape == (6,)  # type: ignore[union-attr]


def test_a_class_where_nothing_changes_takes_the_direction_of_the_others() -> None:
    """Sums of at most 12 at the corners of a map never reach the limit of a neuron that rises, or falls, at 20."""
    mean = np.array([20, 20, -20, -20], f)
    bn = ("bn", Norm(mean, np.ones(4, f), gamma=np.array([1, -1, 1, -1], f), epsilon=0.0))
    conv = ("conv", Linear(weights((4, 3, 3, 3)), "ge", window=NEAR))
    head = ("head", Linear(weights((2, 4 * 4 * 5)), "ge"))
    for mapping in (SignInput(), PixelInput.range(-1, 1), PixelInput.range(1, -1)):
        net = network(mapping, (4, 5, 3), conv, bn, SIGN, head)
        require_equal(net, random_inputs(np.random.default_rng(1), mapping, 20, 60))


def test_an_image_that_one_pixel_decides_about_is_thresholded() -> None:
    for low, high in ((-1, 1), (1, -1)):
        mapping = PixelInput.range(low, high)
        padded = ("conv", replace(CONV[1], pad=1))
        net = network(mapping, (4, 5, 3), ("sign0", Quantize("ge")), padded, BN, SIGN, HEAD)
        model = lower(net).packed
        assert isinstance(model.input, ThresholdInput)
        assert model.nodes[1].op.pad == low * -1
        require_equal(net, random_inputs(np.random.default_rng(1), mapping, 20, 60))
    channels = ("bn0", Norm(np.array([0, 0.5, -0.5], f), np.ones(3, f), epsilon=0.0))
    net = network(PixelInput.range(-1, 1), (4, 5, 3), channels, ("sign0", Quantize("ge")), CONV, BN, SIGN, HEAD)
    assert isinstance(lower(net).packed.nodes[0].op, Binarize)
    require_equal(net, random_inputs(np.random.default_rng(1), net.input, 20, 60))


def test_an_image_that_only_dense_layers_read_is_a_vector() -> None:
    """As without its shape: one network, one digest."""
    layer, head = ("fc", Linear(weights((6, 60)), "ge")), ("head", Linear(weights((2, 6)), "ge"))
    image = Net(PixelInput.range(-1, 1), (4, 5, 3), chain([layer, BN, SIGN, head]), "ge-zero")
    flat = Net(PixelInput.range(-1, 1), (4, 5, 3), chain([("flat", Flatten()), layer, BN, SIGN, head]), "ge-zero")
    vector = Net.chain(PixelInput.range(-1, 1), [layer, BN, SIGN, head], "ge-zero")
    digests = {packed_digest(net) for net in (image, flat, vector)}
    assert len(digests) == 1


def packed_digest(net: Net) -> str:
    from xnorinfer.packing.modelfile import header_of

    header = header_of(lower(net).packed)
    assert header["format_version"] == 2
    digest: str = header["content_digest"]
    return digest


# ---------------------------------------------------------------- what cannot be packed

STEM = ("stem", Linear(weights((6, 3, 3, 3)), window=NEAR))
BENT = ("prelu", Steps.of(("prelu", np.full(6, -0.5, f))))
REFUSED: dict[str, tuple[InputMapping, list[Named], str]] = {
    "a stem of signs": (SignInput(), [STEM, SIGN, HEAD], "stem: takes numbers, and the inputs are signs"),
    "a stem of thresholds": (ThresholdInput(99), [STEM, SIGN, HEAD], "stem: takes numbers, and the inputs are signs"),
    "zeros": (
        SignInput(),
        [("conv", replace(CONV[1], bias=np.ones(6, f))), ("sign", Quantize("sign")), HEAD],
        "conv: 6 neurons can reach exactly 0 .* ge-zero",
    ),
    "NaN": (
        SignInput(),
        [CONV, ("bn", Norm(np.full(6, 3, f), inv_std=np.full(6, np.inf, f), form="lasagne")), SIGN, HEAD],
        "conv: BatchNorm gives NaN for 6 neurons",
    ),
    "NaN at the border": (
        SignInput(),
        [CONV, ("bn", Norm(np.full(6, 4, f), inv_std=np.full(6, np.inf, f), form="lasagne")), SIGN, HEAD],
        r"conv, where [46] of 9 taps lie on the map: BatchNorm gives NaN for 6 neurons",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_packed_is_named(what: str) -> None:
    mapping, ops, message = REFUSED[what]
    net = network(mapping, (4, 5, 3), *ops)
    with pytest.raises(NetworkError, match=message):
        lower(net)


def test_zeros_at_the_border_alone_name_the_class() -> None:
    """27 inputs give odd sums, which 1 leaves even ones; 4 of 9 taps of 3 channels give even sums."""
    net = network(SignInput(), (4, 5, 3), CONV, ("sign", Quantize("sign")), HEAD)
    with pytest.raises(NetworkError, match=r"conv, where [46] of 9 taps lie on the map: 6 neurons can reach exactly 0"):
        lower(net)


def test_dead_layers_of_maps_are_told() -> None:
    dead = ("bn", Norm(np.full(6, 1e6, f), np.ones(6, f), epsilon=0.0))
    notes = lower(network(SignInput(), (4, 5, 3), CONV, dead, SIGN, HEAD)).notes
    assert any("conv: all 6 neurons are dead: whatever the input, 6 are -1, 0 are +1" in note for note in notes)
    alive = ("bn", Norm(np.full(6, 20, f), np.ones(6, f), epsilon=0.0))
    assert not lower(network(SignInput(), (4, 5, 3), CONV, alive, SIGN, HEAD)).notes


@pytest.mark.parametrize("pooled", [(), (("pool", Pool("max", HALF)),)])
def test_sums_that_change_their_sign_twice_are_compared_as_numbers(pooled: tuple[Named, ...]) -> None:
    for behind in ((BENT, ("bn", norm(6, mean=2)), *pooled), (*pooled, BENT, ("bn", norm(6, mean=2)))):
        head = ("head", Linear(weights((3, 24 if pooled else 120)), "ge"))
        net = network(SignInput(), (4, 5, 3), CONV, *behind, SIGN, head)
        require_equal(net, random_inputs(np.random.default_rng(0), net.input, 40, net.depth))
        kinds = [type(node.op) for node in lower(net).packed.nodes]
        assert kinds.index(packed.Binarize) > kinds.index(packed.Dot)


def test_slopes_that_turn_one_border_class_only() -> None:
    """Sums of 1..2 are 3..6 at the upper border and 6..12 below: |sum - 6| - 2 falls there and rises here."""
    mapping, up = PixelInput.range(1, 2), Window((2, 1), padding=(1, 0, 0, 0))
    conv = ("conv", Linear(np.ones((6, 2, 1, 3), f), "ge", window=up))
    steps = ("f", Steps.of(("sub", np.full(6, 6, f)), ("prelu", np.full(6, -1, f)), ("sub", np.full(6, 2, f))))
    net = network(mapping, (4, 5, 3), conv, steps, SIGN, HEAD)
    require_equal(net, random_inputs(np.random.default_rng(0), net.input, 40, net.depth))
    assert [type(node.op) for node in lower(net).packed.nodes[:2]] == [packed.Dot, packed.Binarize]


def test_channels_of_images_enter_as_numbers() -> None:
    mapping = ChannelInput.normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert isinstance(mapping, ChannelInput)
    for first in (CONV, STEM):
        net = network(mapping, (4, 5, 3), first, BN, SIGN, HEAD)
        assert type(lower(net).packed.nodes[0].op) is packed.Mapped
        require_equal(net, random_inputs(np.random.default_rng(1), mapping, 9, 60))


def test_zeros_of_pooled_numbers_and_of_functions_that_are_0_are_refused() -> None:
    """An average of sums is 0 easily; relu is 0 for half of all sums.  One number of all that there are is told only."""
    sign = ("sign", Quantize("sign"))
    average = network(SignInput(), (4, 5, 3), CONV, AVERAGE, sign, HEAD)
    with pytest.raises(NetworkError, match=r"sign: 6 neurons are exactly 0 before sign at many of their sums .* ge-zero"):
        lower(average)
    for mapping in (RealInput(), PixelInput.range(-1, 1)):
        stem = network(mapping, (4, 5, 3), STEM, RELU, sign, HEAD)
        with pytest.raises(NetworkError, match=r"stem: 6 neurons are exactly 0 before sign at many"):
            lower(stem)
    shifted = ("bn", Norm(np.full(6, 0.3, f), np.full(6, 7, f), epsilon=0.0))
    (note,) = lower(network(SignInput(), (4, 5, 3), CONV, AVERAGE, shifted, sign, HEAD)).notes
    assert note == "sign: pooled sums can make a value before sign exactly 0; the packed network takes +1 there"

"""The sums that a BatchNorm was trained on, as a reading of a network has them: what its moving mean and variance are about.

BatchNorm keeps, for each neuron, mean and variance of what came into it during training.  A reading of a file says what that
was: `H * scale * dot + bias`, where the dot is one of signs with inputs of a known range.  Here both stand side by side, in
float64, so that others can ask whether they go together.  Those of a convolution are about all places of its map, at some of
which inputs lie outside and add nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xnorinfer.graph import INPUT, users_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Flatten, Linear, Norm, Quantize
from xnorinfer.net.ties import RULES, Rule, binarize
from xnorinfer.net.values import Shape

F64 = NDArray[np.float64]

#: Rules that make -1 of 0.
MINUS_AT_ZERO = tuple(rule for rule in RULES if binarize(np.zeros((), np.float32), rule) < 0)

#: Neurons that are looked at in one layer: enough to judge it, and a layer of millions of weights costs no more than this.
NEURONS = 256
#: Inputs and neurons of a layer below which statistics prove nothing; of a first layer, whose inputs can be anything, more.
FEWEST_INPUTS, FEWEST_NEURONS = 10, 8
FEWEST_FIRST = 16


@dataclass(frozen=True, eq=False)
class Sums:
    """A binary layer and the BatchNorm that directly follows it.  before: the BatchNorm in front of the sign that the layer
    reads; None for the first layer.  last: no sign follows.

    channels: of what it reads, innermost among its inputs; of a vector all of them.  share: (depth,), at how many of a map's
    outputs each input lies on the map, 1 for all; those outside are 0.
    """

    name: str
    layer: Linear
    norm_name: str
    norm: Norm
    before_name: str
    before: Norm | None
    last: bool
    channels: int
    share: F64

    @property
    def first(self) -> bool:
        """Whether the layer reads the inputs of the network."""
        return self.before is None

    @property
    def telling(self) -> bool:
        """Whether the layer is large enough for its statistics to say anything."""
        if self.first:
            return min(self.depth, self.neurons) >= FEWEST_FIRST
        return self.depth >= FEWEST_INPUTS and self.neurons >= FEWEST_NEURONS

    @property
    def neurons(self) -> int:
        """How many are looked at."""
        return min(self.layer.neurons, NEURONS)

    @property
    def depth(self) -> int:
        return self.layer.depth

    @cached_property
    def inputs(self) -> float:
        """How many inputs a sum has, on average over the outputs of a map."""
        return float(self.share.sum())

    def of_inputs(self, values: F64) -> F64:
        """Values of channels, (channels,), as what the inputs are on average, (depth,)."""
        found: F64 = np.tile(values, self.depth // self.channels) * self.share
        return found

    @cached_property
    def mean(self) -> F64:
        """(neurons,): moving mean, without the bias."""
        mean = self.norm.mean[: self.neurons].astype(np.float64)
        return mean if self.layer.bias is None else mean - self.layer.bias[: self.neurons]

    @cached_property
    def variance(self) -> F64:
        """(neurons,): moving variance, or that which belongs to 1/sqrt(variance + epsilon); infinite for an inv_std of 0."""
        if self.norm.variance is not None:
            return self.norm.variance[: self.neurons].astype(np.float64)
        assert self.norm.inv_std is not None
        with np.errstate(divide="ignore"):
            return 1 / np.square(self.norm.inv_std[: self.neurons].astype(np.float64))

    @cached_property
    def magnitude(self) -> F64:
        """(neurons,): what one input adds, H times scale; its sign is that of the scale."""
        scale = np.ones(self.neurons) if self.layer.scale is None else self.layer.scale[: self.neurons].astype(np.float64)
        return self.layer.h * scale

    @cached_property
    def latent(self) -> F64:
        """(neurons, depth)."""
        return self.layer.weight[: self.neurons].reshape(self.neurons, -1).astype(np.float64)

    @cached_property
    def signs(self) -> F64:
        """(neurons, depth): the binarized weights."""
        return signs_of(self.latent, self.layer.rule or "ge")

    @property
    def ratio(self) -> F64:
        """(neurons,): the variance beside that of sums of as many independent inputs of -1 and +1, inputs * magnitude^2."""
        ratio: F64 = self.variance / (self.inputs * np.square(self.magnitude))
        return ratio


def signs_of(values: F64, rule: Rule = "ge") -> F64:
    """-1 and +1; exactly at 0 by the rule, beside it, where few values are, by their sign."""
    return np.where(values > 0 if rule in MINUS_AT_ZERO else values >= 0, 1.0, -1.0)


def sums_of(net: Net) -> Iterator[Sums]:
    """Every binary layer with a BatchNorm directly behind it, which nothing else reads, in order, where the layer reads inputs
    of the network or signs of a BatchNorm, one a channel, that no pool has taken.  The network must be valid (`Net.check`)."""
    norms: dict[int, tuple[str, Norm]] = {}  # of each binary layer
    nodes = net.nodes
    signs = [index for index, node in enumerate(nodes) if isinstance(node.op, Quantize)]
    shapes = {index: value.shape for index, value in enumerate(net.values)} | {INPUT: net.shape}
    for index, (node, users) in enumerate(zip(nodes, users_of(nodes), strict=True)):
        layer = node.op
        if not isinstance(layer, Linear) or not layer.binary or len(users) != 1:
            continue
        following, (read,) = nodes[users[0]], node.inputs
        if isinstance(following.op, Norm):
            norms[index] = following.name, following.op
        before_name, inner = norms.get(layer_before(net, index), ("", None))
        source = read
        while source != INPUT and isinstance(nodes[source].op, Flatten):
            (source,) = nodes[source].inputs
        channels = shapes[source][-1]
        signed = source != INPUT and isinstance(nodes[source].op, Quantize)
        # How often the signs of a channel are +1 differs from pixel to pixel, which weights of each pixel would tell.
        alike = layer.window is not None or channels == layer.depth
        usable = source == INPUT or (signed and alike and inner is not None and inner.mean.size == channels)
        if index in norms and usable and _is_usable(layer, norms[index][1]):
            last = not signs or signs[-1] < index
            yield Sums(node.name, layer, *norms[index], before_name, inner, last, channels, _share(layer, shapes[read]))


def _share(layer: Linear, shape: Shape) -> F64:
    """`Sums.share` of a layer that reads that."""
    if layer.window is None:
        return np.ones(layer.depth)
    down, across = (
        ((places >= 0) & (places < size)).mean(axis=0)
        for places, size in zip(layer.window.rows_and_columns(*shape[:2]), shape[:2], strict=True)
    )
    return np.repeat(np.outer(down, across), layer.depth // layer.window.taps)


def layer_before(net: Net, index: int) -> int:
    """The binary layer that stands before a node with nothing between them but nodes that read one value; `INPUT` for none."""
    at = index
    while at != INPUT and len(net.nodes[at].inputs) == 1:
        (at,) = net.nodes[at].inputs
        op = net.nodes[at].op
        if at != INPUT and isinstance(op, Linear):
            return at if op.binary else INPUT
    return INPUT


def _is_usable(layer: Linear, norm: Norm) -> bool:
    scaled = layer.scale is None or bool((layer.scale != 0).all())
    return scaled and norm.mean.shape == (layer.neurons,) and layer.groups == 1 and not layer.pad

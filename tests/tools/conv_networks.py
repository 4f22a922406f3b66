"""Random float networks of maps: every op, every place that a pool may have, windows of all kinds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from networks import INPUTS, as_chain, random_batch_norm, random_latents, vector
from packed_networks import random_window

from xnorinfer.net.network import Net
from xnorinfer.net.ops import HARDTANH, NORM_FORMS, Flatten, Linear, Named, NormForm, Pool, Quantize, Steps
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput
from xnorinfer.net.windows import Window

#: Inputs of images of three channels.
MAPPINGS: dict[str, InputMapping] = {
    **INPUTS,
    "channels": ChannelInput.normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # type: ignore[dict-item]
}
RULES: tuple[Rule, ...] = ("round-even", "round-away", "ge", "gt")


class Builder:
    """A network node by node; it knows the shape, whether values are signs, and about how large they are."""

    def __init__(self, rng: np.random.Generator, mapping: InputMapping, shape: tuple[int, int, int]) -> None:
        self.rng, self.mapping, self.entry, self.shape = rng, mapping, shape, tuple(shape)
        self.rule: Rule = RULES[rng.integers(len(RULES))]
        self.form: NormForm = NORM_FORMS[rng.integers(len(NORM_FORMS))]
        self.signs = not isinstance(mapping, PixelInput | ChannelInput | RealInput)
        raw = isinstance(mapping, PixelInput) and mapping.divisor == 1
        self.spread = 150.0 if raw else 1.0
        self.layers: list[Named] = []

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def add(self, op: Any) -> None:
        self.layers.append((f"{type(op).__name__.lower()}{len(self.layers)}", op))

    def norm(self, *, awkward: bool = True) -> None:
        norm = random_batch_norm(self.rng, self.shape[-1], self.spread, self.form, awkward=awkward)
        plain = norm.variance is not None and not awkward and self.chance(0.3)
        self.add(as_chain(norm) if plain else norm)
        self.spread = 1.0

    def steps(self) -> None:
        slopes = np.abs(vector(self.rng, self.shape[-1]))
        self.add([HARDTANH, Steps.of(("relu",)), Steps.of(("prelu", slopes)), Steps.of(("tanh",))][self.rng.integers(4)])

    def sign(self) -> None:
        self.add(Quantize(self.rule))
        self.signs, self.spread = True, 1.0

    def pool(self, kind: Any) -> None:
        globally = self.chance(0.15)
        window = None if globally else random_window(self.rng, self.shape)
        self.add(Pool(kind, window, bool(kind == "average" and self.chance(0.5))))
        self.shape = (*(window or Window.whole(self.shape)).outputs(*self.shape[:2]), self.shape[-1])
        self.signs = self.signs and kind == "max"

    def layer(self, neurons: int, *, binary: bool, window: Window | None) -> None:
        """A convolution, or a dense layer."""
        channels = math.prod(self.shape) if window is None else self.shape[-1]
        groups = 1
        if window is not None and self.chance(0.25):
            groups = int(self.rng.choice([n for n in range(1, channels + 1) if channels % n == 0]))
            neurons = groups * max(1, neurons // groups)
        size = () if window is None else window.size
        depth = math.prod(size) * (channels // groups)
        shape = (neurons, *size, channels // groups)
        pad = int(self.rng.integers(-1, 2)) if binary and self.signs and window is not None else 0
        self.spread *= depth**0.5
        bias = vector(self.rng, neurons, self.spread / 4) if self.chance(0.5) else None
        if binary:
            scale = np.abs(vector(self.rng, neurons)) + np.float32(0.1) if self.chance(0.3) else None
            h = 0.5 if self.chance(0.3) else 1.0
            weight = random_latents(self.rng, neurons, depth, zeros=True).reshape(shape)
            self.add(Linear(weight, self.rule, h, bias, scale, window, groups, pad))
            self.spread *= h
        else:
            self.add(Linear(vector(self.rng, neurons * depth).reshape(shape), bias=bias, window=window, groups=groups))
        self.shape = (neurons,) if window is None else (*window.outputs(*self.shape[:2]), neurons)
        self.signs = False


def random_conv_network(seed: int, mapping: InputMapping, *, convolutions: int = 2, awkward: bool = True) -> Net:
    """Stem or not, binary convolutions with pools before and behind BatchNorm and sign, dense layers or a spatial head."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(3, 9)), int(rng.integers(3, 9)), 3)
    made = Builder(rng, mapping, shape)
    numbers = isinstance(mapping, PixelInput | ChannelInput | RealInput)
    if numbers and made.chance(0.2):  # inputs that are binarized one by one
        made.norm(awkward=awkward)
        made.sign()
    elif numbers and made.chance(0.3):  # a float stem
        made.layer(int(rng.choice([3, 8, 20])), binary=False, window=random_window(rng, made.shape))
        between(made, awkward)
    for _ in range(convolutions):
        neurons = int(rng.choice([2, 5, 16, 33, 64, 70]))
        made.layer(neurons, binary=True, window=random_window(rng, made.shape))
        between(made, awkward)
    head(made)
    return Net(mapping, shape, Net.chain(mapping, made.layers, "ge-zero").nodes, "ge-zero")


def between(made: Builder, awkward: bool) -> None:
    """From sums to signs, with pools and functions in any order."""
    if made.chance(0.1):
        made.steps()
    if made.chance(0.3):
        made.pool("max" if made.chance(0.7) else "average")
    if made.chance(0.8):
        made.norm(awkward=awkward)
    if made.chance(0.2):
        made.add(HARDTANH if made.chance(0.5) else Steps.of(("relu",)))
    if made.chance(0.15):
        made.pool("max" if made.chance(0.7) else "average")
    if made.chance(0.1):
        made.norm(awkward=False)
    made.sign()
    if made.chance(0.25):
        made.pool("max")


def head(made: Builder) -> None:
    rng, way = made.rng, made.rng.integers(5)
    if way == 0:  # a map of scores
        made.layer(3, binary=made.chance(0.5), window=random_window(rng, made.shape))
    elif way == 1:  # averaged scores
        made.layer(4, binary=True, window=random_window(rng, made.shape))
        made.norm(awkward=False)
        made.pool("average")
    else:
        if made.chance(0.7):
            made.add(Flatten())
            made.shape = (math.prod(made.shape),)
        if way == 2:
            made.layer(20, binary=True, window=None)
            made.norm()
            made.sign()
        elif way == 3:
            made.layer(9, binary=True, window=None)
            made.norm(awkward=False)
            made.add(HARDTANH)
        made.layer(4, binary=way != 3, window=None)
        made.norm(awkward=False)

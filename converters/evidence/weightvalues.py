"""What weights themselves say against a reading as latent numbers whose signs count: bits, ternary weights, float layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from xnorinfer.converters.evidence.sums import MINUS_AT_ZERO
from xnorinfer.converters.finding import ORDER, WEIGHTS, Finding
from xnorinfer.converters.reading import TIE_PROFILE
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Linear

#: Share of weights that are exactly 0 from which on a layer is ternary: training leaves none, a spoiled or halved copy few.
TERNARY = 0.05
#: Weights below which a layer proves nothing, and zeros.
FEWEST, FEWEST_ZEROS = 32, 16


class Layer(NamedTuple):
    """A binary layer."""

    name: str
    op: Linear


def judge_weights(layers: Sequence[Layer], profile: str) -> Iterator[Finding]:
    """Everything that the weights of binary layers contradict, where nothing but a default says what they are."""
    bits = [layer for layer in layers if are_bits(layer.op.weight)]
    if bits:
        swapped = [layer for layer in bits if layer.op.rule not in MINUS_AT_ZERO]
        yield Finding(
            f"{_named(bits)}: all weights are 0 or 1",
            "they are bits, 1 for +1 and 0 for -1" + (f", and {profile} would make +1 of both" if swapped else ""),
            'a net.toml (--net) can say `values = "bits"`, and --profile gt-zero takes them so',
            WEIGHTS,
            proof=bool(swapped),
        )
    others = [layer for layer in layers if layer not in bits]
    empty = [layer for layer in others if layer.op.weight.size >= FEWEST and not layer.op.weight.any()]
    if empty:
        yield Finding(
            f"{_named(empty)}: all weights are 0",
            "the layer was never trained, or its weights are stored elsewhere",
            "a net.toml (--net) can say `weight = ...`",
            WEIGHTS,
            proof=True,
        )
    others = [layer for layer in others if layer not in empty]
    ternary = [layer for layer in others if is_ternary(layer.op.weight)]
    if ternary:
        shares = ", ".join(f"{zeros_of(layer.op.weight):.0%} of {layer.name}'s" for layer in ternary)
        yield Finding(
            f"{shares} weights are exactly 0",
            "the network is ternary (or its weights were pruned), which one bit cannot hold",
            "no tie rule makes another network of it; a binary one has to be trained",
            WEIGHTS,
            proof=True,
        )
    others = [layer for layer in others if layer not in ternary]
    yield from _halved(others, profile)
    yield from _ordinary(others)


def judge_last(layers: Sequence[Layer], normed: Collection[str]) -> Iterator[Finding]:
    """A last layer behind what looks like the head: as few neurons as there are classes, with a BatchNorm, which it lacks.

    layers: all binary layers, in order; normed: names of those with a BatchNorm.
    """
    if len(layers) < 3:
        return
    *hidden, head, extra = layers
    narrow = head.op.neurons <= 32 and head.op.neurons * 4 <= min(layer.op.neurons for layer in hidden)
    if narrow and extra.op.neurons >= head.op.neurons // 2 and head.name in normed and extra.name not in normed:
        yield Finding(
            f"{extra.name} {extra.op.weight.shape} follows {head.name}, which has {head.op.neurons} neurons and a BatchNorm as "
            "heads have, and has none itself",
            f"{extra.name} is no layer of the network, but a matrix that fits",
            f"--ignore '{extra.name}*' leaves it out",
            ORDER,
        )


def _named(layers: Sequence[Layer]) -> str:
    return ", ".join(layer.name for layer in layers)


def are_bits(latent: F32) -> bool:
    """Whether weights are 0 and 1, both."""

    def all_bits(values: F32) -> bool:
        return bool(((values == 0) | (values == 1)).all())

    # The first row tells nearly always, without an array of the size of all weights.
    return latent.size >= FEWEST and all_bits(latent[:1]) and all_bits(latent) and bool(latent.any() and not latent.all())


def zeros_of(latent: F32) -> float:
    """Share of weights that are exactly 0."""
    return 1 - np.count_nonzero(latent) / latent.size if latent.size else 0.0


def is_ternary(latent: F32) -> bool:
    """Whether so many weights are exactly 0 that they are meant; of those that are all 0, nothing is."""
    return zeros_of(latent) >= TERNARY and latent.size - np.count_nonzero(latent) >= FEWEST_ZEROS


def one_magnitude(latent: F32) -> bool:
    """Whether weights are all of one magnitude, so binarized already."""
    first = np.abs(latent.flat[0]) if latent.size else np.float32(0)

    def alike(values: F32) -> bool:
        return bool((np.abs(values) == first).all())

    return bool(first > 0) and alike(latent[:1]) and alike(latent)


def _halved(layers: Sequence[Layer], profile: str) -> Iterator[Finding]:
    """Zeros of numbers that were float16 or bfloat16 for a while: small latents lost their sign."""
    found = [layer for layer in layers if not layer.op.weight.all() and is_halved(layer.op.weight)]
    if found:
        count = sum(layer.op.weight.size - np.count_nonzero(layer.op.weight) for layer in found)
        yield Finding(
            f"{_named(found)}: {count:,} weights are exactly 0 in a copy of 16 bits",
            "they were small numbers whose signs are lost in it",
            f"{profile} makes one sign of all of them; convert the checkpoint of 32 bits",
            TIE_PROFILE,
        )


def is_halved(latent: F32) -> bool:
    """Whether numbers are all exact in 16 bits, although they are many."""
    if latent.size < FEWEST or np.unique(latent.ravel()[:4096]).size <= 3:
        return False
    with np.errstate(over="ignore"):
        half = bool((latent.astype(np.float16).astype(np.float32) == latent).all())
    return half or not (np.ascontiguousarray(latent).view(np.uint32) & 0xFFFF).any()


def _ordinary(layers: Sequence[Layer]) -> Iterator[Finding]:
    """Weights that are not binarized beside some that are."""
    done = [layer for layer in layers if layer.op.weight.size >= FEWEST and one_magnitude(layer.op.weight)]
    ordinary = [layer for layer in layers if not one_magnitude(layer.op.weight)]
    if not done or not ordinary:
        return
    options = " ".join(f"--float-layer {layer.name}" for layer in ordinary)
    verb = "is" if len(ordinary) == 1 else "are"
    yield Finding(
        f"the weights of {_named(done)} are exactly -1 and +1 (times one number), those of {_named(ordinary)} are not",
        f"{_named(ordinary)} {verb} not binarized: ordinary float layers",
        f'{options} says so; a net.toml (--net) can say `kind = "binary"`',
        WEIGHTS,
        proof=True,
    )

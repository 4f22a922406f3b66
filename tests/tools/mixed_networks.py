"""Dense networks whose layers are binary or float in any order: the first one, some in the middle, the last one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from networks import INPUTS, random_batch_norm, random_latents, vector

from xnorinfer.net.network import Net
from xnorinfer.net.ops import HARDTANH, Flatten, Levels, Linear, Named, NormForm, Quantize, Steps
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput

RULES: tuple[Rule, ...] = ("round-even", "ge", "gt")
FORMS: tuple[NormForm, ...] = ("tf", "torch", "lasagne")


def mixed_network(
    seed: int,
    mapping: InputMapping,
    binary: Sequence[bool],
    *,
    shape: tuple[int, ...] = (37,),
    levels: bool = False,
    awkward: bool = False,
) -> Net:
    """Of layers of random widths, each with BatchNorm or without, float ones behind a relu, a hardtanh, a sign or nothing.

    binary: which layers are.  levels: some binary layers read 4 levels instead of signs.  awkward: BatchNorms have channels
    that are constant, or leave float32.
    """
    rng = np.random.default_rng(seed)
    rule, form = RULES[rng.integers(3)], FORMS[rng.integers(3)]
    layers: list[Named] = [("flat", Flatten())] if len(shape) == 3 else []
    depth, spread, real = int(np.prod(shape)), 1.0, isinstance(mapping, PixelInput | ChannelInput | RealInput)
    for index, bits in enumerate(binary):
        name, last = f"fc{index + 1}", index == len(binary) - 1
        if bits and index and real:
            if levels and rng.random() < 0.5:
                layers.append((f"{name}.in", Levels(0, 3, 0, 1.0, 3.0)))
            else:
                layers.append((f"{name}.in", Quantize(rule)))
        elif not bits and index and real and (way := rng.integers(4)):
            follows = HARDTANH if way == 1 else Steps.of(("relu",)) if way == 2 else Quantize(rule)
            layers.append((f"{name}.in", follows))
        neurons = 4 if last else int(rng.choice([1, 7, 32, 63, 64, 65, 130]))
        bias = vector(rng, neurons, depth**0.5 / 4) if rng.random() < 0.6 else None
        if bits:
            layers.append((name, Linear(random_latents(rng, neurons, depth, zeros=True), rule, 1.0, bias)))
            spread = depth**0.5
        else:
            weight = vector(rng, neurons * depth, depth**-0.5).reshape(neurons, depth)
            layers.append((name, Linear(weight, bias=bias)))
            spread = 1.0
        if rng.random() < 0.7:
            norm = random_batch_norm(rng, neurons, spread, form, awkward=awkward and not last)
            layers.append((f"{name}.bn", norm))
        depth, real = neurons, True
    return Net.chain(mapping, layers, "ge-zero", shape)


#: Which layers are binary.
KINDS = [[one == "b" for one in kind] for kind in ("fb", "fbf", "bfb", "ffb", "fbbf", "bffbf", "bfbbb")]
#: Every input that has numbers.
MAPPINGS: dict[str, InputMapping] = {
    **{name: INPUTS[name] for name in ("range", "unit", "raw", "inverted", "normalize", "reals")},
    "channels": ChannelInput.normalize((0.4, 0.5, 0.3), (0.2, 0.3, 0.25)),
}


def random_mixed_network(seed: int) -> Net:
    """Of consecutive seeds every mapping in turn, and then every kind."""
    name = list(MAPPINGS)[seed % len(MAPPINGS)]
    kind = KINDS[seed // len(MAPPINGS) % len(KINDS)]
    shape = (4, 3, 3) if name == "channels" or seed % 3 == 2 else (37,)
    return mixed_network(seed, MAPPINGS[name], kind, shape=shape, levels=seed % 2 == 1, awkward=seed % 4 == 3)

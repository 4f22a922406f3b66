"""Networks with numbers for each feature of a flattened map."""

from __future__ import annotations

from typing import Any

import numpy as np
from conv_networks import MAPPINGS, RULES
from networks import random_batch_norm, random_latents

from xnorinfer.net.network import Net
from xnorinfer.net.ops import Flatten, Linear, Named, Pool, Quantize, Steps
from xnorinfer.net.values import InputMapping
from xnorinfer.net.windows import Window

__all__ = ["BETWEEN", "MAPPINGS", "network"]

#: What stands between the convolution and the flattening -> how many pixels are left of 4 x 3.
BETWEEN: dict[str, tuple[list[Any], int]] = {
    "sums": ([], 12),
    "relu": ([Steps.of(("relu",))], 12),
    "max pool": ([Pool("max", Window((2, 2)))], 6),
    "average": ([Pool("average", Window((2, 1), (2, 1)))], 6),
    "two pools": ([Pool("max", Window((2, 1))), Pool("max", Window((2, 2)))], 4),
    "one pixel": ([Pool("max", None)], 1),
}


def network(mapping: InputMapping, between: str, seed: int, *, ends: bool = False, scalar: bool = False) -> Net:
    """A convolution of 6 x 5 x 3 to 4 x 3 x 7, a flattening, BatchNorm of each feature, and a dense layer or nothing."""
    rng = np.random.default_rng(seed)
    rule = RULES[seed % len(RULES)]
    ops, pixels = BETWEEN[between]
    conv = Linear(random_latents(rng, 7, 27, zeros=False).reshape(7, 3, 3, 3), rule, window=Window((3, 3)))
    norm = random_batch_norm(rng, 7 * pixels, 20.0, awkward=False)
    named: list[Named] = [("conv", conv), *((f"op{number}", op) for number, op in enumerate(ops))]
    named += [("scale", Steps.of(("mul", 0.5)))] * scalar
    named += [("flatten", Flatten()), ("norm", norm)]
    if not ends:
        named += [
            ("sign", Quantize(rule)),
            ("head", Linear(random_latents(rng, 5, 7 * pixels, zeros=False), rule)),
        ]
    return Net.chain(mapping, named, "ge-zero", (6, 5, 3))

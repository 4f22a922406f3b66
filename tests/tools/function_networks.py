"""Networks in which real numbers that a function made are used as they are."""

from __future__ import annotations

from dataclasses import replace

import networks
import numpy as np

from xnorinfer.net.network import Net
from xnorinfer.net.ops import Function, Linear, Named, Pool, Quantize, Step, Steps
from xnorinfer.net.values import PixelInput, RealInput, SignInput
from xnorinfer.net.windows import Window

f = np.float32


def dense(rng: np.random.Generator, rows: int, depth: int, *, binary: bool = True) -> Linear:
    return Linear(rng.normal(size=(rows, depth)).astype(f), "ge" if binary else None)


def nets(function: Function) -> dict[str, Net]:
    """Where a function may stand; sums of many sizes enter it."""
    rng = np.random.default_rng(1)
    made = ("act", Steps((Step(function),)))
    norm = ("bn", replace(networks.random_batch_norm(rng, 16, 4.0, awkward=False), form="tf"))
    first: list[Named] = [("fc", dense(rng, 16, 40)), norm]
    conv = ("conv", Linear(rng.normal(size=(16, 3, 3, 2)).astype(f), "ge", window=Window((3, 3), padding=(1, 1, 1, 1))))
    head: Named = ("head", dense(rng, 5, 16, binary=False))
    pool = ("mean", Pool("average"))
    return {
        "before a float layer": Net.chain(SignInput(), [*first, made, head], "ge-zero"),
        "as scores": Net.chain(SignInput(), [*first, made], "ge-zero"),
        "of pixels": Net.chain(PixelInput.range(-1, 1), [*first, made, head], "ge-zero"),
        "before a pool of a map": Net.chain(SignInput(), [conv, norm, made, pool, head], "ge-zero", shape=(5, 4, 2)),
        "behind a pool": Net.chain(SignInput(), [conv, pool, norm, made, head], "ge-zero", shape=(5, 4, 2)),
        "of reals, then signs": Net.chain(
            RealInput(), [("fc", dense(rng, 16, 40)), made, norm, ("s", Quantize("ge")), head], "ge-zero"
        ),
    }

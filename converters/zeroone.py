"""Layers whose inputs are 0 and 1, as layers of -1 and +1."""

from __future__ import annotations

import numpy as np

from xnorinfer.float32 import F32
from xnorinfer.net.ops import Function, Linear, Named, Steps
from xnorinfer.net.reference import binary_weights


def on_zero_one(name: str, dense: Linear, *, rising: bool = True) -> list[Named]:
    """A layer whose inputs are 0 and 1: its sum is (dot + sum of weights) / 2 of the dot with -1 and +1, exactly.

    rising: else its inputs are -1 and 0, and the sum of weights is subtracted.  What pads it is one of the two, then.
    H, scale and bias then follow in the order in which `Linear` has them.
    """
    signs = binary_weights(dense)  # 0 where torch.sign makes it of a latent, which the network's check reports
    half = np.full(dense.neurons, 0.5, np.float32)
    total = signs.reshape(dense.neurons, -1).sum(axis=1, dtype=np.float64)
    shift = (total / (2 if rising else -2)).astype(np.float32)
    steps: list[tuple[Function, F32]] = []
    if dense.h != 1:
        steps.append(("mul", np.full(dense.neurons, dense.h, np.float32)))
    if dense.scale is not None:
        steps.append(("mul", dense.scale))
    if dense.bias is not None:
        steps.append(("add", dense.bias))
    high = dense.pad == (1 if rising else 0)
    pad = 0 if dense.window is None else 1 if high else -1
    ops: list[Named] = [(name, Linear(signs, "sign", 1.0, shift, half, dense.window, dense.groups, pad))]
    return [*ops, (f"{name}.steps01", Steps.of(*steps))] if steps else ops

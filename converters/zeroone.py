"""Layers whose inputs are 0 and 1, as layers of -1 and +1."""

from __future__ import annotations

import numpy as np

from xnorinfer.netspec import F32, Chain, ChainOp, Dense, Layer


def on_zero_one(dense: Dense) -> list[Layer]:
    """A layer whose inputs are 0 and 1: its sum is (dot + sum of weights) / 2 of the dot with -1 and +1, exactly.

    H, scale and bias then follow in the order in which `Dense` has them.
    """
    signs = _signs(dense)
    half = np.full(dense.neurons, 0.5, np.float32)
    shift = (signs.sum(axis=1, dtype=np.float64) / 2).astype(np.float32)
    steps: list[tuple[ChainOp, F32]] = []
    if dense.h != 1:
        steps.append(("mul", np.full(dense.neurons, dense.h, np.float32)))
    if dense.scale is not None:
        steps.append(("mul", dense.scale))
    if dense.bias is not None:
        steps.append(("add", dense.bias))
    layers: list[Layer] = [Dense(dense.name, signs, "sign", 1.0, shift, half)]
    return [*layers, Chain(f"{dense.name}.steps01", tuple(steps))] if steps else layers


def _signs(dense: Dense) -> F32:
    """The binary weights, -1 and +1; 0 where the rule is torch.sign and the latent 0, which the network's check reports."""
    x = dense.latent / np.float32(dense.h)
    if dense.rule == "sign":
        return np.asarray(np.sign(x), np.float32)
    soft = np.clip((x + np.float32(1)) / np.float32(2), 0, 1)
    positive = {
        "round-even": lambda: np.round(soft) > 0,
        "round-away": lambda: soft >= np.float32(0.5),
        "ge": lambda: x >= 0,
        "gt": lambda: x > 0,
    }[dense.rule]()
    return np.asarray(np.where(positive, 1, -1), np.float32)

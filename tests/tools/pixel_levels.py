"""Networks whose pixels are rounded to many levels before the first layer, as 8-bit quantizers of inputs do."""

from __future__ import annotations

from typing import Any

import numpy as np

from xnorinfer.net import Flatten, Levels, Linear, Net, Norm, PixelInput, Pool, Quantize, Steps, Window

#: low, high, zero, step, divisor, what the pixels are scaled by before.
GRIDS: dict[str, tuple[int, int, int, float, float, float]] = {
    "Q1.7": (-128, 127, 0, 2.0**-7, 1.0, 1 / 2.0**-7),
    "narrow": (-127, 127, 0, float(np.float32(1 / 127)), 1.0, 127.0),
    "unsigned": (0, 255, 3, 1.0, 255.0, 100.0),
    "six bits": (-32, 31, -1, 0.3, 1.0, 31.0),
    "falling": (-64, 64, 0, 0.25, 1.0, -70.0),
    "seventeen": (0, 16, 0, 0.25, 1.0, 17.0),
}


def pixel_levels(grid: str, maps: bool, seed: int = 0) -> Net:
    """Two layers over such levels, the first with padding where maps are read."""
    rng = np.random.default_rng(seed)
    low, high, zero, step, divisor, factor = GRIDS[grid]

    def latents(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    def norm(neurons: int, spread: float) -> Norm:
        mean, gamma = latents(neurons) * np.float32(spread), latents(neurons)
        return Norm(mean, np.full(neurons, spread**2, np.float32), gamma=gamma, beta=latents(neurons), epsilon=1e-4)

    size = step / divisor * max(-low, high) / 2
    rounded = [
        ("mapped", Steps.of(("mul", 2), ("sub", 1))),
        ("scaled", Steps.of(("mul", np.full(3, factor, np.float32)) if maps else ("mul", factor))),
        ("levels", Levels(low, high, zero, step, divisor)),
    ]
    if not maps:
        layers = [
            *rounded,
            ("fc1", Linear(latents(70, 50), "ge", 0.5, bias=latents(70))),
            ("bn1", norm(70, size * 5)),
            ("sign1", Quantize("ge")),
            ("fc2", Linear(latents(4, 70), "ge")),
        ]
        return Net.chain(PixelInput.range(0, 1), layers, "ge-zero", (50,))
    same = Window((3, 3), padding=(1, 1, 1, 1))
    layers = [
        *rounded,
        ("conv1", Linear(latents(20, 3, 3, 3), "ge", window=same)),
        ("pool1", Pool("max", Window((2, 2), stride=(2, 2)))),
        ("bn1", norm(20, size * 5)),
        ("levels1", Levels(-1, 2, 0, 0.5)),
        ("conv2", Linear(latents(9, 3, 3, 20), "ge", window=same)),
        ("flatten", Flatten()),
        ("fc", Linear(latents(4, 9 * 9), None)),
    ]
    return Net.chain(PixelInput.range(0, 1), layers, "ge-zero", (6, 7, 3))

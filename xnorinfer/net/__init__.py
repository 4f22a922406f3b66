"""The float network as a small graph, to be built by hand or read from a checkpoint: `from xnorinfer.net import Net, Linear`.

    layers = [("fc1", Linear(latent, "ge")), ("bn1", Norm(mean, variance, epsilon=1e-3)), ("sign1", Quantize("ge")), ...]
    model = xnorinfer.pack(Net.chain(PixelInput.range(-1, 1), layers, "ge-zero"))

`ops` has the ops and `values` what flows between them, `ties` the tie rules; `check` finds everything that is wrong with a
network, and `reference` computes it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xnorinfer.graph import Node
    from xnorinfer.net.network import Net
    from xnorinfer.net.ops import (
        Add,
        Channels,
        Concat,
        Flatten,
        Levels,
        Linear,
        Multiply,
        Norm,
        Pad,
        Pool,
        Quantize,
        Step,
        Steps,
    )
    from xnorinfer.net.ties import PROFILES
    from xnorinfer.net.values import ChannelInput, PixelInput, RealInput, SignInput, ThresholdInput
    from xnorinfer.net.windows import Window

__all__ = [
    "PROFILES",
    "Add",
    "ChannelInput",
    "Channels",
    "Concat",
    "Flatten",
    "Levels",
    "Linear",
    "Multiply",
    "Net",
    "Node",
    "Norm",
    "Pad",
    "PixelInput",
    "Pool",
    "Quantize",
    "RealInput",
    "SignInput",
    "Step",
    "Steps",
    "ThresholdInput",
    "Window",
]

_HOMES = {
    "xnorinfer.graph": ("Node",),
    "xnorinfer.net.network": ("Net",),
    "xnorinfer.net.ops": (
        *("Add", "Channels", "Concat", "Flatten", "Levels", "Linear", "Multiply", "Norm", "Pad"),
        *("Pool", "Quantize", "Step", "Steps"),
    ),
    "xnorinfer.net.ties": ("PROFILES",),
    "xnorinfer.net.values": ("ChannelInput", "PixelInput", "RealInput", "SignInput", "ThresholdInput"),
    "xnorinfer.net.windows": ("Window",),
}


def __getattr__(name: str) -> Any:
    """What is asked for, when it is: a loaded model needs the input mappings alone."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Adam as BinaryNet uses it: each binary layer's update is scaled, then its latents are clipped to [-H, H]."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from xnorinfer.training.binarylayers import BinaryConv2d, BinaryLinear


def learning_rate(step: int, steps: int, start: float, end: float) -> float:
    """Exponential decay: `start` at step 0, `end` after `steps` steps (BinaryNet: 3e-3 to 3e-7, one step an epoch)."""
    return float(start * (end / start) ** (step / steps))


class BinaryAdam(torch.optim.Adam):
    """Adam for a module with binary layers.

    The scale of a layer (`lr_scale`, 1/sqrt(1.5/(fan_in + fan_out))) multiplies the update itself:

        W <- clip(W - lr * lr_scale * m_hat / (sqrt(v_hat) + eps), -H, H)

    Scaling the gradient instead would do nothing, since Adam divides by its size.  Biases and BatchNorm have scale 1 and no
    clipping.  Entries that `layer.freeze` names keep their bits whatever the moments say.
    """

    def __init__(self, module: nn.Module, lr: float = 3e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        layers = [layer for layer in module.modules() if isinstance(layer, BinaryLinear | BinaryConv2d)]
        latents = {id(layer.weight) for layer in layers}
        others = [parameter for parameter in module.parameters() if id(parameter) not in latents]
        groups: list[dict[str, Any]] = [{"params": [layer.weight], "lr_scale": layer.lr_scale} for layer in layers]
        if others:
            groups.append({"params": others, "lr_scale": 1.0})
        super().__init__(groups, lr=lr, betas=betas, eps=eps, fused=True)
        self.layers = layers
        self.set_learning_rate(lr)

    def set_learning_rate(self, lr: float) -> None:
        """The learning rate before the layers' scales, from the next step on."""
        for group in self.param_groups:
            group["lr"] = lr * group["lr_scale"]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; the gradients are those of the last backward."""
        kept = [(layer, layer.weight.clone()) for layer in self.layers if layer.frozen is not None]
        loss = super().step(closure)
        for layer in self.layers:
            layer.weight.clamp_(-layer.h, layer.h)
        for layer, before in kept:
            assert layer.frozen is not None
            layer.weight.copy_(torch.where(layer.frozen, before, layer.weight))
        return loss

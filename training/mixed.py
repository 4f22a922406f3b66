"""Mixed precision for training on a CPU: sums as integers, gradients as bfloat16.

Between binary layers everything that is multiplied is -1, 0 (dropped out) or +1, so the sums of the forward pass are whole
numbers and 8-bit integer products give them exactly, faster than float32.  Backward, both products round their operands
to bfloat16 (8 significant bits), which is far below the noise of a batch.  On CPUs with AVX-512 BF16 and VNNI an epoch takes
about a third of the time; evaluation computes the same sums either way.

Convolutions are computed in bfloat16 both ways: sums up to 256 are exact, larger ones (and those of pixels) are rounded to 8
significant bits.  Evaluation computes them in float32, where all are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xnorinfer.training.binarylayers import LARGEST_NEGATIVE, BinaryConv2d, BinaryLinear


class Buffers:
    """What the products of one layer reuse from step to step; memory made anew for each would cost more than they do."""

    def __init__(self, weight: Tensor) -> None:
        self.signs = torch.empty(weight.shape, dtype=torch.int8)
        self.wide_signs = torch.empty(weight.shape, dtype=torch.bfloat16)
        self.rounded_gradient = torch.empty(weight.shape, dtype=torch.bfloat16)
        self.gradient = torch.empty(weight.shape, dtype=torch.float32)

    def binarize(self, layer: BinaryLinear) -> None:
        """signs = +-1 as the layer's forward pass has them."""
        latents = layer.weight.detach()
        if layer.stochastic and layer.training:
            self.signs.copy_(layer.binary_weight().detach().sign_())
            return
        scaled = latents if layer.h == 1 else latents / layer.h
        # numpy: the same comparison in torch takes three times as long.
        np.greater(scaled.numpy(), np.float32(LARGEST_NEGATIVE), out=self.signs.numpy().view(np.bool_))
        self.signs.mul_(2).sub_(1)


class _MixedLinear(torch.autograd.Function):
    """x (rows, in) and latents (out, in) -> x @ signs.T without H and bias; see `mixed_linear`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, buffers: Buffers, level: float | None) -> Tensor:
        ctx.buffers, ctx.weight, ctx.level = buffers, weight, level
        if level is None:
            ctx.save_for_backward(x.bfloat16())
            return x @ buffers.signs.float().T
        levels = x.sign()
        ctx.save_for_backward(levels.bfloat16())
        sums = torch._int_mm(levels.to(torch.int8), buffers.signs.T)
        return sums.float().mul_(level)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        (x,) = ctx.saved_tensors
        buffers: Buffers = ctx.buffers
        gradient = gradients[0].bfloat16()
        torch.mm(gradient.T, x, out=buffers.rounded_gradient)
        first = ctx.weight.grad is None
        target = buffers.gradient if first else torch.empty_like(buffers.gradient)
        target.copy_(buffers.rounded_gradient)
        if ctx.level is not None and ctx.level != 1:
            target.mul_(ctx.level)
        # Set here and not returned, since autograd would copy a returned gradient that somebody else (the buffers) holds.
        if first:
            ctx.weight.grad = target
        else:
            ctx.weight.grad += target
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        buffers.wide_signs.copy_(buffers.signs)
        return (gradient @ buffers.wide_signs).float(), None, None, None


def mixed_linear(layer: BinaryLinear, x: Tensor, level: float | None) -> Tensor:
    """`layer(x)`: (rows, in_features) float32 -> (rows, out_features) float32.

    level: the magnitude if all of x is -level, 0 or +level, else None.  Sums of such x are exact; of others they are float32's.
    The latents' gradient is that of `layer` up to bfloat16, provided that they lie in [-H, H], where `BinaryAdam` keeps them.
    """
    buffers = layer.__dict__.get("mixed_buffers")
    if buffers is None or buffers.signs.shape != layer.weight.shape:
        buffers = layer.__dict__["mixed_buffers"] = Buffers(layer.weight)  # no part of the module's state
    buffers.binarize(layer)
    sums: Tensor = _MixedLinear.apply(x, layer.weight, buffers, level)
    if layer.h != 1:
        sums = sums * layer.h
    return sums if layer.bias is None else sums + layer.bias


def mixed_convolution(layer: BinaryConv2d, x: Tensor, level: float | None, pool: int) -> Tensor:
    """`max_pool2d(layer(x), pool)` for a layer with stride 1, with sums in bfloat16; see `mixed_linear` for `level`.

    The bias is added behind the pool, where it is the same and fewer.
    """

    def narrow(maps: Tensor) -> Tensor:
        return maps.bfloat16().to(memory_format=torch.channels_last)  # several times faster than channels outermost

    factor = layer.h if level is None else layer.h * level
    signs = layer.binary_weight() if layer.h == 1 else layer.binary_weight() / layer.h
    levels = x if level is None or level == 1 else x / level
    sums = functional.max_pool2d(functional.conv2d(narrow(levels), narrow(signs), padding=layer.padding), pool).float()
    if factor != 1:
        sums = sums * factor
    return sums if layer.bias is None else sums + layer.bias[:, None, None]

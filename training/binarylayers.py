"""Binarization with a straight-through gradient, and the layers whose weights pass through it.

A binary layer keeps real *latent* weights W in [-H, H].  Forward, it computes with `H * binary_tanh(W / H)`, which is +-H;
backward, the gradient of that is taken to be the identity wherever the latent is inside [-H, H], so small gradients add up
in the latents until a sign flips.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from xnorinfer.errors import OptionError

#: Magnitude of a binary weight: a positive number, or "glorot" for `glorot_bound` of the layer.
H = float | Literal["glorot"]


def hard_sigmoid(x: Tensor) -> Tensor:
    """clip((x + 1) / 2, 0, 1), any shape."""
    shifted: Tensor = (x + 1).div_(2)
    return shifted.clamp_(0, 1)


#: binary_tanh(x) is +1 for x above this and -1 up to it: (x + 1)/2 in float32 rounds to at most 1/2 there, and 1/2 to 0.
LARGEST_NEGATIVE = 2.0**-24
#: The float32 after 1.
_BEYOND = 1 + 2.0**-23


def _straight_through(x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of hard_tanh: as it comes on [-1, 1] with both ends, else 0.

    The ends belong to the inside, because that is where clipping puts latents: they must be able to come back.
    """
    # Torch's own leaves out the ends of what it is given.
    kept: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, -_BEYOND, _BEYOND)
    return kept


class _BinaryTanh(torch.autograd.Function):
    """2*round(hard_sigmoid(x)) - 1, half to even, in fewer passes over memory; the gradient of hard_tanh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.copysign(torch.ones((), dtype=x.dtype), LARGEST_NEGATIVE - x).neg_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _straight_through(x, gradients[0])


def binary_tanh(x: Tensor) -> Tensor:
    """-1 or +1: 2*round(hard_sigmoid(x)) - 1; 0 gives -1.  Gradient: that of hard_tanh, 1 inside [-1, 1] and 0 outside."""
    binary: Tensor = _BinaryTanh.apply(x)
    return binary


def binary_sigmoid(x: Tensor) -> Tensor:
    """0 or 1: round(hard_sigmoid(x)), half to even.  Gradient: that of hard_sigmoid, 1/2 inside [-1, 1] and 0 outside."""
    return (binary_tanh(x) + 1) / 2


class _StochasticBinaryTanh(torch.autograd.Function):
    """+1 with probability hard_sigmoid(x), else -1; the gradient of hard_tanh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.bernoulli(hard_sigmoid(x)).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _straight_through(x, gradients[0])


def binarize_weights(latent: Tensor, h: float, stochastic: bool = False) -> Tensor:
    """Latent weights -> +-h, with the identity as gradient inside [-h, h]; stochastic draws from torch's global generator."""
    scaled = latent if h == 1 else latent / h
    binary: Tensor = _StochasticBinaryTanh.apply(scaled) if stochastic else binary_tanh(scaled)
    return binary if h == 1 else h * binary


def glorot_bound(fan_in: int, fan_out: int) -> float:
    """sqrt(1.5 / (fan_in + fan_out)); for a convolution both fans are times the kernel's area."""
    return math.sqrt(1.5 / (fan_in + fan_out))


class _BinaryWeights:
    """What both layers share: the magnitude H, the learning-rate scale, binarization and the mask of frozen entries."""

    h: float
    lr_scale: float
    stochastic: bool
    frozen: Tensor | None
    weight: Any  # nn.Linear and nn.Conv2d declare it differently
    training: bool

    def _set_up(self, fan_in: int, fan_out: int, h: H, stochastic: bool) -> None:
        bound = glorot_bound(fan_in, fan_out)
        # float32, because inference computes with the rounded number too.
        self.h = float(torch.tensor(bound if h == "glorot" else h, dtype=torch.float32))
        if not (math.isfinite(self.h) and self.h > 0):
            raise OptionError(f"H is {h}; needed is a number above 0, or 'glorot'")
        self.lr_scale = 1 / bound
        self.stochastic = stochastic
        self.frozen = None
        with torch.no_grad():
            self.weight.uniform_(-self.h, self.h)

    def binary_weight(self) -> Tensor:
        """+-H, shaped like the latent weights.  Stochastic layers draw while training; in eval mode they round, so that the
        network that is evaluated is the network that is packed (the reference evaluates those with real latents)."""
        return binarize_weights(self.weight, self.h, self.stochastic and self.training)

    def freeze(self, mask: Tensor | None) -> None:
        """Keep the latents where `mask` (bool, shaped like the weights) is true, from the next update on; None frees all."""
        if mask is not None and (mask.shape != self.weight.shape or mask.dtype != torch.bool):
            raise OptionError(
                f"the mask is {tuple(mask.shape)} {mask.dtype}, needed is {tuple(self.weight.shape)} {torch.bool}"
            )
        self.frozen = None if mask is None else mask.to(self.weight.device).clone()


class BinaryLinear(_BinaryWeights, nn.Linear):
    """Dense layer with binary weights: (rows, in_features) -> (rows, out_features).

    weight: (out_features, in_features) float32 latents, drawn uniformly from [-H, H]; bias starts at 0.  `lr_scale` is
    1/sqrt(1.5/(in_features + out_features)), which `BinaryAdam` applies.
    """

    def __init__(self, in_features: int, out_features: int, *, h: H = 1.0, stochastic: bool = False, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self._set_up(in_features, out_features, h, stochastic)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.binary_weight(), self.bias)


class BinaryConv2d(_BinaryWeights, nn.Conv2d):
    """2-D convolution with binary weights: (rows, in_channels, height, width) -> (rows, out_channels, ...).

    weight: (out_channels, in_channels, kernel height, kernel width) float32 latents; the fans of H="glorot" and of `lr_scale`
    are channels times the kernel's area.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        h: H = 1.0,
        stochastic: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        area = self.kernel_size[0] * self.kernel_size[1]
        self._set_up(in_channels * area, out_channels * area, h, stochastic)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self._conv_forward(x, self.binary_weight(), self.bias)
        return convolved

"""The networks of the recipe and their loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from xnorinfer.training.architecture import Convolution, Shape
from xnorinfer.training.binarylayers import BinaryConv2d, BinaryLinear, binary_tanh
from xnorinfer.training.mixed import mixed_convolution, mixed_linear

#: BatchNorm of the reference: epsilon, and the weight of a new batch in the moving averages.
BATCH_NORM_EPSILON = 1e-4
BATCH_NORM_MOMENTUM = 0.1

Layer: TypeAlias = BinaryLinear | BinaryConv2d
BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d


class BinaryNet(nn.Module):
    """dropout -> [binary layer -> BatchNorm -> binary_tanh -> dropout] for each hidden layer -> binary dense -> BatchNorm.

    A binary layer is dense, or a convolution and its max-pool.  Takes float inputs (rows, inputs), of images channels
    innermost, and gives scores (rows, classes).  Modules are called fc1, bn1, conv2, bn2, ...; inside, maps are (rows,
    channels, height, width), and dense layers read them in that order.  Dropout divides what it keeps by the keep probability
    while training and is the identity afterwards (the reference's default), so that activations at inference are -1 and +1
    and nothing else.  With `mixed` set, products are those of `mixed_linear` and, while training, `mixed_convolution`.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.mixed = False
        #: Of the binary layers: names, and sides of the max-pools behind them, 1 where there is none.
        self.names: list[str] = []
        self.pools: list[int] = []
        binary: dict[str, Any] = {"h": shape.h, "stochastic": shape.stochastic, "bias": shape.bias}
        batch_norm: dict[str, Any] = {"eps": BATCH_NORM_EPSILON, "momentum": BATCH_NORM_MOMENTUM}
        for index, (layer, read) in enumerate(zip((*shape.hidden, shape.classes), shape.values()[:-1], strict=True), 1):
            norm: BatchNorm
            if isinstance(layer, int):
                name, pool = f"fc{index}", 1
                module: Layer = BinaryLinear(math.prod(read), layer, **binary)
                norm = nn.BatchNorm1d(layer, **batch_norm)
            else:
                one = Convolution.parse(layer)
                name, pool = f"conv{index}", one.pool
                module = BinaryConv2d(read[2], one.neurons, one.kernel, padding=one.padding, **binary)
                norm = nn.BatchNorm2d(one.neurons, **batch_norm)
            self.names.append(name)
            self.pools.append(pool)
            self.add_module(name, module)
            self.add_module(f"bn{index}", norm)
        self.dropout_input = nn.Dropout(shape.dropout_input)
        self.dropout_hidden = nn.Dropout(shape.dropout_hidden)

    def layers(self) -> Sequence[tuple[Layer, BatchNorm]]:
        """Each binary layer with its BatchNorm, in order of execution."""
        pairs = []
        for index, name in enumerate(self.names, 1):
            layer, norm = self.get_submodule(name), self.get_submodule(f"bn{index}")
            assert isinstance(layer, Layer)
            assert isinstance(norm, BatchNorm)
            pairs.append((layer, norm))
        return pairs

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout_input(x)
        if len(self.shape.input_shape) == 3:
            x = x.reshape(-1, *self.shape.input_shape).permute(0, 3, 1, 2)
        activation = 1 / (1 - self.shape.dropout_hidden) if self.training else 1.0
        for index, ((layer, norm), pool) in enumerate(zip(self.layers(), self.pools, strict=True)):
            level = activation if index else None
            if isinstance(layer, BinaryLinear):
                x = x.flatten(1)
                x = mixed_linear(layer, x, level) if self.mixed else layer(x)
            elif self.mixed and self.training:
                x = mixed_convolution(layer, x, level, pool)
            else:
                x = functional.max_pool2d(layer(x.to(memory_format=torch.channels_last)), pool)
            x = norm(x)
            if index + 1 < len(self.pools):
                x = self.dropout_hidden(binary_tanh(x))
        return x


def pixels_to_inputs(pixels: Tensor) -> Tensor:
    """Pixels 0..255, uint8 or between them -> float32 2*p/255 - 1, the reference's input range."""
    return pixels.to(torch.float32, copy=True).mul_(2).div_(255).sub_(1)


def squared_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """mean(max(0, 1 - t*score)^2) over rows and classes, with t = +1 for a row's label and -1 for the other classes.

    scores: (rows, classes) float32; labels: (rows,) int64.
    """
    targets = torch.full_like(scores, -1).scatter_(1, labels[:, None], 1)
    return (1 - targets * scores).clamp_min(0).square().mean()

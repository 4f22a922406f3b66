"""The multi-layer perceptron of the recipe and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xnorinfer.errors import OptionError
from xnorinfer.training.binarylayers import BinaryLinear, H, binary_tanh
from xnorinfer.training.mixed import mixed_linear

#: BatchNorm of the reference: epsilon, and the weight of a new batch in the moving averages.
BATCH_NORM_EPSILON = 1e-4
BATCH_NORM_MOMENTUM = 0.1


@dataclass(frozen=True)
class Shape:
    """What a network is made of; enough to build it again."""

    inputs: int
    hidden: tuple[int, ...]
    classes: int
    h: H = 1.0
    stochastic: bool = False
    bias: bool = True
    dropout_input: float = 0.2
    dropout_hidden: float = 0.5

    def __post_init__(self) -> None:
        if min(self.inputs, self.classes, *self.hidden) < 1 or not self.hidden:
            raise OptionError(f"layer sizes {self.name} must be whole numbers above 0, with a hidden layer at least")
        for name, value in (("input", self.dropout_input), ("hidden", self.dropout_hidden)):
            if not 0 <= value < 1:
                raise OptionError(f"{name} dropout is {value:g}; needed is a number from 0 to below 1")

    @property
    def name(self) -> str:
        """For example 784-4096-4096-4096-10."""
        return "-".join(map(str, (self.inputs, *self.hidden, self.classes)))


class BinaryMLP(nn.Module):
    """dropout -> [binary dense -> BatchNorm -> binary_tanh -> dropout] for each hidden layer -> binary dense -> BatchNorm.

    Takes float inputs (rows, inputs), gives scores (rows, classes).  Modules are called fc1, bn1, fc2, bn2, ...  Dropout
    divides what it keeps by the keep probability while training and is the identity afterwards (the reference's default), so
    that activations at inference are -1 and +1 and nothing else.  With `mixed` set, products are those of `mixed_linear`.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.mixed = False
        self.depth = len(shape.hidden) + 1
        widths = (shape.inputs, *shape.hidden, shape.classes)
        for index in range(self.depth):
            layer = BinaryLinear(widths[index], widths[index + 1], h=shape.h, stochastic=shape.stochastic, bias=shape.bias)
            self.add_module(f"fc{index + 1}", layer)
            norm = nn.BatchNorm1d(widths[index + 1], eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)
            self.add_module(f"bn{index + 1}", norm)
        self.dropout_input = nn.Dropout(shape.dropout_input)
        self.dropout_hidden = nn.Dropout(shape.dropout_hidden)

    def layers(self) -> Sequence[tuple[BinaryLinear, nn.BatchNorm1d]]:
        """Each dense layer with its BatchNorm, in order of execution."""
        pairs = []
        for index in range(1, self.depth + 1):
            dense, norm = getattr(self, f"fc{index}"), getattr(self, f"bn{index}")
            assert isinstance(dense, BinaryLinear)
            assert isinstance(norm, nn.BatchNorm1d)
            pairs.append((dense, norm))
        return pairs

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout_input(x)
        activation = 1 / (1 - self.shape.dropout_hidden) if self.training else 1.0
        for index, (dense, norm) in enumerate(self.layers(), 1):
            sums = mixed_linear(dense, x, None if index == 1 else activation) if self.mixed else dense(x)
            x = norm(sums)
            if index < self.depth:
                x = self.dropout_hidden(binary_tanh(x))
        return x


def pixels_to_inputs(pixels: Tensor) -> Tensor:
    """uint8 pixels -> float32 2*p/255 - 1, the reference's input range."""
    return pixels.to(torch.float32).mul_(2).div_(255).sub_(1)


def squared_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """mean(max(0, 1 - t*score)^2) over rows and classes, with t = +1 for a row's label and -1 for the other classes.

    scores: (rows, classes) float32; labels: (rows,) int64.
    """
    targets = torch.full_like(scores, -1).scatter_(1, labels[:, None], 1)
    return (1 - targets * scores).clamp_min(0).square().mean()

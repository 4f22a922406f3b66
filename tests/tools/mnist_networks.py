"""Networks in plain PyTorch, in the style of BinaryNet.pytorch, trained for a moment on MNIST.

Nothing of the package is used: what these modules predict is what the package is held against.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Array = NDArray[Any]


class SignThrough(torch.autograd.Function):
    """tensor.sign() forward, the identity backward (hardtanh before it stops the gradient outside [-1, 1])."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class BinarizeLinear(nn.Linear):
    """sign() of the weights, and of the input unless it is the network's."""

    def __init__(self, inputs: int, outputs: int, first: bool = False) -> None:
        super().__init__(inputs, outputs)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.first else SignThrough.apply(x)
        return functional.linear(x, SignThrough.apply(self.weight), self.bias)


class BinaryHead(nn.Module):
    """784-256-256-10, all binary, BatchNorm at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1, self.htanh1 = BinarizeLinear(784, 256, first=True), nn.BatchNorm1d(256), nn.Hardtanh()
        self.fc2, self.bn2, self.htanh2 = BinarizeLinear(256, 256), nn.BatchNorm1d(256), nn.Hardtanh()
        self.fc3, self.bn3 = BinarizeLinear(256, 10), nn.BatchNorm1d(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.htanh1(self.bn1(self.fc1(x)))
        x = self.htanh2(self.bn2(self.fc2(x)))
        return self.bn3(self.fc3(x))


class FloatHead(nn.Module):
    """784-192-192-10 with an ordinary last layer on the hardtanh outputs, as BinaryNet.pytorch's MNIST script has it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1, self.htanh1 = BinarizeLinear(784, 192, first=True), nn.BatchNorm1d(192), nn.Hardtanh()
        self.fc2, self.bn2, self.htanh2 = BinarizeLinear(192, 192), nn.BatchNorm1d(192), nn.Hardtanh()
        self.fc4 = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.htanh1(self.bn1(self.fc1(x)))
        x = self.htanh2(self.bn2(self.fc2(x)))
        return self.fc4(x)


def inputs_of(pixels: Array) -> Tensor:
    """(rows, 28, 28) uint8 -> (rows, 784) float32, as transforms.ToTensor and Normalize((0.5,), (0.5,)) make them."""
    return torch.from_numpy(pixels.reshape(len(pixels), -1).copy()).float().div(255).sub(0.5).div(0.5)


def train(net: nn.Module, pixels: Array, labels: Array, seed: int) -> None:
    """One epoch of cross-entropy with Adam, latents clipped to [-1, 1]; a third of the gammas start negative, and some end
    at zero or next to it, as they do in long trainings."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight[torch.rand(len(norm.weight), generator=generator) < 0.3] *= -1
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    x, y = inputs_of(pixels), torch.from_numpy(labels.astype(np.int64))
    net.train()
    for rows in torch.split(torch.randperm(len(x), generator=generator), 100):
        optimizer.zero_grad()
        functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, BinarizeLinear):
                    module.weight.clamp_(-1, 1)
    with torch.no_grad():
        for norm in norms[:2]:
            norm.weight[:6] = torch.tensor([0.0, 3e-7, -3e-7, -0.5, 1e-30, -0.0])
    net.eval()


@torch.no_grad()
def nudge_to_rounding(net: Any, pixels: Array, neurons: range) -> None:
    """Move thresholds of the first layer by a hair onto real images, so that the order of its float32 sum decides their sign.

    Each neuron takes the image that is nearest to its threshold anyway.  BatchNorm becomes x*alpha + beta with
    beta = -sum*alpha, which is 0 for no x, since a product of two float32 numbers almost never is one.
    """
    norm, dense = net.bn1, net.fc1
    x = inputs_of(pixels)
    values = norm(dense(x))
    for neuron in neurons:
        image = int(values[:, neuron].abs().argmin())
        exact = 2 * torch.from_numpy(pixels[image].reshape(-1)).double() / 255 - 1
        total = float(exact @ dense.weight[neuron].sign().double()) + float(dense.bias[neuron])
        alpha = float(norm.weight[neuron]) / float(torch.sqrt(norm.running_var[neuron].double() + norm.eps))
        norm.running_mean[neuron] = 0
        norm.bias[neuron] = -total * alpha


@torch.no_grad()
def framework_layers(net: nn.Module, pixels: Array) -> dict[str, Array]:
    """What PyTorch computes: every module's output by name, and "scores"; (rows, neurons) float32."""
    outputs: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: outputs.setdefault(name, []).append(output.clone()))
        for name, module in net.named_children()
    ]
    scores = [net(part) for part in torch.split(inputs_of(pixels), 1000)]
    for hook in hooks:
        hook.remove()
    return {**{name: torch.cat(parts).numpy() for name, parts in outputs.items()}, "scores": torch.cat(scores).numpy()}


def save(net: nn.Module, path: Path) -> None:
    """As training scripts do."""
    torch.save({"epoch": 1, "state_dict": net.state_dict(), "best_prec1": 0.9}, path)


def array(tensor: Tensor | None) -> NDArray[np.float32]:
    assert tensor is not None
    return tensor.detach().numpy().copy()

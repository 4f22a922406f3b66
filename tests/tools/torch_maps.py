"""Convolutional networks in PyTorch, whose scores are exact in float32 but for those of float layers: parameters are small
fractions of powers of two.  Maps are never square."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Shape = tuple[int, ...]


def ge(x: Tensor) -> Tensor:
    """+1 from 0 on, else -1."""
    return torch.where(x >= 0, 1.0, -1.0)


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0)


class BinaryConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, torch.where(self.weight >= 0, 1.0, -1.0), self.bias)


class BinaryConv1d(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, torch.where(self.weight >= 0, 1.0, -1.0), self.bias)


class BinaryLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, torch.where(self.weight >= 0, 1.0, -1.0), self.bias)


class SignedConv(nn.Conv2d):
    """BinaryNet.pytorch: the sign of its input, 0 at 0, but of the network's own."""

    def forward(self, x: Tensor) -> Tensor:
        if self.in_channels != 3:
            x = x.sign()
        return self._conv_forward(x, self.weight.sign(), self.bias)


class SignedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.sign(), self.weight.sign(), self.bias)


class Vgg(nn.Module):
    """itayhubara/BinaryNet.pytorch, vgg_cifar10_binary.py: conv, [pool], BatchNorm, hardtanh; the last norm without affine."""

    def __init__(self, height: int = 16, width: int = 24) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for index, more in enumerate((8, 8, 12, 12, 16, 16)):
            layers.append(SignedConv(channels, more, 3, padding=1, bias=True))
            layers += [nn.MaxPool2d(2)] if index % 2 else []
            layers += [nn.BatchNorm2d(more), nn.Hardtanh(inplace=True)]
            channels = more
        self.features = nn.Sequential(*layers)
        self.wide = channels * (height // 8) * (width // 8)
        self.classifier = nn.Sequential(
            SignedLinear(self.wide, 32),
            nn.BatchNorm1d(32),
            nn.Hardtanh(inplace=True),
            SignedLinear(32, 10),
            nn.BatchNorm1d(10, affine=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.view(-1, self.wide))  # type: ignore[no-any-return]


class XnorConv(nn.Module):
    """XNOR-Net-PyTorch: BatchNorm, sign, convolution of centred weights times their mean magnitude, relu."""

    def __init__(self, channels: int, neurons: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = BinaryConv(channels, neurons, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight - self.conv.weight.mean(1, keepdim=True)
        scale = self.conv.weight.abs().mean((1, 2, 3), keepdim=True)
        x = functional.conv2d(self.bn(x).sign(), weight.sign() * scale, self.conv.bias, padding=1)
        return functional.relu(x)


class Xnor(nn.Module):
    """A float stem and head around binary convolutions that read BatchNorm's signs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.BatchNorm2d(8)
        self.first, self.second = XnorConv(8, 8), XnorConv(8, 8)
        self.head = nn.Linear(8 * 3 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.norm(self.stem(x))), 3, stride=2, padding=1)
        x = functional.avg_pool2d(self.second(self.first(x)), 3, stride=2, padding=1)
        return self.head(torch.flatten(x, 1))  # type: ignore[no-any-return]


class Normalized(nn.Module):
    """Means and deviations of three channels in the graph, over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.25, 0.75]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.25, 0.5, 0.125]).reshape(1, 3, 1, 1))
        self.body = nn.Sequential(BinaryConv(3, 8, 3), nn.BatchNorm2d(8), Sign(), BinaryConv(8, 5, (5, 7)), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - self.mean) / self.std)  # type: ignore[no-any-return]


class LastChannels(nn.Module):
    """Images with their channels last, and a linear layer of each pixel's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pixels = BinaryConv(3, 8, 3, padding=1), nn.BatchNorm2d(8), BinaryLinear(8, 6)
        self.head = BinaryLinear(6 * 5 * 7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        return self.head(ge(self.pixels(ge(x)) - 0.5).flatten(1))  # type: ignore[no-any-return]


class Slopes(nn.PReLU):
    """As many as a map here is wide."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.weight.data = torch.arange(channels) / 4


class FromRows(nn.Module):
    """Rows of values that become images, and a mean over their pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = BinaryConv(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(ge(self.norm(self.conv(x.view(-1, 1, 9, 12)))))
        return x.mean(dim=(2, 3))


def _block(channels: int, *more: nn.Module) -> list[nn.Module]:
    return [*more, nn.BatchNorm2d(channels), Sign()]


#: Networks by what they have, each with the shape of a sample.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "vgg": (lambda: Vgg(), (3, 16, 24)),
    "pool before norm": (
        lambda: nn.Sequential(
            *_block(8, BinaryConv(3, 8, 3, padding=1), nn.MaxPool2d(2)),
            *_block(12, BinaryConv(8, 12, 3, padding=1)),
            *_block(16, BinaryConv(12, 16, 3, padding=1), nn.MaxPool2d((3, 2), stride=2)),
            nn.Flatten(),
            BinaryLinear(16 * 2 * 4, 20),
            nn.BatchNorm1d(20),
            Sign(),
            BinaryLinear(20, 10),
            nn.BatchNorm1d(10),
        ),
        (3, 12, 16),
    ),
    "pool after sign": (
        lambda: nn.Sequential(
            *_block(8, BinaryConv(3, 8, 3, bias=False)),
            *_block(8, BinaryConv(8, 8, 3, bias=False)),
            nn.MaxPool2d(2),
            *_block(16, BinaryConv(8, 16, 3, bias=False)),
            nn.MaxPool2d(2, stride=1, padding=1),
            nn.Flatten(),
            BinaryLinear(16 * 3 * 5, 10),
        ),
        (3, 12, 16),
    ),
    "strides, dilations, groups": (
        lambda: nn.Sequential(
            *_block(8, BinaryConv(2, 8, (3, 2), stride=(2, 3), padding=(1, 0), dilation=(1, 2))),
            *_block(8, BinaryConv(8, 8, 3, groups=4, padding=2, dilation=2, bias=False)),
            *_block(8, BinaryConv(8, 8, 3, groups=8, padding=1)),
            BinaryConv(8, 5, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        (2, 11, 14),
    ),
    "float stem and head": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            Sign(),
            *_block(8, BinaryConv(8, 8, 3, padding=1)),
            BinaryConv(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.AdaptiveAvgPool2d((1, 2)),
            nn.Flatten(),
            nn.Linear(16, 4),
        ),
        (3, 13, 22),
    ),
    "padding": (
        lambda: nn.Sequential(
            nn.ZeroPad2d((1, 0, 2, 1)),
            *_block(8, BinaryConv(3, 8, 3)),
            nn.ConstantPad2d((0, 1, 1, 0), 1.0),
            BinaryConv(8, 8, 2),
            nn.BatchNorm2d(8),
            nn.ConstantPad2d(1, -5.0),
            Sign(),
            *_block(8, BinaryConv(8, 8, 3), nn.AvgPool2d((2, 3), stride=2, padding=(0, 1), count_include_pad=False)),
            BinaryConv(8, 6, 1),
        ),
        (3, 8, 11),
    ),
    "one axis": (
        lambda: nn.Sequential(
            BinaryConv1d(2, 8, 5, padding=2),
            nn.MaxPool1d(2),
            nn.BatchNorm1d(8),
            Sign(),
            BinaryConv1d(8, 8, 3, stride=2, padding=1),
            nn.AvgPool1d(2, stride=1),
            nn.BatchNorm1d(8),
            Sign(),
            nn.Flatten(),
            BinaryLinear(32, 6),
        ),
        (2, 20),
    ),
    "rounded up": (
        lambda: nn.Sequential(
            *_block(8, BinaryConv(1, 8, 3, padding="same"), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *_block(8, BinaryConv(8, 8, (3, 2), padding="same"), nn.AvgPool2d(2, padding=1)),
            nn.Flatten(),
            BinaryLinear(96, 6),
        ),
        (1, 8, 14),
    ),
    "slopes of channels": (
        lambda: nn.Sequential(
            *_block(4, BinaryConv(2, 4, 3), Slopes(4)), *_block(4, BinaryConv(4, 4, 3, bias=False)), BinaryConv(4, 3, 1)
        ),
        (2, 9, 6),
    ),
    "channels last": (lambda: LastChannels(), (5, 7, 3)),
    "rows": (lambda: FromRows(), (108,)),
    "a mapping of each channel": (lambda: Normalized(), (3, 7, 9)),
}


def made(net: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation, with parameters that are exact: norms whose factors are powers of two, of both signs."""
    random = torch.Generator().manual_seed(seed)

    def whole(shape: Any, low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=random).float()

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(whole(module.running_mean.shape, -3, 3) / 2)
                module.running_var.copy_(torch.full_like(module.running_var, 1 - module.eps))
                if module.affine:
                    module.weight.copy_(2 ** whole(module.weight.shape, -1, 1) * (2 * whole(module.weight.shape, 0, 1) - 1))
                    module.bias.copy_(whole(module.bias.shape, -2, 2) / 4 + 0.0625)  # no sum ends at 0
            elif isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
                ordinary = type(module) in (nn.Conv2d, nn.Linear)
                shape = module.weight.shape
                latent = torch.rand(shape, generator=random) * 2 - 1
                module.weight.copy_(whole(shape, -4, 4) / 4 if ordinary else latent)
                if module.bias is not None:
                    module.bias.copy_(whole(module.bias.shape, -3, 3) / 2 + 0.25)
    return net.eval()


def network(name: str, seed: int = 0) -> tuple[nn.Module, Shape]:
    """One of `NETWORKS`, made, and the shape of a sample."""
    build, shape = NETWORKS[name]
    return made(build(), seed), shape


#: How a network is written to a file.
WRITTEN = ("export", "traced", "scripted", "onnx", "onnx by dynamo")


def write(net: nn.Module, shape: Shape, path: Path, how: str) -> Path:
    """A file of a network, in one of the ways of `WRITTEN`."""
    example = torch.zeros(2, *shape)
    path = path / f"{how.replace(' ', '-')}{'.onnx' if 'onnx' in how else '.pt2' if how == 'export' else '.pt'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "export":
            torch.export.save(torch.export.export(net, (example,)), path)
        elif how == "traced":
            torch.jit.trace(net, example).save(str(path))
        elif how == "scripted":
            torch.jit.script(net).save(str(path))
        elif how == "onnx":
            named = {"input_names": ["x"], "dynamic_axes": {"x": {0: "rows"}}}
            torch.onnx.export(net, (example,), str(path), dynamo=False, **named)  # type: ignore[arg-type]
        else:
            torch.onnx.export(net, (example,), str(path), dynamo=True, verbose=False, external_data=False)
    return path


def scores(net: nn.Module, x: NDArray[Any]) -> NDArray[Any]:
    """What a network gives for (rows, ...) float32, maps of scores with their channels last, flat."""
    with torch.inference_mode():
        answer = net(torch.from_numpy(np.ascontiguousarray(x, np.float32)))
    answer = answer.permute(0, 2, 3, 1) if answer.ndim == 4 else answer
    found: NDArray[Any] = answer.flatten(1).numpy()
    return found

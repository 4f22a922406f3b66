"""Networks that branch and join again in PyTorch, small ones of the kinds that people publish; exact in float32, as those of
`torch_maps`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_maps import BinaryConv, Shape, ge, made


class ScaledConv(BinaryConv):
    """Bi-Real's: the mean magnitude of a neuron's weights times their signs."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, scale * torch.where(self.weight >= 0, 1.0, -1.0), None, self.stride, self.padding)


class Down(nn.Sequential):
    """The shortcut of a block that halves its map."""

    def __init__(self, channels: int, neurons: int) -> None:
        super().__init__(nn.AvgPool2d(2), nn.Conv2d(channels, neurons, 1, bias=False), nn.BatchNorm2d(neurons))


class Residual(nn.Module):
    """Bi-RealNet's and ResNetE's: BatchNorm of a binary convolution, plus what it read."""

    def __init__(self, channels: int, neurons: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = ScaledConv(channels, neurons, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(neurons)
        self.down = Down(channels, neurons) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(ge(x)))
        out += self.down(x)
        return out  # type: ignore[no-any-return]


class Quick(nn.Module):
    """QuickNet's: padded with ones, relu before BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = BinaryConv(channels, channels, 3, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(ge(x), (1, 1, 1, 1), value=1.0)
        return x + self.norm(functional.relu(self.conv(padded)))  # type: ignore[no-any-return]


class Blur(nn.Conv2d):
    """A depthwise convolution with the same weights everywhere."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)
        self.register_buffer("kernel", torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(
            x, self.kernel.expand(self.out_channels, 1, 3, 3), None, self.stride, self.padding, groups=self.groups
        )


class Transition(nn.Sequential):
    """QuickNet's: relu, max pool, blur, float 1x1, BatchNorm."""

    def __init__(self, channels: int, neurons: int) -> None:
        super().__init__(
            nn.ReLU(),
            nn.ConstantPad2d((0, 1, 0, 1), float("-inf")),
            nn.MaxPool2d(2, stride=1),
            Blur(channels),
            nn.Conv2d(channels, neurons, 1),
            nn.BatchNorm2d(neurons),
        )


class Dense(nn.Module):
    """BinaryDenseNet's: BatchNorm, sign, convolution, beside what it read."""

    def __init__(self, channels: int, growth: int = 8) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), BinaryConv(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(ge(self.norm(x)))], 1)


class Improve(nn.Module):
    """MeliusNet's: a convolution that is added to the newest channels."""

    def __init__(self, channels: int, growth: int = 8) -> None:
        super().__init__()
        self.growth, self.before = growth, channels - growth
        self.norm, self.conv = nn.BatchNorm2d(channels), BinaryConv(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(ge(self.norm(x)))
        return torch.cat([x[:, : -self.growth], x[:, -self.growth :] + y], 1)


class Padded(Improve):
    """The same with zeros beside what is added."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(ge(self.norm(x)))
        return x + functional.pad(y, (0, 0, 0, 0, self.before, 0))


class Shift(nn.Module):
    """ReActNet's learnable bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter((torch.arange(channels).reshape(1, channels, 1, 1) % 5 - 2) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.expand_as(x)


class Bent(nn.Sequential):
    """RPReLU: shifted, bent and shifted back."""

    def __init__(self, channels: int) -> None:
        super().__init__(Shift(channels), nn.PReLU(channels), Shift(channels))
        self[1].weight.data = (torch.arange(channels) % 4 - 1) / 4


class React(nn.Module):
    """ReActNet's: binary 3x3, then one or two binary 1x1, side by side where channels double."""

    def __init__(self, channels: int, neurons: int, stride: int = 1) -> None:
        super().__init__()
        self.move = nn.ModuleList([Shift(channels), Shift(channels)])
        self.spatial = BinaryConv(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm, self.bent = nn.BatchNorm2d(channels), nn.ModuleList([Bent(channels), Bent(neurons)])
        self.pool = nn.AvgPool2d(2) if stride > 1 else nn.Identity()
        self.points = nn.ModuleList([BinaryConv(channels, channels, 1, bias=False) for _ in range(neurons // channels)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(neurons // channels)])

    def forward(self, x: Tensor) -> Tensor:
        moves = [move(x) for move in self.move[:1]]
        x = self.bent[0](self.norm(self.spatial(ge(moves[0]))) + self.pool(x))
        signs = ge(self.move[1](x))
        found = [norm(point(signs)) + x for point, norm in zip(self.points, self.norms, strict=True)]
        return self.bent[1](torch.cat(found, dim=1) if len(found) > 1 else found[0])  # type: ignore[no-any-return]


class Shortened(nn.Module):
    """A ResNet's shortcut of every second pixel, with zeros beside its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = BinaryConv(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm, self.more = nn.BatchNorm2d(2 * channels), channels // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more), "constant", 0.0)
        return self.norm(self.conv(ge(x))) + shortcut  # type: ignore[no-any-return]


class Split(nn.Module):
    """Half of the channels pass, the other half is computed; then they are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv, self.norm = BinaryConv(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        kept, other = torch.chunk(x, 2, dim=1)
        x = torch.cat((kept, self.norm(self.conv(ge(other))) - other), dim=1)
        rows, channels, height, width = x.shape
        return x.view(rows, 2, channels // 2, height, width).transpose(1, 2).reshape(rows, channels, height, width)


def _network(stem: int, *blocks: nn.Module, channels: int) -> nn.Module:
    """A float stem and head around blocks."""
    return nn.Sequential(
        nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(stem),
        *blocks,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(channels, 5),
    )


SAMPLE: Shape = (3, 16, 32)

#: Networks by their kinds.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "birealnet": lambda: _network(8, Residual(8, 8), Residual(8, 16, 2), Residual(16, 16), channels=16),
    "quicknet": lambda: _network(8, Quick(8), Quick(8), Transition(8, 16), Quick(16), channels=16),
    "binarydensenet": lambda: _network(
        8, Dense(8), Dense(16), nn.BatchNorm2d(24), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(24, 8, 1), Dense(8), channels=16
    ),
    "meliusnet": lambda: _network(8, Dense(8), Improve(16), Dense(16), Improve(24), channels=24),
    "meliusnet with zeros": lambda: _network(8, Dense(8), Padded(16), Dense(16), Padded(24), channels=24),
    "reactnet": lambda: _network(8, React(8, 8), React(8, 16, 2), channels=16),
    "shortcuts of pixels": lambda: _network(8, Residual(8, 8), Shortened(8), channels=16),
    "channels shuffled": lambda: _network(8, Residual(8, 8), nn.ChannelShuffle(4), Residual(8, 8), channels=8),
    "channels apart": lambda: _network(8, Residual(8, 8), Split(8), Split(8), channels=8),
}


def network(name: str, seed: int = 0) -> nn.Module:
    """One of `NETWORKS`, made; weights that are scaled by their mean are of one magnitude."""
    net = made(NETWORKS[name](), seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, ScaledConv):
                module.weight.copy_(ge(module.weight) / 4)
    return net

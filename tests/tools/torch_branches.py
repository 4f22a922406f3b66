"""Networks that branch and join again in PyTorch, small ones of the kinds that people publish; exact in float32, as those of
`torch_maps`."""

from __future__ import annotations

import itertools
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


class Improved(Improve):
    """The same, written into a copy: parts of it, single channels, parts of parts."""

    def forward(self, x: Tensor) -> Tensor:
        y, found = self.conv(ge(self.norm(x))), x.clone()
        found[:, -self.growth :] += y
        newest = found[:, self.before :]
        newest *= 0.5
        newest[:, 1] = y[:, 0]
        newest[:, 2:4][:, 1:] -= 1.0
        return found + torch.cat([x[:, : self.before], newest], 1)


class Bases(nn.Module):
    """Group-Net's: several convolutions of the same signs, stacked and summed; what else there is for tensors side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([BinaryConv(channels, channels, 3, padding=1, bias=False) for _ in range(4)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(4)])
        self.register_buffer("order", torch.arange(channels).flip(0))
        self.register_buffer("least", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        bits = ge(x)
        found = [norm(conv(bits)) for conv, norm in zip(self.convs, self.norms, strict=True)]
        mean = torch.stack(found).mean(0) + torch.stack(found[:2], dim=2).sum(dim=2)
        mean = torch.addcmul(mean, torch.lerp(x, mean, 0.25), torch.index_select(x, 1, self.order), value=0.5)
        mean = torch.max(mean, self.least) + mean[:, self.order]
        first, second = torch.unbind(mean.view(x.size(0), 2, x.size(1) // 2, x.size(2), x.size(3)), 1)
        return mean + first.repeat(1, 2, 1, 1) - torch.cat([second, first], 1)


class Listed(nn.Module):
    """A list of values that grows, loses and changes members; a script does that itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([BinaryConv(channels, channels, 3, padding=1, bias=False) for _ in range(3)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for conv, norm in zip(self.convs, self.norms):  # noqa: B905 (scripts know no strict)
            found.append(norm(conv(ge(found[-1]))))
        found.insert(0, found.pop() * 0.5)
        more = [x, x]
        more[1] = found[0]
        found.extend(more)
        return torch.cat(found[1:], 1)


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


class Gated(nn.Module):
    """Real-to-Binary's: a binary convolution times a gate that float layers make of the means of what it read; PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), BinaryConv(channels, channels, 3, padding=1, bias=False)
        self.less, self.more = nn.Linear(channels, channels // 4, bias=False), nn.Linear(channels // 4, channels, bias=False)
        self.bent = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        means = functional.adaptive_avg_pool2d(y, 1).flatten(1)
        gate = torch.sigmoid(self.more(functional.relu(self.less(means))))
        return x + self.bent(self.conv(ge(y)) * gate[:, :, None, None])  # type: ignore[no-any-return]


class Squeezed(Gated):
    """The same gate as an SE block has it, of convolutions of one pixel; it stands before what it multiplies."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.less, self.more = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        gate = torch.sigmoid(self.more(functional.relu(self.less(functional.adaptive_avg_pool2d(y, 1)))))
        return x + gate * self.conv(ge(y))  # type: ignore[no-any-return]


class Scaled(nn.Sequential):
    """XNOR-Net's: BatchNorm, sign, convolution of scaled signs, relu."""

    def __init__(self, channels: int, neurons: int) -> None:
        super().__init__(nn.BatchNorm2d(channels), Sign(), ScaledConv(channels, neurons, 3, padding=1, bias=False), nn.ReLU())


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ge(x)


class Bordered(nn.Module):
    """Numbers around real maps before a largest value, and a map cut where its own border was."""

    def forward(self, x: Tensor) -> Tensor:
        wide = functional.max_pool2d(functional.pad(x, (1, 2, 0, 1), value=0.5), 2, stride=1)
        return wide[:, :, :-1, 1:-1] + functional.pad(x, (0, 1, 0, 0))[:, :, :-1, :-1]


class Compared(nn.Module):
    """LAB's signs, of which of two depthwise convolutions is larger; what FracBNN adds where a sum is above a threshold; a
    choice between two values.  What nobody asks for is no part of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.both = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels)
        self.first, self.second = (BinaryConv(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.other = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        rows, channels, height, width = x.shape
        y = self.both(x).view(rows, channels, 2, height, width)
        x.abs().mean(1, keepdim=True)
        bits = torch.where(y[:, :, 0] > y[:, :, -1], 1.0, -1.0)
        first = self.first(bits)
        found = self.norm(first) + (first > 2.0).float() * self.other(self.second(bits))
        return torch.where(first <= 0.0, found, x) + 0.25 * (first < -4.0).float()


class Reduced(nn.Module):
    """The larger and the smaller of two halves (MFM); gates of means of lines, then of columns, of largest values, of sums, of
    averages whose windows are told by sizes, and of one number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = BinaryConv(channels, 2 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(2 * channels)
        self.gates = nn.ModuleList([nn.Conv2d(channels, channels, 1) for _ in range(4)])
        self.one = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.chunk(self.norm(self.conv(ge(x))), 2, dim=1)
        y = torch.max(first, second) - 0.5 * torch.min(second, first)
        means = y.mean(3).mean(2).unsqueeze(2).unsqueeze(3)
        largest = torch.max(y.flatten(2), 2, keepdim=True)[0].unsqueeze(-1)
        sums = y.sum((2, 3), keepdim=True) / 128 + y.max(2, keepdim=True)[0].max(3, keepdim=True)[0]
        averages = functional.avg_pool2d(y, y.size()[2:]) + functional.adaptive_max_pool2d(y, 1)
        for gate, value in zip(self.gates, (means, largest, sums, averages)):  # noqa: B905 (scripts know no strict)
            x = x * torch.sigmoid(gate(value)).expand_as(x)
        return x + y * torch.sigmoid(self.one(y.mean((2, 3)))).view(-1, 1, 1, 1).expand_as(y)


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
    "meliusnet written into": lambda: _network(8, Dense(8), Improved(16), Dense(16), Improved(24), channels=24),
    "meliusnet with zeros": lambda: _network(8, Dense(8), Padded(16), Dense(16), Padded(24), channels=24),
    "reactnet": lambda: _network(8, React(8, 8), React(8, 16, 2), channels=16),
    "shortcuts of pixels": lambda: _network(8, Residual(8, 8), Shortened(8), channels=16),
    "channels shuffled": lambda: _network(8, Residual(8, 8), nn.ChannelShuffle(4), Residual(8, 8), channels=8),
    "channels apart": lambda: _network(8, Residual(8, 8), Split(8), Split(8), channels=8),
    "gated": lambda: _network(8, Gated(8), Squeezed(8), Residual(8, 8), channels=8),
    "scaled": lambda: _network(8, Scaled(8, 16), nn.MaxPool2d(2), Scaled(16, 16), nn.BatchNorm2d(16), channels=16),
    "compared": lambda: _network(8, Compared(8), Compared(8), channels=8),
    "reduced": lambda: _network(8, Reduced(8), Residual(8, 8), channels=8),
    "bases": lambda: _network(8, Bases(8), Residual(8, 8), channels=8),
    "listed": lambda: _network(8, Listed(8), channels=40),
    "inputs normalized": lambda: nn.Sequential(nn.BatchNorm2d(3), *_network(8, Residual(8, 8), channels=8)),  # type: ignore[misc]
    "bordered": lambda: _network(8, Residual(8, 8), Bordered(), Residual(8, 8), channels=8),
}


# ---------------------------------------------------------------- whole networks, as published but for their widths


def _stages(width: int, block: Callable[[int, int, int], nn.Module]) -> list[nn.Module]:
    """Those of a ResNet-18 whose every convolution has a shortcut: 4 of 4 each, the first of a stage halves its map."""
    sizes = [
        (width << max(stage - 1, 0) if not place else width << stage, width << stage)
        for stage in range(4)
        for place in range(4)
    ]
    return [block(channels, neurons, 1 + (channels < neurons)) for channels, neurons in sizes]


def bi_real_net_18(width: int = 8) -> nn.Module:
    """Bi-RealNet: float stem, BatchNorm, largest of 3x3; 16 binary convolutions; mean; float head."""
    stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width), nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(*stem, *_stages(width, Residual), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, 5))


def resnet_e_18(width: int = 8) -> nn.Module:
    """As bitorch has it: relu behind the stem's BatchNorm and before the mean, weights scaled per channel."""
    stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    ends = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, 5)
    return nn.Sequential(*stem, nn.BatchNorm2d(width), *_stages(width, Residual), *ends)


def reactnet_a(width: int = 8) -> nn.Module:
    """ReActNet-A: MobileNet's 13 blocks, of 32 to 1024 channels where `width` is 32."""
    sizes = [width, *(width << stage for stage in (1, 2, 2, 3, 3, 4, 4, 4, 4, 4, 4, 5, 5))]
    blocks = [
        React(channels, neurons, 2 if channels < neurons and place else 1)
        for place, (channels, neurons) in enumerate(itertools.pairwise(sizes))
    ]
    stem = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32 * width, 5))


#: They read maps of this size.
WHOLE_SAMPLE: Shape = (3, 32, 32)
WHOLE: dict[str, Callable[[], nn.Module]] = {
    "bi-real-net-18": bi_real_net_18,
    "resnet-e-18": resnet_e_18,
    "reactnet-a": reactnet_a,
}


def network(name: str, seed: int = 0) -> nn.Module:
    """One of `NETWORKS` or `WHOLE`, made; weights that are scaled by their mean are of one magnitude in each neuron."""
    net = made((NETWORKS | WHOLE)[name](), seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, ScaledConv):
                size = 2.0 ** -(1 + torch.arange(len(module.weight)) % 3)
                module.weight.copy_(ge(module.weight) * size.reshape(-1, 1, 1, 1))
    return net

"""Activations of 2 to 4 bits that are joined, split, padded, read in groups and added, in modules of PyTorch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.engine.plan import Plan
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput
from xnorinfer.proof.live import convert_torch

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional


def rounded(x: Any, bits: int, most: float = 1.0) -> Any:
    """DoReFa's activations; of another largest number those of PACT."""
    n = 2**bits - 1
    if most == 1:
        return torch.round(torch.clamp(x, 0, 1) * n) / n
    return torch.round(torch.clamp(x, 0, most) * (n / most)) * (most / n)


def signs(x: Any) -> Any:
    return torch.where(x >= 0, 1.0, -1.0)


class Binary(nn.Conv2d):  # type: ignore[misc,name-defined]
    """Signs of latents times their mean magnitude, as DoReFa has them."""

    def forward(self, x: Any) -> Any:
        weight = signs(self.weight) * self.weight.abs().mean()
        return functional.conv2d(x, weight, None, self.stride, self.padding, groups=self.groups)


#: What stands between the levels of a map and a layer, and how many channels it gives of 32.
BETWEEN: dict[str, tuple[Any, int]] = {
    "2 and 4 bits": (lambda y: torch.cat([rounded(y, 2), rounded(y, 4)], 1), 64),
    "signs and 2 bits": (lambda y: torch.cat([signs(y), rounded(y, 2)], 1), 64),
    "two of 2 bits": (lambda y: torch.cat([rounded(y, 2, 1.5), rounded(y - 0.3, 2, 1.5)], 1), 64),
    "padded with a level": (lambda y: functional.pad(rounded(y, 2), (1, 1, 1, 1), value=1.0), 32),
    "padded with 0": (lambda y: functional.pad(rounded(y, 3, 2.3), (1, 0, 2, 1)), 32),
    "half": (lambda y: torch.chunk(rounded(y, 2), 2, 1)[1], 16),
    "every other": (lambda y: rounded(y, 2)[:, ::2], 16),
    "turned around": (lambda y: -rounded(-y, 2), 32),
    "of another zero": (lambda y: torch.round(torch.clamp(y, 0, 1) * 3) * 2 - 3, 32),
    "with and without": (
        lambda y: torch.cat([torch.round(torch.clamp(y, 0, 3)) - 1, -torch.round(torch.clamp(y, 0, 3))], 1),
        64,
    ),
    "joined again": (lambda y: torch.cat([rounded(y, 2)[:, 16:], rounded(y, 2)[:, :16]], 1), 32),
}


class Between(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.between, channels = BETWEEN[kind]
        self.stem, self.bn1 = Binary(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        self.conv, self.bn2 = Binary(channels, 48, 3, bias=False), nn.BatchNorm2d(48)
        self.fc = nn.Linear(48, 7)

    def forward(self, x: Any) -> Any:
        y = self.conv(self.between(self.bn1(self.stem(x))))
        return self.fc(functional.adaptive_avg_pool2d(rounded(self.bn2(y), 2), 1).flatten(1))


class Residual(nn.Module):  # type: ignore[misc,name-defined]
    """A ResNet of binary weights, its shortcuts real numbers; `behind`: the levels stand behind the sums, which add levels."""

    def __init__(self, bits: int, most: float, behind: bool, grouped: bool) -> None:
        super().__init__()
        self.bits, self.most, self.behind = bits, most, behind
        self.stem, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        layers: list[Any] = []
        for read, given, stride in ((16, 16, 1), (16, 32, 2)):
            groups = read if grouped else 1
            convs = [Binary(read, given, 3, stride, 1, groups=groups, bias=False), Binary(given, given, 3, 1, 1, bias=False)]
            down = (
                nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(read, given, 1), nn.BatchNorm2d(given))
                if stride > 1
                else nn.Identity()
            )
            layers.append(nn.ModuleList([*convs, nn.BatchNorm2d(given), nn.BatchNorm2d(given), down]))
        self.blocks, self.fc = nn.ModuleList(layers), nn.Linear(32, 7)

    def levels(self, x: Any) -> Any:
        return rounded(x, self.bits, self.most)

    def forward(self, x: Any) -> Any:
        x = self.bn(self.stem(x))
        x = self.levels(x) if self.behind else x
        for conv1, conv2, bn1, bn2, down in self.blocks:
            y = bn2(conv2(self.levels(bn1(conv1(x if self.behind else self.levels(x)))))) + down(x)
            x = self.levels(y) if self.behind else y
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def trained(net: Any) -> Any:
    """With statistics of its own."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.2, 0.3)
            layer.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.rand(8, 3, 10, 10) * 2 - 1)
    return net.eval()


def packed(net: Any) -> Any:
    """Converted, and compared with the module's answers on the way; it equals the oracle."""
    x = np.random.default_rng(1).integers(0, 256, (20, 3, 10, 10), dtype=np.uint8)
    options = ConvertOptions(input=PixelInput.range(-1, 1), profile="ge-zero")
    conversion, _ = convert_torch(net, "Net", options, x)
    rows = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(20, -1)
    assert (Plan(conversion.packed).run(rows) == forward(conversion.reading.net, rows)).all()
    return conversion.packed


@pytest.mark.parametrize("kind", BETWEEN)
def test_levels_between_a_layer_and_the_next(kind: str) -> None:
    torch.manual_seed(1)
    found = packed(trained(Between(kind)))
    assert Counter(node.op.reads for node in found.nodes if hasattr(node.op, "reads"))["levels"] == 1


@pytest.mark.parametrize(("bits", "most"), [(2, 1.0), (2, 1.7), (3, 2.3), (4, 1.0)])
@pytest.mark.parametrize("behind", [False, True])
def test_residual_networks(bits: int, most: float, behind: bool) -> None:
    torch.manual_seed(2)
    found = packed(trained(Residual(bits, most, behind, grouped=bits == 3)))
    assert Counter(node.op.reads for node in found.nodes if hasattr(node.op, "reads"))["levels"] == 4

"""Published networks that branch, with random weights and statistics: as float networks, for images of any size.

Written after the papers and the code of their authors: QuickNet (Bannink et al. 2021), BinaryResNetE-18 and BinaryDenseNet-28
(Bethge et al. 2019), Bi-RealNet-18 (Liu et al. 2018), ReActNet-A (Liu et al. 2020).  Statistics are near what random weights
give, so that about half of all signs are +1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xnorinfer.graph import INPUT, Node
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Add, Concat, Flatten, Linear, Norm, NormForm, Op, Pool, PoolKind, Quantize, Steps
from xnorinfer.net.values import PixelInput
from xnorinfer.net.windows import Window

CLASSES = 1000
#: Height and width of the images that the papers speak of.
SIZE = 224
ONE = Window((1, 1))


class Layers:
    """A network node by node; every method gives the number of a value.

    form: the order of BatchNorm's operations, as Keras 2 has it of maps, or PyTorch.
    """

    def __init__(self, size: int, seed: int = 1, form: NormForm = "tf-fused") -> None:
        self.form = form
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node[Op]] = []
        self.shapes: dict[int, tuple[int, ...]] = {INPUT: (size, size, 3)}

    def add(self, op: Op, *reads: int, shape: tuple[int, ...] | None = None) -> int:
        """A node, of a shape of its own or that of what it reads."""
        at = len(self.nodes)
        self.nodes.append(Node(f"{type(op).__name__.lower()}{at}", op, reads))
        self.shapes[at] = shape or self.shapes[reads[0]]
        return at

    def channels(self, value: int) -> int:
        return self.shapes[value][-1]

    def window(self, value: int, size: int, stride: int = 1) -> Window:
        """A square one, of "same" padding."""
        height, width, _ = self.shapes[value]
        return Window((size, size), (stride, stride)).same(height, width)

    def _over(self, value: int, window: Window, channels: int) -> tuple[int, ...]:
        height, width, _ = self.shapes[value]
        return (*window.outputs(height, width), channels)

    def convolution(self, value: int, neurons: int, window: Window, groups: int = 1) -> int:
        """Of float weights."""
        channels = self.channels(value) // groups
        depth = window.taps * channels
        weight = self.rng.normal(0, depth**-0.5, (neurons, *window.size, channels)).astype(np.float32)
        return self.add(Linear(weight, window=window, groups=groups), value, shape=self._over(value, window, neurons))

    def binary(self, value: int, neurons: int, window: Window, *, pad: int = 0, scaled: bool = False) -> int:
        """A sign, and a convolution of it by signs, scaled where the network does so."""
        channels = self.channels(value)
        weight = self.rng.normal(0, 1, (neurons, *window.size, channels)).astype(np.float32)
        scale = np.abs(weight).mean(axis=(1, 2, 3)) if scaled else None
        signs = self.add(Quantize("ge"), value)
        op = Linear(weight, "ge", scale=scale, window=window, pad=pad)
        return self.add(op, signs, shape=self._over(value, window, neurons))

    def norm(self, value: int, spread: float = 1.0) -> int:
        """BatchNorm of numbers so far from 0, about."""
        count = self.channels(value)
        mean, gamma, beta = (self.rng.normal(at, by, count).astype(np.float32) for at, by in ((0, 0.3), (1, 0.2), (0, 0.3)))
        variance = np.exp(self.rng.normal(0, 0.3, count)) * spread**2
        mean, variance = mean * np.float32(spread), variance.astype(np.float32)
        return self.add(Norm(mean, variance, gamma=gamma, beta=beta, epsilon=1e-3, form=self.form), value)

    def unit(self, value: int, neurons: int, size: int, shortcut: int, stride: int = 1, **ways: Any) -> int:
        """sign -> convolution -> BatchNorm -> + shortcut."""
        window = self.window(value, size, stride)
        spread = (window.taps * self.channels(value)) ** 0.5
        return self.plus(self.norm(self.binary(value, neurons, window, **ways), spread), shortcut)

    def steps(self, value: int, *steps: tuple[Any, ...]) -> int:
        return self.add(Steps.of(*steps), value)

    def relu(self, value: int) -> int:
        return self.steps(value, ("relu",))

    def plus(self, value: int, other: int) -> int:
        return self.add(Add(), value, other)

    def join(self, *values: int) -> int:
        channels = sum(map(self.channels, values))
        return self.add(Concat(), *values, shape=(*self.shapes[values[0]][:-1], channels))

    def pool(self, kind: PoolKind, value: int, window: Window) -> int:
        return self.add(Pool(kind, window), value, shape=self._over(value, window, self.channels(value)))

    def halved(self, value: int) -> int:
        """Averages of 2x2."""
        return self.pool("average", value, self.window(value, 2, 2))

    def stem(self, channels: int) -> int:
        """7x7 of stride 2, BatchNorm."""
        return self.norm(self.convolution(INPUT, channels, self.window(INPUT, 7, 2)))

    def head(self, value: int) -> Net:
        """Global average and a dense layer."""
        pooled = self.pool("average", value, Window.whole(self.shapes[value]))
        flat = self.add(Flatten(), pooled, shape=(self.channels(value),))
        weight = self.rng.normal(0, self.channels(value) ** -0.5, (CLASSES, self.channels(value))).astype(np.float32)
        self.add(Linear(weight, bias=np.zeros(CLASSES, np.float32)), flat, shape=(CLASSES,))
        size = self.shapes[INPUT]
        return Net(PixelInput.range(-1, 1), (size[0], size[1], 3), tuple(self.nodes), "ge-zero")


def quicknet(size: int = SIZE) -> Net:
    """Padded with +1, relu before BatchNorm; between stages relu, max pool, a blur of each channel and a float 1x1."""
    made = Layers(size)
    value = made.relu(made.norm(made.convolution(INPUT, 16, made.window(INPUT, 3, 2))))
    value = made.norm(made.convolution(value, 16, made.window(value, 3, 2), groups=16))
    value = made.norm(made.convolution(value, 64, ONE))
    for channels in (64, 128, 256, 512):
        if channels > 64:
            value = made.pool("max", made.relu(value), Window((2, 2)))
            value = made.convolution(value, channels // 2, made.window(value, 3, 2), groups=channels // 2)
            value = made.norm(made.convolution(value, channels, ONE))
        for _ in range(4):
            sums = made.relu(made.binary(value, channels, made.window(value, 3), pad=1))
            value = made.plus(made.norm(sums, 3 * channels**0.5), value)
    return made.head(made.relu(value))


def _residual(made: Layers, value: int, **ways: Any) -> int:
    """Sixteen units; a shortcut to a wider stage is an average and a float 1x1."""
    for channels in (64, 128, 256, 512):
        for number in range(4):
            shortcut, down = value, channels > 64 and number == 0
            if down:
                shortcut = made.norm(made.convolution(made.halved(value), channels, ONE))
            value = made.unit(value, channels, 3, shortcut, 2 if down else 1, **ways)
    return value


def resnet_e18(size: int = SIZE) -> Net:
    """BinaryResNetE-18."""
    made = Layers(size)
    value = made.relu(made.stem(64))
    value = made.norm(made.pool("max", value, made.window(value, 3, 2)))
    return made.head(made.relu(_residual(made, value)))


def bi_real18(size: int = SIZE) -> Net:
    """Bi-RealNet-18: weights scaled by the mean of their magnitudes."""
    made = Layers(size)
    value = made.stem(64)
    return made.head(_residual(made, made.pool("max", value, made.window(value, 3, 2)), scaled=True))


def densenet28(size: int = SIZE) -> Net:
    """BinaryDenseNet-28: every unit's 64 channels are joined with all before."""
    made = Layers(size)
    value = made.relu(made.stem(64))
    value = made.pool("max", value, made.window(value, 3, 2))
    for units, reduction in ((6, 2.7), (6, 2.7), (6, 2.2), (5, 0.0)):
        for _ in range(units):
            value = made.join(value, made.binary(made.norm(value), 64, made.window(value, 3)))
        if reduction:
            value = made.relu(made.pool("max", made.norm(value, 8.0), Window((2, 2), (2, 2))))
            value = made.convolution(value, round(made.channels(value) // reduction / 32) * 32, ONE)
    return made.head(made.relu(made.norm(value, 8.0)))


def reactnet_a(size: int = SIZE) -> Net:
    """ReActNet-A: MobileNet's layers as pairs of 3x3 and 1x1, shifted before signs and around PReLU; twice the channels are two
    1x1 side by side."""
    made = Layers(size, form="torch")
    value = made.norm(made.convolution(INPUT, 32, made.window(INPUT, 3, 2)))

    def numbers(value: int, by: float) -> Any:
        return made.rng.normal(0, by, made.channels(value)).astype(np.float32)

    def unit(value: int, size: int, stride: int, shortcut: int) -> int:
        moved = made.steps(value, ("add", numbers(value, 0.2)))
        summed = made.unit(moved, made.channels(value), size, shortcut, stride, scaled=True)
        slopes = np.abs(numbers(summed, 0.3))
        return made.steps(summed, ("add", numbers(summed, 0.2)), ("prelu", slopes), ("add", numbers(summed, 0.2)))

    for channels, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)):
        value = unit(value, 3, stride, made.halved(value) if stride == 2 else value)
        parts = [unit(value, 1, 1, value) for _ in range(channels // made.channels(value))]
        value = made.join(*parts) if len(parts) > 1 else parts[0]
    return made.head(value)


NETWORKS: dict[str, Callable[[int], Net]] = {
    "QuickNet": quicknet,
    "BinaryResNetE-18": resnet_e18,
    "Bi-RealNet-18": bi_real18,
    "BinaryDenseNet-28": densenet28,
    "ReActNet-A": reactnet_a,
}


def binary_share(net: Net) -> float:
    """Of all multiplications, those of signs by signs."""
    counts = {True: 0, False: 0}
    for node, value in zip(net.nodes, net.values, strict=True):
        if isinstance(node.op, Linear):
            counts[node.op.binary] += node.op.depth * math.prod(value.shape)
    return counts[True] / sum(counts.values())

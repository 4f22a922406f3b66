"""Random networks with activations of several levels: chains and branches, over vectors and maps, of every kind of input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from xnorinfer.net import (
    Add,
    ChannelInput,
    Channels,
    Concat,
    Flatten,
    Levels,
    Linear,
    Net,
    Node,
    Norm,
    Pad,
    PixelInput,
    Pool,
    Quantize,
    RealInput,
    SignInput,
    Steps,
    ThresholdInput,
    Window,
)
from xnorinfer.net.values import InputMapping, LevelValues, Shape, numbers_of

f = np.float32
RULES: Any = ("ge", "gt", "round-even", "round-away")


class _Builder:
    def __init__(self, seed: int, grouped: bool) -> None:
        self.grouped = grouped
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node[Any]] = []
        self.input: InputMapping = PixelInput(1, 0, 1)
        self.shape: Shape = ()

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def choice(self, *of: Any) -> Any:
        return of[int(self.rng.integers(len(of)))]

    def add(self, op: Any, *reads: int) -> int:
        self.nodes.append(Node(f"{type(op).__name__.lower()}{len(self.nodes)}", op, reads or (len(self.nodes) - 1,)))
        return len(self.nodes) - 1

    @property
    def net(self) -> Net:
        return Net(self.input, self.shape, tuple(self.nodes), "ge-zero")

    def domain(self) -> Any:
        return self.net.values[-1].domain

    @property
    def channels(self) -> int:
        """Of what the next op reads."""
        shape = self.net.values[-1].shape if self.nodes else self.shape
        return int(shape[-1])

    def spread(self) -> float:
        """About how large sums of the last layer are."""
        op = self.nodes[-1].op
        return float(np.sqrt(op.depth)) * self.scale

    def normals(self, *shape: int) -> Any:
        return self.rng.normal(size=shape).astype(f)

    # ---------------------------------------------------------------- parts

    def enter(self, maps: bool) -> None:
        rng = self.rng
        self.shape = (int(rng.integers(1, 9)), int(rng.integers(1, 9)), self.choice(1, 2, 3)) if maps else ()
        kind = rng.integers(6)
        if not maps:
            self.shape = (self.choice(1, 7, 64, 100, 130),)
        pixels = [PixelInput.range(-1, 1), PixelInput(1, 0, 1), PixelInput.normalize(0.4, -0.3 + 0.6)]
        self.input = [*pixels, RealInput(), SignInput(), ThresholdInput(100)][kind]
        if maps and kind == 2 and self.shape[2] > 1:
            channels = [PixelInput.normalize(0.1 * index, 0.5) for index in range(self.shape[2])]
            self.input = ChannelInput(tuple(channels))
        self.scale = 1.0
        numbers = isinstance(self.input, PixelInput | ChannelInput | RealInput)
        if numbers and self.chance(0.4):
            if self.chance(0.5):
                self.add(Steps.of(("mul", rng.uniform(0.5, 3)), ("add", rng.normal())))
            else:
                self.add(Steps.of(("mul", self.normals(self.shape[-1]))))
            self.quantize()

    def quantize(self) -> None:
        if self.chance(0.2):
            self.add(Quantize(self.choice(*RULES)))
            return
        top = self.choice(2, 3, 3, 3, 5, 7, 12, 15)
        low = -int(self.rng.integers(0, top + 1))
        zero = int(self.rng.integers(low, low + top + 1))
        step, divisor = self.choice((1.0, 1.0), (0.3, 1.0), (1.0, float(top)), (0.1, 3.0))
        thresholds = None
        if self.grouped and self.chance(0.3):
            thresholds = np.sort(self.normals(top, self.choice(1, self.channels)) * f(2), axis=0)
        self.add(Levels(low, low + top, zero, step, divisor, thresholds))

    def linear(self, neurons: int) -> None:
        value = self.net.values[-1] if self.nodes else None
        shape = self.shape if value is None else value.shape
        rng = self.rng
        levels = value is not None and isinstance(value.domain, LevelValues)
        raw = value is None and isinstance(self.input, SignInput | ThresholdInput)
        signs = raw or (value is not None and isinstance(value.domain, SignInput))
        rest: dict[str, Any] = {"h": self.choice(1.0, 1.0, 0.7)}
        if self.chance(0.3):
            rest["scale"] = rng.uniform(0.1, 2, neurons).astype(f)
        if self.chance(0.3):
            rest["bias"] = self.normals(neurons)
        self.scale = 150.0 if value is None and isinstance(self.input, PixelInput) and self.input.divisor == 1 else 1.0
        if levels:
            assert value is not None
            self.scale = value.domain.step / value.domain.divisor * value.domain.top
        if len(shape) == 1:
            self.add(Linear(self.normals(neurons, shape[0]), self.choice(*RULES), **rest))
            return
        size = tuple(int(rng.integers(1, min(3, side) + 1)) for side in shape[:2])
        stride = tuple(int(rng.integers(1, 3)) for _ in range(2))
        reach = [one - 1 for one in size]
        padding = tuple(int(rng.integers(0, most + 1)) for most in (reach[0], reach[0], reach[1], reach[1]))
        pad = self.choice(0, 0, 1, -1) if signs else 0
        groups = 1
        if self.grouped and self.chance(0.6):
            groups = self.choice(*(one for one in range(1, shape[2] + 1) if shape[2] % one == 0 and neurons % one == 0))
        weights, window = self.normals(neurons, *size, shape[2] // groups), Window(size, stride, padding=padding)
        self.add(Linear(weights, self.choice(*RULES), **rest, window=window, groups=groups, pad=pad))

    def between(self, neurons: int) -> None:
        """What stands between sums and levels."""
        rng, spread = self.rng, self.spread()
        if self.chance(0.25):
            self.pool()
        if self.chance(0.3):
            self.add(Steps.of(self.choice(("prelu", rng.uniform(0, 0.5, neurons)), ("relu",), ("clip", -spread, spread))))
        gamma = self.normals(neurons) * self.choice(0.5, 1, 3)
        gamma[rng.random(neurons) < 0.1] = 0
        self.add(
            Norm(
                (self.normals(neurons) * spread * 0.3).astype(f),
                np.full(neurons, spread**2, f),
                gamma=gamma.astype(f),
                beta=self.normals(neurons),
                epsilon=1e-4,
                form=self.choice("tf", "torch", "tf-fused"),
            )
        )
        if self.chance(0.3):
            self.add(Steps.of(self.choice(("tanh",), ("relu",), ("prelu", rng.uniform(0, 0.5, neurons)), ("div", 0.37))))
        if self.chance(0.2):
            self.pool()

    def pool(self) -> None:
        shape = self.net.values[-1].shape
        if len(shape) == 3 and min(shape[:2]) > 1:
            self.add(
                Pool("max", Window((2, 2), stride=self.choice((2, 2), (1, 1)), padding=self.choice((0,) * 4, (1, 0, 0, 1))))
            )

    def move(self, real: int) -> None:
        """Levels that are joined with others of the same numbers `real`, put elsewhere or padded, and still are levels."""
        rng, value, count = self.rng, self.net.values[-1], len(self.nodes)
        domain, channels = value.domain, value.shape[-1]
        numbers = numbers_of(domain)
        assert numbers is not None
        kinds = ["channels"] + ["pad"] * (len(value.shape) == 3)
        kind = self.choice(*kinds, *["join"] * (self.net.values[real].shape[:-1] == value.shape[:-1]))
        if kind == "channels":
            order = rng.integers(-1 if self.chance(0.3) else 0, channels, self.choice(1, channels, channels + 3))
            self.add(Channels(tuple(order.tolist())))
        elif kind == "pad":
            around = tuple(int(rng.integers(-1 if side > 1 else 0, 3)) for side in np.repeat(value.shape[:2], 2) // 2)
            beside = (numbers[0] - (numbers[1] - numbers[0])).item()
            self.add(Pad(around, self.choice(0.0, beside, numbers[0].item(), numbers[-1].item())))
        else:
            quantized = count - 1
            if isinstance(domain, LevelValues) and self.chance(0.7):
                finer = self.choice(1, 1, 1, 2, 5)
                top = int(rng.integers(2, max(3, 16 // finer)))
                low = domain.low * finer + int(rng.integers(-1, 2))
                self.add(Levels(low, low + top, domain.zero * finer, domain.step, domain.divisor * finer), real)
            else:
                self.add(Quantize(self.choice(*RULES)), real)
            self.add(Concat(), *self.choice((quantized, count), (count, quantized), (quantized, count, quantized)))
        if not isinstance(self.domain(), LevelValues | SignInput):
            del self.nodes[count:]


def random_net(seed: int, moved: bool = False) -> Net:
    """A network of a few layers, most of which end in levels.  moved: that are joined, put elsewhere or padded, and read in
    groups of channels."""
    b = _Builder(seed, grouped=moved)
    b.enter(b.chance(0.6))
    for _ in range(int(b.rng.integers(1, 4))):
        neurons = b.choice(1, 5, 32, 64, 70, 128)
        read = len(b.nodes) - 1
        b.linear(neurons)
        b.between(neurons)
        before = len(b.nodes) - 1
        same = read >= 0 and b.net.values[read].shape == b.net.values[before].shape
        if same and b.chance(0.5):
            b.add(Add(), before, read)
        real = len(b.nodes) - 1
        b.quantize()
        for _ in range(b.choice(1, 2) if moved else 0):
            b.move(real)
        if b.chance(0.2):
            b.pool()
    after = len(b.nodes) - 1
    if len(b.net.values[-1].shape) == 3:
        if b.chance(0.3):
            b.add(Pool("average"))
        if b.chance(0.7):
            b.add(Flatten())
    elif b.chance(0.2):
        b.add(Concat(), after, after)
    value = b.net.values[-1]
    real = not isinstance(value.domain, LevelValues | SignInput)
    weights = b.normals(4, *((1, 1, value.shape[2]) if len(value.shape) == 3 else value.shape))
    window = Window((1, 1)) if len(value.shape) == 3 else None
    b.add(Linear(weights, None if real or b.chance(0.3) else "ge", window=window))
    if b.chance(0.3):
        b.add(Norm(b.normals(4), np.ones(4, f), epsilon=1e-3))
    return b.net


def overflowing(net: Net, seed: int) -> Net:
    """The same network of real inputs, where it can have such, with scales of 0, subnormal and near the largest number."""
    rng = np.random.default_rng(seed)
    odd = np.array([0, -0.0, 1e-45, -1e-40, 1e-38, -1.0, 1e30, 1e38, -3e38], f)

    def spoiled(numbers: Any) -> Any:
        return np.where(rng.random(numbers.shape) < 0.3, rng.choice(odd, numbers.shape), numbers).astype(f)

    def change(op: Any) -> Any:
        if rng.random() < 0.5:
            return op
        if isinstance(op, Norm):
            return replace(op, gamma=spoiled(np.ones_like(op.mean) if op.gamma is None else op.gamma))
        if isinstance(op, Linear):
            return replace(op, scale=spoiled(np.ones(op.neurons, f))) if op.binary else replace(op, weight=spoiled(op.weight))
        if isinstance(op, Steps):
            slope, factor = rng.choice([0, 0.5, 1e-40]), rng.choice([0, -1, 1e38, 1e-38])
            return Steps((*op.steps, *Steps.of(("mul", factor), ("prelu", slope)).steps))
        return op

    real = replace(net, input=RealInput())
    return (net if real.check() else real).mapped(change)

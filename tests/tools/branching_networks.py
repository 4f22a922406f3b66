"""Random float networks that branch and join again, and small ones of the kinds that people publish."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from conv_networks import RULES
from networks import random_batch_norm, random_latents, spoil, vector

from xnorinfer.graph import INPUT, Node
from xnorinfer.net.network import Net
from xnorinfer.net.ops import (
    Add,
    Channels,
    Concat,
    Flatten,
    Linear,
    Multiply,
    Norm,
    NormForm,
    Op,
    Pad,
    Pool,
    PoolKind,
    Quantize,
    Steps,
)
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput
from xnorinfer.net.windows import Window

ONE, THREE, PADDED = Window((1, 1)), Window((3, 3)), Window((3, 3), padding=(1, 1, 1, 1))


class Graph:
    """A network node by node: every method gives the number of a value, `shapes` and `signs` say what it is."""

    def __init__(self, seed: int, mapping: InputMapping, shape: tuple[int, int, int], *, awkward: bool = True) -> None:
        self.rng, self.mapping, self.entry = np.random.default_rng(seed), mapping, shape
        self.rule: Rule = RULES[self.rng.integers(len(RULES))]
        self.form: NormForm = ("tf", "torch", "tf-fused")[self.rng.integers(3)]
        self.awkward, self.falling = awkward, True
        self.nodes: list[Node[Op]] = []
        self.shapes: dict[int, tuple[int, ...]] = {INPUT: shape}
        self.signs = {INPUT: not isinstance(mapping, PixelInput | ChannelInput | RealInput)}

    def net(self) -> Net:
        return Net(self.mapping, self.entry, tuple(self.nodes), "ge-zero")

    def add(self, op: Op, *reads: int, shape: tuple[int, ...] | None = None, signs: bool = False) -> int:
        at = len(self.nodes)
        self.nodes.append(Node(f"{type(op).__name__.lower()}{at}", op, reads))
        self.shapes[at], self.signs[at] = shape or self.shapes[reads[0]], signs
        return at

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def sign(self, read: int) -> int:
        return self.add(Quantize(self.rule), read, signs=True)

    def norm(self, read: int, spread: float = 1.0) -> int:
        made = random_batch_norm(self.rng, self.shapes[read][-1], spread, self.form, awkward=False)
        if self.awkward and made.gamma is not None:  # no huge ones: values are added and used as they are
            made = replace(made, gamma=spoil(self.rng, made.gamma, [0.0, -0.0, 1e-30, 3e-7, -1e-6, -1.0]))
        return self.add(made, read)

    def spread(self, read: int) -> float:
        """About how large the sums of a layer are."""
        op = self.nodes[read].op
        return op.depth**0.5 if isinstance(op, Linear) else 1.0

    def steps(self, read: int, *steps: tuple[Any, ...]) -> int:
        return self.add(Steps.of(*steps), read)

    def numbers(self, read: int, scale: float = 1.0) -> np.ndarray[Any, Any]:
        return vector(self.rng, self.shapes[read][-1], scale)

    def join(self, *reads: int) -> int:
        shape = (*self.shapes[reads[0]][:-1], sum(self.shapes[read][-1] for read in reads))
        return self.add(Concat(), *reads, shape=shape, signs=all(self.signs[read] for read in reads))

    def plus(self, read: int, other: int) -> int:
        return self.add(Add(), read, other)

    def times(self, read: int, other: int) -> int:
        return self.add(Multiply(), read, other)

    def gate(self, read: int, of: int, reduced: int = 3) -> int:
        """What squeezes a value and multiplies another of as many channels, channel by channel."""
        means = self.pool("average", of, None)
        means = self.add(Flatten(), means, shape=self.shapes[means][-1:])
        less = self.steps(self.layer(means, reduced, None, binary=False), ("relu",))
        return self.times(read, self.steps(self.layer(less, self.shapes[read][-1], None, binary=False), ("sigmoid",)))

    def channels(self, read: int, order: tuple[int, ...]) -> int:
        shape = (*self.shapes[read][:-1], len(order))
        return self.add(Channels(order), read, shape=shape, signs=self.signs[read] and -1 not in order)

    def pad(self, read: int, padding: tuple[int, int, int, int], value: float = 0.0) -> int:
        height, width, channels = self.shapes[read]
        shape = height + padding[0] + padding[1], width + padding[2] + padding[3], channels
        return self.add(Pad(padding, value), read, shape=shape, signs=self.signs[read] and value in (-1, 1))

    def pool(self, kind: PoolKind, read: int, window: Window | None) -> int:
        height, width, channels = self.shapes[read]
        shape = (*(window or Window.whole(self.shapes[read])).outputs(height, width), channels)
        padded = kind == "average" and self.chance(0.5)
        return self.add(Pool(kind, window, padded), read, shape=shape, signs=self.signs[read] and kind == "max")

    def layer(
        self,
        read: int,
        neurons: int,
        window: Window | None = ONE,
        *,
        binary: bool = True,
        groups: int = 1,
        pad: int = 0,
        scaled: bool = False,
    ) -> int:
        shape = self.shapes[read]
        size = () if window is None else window.size
        channels = (math.prod(shape) if window is None else shape[-1]) // groups
        depth = math.prod(size) * channels
        gives = (neurons,) if window is None else (*window.outputs(*shape[:2]), neurons)
        if binary:
            weight = random_latents(self.rng, neurons, depth, zeros=True)
            scale = np.abs(vector(self.rng, neurons)) + np.float32(0.1) if scaled else None
            op = Linear(weight.reshape(neurons, *size, channels), self.rule, 1.0, None, scale, window, groups, pad)
        else:
            weight = vector(self.rng, neurons * depth, depth**-0.5)
            bias = vector(self.rng, neurons, 0.1) if self.chance(0.5) else None
            op = Linear(weight.reshape(neurons, *size, channels), bias=bias, window=window, groups=groups)
        return self.add(op, read, shape=gives)

    def stem(self, neurons: int) -> int:
        """A float convolution, or, of inputs that are signs, a binary one; with BatchNorm."""
        made = self.layer(INPUT, neurons, PADDED, binary=self.signs[INPUT])
        return self.norm(made, self.spread(made))

    def head(self, read: int, classes: int = 4) -> Net:
        """Relu, global average and a dense float layer."""
        made = self.pool("average", self.steps(read, ("relu",)), None)
        made = self.add(Flatten(), made, shape=(self.shapes[made][-1],))
        self.layer(made, classes, None, binary=False)
        return self.net()


# ---------------------------------------------------------------- published kinds


def quicknet(seed: int, mapping: InputMapping, shape: tuple[int, int, int] = (8, 8, 3), width: int = 32) -> Net:
    """sign -> conv padded with +1 -> relu -> BatchNorm -> + x; transitions: relu, max pool, blur, float 1x1, BatchNorm."""
    made = Graph(seed, mapping, shape, awkward=False)
    value = made.stem(width)
    for stage in range(2):
        if stage:
            value = made.steps(value, ("relu",))
            value = made.pool("max", value, Window((3, 3), padding=(1, 1, 1, 1)))
            channels = made.shapes[value][-1]
            value = made.layer(value, channels, Window((3, 3), (2, 2)), binary=False, groups=channels)
            value = made.norm(made.layer(value, 2 * width, binary=False))
        for _ in range(2):
            sums = made.layer(made.sign(value), made.shapes[value][-1], PADDED, pad=1)
            value = made.plus(made.norm(made.steps(sums, ("relu",)), made.spread(sums)), value)
    return made.head(value)


def bi_real(seed: int, mapping: InputMapping, shape: tuple[int, int, int] = (8, 8, 3), width: int = 32) -> Net:
    """sign -> conv x scale -> BatchNorm -> + shortcut, which a wider stage takes by an average and a float 1x1."""
    made = Graph(seed, mapping, shape, awkward=False)
    value = made.stem(width)
    for stage in range(2):
        for block in range(2):
            down = stage == 1 and block == 0
            shortcut, neurons = value, width << stage
            window = Window((3, 3), (2, 2) if down else (1, 1)).same(*made.shapes[value][:2])
            if down:
                shortcut = made.pool("average", value, Window((2, 2), (2, 2)).same(*made.shapes[value][:2]))
                shortcut = made.norm(made.layer(shortcut, neurons, binary=False))
            sums = made.layer(made.sign(value), neurons, window, scaled=True)
            value = made.plus(made.norm(sums, made.spread(sums)), shortcut)
    return made.head(value)


def dense_net(seed: int, mapping: InputMapping, shape: tuple[int, int, int] = (8, 8, 3), growth: int = 24) -> Net:
    """BatchNorm -> sign -> conv -> concat; transitions: BatchNorm, max pool, relu, float 1x1."""
    made = Graph(seed, mapping, shape, awkward=False)
    value = made.stem(2 * growth)
    for stage in range(2):
        if stage:
            value = made.steps(made.pool("max", made.norm(value), Window((2, 2), (2, 2))), ("relu",))
            value = made.layer(value, made.shapes[value][-1] // 2, binary=False)
        for _ in range(3):
            sums = made.layer(made.sign(made.norm(value)), growth, PADDED)
            value = made.join(value, sums)
    return made.head(made.norm(value, growth**0.5))


def reactnet(seed: int, mapping: InputMapping, shape: tuple[int, int, int] = (8, 8, 3), width: int = 32) -> Net:
    """bias -> sign -> conv x scale -> BatchNorm -> + -> bias -> PReLU -> bias; a wider 1x1 is two, side by side."""
    made = Graph(seed, mapping, shape, awkward=False)
    value = made.stem(width)

    def shifted(read: int) -> int:
        return made.steps(
            read, ("add", made.numbers(read, 0.3)), ("prelu", made.numbers(read)), ("add", made.numbers(read, 0.3))
        )

    def unit(read: int, window: Window, shortcut: int) -> int:
        signs = made.sign(made.steps(read, ("add", made.numbers(read, 0.3))))
        sums = made.layer(signs, made.shapes[read][-1], window, scaled=True)
        return shifted(made.plus(made.norm(sums, made.spread(sums)), shortcut))

    for stage in range(3):
        wider, down = stage > 0, stage == 2
        window = Window((3, 3), (2, 2) if down else (1, 1)).same(*made.shapes[value][:2])
        shortcut = made.pool("average", value, Window((2, 2), (2, 2)).same(*made.shapes[value][:2])) if down else value
        value = unit(value, window, shortcut)
        parts = [unit(value, ONE, value) for _ in range(2 if wider else 1)]
        value = made.join(*parts) if wider else parts[0]
    return made.head(value)


def real_to_binary(seed: int, mapping: InputMapping, shape: tuple[int, int, int] = (8, 8, 3), width: int = 32) -> Net:
    """BatchNorm -> sign -> conv x gate of the BatchNorm's means -> PReLU -> + shortcut."""
    made = Graph(seed, mapping, shape, awkward=False)
    value = made.stem(width)
    for stage in range(2):
        shortcut, window = value, Window((3, 3), (1 + stage, 1 + stage)).same(*made.shapes[value][:2])
        if stage:
            shortcut = made.pool("average", value, Window((2, 2), (2, 2)).same(*made.shapes[value][:2]))
            shortcut = made.norm(made.layer(shortcut, 2 * width, binary=False))
        read = made.norm(value)
        sums = made.gate(made.layer(made.sign(read), width << stage, window), read)
        value = made.plus(made.steps(sums, ("prelu", made.numbers(sums))), shortcut)
    return made.head(value)


def shuffled(seed: int, mapping: InputMapping, shape: tuple[int, int, int] = (8, 8, 3), width: int = 32) -> Net:
    """Half of the channels -> sign -> conv in groups -> BatchNorm, beside the other half, shuffled; MeliusNet's improvement of
    the last channels; a shortcut that every second pixel and channels of zeros make (option A)."""
    width += width % 2
    made = Graph(seed, mapping, shape, awkward=False)
    value = made.stem(width)
    half = tuple(range(width // 2)), tuple(range(width // 2, width))
    for _ in range(2):
        left, right = (made.channels(value, part) for part in half)
        sums = made.layer(made.sign(right), width // 2, PADDED, groups=2)
        both = made.join(left, made.norm(sums, made.spread(sums)))
        value = made.channels(both, tuple(np.arange(width).reshape(2, -1).T.reshape(-1).tolist()))
        sums = made.layer(made.sign(value), width // 2, PADDED)
        value = made.join(left, made.plus(made.channels(value, half[1]), made.norm(sums, made.spread(sums))))
    every_second = made.pool("max", value, Window((1, 1), (2, 2)))
    shortcut = made.channels(every_second, (-1,) * (width // 2) + tuple(range(width)) + (-1,) * (width // 2))
    sums = made.layer(made.pad(made.sign(value), (1, 0, 1, 0), 1.0), 2 * width, Window((2, 2), (2, 2)))
    value = made.plus(made.norm(sums, made.spread(sums)), shortcut)
    return made.head(made.pad(value, (0, -1, 1, -1), 0.5))


PUBLISHED: dict[str, Callable[..., Net]] = {
    "quicknet": quicknet,
    "bi-real": bi_real,
    "densenet": dense_net,
    "reactnet": reactnet,
    "real-to-binary": real_to_binary,
    "shuffled": shuffled,
}


# ---------------------------------------------------------------- anything


def random_branching_network(
    seed: int, mapping: InputMapping, *, joins: int = 6, awkward: bool = True, falling: bool = True, moves: bool = False
) -> Net:
    """Layers, pools, steps and joins over values chosen at random, each read by any number of nodes; all lead to the scores.
    moves: with products, channels and borders that are taken and put."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(2, 8)), int(rng.integers(2, 8)), 3)
    made = Graph(seed, mapping, shape, awkward=awkward)
    made.falling = falling
    values = [made.stem(int(rng.choice([3, 20, 64, 70])))]
    for _ in range(joins):
        read = int(values[rng.integers(len(values))] if made.chance(0.5) else values[-1])
        values.extend(_moved(made, read, values) if moves and made.chance(0.5) else _grown(made, read, values))
    used = {read for node in made.nodes for read in node.inputs}
    ends = [value for value in values if value not in used] or [values[-1]]
    flat = []
    for value in ends:
        value = made.pool("max" if made.signs[value] or made.chance(0.5) else "average", value, None)
        flat.append(made.add(Flatten(), value, shape=(math.prod(made.shapes[value]),), signs=made.signs[value]))
    last = made.join(*flat) if len(flat) > 1 else flat[0]
    if made.chance(0.5) or not any(isinstance(node.op, Linear) and node.op.binary for node in made.nodes):
        if not made.signs[last]:
            last = made.sign(last)
        last = made.layer(last, 9, None)
        last = made.plus(made.norm(last, 3.0), last)
    if made.signs[last]:
        made.layer(last, 4, None)
    else:
        made.layer(made.norm(last), 4, None, binary=False)
    return made.net()


def _moved(made: Graph, read: int, values: list[int]) -> list[int]:
    rng, way, shape = made.rng, int(made.rng.integers(4)), made.shapes[read]
    if way == 0:
        other = int(rng.choice([value for value in values if made.shapes[value][-1] == shape[-1]]))
        if made.shapes[other] != shape:
            other = made.pool("max", other, None)
        if made.shapes[other] != shape and made.chance(0.5):
            other = made.add(Flatten(), other, shape=shape[-1:], signs=made.signs[other])
        return [made.times(read, other)]
    if way == 1 and max(shape[:2]) < 12:
        top, left = (int(rng.integers(-1 if size > 2 else 0, 3)) for size in shape[:2])
        bottom, right = (int(rng.integers(-1 if size > 2 else 0, 2)) for size in shape[:2])
        return [made.pad(read, (top, bottom, left, right), float(rng.choice([0.0, 1.0, -1.0, 0.25])))]
    if way == 2:  # of a vector, whose pixels need not fill words
        flat = made.add(Flatten(), read, shape=(math.prod(shape),), signs=made.signs[read])
        order = rng.permutation(math.prod(shape))[: int(rng.integers(1, 90))]
        taken = made.channels(flat, tuple(order.tolist()))
        taken = taken if made.signs[taken] else made.sign(taken)
        back = made.layer(taken, shape[-1], None)
        return [made.times(read, made.norm(back, made.spread(back)))]
    zeros = -1 if made.chance(0.3) else 0
    order = rng.integers(zeros, shape[-1], int(rng.integers(1, min(2 * shape[-1], 80))))
    return [made.channels(read, tuple(order.tolist()))]


def _grown(made: Graph, read: int, values: list[int]) -> list[int]:
    """One more value, or several."""
    rng, way = made.rng, int(made.rng.integers(8))
    channels = made.shapes[read][-1]
    alike = [v for v in values if made.shapes[v] == made.shapes[read]]
    beside = [v for v in values if made.shapes[v][:2] == made.shapes[read][:2]]
    if way <= 2:  # a binary unit, with its shortcut or without
        bits = read if made.signs[read] else made.sign(read)
        neurons = channels if made.chance(0.6) else int(rng.choice([2, 33, 64]))
        window = PADDED if made.chance(0.6) else ONE
        sums = made.layer(bits, neurons, window, pad=int(rng.integers(-1, 2)), scaled=made.chance(0.3))
        value = made.steps(sums, ("relu",)) if made.chance(0.3) else sums
        value = made.norm(value, made.spread(sums))
        if made.shapes[value] == made.shapes[read] and made.chance(0.8):
            value = made.plus(value, read) if made.chance(0.5) else made.plus(read, value)
        return [value, *([bits] if made.chance(0.3) else [])]
    if way == 3:
        return [made.plus(read, int(alike[rng.integers(len(alike))]))]
    if way == 4:
        count = int(rng.integers(1, 3))
        return [made.join(read, *(int(beside[rng.integers(len(beside))]) for _ in range(count)))]
    if way == 5 and not made.signs[read]:
        slopes = made.numbers(read) if made.falling else np.abs(made.numbers(read))
        steps = [(("prelu", slopes),), (("add", slopes), ("prelu", np.float32(0.25)), ("sub", slopes)), (("relu",),)]
        return [made.steps(read, *steps[rng.integers(3)])]
    if way == 6 and min(made.shapes[read][:2]) > 1:
        window = Window((2, 2), (2, 2) if made.chance(0.5) else (1, 1))
        kind: PoolKind = "max" if made.signs[read] or made.chance(0.5) else "average"
        return [made.pool(kind, read, window)]
    if made.signs[read]:
        return [made.sign(made.norm(made.layer(read, channels, ONE), channels**0.5))]
    if made.chance(0.3):
        return [made.sign(read)]
    return [made.norm(made.layer(read, int(rng.choice([3, 40])), binary=False))]


def norms_as_steps(net: Net) -> Net:
    """The same network but for BatchNorm, which becomes a product and a sum that every framework rounds alike."""

    def plain(op: Op) -> Op:
        if not isinstance(op, Norm):
            return op
        rng = np.random.default_rng(op.mean.size)
        return Steps.of(("mul", vector(rng, op.mean.size)), ("add", op.mean))

    return net.mapped(plain)

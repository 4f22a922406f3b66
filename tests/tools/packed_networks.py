"""Random packed networks: chains of dense layers, and networks of maps; `packed_oracle` says what they mean."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from packed_oracle import border_classes, expected, from_words, sums_in_order, taps_of, to_words

from xnorinfer.graph import Node
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput, ThresholdInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.packed import (
    Affine,
    Binarize,
    Dot,
    Elementwise,
    Mapped,
    PackedModel,
    PackedOp,
    Pool,
    Threshold,
    Value,
)
from xnorinfer.packing.packedops import value_of

__all__ = ["expected", "from_words", "sums_in_order", "to_words"]


def network(mapping: InputMapping, layers: Iterable[tuple[str, Any]], **parts: Any) -> PackedModel:
    """A chain of named ops, behind the one that a threshold of the input is."""
    named: list[tuple[str, PackedOp]] = list(layers)
    if isinstance(mapping, ThresholdInput):
        named.insert(0, ("input", Binarize.at_pixel(mapping.threshold, named[0][1].depth)))
    return PackedModel.chain(mapping, named, "ge-zero", **parts)


def with_layer(model: PackedModel, index: int, op: Any = None, name: str | None = None, **parts: Any) -> PackedModel:
    """The same network with another op or name of a layer, or other parts of its op."""
    nodes, at = list(model.nodes), model.nodes.index(model.layers[index])
    op = replace(nodes[at].op, **parts) if op is None else op
    nodes[at] = replace(nodes[at], op=op, name=nodes[at].name if name is None else name)
    return replace(model, nodes=tuple(nodes))


def random_affine(rng: np.random.Generator, neurons: int) -> Affine:
    """All four steps with numbers of mixed size."""
    values = rng.standard_normal((4, 2, neurons)) * 10.0 ** rng.integers(-3, 3, (4, 2, neurons))
    values[3] = np.sort(values[3], axis=0)
    return Affine(("mul", "fma", "add", "clip"), values.astype(np.float32))


def random_model(rng: np.random.Generator, mapping: InputMapping, widths: Sequence[int], floats: int = 0) -> PackedModel:
    """Binary layers widths[0] -> widths[1] -> ..., the last `floats` of them float layers; limits inside and at the ends."""
    layers: list[tuple[str, Dot]] = []
    binary = len(widths) - 1 - floats
    for index, (depth, neurons) in enumerate(itertools.pairwise(widths)):
        if index >= binary:
            weight = rng.standard_normal((neurons, depth)).astype(np.float32)
            layers.append((f"float{index}", Dot("reals", depth, weight, random_affine(rng, neurons))))
            continue
        reads: Any = "bits"
        if index == 0 and isinstance(mapping, PixelInput):
            reads = "pixels"
        elif index == 0 and isinstance(mapping, RealInput):
            reads = "reals"
        output: Threshold | Affine
        if index == binary - 1:
            output = random_affine(rng, neurons)
        elif reads == "reals":
            output = Threshold((rng.standard_normal(neurons) * depth**0.5).astype(np.float32))
        elif reads == "pixels":
            spread = int(255 * depth**0.5) + 1
            output = Threshold(rng.integers(-spread, spread, neurons).astype(np.int32))
            output.limits[::7] = rng.choice(np.array([-255 * depth - 1, 255 * depth, 2**31 - 1, -(2**31)]))
        else:
            spread = int(depth**0.5) + 1
            limits = (depth // 2 + rng.integers(-spread, spread, neurons)).clip(-1, depth)
            limits[::7] = rng.choice(np.array([-1, depth]))
            output = Threshold(limits.astype(np.int32))
        weights = to_words(rng.integers(0, 2, (neurons, depth)).astype(bool))
        layers.append((f"binary{index}", Dot(reads, depth, weights, output)))
    model = network(mapping, layers)
    assert model.check() == []
    return model


def random_rows(rng: np.random.Generator, model: PackedModel, rows: int) -> NDArray[Any]:
    """Canonical inputs of a plan."""
    shape = (rows, model.depth)
    if model.input.kind == "signs":
        return (2 * rng.integers(0, 2, shape) - 1).astype(np.int8)
    if model.input.kind == "reals":
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4, shape)).astype(np.float32)
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    if rows > 1:
        x[0], x[1] = 0, 255
    return x


# ---------------------------------------------------------------- networks of maps


def random_window(rng: np.random.Generator, shape: tuple[int, ...], *, padded: bool = True) -> Window:
    """One that fits the map and has a tap on it wherever it looks: strides, dilation, padding of its own on every side."""
    while True:
        size, stride, dilation = (tuple(int(n) for n in rng.integers(1, most + 1, 2)) for most in (3, 2, 2))
        reach = [step * (taps - 1) + 1 for step, taps in zip(dilation, size, strict=True)]
        padding = [int(rng.integers(0, most)) if padded and rng.random() < 0.7 else 0 for most in np.repeat(reach, 2)]
        window = Window(size, stride, dilation, tuple(padding))
        if min(window.outputs(*shape[:2])) >= 1 and all(outside < taps for outside, taps in _most_outside(window, shape)):
            return window


def _most_outside(window: Window, shape: tuple[int, ...]) -> Iterable[tuple[int, int]]:
    """Of both axes the most taps that lie outside at once, and how many there are."""
    for axis, count in enumerate(window.outputs(*shape[:2])):
        places = taps_of(window, axis, count)
        yield max(sum(not 0 <= place < shape[axis] for place in some) for some in places), window.size[axis]


def random_dot(
    rng: np.random.Generator,
    reads: Any,
    shape: tuple[int, ...],
    neurons: int,
    *,
    window: Window | None,
    bits: bool,
    **parts: Any,
) -> Dot:
    """A layer over a value of that shape, with thresholds (`bits`) or steps.

    parts: `binary`, `groups`, `pad` where they are not True, 1, 0.
    """
    binary, groups, pad = (parts.get(name, usual) for name, usual in (("binary", True), ("groups", 1), ("pad", 0)))
    depth = shape[-1] // groups * (1 if window is None else window.taps)
    weights: NDArray[Any]
    if binary:
        weights = to_words(rng.integers(0, 2, (neurons, depth)).astype(bool))
    else:
        weights = rng.standard_normal((neurons, depth)).astype(np.float32)
    if not bits:
        return Dot(reads, depth, weights, random_affine(rng, neurons), window, groups, pad)
    if reads == "reals":
        limits: NDArray[Any] = (rng.standard_normal(neurons) * depth**0.5).astype(np.float32)
        return Dot(reads, depth, weights, Threshold(limits), window, groups, pad)
    inside = np.array([depth])
    if window is not None and not pad:
        _, taps = border_classes(window, shape)
        inside = np.array([int(sum(map(sum, one))) * (shape[-1] // groups) for one in taps])
    if reads == "bits":
        middle = inside[:, None] / 2 + rng.standard_normal((len(inside), neurons)) * inside[:, None] ** 0.5 / 2
        limits = np.clip(np.rint(middle), -1, inside[:, None])
        limits[:, ::7] = np.where(rng.random(limits[:, ::7].shape) < 0.5, -1, inside[:, None])
    else:
        limits = np.rint(rng.standard_normal((len(inside), neurons)) * 128 * inside[:, None] ** 0.5)
        limits[:, ::7] = rng.choice(np.array([-255 * depth - 1, 255 * depth, 2**31 - 1, -(2**31)]), limits[:, ::7].shape)
    limits = limits.astype(np.int32)
    return Dot(reads, depth, weights, Threshold(limits if len(inside) > 1 else limits[0]), window, groups, pad)


def random_maps(rng: np.random.Generator, mapping: InputMapping, shape: tuple[int, int, int], layers: int) -> PackedModel:
    """Convolutions and pools in random order, all kinds of them, then perhaps dense layers; scores of a map or of a vector."""
    values: list[Value] = []
    nodes: list[Node[PackedOp]] = []
    entry = PackedModel(mapping, shape, (), "ge-zero").entry

    def add(name: str, op: PackedOp) -> None:
        nodes.append(Node(name, op, (len(nodes) - 1,)))
        values.append(value_of(nodes[-1], name, [values[-1] if values else entry]))

    if isinstance(mapping, ThresholdInput):
        add("input", Binarize.at_pixel(mapping.threshold, shape[-1]))
    elif isinstance(mapping, ChannelInput) or (isinstance(mapping, PixelInput) and rng.random() < 0.3):
        assert isinstance(mapping, PixelInput | ChannelInput)
        add("mapped", Mapped.of(mapping))
    elif isinstance(mapping, PixelInput | RealInput) and rng.random() < 0.3:
        add("input", random_binarize(rng, entry))
    for index in range(layers):
        read = values[-1] if values else entry
        raw = not any(isinstance(node.op, Dot) for node in nodes)
        last = index == layers - 1
        if read.kind == "reals" and not raw:  # back to bits, by way of a pool, steps or both
            if rng.random() < 0.5:
                kind: Any = ["max", "average"][rng.integers(2)]
                window = random_window(rng, read.shape)
                falling = rng.random(read.shape[-1]) < 0.5 if kind == "max" and rng.random() < 0.5 else None
                add(f"pool{index}", Pool(kind, window, falling, bool(kind == "average" and rng.random() < 0.5)))
            if rng.random() < 0.5:
                add(f"steps{index}", Elementwise(random_affine(rng, read.shape[-1])))
            if last and rng.random() < 0.5:
                add(f"float{index}", _any_dot(rng, values[-1], 5, bits=False, binary=False))
                continue
            add(f"sign{index}", random_binarize(rng, values[-1]))
        elif read.kind == "bits" and nodes and rng.random() < 0.4:
            falling = rng.random(read.shape[-1]) < 0.5 if rng.random() < 0.5 else None
            add(f"pool{index}", Pool("max", random_window(rng, read.shape), falling))
        read = values[-1] if values else entry
        neurons = int(rng.choice([3, 8, 33, 64, 70, 130]))
        binary = not (read.kind == "reals" and rng.random() < 0.5)
        add(f"conv{index}", _any_dot(rng, read, neurons, bits=not last and rng.random() < 0.6, binary=binary))
    model = PackedModel(mapping, shape, tuple(nodes), "ge-zero")
    if model.values[-1].kind == "bits":
        add("head", _any_dot(rng, values[-1], 4, bits=False, binary=True))
        model = replace(model, nodes=tuple(nodes))
    assert model.check() == []
    return model


def _any_dot(rng: np.random.Generator, read: Value, neurons: int, *, bits: bool, binary: bool) -> Dot:
    channels = read.shape[-1]
    window = Window.whole(read.shape) if rng.random() < 0.2 else random_window(rng, read.shape)
    groups = 1
    if rng.random() < 0.3:
        groups = int(rng.choice([n for n in range(1, channels + 1) if channels % n == 0]))
        neurons = groups * max(1, neurons // groups)
    pad = int(rng.integers(-1, 2)) if read.kind == "bits" else 0
    return random_dot(rng, read.kind, read.shape, neurons, window=window, bits=bits, binary=binary, groups=groups, pad=pad)


def random_binarize(rng: np.random.Generator, read: Value) -> Binarize:
    count = read.shape[-1]
    limits: NDArray[Any] = (rng.standard_normal(count) * 3).astype(np.float32)
    if read.kind == "pixels":
        limits = rng.integers(-256, 256, count).astype(np.int32)
    return Binarize(limits, rng.random(count) < 0.5)


def same(got: NDArray[Any], want: NDArray[Any]) -> bool:
    """Equal in shape, dtype and every value."""
    return got.shape == want.shape and got.dtype == want.dtype and bool(np.array_equal(got, want))

"""Random packed networks and what they mean, computed with plain integers; shares nothing with bits, plan or kernels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.net.values import InputMapping, PixelInput, RealInput, ThresholdInput
from xnorinfer.packing.packed import Affine, Binarize, Dot, PackedModel, PackedOp, Threshold


def to_words(plus: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """(rows, n) bool -> (rows, words) uint64, bit k of word j is element 64*j + k."""
    rows, count = plus.shape
    words = np.zeros((rows, -(-count // 64)), np.uint64)
    for k in range(count):
        words[:, k // 64] |= plus[:, k].astype(np.uint64) << np.uint64(k % 64)
    return words


def from_words(words: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """(rows, words) uint64 -> (rows, count) of -1 and +1."""
    bits = np.stack([(words[:, k // 64] >> np.uint64(k % 64)) & np.uint64(1) for k in range(count)], axis=1)
    return 2 * bits.astype(np.int64) - 1


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


def sums_in_order(x: NDArray[np.float32], weights: NDArray[Any]) -> NDArray[np.float32]:
    """(rows, depth) x (neurons, depth) -> (rows, neurons), float64 running sums rounded once."""
    products = x.astype(np.float64)[:, None, :] * weights.astype(np.float64)[None]
    return np.add.accumulate(products, axis=2)[:, :, -1].astype(np.float32)


def expected(model: PackedModel, x: NDArray[Any]) -> list[NDArray[Any]]:
    """Output of every node as `Plan.trace` gives it."""
    outputs: list[NDArray[Any]] = []
    value: NDArray[Any] = x
    if isinstance(model.input, ThresholdInput):
        value = np.where(x >= model.input.threshold, 1, -1)
    elif model.binarize is not None:
        op, exact = model.binarize.op, x.astype(np.float64)
        value = np.where(np.where(op.mirrored, -exact, exact) <= op.limits, 1, -1)
    if model.binarize is not None:
        outputs.append(to_words(value > 0))
    for layer in (node.op for node in model.layers):
        if not layer.binary:
            assert isinstance(layer.output, Affine)
            value = layer.output.apply(sums_in_order(value, layer.weights))
            outputs.append(value)
            continue
        weights = from_words(layer.weights, layer.depth)
        count: NDArray[Any]
        if layer.reads == "reals":
            real = count = sums_in_order(value, weights)
        else:
            # float64 products of integers below 2**53 are exact.
            count = (value.astype(np.float64) @ weights.T.astype(np.float64)).astype(np.int64)
            real = count.astype(np.float32)
            if isinstance(model.input, PixelInput) and layer.reads == "pixels":
                slope, intercept, divisor = model.input.slope, model.input.intercept, model.input.divisor
                real = ((slope * count.astype(np.float64) + intercept * weights.sum(axis=1)) / divisor).astype(np.float32)
            elif layer.reads == "bits":
                count = (layer.depth - count) // 2
        if isinstance(layer.output, Threshold):
            bits = count <= layer.output.limits
            outputs.append(to_words(bits))
            value = np.where(bits, 1, -1)
        else:
            value = layer.output.apply(real)
            outputs.append(value)
    return outputs


def same(got: NDArray[Any], want: NDArray[Any]) -> bool:
    """Equal in shape, dtype and every value."""
    return got.shape == want.shape and got.dtype == want.dtype and bool(np.array_equal(got, want))

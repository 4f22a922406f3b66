"""Random packed networks of given widths, the same for every benchmark."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import words_for
from xnorinfer.net.values import InputMapping, PixelInput, SignInput
from xnorinfer.packing.packed import Affine, Dot, PackedModel, Threshold

#: The network that all end-to-end numbers are about.
REFERENCE = (784, 4096, 4096, 4096, 10)


def random_words(rng: np.random.Generator, rows: int, depth: int) -> NDArray[np.uint64]:
    """(rows, words) uint64 of random bits, pad bits 0."""
    words = rng.integers(0, 2**64, (rows, words_for(depth)), np.uint64)
    if depth % 64:
        words[:, -1] &= np.uint64(2 ** (depth % 64) - 1)
    return words


def random_network(widths: Sequence[int], pixels: bool = True, seed: int = 0) -> PackedModel:
    """Random weights and limits near the middle, so that bits are balanced; the last layer gives scores."""
    rng = np.random.default_rng(seed)
    mapping: InputMapping = PixelInput.range(-1, 1) if pixels else SignInput()
    layers: list[tuple[str, Dot]] = []
    for index, (depth, neurons) in enumerate(itertools.pairwise(widths)):
        reads: Any = "pixels" if pixels and index == 0 else "bits"
        weights = random_words(rng, neurons, depth)
        output: Threshold | Affine
        if index == len(widths) - 2:
            values = np.stack([np.full(neurons, 0.01), rng.standard_normal(neurons)]).astype(np.float32)
            output = Affine(("fma",), values[None])
        else:
            spread = depth**0.5
            middle = 0 if reads == "pixels" else depth / 2
            limits = middle + rng.standard_normal(neurons) * spread * (100 if reads == "pixels" else 0.5)
            low, high = (-255 * depth, 255 * depth) if reads == "pixels" else (-1, depth)
            output = Threshold(np.clip(limits, low, high).astype(np.int32))
        layers.append((f"dense{index}", Dot(reads, depth, weights, output)))
    return PackedModel.chain(mapping, layers, "ge-zero")


def random_pixels(rows: int, depth: int, seed: int = 1) -> NDArray[np.uint8]:
    """(rows, depth) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (rows, depth), np.uint8)

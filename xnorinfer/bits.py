"""THE bit convention, in one place.

Bit 1 means +1, bit 0 means -1.  Bits fill uint64 words from the least significant end: element k of a row is bit
`k % 64` of word `k // 64`.  The unused high bits of the last word (pad bits) are 0 in activations and in weights, so that
XOR cancels them and `popcount(a ^ w)` counts exactly the *mismatches* of a row and a neuron:

    dot(a, w) = depth - 2 * mismatches
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORD_BITS = 64


def words_for(depth_bits: int) -> int:
    """Number of uint64 words that hold `depth_bits` bits."""
    return -(-depth_bits // WORD_BITS)


def bitpack(signs: NDArray[Any]) -> NDArray[np.uint64]:
    """Pack signs into words: positive elements become bit 1, all others bit 0, pad bits 0.

    signs: (rows, depth) of bool or of any real dtype.  Returns (rows, words_for(depth)) uint64, C-contiguous.
    Ties are not decided here: a caller that cares what 0 means binarizes first.
    """
    if signs.ndim != 2:
        raise ValueError(f"bitpack takes a (rows, depth) array, got shape {signs.shape}")
    rows, depth = signs.shape
    positive = signs if signs.dtype == np.bool_ else signs > 0
    packed = np.zeros((rows, words_for(depth) * 8), np.uint8)
    packed[:, : -(-depth // 8)] = np.packbits(positive, axis=1, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


def bitunpack(words: NDArray[np.uint64], depth_bits: int) -> NDArray[np.int8]:
    """Words back to signs: (rows, words) uint64 -> (rows, depth_bits) int8 of -1 and +1."""
    if words.ndim != 2 or words.dtype != np.uint64 or words.shape[1] != words_for(depth_bits):
        raise ValueError(
            f"bitunpack takes (rows, {words_for(depth_bits)}) uint64 for {depth_bits} bits, got {words.shape} {words.dtype}"
        )
    little = words if sys.byteorder == "little" else words.byteswap()
    raw = np.ascontiguousarray(little).view(np.uint8)
    bits = np.unpackbits(raw, axis=1, bitorder="little", count=depth_bits)
    return (2 * bits.astype(np.int8) - 1).astype(np.int8, copy=False)


def pad_mask(depth_bits: int) -> NDArray[np.uint64]:
    """(words,) uint64 with 1 in every bit that belongs to the depth and 0 in every pad bit."""
    mask = np.full(words_for(depth_bits), ~np.uint64(0), np.uint64)
    tail = depth_bits % WORD_BITS
    if tail:
        mask[-1] = np.uint64((1 << tail) - 1)
    return mask

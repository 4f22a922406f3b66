"""Prepack: portable words to the panels of a kernel, all in numpy, done once when a plan is made.

A panel holds `width` neurons side by side, `[panel][word][neuron]`; a last panel that is not full is filled with zeros, and
its limits with a value that no count reaches, so that the surplus output bits are 0 like all pad bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitunpack
from xnorinfer.kernels.shapes import CODE_BYTES, LookupShape, NibbleShape, ParityShape

#: Panels start on a cache line; vector loads in the tiles rely on it.
ALIGN_BYTES = 64


def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeroed array whose first byte lies on a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGN_BYTES, np.uint8)
    skip = -raw.ctypes.data % ALIGN_BYTES
    return raw[skip : skip + size].view(dtype).reshape(shape)


def whole_lines(size: int) -> int:
    """Bytes of the cache lines that so many bytes take."""
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES


def even_words(words: int) -> int:
    """Words of a row as the binary tiles take them: in pairs."""
    return words + words % 2


def running_parity(words: NDArray[Any]) -> NDArray[Any]:
    """(rows, words): word k becomes the XOR of words 0..k."""
    return np.bitwise_xor.accumulate(words, axis=1)


def _panels(rows: NDArray[Any], width: int) -> NDArray[Any]:
    """(neurons, items) -> (panels, items, width), aligned, filled up with zeros."""
    neurons, items = rows.shape
    count = -(-neurons // width)
    out = aligned((count, items, width), rows.dtype)
    full = neurons // width
    out[:full] = rows[: full * width].reshape(full, width, items).transpose(0, 2, 1)
    if full < count:
        out[full, :, : neurons - full * width] = rows[full * width :].T
    return out


def binary_panels(weights: NDArray[np.uint64], width: int) -> NDArray[np.uint64]:
    """(neurons, words) u64 -> (panels, even words, width) u64 of running parities."""
    words = np.zeros((weights.shape[0], even_words(weights.shape[1])), np.uint64)
    words[:, : weights.shape[1]] = weights
    return _panels(running_parity(words), width)


def parity_panels(weights: NDArray[np.uint64], depth: int, shape: ParityShape) -> NDArray[Any]:
    """(neurons, words) u64 -> (panels, words, panel) of running parities, of u64 or u32 as the shape has them."""
    words = weights.astype("<u8").view(f"<u{shape.bits // 8}")[:, : -(-depth // shape.bits)]
    return _panels(running_parity(words), shape.panel)


def code_panels(weights: NDArray[np.uint64], depth: int, shape: NibbleShape) -> NDArray[np.uint8]:
    """(neurons, words) u64 -> (panels, bytes, lanes) u8: the bytes of the words, two nibbles each.

    As many bytes as whole turns and whole words have; panels of whole groups of 64 neurons.  The surplus is zeros.
    """
    neurons, count = weights.shape[0], -(-depth // 8)
    codes = np.zeros((-(-neurons // 64) * 64, max(shape.turns(depth) * CODE_BYTES, 8 * weights.shape[1])), np.uint8)
    codes[:neurons, :count] = weights.astype("<u8").view(np.uint8)[:, :count]
    return _panels(codes, shape.lanes)


def unpacked(limits: NDArray[Any], shape: NibbleShape) -> NDArray[np.int16]:
    """Limits of whole groups as i16, in the order in which a tile of nibbles has its counts.

    Of each vector of neurons the first eight of every 16, then the last eight.  Counts are at most 32767 here.
    """
    small = np.clip(limits, -1, 32767).astype(np.int16)
    return kept(small.reshape(-1, shape.lanes // 16, 2, 8).swapaxes(1, 2)).reshape(-1)


def sign_panels(weights: NDArray[np.uint64], width: int) -> NDArray[np.uint64]:
    """(neurons, words) u64 -> (panels, words, width) u64, inverted, the first input in the highest bit."""
    return _panels(reverse_bits(~weights), width)


def reverse_bits(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every word with its bits in the opposite order."""
    for shift, mask in ((1, 0x5555555555555555), (2, 0x3333333333333333), (4, 0x0F0F0F0F0F0F0F0F)):
        words = ((words >> np.uint64(shift)) & np.uint64(mask)) | ((words & np.uint64(mask)) << np.uint64(shift))
    return words.byteswap()


def byte_masks(weights: NDArray[np.uint64], depth: int) -> NDArray[np.uint8]:
    """(neurons, words) u64 -> (neurons + 1, 64-byte chunks, 64) u8: 255 where the weight is +1; last, all inputs."""
    out = aligned((weights.shape[0] + 1, depth // 64 + 1, 64), np.uint8)
    flat = out.reshape(weights.shape[0] + 1, -1)
    flat[:-1, :depth] = np.where(bitunpack(weights, depth) > 0, 255, 0)
    flat[-1, :depth] = 255
    return out


def lookup_panels(weights: NDArray[np.uint64], depth: int, shape: LookupShape) -> NDArray[np.uint8]:
    """(neurons, words) u64 -> (groups of 64 neurons, turns, shape.turn_code_bytes) u8; a code has its first input in bit 0.

    Codes of 6 bits: [64][2], the two look-ups of a turn side by side.  Codes of 4 bits: [4][64], the first of two look-ups in
    the low half of a byte, and, for vectors of 32 bytes, neurons 8-15 of 32 swapped with 16-23, so that unpacking within
    halves of vectors gives them in order.
    """
    neurons, turns, inputs = weights.shape[0], shape.turns(depth), shape.inputs
    out = aligned((-(-neurons // 64), turns, shape.turn_code_bytes), np.uint8)
    powers = (1 << np.arange(inputs)).astype(np.uint8)
    for first in range(0, neurons, 64):
        some = np.ascontiguousarray(weights[first : first + 64])
        bits = np.zeros((64, turns * shape.turn * inputs), np.uint8)
        bits[: len(some), :depth] = bitunpack(some, depth) > 0
        codes = (bits.reshape(64, turns, shape.turn, inputs) @ powers).transpose(1, 2, 0)
        if inputs == 4:
            codes = codes[:, 0::2] | codes[:, 1::2] << 4
            if shape.octets == 32:
                codes = codes.reshape(turns, 4, 2, 2, 2, 8).swapaxes(3, 4)
        else:
            codes = codes.swapaxes(1, 2)
        out[first // 64] = codes.reshape(turns, -1)
    return out


def float_panels(weight: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """(neurons, depth) f32 -> (panels, depth, width) f32."""
    return _panels(weight, width)


def filled(vector: NDArray[Any], count: int, fill: float, dtype: Any) -> NDArray[Any]:
    """A vector of one entry per neuron, converted and filled up to `count` entries."""
    out = aligned((count,), dtype)
    out[: len(vector)] = vector
    out[len(vector) :] = fill
    return out


def kept(array: NDArray[Any]) -> NDArray[Any]:
    """An aligned copy that compiled code may read by its address."""
    out = aligned(array.shape, array.dtype)
    out[...] = array
    return out

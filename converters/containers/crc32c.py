"""CRC-32C (Castagnoli) in numpy, fast enough for checkpoints of hundreds of megabytes.

A CRC without its initial and final complement is linear over GF(2).  The data are cut into equal lanes that advance together,
two bytes a step through one table; then neighbouring lanes are joined: crc(a + b) = shift(crc(a), len(b)) ^ crc(b).  Zeros in
front change nothing, so lanes can be padded there; the complement of the start value is added at the end as
shift(0xffffffff, length).  Polynomial and masking as in LevelDB and TensorFlow.

The package google-crc32c would be one more thing to install for the second that a checkpoint of a hundred megabytes takes
here; its wheels leave out musl, 32 bits and Windows on ARM, where its own fallback is fifty times slower than this.
"""

from __future__ import annotations

from functools import lru_cache, reduce
from operator import xor

import numpy as np
from numpy.typing import NDArray

#: The Castagnoli polynomial, bits reversed.
POLYNOMIAL = 0x82F63B78
#: Bytes of one lane, for long and for short data: a power of two; half as many steps, and one joining per doubling of lanes.
LONG_LANE_BYTES, SHORT_LANE_BYTES = 4096, 64
#: From here on data are long.
LONG_BYTES = 1 << 18
#: Bytes handled at once, so that the transposed copy stays small.
CHUNK_BYTES = 8 << 20

U32 = NDArray[np.uint32]


@lru_cache(maxsize=1)
def _table() -> U32:
    """Effect of two bytes on the remainder: (65536,) uint32."""
    table = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = (table >> np.uint32(1)) ^ np.where(table & np.uint32(1), np.uint32(POLYNOMIAL), np.uint32(0))
    return table


@lru_cache(maxsize=64)
def _shift_columns(exponent: int) -> U32:
    """What 2^exponent zero bytes make of each of the 32 bits: (32,) uint32."""
    if exponent == 0:
        bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
        table = _table()
        # One byte: the table's two-byte step on a value whose low byte is what comes last.
        one_byte = table[(bits & np.uint32(0xFF)) << np.uint32(8)] ^ (bits >> np.uint32(8))
        return np.asarray(one_byte, np.uint32)
    half = _shift_columns(exponent - 1)
    return _apply(half, half)


def _apply(columns: U32, values: U32) -> U32:
    """The linear map `columns` on every value."""
    result = np.zeros_like(values)
    for bit in range(32):
        result ^= np.where((values >> np.uint32(bit)) & np.uint32(1), columns[bit], np.uint32(0))
    return result


def _shift(value: int, length: int) -> int:
    """The remainder `value` after `length` zero bytes."""
    exponent = 0
    while length and value:
        if length & 1:
            columns = _shift_columns(exponent).tolist()
            value = reduce(xor, (columns[bit] for bit in range(32) if value >> bit & 1), 0)
        length >>= 1
        exponent += 1
    return value


def _remainder(data: NDArray[np.uint8]) -> int:
    """Remainder of at most CHUNK_BYTES bytes, from the start value 0."""
    if not data.size:
        return 0
    lane_bytes = LONG_LANE_BYTES if data.size >= LONG_BYTES else SHORT_LANE_BYTES
    lanes = 1 << max(0, -(-data.size // lane_bytes) - 1).bit_length()
    padded = np.zeros(lanes * lane_bytes, np.uint8)
    padded[padded.size - data.size :] = data
    words = np.ascontiguousarray(padded.view("<u2").reshape(lanes, lane_bytes // 2).T)  # (steps, lanes)
    table = _table()
    value = np.zeros(lanes, np.uint32)
    for step in words:
        value = table[(value & np.uint32(0xFFFF)) ^ step] ^ (value >> np.uint32(16))
    exponent = lane_bytes.bit_length() - 1
    while value.size > 1:
        value = _apply(_shift_columns(exponent), value[0::2]) ^ value[1::2]
        exponent += 1
    return int(value[0])


def crc32c(data: bytes | memoryview | NDArray[np.uint8]) -> int:
    """CRC-32C of bytes, as an unsigned 32-bit number."""
    array = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    total = 0
    for start in range(0, array.size, CHUNK_BYTES):
        chunk = array[start : start + CHUNK_BYTES]
        total = _shift(total, chunk.size) ^ _remainder(chunk)
    return total ^ _shift(0xFFFFFFFF, array.size) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """The form in which LevelDB and TensorFlow store a CRC: rotated right by 15 bits, plus a constant."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

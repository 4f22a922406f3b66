"""How fast this core could be: peaks of its instructions and of its caches, measured, and the time that they leave to a node.

A node takes at least as long as its operations in registers alone, and as long as going once through the bytes that it reads
and writes, both at once, in the cache that holds them all.  The larger of the two is its floor.  What a node takes above that
are loads, preparing rows, ends of tiles, the call.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from xnorinfer.kernels import Kernel, layout, store
from xnorinfer.kernels.shapes import NEON_COLUMNS, PEAK_MEMORY, BinaryShape, ParityShape, Shape
from xnorinfer.speed.timing import Call, Key

#: What a product is of: bits with bits, bytes or reals with bits, reals with reals.
Product: TypeAlias = Literal["binary", "pixels", "reals", "float32"]

#: Of the loop in registers in one call; bytes that one call goes through at least; calls of each.
TURNS, LEAST_MOVED, ROUNDS = 10_000, 1 << 18, 25
#: Buffers that are gone through are as large as what a node touches, in powers of two from the first to the last.
SMALLEST, LARGEST = 1 << 12, 1 << 26
#: Where Linux describes the caches of a core.
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class Work(NamedTuple):
    """What there is to do.  operations: 2 for a multiply-accumulate, of a product; read, written: bytes."""

    product: Product | None
    operations: int
    read: int
    written: int


class Floor(NamedTuple):
    """Seconds at least, and what bounds them: a product, or "L1" and so on, "memory", where no cache is known "bytes"."""

    seconds: float
    bound: str


@dataclass(frozen=True)
class Peaks:
    """What one core does at most.  operations: a second, of each product; read, written: bytes a second, of buffers of so many
    bytes; caches: bytes of those of level 1 and so on, where they are known."""

    operations: Mapping[Product, float]
    read: Mapping[int, float]
    written: Mapping[int, float]
    caches: tuple[int, ...] = ()

    def floor(self, work: Work) -> Floor:
        """Of something by itself, whose bytes all lie in the nearest cache that holds them."""
        return max(self.computed(work), self.moved(work.read, work.written))

    def computed(self, work: Work) -> Floor:
        """Operations alone; what multiplies nothing has none that count."""
        if work.product is None:
            return Floor(0.0, "")
        return Floor(work.operations / self.operations[work.product], work.product)

    def moved(self, read: int, written: int) -> Floor:
        """Bytes alone, read and written at once."""
        size = read + written
        return Floor(max(self.read_seconds(read, of=size), written / _nearest(self.written, size)), self.place(size))

    def read_seconds(self, size: int, *, of: int) -> float:
        """For reading so many of `of` bytes."""
        return size / _nearest(self.read, of)

    def place(self, size: int) -> str:
        """The nearest cache that holds so many bytes."""
        if not self.caches:
            return "bytes"
        return next((f"L{level}" for level, held in enumerate(self.caches, 1) if size <= held), "memory")

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "operations_per_second": dict(self.operations),
            "bytes_per_second": [
                {"bytes": size, "place": self.place(size), "read": rate, "written": self.written[size]}
                for size, rate in sorted(self.read.items())
            ],
        }


def _nearest(rates: Mapping[int, float], size: int) -> float:
    """That of the largest buffer that is no more, else of the smallest."""
    return rates[max((one for one in rates if one <= size), default=min(rates))]


def buffer_of(size: int) -> int:
    """The largest power of two that is no more, of those that are measured."""
    return min(max(1 << size.bit_length() - 1 if size else 0, SMALLEST), LARGEST)


def caches() -> tuple[int, ...]:
    """Bytes of the data caches of a core, from the nearest on; () where the system does not say."""
    found: dict[int, int] = {}
    try:
        for folder in sorted(_CACHES.glob("index*")):
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                found[int(level)] = int(size.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return ()
    return tuple(found[level] for level in sorted(found))


# ---------------------------------------------------------------- measuring


def measured(kernel: Kernel, products: Iterable[Product], sizes: Iterable[int] = ()) -> Peaks:
    """The peaks of one core, in some tenths of a second: of products of a kernel, and of buffers for some numbers of bytes.

    What else runs on the core takes away from a peak and never adds to it, so the fastest call counts.
    """
    operations = {product: looping(kernel, product) for product in dict.fromkeys(products)}
    buffers = sorted({buffer_of(size) for size in sizes})
    read, written = ({size: moving(size, written=way) for size in buffers} for way in (False, True))
    return Peaks(_rates(operations), _rates(read), _rates(written), caches())


def looping(kernel: Kernel, product: Product) -> tuple[Call, int]:
    """A call that does what a tile does in registers alone, and its operations."""
    maker, arguments, count = _loops(kernel)[product]
    memory, run = layout.aligned((PEAK_MEMORY,), np.uint8), store.python_function(maker, 2, *arguments)
    return lambda: run(TURNS, memory.ctypes.data), count * TURNS


def moving(size: int, *, written: bool = False, least: int = LEAST_MOVED) -> tuple[Call, int]:
    """A call that reads, or writes, a buffer from end to end, until it has moved `least` bytes, and how many these are.

    size: bytes, whole multiples of CHUNK.
    """
    memory, run = layout.aligned((size,), np.uint8), store.python_function("make_moved", 3, written)
    memory.fill(1)  # pages that nobody wrote to are all one
    times = -(-least // size)
    return lambda: run(memory.ctypes.data, size, times), size * times


def _rates(calls: Mapping[Key, tuple[Call, int]]) -> dict[Key, float]:
    """What a call does, by its shortest time in ROUNDS turns."""
    times = dict.fromkeys(calls, math.inf)
    for _ in range(ROUNDS):
        for key, (call, _) in calls.items():
            start = time.perf_counter()
            call()
            times[key] = min(times[key], time.perf_counter() - start)
    return {key: count / times[key] for key, (_, count) in calls.items()}


def _loops(kernel: Kernel) -> dict[Product, tuple[str, tuple[Any, ...], int]]:
    """What makes the loop in registers (`kernels.peaks`), and the operations of a turn."""
    shape, pixels, floats = kernel.binary, kernel.pixels, kernel.floats(64)
    binary = "make_peak_bits", (shape,), 2 * bits_of_turn(shape)
    return {
        "binary": binary,
        "pixels": (*binary[:2], binary[2] // 8)  # eight planes of bits
        if pixels is None
        else ("make_peak_pixels", (pixels,), 2 * pixels.rows * 64 * pixels.inputs * pixels.turn),
        "reals": ("make_peak_reals", (kernel.real_lanes, kernel.real_vectors), 2 * kernel.real_panel),
        "float32": ("make_peak_floats", (floats,), 2 * floats.rows * floats.panel),
    }


def bits_of_turn(shape: Shape) -> int:
    """Bits that a turn of `kernels.peaks.make_peak_bits` counts."""
    if isinstance(shape, ParityShape):
        return 2 * 512 * shape.vectors * shape.rows
    if isinstance(shape, BinaryShape):
        return 64 * shape.lanes * shape.vectors << shape.levels
    return 8 * shape.lanes * NEON_COLUMNS if shape.neon else 12 * shape.lanes * 2 * shape.pairs

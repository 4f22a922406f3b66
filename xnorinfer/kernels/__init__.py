"""Kernels: compiled functions that run a packed network, one per family of CPUs, in one table, best first.

A kernel is the shape of its register tiles, the panel layout that follows from it, and the CPU features it needs; `prepack`
chooses among its ways to compute a product and lays the product out for it.
`choose()` returns the first that the CPU can run; the environment variable XNORINFER_KERNEL forces one by name.
A new kernel is one more line in `KERNELS`; tests and benchmarks go through the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from xnorinfer.errors import KernelError
from xnorinfer.kernels import fields, native
from xnorinfer.kernels.shapes import BinaryShape, FloatShape, LookupShape, NibbleShape, ParityShape, Shape
from xnorinfer.kernels.store import address, on_compile, python_function

ENVIRONMENT = "XNORINFER_KERNEL"

Drive = Callable[[int, int, int, int, int, int], int]

# Numbers of int64 arguments; see `layers` and `driver`.
_PREPARE, _COMPUTE, _FINISH, _FINISH_ROWS, _STEPS, _GATHER, _DRIVE = 5, 9, 6, 8, 10, 6, 6


@dataclass(frozen=True)
class Kernel:
    """One row of the table.  `needs`: features of `native.features`; the real tile is lanes x vectors neurons.

    single_lanes, registers: numbers of a vector of float32, and vectors that there is room for.
    pixels: how bytes are summed: by look-up tables of this shape, or as eight bit planes.

    The methods named after a function of `layers` compile it on first use and return its address.
    """

    name: str
    needs: frozenset[str]
    binary: Shape
    real_lanes: int
    real_vectors: int
    single_lanes: int
    registers: int
    pixels: LookupShape | None = None

    @property
    def real_panel(self) -> int:
        return self.real_lanes * self.real_vectors

    def windowed(self, neurons: int, channels: int) -> Shape:
        """The binary tile for windows of so many channels and neurons, of which there are many.

        One of half the width leaves less of it empty, as one of shorter words does.
        """
        if isinstance(self.binary, ParityShape):
            return ParityShape(32 if channels % 64 and channels % 32 == 0 else 64)
        return self.binary.narrow if 1 <= neurons % 64 <= 32 else self.binary

    def compute_bits(self, shape: Shape | None = None) -> int:
        """shape: the tile, that of the kernel or one that `windowed` gives."""
        maker, *arguments = self.bits_maker(shape or self.binary)
        return address(maker, _COMPUTE, *arguments)

    def bits_maker(self, shape: Shape) -> tuple[Any, ...]:
        """What makes the function of a tile: its name among `layers` and the like, and what it takes."""
        if isinstance(shape, NibbleShape):
            return "make_compute_nibbles", shape, self.single_lanes
        if isinstance(shape, ParityShape):
            return "make_compute_parities", shape, self.single_lanes
        return "make_compute_bits", shape, 1, self.single_lanes

    def compute_planes(self) -> int:
        return address("make_compute_bits", _COMPUTE, self.binary, 8, self.single_lanes)

    def compute_reals(self) -> int:
        return address("make_compute_reals", _COMPUTE, self.real_lanes, self.real_vectors)

    def floats(self, neurons: int, run: int = 1, *, alone: bool = False) -> FloatShape:
        """The tile of a float layer of so many neurons: of two vectors, of one where that leaves less of it empty.

        run: inputs that lie side by side; loops of few turns end as the CPU expects.  alone: for single rows; four vectors, so
        that none waits for another.
        """
        needed = -(-neurons // self.single_lanes)
        # A vector at least as long as a byte of bits.
        vectors = 4 if alone and needed > 2 else 1 if needed in (1, 3, 5) and self.single_lanes >= 8 else 2
        # Beside sums there are weights and an input; pixels of lines often come in multiples of 14.
        rows = (self.registers - vectors - 1) // vectors
        unrolled = next(count for count in (3, 4, 1) if run % count == 0)
        return FloatShape(self.single_lanes, vectors, min(rows, 14), _fused(), unrolled)

    def compute_floats(self, shape: FloatShape) -> int:
        return address("make_compute_floats", _COMPUTE, shape)

    def compute_float_maps(self, shape: FloatShape) -> int:
        return address("make_compute_float_maps", _COMPUTE, shape)

    def prepare_bits(self) -> int:
        return self._prepare("make_prepare_bits", "make_prepare_nibbles")

    def prepare_signs(self) -> int:
        return self._prepare("make_prepare_signs", "make_prepare_nibble_signs")

    def _prepare(self, as_words: str, as_nibbles: str) -> int:
        if not isinstance(self.binary, NibbleShape):
            return address(as_words, _PREPARE)
        return address(as_words, _PREPARE, False) if self.binary.neon else address(as_nibbles, _PREPARE)

    def prepare_planes(self) -> int:
        return address("make_prepare_planes", _PREPARE)

    def compute_lookup(self) -> int:
        return address("make_compute_lookup", _COMPUTE, self.pixels)

    def compute_masked(self) -> int:
        return address("make_compute_masked", _COMPUTE)

    def prepare_lookup(self) -> int:
        return address("make_prepare_lookup", _PREPARE, self.pixels)

    def binarize_bytes(self) -> int:
        return address("make_binarize", _COMPUTE, 1)

    def binarize_singles(self) -> int:
        return address("make_binarize", _COMPUTE, 4)

    def compute_steps(self) -> int:
        return address("make_compute_steps", _COMPUTE)

    def compute_mapped(self) -> int:
        return address("make_compute_mapped", _COMPUTE, self.single_lanes)

    def compute_strips(self) -> int:
        return address("make_compute_strips", _COMPUTE)

    def in_planes(self, channels: int) -> bool:
        """Whether `gather_bits` gives words of a place for all pixels together."""
        return isinstance(self.binary, ParityShape) and channels % 32 == 0

    def gather_bits(self, channels: int, in_pairs: bool) -> tuple[int, bool]:
        """For windows of so many bits a tap, and whether it prepares rows as the tile of `windowed` takes them.

        in_pairs: whether rows come in pairs of one sample.
        """
        words, plain = channels % 64 == 0, isinstance(self.binary, NibbleShape)
        if plain and channels % 32 == 0 and in_pairs and not self.binary.neon:
            return address("make_gather_pairs", _GATHER, 8 if words else 4), True
        if self.in_planes(channels):
            return address("make_gather_planes", _GATHER, 8 if words else 4), True
        return address("make_gather_words" if words else "make_gather_bits", _GATHER, not plain), not plain

    def gather_bytes(self) -> int:
        return address("make_gather_bytes", _GATHER)

    def pool_bits(self) -> int:
        return address("make_pool_bits", _COMPUTE)

    def pool_largest(self) -> int:
        return address("make_pool_largest", _COMPUTE, self.single_lanes)

    def compute_depthwise(self) -> int:
        return address("make_compute_depthwise", _COMPUTE, self.single_lanes, _fused())

    def join(self) -> int:
        return address("make_join", _COMPUTE)

    def move(self) -> int:
        return address("make_move", _COMPUTE)

    def pool_average(self) -> int:
        return address("make_pool_average", _COMPUTE, self.single_lanes)

    def finish_levels(self, planes: int, integers: bool) -> int:
        """Counts or float64 sums to codes of so many bits."""
        return address("make_finish_levels", _FINISH, planes, integers)

    def level_strips(self, planes: int, given: int, bits: int) -> int:
        return address("make_level_strips", _COMPUTE, planes, given, bits, self.single_lanes)

    def digitize_bytes(self, planes: int) -> int:
        return address("make_digitize_bytes", _COMPUTE, planes)

    def digitize_singles(self, planes: int) -> int:
        return address("make_digitize", _COMPUTE, planes)

    def coded_bytes(self) -> int:
        return address("make_coded_bytes", _COMPUTE)

    def level_numbers(self, planes: int) -> int:
        return address("make_level_numbers", _COMPUTE, planes)

    def pool_levels(self, planes: int) -> int:
        return address("make_pool_levels", _COMPUTE, planes)

    def finish(self) -> int:
        return address("make_finish", _FINISH, _fused())

    def finish_rows(self) -> int:
        return address("make_finish_rows", _FINISH_ROWS, self.single_lanes)

    def steps(self, codes: tuple[int, ...]) -> int:
        """Float32 steps on rows, one of `fields.PIECES`."""
        return address("make_steps", _STEPS, self.single_lanes, _fused(), codes)


#: The methods of a kernel that compile.
_FUNCTIONS = (
    "prepare_bits",
    "prepare_signs",
    "compute_bits",
    "compute_masked",
    "compute_reals",
    "binarize_bytes",
    "binarize_singles",
    "finish",
    "finish_rows",
    "compute_steps",
    "compute_mapped",
    "compute_strips",
    "gather_bytes",
    "pool_bits",
    "pool_largest",
    "pool_average",
    "join",
    "move",
    "compute_depthwise",
)
_LOOKUP = ("prepare_lookup", "compute_lookup")
_PLANES = ("prepare_planes", "compute_planes")


KERNELS: tuple[Kernel, ...] = (
    Kernel(
        "avx512-vpopcntdq",
        frozenset({"avx512vpopcntdq", "avx512bw"}),
        ParityShape(),
        real_lanes=8,
        real_vectors=8,
        single_lanes=16,
        registers=32,
        pixels=LookupShape(inputs=6, rows=2),
    ),
    Kernel(
        "avx512",
        frozenset({"avx512bw"}),
        NibbleShape(lanes=64, pairs=4),
        real_lanes=8,
        real_vectors=8,
        single_lanes=16,
        registers=32,
        pixels=LookupShape(inputs=6, rows=2),
    ),
    Kernel(
        "avx2",
        frozenset({"avx2"}),
        NibbleShape(lanes=32, pairs=4),
        real_lanes=4,
        real_vectors=4,
        single_lanes=8,
        registers=16,
        pixels=LookupShape(inputs=4, rows=2),
    ),
    Kernel(
        "neon",
        frozenset({"neon"}),
        NibbleShape(lanes=16, pairs=1),
        real_lanes=4,
        real_vectors=4,
        single_lanes=4,
        registers=32,
        pixels=LookupShape(inputs=4, rows=2, octets=16),
    ),
    Kernel(
        "portable",
        frozenset(),
        BinaryShape(lanes=4, vectors=2, levels=3),
        real_lanes=4,
        real_vectors=4,
        single_lanes=4,
        registers=16,
    ),
)


def cpu_features() -> frozenset[str]:
    """Features of the CPU that numba compiles for, as far as a kernel asks for them."""
    return native.features()


def _fused() -> bool:
    """Whether the CPU has a fused multiply-add."""
    return "fma" in cpu_features()


def usable() -> tuple[Kernel, ...]:
    """The kernels that this CPU runs, best first."""
    return tuple(kernel for kernel in KERNELS if kernel.needs <= cpu_features())


def choose(name: str | None = None) -> Kernel:
    """The kernel called `name`, else the one that XNORINFER_KERNEL names, else the best for this CPU.

    Raises KernelError when there is no such kernel or the CPU lacks what it needs.
    """
    asked = name or os.environ.get(ENVIRONMENT) or None
    if asked is None:
        return usable()[0]
    origin = "kernel" if name else f"{ENVIRONMENT} names kernel"
    choices = ", ".join(kernel.name for kernel in usable())
    for kernel in KERNELS:
        if kernel.name == asked:
            missing = kernel.needs - cpu_features()
            if missing:
                raise KernelError(f"{origin} {asked!r}, which needs {', '.join(sorted(missing))}; this CPU runs: {choices}")
            return kernel
    raise KernelError(f"{origin} {asked!r}, which does not exist; this CPU runs: {choices}")


@cache
def drive() -> Drive:
    """The compiled driver; see `driver.make_drive` for its arguments."""
    return python_function("make_drive", _DRIVE)


def warmup(name: str | None = None) -> list[str]:
    """Compile all functions of a kernel (default: the one `choose` gives) and keep them on disk where a folder takes them.

    Returns the names of those that had to be compiled.  Raises KernelError as `choose` does.
    """
    kernel = choose(name)
    names: list[str] = []
    on_compile.append(names.append)
    try:
        drive()
        for method in (*_FUNCTIONS, *(_LOOKUP if kernel.pixels else _PLANES)):
            getattr(kernel, method)()
        for codes in fields.PIECES:
            kernel.steps(codes)
        kernel.compute_bits(kernel.windowed(32, 32))
        for neurons in (kernel.single_lanes, 64):
            for alone in (True, False):
                kernel.compute_floats(kernel.floats(neurons, alone=alone))
            for run in (1, 3, 4):
                kernel.compute_float_maps(kernel.floats(neurons, run))
        for channels, in_pairs in ((64, True), (64, False), (32, True), (1, False)):
            kernel.gather_bits(channels, in_pairs)
        # Of levels the usual ones, of 2 bits.
        for given, bits in ((2, 16), (0, 64)):
            kernel.level_strips(2, given, bits)
        kernel.finish_levels(2, integers=True)
        kernel.pool_levels(2)
        kernel.digitize_singles(2)
        kernel.digitize_bytes(2)
    finally:
        on_compile.remove(names.append)
    return names

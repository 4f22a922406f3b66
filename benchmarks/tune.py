"""Which shapes of the tiles are fastest on this CPU: `python -m benchmarks.tune [bits] [pixels]`.

bits: shapes of the binary tiles that fit the registers, on layers of several depths and at one row and many.
pixels: how many rows of a first layer over uint8 share the codes of the look-ups.  Shapes are timed in turns; printed are
microseconds per row (of the fastest turn, the one that a busy machine disturbed least) with the best one marked.  The shapes in
`kernels.KERNELS` were chosen by this script.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import random_network, random_pixels, random_words
from xnorinfer import kernels
from xnorinfer.bits import words_for
from xnorinfer.engine.plan import Plan
from xnorinfer.kernels import Kernel
from xnorinfer.kernels.shapes import BinaryShape, LookupShape, NibbleShape, ParityShape, Shape
from xnorinfer.packing.packed import PackedModel
from xnorinfer.speed.timing import in_turns

#: Layers of bits: (depth, neurons, rows).  The first five are convolutions of 3x3 as dense layers.
BIT_LAYERS = (
    (288, 32, 3136),
    (576, 64, 3136),
    (1152, 128, 784),
    (2304, 256, 256),
    (4608, 512, 64),
    (1024, 1024, 256),
    (4096, 4096, 256),
    (4096, 4096, 1),
    (16384, 16384, 16),
)


def binary_shapes(features: frozenset[str]) -> dict[str, Shape]:
    """Shapes worth trying, by the registers of the CPU."""
    widest = 8 if "avx512bw" in features else 4 if "avx2" in features else 2
    adders = [(widest, vectors, levels) for vectors in (1, 2, 4) for levels in (1, 2, 3, 4)]
    found: dict[str, Shape] = {
        f"{lanes}x{vectors} levels {levels}": BinaryShape(lanes, vectors, levels) for lanes, vectors, levels in adders
    }
    if "avx512vpopcntdq" in features:
        found["parities"] = ParityShape()
    octets = [lanes for lanes, feature in ((32, "avx2"), (64, "avx512bw")) if feature in features]
    return found | {
        f"{lanes} nibbles {pairs} pairs": NibbleShape(lanes, pairs) for lanes in octets for pairs in (2, 3, 4, 5, 6)
    }


def lookup_shapes(features: frozenset[str]) -> list[LookupShape]:
    """Shapes worth trying, by the instructions of the CPU."""
    inputs = [count for count, feature in ((6, "avx512bw"), (4, "avx2")) if feature in features]
    return [LookupShape(count, rows) for count in inputs for rows in (1, 2, 3, 4)]


def compare(
    title: str, packed: PackedModel, layer: int, x: NDArray[Any], variants: Mapping[str, Kernel], seconds: float
) -> None:
    """Time one layer under kernels that differ in a shape and print one line each."""
    table = kernels.KERNELS
    calls, outputs = {}, []
    for name, kernel in variants.items():
        kernels.KERNELS = (dataclasses.replace(kernel, name="candidate"),)
        plan = Plan(packed, threads=1, kernel="candidate")
        out = np.empty((len(x), words_for(packed.layers[layer].op.neurons)), np.uint64)
        outputs.append(out)
        calls[name] = lambda p=plan, o=out: p.run_nodes(x, o, layer, layer + 1)
    kernels.KERNELS = table
    times = {name: timing.least for name, timing in in_turns(calls, seconds, settle=0).items()}
    assert all(np.array_equal(outputs[0], other) for other in outputs), "shapes disagree"
    best = min(times, key=lambda name: times[name])
    print(title)
    for name, each in times.items():
        mark = "  <- best" if name == best else ""
        print(f"  {name:20s} {each / len(x) * 1e6:9.3f} us/row  {each / times[best]:5.2f}{mark}")


def tune_bits(seconds: float) -> None:
    """The binary tile."""
    base = kernels.choose()
    variants = {name: dataclasses.replace(base, binary=shape) for name, shape in binary_shapes(kernels.cpu_features()).items()}
    for depth, neurons, rows in BIT_LAYERS:
        packed = random_network((64, depth, neurons, 10), pixels=False)
        bits = random_words(np.random.default_rng(0), rows, depth)
        compare(f"{depth} -> {neurons}, {rows} rows", packed, 1, bits, variants, seconds)


def tune_pixels(seconds: float) -> None:
    """The look-up tile; with bit planes beside it."""
    base = kernels.choose()
    variants = {
        f"{shape.inputs} inputs, {shape.rows} rows": dataclasses.replace(base, pixels=shape)
        for shape in lookup_shapes(kernels.cpu_features())
    }
    variants["bit planes"] = dataclasses.replace(base, pixels=None, binary=kernels.KERNELS[-1].binary)
    for depth, neurons, rows in ((784, 256, 256), (784, 4096, 256), (784, 4096, 7), (784, 4096, 1), (3072, 1024, 256)):
        x = random_pixels(rows, depth)
        title = f"pixels, {depth} -> {neurons}, {rows} rows"
        compare(title, random_network((depth, neurons, 10)), 0, x, variants, seconds)


PARTS = {"bits": tune_bits, "pixels": tune_pixels}


def main() -> None:
    """Print one table per case."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="bits, pixels (default: both)")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per case")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are bits and pixels")
    for part in options.parts or PARTS:
        PARTS[part](options.seconds)


if __name__ == "__main__":
    main()

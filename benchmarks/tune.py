"""Which shape of the binary tile is fastest on this CPU: `python -m benchmarks.tune`.

Times all shapes that fit the registers on a square layer, at several depths and at one row and many, in turns, and prints
microseconds per row (the tenth percentile, which a busy machine disturbs least) with the best one marked.  The shapes in
`kernels.KERNELS` were chosen by this script.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from benchmarks.interleave import interleave
from benchmarks.networks import random_network, random_words
from xnorinfer import kernels
from xnorinfer.kernels.shapes import BinaryShape
from xnorinfer.plan import Plan


def candidates(features: frozenset[str]) -> list[BinaryShape]:
    """Shapes worth trying, by the registers of the CPU."""
    if "avx512vpopcntdq" in features:
        sizes = [(8, 1, 1), (8, 2, 1), (8, 4, 1), (8, 8, 1), (8, 2, 2), (8, 4, 2), (8, 8, 2), (8, 4, 3)]
        return [BinaryShape(lanes, vectors, levels, True) for lanes, vectors, levels in sizes]
    lanes = 4 if "avx2" in features else 2
    return [BinaryShape(lanes, vectors, levels, False) for vectors in (1, 2, 4) for levels in (1, 2, 3, 4)]


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="time per case")
    options = parser.parse_args()
    base = kernels.choose()
    shapes = candidates(kernels.cpu_features())
    table = kernels.KERNELS
    for width, rows in ((256, 256), (1024, 256), (4096, 256), (4096, 1), (16384, 16)):
        packed = random_network((64, width, width, 10), pixels=False)
        bits = random_words(np.random.default_rng(0), rows, width)
        calls, outputs = {}, {}
        for shape in shapes:
            kernels.KERNELS = (dataclasses.replace(base, name="candidate", binary=shape),)
            plan = Plan(packed, threads=1, kernel="candidate")
            out = outputs[str(shape)] = np.empty((rows, width // 64), np.uint64)
            calls[f"{shape.lanes}x{shape.vectors} levels {shape.levels}"] = lambda p=plan, x=bits, o=out: p.run_layers(
                x, o, 1, 2
            )
        kernels.KERNELS = table
        times = interleave(calls, options.seconds, quantile=0.1)
        first, *others = outputs.values()
        assert all(np.array_equal(first, other) for other in others), "shapes disagree"
        best = min(times, key=lambda name: times[name])
        print(f"{width} x {width}, {rows} rows")
        for name, seconds in times.items():
            mark = "  <- best" if name == best else ""
            print(f"  {name:16s} {seconds / rows * 1e6:9.3f} us/row  {seconds / times[best]:5.2f}{mark}")


if __name__ == "__main__":
    main()

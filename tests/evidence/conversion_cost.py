"""Time and peak memory of converting a large checkpoint: `python tests/evidence/conversion_cost.py`, without TensorFlow.

Writes a TensorFlow checkpoint of the reference network 784-4096-4096-4096-10 (147 MB), and converts it with the installed
command, a fresh process each time.  Peak memory is that of the whole process, Python and numpy included.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import numpy as np
from tf1_writer import write_bundle

from xnorinfer.converters.containers.crc32c import crc32c

REFERENCE = (784, 4096, 4096, 4096, 10)


def trained_looking(widths: tuple[int, ...]) -> dict[str, Any]:
    """Variables of the TF1 port of BinaryNet: latents clipped to -1..1, moments as large as sums of signs have them."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for index, (depth, neurons) in enumerate(itertools.pairwise(widths)):
        suffix = f"_{index}" if index else ""
        latent = rng.standard_normal((depth, neurons), np.float32)
        arrays[f"dense__binary_layer{suffix}/kernel"] = np.clip(latent, -1, 1, out=latent)
        arrays[f"dense__binary_layer{suffix}/bias"] = rng.standard_normal(neurons)
        norm = f"batch_normalization{suffix}"
        arrays[f"{norm}/gamma"], arrays[f"{norm}/beta"] = rng.standard_normal((2, neurons))
        arrays[f"{norm}/moving_mean"] = rng.standard_normal(neurons) * depth**0.5 / 4
        arrays[f"{norm}/moving_variance"] = depth * rng.uniform(0.5, 1.5, neurons)
    return arrays


def cost(checkpoint: Path, *options: str) -> tuple[float, int]:
    """Seconds and peak bytes (resident) of one conversion; the model is written beside the checkpoint."""
    command = Path(sys.executable).with_name("xnorinfer")
    arguments = [str(command), "convert", str(checkpoint), "-o", f"{checkpoint}.safetensors", *options]
    start = time.perf_counter()
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status  # waited for already
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_bundle(Path(folder), trained_looking(REFERENCE), crc32c)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        runs = [cost(checkpoint) for _ in range(arguments.repeat)]
    seconds, peak = statistics.median(run[0] for run in runs), max(run[1] for run in runs)
    print(f"{size / 1e6:.0f} MB checkpoint: {seconds:.1f} s, peak memory {peak / 1e6:.0f} MB = {peak / size:.2f} x its size")


if __name__ == "__main__":
    main()

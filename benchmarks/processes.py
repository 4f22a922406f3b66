"""What only a process of its own can tell: start-up and memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.networks import REFERENCE, random_network
from xnorinfer.packing import modelfile

ROOT = Path(__file__).resolve().parent.parent

FIRST_SCORES = """
import numpy as np, xnorinfer
model = xnorinfer.load({path!r})
print(model.scores(np.zeros((1, 784), np.uint8)).shape)
"""

GROWTH = """
import numpy as np, xnorinfer, xnorinfer.engine.model, xnorinfer.engine.plan, numba

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

before = resident()
model = xnorinfer.load({path!r})
model.scores(np.zeros((256, 784), np.uint8))
print(resident() - before)
"""


def _python(code: str, **environment: str) -> str:
    here = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a process of the benchmark failed:\n{done.stderr}")
    return done.stdout


def start_up(repeats: int = 5) -> dict[str, float]:
    """Seconds of whole processes that load the reference network and compute one score: first ever, and later ones.

    Also the growth of resident memory by loading and running it at batch 256, in bytes (Linux only).
    """
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "reference.safetensors")
        modelfile.save(random_network(REFERENCE), path)
        code = FIRST_SCORES.format(path=path)
        cache = {"XNORINFER_CACHE_DIR": str(Path(folder) / "cache")}

        def timed() -> float:
            begin = time.perf_counter()
            _python(code, **cache)
            return time.perf_counter() - begin

        result = {"first_start_seconds": timed(), "later_start_seconds": statistics.median(timed() for _ in range(repeats))}
        if sys.platform == "linux":
            result["memory_growth_bytes"] = float(_python(GROWTH.format(path=path), **cache))
    return result

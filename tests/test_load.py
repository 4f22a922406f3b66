"""One model under load: many threads, every way to start processes, and memory that comes back."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from networks import INPUTS, random_inputs, random_network

import xnorinfer
from xnorinfer.lower import lower
from xnorinfer.model import Model
from xnorinfer.reference import forward

NET = random_network(3, [64, 200, 70, 10], INPUTS["range"])
X = random_inputs(np.random.default_rng(0), NET.input, 120, 64)
WANT = forward(NET, X)


def classify(model: Model, rows: int) -> bool:
    """Body of a worker, also in another process: whether `rows` samples get the reference's scores."""
    return bool((model.scores(X[:rows]) == WANT[:rows]).all())


def test_32_threads_share_one_model() -> None:
    model = Model(lower(NET).packed)
    with concurrent.futures.ThreadPoolExecutor(32) as workers:
        sizes = np.random.default_rng(1).integers(0, 121, 1500).tolist()
        assert all(workers.map(lambda rows: classify(model, rows), sizes, timeout=120))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_started_after_use(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    script = (
        "import concurrent.futures, multiprocessing, sys\n"
        "sys.path.insert(0, 'tests')\n"
        "from test_load import NET, Model, classify, lower\n"
        "if __name__ == '__main__':\n"
        "    model = Model(lower(NET).packed, threads=2)\n"
        "    assert classify(model, 120)\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    with concurrent.futures.ProcessPoolExecutor(2, context) as workers:\n"
        "        print(all(workers.map(classify, [model] * 8, range(1, 121, 15), timeout=100)))\n"
    )
    # As a file: spawn imports the main module again.
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "main_script.py"
        path.write_text(script)
        done: Any = subprocess.run(
            [sys.executable, "-W", "ignore", str(path)],
            cwd=ROOT, capture_output=True, text=True, timeout=150, check=False, env={**os.environ, "PYTHONPATH": "tests"},
        )  # fmt: skip
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory as Linux counts it")
def test_1000_load_and_delete_cycles_give_their_memory_back(tmp_path: Any) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    Model(lower(NET).packed).save(tmp_path / "m")
    before = 0
    for cycle in range(1000):
        model = xnorinfer.load(tmp_path / "m", threads=1)
        model.scores(X[:2])
        del model
        before = resident() if cycle == 50 else before
    assert resident() - before < 20 << 20

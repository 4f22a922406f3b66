"""Everything that runs kernels, once more in processes that are restricted to older CPUs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import places
import pytest

#: Tests whose results depend on the CPU.  Not those that start processes of their own.
TESTS = [
    "test_bits.py",
    "test_model.py",
    "test_verify.py",
    "test_margins.py",
    "test_cli_run.py",
    "test_kernels.py",
    "test_kernels_pixels.py",
    "test_kernels_inputs.py",
    "test_kernels_maps.py",
    "test_plan.py",
    "test_packed_levels.py",
]


@pytest.mark.long
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the restricted CPUs are x86-64")
@pytest.mark.parametrize("cpu", ["generic", "haswell"])
def test_the_suite_on(cpu: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XNORINFER_", "PYTEST_"))}
    environment["NUMBA_CPU_NAME"] = cpu
    files = [str(file) for name in TESTS for file in places.TESTS.rglob(name)]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-n", "0", "-k", "not other_cpus"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    done = subprocess.run(command, env=environment, cwd=places.TESTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{cpu}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
    assert " passed" in done.stdout.splitlines()[-1]

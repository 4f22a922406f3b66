"""Machines with fewer instructions than this one: every library held to them by its own switch, before it is loaded.

So all sides of a row are of one kind of machine.  A library without a switch is left out, one that does not obey stops the
benchmark.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding
from threadpoolctl import threadpool_info

from benchmarks.openvino_binary import kernel_name
from xnorinfer.kernels import choose, native

#: Variable that tells a process that its libraries are held, and to what.
KEY = "BENCHMARKS_HELD_TO"
#: What machines have -> switches of: OpenBLAS; torch, its oneDNN and MKL; OpenVINO, whose oneDNN needs that of torch's, too.
SWITCHES: dict[str, dict[str, str]] = {
    "avx2": {
        "OPENBLAS_CORETYPE": "Haswell",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OV_CPU_MAX_ISA": "AVX2",
    },
    "x86-64": {
        "NUMBA_CPU_NAME": "generic",
        "OPENBLAS_CORETYPE": "Prescott",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OV_CPU_MAX_ISA": "SSE41",
    },
}
#: Words in what a library says of itself that such a machine lacks.
_AVX512 = ("avx512", "x86_v4", "skylakex", "cooperlake", "sapphirerapids")
LACKS = {"avx2": _AVX512, "x86-64": (*_AVX512, "avx2", "x86_v3", "haswell", "zen")}
#: Families of NumKong's kernels that such a machine has.
NUMKONG = {"avx2": ("serial", "haswell"), "x86-64": ("serial",)}
#: They have no switch.
LEFT_OUT = ("onnxruntime",)


def switches(isa: str) -> dict[str, str]:
    """What the environment of a process must hold."""
    found = {KEY: isa, **SWITCHES[isa]}
    if isa == "avx2":  # LLVM's name of the latest CPU of this maker without AVX-512
        found["NUMBA_CPU_NAME"] = "znver3" if binding.get_host_cpu_name().startswith("znver") else "haswell"
    beyond = [name for name in _numpy_found() if isa == "x86-64" or name == "X86_V4" or name.startswith("AVX512")]
    return {**found, "NPY_DISABLE_CPU_FEATURES": " ".join(beyond)}


def run_held(isa: str, module: str, arguments: Sequence[str]) -> int:
    """A module as a program, in a process whose libraries are held; its exit code."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env={**os.environ, **switches(isa)}, check=False).returncode


def hold(isa: str) -> list[str]:
    """What is left to do within such a process, at its begin; lines that say what was held to what.

    Raises RuntimeError where a library does not obey.
    """
    sys.modules.update(dict.fromkeys(LEFT_OUT))  # as if they were not installed
    numkong: Any = _imported("numkong")
    if numkong is not None:
        for name, has in numkong.get_capabilities().items():
            if has and name not in NUMKONG[isa]:
                numkong.disable_capability(name)
    used = {name: text for name, text in _used(numkong).items() if text}
    wrong = [f"{name} uses {text}" for name, text in used.items() if any(word in text.lower() for word in LACKS[isa])]
    if wrong:
        raise RuntimeError(f"not held to {isa}: {'; '.join(wrong)}")
    said = [f"held to {isa}: {', '.join(f'{name} to {text}' for name, text in used.items())}"]
    return said + [f"{name} is left out: it cannot be held to fewer instructions than the CPU has" for name in LEFT_OUT]


def _used(numkong: Any) -> dict[str, str]:
    """What each library says that it uses; empty where it is not installed."""
    torch, openvino = _imported("torch"), _imported("openvino")
    return {
        "xnorinfer": f"{choose().name} ({native.cpu()[1]})",
        "BLAS": ", ".join(str(one.get("architecture")) for one in threadpool_info() if one["user_api"] == "blas"),
        "numpy": ", ".join(_numpy_found()),
        "torch": "" if torch is None else torch.backends.cpu.get_cpu_capability(),
        "OpenVINO": "" if openvino is None else kernel_name(),
        "NumKong": "" if numkong is None else ", ".join(name for name, on in numkong.get_capabilities().items() if on),
    }


def _numpy_found() -> list[str]:
    """What numpy found beyond its baseline, in its own words."""
    found: list[str] = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])  # type: ignore[call-overload]
    return found


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None

"""The network of a packed model in other libraries: what else one could run it with, as fast as each of them has it.

A library is imported when it is asked for; what is not installed is named.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray

from xnorinfer.float32 import F32
from xnorinfer.packing.packed import PackedModel
from xnorinfer.speed.onnxnetwork import onnx_model
from xnorinfer.speed.peernetwork import Peer
from xnorinfer.speed.torchnetwork import torch_network


def peers(packed: PackedModel, rows: int, threads: int) -> list[Peer]:
    """Every library that is installed, ready for batches of so many rows on so many threads."""
    return [peer(name, packed, rows, threads) for name in installed()]


def installed() -> list[str]:
    """The names of those that can run here."""
    return [name for name in _PEERS if not why_left_out(name)]


def peer(name: str, packed: PackedModel, rows: int, threads: int) -> Peer:
    """One of them, of `NAMES`, that is installed."""
    return _PEERS[name][1](name, packed, rows, threads)


def left_out() -> list[str]:
    """What `peers` lacks, and why."""
    return [reason for name in _PEERS if (reason := why_left_out(name))]


def why_left_out(name: str) -> str:
    """Why one cannot run here; empty if it can."""
    missing = [package for package in _PEERS[name][0] if not _can_be_imported(package)]
    return f"{name} is left out: {', '.join(missing)} cannot be imported" if missing else ""


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    names = dict.fromkeys(name for packages, _ in _PEERS.values() for name in packages)
    return {name: importlib.import_module(name).__version__ for name in names if _can_be_imported(name)}


def _can_be_imported(name: str) -> bool:
    """Not either where a library of its own is not there."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        return False
    return True


# ---------------------------------------------------------------- ONNX Runtime, OpenVINO


def onnx_session(model: bytes, threads: int) -> Any:
    """An ONNX model in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _onnxruntime(name: str, packed: PackedModel, rows: int, threads: int, *, integers: bool) -> Peer:
    session = onnx_session(onnx_model(packed, rows, integers), threads)

    def scores(x: NDArray[Any]) -> F32:
        found: F32 = session.run(None, {"x": x})[0]
        return found

    return Peer(name, scores, packed.values[-1].shape)


def _openvino(name: str, packed: PackedModel, rows: int, threads: int) -> Peer:
    import openvino

    core = openvino.Core()
    # Left alone it takes bfloat16 where the CPU has it, which rounds sums.
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(onnx_model(packed, rows, False)), "CPU", settings).create_infer_request()

    def scores(x: NDArray[Any]) -> F32:
        found: F32 = request.infer({0: x}, share_inputs=True, share_outputs=True)[0]
        return found

    return Peer(name, scores, packed.values[-1].shape)


#: Name -> packages it needs, and what makes it: (name, packed, rows, threads).
_PEERS: dict[str, tuple[tuple[str, ...], Callable[[str, PackedModel, int, int], Peer]]] = {
    "torch float32": (("torch",), torch_network),
    "onnxruntime float32": (("onnx", "onnxruntime"), partial(_onnxruntime, integers=False)),
    "onnxruntime int8": (("onnx", "onnxruntime"), partial(_onnxruntime, integers=True)),
    "OpenVINO float32": (("onnx", "openvino"), _openvino),
}

#: Every library, installed or not.
NAMES = tuple(_PEERS)

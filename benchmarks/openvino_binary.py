"""OpenVINO's BinaryConvolution as a peer of one layer.

Its kernel alone counts, as its own profile has it: without making its bits of float32, and without limits, of borders or any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPENVINO = "OpenVINO BinaryConvolution, its kernel alone"


def openvino_binary(
    calls: dict[str, Callable[[], object]], x: NDArray[Any], w: NDArray[Any], pad: int, sums: NDArray[Any], threads: int
) -> list[str]:
    """Add a call of stride 1 that gives the seconds of its kernel; returns what was left out and why.

    x: (1, channels, height, width) signs, w: (neurons, channels, kernel height, width) signs, float32; sums: the right result.
    """
    try:
        request = _compiled(x, w, pad, threads)
    except ImportError:
        return ["OpenVINO BinaryConvolution: openvino is not installed"]

    def call() -> float:
        """Seconds of the kernel alone."""
        request.infer({0: x}, share_inputs=True, share_outputs=True)
        return sum(one.real_time.total_seconds() for one in _kernels(request))

    call()
    if not np.array_equal(np.array(request.get_output_tensor().data), sums):
        raise AssertionError("OpenVINO computes something else; its time would mean nothing")
    calls[OPENVINO] = call
    return []


def kernel_name() -> str:
    """What OpenVINO calls its code, as jit_avx2_u1.  Raises ImportError without it."""
    x, w = np.ones((1, 64, 4, 4), np.float32), np.ones((64, 64, 1, 1), np.float32)
    request = _compiled(x, w, 0, 1)
    request.infer({0: x})
    return ", ".join(str(one.exec_type) for one in _kernels(request))


def _kernels(request: Any) -> list[Any]:
    """The profile of the last inference, of that node."""
    return [one for one in request.profiling_info if one.node_type == "BinaryConvolution"]


def _compiled(x: NDArray[Any], w: NDArray[Any], pad: int, threads: int) -> Any:
    import openvino
    from openvino import opset13

    packed = np.packbits((w > 0).reshape(-1), bitorder="little")
    image = opset13.parameter(list(x.shape), np.float32)
    ends = [np.array(value, np.float32).reshape(1, 1, 1, 1) for value in (0, 0, 0, 1)]
    signs = opset13.fake_quantize(image, *map(opset13.constant, ends), 2)
    kernel = opset13.constant(openvino.Tensor(packed, openvino.Shape(list(w.shape)), openvino.Type.u1))
    pads = [pad, pad]
    product = opset13.binary_convolution(signs, kernel, [1, 1], pads, pads, [1, 1], "xnor-popcount", 0.0)
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
    return openvino.Core().compile_model(openvino.Model([product], [image]), "CPU", settings).create_infer_request()

"""ResNet-18 in 8 bits as an ONNX model of random weights: what one would run in place of a binary network of its shape.

Activations are uint8, of which 0 is the zero point, so that relu costs nothing; weights int8, with a scale a channel; the image
enters as the uint8 that it is.  These are the operators that ONNX Runtime's own quantization gives, which it computes in the
integers of VNNI where the CPU has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CLASSES = 1000


class _Quantized:
    """A graph whose values are uint8, each with the scale that keeps random sums in range."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(2)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, array: Any) -> str:
        import onnx

        self.constants.append(onnx.numpy_helper.from_array(np.asarray(array), f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def add(self, op: str, *inputs: Any, domain: str = "", **attributes: Any) -> str:
        import onnx

        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        output = f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, names, [output], domain=domain, **attributes))
        return output

    def convolution(self, value: str, channels: int, neurons: int, size: int, stride: int, *, signed: bool = False) -> str:
        """signed: of values around their zero point, 128."""
        weight = self.rng.integers(-127, 128, (neurons, channels, size, size), np.int8)
        scales = np.full(neurons, 0.02 / (channels * size * size) ** 0.5, np.float32)
        zero = np.uint8(128 if signed else 0)
        reads = value, np.float32(1), zero, weight, scales, np.zeros(neurons, np.int8), np.float32(1), np.uint8(0)
        pads = [(size - 1) // 2] * 2 + [size // 2] * 2
        return self.add("QLinearConv", *reads, np.zeros(neurons, np.int32), strides=[stride] * 2, pads=pads)

    def plus(self, value: str, other: str) -> str:
        one, zero = np.float32(1), np.uint8(0)
        return self.add("QLinearAdd", value, one, zero, other, one, zero, np.float32(2), zero, domain="com.microsoft")


def int8_resnet18(size: int) -> bytes:
    """x (1, 3, size, size) uint8 -> scores (1, 1000) float32."""
    import onnx

    made = _Quantized()
    value = made.convolution("x", 3, 64, 7, 2, signed=True)
    value = made.add("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for neurons in (64, 128, 256, 512):
        for _ in range(2):
            stride = neurons // channels
            inner = made.convolution(value, channels, neurons, 3, stride)
            inner = made.convolution(inner, neurons, neurons, 3, 1)
            value = made.plus(inner, value if stride == 1 else made.convolution(value, channels, neurons, 1, stride))
            channels = neurons
    one, zero = np.float32(1), np.uint8(0)
    value = made.add("QLinearGlobalAveragePool", value, one, zero, one, zero, domain="com.microsoft", channels_last=0)
    value = made.add("Flatten", value)
    weight = made.rng.integers(-127, 128, (channels, CLASSES), np.int8)
    value = made.add("MatMulInteger", value, weight, zero)
    made.add("Mul", made.add("Cast", value, to=onnx.TensorProto.FLOAT), np.float32(1e-3))
    graph = onnx.helper.make_graph(
        made.nodes,
        "resnet18",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, (1, 3, size, size))],
        [onnx.helper.make_tensor_value_info(made.nodes[-1].output[0], onnx.TensorProto.FLOAT, (1, CLASSES))],
        made.constants,
    )
    versions = [onnx.helper.make_opsetid("", 16), onnx.helper.make_opsetid("com.microsoft", 1)]
    found: bytes = onnx.helper.make_model(graph, opset_imports=versions, ir_version=8).SerializeToString()
    return found

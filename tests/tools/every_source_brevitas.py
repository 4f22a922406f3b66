"""Exports one network from Brevitas to QONNX: `python tests/tools/every_source_brevitas.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.export import export_qonnx
from one_network import EPSILON, WIDTHS, one_network
from places import TESTS
from qonnx.util.cleanup import cleanup

sys.path.insert(0, str(TESTS / "converters"))
from test_converters_brevitas import quantizers


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        weight, activation = quantizers(1.0, 1.0)
        self.stack = torch.nn.Sequential()
        for index, layer in enumerate(one_network()):
            neurons, depth = layer.weight.shape
            dense = qnn.QuantLinear(depth, neurons, bias=True, weight_quant=weight)
            norm = torch.nn.BatchNorm1d(neurons, eps=EPSILON)
            if index:
                self.stack.append(qnn.QuantIdentity(act_quant=activation))
            self.stack.extend([dense, norm])
            with torch.no_grad():
                for parameter, value in (
                    (dense.weight, layer.weight),
                    (dense.bias, layer.bias),
                    (norm.weight, layer.gamma),
                    (norm.bias, layer.beta),
                    (norm.running_mean, layer.mean),
                    (norm.running_var, layer.variance),
                ):
                    parameter.copy_(torch.from_numpy(value.copy()))

    def forward(self, x: Any) -> Any:
        return self.stack(2.0 * x - torch.tensor([1.0]))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    export_qonnx(Net().eval(), args=torch.rand(1, WIDTHS[0]), export_path=str(folder / "mapped.onnx"))
    cleanup(str(folder / "mapped.onnx"), out_file=str(folder / "cleaned.onnx"))

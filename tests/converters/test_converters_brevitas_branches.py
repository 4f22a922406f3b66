"""Networks of Brevitas' quantizers that branch, exported by export_qonnx: shortcuts and joins, activations of 1 to 3 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_converters_brevitas import _import, cleanup, export, qnn, torch

from xnorinfer.conversion import convert_file
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.engine.model import Model
from xnorinfer.net import reference
from xnorinfer.net.ops import Add, Concat, Levels, Quantize
from xnorinfer.proof.agreement import compare
from xnorinfer.proof.frameworks import framework_answers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
common = _import("brevitas_examples.bnn_pynq.models.common")
nn = torch.nn
SHAPE, CLASSES = (3, 8, 10), 5


class Unit(nn.Module):  # type: ignore[misc, name-defined]
    """Activation, binary convolution, BatchNorm; joined with what it read."""

    def __init__(self, channels: int, bits: int, *, joins: bool) -> None:
        super().__init__()
        self.act = qnn.QuantIdentity(act_quant=common.CommonActQuant, bit_width=bits)
        self.conv = qnn.QuantConv2d(
            channels, channels, 3, padding=1, bias=False, weight_quant=common.CommonWeightQuant, weight_bit_width=1
        )
        self.norm, self.joins = nn.BatchNorm2d(channels, eps=1e-4), joins

    def forward(self, x: Any) -> Any:
        y = self.norm(self.conv(self.act(x)))
        return torch.cat([x, y], 1) if self.joins else x + y


class Branching(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, bits: int, *, joins: bool) -> None:
        super().__init__()
        binary = {"weight_quant": common.CommonWeightQuant, "weight_bit_width": 1, "bias": False}
        self.entry = qnn.QuantIdentity(act_quant=common.CommonActQuant, bit_width=1)
        self.stem, self.norm = qnn.QuantConv2d(SHAPE[0], 8, 3, **binary), nn.BatchNorm2d(8, eps=1e-4)
        self.units = nn.Sequential(Unit(8, bits, joins=joins), Unit(16 if joins else 8, bits, joins=joins))
        wide = 32 if joins else 8
        self.pool = nn.MaxPool2d(2)
        self.act = qnn.QuantIdentity(act_quant=common.CommonActQuant, bit_width=bits)
        self.head = qnn.QuantLinear(wide * 3 * 4, CLASSES, **binary)

    def forward(self, x: Any) -> Any:
        x = self.norm(self.stem(self.entry(2.0 * x - torch.tensor([1.0]))))
        x = self.act(self.pool(self.units(x)))
        return self.head(x.view(x.shape[0], -1))


def built(bits: int, *, joins: bool) -> Any:
    torch.manual_seed(bits)
    net, random = Branching(bits, joins=joins), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, qnn.QuantLinear | qnn.QuantConv2d):
                layer.weight.uniform_(-1, 1, generator=random)
            elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.weight.normal_(generator=random)
                layer.bias.normal_(0, 0.3, generator=random)
                layer.running_mean.normal_(0, 3, generator=random)
                layer.running_var.uniform_(1, 30, generator=random)
    return net.eval()


@pytest.mark.parametrize("joins", [False, True], ids=["added", "joined"])
@pytest.mark.parametrize(("bits", "cleaned"), [(1, False), (2, True), (3, False)])
def test_packed_reference_and_qonnx_are_one(tmp_path: Path, bits: int, joins: bool, cleaned: bool, capsys: Any) -> None:
    net, path = built(bits, joins=joins), tmp_path / "net.onnx"
    export.export_qonnx(net, args=torch.rand(1, *SHAPE), export_path=str(path))
    if cleaned:
        cleanup(str(path), out_file=str(path))
    conversion = convert_file(path, ConvertOptions())
    read = conversion.reading.net
    assert sum(isinstance(op, Concat if joins else Add) for op in read.ops) == 2
    assert sum(isinstance(op, Quantize if bits == 1 else Levels) for op in read.ops) == 3
    images = np.random.default_rng(1).integers(0, 256, (24, *SHAPE), dtype=np.uint8)
    rows = conversion.reading.as_network(images)
    ours = reference.forward(read, rows)
    assert len(np.unique(ours, axis=0)) > 20
    np.testing.assert_array_equal(Model(conversion.packed, threads=1).scores(images), ours)
    answers = framework_answers(path, conversion.reading, ConvertOptions(), rows)
    assert answers.run is not None
    assert (answers.run.program, answers.run.framework) == (True, "onnx with qonnx"), answers.run.instead
    found = compare(answers, read, conversion.packed)
    assert (found.unexplained, found.undetermined) == (0, 0), found.text()
    assert found.shown > 30
    assert found.same > 0.5 * found.shown

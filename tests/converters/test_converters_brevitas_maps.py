"""Brevitas' CNV, smaller, exported by export_qonnx: convolutions without padding, BatchNorm, sign, then pools of signs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_converters_brevitas import TensorNorm, both_forms, cleanup, core, export, qnn, quantizers, solver, torch, zero_point

from xnorinfer.conversion import convert_file
from xnorinfer.converters import read_source
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.engine.model import Model
from xnorinfer.net import reference
from xnorinfer.net.ops import Levels, Linear, Pool
from xnorinfer.net.values import LevelValues, PixelInput, ThresholdInput
from xnorinfer.proof.agreement import compare
from xnorinfer.proof.frameworks import framework_answers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
nn = torch.nn
#: Channels and whether a pool follows, as CNV has them.
CHANNELS = ((8, False), (8, True), (12, False), (12, True))
SHAPE = (3, 18, 22)


class Inputs(solver.ActQuantSolver):  # type: ignore[misc, name-defined]
    """Q1.7, as CNV's first layer takes images."""

    bit_width_impl_type = core.BitWidthImplType.CONST
    bit_width = 8
    quant_type = core.QuantType.INT
    scaling_impl_type = core.ScalingImplType.CONST
    restrict_scaling_type = core.RestrictValueType.POWER_OF_TWO
    zero_point_impl = zero_point
    float_to_int_impl_type = core.FloatToIntImplType.ROUND
    scaling_per_output_channel = False
    narrow_range = False
    signed = True
    min_val = -1.0
    max_val = 1.0 - 2.0**-7


class Cnv(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, weight_scale: float | str, inputs: Any) -> None:
        super().__init__()
        weight, activation = quantizers(weight_scale, 1.0)
        self.conv, self.linear = nn.ModuleList(), nn.ModuleList()
        if inputs is not None:
            self.conv.append(qnn.QuantIdentity(act_quant=activation if inputs == "binary" else inputs))
        before = SHAPE[0]
        for channels, pooled in CHANNELS:
            self.conv.append(qnn.QuantConv2d(before, channels, kernel_size=3, bias=False, weight_quant=weight))
            self.conv += [nn.BatchNorm2d(channels, eps=1e-4), qnn.QuantIdentity(act_quant=activation)]
            if pooled:
                self.conv.append(nn.MaxPool2d(kernel_size=2))
            before = channels
        self.wide = before * 1 * 2
        self.linear.append(qnn.QuantLinear(self.wide, 16, bias=False, weight_quant=weight))
        self.linear += [nn.BatchNorm1d(16, eps=1e-4), qnn.QuantIdentity(act_quant=activation)]
        self.linear += [qnn.QuantLinear(16, 10, bias=False, weight_quant=weight), TensorNorm()]

    def forward(self, x: Any) -> Any:
        x = 2.0 * x - torch.tensor([1.0])
        for layer in self.conv:
            x = layer(x)
        x = x.view(x.shape[0], -1)
        for layer in self.linear:
            x = layer(x)
        return x


def build(weight_scale: float | str = 1.0, inputs: Any = "binary") -> Any:
    torch.manual_seed(0)
    net = Cnv(weight_scale, inputs)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, qnn.QuantLinear | qnn.QuantConv2d):
                layer.weight.uniform_(-1, 1, generator=random)
                layer.weight.view(-1)[:3] = torch.tensor([0.0, -0.0, 1e-9])
            elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.weight.normal_(generator=random)
                layer.weight[:3] = torch.tensor([-0.5, 1e-6, -1e-6])
                layer.bias.normal_(0, 0.3, generator=random)
                layer.running_mean.normal_(0, 3, generator=random)
                layer.running_var.uniform_(1, 30, generator=random)
    return net.eval()


def exported(net: Any, tmp_path: Path, *, cleaned: bool) -> Path:
    path = tmp_path / "net.onnx"
    export.export_qonnx(net, args=torch.rand(1, *SHAPE), export_path=str(path))
    if cleaned:
        cleanup(str(path), out_file=str(path))
    return path


def images() -> Any:
    return np.random.default_rng(11).integers(0, 256, (40, *SHAPE), dtype=np.uint8)


def framework_scores(net: Any, divisor: float = 255) -> Any:
    with torch.no_grad():
        scores = net(torch.from_numpy(images().astype(np.float32) / np.float32(divisor)))
    found = getattr(scores, "value", scores).numpy()
    assert np.unique(found.argmax(axis=1)).size >= 2
    return found


@both_forms
def test_cnv_gives_equal_scores(tmp_path: Path, cleaned: bool, capsys: Any) -> None:
    net = build()
    path = exported(net, tmp_path, cleaned=cleaned)
    conversion = convert_file(path, ConvertOptions())
    reading = conversion.reading
    assert [tensor.name for tensor in reading.tensors if tensor.ignored] == []
    assert reading.net.profile == "ge-zero"
    assert reading.net.input == ThresholdInput(128)
    assert [type(op) for op in reading.net.ops].count(Pool) == 2
    rows = reading.as_network(images())
    np.testing.assert_array_equal(reference.forward(reading.net, rows), framework_scores(net))
    np.testing.assert_array_equal(Model(conversion.packed).scores(images()), framework_scores(net))
    agreement = compare(framework_answers(path, reading, ConvertOptions(), rows[:8]), reading.net, conversion.packed)
    assert agreement.complete


def test_scales_of_each_neuron(tmp_path: Path, capsys: Any) -> None:
    net = build("channels")
    net(torch.zeros(1, *SHAPE))  # takes the scales from the weights
    for layer in net.modules():
        if isinstance(layer, qnn.QuantLinear | qnn.QuantConv2d):
            value = layer.weight_quant.tensor_quant.scaling_impl.value
            with torch.no_grad():
                powers = 2.0 ** torch.arange(-3, 2).repeat(5)[: len(value)]
                value.copy_(powers.reshape(-1, *(1,) * (value.ndim - 1)))
    reading = read_source(exported(net, tmp_path, cleaned=True))
    assert all(layer.scale is not None for layer in reading.net.ops if isinstance(layer, Linear))
    np.testing.assert_array_equal(reference.forward(reading.net, reading.as_network(images())), framework_scores(net))


@both_forms
def test_inputs_of_eight_bits(tmp_path: Path, cleaned: bool, capsys: Any) -> None:
    """Pixels that lie on the grid of the quantizer are themselves; others are rounded to it, one by one."""
    net = build(inputs=Inputs)
    path = exported(net, tmp_path, cleaned=cleaned)
    reading = read_source(path, ConvertOptions(input=PixelInput(1, 0, 256)))
    assert reading.net.input == PixelInput(1, -128, 128)
    np.testing.assert_array_equal(reference.forward(reading.net, reading.as_network(images())), framework_scores(net, 256))
    conversion = convert_file(path, ConvertOptions())
    assert conversion.reading.net.input == PixelInput.range(0, 1)
    (levels,) = (op.domain for op in conversion.reading.net.ops if isinstance(op, Levels))
    assert levels == LevelValues(-128, 127, 0, 2.0**-7)
    np.testing.assert_array_equal(Model(conversion.packed).scores(images()), framework_scores(net))
    rows = conversion.reading.as_network(images())
    agreement = compare(
        framework_answers(path, conversion.reading, ConvertOptions(), rows[:8]), conversion.reading.net, conversion.packed
    )
    assert agreement.complete

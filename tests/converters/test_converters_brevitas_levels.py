"""The networks of Brevitas' bnn_pynq examples, 1W1A and 1W2A, smaller: live, and exported by export_qonnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_converters_brevitas import _import, cleanup, export, torch

import xnorinfer
from xnorinfer.converters import Reading, read_source
from xnorinfer.converters.livetorch import LiveModule
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.engine.model import Model
from xnorinfer.net import reference
from xnorinfer.net.ops import Levels, Linear
from xnorinfer.net.values import LevelValues, ThresholdInput
from xnorinfer.packing.lower import lower

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
FC = _import("brevitas_examples.bnn_pynq.models.FC").FC

SHAPE = (1, 6, 7)
OTHERS = {"num_classes": 5, "weight_bit_width": 1, "in_channels": 1, "out_features": [24, 19], "in_features": SHAPE[1:]}


def filled(net: Any, seed: int) -> Any:
    """With statistics and weights as after training."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                layer.weight.normal_(generator=random)
                layer.weight[:3] = torch.tensor([-0.5, 0.0, 1e-6])
                layer.bias.normal_(0, 0.3, generator=random)
                layer.running_mean.normal_(0, 2, generator=random)
                layer.running_var.uniform_(1, 20, generator=random)
            elif hasattr(layer, "weight_quant"):
                layer.weight.uniform_(-1, 1, generator=random)
                layer.weight.view(-1)[:3] = torch.tensor([0.0, -0.0, 1e-9])
    return net.eval()


def fc(bits: int, of_input: int) -> Any:
    torch.manual_seed(0)
    return filled(FC(act_bit_width=bits, in_bit_width=of_input, **OTHERS), bits)


def images(rows: int = 400) -> Any:
    return np.random.default_rng(3).integers(0, 256, (rows, *SHAPE), dtype=np.uint8)


def framework_scores(net: Any, x: Any) -> Any:
    with torch.no_grad():
        scores = net(torch.from_numpy(x.astype(np.float32) / np.float32(255)))
    found = getattr(scores, "value", scores).numpy()
    assert np.unique(found.argmax(axis=1)).size >= 3
    return found


def live_reading(net: Any, shape: tuple[int, ...]) -> Reading:
    live = LiveModule(net)
    with live.ready():
        return live.by_export(ConvertOptions(), shape)


def file_reading(net: Any, path: Path, *, cleaned: bool) -> Reading:
    export.export_qonnx(net, args=torch.rand(1, *SHAPE), export_path=str(path))
    if cleaned:
        cleanup(str(path), out_file=str(path))
    return read_source(path)


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("way", "of_input"),
    [
        ("live", 2),
        ("cleaned", 1),
        *(pytest.param(*case, marks=LONG) for case in (("live", 1), ("exported", 1), ("exported", 2), ("cleaned", 2))),
    ],
)
def test_two_bits(tmp_path: Path, way: str, of_input: int, capsys: Any) -> None:
    """-1, 0 and +1: every sum of the framework is exact, and every score is the same float."""
    net = fc(2, of_input)
    reading = live_reading(net, SHAPE) if way == "live" else file_reading(net, tmp_path / "net.onnx", cleaned=way == "cleaned")
    found = [op.domain for op in reading.net.ops if isinstance(op, Levels)]
    assert found == [LevelValues(-1, 1)] * (2 + (of_input == 2))
    assert isinstance(reading.net.input, ThresholdInput) == (of_input == 1)
    assert all(op.binary for op in reading.net.ops if isinstance(op, Linear))
    x = images()
    ours = reference.forward(reading.net, reading.as_network(x))
    np.testing.assert_array_equal(ours, framework_scores(net, x))
    np.testing.assert_array_equal(Model(lower(reading.net).packed).scores(x), ours)


@pytest.mark.parametrize("bits", [pytest.param(3, marks=LONG), 4])
def test_more_bits(tmp_path: Path, bits: int, capsys: Any) -> None:
    """A scale of 1/3 or 1/7: Brevitas rounds products and sums, which moves the next level of few values."""
    net = fc(bits, 2)
    reading = file_reading(net, tmp_path / "net.onnx", cleaned=True)
    most = 2 ** (bits - 1) - 1
    hidden = [op.domain for op in reading.net.ops if isinstance(op, Levels)][1:]
    assert [(one.low, one.high, one.step) for one in hidden] == [(-most, most, float(np.float32(1 / most)))] * 2
    x = images()
    ours, theirs = reference.forward(reading.net, reading.as_network(x)), framework_scores(net, x)
    near = np.isclose(ours, theirs, rtol=1e-5, atol=1e-5).all(axis=1)
    assert near.mean() > 0.99
    np.testing.assert_array_equal(reference.forward(live_reading(net, SHAPE).net, reading.as_network(x)), ours)


@pytest.mark.parametrize(("bits", "of_input"), [pytest.param(1, 1, marks=LONG), pytest.param(2, 2, marks=LONG), (1, 8)])
def test_live_modules(bits: int, of_input: int) -> None:
    net = fc(bits, of_input)
    x = images()
    np.testing.assert_array_equal(xnorinfer.from_torch(net, example=x).scores(x), framework_scores(net, x))


@pytest.mark.parametrize("bits", [pytest.param(1, marks=LONG), 2])
def test_cnv(tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Inputs of 8 bits in steps of 1/128, which pixels / 255 do not lie on."""
    module = _import("brevitas_examples.bnn_pynq.models.CNV")
    pooled = (False, True, False, True, False, False)
    monkeypatch.setattr(module, "CNV_OUT_CH_POOL", [(4 * place + 8, one) for place, one in enumerate(pooled)])
    monkeypatch.setattr(module, "INTERMEDIATE_FC_FEATURES", [(28, 40), (40, 30)])
    monkeypatch.setattr(module, "LAST_FC_IN_FEATURES", 30)
    torch.manual_seed(0)
    net = filled(module.CNV(num_classes=10, weight_bit_width=1, act_bit_width=bits, in_bit_width=8, in_ch=3), bits)
    x = np.random.default_rng(4).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    want = framework_scores(net, x)
    np.testing.assert_array_equal(xnorinfer.from_torch(net, example=x).scores(x), want)
    path = tmp_path / "net.onnx"
    export.export_qonnx(net, args=torch.rand(1, 3, 32, 32), export_path=str(path))
    reading = read_source(path)
    levels = [op.domain for op in reading.net.ops if isinstance(op, Levels)]
    assert levels == [LevelValues(-128, 127, 0, 2.0**-7), *[LevelValues(-1, 1)] * (8 if bits == 2 else 0)]
    rows = reading.as_network(x)
    np.testing.assert_array_equal(reference.forward(reading.net, rows), want)
    np.testing.assert_array_equal(Model(lower(reading.net).packed).scores(rows), want)

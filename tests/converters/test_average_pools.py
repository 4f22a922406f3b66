"""Averages whose last windows reach beyond the map, that count what pads it, or divide by a number of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import xnorinfer  # noqa: E402
from xnorinfer.converters import ConvertOptions, Reading, read_source  # noqa: E402
from xnorinfer.errors import NetworkError  # noqa: E402
from xnorinfer.net import reference  # noqa: E402
from xnorinfer.net.values import PixelInput  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
SHAPE = (3, 7, 8)
PIXELS = np.random.default_rng(1).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
#: Of `AvgPool2d`.  Whole numbers are summed, so that all of them are exact.
POOLS: dict[str, dict[str, Any]] = {
    "ceil": {"kernel_size": 2, "ceil_mode": True},
    "ceil, apart": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "ceil, padded": {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True},
    "ceil, padded, inside": {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True, "count_include_pad": False},
    "padded": {"kernel_size": 4, "stride": 3, "padding": 1},
    "sums": {"kernel_size": 2, "divisor_override": 1},
    "half of the window": {"kernel_size": (3, 2), "stride": 2, "padding": 1, "divisor_override": 3},
    "ceil, eighths": {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True, "divisor_override": 8},
}


def module(pool: dict[str, Any], before: Any = None) -> Any:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    conv.weight.data = torch.randint(-2, 3, conv.weight.shape).float()
    conv.bias.data = torch.randint(-9, 9, conv.bias.shape).float()

    class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.last = conv, torch.nn.AvgPool2d(**pool), torch.nn.Conv2d(8, 8, 1, bias=False)
            self.last.weight.data = torch.where(self.last.weight.data >= 0, 1.0, -1.0)

        def forward(self, x: Any) -> Any:
            x = self.conv(x)
            x = self.pool(x if before is None else before(x)) + 0.25
            return self.last(torch.where(x >= 0, 1.0, -1.0))

    return Network().eval()


def read(path: Path) -> Reading:
    return read_source(path, ConvertOptions(input=PixelInput.range(0, 255)))


def assert_alike(net: Any, path: Path) -> None:
    reading = read(path)
    with torch.no_grad():
        wanted = net(torch.from_numpy(PIXELS.astype(np.float32))).numpy()
    rows = reading.as_network(PIXELS)
    ours = reference.forward(reading.net, rows)
    wanted = np.moveaxis(wanted, 1, -1).reshape(len(PIXELS), -1)
    np.testing.assert_array_equal(ours.reshape(wanted.shape), wanted)
    packed = xnorinfer.pack(reading.net)
    assert (packed.scores(rows.reshape(-1, *reading.net.shape)).reshape(wanted.shape) == wanted).all()


@pytest.mark.parametrize("pool", POOLS)
def test_of_pytorch(pool: str, tmp_path: Path) -> None:
    net, path = module(POOLS[pool]), tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net, (torch.rand(2, *SHAPE),), strict=False), path)
    assert_alike(net, path)


@pytest.mark.parametrize("pool", [name for name, said in POOLS.items() if "divisor_override" not in said])
def test_of_onnx(pool: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    net, path = module(POOLS[pool]), tmp_path / "net.onnx"
    torch.onnx.export(net, (torch.rand(2, *SHAPE),), str(path), dynamo=False, opset_version=19)
    assert_alike(net, path)


def test_behind_a_border_of_the_graph(tmp_path: Path) -> None:
    """What the graph pads is counted as its map is, whatever the number."""
    for number in (0.0, 3.0):
        net = module(POOLS["ceil"], before=lambda x, number=number: torch.nn.functional.pad(x, (1, 2, 0, 1), value=number))
        path = tmp_path / f"net{number:g}.pt2"
        torch.export.save(torch.export.export(net, (torch.rand(2, *SHAPE),), strict=False), path)
        assert_alike(net, path)


def test_a_divisor_that_rounds_twice(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    net = module({"kernel_size": 2, "divisor_override": 3})
    torch.export.save(torch.export.export(net, (torch.rand(2, *SHAPE),), strict=False), path)
    with pytest.raises(
        NetworkError, match=r"divides the sums of its windows by 3, needed is the 4 of a window, times a power of"
    ):
        read(path)

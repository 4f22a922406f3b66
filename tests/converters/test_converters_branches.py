"""Networks of PyTorch that branch, by every file that it writes: their graphs are walked, and give PyTorch's scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch_branches = pytest.importorskip("torch_branches", reason="PyTorch is not installed", exc_type=ImportError)

from torch_maps import WRITTEN, scores, write  # noqa: E402

import xnorinfer  # noqa: E402
from xnorinfer.converters import ConvertOptions, read_source  # noqa: E402
from xnorinfer.converters.livetorch import LiveModule  # noqa: E402
from xnorinfer.net import reference  # noqa: E402
from xnorinfer.net.values import PixelInput  # noqa: E402

#: torch.jit warns that it will go, the exporters of much.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
PIXELS = PixelInput.range(0, 255)
#: Networks that the newer exporter writes, which takes seconds, and those that cannot be written so.
BY_DYNAMO, UNWRITTEN = (
    ("meliusnet", "channels apart"),
    (
        ("reactnet", "scripted"),
        ("channels shuffled", "onnx"),
        ("meliusnet written into", "onnx"),
        ("bases", "onnx"),
        ("reduced", "onnx"),
    ),
)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (name, how)
        for name in torch_branches.NETWORKS
        for how in WRITTEN
        if ("dynamo" not in how or name in BY_DYNAMO) and (name, how) not in UNWRITTEN
    ],
)
def test_the_oracle_gives_pytorchs_scores(tmp_path: Path, name: str, how: str) -> None:
    for package in () if "onnx" not in how else ("onnx", *(("onnxscript",) if "dynamo" in how else ())):
        pytest.importorskip(package)
    net, shape = torch_branches.network(name), torch_branches.SAMPLE
    x = np.random.default_rng(1).integers(0, 256, (6, *shape), dtype=np.uint8)
    options = ConvertOptions(input=PIXELS, input_shape=shape if how == "scripted" else None)
    reading = read_source(write(net, shape, tmp_path, how), options)
    assert not reading.warnings
    np.testing.assert_allclose(reference.forward(reading.net, reading.as_network(x)), scores(net, x), rtol=1e-5)


@pytest.mark.parametrize("name", [*torch_branches.NETWORKS, *torch_branches.WHOLE])
def test_packed_and_live(name: str) -> None:
    """The packed network gives the oracle's scores, bit by bit, and the module's own answers are compared with them."""
    net = torch_branches.network(name, seed=2)
    shape = torch_branches.WHOLE_SAMPLE if name in torch_branches.WHOLE else torch_branches.SAMPLE
    x = np.random.default_rng(3).integers(0, 256, (5, *shape), dtype=np.uint8)
    model = xnorinfer.from_torch(net, example=x, input_range=(0, 255))
    reading = LiveModule(net)
    with reading.ready():
        read = reading.by_export(ConvertOptions(input=PIXELS), shape)
    ours = reference.forward(read.net, read.as_network(x))
    np.testing.assert_array_equal(model.scores(read.as_network(x)), ours)
    np.testing.assert_allclose(ours, scores(net, x), rtol=1e-5)
    assert not model.report.warnings

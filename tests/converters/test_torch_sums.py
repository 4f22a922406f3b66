"""What PyTorch's programs compute of their weights before they run is summed in PyTorch's own order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.converters.graphs.torchsums import MOST_TERMS, torch_sum
from xnorinfer.net.values import PixelInput
from xnorinfer.packing.lower import lower
from xnorinfer.proof.agreement import compare
from xnorinfer.proof.frameworks import framework_answers

torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
#: torch.jit warns that it will go, the exporters of much.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
#: Shapes, and which axes are summed.
SUMS = (
    ((16, 8, 3, 3), (1, 2, 3)),
    ((16, 8, 3, 3), (1,)),
    ((16, 8, 3, 3), (0, 1)),
    ((5, 6, 7, 7), (1,)),
    ((48, 64, 3), (-1, -2)),
    ((24, 5), (1,)),
    ((7, 7), (0,)),
    ((6, 2), (0,)),
    ((5, 3000, 1), (1,)),
    ((300, 70), (0,)),
    ((12, 9), None),
)


@pytest.mark.parametrize(("shape", "axes"), SUMS, ids=str)
def test_sums_are_torchs_own(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> None:
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("the order is that of AVX2")
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for array in (x, np.abs(x)):
        tensor = torch.from_numpy(array)
        dims = tuple(range(len(shape))) if axes is None else axes
        wanted = {
            "ReduceSum": tensor.sum(dims),
            "ReduceMean": tensor.mean(dims),
            "ReduceL1": torch.linalg.vector_norm(tensor, 1, dims),
        }
        for operation, want in wanted.items():
            found = torch_sum(operation, array, axes)
            assert found is not None
            np.testing.assert_array_equal(found, want.numpy())


def test_other_sums_are_left_to_others() -> None:
    x = np.zeros((4, 5, 6), np.float32)
    assert torch_sum("ReduceSum", x, (0, 2)) is None
    assert torch_sum("ReduceL2", x, (2,)) is None
    assert torch_sum("ReduceSum", x.astype(np.float64), (2,)) is None
    assert torch_sum("ReduceSum", x.transpose(1, 0, 2), (2,)) is None
    assert torch_sum("ReduceSum", np.zeros((2, MOST_TERMS + 1), np.float32), (1,)) is None
    assert torch_sum("ReduceSum", np.float32(1), None) is None


class Scaled(torch.nn.Conv2d):
    """XNOR-Net's: a convolution of signs, then times the mean magnitude of each neuron's weights."""

    def forward(self, x):  # type: ignore[no-untyped-def]
        signs = torch.where(self.weight >= 0, 1.0, -1.0)
        scale = self.weight.abs().mean((1, 2, 3)).view(1, -1, 1, 1)
        return torch.nn.functional.conv2d(torch.where(x >= 0, 1.0, -1.0), signs, padding=1) * scale


@pytest.mark.parametrize("how", ["export", "traced", "onnx"])
def test_a_scale_behind_a_layer_is_the_frameworks_own(tmp_path: Path, how: str) -> None:
    """Bit for bit where PyTorch runs it; ONNX Runtime sums in an order of its own, which a bound explains."""
    if how == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    from torch_maps import write

    torch.manual_seed(0)
    norms = [torch.nn.BatchNorm2d(width) for width in (16, 16, 24)]
    for norm in norms:
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 1.0, 9.0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        norms[0],
        Scaled(16, 16, 3),
        norms[1],
        Scaled(16, 24, 3),
        norms[2],
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(24, 5),
    ).eval()
    path, options = write(net, (3, 6, 8), tmp_path, how), ConvertOptions(input=PixelInput.range(0, 1))
    reading = read_source(path, options)
    x = np.random.default_rng(1).integers(0, 256, (6, reading.net.depth), dtype=np.uint8)
    agreement = compare(framework_answers(path, reading, options, x), reading.net, lower(reading.net).packed)
    assert agreement.complete
    assert agreement.other is None
    assert agreement.shown

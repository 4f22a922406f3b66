"""Real Brevitas networks, exported by export_qonnx with and without QONNX's cleanup, against Brevitas' own forward pass."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnorinfer.converters import Reading, from_torch_module, read_source
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear
from xnorinfer.net.values import PixelInput, ThresholdInput

# The frameworks warn about missing speed-ups and their own deprecations, already when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def _import(name: str) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


torch = _import("torch")
qnn = _import("brevitas.nn")
export = _import("brevitas.export")
_import("onnxoptimizer")  # export_qonnx refuses to run without it
cleanup = _import("qonnx.util.cleanup").cleanup
core = _import("brevitas.inject.enum")
solver = _import("brevitas.quant.solver")
injector = _import("brevitas.inject").ExtendedInjector
zero_point = _import("brevitas.core.zero_point").ZeroZeroPoint

WIDTHS = (24, 17, 12, 5)


def quantizers(weight_scale: float | str, activation_scale: float) -> tuple[Any, Any]:
    """Weight and activation quantizers spelled as in Brevitas' bnn_pynq examples.  weight_scale "learned": a parameter;
    "channels": one for each neuron."""

    class Common(injector):  # type: ignore[misc, valid-type]
        bit_width_impl_type = core.BitWidthImplType.CONST
        bit_width = 1
        quant_type = core.QuantType.BINARY
        scaling_impl_type = core.ScalingImplType.CONST
        restrict_scaling_type = core.RestrictValueType.FP
        zero_point_impl = zero_point
        float_to_int_impl_type = core.FloatToIntImplType.ROUND
        scaling_per_output_channel = False
        narrow_range = True
        signed = True

    class Weight(Common, solver.WeightQuantSolver):  # type: ignore[misc, name-defined]
        if weight_scale == "channels":
            scaling_impl_type = core.ScalingImplType.PARAMETER_FROM_STATS
            scaling_stats_op = core.StatsOp.AVE
            scaling_per_output_channel = True
        elif isinstance(weight_scale, str):
            scaling_impl_type = core.ScalingImplType.PARAMETER
            scaling_init = 0.2
        else:
            scaling_const = weight_scale

    class Activation(Common, solver.ActQuantSolver):  # type: ignore[misc, name-defined]
        min_val = -activation_scale
        max_val = activation_scale

    return Weight, Activation


class TensorNorm(torch.nn.Module):  # type: ignore[misc, name-defined]
    """The head's norm in the bnn_pynq examples: one number each for the mean, the variance, gamma and beta."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.75]))
        self.bias = torch.nn.Parameter(torch.tensor([-1.125]))
        self.register_buffer("running_mean", torch.tensor([0.375]))
        self.register_buffer("running_var", torch.tensor([17.0]))

    def forward(self, x: Any) -> Any:
        return ((x - self.running_mean) / (self.running_var + 1e-4).pow(0.5)) * self.weight + self.bias


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    """FC of bnn_pynq (LFC, TFC), smaller."""

    def __init__(
        self,
        *,
        weight_scale: float | str = 1.0,
        activation_scale: float = 1.0,
        norm_head: bool = False,
        bias: bool = False,
        binary_input: bool = True,
    ) -> None:
        super().__init__()
        weight, activation = quantizers(weight_scale, activation_scale)
        self.features = torch.nn.ModuleList()
        if binary_input:
            self.features.append(qnn.QuantIdentity(act_quant=activation))
        for depth, neurons in itertools.pairwise(WIDTHS):
            self.features.append(torch.nn.Dropout(0.2))
            self.features.append(qnn.QuantLinear(depth, neurons, bias=bias, weight_quant=weight))
            if neurons != WIDTHS[-1]:
                self.features.append(torch.nn.BatchNorm1d(neurons))
                self.features.append(qnn.QuantIdentity(act_quant=activation))
        self.features.append(torch.nn.BatchNorm1d(WIDTHS[-1]) if norm_head else TensorNorm())

    def forward(self, x: Any) -> Any:
        x = 2.0 * x.view(x.shape[0], -1) - torch.tensor([1.0])
        for layer in self.features:
            x = layer(x)
        return x


def build(seed: int, **options: Any) -> Any:
    torch.manual_seed(seed)
    net = Net(**options)
    weight_scale = options.get("weight_scale", 1.0)
    of_weights = {"learned": 0.2, "channels": 0.5}.get(weight_scale, weight_scale)
    unit = of_weights * options.get("activation_scale", 1.0)  # of the sums
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, qnn.QuantLinear):
                layer.weight.uniform_(-1, 1, generator=generator)
                layer.weight[0, :3] = torch.tensor([0.0, -0.0, 1e-9])
            elif isinstance(layer, torch.nn.BatchNorm1d):
                layer.weight.normal_(generator=generator)
                if layer.num_features != WIDTHS[-1]:  # in the head one class would be the largest everywhere
                    layer.weight[:4] = torch.tensor([-0.5, 0.0, 1e-6, -1e-6])
                layer.bias.normal_(0, 0.3, generator=generator)
                layer.running_mean.normal_(0, 2 * unit, generator=generator)
                layer.running_var.uniform_(0.1 * unit**2, 9 * unit**2, generator=generator)
    return net.eval()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The exporter logs and prints its progress."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def exported(net: Any, tmp_path: Path, cleaned: bool) -> Path:
    path = tmp_path / "net.onnx"
    with contextlib.redirect_stdout(io.StringIO()):
        export.export_qonnx(net, args=torch.rand(1, 1, 4, 6), export_path=str(path))
        if cleaned:
            cleanup(str(path), out_file=str(path))
    return path


def images() -> Any:
    return np.random.default_rng(11).integers(0, 256, (1000, WIDTHS[0]), dtype=np.uint8)


def framework_scores(net: Any) -> Any:
    with torch.no_grad():
        scores = net(torch.from_numpy(images().astype(np.float32) / np.float32(255)).reshape(-1, 1, 4, 6))
    found = getattr(scores, "value", scores).numpy()
    assert np.unique(found.argmax(axis=1)).size >= 3  # else equal predictions would say little
    return found


def convert(net: Any, tmp_path: Path, cleaned: bool) -> Reading:
    reading = read_source(exported(net, tmp_path, cleaned))
    assert [tensor.name for tensor in reading.tensors if tensor.ignored] == []
    assert reading.net.profile == "ge-zero"
    return reading


both_forms = pytest.mark.parametrize("cleaned", [False, True], ids=["exported", "cleaned"])


@both_forms
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_the_scores_of_the_bnn_pynq_network_are_equal(tmp_path: Path, cleaned: bool, bias: bool) -> None:
    """Sums of +-1 are exact in any order: with a head of elementary operations every score is the same float."""
    net = build(4, bias=bias)
    if bias:  # multiples of 1/64: their sums with integers are exact, whichever way a matrix library adds them
        with torch.no_grad():
            for layer in net.modules():
                if isinstance(layer, qnn.QuantLinear):
                    layer.bias.copy_((layer.bias * 64).round() / 64)
    reading = convert(net, tmp_path, cleaned)
    assert reading.net.input == ThresholdInput(128)
    np.testing.assert_array_equal(reference.forward(reading.net, images()), framework_scores(net))


def test_batch_norm_head(tmp_path: Path) -> None:
    net = build(7, norm_head=True)
    ours, theirs = reference.forward(convert(net, tmp_path, False).net, images()), framework_scores(net)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


@both_forms
def test_pixels_that_are_not_binarized(tmp_path: Path, cleaned: bool) -> None:
    """Only Brevitas' float32 sums over pixels may round: predictions may differ where that moves a first threshold."""
    net = build(3, binary_input=False)
    reading = convert(net, tmp_path, cleaned)
    assert reading.net.input == PixelInput.range(-1, 1)
    ours, theirs = reference.forward(reading.net, images()), framework_scores(net)
    different = (ours != theirs).any(axis=1)
    assert set(np.flatnonzero(different)) <= near_first_threshold(net)


def near_first_threshold(net: Any) -> set[int]:
    """Images with a first-layer value, in float64, that lies within float32 rounding of its sign's tie."""
    layer, norm = next(
        (a, b)
        for a, b in itertools.pairwise(net.features)
        if isinstance(a, qnn.QuantLinear) and isinstance(b, torch.nn.BatchNorm1d)
    )
    weight = np.where(layer.weight.detach().numpy() >= 0, 1.0, -1.0)
    gamma, beta, mean, variance = (
        t.detach().numpy().astype(np.float64) for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    slope = gamma / np.sqrt(variance + norm.eps)
    value = ((images() * (2 / 255) - 1) @ weight.T - mean) * slope + beta
    return set(np.flatnonzero((np.abs(value) <= 1e-5 * (np.abs(slope) * WIDTHS[0] + np.abs(beta))).any(axis=1)))


@pytest.mark.parametrize(("weight_scale", "activation_scale"), [(0.5, 0.25), (0.1, 0.3), ("learned", 1.0)])
def test_scales_of_the_quantizers(tmp_path: Path, weight_scale: float | str, activation_scale: float) -> None:
    """A scale that is no power of two makes Brevitas round in its sums: then only tied scores may be ordered differently."""
    net = build(4, weight_scale=weight_scale, activation_scale=activation_scale)
    reading = convert(net, tmp_path, True)
    scale = np.float32(0.2 if isinstance(weight_scale, str) else weight_scale)
    hs = [layer.h for layer in reading.net.ops if isinstance(layer, Linear)]
    np.testing.assert_allclose(hs, float(scale) * activation_scale, rtol=1e-6)
    ours, theirs = reference.forward(reading.net, images()), framework_scores(net)
    if weight_scale == 0.5:
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    rows = np.arange(len(ours))
    np.testing.assert_allclose(ours[rows, theirs.argmax(axis=1)], ours.max(axis=1), rtol=0, atol=1e-6)


@both_forms
@pytest.mark.parametrize("exact", [True, False], ids=["powers of two", "any"])
def test_scales_of_each_neuron(tmp_path: Path, cleaned: bool, exact: bool) -> None:
    net = build(4, weight_scale="channels")
    net(torch.zeros(1, 1, 4, 6))  # takes the scales from the weights
    scales = []
    for layer in net.modules():
        if isinstance(layer, qnn.QuantLinear):
            value = layer.weight_quant.tensor_quant.scaling_impl.value
            assert value.shape == (layer.out_features, 1)
            with torch.no_grad():
                if exact:  # Brevitas rounds none of its sums
                    value.copy_(2.0 ** torch.arange(-3, 2).repeat(5)[: len(value), None])
            scales.append(layer.quant_weight().scale.detach().numpy().reshape(-1))
    reading = convert(net, tmp_path, cleaned)
    for layer, wanted in zip((o for o in reading.net.ops if isinstance(o, Linear)), scales, strict=True):
        assert layer.h == 1
        np.testing.assert_array_equal(layer.scale, wanted)
    ours, theirs = reference.forward(reading.net, images()), framework_scores(net)
    if exact:
        np.testing.assert_array_equal(ours, theirs)
    else:
        near = np.abs(ours - theirs).max(axis=1) <= 1e-5
        assert near.mean() > 0.99  # the others: a sum within Brevitas' rounding of a tie
        np.testing.assert_array_equal(ours.argmax(axis=1)[near], theirs.argmax(axis=1)[near])


@pytest.mark.parametrize("weight_scale", [1.0, "learned"])
def test_live_module_is_refused_and_names_the_way(weight_scale: float | str) -> None:
    """Constant scales are in no state dict and quantizers are code: only the exported graph says what they do."""
    with pytest.raises(NetworkError, match="export_qonnx"):
        from_torch_module(build(5, weight_scale=weight_scale), ConvertOptions())


def test_state_dict_with_learned_scales_is_refused_and_names_the_way(tmp_path: Path) -> None:
    torch.save(build(6, weight_scale="learned").state_dict(), tmp_path / "net.pt")
    with pytest.raises(NetworkError, match=r"weight_quant is a quantizer.*export_qonnx") as caught:
        read_source(tmp_path / "net.pt")
    assert len(caught.value.problems) <= 2  # nothing that only follows from it
    with pytest.raises(NetworkError, match=r"scaling_impl\.value.*export_qonnx"):
        read_source(tmp_path / "net.pt", ConvertOptions(h=1.0, input=ThresholdInput(128)))


def test_state_dict_with_constant_scales(tmp_path: Path) -> None:
    """Only the names of modules tell that it is Brevitas': refused, until --h says that it is binary, and its scale."""
    net = build(7, norm_head=True, activation_scale=0.5)
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, tmp_path / "net.pt")
    with pytest.raises(
        NetworkError, match=r"(?s)features\.2\.weight_quant is a quantizer.*export_qonnx.*--h.*--input-threshold"
    ):
        read_source(tmp_path / "net.pt")
    with pytest.raises(NetworkError, match=r"features\.0\.act_quant quantizes the inputs.*--input-threshold"):
        read_source(tmp_path / "net.pt", ConvertOptions(h=0.5, input=PixelInput.range(-1, 1)))
    reading = read_source(tmp_path / "net.pt", ConvertOptions(h=0.5, input=ThresholdInput(128)))
    assert reading.net.profile == "ge-zero"
    np.testing.assert_array_equal(reference.forward(reading.net, images()), framework_scores(net))

"""Behind the first sign every float32 is the framework's own, bit for bit, given what enters: but for sums of floats, whose
order is the framework's, its tanh and sigmoid."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from places import DATA, unpack

from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Norm, Pool, Quantize, Steps
from xnorinfer.net.reference import batch_norm
from xnorinfer.net.values import PixelInput
from xnorinfer.proof.frameworks import framework_answers
from xnorinfer.proof.frameworks.program import Array
from xnorinfer.proof.frameworks.rounding import RoundedNet
from xnorinfer.proof.frameworks.stepwise import walk

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # larq is written for Keras 2; read when TensorFlow is imported
ROWS = 6
TORCH = ("birealnet", "quicknet", "binarydensenet", "meliusnet", "reactnet", "gated", "scaled")
#: torch.jit warns that it will go, the exporters of much.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def sums_floats(net: Net, index: int) -> bool:
    """Whether a node adds floats up, or is the bias that such a layer adds itself, or a function that is no arithmetic."""
    node = net.nodes[index]
    match node.op:
        case Linear(binary=binary):
            return not binary
        case Pool(kind=kind):
            return kind == "average"
        case Steps(steps=steps):
            before = net.nodes[node.inputs[0]].op if node.inputs[0] >= 0 else None
            return any(step.function in ("tanh", "sigmoid") for step in steps) or (
                isinstance(before, Linear) and not before.binary
            )
    return False


def others(net: Net, x: Array, values: list[Array]) -> list[str]:
    """The nodes behind the first sign whose values, of a framework, are not ours bit for bit of what enters them there, and
    that sum no floats."""
    found = walk(RoundedNet(net), x, values)
    first = next(index for index, node in enumerate(net.nodes) if isinstance(node.op, Quantize))
    behind = range(first, len(net.nodes) - 1)
    assert found.other == [None] * ROWS
    alone = sum(isinstance(net.nodes[index].op, Linear) and sums_floats(net, index) for index in behind)  # without their biases
    assert (found.values >= len(behind) - alone).all()
    return [net.nodes[index].name for index in behind if net.nodes[index].name in found.rounded and not sums_floats(net, index)]


def run(path: Path, options: ConvertOptions) -> tuple[Net, list[str]]:
    """A file, and those of the framework that runs it."""
    reading = read_source(path, options)
    x = np.random.default_rng(1).integers(0, 256, (ROWS, reading.net.depth), dtype=np.uint8)
    answers = framework_answers(path, reading, options, x)
    assert answers.run is not None
    assert answers.run.program, answers.run.instead
    assert answers.inner is not None
    _, *values = answers.inner(np.arange(ROWS), frozenset(value.width for value in reading.net.values))
    return reading.net, others(reading.net, x, values)


@pytest.mark.parametrize("name", TORCH)
def test_pytorch(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torch")
    import torch_branches
    from torch_maps import write

    path = write(torch_branches.network(name), torch_branches.SAMPLE, tmp_path, "export")
    assert run(path, ConvertOptions(input=PixelInput.range(0, 1)))[1] == []


@pytest.mark.parametrize("name", TORCH)
def test_onnx_runtime(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torch")
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    import torch_branches
    from torch_maps import write

    path = write(torch_branches.network(name), torch_branches.SAMPLE, tmp_path, "onnx")
    reading = read_source(path, ConvertOptions(input=PixelInput.range(0, 1)))
    model = onnx.load(str(path))
    shown = [output for node in model.graph.node for output in node.output]
    given = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in shown if output not in given)
    settings = runtime.SessionOptions()
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).integers(0, 256, (ROWS, reading.net.depth), dtype=np.uint8)
    rows = (reading.as_source(x.astype(np.float32)) / np.float32(255)).reshape(-1, *torch_branches.SAMPLE)
    values = [
        np.concatenate(parts)
        for parts in zip(*(session.run(None, {session.get_inputs()[0].name: row[None]}) for row in rows), strict=True)
        if parts[0].ndim
    ]
    assert others(reading.net, x, values) == []


@pytest.mark.parametrize("name", ["resnet_e", "quicknet", "densenet", "reactnet", "operators"])
def test_keras(tmp_path: Path, name: str) -> None:
    for package in ("tensorflow", "larq", "h5py"):
        pytest.importorskip(package)
    path = unpack(DATA / "tf" / "branches.tar.xz", tmp_path) / f"{name}.h5"
    assert run(path, ConvertOptions(input=PixelInput.range(-1, 1)))[1] == []


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("neurons", [20, 256])
def test_batch_norm_of_maps_is_tensorflows_bit_for_bit(affine: bool, neurons: int) -> None:
    tf = pytest.importorskip("tensorflow")
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        pytest.skip("the order is oneDNN's")
    rng = np.random.default_rng(neurons)
    gamma, beta, mean = (rng.standard_normal(neurons).astype(np.float32) for _ in range(3))
    gamma = gamma if affine else np.ones_like(gamma)
    variance = (rng.random(neurons) * 1000).astype(np.float32)
    x = rng.integers(-600, 600, (5, 10, 10, neurons)).astype(np.float32)
    want, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=1e-3, is_training=False
    )
    given = {"gamma": gamma} if affine else {}
    norm = Norm(mean, variance, epsilon=1e-3, beta=beta, form="tf-fused", **given)
    assert (batch_norm(norm, x.reshape(-1, neurons)).reshape(x.shape) == want.numpy()).all()

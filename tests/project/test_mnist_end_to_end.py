"""The main job on real data: train in PyTorch, convert through the command, run all 10,000 test images, compare.

The exact reference must be met in every score.  PyTorch itself rounds the sums of the first layer (and of a float last layer)
in the order its BLAS likes, so a few of its predictions may differ; each of them must be explained by such a sum.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Norm, Quantize, Steps
from xnorinfer.net.reference import forward, node_outputs
from xnorinfer.net.values import PixelInput, SignInput
from xnorinfer.samples.dataio import open_array

torch = pytest.importorskip("torch", reason="these tests train in PyTorch")

import mnist_networks as networks  # noqa: E402
from rounding import scores_apart, sign_is_rounded  # noqa: E402

Array = NDArray[Any]
COMMAND = Path(sys.executable).with_name("xnorinfer")


def run_command(*arguments: str | Path) -> str:
    done = subprocess.run([str(COMMAND), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"xnorinfer {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Mnist:
    """Images (rows, 28, 28) uint8 and labels (rows,), and the test files for the command."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array
    images: Path
    labels: Path


@pytest.fixture(scope="session")
def mnist(mnist_folder: Path) -> Mnist:
    def path(name: str) -> Path:
        return next(p for p in (mnist_folder / f"{name}-ubyte", mnist_folder / f"{name}-ubyte.gz") if p.is_file())

    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    arrays = [open_array(str(path(name))).read() for name in names]
    return Mnist(arrays[0], arrays[1], arrays[2], arrays[3], path(names[2]), path(names[3]))


def batch_norm(module: Any) -> Norm:
    return Norm(
        networks.array(module.running_mean),
        networks.array(module.running_var),
        gamma=networks.array(module.weight),
        beta=networks.array(module.bias),
        epsilon=module.eps,
        form="torch",
    )


def spec(net: Any, float_head: bool) -> Net:
    """The network for the reference, written down by hand from the live modules, not through a converter."""
    layers: list[Any] = []
    for number in (1, 2):
        dense = getattr(net, f"fc{number}")
        layers.append((f"fc{number}", Linear(networks.array(dense.weight), "sign", bias=networks.array(dense.bias))))
        layers.append((f"bn{number}", batch_norm(getattr(net, f"bn{number}"))))
        layers.append((f"sign{number}", Quantize("sign")))
    if float_head:
        layers[-1] = ("htanh2", Steps.of(("clip", -1, 1)))
        layers.append(("fc4", Linear(networks.array(net.fc4.weight), bias=networks.array(net.fc4.bias))))
    else:
        layers.append(("fc3", Linear(networks.array(net.fc3.weight), "sign", bias=networks.array(net.fc3.bias))))
        layers.append(("bn3", batch_norm(net.bn3)))
    return Net.chain(PixelInput.range(-1, 1), tuple(layers), "torch-sign")


@dataclass(frozen=True)
class Case:
    """One trained network: live, on file, and written down for the reference."""

    name: str
    net: Any
    checkpoint: Path
    convert_options: tuple[str, ...]
    spec: Net
    pytorch: dict[str, Array]


@pytest.fixture(scope="session", params=["binary-head", pytest.param("float-head", marks=pytest.mark.long)])
def case(request: pytest.FixtureRequest, mnist: Mnist, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Trained on 10,000 images for one epoch, a few seconds."""
    float_head = request.param == "float-head"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = networks.FloatHead() if float_head else networks.BinaryHead()
        networks.train(net, mnist.train_x[:10_000], mnist.train_y[:10_000], seed=7)
        networks.nudge_to_rounding(net, mnist.test_x, range(10, 60))
    checkpoint = tmp_path_factory.mktemp("mnist") / f"{request.param}.pth.tar"
    networks.save(net, checkpoint)
    options = ("--float-layer", "fc4") if float_head else ()
    return Case(request.param, net, checkpoint, options, spec(net, float_head), networks.framework_layers(net, mnist.test_x))


@pytest.fixture(scope="session")
def packed_scores(case: Case, mnist: Mnist) -> Array:
    """What the installed command makes of the checkpoint: scores of all 10,000 test images."""
    model, scores = case.checkpoint.with_suffix(".safetensors"), case.checkpoint.with_suffix(".npy")
    run_command("convert", case.checkpoint, "-o", model, "--input-range", "-1:1", *case.convert_options)
    run_command("run", model, mnist.images, "--scores", "-o", scores, "--labels", mnist.labels)
    return np.load(scores)


def test_no_score_differs_from_the_reference(case: Case, mnist: Mnist, packed_scores: Array) -> None:
    assert (case.spec.ops[1].gamma[:6] == np.float32([0, 3e-7, -3e-7, -0.5, 1e-30, 0])).all()  # type: ignore[union-attr]
    expected = forward(case.spec, mnist.test_x.reshape(10_000, 784))
    assert packed_scores.dtype == np.float32
    assert (packed_scores != expected).sum() == 0
    assert (
        packed_scores.argmax(axis=1) == mnist.test_y
    ).mean() > 0.8  # it did learn; how well hangs on the number of threads that trained it


def test_predictions_are_those_of_pytorch(case: Case, mnist: Mnist, packed_scores: Array) -> None:
    differing = np.flatnonzero(packed_scores.argmax(axis=1) != case.pytorch["scores"].argmax(axis=1))
    assert len(differing) <= 5
    x = mnist.test_x.reshape(10_000, 784)
    for row in differing:
        if not (rounded_bits(case, x[row : row + 1], row) or rounded_head(case, packed_scores[row], row)):
            pytest.fail(f"test image {row}: PyTorch's class differs and no rounding explains it")


def rounded_bits(case: Case, x: Array, row: int) -> bool:
    """True if first-layer signs differ on x (1, 784), each of them by rounding alone."""
    exact = dict(node_outputs(case.spec, x))
    differ = np.flatnonzero(exact["sign1"][0] != np.sign(case.pytorch["bn1"][row]))
    return len(differ) > 0 and all(within_rounding(case, x[0], int(neuron)) for neuron in differ)


def within_rounding(case: Case, x: Array, neuron: int) -> bool:
    """True if roundings of PyTorch explain another sign of a neuron of the first layer, on x (784,)."""
    dense, norm = case.spec.ops[0], case.spec.ops[1]
    assert isinstance(dense, Linear)
    assert isinstance(norm, Norm)
    return sign_is_rounded(dense, norm, 2 * x.astype(np.float64) / 255 - 1, neuron)


def rounded_head(case: Case, ours: Array, row: int) -> bool:
    """True if a float last layer decides between two classes closer than the rounding of its float32 sums."""
    head = case.spec.ops[-1]
    if head.binary:
        return False
    best, theirs = int(ours.argmax()), int(case.pytorch["scores"][row].argmax())
    return float(ours[best] - ours[theirs]) <= scores_apart(head, (), case.pytorch["htanh2"][row])


def test_every_sign_of_the_first_layer_that_differs_is_rounding(case: Case, mnist: Mnist) -> None:
    x = mnist.test_x.reshape(10_000, 784)
    exact = dict(node_outputs(Net.chain(case.spec.input, case.spec.named[:3], "torch-sign"), x))
    differing = np.argwhere(exact["sign1"] != np.sign(case.pytorch["bn1"]))
    assert len(differing) < 200  # of some two million
    for row, neuron in differing:
        assert within_rounding(case, x[row], int(neuron)), f"test image {row}, neuron {neuron}"
    # The explanation is worth something: it refuses nearly every value that is not at its threshold.
    refused = sum(not within_rounding(case, x[row], 100) for row in range(200))
    assert refused > 190


def test_hidden_signs_follow_exactly_from_the_first_layer(case: Case) -> None:
    # Sums of signs are exact in every order: given PyTorch's own first signs, nothing may differ any more.
    rest = case.spec.named[3:]
    signs = np.sign(case.pytorch["bn1"])
    outputs = dict(node_outputs(Net.chain(SignInput(), rest, "torch-sign"), signs))
    if case.name == "binary-head":
        assert (outputs["sign2"] == np.sign(case.pytorch["bn2"])).all()
        assert (outputs["bn3"].argmax(axis=1) == case.pytorch["scores"].argmax(axis=1)).all()
    else:
        assert (outputs["htanh2"] == case.pytorch["htanh2"]).all()


def test_verify_proves_it_through_the_command(case: Case, mnist: Mnist, packed_scores: Array, tmp_path: Path) -> None:
    model = case.checkpoint.with_suffix(".safetensors")
    few = tmp_path / "few.npy"
    np.save(few, mnist.test_x[:256])
    run_command("verify", model, case.checkpoint, "--data", few)
    assert json.loads(run_command("info", model, "--json"))


@pytest.mark.long
def test_network_of_the_training_package(mnist: Mnist, tmp_path: Path) -> None:
    """784-128-128-10 by the package's own recipe (round half to even, TF's BatchNorm order), from a named npz."""
    from xnorinfer.training.architecture import Shape
    from xnorinfer.training.checkpoint import write_npz
    from xnorinfer.training.data import Samples
    from xnorinfer.training.loop import Progress, Recipe, predict
    from xnorinfer.training.trainable import BinaryNet

    shape = Shape(784, (128, 128), 10, dropout_input=0.1, dropout_hidden=0.1)
    progress = Progress.start(lambda: BinaryNet(shape), Recipe(epochs=2, lr_start=3e-3, lr_end=3e-4))
    learn = Samples.of(mnist.train_x[:6_000], mnist.train_y[:6_000])
    choose = Samples.of(mnist.train_x[-1_000:], mnist.train_y[-1_000:])
    while not progress.done:
        progress.run_epoch(learn, choose)
    net = progress.load_best()
    source, model, scores = tmp_path / "net.npz", tmp_path / "net.safetensors", tmp_path / "scores.npy"
    write_npz(source, net)
    run_command("convert", source, "-o", model)
    run_command("run", model, mnist.images, "--scores", "-o", scores)

    layers: list[Any] = []
    for number, (dense, norm) in enumerate(net.layers(), 1):
        layers.append((f"fc{number}", Linear(networks.array(dense.weight), "round-even", bias=networks.array(dense.bias))))
        statistics = [networks.array(t) for t in (norm.running_mean, norm.running_var)]
        gamma, beta = networks.array(norm.weight), networks.array(norm.bias)
        layers.append((f"bn{number}", Norm(*statistics, gamma=gamma, beta=beta, epsilon=1e-4, form="tf")))
        layers.append((f"sign{number}", Quantize("round-even")))
    expected = forward(Net.chain(PixelInput.range(-1, 1), tuple(layers[:-1]), "tf1-round"), mnist.test_x.reshape(10_000, 784))
    packed = np.load(scores)
    assert (packed != expected).sum() == 0
    assert (packed.argmax(axis=1) == mnist.test_y).mean() > 0.85
    framework = predict(net, Samples.of(mnist.test_x, mnist.test_y).pixels).numpy()
    assert (packed.argmax(axis=1) != framework).sum() <= 5

"""Convolutional networks: how they are written, what they compute, their files, and the distortions of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnorinfer.errors import OptionError

torch = pytest.importorskip("torch", reason="the training package is written in PyTorch")

from click.testing import CliRunner  # noqa: E402
from torch.nn import functional  # noqa: E402

from xnorinfer.converters import ConvertOptions, read_source  # noqa: E402
from xnorinfer.net import reference  # noqa: E402
from xnorinfer.training import data, distortion, mnist  # noqa: E402
from xnorinfer.training.architecture import Shape, parse_layers  # noqa: E402
from xnorinfer.training.binarylayers import BinaryConv2d  # noqa: E402
from xnorinfer.training.checkpoint import named_arrays, tf1_variables, write_npz, write_tf1, write_torch  # noqa: E402
from xnorinfer.training.commands import commands  # noqa: E402
from xnorinfer.training.distortion import distorted  # noqa: E402
from xnorinfer.training.fitting import net_of  # noqa: E402
from xnorinfer.training.loop import Progress, Recipe, predict  # noqa: E402
from xnorinfer.training.mixed import mixed_convolution  # noqa: E402
from xnorinfer.training.netfile import net_toml  # noqa: E402
from xnorinfer.training.trainable import BinaryNet, pixels_to_inputs  # noqa: E402

#: Higher than wide, two channels, a padded layer with a pool, one that is not padded, and dense layers behind a map of 3x2.
SHAPE = Shape((10, 8, 2), ("5C3-P2", "4C3V", 7), 3, dropout_input=0.0, dropout_hidden=0.0)


def network(shape: Shape = SHAPE) -> BinaryNet:
    """Random latents, and BatchNorms with every kind of gamma."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        net = BinaryNet(shape)
        with torch.no_grad():
            for layer, norm in net.layers():
                if layer.bias is not None:
                    layer.bias.normal_()
                norm.weight.normal_()
                norm.weight[:2] = torch.tensor([0.0, -0.5])
                norm.bias.normal_()
                norm.running_mean.normal_(0, 3)
                norm.running_var.uniform_(0.5, 30)
    return net.eval()


def images(rows: int = 60, seed: int = 1) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (rows, 10, 8, 2), dtype=np.uint8)


# ---------------------------------------------------------------- what is written


def test_layers_as_papers_write_them() -> None:
    assert parse_layers("128C3-P2-64C5V-1024-10") == (("128C3-P2", "64C5V", 1024), 10)
    assert parse_layers("256-256-10") == ((256, 256), 10)
    assert SHAPE.name == "10x8x2-5C3-P2-4C3V-7-3"
    assert SHAPE.values() == ((10, 8, 2), (5, 4, 5), (3, 2, 4), (7,), (3,))
    assert Shape((28, 28, 1), ("8C3-P2", "8C3-P2", "8C3-P2"), 10).values()[-2] == (3, 3, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no convolution"),
        ("32c3-10", "'32c3' is no convolution"),
        ("32C-10", "is no convolution"),
        ("32C3-P2-P2-10", "P2 must follow a convolution"),
        ("P2-10", "P2 must follow a convolution"),
        ("256-P2-10", "P2 must follow a convolution"),
        ("32C3-P-10", "'32C3-P' is no convolution"),
        ("32C3-P0-10", "must be above 0"),
        ("0C3-10", "must be above 0"),
        ("32C4-10", "32C4V is not padded"),
        ("10-32C3", "the last one must be dense"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_layers(text)


@pytest.mark.parametrize(
    ("inputs", "hidden", "message"),
    [
        (80, ("4C3",), "4C3 reads 80 features; a convolution needs a map"),
        ((6, 4, 1), (9, "4C3"), "4C3 reads 9 features"),
        ((6, 4, 1), ("4C3V", "4C3V"), "4C3V leaves nothing of a map of 4x2"),
        ((6, 4, 1), ("4C3-P5",), "leaves nothing of a map of 6x4"),
        ((6, 0, 1), ("4C3",), "must be whole numbers above 0"),
    ],
)
def test_layers_that_do_not_chain_are_refused(inputs: Any, hidden: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Shape(inputs, hidden, 2)


# ---------------------------------------------------------------- what is computed


def test_network_is_the_one_described() -> None:
    net = network()
    names = [name for name, _ in net.named_children()]
    assert names == ["conv1", "bn1", "conv2", "bn2", "fc3", "bn3", "fc4", "bn4", "dropout_input", "dropout_hidden"]
    pixels = images()
    value = torch.from_numpy(pixels / 127.5 - 1).permute(0, 3, 1, 2)
    for index, (layer, norm) in enumerate(net.layers()):
        signs = torch.where(layer.weight > 0, 1.0, -1.0).double()
        if index < 2:
            value = functional.conv2d(value, signs, layer.bias.double(), padding=1 - index)
            value = functional.max_pool2d(value, 2) if index == 0 else value
        else:
            value = value.flatten(1) @ signs.T + layer.bias
        shape = (1, -1, 1, 1) if index < 2 else (1, -1)
        mean, scale = norm.running_mean.double(), norm.weight / torch.sqrt(norm.running_var.double() + 1e-4)
        value = (value - mean.reshape(shape)) * scale.reshape(shape) + norm.bias.reshape(shape)
        value = value if index == 3 else torch.where(value > 0, 1.0, -1.0).double()
    scores = net(pixels_to_inputs(torch.from_numpy(pixels.reshape(60, -1))))
    torch.testing.assert_close(scores.double(), value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", [None, 1.0, 1 / 0.7])
@pytest.mark.parametrize("h", [1.0, 0.0318])
@pytest.mark.parametrize("bias", [True, False])
def test_mixed_convolutions_are_those_of_the_layer(level: float | None, h: float, bias: bool) -> None:
    torch.manual_seed(2)
    layer = BinaryConv2d(6, 9, 3, padding=1, h=h, bias=bias)
    if bias:
        torch.nn.init.normal_(layer.bias)
    x = torch.randn(7, 6, 9, 8) if level is None else torch.randint(-1, 2, (7, 6, 9, 8)) * level
    for pool in (1, 2):
        sums = mixed_convolution(layer, x, level, pool)
        wanted = functional.max_pool2d(layer(x), pool)
        # Sums of 54 signs are exact; those of real inputs are rounded to 8 bits.
        torch.testing.assert_close(sums, wanted, **({"rtol": 0.02, "atol": 0.2 * h} if level is None else {}))
    found = []
    upstream = torch.randn(7, 9, 9, 8)
    for mixed in (True, False):
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        (mixed_convolution(layer, inputs, level, 1) if mixed else layer(inputs)).backward(upstream)
        found.append([inputs.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    for mine, exact in zip(*found, strict=True):
        assert float((mine - exact).norm() / exact.norm()) < 0.01


def test_an_interrupted_run_ends_with_the_same_bytes() -> None:
    labels = np.arange(90) % 3
    made = images(90) // 2
    made[np.arange(90), labels * 3 + 1] += 120
    samples = data.Samples.of(made, labels)
    assert samples.image == (10, 8, 2)
    recipe = Recipe(epochs=3, batch=30, seed=1, mixed=True, shift=1, rotate=5, zoom=0.1)

    def start() -> Progress:
        return Progress.start(lambda: BinaryNet(Shape((10, 8, 2), ("8C3-P2", 12), 3)), recipe)

    whole, first, second = start(), start(), start()
    for _ in range(3):
        whole.run_epoch(samples, samples)
    first.run_epoch(samples, samples)
    second.restore(first.state())
    for _ in range(2):
        second.run_epoch(samples, samples)
    assert [epoch.loss for epoch in whole.history] == [epoch.loss for epoch in second.history]
    for one, other in zip(whole.load_best().state_dict().values(), second.load_best().state_dict().values(), strict=True):
        assert torch.equal(one, other)


# ---------------------------------------------------------------- files


def test_every_format_is_the_network_that_was_trained(tmp_path: Path) -> None:
    """The scores of the reference are those of PyTorch, up to the rounding of the last BatchNorm."""
    net, pixels = network(), images()
    flat = torch.from_numpy(pixels.reshape(60, -1))
    scores = net(pixels_to_inputs(flat)).detach().numpy()
    for write, name in ((write_npz, "net.npz"), (write_torch, "net.pt"), (write_tf1, "net.ckpt")):
        write(tmp_path / name, net)
        said = ConvertOptions() if name == "net.npz" else ConvertOptions(net=net_toml(net, Path(name).suffix))
        read = read_source(tmp_path / name, said).net
        read.require_valid()
        assert read.shape == (10, 8, 2)
        np.testing.assert_allclose(reference.forward(read, flat.numpy()), scores, rtol=1e-4, atol=1e-4)
    assert (scores.argmax(1) == predict(net, flat).numpy()).all()
    direct = net_of(net)
    direct.require_valid()
    np.testing.assert_allclose(reference.forward(direct, flat.numpy()), scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("h", "bias"), [(0.25, True), ("glorot", False)])
def test_a_net_toml_says_the_magnitude(tmp_path: Path, h: Any, bias: bool) -> None:
    net = network(Shape((6, 7, 1), ("4C3-P2",), 3, h, False, bias, 0.0, 0.0))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 42), dtype=np.uint8)
    for write, name in ((write_torch, "net.pt"), (write_tf1, "net.ckpt")):
        write(tmp_path / name, net)
        read = read_source(tmp_path / name, ConvertOptions(net=net_toml(net, Path(name).suffix))).net
        scores = net(pixels_to_inputs(torch.from_numpy(pixels))).detach().numpy()
        np.testing.assert_allclose(reference.forward(read, pixels), scores, rtol=1e-4, atol=1e-4)


def test_variables_are_those_of_the_port() -> None:
    net = network()
    variables, arrays = tf1_variables(net), named_arrays(net)
    shapes = {name: array.shape for name, array in variables.items() if name.endswith("kernel")}
    assert shapes == {
        "conv2d__binary_layer/kernel": (3, 3, 2, 5),
        "conv2d__binary_layer_1/kernel": (3, 3, 5, 4),
        "dense__binary_layer/kernel": (24, 7),
        "dense__binary_layer_1/kernel": (7, 3),
    }
    assert [name for name in variables if name.endswith("gamma")] == [
        f"batch_normalization{suffix}/gamma" for suffix in ("", "_1", "_2", "_3")
    ]
    assert arrays["shape"].tolist() == [10, 8, 2]
    assert {key: arrays[key].tolist() for key in ("0.padding", "1.padding", "0.pool.size")} == {
        "0.padding": [1, 1, 1, 1],
        "1.padding": [0, 0, 0, 0],
        "0.pool.size": [2, 2],
    }
    assert "1.pool.size" not in arrays


# ---------------------------------------------------------------- distortions


def drawn(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """All amounts at the same place between their limits, -1 to 1."""
    monkeypatch.setattr(distortion.torch, "rand", lambda rows: torch.full((rows,), (value + 1) / 2))


def moved(x: Any, **amounts: float) -> Any:
    flat = torch.from_numpy(np.ascontiguousarray(x).reshape(len(x), -1))
    full = {"shift": 0.0, "rotate": 0.0, "zoom": 0.0, **amounts}
    return distorted(flat, x.shape[1:], **full).numpy().reshape(x.shape)


def test_a_shift_moves_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(3)
    np.testing.assert_allclose(moved(x), x, atol=0.01)
    drawn(monkeypatch, 1)
    np.testing.assert_allclose(moved(x, shift=2)[:, :-2, :-2], x[:, 2:, 2:], atol=0.01)
    assert (moved(x, shift=2)[:, -1] == 0).all()
    drawn(monkeypatch, -1)
    np.testing.assert_allclose(moved(x, shift=1)[:, 1:, 1:], x[:, :-1, :-1], atol=0.01)


def test_a_right_angle_turns_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an image is not square: what lies on it in both positions is the same."""
    drawn(monkeypatch, 1)
    x = images(3)
    np.testing.assert_allclose(moved(x, rotate=90)[:, 1:-1], np.rot90(x[:, 1:-1], 1, (1, 2)), atol=0.01)


def test_a_zoom_keeps_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(monkeypatch, 1)
    x = np.zeros((1, 9, 9, 1), np.uint8)
    x[0, 2:7, 2:7] = 200
    assert moved(x, zoom=0.5).sum() > 1.8 * x.sum()
    drawn(monkeypatch, -1)
    assert moved(x, zoom=0.5).sum() < 0.6 * x.sum()


def test_only_images_are_distorted() -> None:
    samples = data.Samples.of(images().reshape(60, -1), np.zeros(60))
    with pytest.raises(OptionError, match="are for images; these samples are none"):
        Recipe(shift=1).inputs(samples, torch.arange(3))


@pytest.mark.parametrize("wrong", [{"shift": -1.0}, {"rotate": 180.0}, {"zoom": 1.0}, {"zoom": float("nan")}])
def test_impossible_distortions_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        Recipe(**wrong)


# ---------------------------------------------------------------- the command


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    parts = [data.Samples.of(rng.integers(0, 256, (rows, 28, 28)), rng.integers(0, 10, rows)) for rows in (100, 40, 40)]
    monkeypatch.setattr(mnist, "load_mnist", lambda folder: data.Split(*parts))
    for name in data.MNIST_FILES:
        (tmp_path / name).touch()
    return tmp_path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(commands, [str(argument) for argument in arguments], catch_exceptions=True)


@pytest.mark.parametrize("suffix", [".npz", ".ckpt", ".pt"])
def test_the_command_says_how_its_checkpoint_is_converted(small_mnist: Path, suffix: str) -> None:
    out = small_mnist / f"net{suffix}"
    done = run(
        *("mnist", "-o", out, "--data", small_mnist, "--layers", "4C5V-P2-6C3-P2-10", "--shift", 1),
        *("--epochs", 1, "--batch", 50),
    )
    assert done.exit_code == 0, done.output
    said = json.loads((small_mnist / f"net{suffix}.history.json").read_text())
    assert said["summary"]["network"] == "28x28x1-4C5V-P2-6C3-P2-10"
    assert said["shape"]["hidden"] == ["4C5V-P2", "6C3-P2"]
    toml = small_mnist / f"net{suffix}.net.toml"
    assert toml.exists() == (suffix != ".npz")
    assert f"xnorinfer convert {out}" in done.output
    assert (f"--net {toml}" in done.output) == toml.exists()


def test_an_interrupted_training_may_be_finished_early(small_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = small_mnist / "net.npz"
    command = ("mnist", "-o", out, "--data", small_mnist, "--layers", "4C5V-P2-10", "--epochs", 3, "--batch", 50)
    early = run(*command, "--finish")
    assert "there is no interrupted training" in str(early.exception)
    whole = Progress.run_epoch

    def cut(self: Progress, *arguments: Any) -> Any:
        if self.history:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(Progress, "run_epoch", cut)
    assert run(*command).exit_code == 130
    done = run(*command, "--finish")
    assert done.exit_code == 0, done.output
    assert "finishing after epoch 1 of 3" in done.output
    assert json.loads((small_mnist / "net.npz.history.json").read_text())["summary"]["epochs"] == 1
    assert sorted(path.name for path in small_mnist.glob("net*")) == ["net.npz", "net.npz.history.json"]


def test_layers_that_make_no_sense_are_refused(small_mnist: Path) -> None:
    for arguments, message in (
        (("--layers", "8C3-P2-9"), "has 9 neurons; MNIST has 10 classes"),
        (("--layers", "16-10", "--hidden", "16"), "give one of them"),
        (("--layers", "8C3-P99-10"), "leaves nothing of a map of 28x28"),
        (("--layers", "8X3-10"), "is no convolution"),
    ):
        done = run("mnist", "-o", small_mnist / "net.npz", "--data", small_mnist, *arguments)
        assert done.exit_code != 0
        assert message in done.output + str(done.exception)

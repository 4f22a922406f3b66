"""Mixed precision: exact sums, gradients up to bfloat16, the same network when it is evaluated."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training package is written in PyTorch")

from xnorinfer.errors import OptionError  # noqa: E402
from xnorinfer.training.architecture import Shape  # noqa: E402
from xnorinfer.training.binarylayers import BinaryLinear  # noqa: E402
from xnorinfer.training.data import Samples  # noqa: E402
from xnorinfer.training.loop import Progress, Recipe  # noqa: E402
from xnorinfer.training.mixed import mixed_linear  # noqa: E402
from xnorinfer.training.optimizer import BinaryAdam  # noqa: E402
from xnorinfer.training.trainable import BinaryNet, squared_hinge  # noqa: E402


def levels(rows: int, depth: int, level: float, seed: int) -> np.ndarray:
    """-level, 0 and +level, a third each."""
    return (np.random.default_rng(seed).integers(-1, 2, (rows, depth)) * level).astype(np.float32)


def layer_of(depth: int, neurons: int, h: float = 1.0, bias: bool = True, seed: int = 0) -> BinaryLinear:
    torch.manual_seed(seed)
    layer = BinaryLinear(depth, neurons, h=h, bias=bias)
    if bias:
        torch.nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("rows", [1, 2, 17, 100])
@pytest.mark.parametrize(("depth", "neurons"), [(1, 1), (3, 10), (64, 7), (255, 130)])
@pytest.mark.parametrize("level", [1.0, 2.0])
def test_sums_are_exact(rows: int, depth: int, neurons: int, level: float) -> None:
    layer = layer_of(depth, neurons)
    x = levels(rows, depth, level, 1)
    signs = np.where(layer.weight.detach().numpy() > 0, 1, -1)
    wanted = (x.astype(np.int64) @ signs.T).astype(np.float32) + layer.bias.detach().numpy()
    np.testing.assert_array_equal(mixed_linear(layer, torch.from_numpy(x), level).detach().numpy(), wanted)


def test_latents_round_as_in_the_layer() -> None:
    step = np.float32(2.0**-24)
    values = [0.0, -0.0, step, -step, np.nextafter(step, np.float32(1)), np.nextafter(step, np.float32(0)), 1e-9, 1.0, -1.0]
    for h in (1.0, 0.25, 0.0318):
        layer = layer_of(len(values), 1, h, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(np.array([values], np.float32) * np.float32(h)))
        one_hot = torch.eye(len(values))
        assert torch.equal(mixed_linear(layer, one_hot, 1.0)[:, 0], layer.binary_weight()[0]), h


@pytest.mark.parametrize("level", [None, 1.0, 1 / 0.7])
def test_gradients_are_those_of_rounded_operands(level: float | None) -> None:
    layer = layer_of(90, 33, h=0.5)
    x = torch.randn(20, 90) if level is None else torch.from_numpy(levels(20, 90, level, 2))
    x.requires_grad_()
    upstream = torch.randn(20, 33)
    mixed_linear(layer, x, level).backward(upstream)
    # Sums of products in float64; what may be lost are 8 bits of each operand and of the result.
    signs = 0.5 * np.where(layer.weight.detach().numpy() > 0, 1.0, -1.0)
    g, inputs = upstream.numpy().astype(np.float64), x.detach().numpy().astype(np.float64)
    for found, left, right in ((layer.weight.grad, 0.5 * g.T, inputs), (x.grad, g, signs)):
        allowed = 2.0**-7 * (np.abs(left) @ np.abs(right))
        assert (np.abs(found.numpy() - left @ right) <= allowed).all()
    np.testing.assert_allclose(layer.bias.grad.numpy(), g.sum(0), rtol=1e-5)


def test_gradients_add_up_over_backward_passes() -> None:
    layer = layer_of(12, 9)
    x = torch.from_numpy(levels(8, 12, 1.0, 3))
    mixed_linear(layer, x, 1.0).sum().backward()
    once = layer.weight.grad.clone()
    mixed_linear(layer, x, 1.0).sum().backward()
    assert torch.equal(layer.weight.grad, 2 * once)


def test_stochastic_weights_are_drawn_once_a_pass() -> None:
    layer = layer_of(6, 4, bias=False)
    layer.stochastic = True
    with torch.no_grad():
        layer.weight.zero_()
    one_hot = torch.eye(6)
    torch.manual_seed(5)
    drawn = layer.binary_weight()
    torch.manual_seed(5)
    assert torch.equal(mixed_linear(layer, one_hot, 1.0), drawn.T)


@pytest.mark.long
def test_it_learns_and_evaluates_to_the_same_scores() -> None:
    torch.manual_seed(0)
    model = BinaryNet(Shape(20, (64, 48), 3, dropout_input=0.1, dropout_hidden=0.25))
    model.mixed = True
    optimizer = BinaryAdam(model)
    labels = torch.arange(60) % 3
    x = torch.randn(60, 20) + 2 * torch.nn.functional.one_hot(labels, 20)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = squared_hinge(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.35 * losses[0]
    model.eval()
    with torch.no_grad():
        mixed = model(x)
        model.mixed = False
        assert torch.equal(mixed.argmax(1), model(x).argmax(1))
        # A bias is added to a rounded sum here and within the product there: the last bits of a BatchNorm may differ.
        torch.testing.assert_close(mixed, model(x), rtol=1e-4, atol=1e-4)


def test_an_interrupted_run_ends_with_the_same_bytes() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 90)
    samples = Samples.of(rng.integers(0, 120, (90, 12)) + 60 * (np.arange(12) % 3 == labels[:, None]), labels)
    recipe = Recipe(epochs=4, batch=20, seed=1, mixed=True)

    def start() -> Progress:
        return Progress.start(lambda: BinaryNet(Shape(12, (24, 24), 3)), recipe)

    whole, first, second = start(), start(), start()
    while not whole.done:
        whole.run_epoch(samples, samples)
    for _ in range(2):
        first.run_epoch(samples, samples)
    second.restore(first.state())
    while not second.done:
        second.run_epoch(samples, samples)
    assert [epoch.loss for epoch in whole.history] == [epoch.loss for epoch in second.history]
    for one, other in zip(whole.load_best().state_dict().values(), second.load_best().state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not whole.model.mixed
    with pytest.raises(OptionError, match="mixed = True, this one has False"):
        Progress.start(lambda: BinaryNet(Shape(12, (24, 24), 3)), Recipe(epochs=4, batch=20, seed=1)).restore(first.state())

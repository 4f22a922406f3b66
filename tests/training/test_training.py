"""The training recipe's parts against closed forms computed in plain numpy."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnorinfer.errors import MissingExtraError, OptionError

torch = pytest.importorskip("torch", reason="the training package is written in PyTorch")

from xnorinfer.training import (  # noqa: E402
    BinaryAdam,
    BinaryConv2d,
    BinaryLinear,
    binary_sigmoid,
    binary_tanh,
    hard_sigmoid,
    learning_rate,
    squared_hinge,
)
from xnorinfer.training.architecture import Shape  # noqa: E402
from xnorinfer.training.trainable import BinaryNet, pixels_to_inputs  # noqa: E402

#: Where binarization or its gradient changes, and the float32 numbers next to those places.
EDGES = np.array([0.0, -0.0, 2**-24, 2**-23, -(2**-24), 1e-30, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 3e38, -3e38], np.float32)
EDGES = np.unique(np.concatenate([EDGES, np.nextafter(EDGES, np.float32(9)), np.nextafter(EDGES, np.float32(-9))]))


@pytest.fixture(autouse=True)
def fixed_seed() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        yield


# ---------------------------------------------------------------- binarization


def test_binary_tanh_is_one_above_the_rounding_of_zero_and_minus_one_elsewhere() -> None:
    expected = np.where(EDGES.astype(np.float64) > 2.0**-24, 1, -1)
    assert (binary_tanh(torch.from_numpy(EDGES)).numpy() == expected).all()
    assert (binary_sigmoid(torch.from_numpy(EDGES)).numpy() == (expected + 1) // 2).all()


@pytest.mark.parametrize(("function", "slope"), [(binary_tanh, 1.0), (binary_sigmoid, 0.5)])
def test_gradient_is_that_of_the_hard_function_with_its_ends(function: Any, slope: float) -> None:
    x = torch.from_numpy(EDGES).requires_grad_()
    incoming = torch.arange(1, len(EDGES) + 1, dtype=torch.float32)
    function(x).backward(incoming)
    inside = np.abs(EDGES) <= 1
    assert (x.grad.numpy() == np.where(inside, slope * incoming.numpy(), 0)).all()


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20))
def test_gradient_equals_that_of_hard_tanh_inside(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    x = x[(x.abs() - 1).abs() > 1e-6]  # at the very ends autograd halves or drops what the recipe keeps
    ours, hard = x.clone().requires_grad_(), x.clone().requires_grad_()
    (binary_tanh(ours) * x).sum().backward()
    (torch.nn.functional.hardtanh(hard) * x).sum().backward()
    assert torch.equal(ours.grad, hard.grad)


def test_hard_sigmoid_leaves_its_argument_alone() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0])
    assert hard_sigmoid(x).tolist() == [0, 0, 0.5, 0.75, 1]
    assert x.tolist() == [-3, -1, 0, 0.5, 2]


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize("h", [1.0, 0.25, "glorot"])
def test_binary_linear_computes_and_differentiates_as_written_down(h: Any) -> None:
    layer = BinaryLinear(6, 4, h=h)
    value = math.sqrt(1.5 / 10) if h == "glorot" else h
    assert layer.h == np.float32(value)
    assert layer.lr_scale == pytest.approx(1 / math.sqrt(1.5 / (6 + 4)), rel=1e-12)
    latent = layer.weight.detach().numpy()
    assert (np.abs(latent) <= layer.h).all()
    assert len(np.unique(latent)) == 24
    assert (layer.bias == 0).all()

    signs = np.where(latent > 0, 1, -1).astype(np.float32)
    x = torch.randn(3, 6, requires_grad=True)
    incoming = torch.randn(3, 4)
    y = layer(x)
    y.backward(incoming)
    np.testing.assert_allclose(y.detach().numpy(), x.detach().numpy() @ (layer.h * signs).T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), incoming.numpy() @ (layer.h * signs), rtol=1e-5, atol=1e-6)
    # Straight through: the latents get the gradient of the binary weights.
    np.testing.assert_allclose(layer.weight.grad.numpy(), incoming.numpy().T @ x.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.bias.grad.numpy(), incoming.numpy().sum(0), rtol=1e-5, atol=1e-6)


def test_binary_linear_without_bias() -> None:
    layer = BinaryLinear(5, 3, bias=False)
    assert layer.bias is None
    assert set(layer(torch.ones(1, 5)).flatten().tolist()) <= {-5.0, -3.0, -1.0, 1.0, 3.0, 5.0}


def test_binary_conv2d_is_binary_linear_on_patches() -> None:
    layer = BinaryConv2d(2, 5, (3, 2), h="glorot", padding=1)
    assert layer.h == np.float32(math.sqrt(1.5 / (2 * 6 + 5 * 6)))
    assert layer.lr_scale == pytest.approx(math.sqrt((12 + 30) / 1.5), rel=1e-12)
    x = torch.randn(2, 2, 4, 5)
    incoming = torch.randn(2, 5, 4, 6)
    layer(x).backward(incoming)
    patches = torch.nn.functional.unfold(x, (3, 2), padding=1).numpy()  # (rows, 12, places)
    signs = np.where(layer.weight.detach().numpy() > 0, layer.h, -layer.h).reshape(5, 12)
    expected = np.einsum("nk,rkp->rnp", signs, patches)
    np.testing.assert_allclose(layer(x).detach().numpy().reshape(2, 5, -1), expected, rtol=1e-4, atol=1e-5)
    gradient = np.einsum("rnp,rkp->nk", incoming.numpy().reshape(2, 5, -1), patches)
    np.testing.assert_allclose(layer.weight.grad.numpy().reshape(5, 12), gradient, rtol=1e-4, atol=1e-5)


def test_stochastic_weights_are_drawn_in_training_and_rounded_in_evaluation() -> None:
    layer = BinaryLinear(2, 1, stochastic=True, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -1.0]]))
    draws = torch.cat([layer.binary_weight() for _ in range(4000)])
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    assert (draws[:, 1] == -1).all()
    share = float((draws[:, 0] == 1).float().mean())  # P(+1) = (0.5 + 1) / 2, six standard deviations
    assert abs(share - 0.75) < 6 * math.sqrt(0.75 * 0.25 / 4000)
    layer.binary_weight().sum().backward()
    assert layer.weight.grad.tolist() == [[1, 1]]
    layer.eval()
    assert all(layer.binary_weight().tolist() == [[1, -1]] for _ in range(20))


@pytest.mark.parametrize("h", [0, -1.0, math.nan, math.inf])
def test_impossible_h_is_refused(h: float) -> None:
    with pytest.raises(OptionError, match="needed is a number above 0"):
        BinaryLinear(2, 2, h=h)


# ---------------------------------------------------------------- optimizer


def adam_by_hand(start: Any, gradients: list[Any], lr: float, scale: float, h: float) -> Any:
    """Kingma & Ba 2015, algorithm 1, in float64, with the update scaled and the result clipped."""
    w, m, v = start.astype(np.float64), 0.0, 0.0
    for step, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        update = lr * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        w = np.clip(w - scale * update, -h, h)
    return w


def test_adam_scales_the_update_and_clips_latents_and_nothing_else() -> None:
    layer = BinaryLinear(30, 20, h=0.5)
    optimizer = BinaryAdam(layer, lr=0.01)
    weight, bias = layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
    generator = np.random.default_rng(0)
    gradients = [(generator.standard_normal((20, 30)), generator.standard_normal(20)) for _ in range(12)]
    for on_weight, on_bias in gradients:
        layer.weight.grad = torch.from_numpy(on_weight.astype(np.float32))
        layer.bias.grad = torch.from_numpy(on_bias.astype(np.float32))
        optimizer.step()
    expected = adam_by_hand(weight, [g for g, _ in gradients], 0.01, math.sqrt(50 / 1.5), 0.5)
    assert (np.abs(expected) == 0.5).any()
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected, rtol=2e-4, atol=2e-5)
    expected = adam_by_hand(bias, [g for _, g in gradients], 0.01, 1.0, math.inf)
    np.testing.assert_allclose(layer.bias.detach().numpy(), expected, rtol=2e-4, atol=2e-6)


def test_learning_rate_is_set_before_the_scales() -> None:
    optimizer = BinaryAdam(torch.nn.Sequential(BinaryLinear(4, 2), torch.nn.BatchNorm1d(2)), lr=0.1)
    optimizer.set_learning_rate(0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 * 2, 0.01])  # sqrt(6 / 1.5) = 2


def test_clipped_latents_come_back() -> None:
    layer = BinaryLinear(3, 1, bias=False)
    optimizer = BinaryAdam(layer, lr=0.5)
    for target, end in ((-1.0, 1.0), (1.0, -1.0)):
        for _ in range(30):
            optimizer.zero_grad()
            (target * layer(torch.ones(1, 3))).sum().backward()
            optimizer.step()
        assert layer.weight.tolist() == [[end] * 3]


def test_frozen_entries_keep_their_bits_while_others_train() -> None:
    layer = BinaryLinear(8, 8)
    optimizer = BinaryAdam(layer, lr=0.05)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.randn(16, 8)).square().sum().backward()
            optimizer.step()

    train(3)  # so that Adam's moments would move the frozen entries
    mask = torch.rand(8, 8) < 0.5
    layer.freeze(mask)
    before = layer.weight.detach().clone()
    train(5)
    assert torch.equal(layer.weight[mask], before[mask])
    assert (layer.weight[~mask] != before[~mask]).any()
    layer.freeze(None)
    train(1)
    assert (layer.weight[mask] != before[mask]).any()


def test_mask_of_another_shape_or_type_is_refused() -> None:
    layer = BinaryLinear(3, 2)
    for mask in (torch.ones(3, 2, dtype=torch.bool), torch.ones(2, 3)):
        with pytest.raises(OptionError, match=r"needed is \(2, 3\) torch\.bool"):
            layer.freeze(mask)


def test_learning_rate_decays_exponentially() -> None:
    rates = [learning_rate(step, 1000, 3e-3, 3e-7) for step in range(1001)]
    assert rates[0] == 3e-3
    assert rates[-1] == pytest.approx(3e-7)
    assert np.diff(np.log(rates)) == pytest.approx(np.full(1000, math.log(1e-4) / 1000))


# ---------------------------------------------------------------- network and loss


def test_squared_hinge_and_its_gradient() -> None:
    scores = torch.tensor([[0.5, 2.0, -2.0], [0.0, -0.5, 1.0]], requires_grad=True)
    loss = squared_hinge(scores, torch.tensor([1, 0]))
    # targets [-1, +1, -1] and [+1, -1, -1]; 1 - t*s: 1.5, -1, -1 and 1, 0.5, 2.
    assert loss.item() == pytest.approx((1.5**2 + 1 + 0.25 + 4) / 6)
    loss.backward()
    expected = np.array([[2 * 1.5, 0, 0], [-2 * 1.0, 2 * 0.5, 2 * 2.0]]) / 6
    np.testing.assert_allclose(scores.grad.numpy(), expected, rtol=1e-6)


def test_network_is_the_one_described() -> None:
    net = BinaryNet(Shape(7, (5, 4), 3)).eval()
    names = [name for name, _ in net.named_children()]
    assert names == ["fc1", "bn1", "fc2", "bn2", "fc3", "bn3", "dropout_input", "dropout_hidden"]
    assert all((norm.eps, norm.momentum) == (1e-4, 0.1) for _, norm in net.layers())
    x = torch.randn(9, 7)
    value = x.numpy()
    for index, (dense, _) in enumerate(net.layers()):
        value = value @ np.where(dense.weight.detach().numpy() > 0, 1, -1).T / math.sqrt(1 + 1e-4)
        value = value if index == 2 else np.where(value > 0, 1, -1)
    np.testing.assert_allclose(net(x).detach().numpy(), value, rtol=1e-4, atol=1e-5)


def test_dropout_scales_in_training_and_does_nothing_afterwards() -> None:
    net = BinaryNet(Shape(4, (3,), 2, dropout_input=0.75))
    seen: list[Any] = []
    net.fc1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(torch.ones(500, 4))
    assert set(seen[0].unique().tolist()) == {0.0, 4.0}
    net.eval()
    net(torch.ones(500, 4))
    assert seen[1].unique().tolist() == [1.0]


def test_pixels_enter_from_minus_one_to_one() -> None:
    x = pixels_to_inputs(torch.arange(256, dtype=torch.uint8))
    assert x[0] == -1
    assert x[255] == 1
    np.testing.assert_allclose(x.numpy(), 2 * np.arange(256) / 255 - 1, atol=1e-7)


@pytest.mark.parametrize("wrong", [{"hidden": ()}, {"hidden": (0,)}, {"dropout_hidden": 1.0}, {"dropout_input": -0.1}])
def test_impossible_shapes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Shape(**{"inputs": 4, "hidden": (3,), "classes": 2, **wrong})


def test_without_torch_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("xnorinfer.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'xnorinfer\[train\]'"):
        import xnorinfer.training  # noqa: F401

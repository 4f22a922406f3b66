"""Live PyTorch modules: what `forward` computes is converted, or it is refused; the module's own answers decide."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

import numpy as np
import pytest

import xnorinfer
from xnorinfer.errors import ExpectationError, InputError, NetworkError, OptionError, SourceError
from xnorinfer.net.values import PixelInput, RealInput, SignInput

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional
F = np.float32
WIDTHS = (36, 16, 12, 5)
UNIT, TWO_SIDED = PixelInput.range(0, 1), PixelInput.range(-1, 1)

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning", "ignore::xnorinfer.ConversionWarning"
)


def sign(x: Any) -> Any:
    return torch.where(x >= 0, 1.0, -1.0)


class Net(nn.Module):  # type: ignore[misc, name-defined]
    """Three layers; `how` says what is unusual about forward."""

    def __init__(self, how: str = "plain") -> None:
        super().__init__()
        self.how = how
        self.fc1, self.bn1 = nn.Linear(36, 16, bias=False), nn.BatchNorm1d(16)
        self.fc3, self.bn3 = nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16)
        self.fc2, self.bn2 = nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16)
        self.out = nn.Linear(16, 5, bias=False)

    def weight(self, layer: Any) -> Any:
        w = layer.weight
        if self.how == "scale":
            return sign(w) * w.abs().mean(1, keepdim=True)
        if self.how == "straight through":
            return w + (sign(w) - w).detach()
        return sign(w - w.mean(1, keepdim=True) - 0.1) if self.how == "centred" else sign(w)

    def activation(self, x: Any) -> Any:
        if self.how == "straight through":
            return x + (sign(x) - x).detach()
        return functional.relu(x) if self.how == "float" else sign(x)

    def forward(self, x: Any) -> Any:
        if self.how == "image":
            assert x.dim() == 4
        x = x.view(x.size(0), -1)
        layers = [(self.fc1, self.bn1), (self.fc3, self.bn3), (self.fc2, self.bn2)]
        for layer, norm in [layers[i] for i in ((0, 2, 1) if self.how == "order" else (0, 1, 2))]:
            x = functional.linear(x, self.weight(layer))
            x = self.activation(norm(functional.relu(x) if self.how == "relu" else x))
        x = functional.linear(x, self.weight(self.out))
        return {"softmax": lambda y: functional.softmax(y / 8, 1), "sigmoid": lambda y: torch.sigmoid(y / 8)}.get(
            self.how, lambda y: y
        )(x)


class InNumpy(Net):
    """What no exporter follows."""

    def __init__(self, order: bool) -> None:
        super().__init__("order" if order else "plain")

    def forward(self, x: Any) -> Any:
        return torch.from_numpy(super().forward(torch.from_numpy(np.array(x))).numpy())


def settled(net: Any) -> Any:
    """BatchNorm statistics as training leaves them; the module stays in training mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        for module in net.modules():
            if isinstance(module, nn.Linear):
                module.weight.uniform_(-1, 1)
            elif isinstance(module, nn.BatchNorm1d):
                module.weight.normal_()
                module.bias.normal_(0, 0.5)
                module.running_mean.normal_(0, 2)
                module.running_var.uniform_(4, 16)
    return net.train()


def pixels() -> Any:
    return np.random.default_rng(5).integers(0, 256, (150, 36)).astype(np.uint8)


def classes_of(net: Any, x: Any, shape: tuple[int, ...] = (36,)) -> Any:
    net.eval()
    with torch.no_grad():
        found = net(torch.from_numpy(np.asarray(x, F).reshape(-1, *shape))).numpy().argmax(axis=1)
    net.train()
    return found


WAYS = ("plain", "relu", "scale", "centred", "order", "straight through", "softmax", "sigmoid")


@pytest.mark.parametrize("how", WAYS)
def test_what_forward_computes_is_converted(how: str) -> None:
    net = settled(Net(how))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = xnorinfer.from_torch(net, input=TWO_SIDED)
    x = pixels()
    np.testing.assert_array_equal(model.predict(x), classes_of(net, x / 127.5 - 1))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    (told,) = (value for what, value, _ in model.packed.provenance["assumptions"] if what == "structure")
    assert told == "the packed network answers as the model itself on 256 rows" or how == "sigmoid"  # ties are left out there


def test_float_activations_are_refused() -> None:
    with pytest.raises(NetworkError, match=r"binary weights and follows fc1 without a sign") as error:
        xnorinfer.from_torch(settled(Net("float")), input=TWO_SIDED)
    assert "read by the order of its tensors instead" in str(error.value)
    assert "state_dict" not in str(error.value)


def test_what_cannot_be_exported_is_read_in_order_if_the_answers_agree() -> None:
    x = pixels()
    net = settled(InNumpy(order=False))
    options = {"input": TWO_SIDED, "profile": "ge-zero"}
    np.testing.assert_array_equal(xnorinfer.from_torch(net, **options).predict(x), classes_of(net, x / 127.5 - 1))
    with pytest.raises(
        NetworkError, match=r"instead, \d+ of 256 classes are not those of InNumpy itself, the first in row \d+"
    ):
        xnorinfer.from_torch(settled(InNumpy(order=True)), **options)


def test_a_description_that_the_module_contradicts() -> None:
    net = settled(Net("plain"))
    with pytest.raises(ExpectationError, match=r"\d+ of 256 classes are not those of Net itself, the first in row \d+"):
        xnorinfer.from_torch(net, input=TWO_SIDED, profile="ge-zero", before_norm="relu")
    assert xnorinfer.from_torch(settled(Net("relu")), input=TWO_SIDED, profile="ge-zero", before_norm="relu")


EXAMPLES: dict[str, tuple[Any, Any]] = {
    "pixels": (lambda x: x, UNIT),
    "0 to 1": (lambda x: (x / 255).astype(F), UNIT),
    "-1 to 1": (lambda x: (x / 127.5 - 1).astype(F), TWO_SIDED),
    "normalized": (lambda x: ((x / 255 - 0.1307) / 0.3081).astype(F), PixelInput.normalize(0.1307, 0.3081)),
    "raw": (lambda x: x.astype(F), PixelInput.range(0, 255)),
    "tensor": (lambda x: torch.from_numpy(x).float() / 255, UNIT),
    "random": (lambda x: np.random.default_rng(1).normal(size=x.shape).astype(F), UNIT),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_example_tells_the_mapping(kind: str) -> None:
    make, mapping = EXAMPLES[kind]
    net = settled(Net())
    x = pixels()
    model = xnorinfer.from_torch(net, example=make(x))
    low, high = mapping.ends
    entering = x.astype(np.float64) * ((high - low) / 255) + low
    assert (model.predict(x) != classes_of(net, entering)).sum() <= 1  # PyTorch rounds its sums


def test_examples_of_images_and_signs() -> None:
    net, x = settled(Net("image")), pixels()
    model = xnorinfer.from_torch(net, example=x.reshape(-1, 1, 6, 6), input=UNIT)
    np.testing.assert_array_equal(model.predict(x), classes_of(net, x / 255, (1, 6, 6)))
    model = xnorinfer.from_torch(net, input=UNIT)  # the shape is tried
    np.testing.assert_array_equal(model.predict(x), classes_of(net, x / 255, (1, 6, 6)))
    signs = np.where(x < 128, F(-1), F(1))
    net = settled(Net())
    np.testing.assert_array_equal(xnorinfer.from_torch(net, example=signs).predict(signs), classes_of(net, signs))
    np.testing.assert_array_equal(xnorinfer.from_torch(net, input=SignInput()).predict(signs), classes_of(net, signs))
    assert xnorinfer.from_torch(net, example=signs, input=RealInput()).info["input"]["kind"] == "reals"


def test_scaling_that_is_part_of_the_module() -> None:
    class Front(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, net: Any) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            return self.net(x / 127.5 - 1)

    net, x = settled(Front(Net())), pixels()
    for example in (None, x, x.astype(F)):
        model = xnorinfer.from_torch(net, example=example)
        np.testing.assert_array_equal(model.predict(x), classes_of(net, x))


def test_examples_that_are_none() -> None:
    net = settled(Net())
    for example, message in (
        (np.zeros((4, 35), F), "cannot be run|rows of 35 numbers"),
        (np.zeros(36, F), "needed are rows"),
        (np.full((4, 36), np.nan, F), "NaN or infinite"),
        (np.full((4, 36), 300), "pixels are 0..255"),
    ):
        with pytest.raises((InputError, SourceError, NetworkError), match=message):
            xnorinfer.from_torch(net, example=example, input=UNIT)
    with pytest.raises(OptionError, match=r"takes a torch\.nn\.Module, not dict"):
        xnorinfer.from_torch({})


def test_a_module_that_gives_no_scores() -> None:
    class Pair(Net):
        def forward(self, x: Any) -> Any:
            return super().forward(x), x

    with pytest.raises(SourceError, match=r'gives tuple for .*; output_name="0" or output_name="1" takes one of them'):
        xnorinfer.from_torch(settled(Pair()), input=UNIT)


def test_a_module_of_another_type() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Flatten(), nn.Linear(72, 5)).double()
    with pytest.raises(SourceError, match=r"0\.weight is torch\.float64, .*: module\.float\(\) makes one"):
        xnorinfer.from_torch(net, example=np.zeros((4, 3, 5, 5), F), input=UNIT)


class Image(nn.Module):  # type: ignore[misc, name-defined]
    """A float stem, a binary convolution, a float head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bits = torch.where(self.stem(x) >= 0, 1.0, -1.0)
        weight = torch.where(self.conv.weight >= 0, 1.0, -1.0)
        return self.head(functional.conv2d(bits, weight, self.conv.bias).mean((2, 3)))


@pytest.mark.parametrize("how", ["scripted", "traced", "weight_norm", "spectral_norm"])
def test_modules_that_were_made_of_others(how: str) -> None:
    """Scripts do not say the shape of their input; PyTorch's own parametrizations compute weights, of a copy."""
    torch.manual_seed(0)
    net = Image().eval()
    x = np.random.default_rng(0).integers(0, 256, (6, 3, 9, 7), dtype=np.uint8)
    if how == "scripted":
        net = torch.jit.script(net)
    elif how == "traced":
        net = torch.jit.trace(net, torch.rand(2, 3, 9, 7))
    else:
        for layer in (net.stem, net.conv, net.head):
            getattr(nn.utils.parametrizations, how)(layer)
        net.eval()
    model = xnorinfer.from_torch(net, example=x, input=UNIT)
    with torch.no_grad():
        want = net(torch.from_numpy(x).float() / 255).numpy()
    np.testing.assert_allclose(model.scores(x), want, rtol=1e-4, atol=1e-5)
    assert not how.endswith("norm") or nn.utils.parametrize.is_parametrized(net.stem)  # the user's own is left as it is


def test_nothing_is_printed_and_logging_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    class Deciding(Net):
        def forward(self, x: Any) -> Any:
            return super().forward(x * 2 if x.sum().item() > 1e9 else x)

    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xnorinfer.from_torch(settled(Deciding()), input=UNIT)
    assert logging.root.manager.disable == before
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("option", [{"format": "torch"}, {"net": "layers"}, {"state": "model"}, {"ema": True}])
def test_options_about_files_mean_nothing_for_a_module(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(OptionError, match=f"{name} says what to take of a file, and means nothing for Net, a live model"):
        xnorinfer.from_torch(settled(Net()), **option)


def test_a_tensor_that_takes_part_cannot_be_ignored() -> None:
    net = Net()
    net.unused = nn.Parameter(torch.zeros(3))
    model = xnorinfer.from_torch(settled(net), ignore=["unused"])
    assert "unused" in [one.name for one in model.report.ignored]
    for pattern in ("fc1*", "no-such-name"):
        with pytest.raises(
            OptionError, match=rf'ignore=\["{re.escape(pattern)}"\]: Net is read by the format torch, which says itself'
        ):
            xnorinfer.from_torch(net, ignore=["unused", pattern])

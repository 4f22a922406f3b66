"""Which tensors of a program of PyTorch are which: copies and others, truths and numbers, several results.

What is read has PyTorch's scores; what would need more is refused by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch_maps = pytest.importorskip("torch_maps", reason="PyTorch is not installed", exc_type=ImportError)

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch_maps import BinaryConv, ge, made, scores, write  # noqa: E402

from xnorinfer.converters import ConvertOptions, read_source  # noqa: E402
from xnorinfer.errors import NetworkError, SourceError  # noqa: E402
from xnorinfer.net import reference  # noqa: E402
from xnorinfer.net.values import PixelInput  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
SHAPE = (3, 12, 16)
PROGRAMS = ("traced", "scripted", "export")


class Two(nn.Module):  # type: ignore[misc, name-defined]
    """Two real maps of one shape, joined by a part of its own."""

    def __init__(self, join: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm, self.join = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), join
        self.conv, self.other = BinaryConv(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        return self.join(x, self.other(self.conv(ge(x)))).mean((2, 3))  # type: ignore[no-any-return]


class StackOfOne(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found = torch.stack([x]).sum(0)
        found += y
        return x + found


class RepeatedOnce(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found = x.repeat(1, 1, 1, 1)
        found += y
        return x + found


class UpToTheEnd(nn.Module):  # type: ignore[misc, name-defined]
    """Parts that reach the end of their axis, or beyond it, by numbers, and begin before it."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.clone()
        x[:, 5:8] += y[:, :3]
        x[:, -100:2] -= 1.0
        x[:, 6:100] *= 0.5
        last = x.narrow(1, -3, 3)
        last += 2.0
        return torch.cat([x, last], 1)


class Truths(nn.Module):  # type: ignore[misc, name-defined]
    """Truths that are added are truths, numbers that were made of such are not."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        either = (x > 0) + (x > 1)
        count = (x > 0).int() + (y > 0).int()
        stacked = torch.stack([x > 0, y > 0]).sum(0)
        return either.float() + count.float() + stacked.float() * 2.0


class EitherOfTwo(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return ((x > 0) + (y > 0)).float() + x


class Masks(nn.Module):  # type: ignore[misc, name-defined]
    """Channels that pass by truths in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.arange(8) % 3 == 0).view(1, 8, 1, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * self.mask + y * (~self.mask)


class LargestAlone(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found, _ = functional.max_pool2d(x, 2, return_indices=True)
        return found + functional.avg_pool2d(y, 2)


class OwnWeights(nn.Module):  # type: ignore[misc, name-defined]
    """Signs of weights that are made in place, in tensors of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter((torch.arange(576.0) * 7 % 5 - 2).reshape(8, 8, 3, 3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        signs = self.weight.sign()
        signs[signs == 0] = 1
        return y + functional.conv2d(ge(x), signs, padding=1)


@pytest.mark.parametrize("how", PROGRAMS)
@pytest.mark.parametrize("join", [OwnWeights, StackOfOne, RepeatedOnce, UpToTheEnd, Truths, EitherOfTwo, Masks, LargestAlone])
def test_what_is_read_has_pytorchs_scores(tmp_path: Path, join: type[nn.Module], how: str) -> None:
    net = made(Two(join()), 1)
    x = np.random.default_rng(2).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
    options = ConvertOptions(input=PixelInput.range(0, 255), input_shape=SHAPE if how == "scripted" else None)
    reading = read_source(write(net, SHAPE, tmp_path, how), options)
    np.testing.assert_allclose(reference.forward(reading.net, reading.as_network(x)), scores(net, x), rtol=1e-4, atol=1e-5)


class PlacesOfLargest(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found, places = functional.max_pool2d(x, 2, return_indices=True)
        return found + places.float()


class PlacesOfAdaptive(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found, places = functional.adaptive_max_pool2d(x, 2, return_indices=True)
        return found + places.float()


class BitsOfNumbers(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (~(x > 0).int()).float() + y


class IntoAnother(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found = x.clone()
        torch.add(x, y, out=found)
        return found + 1.0


class ListsOfShapes(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found = [x]
        if x.size(2) > 3:
            found.append(y)
        else:
            found.append(x)
        return torch.cat(found, 1)


class MembersByShapes(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found = [x, y]
        if x.size(2) > 3:
            found[0] = y
        else:
            found[0] = x
        return torch.cat(found, 1)


class FilesWeights(OwnWeights):
    """The same in the tensor of the file."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        signs = self.weight.detach()
        signs.clamp_(-1.0, 1.0)
        return y + functional.conv2d(ge(x), signs, padding=1)


REFUSED = {
    FilesWeights: (PROGRAMS, r"operation clamp_ writes into the tensor join\.weight of the file"),
    PlacesOfLargest: (PROGRAMS, "no tensor where one is needed"),
    PlacesOfAdaptive: (PROGRAMS, "no tensor where one is needed"),
    BitsOfNumbers: (PROGRAMS, r"\(bitwise_not\) is not supported"),
    IntoAnother: (("scripted",), r"operation add writes what it gives into another tensor \(out=\)"),
    ListsOfShapes: (("scripted",), "changes a list for some shapes alone"),
    MembersByShapes: (("scripted",), "changes a list for some shapes alone"),
}


@pytest.mark.parametrize(("join", "how"), [(join, how) for join, (ways, _) in REFUSED.items() for how in ways])
def test_what_is_not_followed_is_refused(tmp_path: Path, join: type[nn.Module], how: str) -> None:
    options = ConvertOptions(input=PixelInput.range(0, 255), input_shape=SHAPE if how == "scripted" else None)
    with pytest.raises((NetworkError, SourceError), match=REFUSED[join][1]):
        read_source(write(made(Two(join()), 1), SHAPE, tmp_path, how), options)

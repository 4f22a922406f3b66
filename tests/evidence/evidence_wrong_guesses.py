"""How often a wrong guess is caught: `python tests/evidence/evidence_wrong_guesses.py [--mnist FOLDER] [--seeds N]`.

With torch, small networks of many kinds are trained on MNIST for a moment and saved as state dicts, which say nothing of what
stands between their tensors.  Each is read as the plain binary network that most are: is that refused, warned about, or passed
over, without and with unlabelled images (`--data`)?  Networks that *are* plain are read rightly, where everything but "passed"
is a false alarm, and under each wrong input mapping.  Columns: what the network answers right, and what it would as it is read.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import numpy as np
import torch
from numpy.typing import NDArray
from places import SHARED
from real_networks import mnist_arrays
from torch import Tensor, nn
from torch.nn import functional

from xnorinfer.conversion import convert_file
from xnorinfer.converters.evidence.inputmapping import option_of
from xnorinfer.converters.reading import ConvertOptions, Remark
from xnorinfer.engine.model import Model
from xnorinfer.errors import NetworkError, SourceError
from xnorinfer.net.values import InputMapping, PixelInput, ThresholdInput

Array = NDArray[Any]
State = dict[str, Tensor]


class Signs(torch.autograd.Function):
    """+1 at 0 and above, else -1; backward the identity where |x| <= 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x.abs() <= 1)


class Kept(torch.autograd.Function):
    """Another value forward, the identity backward: weights and what they are binarized to."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


def signs(x: Tensor) -> Tensor:
    """Of weights."""
    return Kept.apply(x, torch.where(x >= 0, 1.0, -1.0))  # type: ignore[no-any-return, no-untyped-call]


def scaled(x: Tensor) -> Tensor:
    return Kept.apply(x, torch.where(x >= 0, 1.0, -1.0) * x.abs().mean(1, keepdim=True))  # type: ignore[no-any-return, no-untyped-call]


def scaled_by_layer(x: Tensor) -> Tensor:
    return Kept.apply(x, torch.where(x >= 0, 1.0, -1.0) * x.abs().mean())  # type: ignore[no-any-return, no-untyped-call]


def centred(x: Tensor) -> Tensor:
    return Kept.apply(x, torch.where(x >= x.mean(1, keepdim=True), 1.0, -1.0))  # type: ignore[no-any-return, no-untyped-call]


def ternary(x: Tensor, edge: Tensor | float | None = None) -> Tensor:
    """Below an edge 0; by default that of ternary weight networks."""
    edge = 0.7 * x.abs().mean() if edge is None else edge
    return Kept.apply(x, torch.where(x.abs() < edge, 0.0, x.sign()))  # type: ignore[no-any-return, no-untyped-call]


def binarized(x: Tensor) -> Tensor:
    return Signs.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def same(x: Any) -> Any:
    return x


def exchanged(first: str, second: str) -> Callable[[State], State]:
    """A state dict in which two modules, or two kinds of tensors, have each other's values."""

    def change(state: State) -> State:
        names = {name: name.replace(first, "?").replace(second, first).replace("?", second) for name in state}
        return {name: state[other] for name, other in names.items()}

    return change


def bits(state: State) -> State:
    return {name: (v >= 0).to(torch.uint8) if v.ndim == 2 else v for name, v in state.items()}


def binarized_but_head(state: State) -> State:
    last = max(name for name in state if name.startswith("fc") and name.endswith("weight"))
    return {name: torch.where(v >= 0, 1.0, -1.0) if v.ndim == 2 and name != last else v for name, v in state.items()}


@dataclass(frozen=True)
class Kind:
    """A kind of network.  weights: how layers use theirs; before: between sum and BatchNorm; after: between BatchNorm and the
    next layer; head: how the last layer uses its weights; plain: it is what a plain reading of its state dict says; saved: what
    is done to the state dict before it is written."""

    name: str
    weights: Callable[[Tensor], Tensor] = signs
    before: Callable[[Tensor], Tensor] = same
    after: Callable[[Tensor], Tensor] = binarized
    head: Callable[[Tensor], Tensor] | None = None
    head_norm: bool = True
    bias: bool = True
    widths: tuple[int, ...] = (784, 128, 128, 10)
    input: InputMapping = field(default_factory=lambda: PixelInput.range(-1, 1))
    dropout: float = 0.0
    clip: bool = True
    plain: bool = False
    decay: float = 0.0
    saved: Callable[[State], State] = same


class Net(nn.Module):
    """Layers fc1, bn1, fc2, ... in order of execution, as the state dict then has them."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.last = len(kind.widths) - 1
        for index, (depth, neurons) in enumerate(itertools.pairwise(kind.widths), start=1):
            self.add_module(f"fc{index}", nn.Linear(depth, neurons, bias=kind.bias))
            if index < self.last or kind.head_norm:
                self.add_module(f"bn{index}", nn.BatchNorm1d(neurons))
        self.dropout = nn.Dropout(kind.dropout)

    def forward(self, x: Tensor) -> Tensor:
        for index in range(1, self.last + 1):
            layer = self.get_submodule(f"fc{index}")
            use = self.kind.head if index == self.last and self.kind.head is not None else self.kind.weights
            x = functional.linear(x, use(layer.weight), layer.bias)  # type: ignore[arg-type]
            if index < self.last:
                x = self.dropout(self.kind.after(self.get_submodule(f"bn{index}")(self.kind.before(x))))
        return self.get_submodule(f"bn{self.last}")(x) if self.kind.head_norm else x


def mapped(pixels: Array, mapping: InputMapping) -> Tensor:
    """What enters a network, float32."""
    if isinstance(mapping, ThresholdInput):
        return torch.from_numpy(np.where(pixels >= mapping.threshold, np.float32(1), np.float32(-1)))
    assert isinstance(mapping, PixelInput)
    return torch.from_numpy(
        ((mapping.slope * pixels.astype(np.float64) + mapping.intercept) / mapping.divisor).astype(np.float32)
    )


def train(kind: Kind, pixels: Array, labels: Array, epochs: int, seed: int) -> Net:
    """A trained network, in eval mode."""
    torch.manual_seed(seed)
    net = Net(kind)
    x, y = mapped(pixels, kind.input), torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=kind.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            if kind.clip:
                with torch.no_grad():
                    for index in range(1, net.last + (kind.head is None)):
                        net.get_submodule(f"fc{index}").weight.clamp_(-1, 1)  # type: ignore[operator]
        schedule.step()
    return net.eval()


RANGE = PixelInput.range
hardtanh, relu, tanh = functional.hardtanh, functional.relu, torch.tanh
KINDS = (
    Kind("plain", plain=True),
    Kind("plain, no bias", plain=True, bias=False),
    Kind("plain, narrow", plain=True, widths=(784, 16, 16, 10)),
    Kind("plain, wide", plain=True, widths=(784, 512, 256, 10)),
    Kind("plain, four layers", plain=True, widths=(784, 64, 64, 64, 10)),
    Kind("plain, one hidden layer", plain=True, widths=(784, 64, 10)),
    Kind("plain, dropout 0.5", plain=True, dropout=0.5),
    Kind("plain, no clipping", plain=True, clip=False),
    Kind("plain, weight decay", plain=True, clip=False, decay=1e-3),
    Kind("plain, hardtanh before the sign", plain=True, after=lambda x: binarized(hardtanh(x))),
    Kind("pixels 0..1", plain=True, input=RANGE(0, 1)),
    Kind("pixels 0..255", plain=True, input=RANGE(0, 255)),
    Kind("pixels -0.5..0.5", plain=True, input=RANGE(-0.5, 0.5)),
    Kind("pixels normalized", plain=True, input=PixelInput.normalize(0.1307, 0.3081)),
    Kind("pixels binarized", plain=True, input=ThresholdInput(128)),
    Kind("relu before BatchNorm", before=relu),
    Kind("relu before BatchNorm, no bias", before=relu, bias=False),
    Kind("leaky relu before BatchNorm", before=lambda x: functional.leaky_relu(x, 0.1)),
    Kind("tanh of an eighth before BatchNorm", before=lambda x: tanh(x / 8)),
    Kind("weights scaled by mean |w| of neurons", weights=scaled),
    Kind("weights scaled by mean |w| of layers", weights=scaled_by_layer),
    Kind("weights scaled, no clipping", weights=scaled, clip=False),
    Kind("weights centred", weights=centred),
    Kind("weights centred, no clipping", weights=centred, clip=False),
    Kind("weights ternary", weights=ternary),
    Kind("weights ternary, 0 below 0.05", weights=lambda w: ternary(w, 0.05)),
    Kind("weights ternary, a tenth of them 0", weights=lambda w: ternary(w, w.abs().quantile(0.1))),
    Kind("weights ternary, weight decay", weights=ternary, clip=False, decay=1e-3),
    Kind("weights saved as 0 and 1", saved=bits),
    Kind("float head without BatchNorm", head=same, head_norm=False),
    Kind("float head, other weights saved as -1 and +1", head=same, head_norm=False, saved=binarized_but_head),
    Kind("float head with BatchNorm", head=same),
    Kind("activations relu", after=relu),
    Kind("activations hardtanh", after=hardtanh),
    Kind("weights float", weights=same),
    Kind("weights float, no clipping", weights=same, clip=False),
    Kind("ordinary relu network", weights=same, after=relu, clip=False),
    Kind("ordinary relu network, no bias", weights=same, after=relu, clip=False, bias=False),
    Kind("ordinary tanh network", weights=same, after=tanh, clip=False),
    Kind("layers 2 and 3 exchanged", widths=(784, 64, 64, 64, 10), saved=exchanged("2.", "3.")),
    Kind("BatchNorms 1 and 2 exchanged", saved=exchanged("bn1", "bn2")),
)


# ---------------------------------------------------------------- what is caught


@dataclass(frozen=True)
class Row:
    """How one network was read."""

    name: str
    guess: str
    alone: str
    with_data: str
    right: float
    read: float

    HEADINGS = ("network", "read as", "alone", "with --data", "right", "as read")

    def text(self) -> str:
        return f"| {self.name} | {self.guess} | {self.alone} | {self.with_data} | {self.right:.1%} | {self.read:.1%} |"


def verdict(path: Path, options: ConvertOptions, data: Array | None) -> str:
    """What becomes of a file: "refused", "warned" or "passed"."""
    try:
        reading = convert_file(path, options, data).reading
    except (NetworkError, SourceError):
        return "refused"
    return "warned" if any(isinstance(text, Remark) for text in reading.warnings) else "passed"


def judged(name: str, path: Path, options: ConvertOptions, right: float, test: tuple[Array, Array]) -> Row:
    """One reading.  right: the share of answers of the network itself that are right."""
    x, labels = test
    alone, with_data = (verdict(path, options, data) for data in (None, x))
    try:
        model = Model(convert_file(path, replace(options, answered=True)).packed, threads=1)
        read = float((model.predict(x) == labels).mean())
    except (NetworkError, SourceError):
        read = float("nan")
    assert options.input is not None
    return Row(name, option_of(options.input), alone, with_data, right, read)


def rows(mnist: Path, folder: Path, seeds: int, images: int = 10_000, epochs: int = 4) -> Iterator[tuple[Kind, Row]]:
    """Every network under its own mapping, plain ones under every other, too."""
    x, y = mnist_arrays(mnist, "train", images)
    test = mnist_arrays(mnist, "t10k", 4096)
    for seed in range(1, seeds + 1):
        for number, kind in enumerate(KINDS):
            net = train(kind, x, y, epochs, seed)
            path = folder / f"{number}-{seed}.pt"
            torch.save(kind.saved(net.state_dict()), path)
            with torch.no_grad():
                right = float((net(mapped(test[0], kind.input)).argmax(1).numpy() == test[1]).mean())
            others = [one for one in MAPPINGS if kind.plain and one != kind.input]
            for mapping in (kind.input, *others):
                options = ConvertOptions(profile="ge-zero", input=mapping)
                yield replace(kind, plain=kind.plain and mapping == kind.input), judged(kind.name, path, options, right, test)


MAPPINGS: tuple[InputMapping, ...] = (
    RANGE(-1, 1),
    RANGE(0, 1),
    RANGE(0, 255),
    PixelInput.normalize(0.1307, 0.3081),
    ThresholdInput(128),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, default=SHARED / "mnist")
    parser.add_argument("--seeds", type=int, default=1, help="networks of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: Counter[tuple[str, str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        print("| " + " | ".join(Row.HEADINGS) + " |\n|" + "---|" * len(Row.HEADINGS))
        for kind, row in rows(arguments.mnist, Path(folder), arguments.seeds):
            print(row.text(), flush=True)
            what = "plain, read rightly" if kind.plain else "another mapping" if row.name in PLAIN else "another network"
            found[what, "alone", row.alone] += 1
            found[what, "with --data", row.with_data] += 1
    for (what, how, verdict_), count in sorted(found.items()):
        print(f"{what}, {how}: {count} {verdict_}")
    return 1 if any(found["plain, read rightly", how, bad] for how in ("alone", "with --data") for bad in ("refused",)) else 0


PLAIN = {kind.name for kind in KINDS if kind.plain}

if __name__ == "__main__":
    sys.exit(main())

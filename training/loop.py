"""Training epoch by epoch: seeded, the best network by validation kept, able to go on after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from xnorinfer.errors import OptionError
from xnorinfer.training.data import Samples
from xnorinfer.training.distortion import distorted
from xnorinfer.training.optimizer import BinaryAdam, learning_rate
from xnorinfer.training.trainable import BinaryNet, pixels_to_inputs, squared_hinge


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.  The defaults are the reference's; the learning rate falls once an epoch.

    shift, rotate, zoom: the distortions of `distorted`.
    """

    epochs: int = 1000
    batch: int = 100
    lr_start: float = 3e-3
    lr_end: float = 3e-7
    seed: int = 0
    mixed: bool = False  # mixed precision (`xnorinfer.training.mixed`)
    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}; needed is a whole number above 0")
        for name in ("lr_start", "lr_end"):
            if not 0 < getattr(self, name) < float("inf"):
                raise OptionError(f"{name} is {getattr(self, name)}; needed is a finite number above 0")
        for name, limit in (("shift", float("inf")), ("rotate", 180.0), ("zoom", 1.0)):
            if not 0 <= getattr(self, name) < limit:
                raise OptionError(f"{name} is {getattr(self, name)}; needed is a number from 0 to below {limit:g}")

    @property
    def distorts(self) -> bool:
        """Whether images are distorted while training."""
        return bool(self.shift or self.rotate or self.zoom)

    def inputs(self, samples: Samples, rows: Tensor) -> Tensor:
        """What the network reads of some samples while training: (rows, depth) float32.

        Raises OptionError if what is no image should be distorted.
        """
        pixels = samples.pixels[rows]
        if self.distorts:
            if samples.image is None:
                raise OptionError("shift, rotate and zoom are for images; these samples are none")
            pixels = distorted(pixels, samples.image, self.shift, self.rotate, self.zoom)
        return pixels_to_inputs(pixels)


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.  Errors are fractions; `flips` is the share of weights whose sign changed, layer by layer."""

    epoch: int
    lr: float
    loss: float
    validation_error: float
    flips: tuple[float, ...]
    seconds: float


@dataclass
class Progress:
    """Everything that a training run needs to go on: the network and optimizer as they are, and the best network so far."""

    model: BinaryNet
    optimizer: BinaryAdam
    recipe: Recipe
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_error: float = float("inf")
    best: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, build: Callable[[], BinaryNet], recipe: Recipe) -> Progress:
        """A fresh network whose initial latents come from the recipe's seed.  Torch's own generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = build()
        model.mixed = recipe.mixed
        return cls(model, BinaryAdam(model, recipe.lr_start), recipe)

    @property
    def done(self) -> bool:
        return len(self.history) >= self.recipe.epochs

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that it can be read back without running code."""
        return {
            "shape": asdict(self.model.shape),
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "best_epoch": self.best_epoch,
            "best_error": self.best_error,
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave.  Raises OptionError if it belongs to another network or recipe."""
        for name, mine in (("shape", asdict(self.model.shape)), ("recipe", asdict(self.recipe))):
            for key, value in mine.items():
                theirs = state[name].get(key)
                if theirs != value:
                    raise OptionError(
                        f"the interrupted training had {key} = {theirs}, this one has {value}; start over with --restart"
                    )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [Epoch(**{**epoch, "flips": tuple(epoch["flips"])}) for epoch in state["history"]]
        self.best_epoch, self.best_error, self.best = state["best_epoch"], state["best_error"], state["best"]

    def run_epoch(self, train: Samples, validation: Samples, on_batch: Callable[[], None] = lambda: None) -> Epoch:
        """One pass over `train` in random order, then the validation error; remembers the network if it is the best so far
        (a later epoch wins a tie, as in the reference).

        All randomness of an epoch comes from the seed and the epoch's number, so that a resumed run equals an uninterrupted
        one.  A last batch of a single sample is left out: BatchNorm cannot take its variance.
        """
        index = len(self.history)
        recipe, model, optimizer = self.recipe, self.model, self.optimizer
        began = time.perf_counter()
        lr = learning_rate(index, recipe.epochs, recipe.lr_start, recipe.lr_end)
        optimizer.set_learning_rate(lr)
        before = [layer.weight.detach() > 0 for layer, _ in model.layers()]
        total = torch.zeros(())
        seen = 0
        model.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed * 1_000_003 + index + 1)
            for rows in torch.split(torch.randperm(len(train)), recipe.batch):
                if len(rows) > 1:
                    optimizer.zero_grad()
                    loss = squared_hinge(model(recipe.inputs(train, rows)), train.labels[rows])
                    loss.backward()
                    optimizer.step()
                    total += loss.detach() * len(rows)
                    seen += len(rows)
                on_batch()
        if not torch.isfinite(total):
            raise OptionError(
                f"the loss became {float(total):g} in epoch {index + 1}; use a smaller --lr-start than {recipe.lr_start:g}"
            )
        after = [layer.weight.detach() > 0 for layer, _ in model.layers()]
        flips = tuple(float((old != new).float().mean()) for old, new in zip(before, after, strict=True))
        error = error_rate(model, validation)
        if error <= self.best_error:
            self.best_error, self.best_epoch = error, index + 1
            self.best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.history.append(Epoch(index + 1, lr, float(total) / max(seen, 1), error, flips, time.perf_counter() - began))
        return self.history[-1]

    def load_best(self) -> BinaryNet:
        """The network of the best epoch, in eval mode and float32."""
        self.model.load_state_dict(self.best)
        self.model.mixed = False
        return self.model.eval()


@torch.no_grad()
def predict(model: BinaryNet, pixels: Tensor, batch: int = 1000) -> Tensor:
    """Classes as the framework computes them: (rows, depth) uint8 -> (rows,) int64; a tie goes to the first class."""
    model.eval()
    return torch.cat([model(pixels_to_inputs(part)).argmax(1) for part in torch.split(pixels, batch)])


def error_rate(model: BinaryNet, samples: Samples) -> float:
    """Share of samples whose class is not their label."""
    return float((predict(model, samples.pixels) != samples.labels).double().mean())

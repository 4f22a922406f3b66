"""Trains the network that ships inside the package: 64-256-256-10 on the 8x8 digits of the UCI repository.

One thread and a fixed seed: the same machine and PyTorch version give the same file again.  The hyperparameters were chosen
by the validation error; the held-out rows are used once, after training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xnorinfer.training.architecture import Shape
from xnorinfer.training.checkpoint import save, write_npz
from xnorinfer.training.data import Split, digits
from xnorinfer.training.loop import Epoch, Progress, Recipe, error_rate
from xnorinfer.training.trainable import BinaryNet

SHAPE = Shape(inputs=64, hidden=(256, 256), classes=10, dropout_input=0.1, dropout_hidden=0.2)
RECIPE = Recipe(epochs=300, batch=50, lr_start=3e-3, lr_end=3e-6, seed=0)
CHECKPOINT = "digits-64-256-256-10.npz"
HELD_OUT = "digits-test.npz"


@dataclass(frozen=True)
class Result:
    """What a run gave; errors are fractions."""

    best_epoch: int
    validation_error: float
    test_error: float
    test_rows: int


def train(split: Split, recipe: Recipe = RECIPE, on_epoch: Callable[[Epoch], None] = lambda epoch: None) -> Progress:
    """A finished training run on one thread, deterministic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        progress = Progress.start(lambda: BinaryNet(SHAPE), recipe)
        while not progress.done:
            on_epoch(progress.run_epoch(split.train, split.validation))
    finally:
        torch.set_num_threads(threads)
    return progress


def write(folder: Path, on_epoch: Callable[[Epoch], None] = lambda epoch: None) -> Result:
    """Train and write both files into `folder`: the latent checkpoint, and the held-out rows (x (rows, 64) and y, uint8)."""
    split = digits()
    progress = train(split, on_epoch=on_epoch)
    model = progress.load_best()
    test_error = error_rate(model, split.test)
    write_npz(folder / CHECKPOINT, model)
    held_out: dict[str, Any] = {"x": split.test.pixels.numpy(), "y": split.test.labels.numpy().astype(np.uint8)}
    save(folder / HELD_OUT, lambda file: np.savez_compressed(file, **held_out))
    return Result(progress.best_epoch, progress.best_error, test_error, len(split.test))

"""Trains the networks of the BinaryNet recipe on MNIST: files, resume, and the one use of the test images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xnorinfer.errors import OptionError
from xnorinfer.files import require_writable, write_bytes, write_json
from xnorinfer.training.architecture import Hidden, Shape
from xnorinfer.training.bundle import files_of
from xnorinfer.training.checkpoint import read_state, write_npz, write_state, write_tf1, write_torch
from xnorinfer.training.data import Split
from xnorinfer.training.data import mnist as load_mnist
from xnorinfer.training.loop import Epoch, Progress, Recipe, error_rate
from xnorinfer.training.netfile import net_toml, require_tomli_w
from xnorinfer.training.trainable import BATCH_NORM_EPSILON, BinaryNet

#: Suffix of the output -> how it is written, and the options with which `xnorinfer convert` needs to ask nothing.
WRITERS: dict[str, tuple[Callable[[Path, BinaryNet], None], str]] = {
    ".npz": (write_npz, ""),
    ".pt": (write_torch, f" --profile tf1-round --bn-epsilon {BATCH_NORM_EPSILON:g}"),
    ".pth": (write_torch, f" --profile tf1-round --bn-epsilon {BATCH_NORM_EPSILON:g}"),
    ".ckpt": (write_tf1, f" --bn-epsilon {BATCH_NORM_EPSILON:g}"),
}

IMAGE = (28, 28, 1)
CLASSES = 10


def inputs_of(hidden: tuple[Hidden, ...], classes: int) -> int | tuple[int, int, int]:
    """What a network of these layers reads: images if there are convolutions, else their pixels as features.

    Raises OptionError for another number of classes.
    """
    if classes != CLASSES:
        raise OptionError(f"the last layer has {classes} neurons; MNIST has {CLASSES} classes")
    return IMAGE if any(isinstance(layer, str) for layer in hidden) else math.prod(IMAGE)


class Job:
    """One training run and its files: the checkpoint, `.history.json` beside it, `.net.toml` where a convolutional
    checkpoint does not say all, and `.state` while it is unfinished."""

    progress: Progress
    split: Split

    def __init__(self, output: Path, shape: Shape, recipe: Recipe) -> None:
        """Raises OptionError or OutputError if the output cannot be written, before anything is read or trained."""
        if output.suffix not in WRITERS:
            raise OptionError(f"output {output} ends in {output.suffix or 'nothing'}; needed is one of {', '.join(WRITERS)}")
        self.output, self.shape, self.recipe = output, shape, recipe
        self.history_path = output.with_name(output.name + ".history.json")
        self.state_path = output.with_name(output.name + ".state")
        checkpoint = files_of(output) if output.suffix == ".ckpt" else (output,)
        #: Beside a checkpoint that says nothing of windows.
        described = output.suffix != ".npz" and len(shape.input_shape) == 3
        self.net_path = output.with_name(output.name + ".net.toml") if described else None
        if described:
            require_tomli_w()
        for path in (*checkpoint, self.history_path, self.state_path, *([self.net_path] if self.net_path else [])):
            require_writable(path)

    def prepare(self, folder: Path, restart: bool) -> None:
        """Read the data, build the network and take up an interrupted run of the same output unless `restart`.

        Raises OptionError if that run had another network or recipe, SourceError if its state cannot be read.
        """
        self.split = load_mnist(folder)
        self.progress = Progress.start(lambda: BinaryNet(self.shape), self.recipe)
        if self.state_path.exists() and not restart:
            self.progress.restore(read_state(self.state_path))

    @property
    def finished_epochs(self) -> int:
        return len(self.progress.history)

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.split.train) // self.recipe.batch)

    def run_epoch(self, on_batch: Callable[[], None] = lambda: None) -> Epoch:
        """Train one epoch; when this returns, an interruption costs nothing."""
        epoch = self.progress.run_epoch(self.split.train, self.split.validation, on_batch)
        write_state(self.state_path, self.progress.state())
        return epoch

    def finish(self) -> dict[str, Any]:
        """Measure the best network on the test images, write the checkpoint and the history, remove the state."""
        model = self.progress.load_best()
        summary: dict[str, Any] = {
            "network": self.shape.name,
            "epochs": self.finished_epochs,
            "best_epoch": self.progress.best_epoch,
            "validation_error": self.progress.best_error,
            "test_error": error_rate(model, self.split.test),
            "seconds": sum(epoch.seconds for epoch in self.progress.history),
        }
        WRITERS[self.output.suffix][0](self.output, model)
        if self.net_path is not None:
            write_bytes(self.net_path, net_toml(model, self.output.suffix).encode())
        everything = {"summary": summary, "shape": asdict(self.shape), "recipe": asdict(self.recipe)}
        write_json(self.history_path, {**everything, "epochs": [asdict(epoch) for epoch in self.progress.history]})
        self.state_path.unlink(missing_ok=True)
        return summary

    def convert_command(self) -> str:
        """The command that packs the checkpoint."""
        options = WRITERS[self.output.suffix][1] + ("" if self.shape.h == 1 else f" --h {self.shape.h}")
        if self.net_path is not None:
            options = f" --net {self.net_path}"
        return f"xnorinfer convert {self.output} -o {self.output.with_suffix('.safetensors')}{options}"

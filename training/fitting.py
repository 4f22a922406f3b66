"""From arrays to a trained network in one call, and from that to a float network, without a file between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Named, Norm, Pool, Quantize
from xnorinfer.net.values import PixelInput
from xnorinfer.net.windows import Window
from xnorinfer.training.architecture import Shape
from xnorinfer.training.binarylayers import BinaryConv2d, BinaryLinear
from xnorinfer.training.checkpoint import named_arrays
from xnorinfer.training.data import Samples
from xnorinfer.training.loop import Epoch, Progress, Recipe
from xnorinfer.training.trainable import BinaryNet


def train(
    shape: Shape,
    recipe: Recipe,
    samples: Samples,
    validation: Samples,
    *,
    patience: int | None = None,
    threads: int | None = None,
    show: bool = False,
) -> Progress:
    """A finished training; its `load_best` is the network of the best epoch.

    patience: end after so many epochs without a lower validation error; None: all epochs of the recipe.  threads: of PyTorch
    while it trains; None leaves them as they are.  show: a progress bar on stderr.
    Raises OptionError where the loss becomes infinite or NaN.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        progress = Progress.start(lambda: BinaryNet(shape), recipe)
        lowest, since = float("inf"), 0
        with _bar(recipe.epochs, show) as tell:
            while not progress.done and (patience is None or since < patience):
                epoch = progress.run_epoch(samples, validation)
                tell(epoch)
                # Not `best_epoch`: there a later epoch wins a tie, so that a perfect network would go on to the end.
                lowest, since = (epoch.validation_error, 0) if epoch.validation_error < lowest else (lowest, since + 1)
    finally:
        torch.set_num_threads(before)
    return progress


def net_of(model: BinaryNet) -> Net:
    """The float network that a trained one is: pixels mapped to -1..1, this recipe's tie rule, PyTorch's order of BatchNorm."""
    arrays = named_arrays(model)
    ops: list[Named] = []
    for index, (name, pool) in enumerate(zip(model.names, model.pools, strict=True)):
        layer, weight = model.get_submodule(name), arrays[f"{index}.weight"]
        assert isinstance(layer, BinaryLinear | BinaryConv2d)
        window = None
        if isinstance(layer, BinaryConv2d):
            top, bottom, left, right = arrays[f"{index}.padding"].tolist()
            window = Window((weight.shape[1], weight.shape[2]), padding=(top, bottom, left, right))
        ops.append((name, Linear(weight, "round-even", layer.h, arrays.get(f"{index}.bias"), window=window)))
        if pool > 1:
            ops.append((f"pool{index + 1}", Pool("max", Window((pool, pool), (pool, pool)))))
        norm = Norm(
            arrays[f"{index}.bn.mean"],
            arrays[f"{index}.bn.var"],
            gamma=arrays[f"{index}.bn.gamma"],
            beta=arrays[f"{index}.bn.beta"],
            epsilon=float(arrays[f"{index}.bn.epsilon"]),
            form="torch",
        )
        ops.append((f"bn{index + 1}", norm))
        if index + 1 < len(model.names):
            ops.append((f"sign{index + 1}", Quantize("round-even")))
    return Net.chain(PixelInput.range(-1, 1), ops, "tf1-round", model.shape.input_shape)


@contextlib.contextmanager
def _bar(epochs: int, show: bool) -> Iterator[Callable[[Epoch], None]]:
    if not show:
        yield lambda epoch: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=epochs)
        yield lambda epoch: bar.update(
            task, advance=1, description=f"loss {epoch.loss:.4f}, validation error {epoch.validation_error:.2%}"
        )


def divided(classes: NDArray[np.int64], share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to learn from and rows to choose the best epoch with, (rows,) int64 each: of every class about `share` of its rows,
    never its only one.  Without a row to choose with, those to learn from choose, too.
    """
    rng = np.random.default_rng(seed)
    held: list[NDArray[np.int64]] = []
    for one in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == one))
        held.append(rows[: min(round(share * len(rows)), len(rows) - 1)])
    chosen = np.sort(np.concatenate(held))
    rest = np.setdiff1d(np.arange(len(classes)), chosen)
    return torch.from_numpy(rest), torch.from_numpy(chosen if len(chosen) else rest)

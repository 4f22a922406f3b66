"""What a model says of a batch, as columns by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xnorinfer import shipped
from xnorinfer.engine.margins import NO_MARGIN, margins
from xnorinfer.engine.model import Model, inputs_of
from xnorinfer.packing import modelfile
from xnorinfer.packing.packed import PackedModel

#: The columns that answers can have, beside those that say which row they are of.
CLASS, SCORES, GAP, MARGINS = "class", "scores", "gap", "margins"
ANSWERS = (CLASS, SCORES, GAP, MARGINS)


@dataclass(frozen=True)
class Wanted:
    """Which answers beside the class: `scores` gives scores, `margins` gap and margins (as in `xnorinfer run --margins`)."""

    scores: bool = False
    margins: bool = False


def answers(model: Model, x: ArrayLike, wanted: Wanted) -> dict[str, NDArray[Any]]:
    """Columns of a batch x (rows, ...): class (rows,) int64, scores (rows, classes) float32, gap (rows,) float64 and margins
    (rows, hidden layers) float64, infinite where a layer cannot change.

    Each row's answer depends on that row alone: floats are what enters the network, never raw pixels, which are whole numbers
    (`Model.scores` tells raw ones by what other rows hold).  Raises InputError.
    """
    inputs = inputs_of(model.packed.input, model.packed.shape, x, channels_first=model.packed.channels_first)
    if not wanted.margins:
        scores = model.plan.run(inputs)
        found: dict[str, NDArray[Any]] = {CLASS: np.asarray(scores.argmax(axis=1), np.int64)}
        return {**found, SCORES: scores} if wanted.scores else found
    trace = model.plan.trace(inputs)
    sure = margins(model.packed, inputs, trace)
    found = {CLASS: sure.classes}
    if wanted.scores:
        found[SCORES] = trace[-1]
    layers = [np.where(layer.smallest == NO_MARGIN, np.inf, layer.smallest) for layer in sure.layers]
    return {
        **found,
        GAP: sure.gaps,
        MARGINS: np.stack(layers, axis=1).astype(np.float64) if layers else np.empty((len(inputs), 0)),
    }


def model_of(model: str | Path | PackedModel | Model, threads: int | None) -> Model:
    """A model to run: of a file, whose packed bits stay mapped, so that processes share them; of a name that ships; or of a
    packed one.  Raises ModelFileError, KernelError, OptionError where each pixel has a class."""
    if isinstance(model, Model):
        model.packed.require_one_class("scoring gives")
        return model if threads is None else Model(model.packed, threads=threads)
    packed = model if isinstance(model, PackedModel) else modelfile.load(shipped.locate(model), mapped=True)
    packed.require_one_class("scoring gives")
    return Model(packed, threads=threads)

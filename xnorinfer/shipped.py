"""The packed models that ship with the package: each is a model file with its card, `NAME.safetensors` and `NAME.json`.

A name stands for the file wherever a model is expected, unless a file of that name exists.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import NotAModelError

DATA = Path(__file__).parent / "data"
FOLDER = DATA / "models"


def names() -> tuple[str, ...]:
    """Names of the models that ship, sorted."""
    return tuple(sorted(card.stem for card in FOLDER.glob("*.json")))


def path(name: str) -> Path:
    """The model file of a shipped model.  Raises NotAModelError, which lists what ships."""
    if name not in names():
        raise NotAModelError(f"{name}: no model of this name ships with xnorinfer; there is {', '.join(names())}")
    return FOLDER / f"{name}.safetensors"


def card(name: str) -> dict[str, Any]:
    """The card of a shipped model, JSON-able: data, recipe, accuracy, sizes, digests, licence.  Raises NotAModelError."""
    content: dict[str, Any] = json.loads(path(name).with_suffix(".json").read_text(encoding="utf-8"))
    return content


def locate(model: str | Path) -> Path:
    """The file that `model` means: the shipped model of that name if there is one and no file is called so, else that path."""
    return path(str(model)) if str(model) in names() and not Path(model).exists() else Path(model)


#: Side of an image of MNIST, and of the box in it that the digit was scaled to.
SIDE, BOX = 28, 20


def sample_digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images for a model of MNIST's format, and their classes: (400, 28, 28) and (400,) uint8.

    They are the 8x8 digits beside the demo's checkpoint (UCI repository, CC BY 4.0), brought to MNIST's format as its authors
    describe theirs: scaled to 20x20 (here bilinearly), and placed so that the centre of mass is the centre of the image.
    """
    with np.load(DATA / "digits-test.npz") as held_out:
        small, classes = held_out["x"].reshape(-1, 8, 8).astype(np.float64), held_out["y"]
    places = (np.arange(BOX) + 0.5) * 8 / BOX - 0.5
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(8)))  # beyond the image there is black
    boxes = np.rint(weights @ small @ weights.T).astype(np.uint8)
    images = np.zeros((len(boxes), SIDE, SIDE), np.uint8)
    for image, box in zip(images, boxes, strict=True):
        total = box.sum(dtype=np.float64)
        rows, columns = (box.sum(axis=axis) @ np.arange(BOX) / total for axis in (1, 0))
        top, left = (int(np.clip(np.rint((SIDE - 1) / 2 - centre), 0, SIDE - BOX)) for centre in (rows, columns))
        image[top : top + BOX, left : left + BOX] = box
    return images, classes

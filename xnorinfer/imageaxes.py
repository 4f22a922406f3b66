"""Which axes of an array are those of images: height, width and channels, in this order, or channels first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import InputError

Shape = tuple[int, ...]


def channels_last(what: str, shape: Shape, images: NDArray[Any], *, source_first: bool) -> NDArray[Any]:
    """Images with their channels last, or rows of their values: see `are_channels_first`."""
    first = are_channels_first(what, shape, images.shape, source_first=source_first)
    return np.moveaxis(images, 1, -1) if first else images


def are_channels_first(what: str, shape: Shape, found: Shape, *, source_first: bool) -> bool:
    """Whether images have their channels first, (rows, channels, height, width); else last, or they are rows of all values.

    what: the array's name in messages.  shape: of one image that a model takes, (height, width, channels).  found: of the
    array, (rows, ...).  source_first: whether the source of the model has channels first; only then such images are taken.
    Raises InputError, which says what would be right, for another size or order of axes, and where both orders fit.
    """
    height, width, channels = shape
    first: list[Shape] = [(channels, height, width)]
    usual: list[Shape] = [(math.prod(shape),), shape]
    if height == 1:  # lines
        first.append((channels, width))
        usual.append((width, channels))
    if channels == 1:  # both orders are the same
        usual += [(height, width), *first]
    given = found[1:]
    last = "x.transpose(0, 2, 3, 1)" if len(given) == 3 else "x.transpose(0, 2, 1)"
    if given in first and given not in usual:
        if source_first:
            return True
        raise InputError(f"{what} has shape {found}, channels first; this model takes them last: {last}")
    if given in first and channels > 1 and source_first:
        raise InputError(
            f"{what} has shape {found}, and the source of this model has channels first: which axis has them? Give rows, "
            f"x.reshape(len(x), -1) for channels last, {last}.reshape(len(x), -1) for channels first"
        )
    if given in usual:
        return False
    if found in usual[1:]:
        raise InputError(f"{what} has shape {found}, which looks like one sample; give it a row axis: x[None]")
    plain = f" or (rows, {height}, {width})" if channels == 1 else ""
    raise InputError(
        f"{what} has shape {found}; this model takes images (rows, {height}, {width}, {channels}){plain}, or their values in "
        f"rows, (rows, {math.prod(shape)})"
    )

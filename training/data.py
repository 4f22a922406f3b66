"""Data sets as uint8 pixels and int64 labels: MNIST from IDX files, the 8x8 digits that scikit-learn carries."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xnorinfer.errors import InputError, MissingExtraError, OptionError
from xnorinfer.samples.dataio import open_array, read_labels
from xnorinfer.training.download import download_mnist

#: Names the folder of MNIST's IDX files where no option does.
MNIST_VARIABLE = "XNORINFER_MNIST"
MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True, eq=False)
class Samples:
    """pixels: (rows, depth) uint8; labels: (rows,) int64; image: (height, width, channels) if they are images."""

    pixels: Tensor
    labels: Tensor
    image: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, pixels: NDArray[Any], labels: NDArray[Any]) -> Samples:
        """From numpy: (rows, depth), (rows, H, W) or (rows, H, W, C) of whole numbers 0..255, and (rows,) labels."""
        flat = np.ascontiguousarray(pixels.reshape(len(pixels), -1), np.uint8)
        image = None if pixels.ndim == 2 else (*pixels.shape[1:3], flat.shape[1] // math.prod(pixels.shape[1:3]))
        return cls(torch.from_numpy(flat), torch.from_numpy(labels.astype(np.int64)), image)

    def part(self, rows: slice) -> Samples:
        """Some of them."""
        return Samples(self.pixels[rows], self.labels[rows], self.image)


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint parts: to learn from, to choose the best epoch with, and to measure with once."""

    train: Samples
    validation: Samples
    test: Samples


def mnist_folder(given: Path | None, download: bool = False, tell: Callable[[str], None] = lambda url: None) -> Path:
    """The folder with the IDX files: the one given, else the environment variable's.

    download: fetch the files that it lacks; `tell` gets each URL before.  Raises OptionError if there is no folder or a file
    is missing, and with `download` what `download_mnist` raises.
    """
    named = os.environ.get(MNIST_VARIABLE)
    if given is None and not named:
        raise OptionError(
            f"no MNIST folder: give --data DIR or set {MNIST_VARIABLE} to a folder with {', '.join(MNIST_FILES)} (.gz or not)"
        )
    folder = given if given is not None else Path(str(named))
    missing = [name for name in MNIST_FILES if not _idx_path(folder, name).is_file()]
    if missing and download:
        download_mnist(folder, missing, tell)
    elif missing:
        raise OptionError(
            f"{folder} has no {', '.join(missing)} (.gz or not); needed are all four files of MNIST, which --download fetches"
        )
    return folder


def _idx_path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"


def mnist(folder: Path) -> Split:
    """MNIST as the reference splits it: the first 50,000 training images, the last 10,000, the 10,000 test images.

    Raises InputError if a file is missing, damaged or not MNIST's.
    """
    parts = []
    for images_name, labels_name, rows in ((*MNIST_FILES[:2], 60_000), (*MNIST_FILES[2:], 10_000)):
        images = open_array(str(_idx_path(folder, images_name)))
        if images.shape != (rows, 28, 28) or images.dtype != np.uint8:
            raise InputError(f"{images.source}: holds {images.shape} {images.dtype}, MNIST has ({rows}, 28, 28) uint8")
        parts.append(Samples.of(images.read(), read_labels(str(_idx_path(folder, labels_name)), rows, classes=10)))
    known, test = parts
    return Split(known.part(slice(50_000)), known.part(slice(50_000, None)), test)


def digits(seed: int = 0, validation: int = 197, test: int = 400) -> Split:
    """The 1,797 8x8 digits of the UCI repository (in scikit-learn), shuffled by `seed` and split with equal class shares.

    Their pixels count 0..16; here p becomes round(p*255/16), half to even, so that all 8 bits of a pixel are used.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise MissingExtraError("the digits data set", "scikit-learn", "train") from None
    data = load_digits()
    pixels = np.round(data.data * (255 / 16)).astype(np.uint8)
    labels = data.target
    rest, held_out = train_test_split(np.arange(len(labels)), test_size=test, random_state=seed, stratify=labels)
    learn, choose = train_test_split(rest, test_size=validation, random_state=seed, stratify=labels[rest])
    return Split(*(Samples.of(pixels[rows], labels[rows]) for rows in (learn, choose, held_out)))

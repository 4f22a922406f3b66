"""Image files as samples: grey pixels 0..255, or colours for models of three channels, one image a row (Pillow, the extra
`images`).  Nothing is resized unless that is asked for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import Budget, memory_errors
from xnorinfer.errors import InputError, MissingExtraError
from xnorinfer.samples.dataio import Samples

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".pbm", ".ppm", ".tif", ".tiff", ".webp")

#: Pillow modes of 8 bits a channel, which become grayscale by ITU-R 601 luma; others (16 bit, float) would lose values.
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr")

#: Modes that hold no colours.
GREY_MODES = ("1", "L", "LA")

#: Memory for a pixel while an image is decoded: itself, as RGBA, its transparency, and as grey.
DECODED_BYTES = 12


def is_image(path: Path) -> bool:
    """True if the name ends like an image file's."""
    return path.suffix.lower() in SUFFIXES


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder (not of folders inside it), sorted by name.  Raises InputError if there are none."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None
    found = [path for path in entries if is_image(path) and not path.name.startswith(".")]
    if not found:
        raise InputError(f"{folder}: no image files in this folder; looked for {', '.join(SUFFIXES)}")
    return found


def open_images(
    paths: Sequence[Path], max_memory: int | None = None, shape: tuple[int, ...] | None = None, *, resize: bool = False
) -> Samples:
    """Image files of one size, in the order given -> samples (rows, height, width) uint8, or (rows, height, width, 3) where a
    model takes images of three channels.

    max_memory: what one image may take while it is decoded (see `budget`).  shape: of the images that a model takes, (height,
    width, channels); None, or (features,): any size.  resize: scale images to that size, of (features,) to a square; a pixel
    is then the weighted average of those around its place (Pillow's bilinear filter), and sides may be stretched differently.
    Opens the first image only.
    Raises InputError, or MissingExtraError without Pillow.
    """
    size, channels = (None, 1) if shape is None or len(shape) != 3 else (shape[:2], shape[2])
    if channels not in (1, 3):
        raise InputError(f"{paths[0]}: image files hold 1 channel or 3, this model takes {channels}; give an array")
    wanted = None if size is None else (size[0], size[1])
    if resize and wanted is None:
        wanted = _square(shape)
    height, width = _read(paths[0], wanted, max_memory, colour=channels == 3, needed="this model takes", resize=resize).shape[
        :2
    ]

    def reader(rows: int, first: int, stop: int) -> Iterator[NDArray[Any]]:
        for start in range(first, stop, rows):
            some = paths[start : min(start + rows, stop)]
            read = [_read(path, (height, width), max_memory, colour=channels == 3, resize=resize) for path in some]
            yield np.stack(read)

    source = str(paths[0]) if len(paths) == 1 else f"{len(paths)} images"
    names = tuple(str(path) for path in paths)
    found = (len(paths), height, width) if channels == 1 else (len(paths), height, width, channels)
    return Samples(source, found, np.dtype(np.uint8), reader, names)


def _read(
    path: Path,
    size: tuple[int, int] | None,
    max_memory: int | None,
    *,
    colour: bool = False,
    needed: str = "the first image is",
    resize: bool = False,
) -> NDArray[np.uint8]:
    """One image -> (height, width) uint8, or (height, width, 3); `size` is (height, width) that it must have, or gets."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingExtraError("reading images", "pillow", "images") from None
    try:
        with warnings.catch_warnings(), memory_errors(str(path), InputError):
            warnings.simplefilter("ignore")  # huge sizes warn; the size check below answers them
            with Image.open(path) as image:
                found = (image.height, image.width)
                if size is not None and found != size and not resize:
                    raise InputError(
                        f"{path}: is {found[1]}x{found[0]} pixels (width x height), {needed} {size[1]}x{size[0]}; nothing is "
                        "resized unless that is asked for (xnorinfer run --resize)"
                    )
                _require_one_frame(path, image)
                if image.mode not in EIGHT_BIT_MODES:
                    raise InputError(f"{path}: has the mode {image.mode}; needed is an image of 8 bits per channel")
                budget = Budget(str(path), max_memory, InputError)
                budget.add_file(path)
                budget.require_bytes(
                    DECODED_BYTES * image.height * image.width, f"decoding {image.width}x{image.height} pixels"
                )
                if _transparent(image):
                    raise InputError(
                        f"{path}: has transparent pixels, whose brightness is undefined; save it without transparency"
                    )
                if colour and image.mode in GREY_MODES:
                    raise InputError(f"{path}: is grey (mode {image.mode}), this model takes images of three channels")
                pixels = image.convert("RGB" if colour else "L")
                if size is not None and found != size:
                    pixels = pixels.resize((size[1], size[0]), Image.Resampling.BILINEAR)
                return np.asarray(pixels, dtype=np.uint8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: is not an image that Pillow can read, or it is damaged") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as an image: {reason}") from None


def _square(shape: tuple[int, ...] | None) -> tuple[int, int]:
    """The size of images for a model of vectors.  Raises InputError where no square has so many pixels."""
    values = 0 if shape is None else math.prod(shape)
    side = math.isqrt(values)
    if not values or side * side != values:
        raise InputError(f"--resize: the model takes {values} values, which are no square image; resize the images yourself")
    return side, side


def _require_one_frame(path: Path, image: Any) -> None:
    """Looks for a second one only: to count them, Pillow would go through all that a file claims."""
    try:
        image.seek(1)
    except EOFError:
        image.seek(0)
        return
    raise InputError(f"{path}: holds several frames, needed is a single image")


def _transparent(image: Any) -> bool:
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return bool(lowest < 255)

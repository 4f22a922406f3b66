"""Image files as samples: grayscale pixels 0..255, one image a row (Pillow, the extra `images`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.dataio import Samples
from xnorinfer.errors import InputError, MissingExtraError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".pbm", ".ppm", ".tif", ".tiff", ".webp")

#: Pillow modes of 8 bits a channel, which become grayscale by ITU-R 601 luma; others (16 bit, float) would lose values.
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr")


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


def open_images(paths: Sequence[Path]) -> Samples:
    """Image files of one size, in the order given -> samples (rows, height, width) uint8.

    Opens the first image only.  Raises InputError, or MissingExtraError without Pillow.
    """
    height, width = _read(paths[0], None).shape

    def reader(rows: int) -> Iterator[NDArray[Any]]:
        for start in range(0, len(paths), rows):
            yield np.stack([_read(path, (height, width)) for path in paths[start : start + rows]])

    source = str(paths[0]) if len(paths) == 1 else f"{len(paths)} images"
    names = tuple(str(path) for path in paths)
    return Samples(source, (len(paths), height, width), np.dtype(np.uint8), reader, names)


def _read(path: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """One image -> (height, width) uint8; `size` is (height, width) that it must have."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingExtraError("reading images", "pillow", "images") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # huge sizes warn; the size check below answers them
            with Image.open(path) as image:
                found = (image.height, image.width)
                if size is not None and found != size:
                    raise InputError(
                        f"{path}: is {found[1]}x{found[0]} pixels (width x height), the first image is {size[1]}x{size[0]}"
                    )
                if getattr(image, "n_frames", 1) > 1:
                    raise InputError(f"{path}: holds {image.n_frames} frames, needed is a single image")
                if image.mode not in EIGHT_BIT_MODES:
                    raise InputError(f"{path}: has the mode {image.mode}; needed is an image of 8 bits per channel")
                if _transparent(image):
                    raise InputError(
                        f"{path}: has transparent pixels, whose brightness is undefined; save it without transparency"
                    )
                return np.asarray(image.convert("L"), dtype=np.uint8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: is not an image that Pillow can read, or it is damaged") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as an image: {reason}") from None


def _transparent(image: Any) -> bool:
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return bool(lowest < 255)

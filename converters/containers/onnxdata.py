"""Numbers of an ONNX model that are kept in files beside it (`external_data` of a TensorProto), as large models have them.

A model is hostile until proven otherwise: it names files relative to its own folder, and nothing outside it is opened.  Sizes
are checked against the file; numbers stay in it until they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import add_file, spend_bytes
from xnorinfer.errors import SourceError

#: Characters of a name that messages show; no file has a longer one.
LONGEST_NAME = 255
WITHIN = "export with external_data=False to keep everything in one file"


class DataFiles:
    """The files beside one model.  opened: those that were used, in order."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.opened: dict[str, Path] = {}

    def read(self, tensor: str, entries: Mapping[str, str], size: int) -> NDArray[np.uint8]:
        """The `size` bytes of a tensor; entries: `location`, `offset` (0), `length` (size).  Raises SourceError."""
        location = entries.get("location", "")
        shown = location if len(location) <= LONGEST_NAME else f"{location[:LONGEST_NAME]}..."
        where = f"{self.model.name}: tensor {tensor!r} is kept in {shown!r}"
        path = self._path(where, location)
        numbers = [entries.get("offset", "0"), entries.get("length", str(size))]
        if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in numbers):
            raise SourceError(f"{where} at offset {numbers[0]!r} with length {numbers[1]!r}, which are no two numbers")
        offset, length = map(int, numbers)
        if length != size:
            raise SourceError(f"{where} with {length} bytes, but its shape and type need {size}")
        there = path.stat().st_size
        if offset + size > there:
            raise SourceError(
                f"{where} up to byte {offset + size}, but that file ends at {there}: it is truncated or another's"
            )
        self.opened.setdefault(location, path)
        add_file(path)
        spend_bytes(size, f"tensor {tensor!r} of {size} bytes in {location!r}")  # many can be made of the same bytes
        if not size:
            return np.empty(0, np.uint8)
        try:
            content: NDArray[Any] = np.memmap(path, np.uint8, "r", offset, (size,))
        except OSError as error:
            raise SourceError(f"{where}, which cannot be read: {error.strerror}") from None
        return content.view(np.ndarray)

    def _path(self, where: str, location: str) -> Path:
        """The file, inside the model's folder also where one of the two is a link.  Raises SourceError."""
        kinds = (PurePosixPath(location), PureWindowsPath(location))
        unsafe = any(kind.anchor or ".." in kind.parts for kind in kinds)
        if unsafe or not location.strip() or "\0" in location:
            raise SourceError(f"{where}; only files in the model's folder are opened; {WITHIN}")
        path = self.model.parent / location
        try:
            if not path.is_file():
                raise SourceError(f"{where}, which is no file beside the model: both belong together; or {WITHIN}")
            target = path.resolve(strict=True)
            folders = {self.model.parent.resolve(), self.model.resolve().parent}
        except (OSError, RuntimeError, ValueError) as error:
            raise SourceError(f"{where}, which cannot be opened: {error}") from None
        if not any(target.is_relative_to(folder) for folder in folders):
            raise SourceError(f"{where}, a link to a place outside the model's folder, which is not opened; {WITHIN}")
        return path

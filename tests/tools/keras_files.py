"""The committed Keras files, unpacked, and packed models to compare."""

from __future__ import annotations

import tarfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from places import DATA

from xnorinfer.conversion import convert_file
from xnorinfer.converters import ConvertOptions

MODELS = DATA / "keras" / "models.tar.xz"
QKERAS = MODELS.with_name("qkeras.tar.xz")


def unpack(folder: Path, models: Path = MODELS) -> Path:
    """What keras_checkpoints.py wrote, or qkeras_checkpoints.py."""
    with tarfile.open(models) as archive:
        archive.extractall(folder, filter="data")
    return folder


def content(value: Any) -> Any:
    """Everything in a packed layer, arrays as bytes."""
    if is_dataclass(value):
        return {f.name: content(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return [content(item) for item in value] if isinstance(value, list | tuple) else value


def packed(path: Path, **options: Any) -> Any:
    model = convert_file(path, ConvertOptions(**options)).packed
    return model.profile, content(model.input), content(model.nodes)

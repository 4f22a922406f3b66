"""The committed Keras files, and packed models to compare."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from places import DATA

from xnorinfer.conversion import convert_file
from xnorinfer.converters import ConvertOptions

#: What keras_checkpoints.py wrote, and qkeras_checkpoints.py.
MODELS = DATA / "keras" / "models.tar.xz"
QKERAS = MODELS.with_name("qkeras.tar.xz")
QKERAS_MAPS = MODELS.with_name("qkeras-maps.tar.xz")


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

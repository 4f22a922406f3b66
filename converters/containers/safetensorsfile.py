"""`.safetensors` files: named arrays without order, whose header is checked before anything is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xnorinfer.converters.containers.arrays import STORED, RawTensor, require_shape, widened
from xnorinfer.errors import SourceError
from xnorinfer.mappedtensors import mapped_tensors

#: safetensors' names of types that are others' in short: F32, I8, U64.
_KINDS = {"F": "float", "I": "int", "U": "uint", "BF": "bfloat", "BOOL": "bool"}


def load_safetensors(path: Path) -> list[RawTensor]:
    """All tensors of a safetensors file.  Raises SourceError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:  # validates the header: offsets, sizes, overlaps
            if "xnorinfer" in (file.metadata() or {}):
                raise SourceError(f"{path.name} is an xnorinfer model already, not a checkpoint")
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{path.name} is a damaged or truncated safetensors file: {error}") from None
    tensors = []
    for name, (written, shape, raw) in mapped_tensors(path).items():
        letters = written.rstrip("0123456789")
        kind = _KINDS.get(letters, "") + written[len(letters) :]
        if kind not in STORED:
            raise SourceError(f"{path.name}, tensor {name} has type {written}, which is not supported")
        require_shape(f"{path.name}, tensor {name}", shape, np.dtype(STORED[kind]).itemsize)
        tensors.append(RawTensor(name, widened(kind, raw.view(STORED[kind]).reshape(shape)), written))
    return tensors

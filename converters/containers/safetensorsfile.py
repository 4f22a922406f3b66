"""`.safetensors` files: named arrays without order, whose header is checked before anything is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from xnorinfer.converters.containers.arrays import STORED, RawTensor, require_shape, widened
from xnorinfer.errors import SourceError

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
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    if not header:
        return []
    data = np.memmap(path, np.uint8, "r", offset=8 + length) if path.stat().st_size > 8 + length else np.empty(0, np.uint8)
    tensors = []
    for name, entry in header.items():
        letters = entry["dtype"].rstrip("0123456789")
        kind = _KINDS.get(letters, "") + entry["dtype"][len(letters) :]
        if kind not in STORED:
            raise SourceError(f"{path.name}, tensor {name} has type {entry['dtype']}, which is not supported")
        require_shape(f"{path.name}, tensor {name}", entry["shape"], np.dtype(STORED[kind]).itemsize)
        begin, end = entry["data_offsets"]
        array = data[begin:end].view(STORED[kind]).reshape(entry["shape"])
        tensors.append(RawTensor(name, widened(kind, array), entry["dtype"]))
    return tensors

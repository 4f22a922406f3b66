"""`.safetensors` files: named arrays without order, whose header is checked before anything is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from xnorinfer.converters.containers.arrays import RawTensor, require_shape
from xnorinfer.converters.containers.torchtensor import widen_bfloat16
from xnorinfer.errors import SourceError

#: safetensors' dtype codes; BF16 is widened by hand.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}


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
        code = _DTYPES.get(entry["dtype"])
        if code is None:
            raise SourceError(f"{path.name}, tensor {name} has type {entry['dtype']}, which is not supported")
        require_shape(f"{path.name}, tensor {name}", entry["shape"], np.dtype(code).itemsize)
        begin, end = entry["data_offsets"]
        array: Any = data[begin:end].view(code).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            array = widen_bfloat16(array)
        tensors.append(RawTensor(name, array, entry["dtype"]))
    return tensors

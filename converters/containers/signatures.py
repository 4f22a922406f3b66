"""What a file says that it is: its first bytes."""

from __future__ import annotations

from pathlib import Path

ZIP, EMPTY_ZIP = b"PK\x03\x04", b"PK\x05\x06"
HDF5 = b"\x89HDF\r\n\x1a\n"
#: From protocol 2 on.
PICKLE = b"\x80"
#: A list of MXNet's arrays.
MXNET = b"\x12\x01" + bytes(6)


def start_of(path: Path, count: int = 16) -> bytes:
    """The first bytes of a file; none of what is no file, or cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return b""


def is_safetensors(path: Path, start: bytes) -> bool:
    """Whether a file that starts with these bytes looks like one, or is called one and looks like nothing else."""
    return start[8:9] == b"{" or (path.suffix == ".safetensors" and bool(start) and not start.startswith((b"PK", PICKLE)))

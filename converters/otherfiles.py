"""Files that no source reads: what they seem to be, and the way out."""

from __future__ import annotations

from pathlib import Path

#: How arrays of any origin become a file that is read.
ARRAYS = "np.savez('net.npz', **arrays), described by a net.toml (--net)"

#: First bytes -> what they are, and what can be done.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "is a zip archive", "unpack it, and give the checkpoint in it"),
    (b"\x1f\x8b", "is gzip-compressed", "unpack it first"),
    (b"BZh", "is bzip2-compressed", "unpack it first"),
    (b"\xfd7zXZ", "is xz-compressed", "unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file", "--net says which of its arrays make which layers"),
    (b"\x93NUMPY", "is a single .npy array", f"put all arrays of the network into one file: {ARRAYS}"),
    (b"MATLAB 5.0 MAT-file", "is a MATLAB file", f"save its arrays: scipy.io.loadmat, then {ARRAYS}"),
    (b"\x80", "looks like a Python pickle", f"save the arrays in it: {ARRAYS}"),
)
#: Endings of text files, for which content says nothing.
_TEXTS = {
    ".json": (
        "is JSON",
        "the config of a Keras model belongs beside its weights, which are what to give (NAME.json beside NAME.h5); arrays "
        f"in JSON are saved again: {ARRAYS}",
    ),
    ".h": ("is C source", "--net says which of its arrays make which layers"),
    ".c": ("is C source", "--net says which of its arrays make which layers"),
    ".toml": ("is TOML", "a net.toml is given with --net, beside the file of arrays that it describes"),
    ".py": ("is Python source", "give what it saves: the trained weights"),
}
#: Bytes that are looked at.
LOOKED_AT = 4096


def describe(path: Path) -> tuple[str, str]:
    """What a file seems to be ("is empty", "looks like text", ...) and the way out, "" if there is none of its own."""
    if path.is_dir():
        return "is a folder", "give the checkpoint in it, or describe the arrays in its files by a net.toml (--net)"
    with path.open("rb") as stream:
        start = stream.read(LOOKED_AT)
    if not start:
        return "is empty", ""
    found = next(((what, way) for signature, what, way in _SIGNATURES if start.startswith(signature)), None)
    if found is not None:
        return found
    if start[8:9] == b"{":
        return "looks like a safetensors file", ""
    try:
        text = start[:-4].decode() if len(start) == LOOKED_AT else start.decode()
    except UnicodeDecodeError:
        text = "\0"
    if not (text.isprintable() or set(text) & set("\n\t")) or "\0" in text:
        return f"starts with the bytes {start[:8].hex(' ')}", f"save its arrays from the code that reads it: {ARRAYS}"
    return _TEXTS.get(
        path.suffix.lower(), ("looks like text", "--net reads numbers, bits and C arrays from text files in a folder")
    )

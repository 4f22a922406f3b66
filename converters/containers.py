"""Any container of named arrays as a table of entries, each read only when asked for.

    npz           numpy .npz, Chainer's snapshots included
    npy           one numpy .npy array, under the file's name without suffix, or the arrays in a dict or list that it holds
    safetensors   .safetensors
    torch         torch.save files, zip or legacy pickle; nested dicts and lists give dotted names (`state_dict.fc1.weight`)
    tf1           TensorFlow 1 checkpoints, as the source `tf1` finds them
    h5            HDF5, names with slashes (`dense_1/kernel`), alone or inside a .keras archive; needs h5py
    onnx          the constants of an ONNX graph
    c             the array initialisers of a C source or header
    files         a folder or a file that holds nothing by name; arrays are declared one by one

Nothing in a file is executed, and sizes are checked against the file before anything is allocated.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import reading, spend_bytes
from xnorinfer.converters.arrays import ZIP_DAMAGE, RawTensor, check_zip, element_count
from xnorinfer.converters.bundle import Entry, is_v1, read_v1, read_v2
from xnorinfer.converters.checkpointtree import Leaf, load_leaf, shape_of, tensors_of, type_of
from xnorinfer.converters.csource import read_c
from xnorinfer.converters.keras_h5 import H5Content, damage, open_h5
from xnorinfer.converters.npz import load_entry, read_header
from xnorinfer.converters.onnxfile import read_onnx
from xnorinfer.converters.pickled import unpickle
from xnorinfer.converters.pickledarrays import ARRAYS
from xnorinfer.converters.safetensorsfile import load_safetensors
from xnorinfer.converters.tf1 import find_checkpoint
from xnorinfer.converters.torchfile import load_checkpoint
from xnorinfer.errors import SourceError

C_SUFFIXES = (".h", ".hpp", ".hh", ".c", ".cc", ".cpp", ".inc")


def open_container(path: Path, kind: str | None = None) -> tuple[str, dict[str, Entry]]:
    """What `path` holds: the kind of container and its arrays by name, in the file's order.

    kind: take it as this; None: told from the content.  Raises SourceError and MissingExtraError.
    """
    if path.is_file() and not path.stat().st_size:
        raise SourceError(f"{path.name} is empty")
    kind = kind or sniff(path)
    with reading(path):
        return kind, READERS[kind](path)


def sniff(path: Path) -> str:
    """The kind of container at `path`.  Raises SourceError where a TensorFlow folder holds several checkpoints."""
    if not path.is_file():
        if find_checkpoint(path) is not None:
            return "tf1"
        if path.is_dir():
            return "files"
        raise SourceError(f"there is no file {path}")
    with path.open("rb") as stream:
        start = stream.read(16)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(path)
    signatures = {b"\x89HDF\r\n\x1a\n": "h5", b"\x93NUMPY": "npy", b"\x80": "torch"}
    for signature, kind in signatures.items():
        if start.startswith(signature):
            return kind
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return "safetensors"
    if path.suffix in C_SUFFIXES:
        return "c"
    if path.suffix == ".onnx":
        return "onnx"
    return "tf1" if find_checkpoint(path) is not None else "files"


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_DAMAGE:
        return "npz" if path.suffix == ".npz" else "torch"
    if KERAS_WEIGHTS in names:
        return "h5"
    return "torch" if any(name.endswith("data.pkl") for name in names) else "npz"


def eager(tensor: RawTensor) -> Entry:
    """An entry for numbers that are there already."""
    return Entry(tensor.name, tensor.dtype, tensor.shape, lambda: tensor.array)


def _distinct(path: Path, entries: Iterator[Entry]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in found:
            raise SourceError(f"{path.name} holds two arrays called {entry.name!r}")
        found[entry.name] = entry
    return found


# ---------------------------------------------------------------- numpy


def _read_npz(path: Path) -> dict[str, Entry]:
    opened: list[zipfile.ZipFile] = []  # once for all arrays: to open it reads the names of all

    def load(entry: zipfile.ZipInfo) -> NDArray[Any]:
        try:
            if not opened:
                opened.append(zipfile.ZipFile(path))
            return load_entry(path, opened[0], entry).array
        except ZIP_DAMAGE as error:
            raise SourceError(f"{path.name} is a damaged or truncated .npz archive: {error}") from None

    def entries() -> Iterator[Entry]:
        with zipfile.ZipFile(path) as archive:
            check_zip(path, archive)
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name == info.filename:
                    raise SourceError(f"{path.name} holds {info.filename!r}, which is no .npy array")
                with archive.open(info) as stream:
                    shape, _, dtype = read_header(f"{path.name}, array {name}", stream)
                    if dtype.hasobject:
                        spend_bytes(info.file_size, f"array {name}")
                        held = list(_leaves(unpickle(f"{path.name}, array {name}", stream.read(), ARRAYS), f"{name}."))
                        yield from held or [Entry(name, "object", shape, lambda info=info: load(info))]  # type: ignore[misc]
                        continue
                yield Entry(name, str(dtype), shape, lambda info=info: load(info))  # type: ignore[misc]

    try:
        return _distinct(path, entries())
    except ZIP_DAMAGE as error:
        raise SourceError(f"{path.name} is a damaged or truncated .npz archive: {error}") from None


def _read_npy(path: Path) -> dict[str, Entry]:
    with path.open("rb") as stream:
        shape, fortran, dtype = read_header(path.name, stream)
        offset = stream.tell()
        if dtype.hasobject:
            return _distinct(path, _leaves(unpickle(path.name, stream.read(), ARRAYS)))
    size, left = element_count(shape) * dtype.itemsize, path.stat().st_size - offset
    if size != left:
        raise SourceError(f"{path.name} says {shape} {dtype}, which is {size} bytes, but {left} follow")

    def load() -> NDArray[Any]:
        if not size:
            return np.empty(shape, dtype)
        return np.memmap(path, np.uint8, "r", offset).view(dtype).reshape(shape, order="F" if fortran else "C")

    return {path.stem: Entry(path.stem, str(dtype), shape, load)}


# ---------------------------------------------------------------- frameworks


def _read_safetensors(path: Path) -> dict[str, Entry]:
    return {tensor.name: eager(tensor) for tensor in load_safetensors(path)}


def _read_torch(path: Path) -> dict[str, Entry]:
    return _distinct(path, _leaves(load_checkpoint(path)))


def _leaves(root: Any, prefix: str = "") -> Iterator[Entry]:
    """The tensors in the plain data of a pickle."""

    def load(name: str, leaf: Leaf) -> Callable[[], NDArray[Any]]:
        return lambda: load_leaf(name, leaf).array

    for name, leaf in tensors_of(root):
        yield Entry(prefix + name, type_of(leaf), shape_of(leaf), load(prefix + name, leaf))


def _read_tf1(path: Path) -> dict[str, Entry]:
    prefix = find_checkpoint(path)
    if prefix is None:
        raise SourceError(f"{path} is no TensorFlow checkpoint: there is no {path.name}.index")
    return read_v1(prefix) if prefix.is_file() and is_v1(prefix) else read_v2(prefix)


def _read_onnx(path: Path) -> dict[str, Entry]:
    return {name: eager(tensor) for name, tensor in read_onnx(path).constants.items()}


# ---------------------------------------------------------------- HDF5


#: The member of a .keras archive that holds the weights.
KERAS_WEIGHTS = "model.weights.h5"


def _opened_h5(path: Path) -> AbstractContextManager[H5Content]:
    content = None
    if zipfile.is_zipfile(path):
        with damage(path.name), zipfile.ZipFile(path) as archive:
            check_zip(path, archive)
            spend_bytes(archive.getinfo(KERAS_WEIGHTS).file_size, f"its {KERAS_WEIGHTS}")
            content = archive.read(KERAS_WEIGHTS)
    return open_h5(path, content, foreign=True)


def _read_h5(path: Path) -> dict[str, Entry]:
    opened = contextlib.ExitStack()  # once for all arrays, until the last of their entries is gone
    files: list[H5Content] = []

    def load(name: str) -> NDArray[Any]:
        if not files:
            files.append(opened.enter_context(_opened_h5(path)))
        return files[0].entries[name].load()

    with _opened_h5(path) as file:
        names = {name: (entry.dtype, entry.shape) for name, entry in file.entries.items()}
    return {name: Entry(name, *known, lambda name=name: load(name)) for name, known in names.items()}  # type: ignore[misc]


READERS: dict[str, Callable[[Path], dict[str, Entry]]] = {
    "npz": _read_npz,
    "npy": _read_npy,
    "safetensors": _read_safetensors,
    "torch": _read_torch,
    "tf1": _read_tf1,
    "h5": _read_h5,
    "onnx": _read_onnx,
    "c": read_c,
    "files": lambda path: {},
}

"""Any container of named arrays as a table of entries, each read only when asked for.

    npz           numpy .npz, Chainer's snapshots included
    npy           one numpy .npy array, under the file's name without suffix, or the arrays in a dict or list that it holds
    safetensors   .safetensors
    torch         torch.save files, zip or legacy pickle; nested dicts and lists give dotted names (`state_dict.fc1.weight`)
    tf1           TensorFlow 1 checkpoints, as the source `tf1` finds them
    h5            HDF5, names with slashes (`dense_1/kernel`), alone or inside a .keras archive; needs h5py
    onnx          the constants of an ONNX graph
    mxnet         MXNet's .params
    c             the array initialisers of a C source or header
    files         a folder or a file that holds nothing by name; arrays are declared one by one

Nothing in a file is executed, and sizes are checked against the file before anything is allocated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from xnorinfer.budget import reading
from xnorinfer.converters.containers.arrays import Entry
from xnorinfer.converters.containers.checkpointtree import tensors_of
from xnorinfer.converters.containers.csource import read_c
from xnorinfer.converters.containers.hdf5 import WEIGHTS, open_h5
from xnorinfer.converters.containers.mxnetparams import read_params
from xnorinfer.converters.containers.numpyfiles import Objects, read_npy, read_npz
from xnorinfer.converters.containers.onnxfile import read_onnx
from xnorinfer.converters.containers.safetensorsfile import load_safetensors
from xnorinfer.converters.containers.signatures import EMPTY_ZIP, HDF5, MXNET, PICKLE, ZIP, is_safetensors, start_of
from xnorinfer.converters.containers.tfcheckpoint import find_checkpoint, read_variables
from xnorinfer.converters.containers.torchfile import load_checkpoint
from xnorinfer.converters.containers.ziparchive import names_in
from xnorinfer.errors import SourceError
from xnorinfer.npyheader import NPY_MAGIC

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
    start = start_of(path)
    if start.startswith((ZIP, EMPTY_ZIP)):
        return _zip_kind(path)
    for signature, kind in {HDF5: "h5", NPY_MAGIC: "npy", PICKLE: "torch", MXNET: "mxnet"}.items():
        if start.startswith(signature):
            return kind
    if is_safetensors(path, start):
        return "safetensors"
    if path.suffix in C_SUFFIXES:
        return "c"
    if path.suffix == ".onnx":
        return "onnx"
    return "tf1" if find_checkpoint(path) is not None else "files"


def _zip_kind(path: Path) -> str:
    names = names_in(path)
    if names is None:
        return "npz" if path.suffix == ".npz" else "torch"
    if WEIGHTS in names:
        return "h5"
    return "torch" if any(name.endswith("data.pkl") for name in names) else "npz"


def _distinct(path: Path, entries: Iterator[Entry]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in found:
            raise SourceError(f"{path.name} holds two arrays called {entry.name!r}")
        found[entry.name] = entry
    return found


def _read_npz(path: Path) -> dict[str, Entry]:
    return _distinct(path, (entry for name, held in read_npz(path).items() for entry in _entries(held, name)))


def _read_npy(path: Path) -> dict[str, Entry]:
    return _distinct(path, _entries(read_npy(path), ""))


def _entries(held: Entry | Objects, name: str) -> Iterator[Entry]:
    """An array, or those that its objects hold."""
    if isinstance(held, Entry):
        yield held
        return
    found = list(tensors_of(held.root, f"{name}." if name else ""))
    yield from found or ([Entry(name, "object", held.shape, held.no_numbers)] if name else [])


def _read_safetensors(path: Path) -> dict[str, Entry]:
    return {tensor.name: Entry.of(tensor) for tensor in load_safetensors(path)}


def _read_torch(path: Path) -> dict[str, Entry]:
    return _distinct(path, tensors_of(load_checkpoint(path)))


def _read_tf1(path: Path) -> dict[str, Entry]:
    prefix = find_checkpoint(path)
    if prefix is None:
        raise SourceError(f"{path} is no TensorFlow checkpoint: there is no {path.name}.index")
    return read_variables(prefix)


def _read_onnx(path: Path) -> dict[str, Entry]:
    return {name: Entry.of(tensor) for name, tensor in read_onnx(path).constants.items()}


def _read_mxnet(path: Path) -> dict[str, Entry]:
    return {name: Entry.of(tensor) for name, tensor in read_params(path).items()}


def _read_h5(path: Path) -> dict[str, Entry]:
    stack = contextlib.ExitStack()
    file = stack.enter_context(open_h5(path, foreign=True))
    kept = (file, stack)  # it stays open until the last of its entries is gone

    def entry(known: Entry) -> Entry:
        return Entry(known.name, known.dtype, known.shape, lambda: kept[0].entries[known.name].load())

    return {name: entry(known) for name, known in file.entries.items()}


READERS: dict[str, Callable[[Path], dict[str, Entry]]] = {
    "npz": _read_npz,
    "npy": _read_npy,
    "safetensors": _read_safetensors,
    "torch": _read_torch,
    "tf1": _read_tf1,
    "h5": _read_h5,
    "onnx": _read_onnx,
    "mxnet": _read_mxnet,
    "c": read_c,
    "files": lambda path: {},
}

"""The containers of `torch.save`, without torch: zip archives, the older sequence of pickles, and plain pickles.

    zip      NAME/data.pkl, and NAME/data/KEY for the memory of each tensor, stored without compression
    old      pickles of a magic number, a version, the machine, the object and the keys; then, by key, a count and the memory
    plain    what pickle.dump wrote, once or several times; torch's tensors in it carry old files of their own

The memory of tensors is mapped, not read, so that a checkpoint costs what is used of it.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.converters.containers.pickled import NotAPickleError, unpickle
from xnorinfer.converters.containers.signatures import ZIP, start_of
from xnorinfer.converters.containers.torchpickle import ELEMENT_BYTES, Storage, saved_rules
from xnorinfer.converters.containers.ziparchive import Archive, open_archive
from xnorinfer.errors import SourceError

#: First bytes of torch.save before version 1.6: a pickled magic number.
OLD_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
#: pickle.dump, called so often on one file, is a log of something and no network.
MAX_PICKLES = 10_000


def load_checkpoint(path: Path) -> Any:
    """What torch.save or pickle.dump wrote, as plain data (`pickled`, `torchpickle`); nothing in it runs.

    Raises SourceError.
    """
    budget.add_file(path)
    try:
        start = start_of(path)
        return _load_zip(path) if start.startswith(ZIP) else _load_stream(path, start)
    except NotAPickleError as error:
        raise SourceError(f"{path.name} is damaged, truncated or no PyTorch checkpoint: {error}") from None


# ---------------------------------------------------------------- zip


def is_script(names: Sequence[str]) -> bool:
    """Whether the names of a zip's entries are those of a TorchScript archive."""
    return any(name.endswith("/constants.pkl") for name in names)


def is_export(names: Sequence[str]) -> bool:
    """Whether the names of a zip's entries are those of an archive of torch.export, of any age."""
    ends = ("/archive_format", "serialized_exported_program.json")
    return any(name.endswith(ends) for name in names)


def _load_zip(path: Path) -> Any:
    with open_archive(path) as archive:
        names = list(archive.entries)
        if is_script(names) or is_export(names):
            raise SourceError(
                f"{path.name} holds a program, which says more than its tensors: convert it without --net, or with "
                'container = "network" in the net.toml'
            )
        archive.require_stored("torch.save")
        archive.require_checksums()
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise SourceError(f"{path.name} is no archive of torch.save: it holds {len(pickles)} entries called data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        is_big = order in archive.entries and archive.read(order).strip() == b"big"
        memory = memory_of(archive, f"{root}data/", archive.mapped, is_big=is_big)
        return unpickle(f"{path.name}, data.pkl", archive.read(pickles[0]), saved_rules(memory, nested_storage))


def memory_of(
    archive: Archive, folder: str, read: Callable[[str], NDArray[np.uint8]], *, is_big: bool = False
) -> Callable[[Storage], NDArray[np.uint8]]:
    """How the memory of tensors is found in a folder of an archive.  is_big: it was written on a big-endian machine."""

    def memory(storage: Storage) -> NDArray[np.uint8]:
        storage.big = is_big
        name = f"{folder}{storage.key}"
        if name not in archive.entries:
            raise SourceError(f"{archive.about}: the memory {name[:200]} of a tensor is missing")
        return read(name)

    return memory


# ---------------------------------------------------------------- sequences of pickles


def _load_stream(path: Path, start: bytes) -> Any:
    if not path.stat().st_size:
        raise SourceError(f"{path.name} is empty")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view: Any = mapped  # reads as a file does
    if start.startswith(OLD_MAGIC):
        return _Old(path.name, view, np.frombuffer(mapped, np.uint8), nested_storage).load()
    found: list[Any] = []
    rules = saved_rules(_nowhere(path.name), nested_storage)
    while mapped.tell() < len(mapped):
        if len(found) == MAX_PICKLES:
            raise SourceError(f"{path.name} holds more than {MAX_PICKLES} pickles, which are no network")
        found.append(unpickle(path.name, view, rules))
    return found[0] if len(found) == 1 else found


def _nowhere(about: str) -> Any:
    def memory(storage: Storage) -> NDArray[np.uint8]:
        raise SourceError(f"{about} does not hold the memory of its tensors (one is {storage.key[:100]})")

    return memory


class _Old:
    """torch.save before 1.6, or with `_use_new_zipfile_serialization=False`."""

    def __init__(self, about: str, stream: BinaryIO, content: NDArray[np.uint8], nested: Any = None) -> None:
        self.about = about
        self.stream = stream
        self.content = content
        self.kinds: dict[str, str] = {}
        self.rules = saved_rules(self.storage, nested, self.kinds)
        self.big = False
        self.memory: dict[str, NDArray[np.uint8]] = {}

    def _unpickle(self) -> Any:
        return unpickle(self.about, self.stream, self.rules)

    def load(self) -> Any:
        magic, version, machine = (self._unpickle() for _ in range(3))
        if magic != _MAGIC or version != _VERSION or not isinstance(machine, dict):
            raise NotAPickleError(f"{self.about} has the format version {str(version)[:20]}, {_VERSION} is known")
        self.big = machine.get("little_endian") is False
        root = self._unpickle()
        keys = self._unpickle()
        if not isinstance(keys, list):
            raise NotAPickleError(f"{self.about} has no list of tensors' memories")
        place = self.stream.tell()
        for key in keys:
            budget.spend_steps(1, "its list of tensors' memories")
            kind = self.kinds.get(key) if isinstance(key, str) else None
            if kind is None or key in self.memory:
                raise NotAPickleError(f"{self.about} has memory that belongs to no tensor, or twice")
            count = int.from_bytes(self.content[place : place + 8].tobytes(), "little")
            end = place + 8 + count * ELEMENT_BYTES[kind]
            if end > self.content.size:
                raise NotAPickleError(f"{self.about} ends before the memory of its tensors does")
            self.memory[key] = self.content[place + 8 : end]
            place = end
        if place != self.content.size:
            raise NotAPickleError(f"{self.about} goes on behind the memory of its tensors")
        return root

    def storage(self, storage: Storage) -> NDArray[np.uint8]:
        storage.big = self.big
        if storage.key not in self.memory:
            raise SourceError(f"{self.about}: the memory {storage.key[:100]} of a tensor is missing")
        return self.memory[storage.key]


def nested_storage(content: bytes) -> Storage:
    """The memory of one tensor, as `pickle.dump` writes it: an old file whose object is that memory.

    Raises NotAPickleError and SourceError.
    """
    about = "the memory of a tensor in it"
    root = _Old(about, io.BytesIO(content), np.frombuffer(content, np.uint8)).load()
    if not isinstance(root, Storage):
        raise NotAPickleError(f"{about} is none")
    return root

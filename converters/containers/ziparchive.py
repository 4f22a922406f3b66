"""Zip archives: checked as a whole when they are opened, charged to the budget as their entries are read."""

from __future__ import annotations

import contextlib
import json
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import JSON_BYTES, require_bytes, spend_bytes, spend_steps
from xnorinfer.converters.containers.signatures import EMPTY_ZIP
from xnorinfer.errors import SourceError

#: What a damaged zip makes the standard library raise: UnicodeDecodeError (a ValueError) by names, RuntimeError by entries that
#: claim to be encrypted.
ZIP_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, struct.error
)  # fmt: skip


class Archive:
    """An open archive.  about: the name of its file.  entries: by their names, in the archive's order."""

    def __init__(self, path: Path, opened: zipfile.ZipFile) -> None:
        """Raises SourceError where the archive does not fill its file or says more than it can hold, and `ZIP_DAMAGE`."""
        _require_whole(path, opened)
        self.path = path
        self.about = path.name
        self.entries = {entry.filename: entry for entry in opened.infolist()}
        self._opened = opened
        self._kept: dict[str, NDArray[np.uint8]] = {}
        self._map: NDArray[np.uint8] | None = None

    def size(self, name: str) -> int:
        """Bytes of an entry.  Raises KeyError if there is none."""
        return self._opened.getinfo(name).file_size

    def open(self, name: str) -> IO[bytes]:
        return self._opened.open(name)

    def read(self, name: str, bytes_per_byte: int = 1) -> bytes:
        """What an entry holds.  bytes_per_byte: what is made of each of its bytes.  Raises KeyError if there is none."""
        spend_bytes(bytes_per_byte * self.size(name), f"its {name}")
        return self._opened.read(name)

    def json(self, name: str) -> Any:
        """The value of an entry that is JSON."""
        try:
            return json.loads(self.read(name, JSON_BYTES))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self.about}: {name} is no JSON: {error}") from None

    def memory(self, name: str) -> NDArray[np.uint8]:
        """The bytes of an entry, read and charged once: many tensors can share them."""
        if name not in self._kept:
            self._kept[name] = np.frombuffer(self.read(name), np.uint8)
        return self._kept[name]

    def mapped(self, name: str) -> NDArray[np.uint8]:
        """The bytes of an entry that is stored as it is, where they lie in the file: it costs what is used of it."""
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r")
        entry = self.entries[name]
        head = self._map[entry.header_offset : entry.header_offset + 30].tobytes()
        start = entry.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        found = self._map[start : start + entry.file_size]
        if len(head) != 30 or found.size != entry.file_size or entry.compress_type != zipfile.ZIP_STORED:
            raise SourceError(f"{self.about} is a damaged archive: {name} lies outside it")
        return found

    def require_stored(self, writer: str) -> None:
        """Raise SourceError for entries that are compressed, which that writer never does, or marked as folders."""
        entries = self.entries.values()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        # Entries can share their bytes.
        if packed or sum(entry.file_size for entry in entries) > self.path.stat().st_size:
            raise SourceError(f"{self.about} is compressed, which {writer} never does: refused")
        # An entry that is marked as a folder is taken for an empty one elsewhere, whatever it holds.
        if any(entry.external_attr & 0x10 for entry in entries):
            raise SourceError(f"{self.about} is a damaged archive: an entry is marked as a folder")

    def require_checksums(self) -> None:
        """A flipped bit must not pass for a trained weight."""
        damaged = self._opened.testzip()
        if damaged is not None:
            raise SourceError(f"{self.about} is damaged: {damaged} does not match its checksum")


@contextlib.contextmanager
def open_archive(path: Path, kind: str = "archive") -> Iterator[Archive]:
    """A checked archive.  kind: how messages call it.  Raises SourceError."""
    with zip_damage(path, kind), zipfile.ZipFile(path) as opened:
        yield Archive(path, opened)


@contextlib.contextmanager
def zip_damage(path: Path, kind: str = "archive") -> Iterator[None]:
    """Turn what a damaged zip raises into SourceError."""
    try:
        yield
    except ZIP_DAMAGE as error:
        raise SourceError(f"{path.name} is a damaged or truncated {kind}: {error}") from None


def names_in(path: Path) -> list[str] | None:
    """The names of an archive's entries, for telling what it is; None where it is damaged, or none."""
    try:
        with zipfile.ZipFile(path) as opened:
            return opened.namelist()
    except ZIP_DAMAGE:
        return None


def _require_whole(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that does not fill its file, unpacks to far more than that, or has two entries of one name."""
    entries = archive.infolist()
    before = min((entry.header_offset for entry in entries), default=0)
    announced, after = _end_of_archive(path)
    if before or after:
        # zipfile takes the last archive that it finds: of one that is cut off, one that lies in it as an entry.
        where = f"{before} bytes come before its first entry" if before else f"{after} bytes follow its end"
        raise SourceError(f"{path.name} is a truncated or damaged archive: {where}")
    if announced not in (None, len(entries)):
        # zipfile reads as many entries as it finds: a damaged length in the list would hide those that follow.
        raise SourceError(f"{path.name} is a damaged archive: it announces {announced} entries, its list holds {len(entries)}")
    spend_steps(len(entries), "listing its entries")
    twice = next((name for name, count in Counter(entry.filename for entry in entries).items() if count > 1), None)
    if twice is not None:
        raise SourceError(f"{path.name} holds two entries called {twice!r}")
    require_bytes(sum(entry.file_size for entry in entries), "unpacking it")
    # zipfile asks for all the bytes that an entry is said to take before it sees where the file ends.
    size = path.stat().st_size
    beyond = next((entry for entry in entries if entry.compress_size > size), None)
    if beyond is not None:
        raise SourceError(
            f"{path.name} is a damaged archive: {beyond.filename} takes {beyond.compress_size} bytes by its list, the whole "
            f"file has {size}"
        )
    if any(entry.flag_bits & 1 for entry in entries):
        raise SourceError(f"{path.name} is an encrypted zip archive")


def _end_of_archive(path: Path) -> tuple[int | None, int]:
    """Number of entries in the record at the end of a zip (None where it does not fit there: zip64), and bytes behind it."""
    with path.open("rb") as stream:
        stream.seek(-min(path.stat().st_size, (1 << 16) + 22), 2)
        tail = stream.read()
    record = tail[tail.rfind(EMPTY_ZIP) :]
    if len(record) < 22:
        return None, 0
    count = int.from_bytes(record[10:12], "little")
    after = len(record) - 22 - int.from_bytes(record[20:22], "little")
    return None if count == 0xFFFF else count, after

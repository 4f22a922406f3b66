"""Writing files: each appears under its name complete or not at all.

It grows under a temporary name in the same folder, reaches the disk, and is renamed at the end.  Only a process that is killed
(SIGKILL, power) leaves its temporary file, `.xnorinfer-*.part`, behind; a later write into the folder removes it.

A file that replaces another keeps its mode, and owner, group and access list where this process may set them; a symbolic link
to it stays.  It is another file nevertheless: hard links keep the old content.  What is write-protected is not replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import OutputError


def require_writable(path: Path, *inputs: str | Path) -> None:
    """Raise OutputError unless a file can be made at `path`, which must be none of `inputs`; leaves nothing behind.

    Meant for the time before long work; the write itself may still fail.
    """
    _require_replaceable(path)
    for other in inputs:
        with contextlib.suppress(OSError):
            if path.exists() and path.samefile(other):
                raise OutputError(f"{path}: is an input of this command; choose another name for the output")
    part = _temporary_beside(path.resolve())
    try:
        with write_errors(path), part.open("xb"):
            pass
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def make_folders(paths: Iterable[Path]) -> None:
    """Make the folders that the files need.  Raises OutputError."""
    for path in paths:
        _make_folder(path.parent)


def _make_folder(folder: Path) -> None:
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _require_replaceable(path: Path) -> None:
    with write_errors(path):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            if path.parent.is_dir():
                return
            raise OutputError(f"{path}: cannot be written: there is no folder {path.parent}") from None
    if not stat.S_ISREG(mode):
        raise OutputError(f"{path}: is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}, needed is a file name")
    if not os.access(path, os.W_OK):
        raise OutputError(f"{path}: cannot be written: it is write-protected")


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".xnorinfer-{secrets.token_hex(8)}.part")


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Errors of the system that leave the block become an OutputError of this file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


class RowWriter:
    """A .npy file that grows batch by batch; `write` takes arrays of the dtype and row shape it was opened with."""

    def __init__(self, path: Path, stream: IO[bytes], row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._path, self._stream = path, stream
        self._row_shape, self._dtype = row_shape, dtype
        self.rows = 0

    def write(self, batch: NDArray[Any]) -> None:
        """Append rows.  Raises OutputError when the system refuses (disk full)."""
        if batch.shape[1:] != self._row_shape or batch.dtype != self._dtype:
            raise ValueError(f"rows of shape {batch.shape[1:]} {batch.dtype} for {self._row_shape} {self._dtype}")
        _write(self._path, self._stream, np.ascontiguousarray(batch).data)
        self.rows += len(batch)


@contextlib.contextmanager
def npy_writer(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[RowWriter]:
    """Write a .npy of a known shape row by row; at the end of the block it gets its name, on any exception it vanishes.

    Raises OutputError if it cannot be written.
    """
    with replacing(path) as stream:
        described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, described)
        writer = RowWriter(path, stream, shape[1:], dtype)
        yield writer
        if writer.rows != shape[0]:
            raise ValueError(f"{writer.rows} rows written, {shape[0]} announced")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, complete or not at all.  Raises OutputError."""
    with replacing(path) as stream:
        _write(path, stream, content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON (UTF-8, indented, a final newline), complete or not at all.  Raises OutputError."""
    write_bytes(path, json_text(value).encode() + b"\n")


def json_text(value: Any) -> str:
    """JSON for people and programs; what a terminal would obey, or UTF-8 lacks, is escaped within its strings."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1].replace("\x7f", "\\u007f") for c in text)


#: Temporary files of this process.
_unfinished: set[Path] = set()

_PART = re.compile(r"\.xnorinfer-[0-9a-f]{16}\.part")
#: Seconds after which a temporary file that nobody holds is taken for one of a killed process.
_ABANDONED = 60


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A stream to a temporary file that replaces `path` when the block ends well, and is removed otherwise."""
    _require_replaceable(path)
    target = path.resolve()  # through a symbolic link, so that the link stays
    with temporary(target.parent) as part:
        with write_errors(path):
            stream = _opened_like(target, part)
        try:
            _hold(stream)
            yield stream
            _flush(path, stream)
        finally:
            with contextlib.suppress(OSError):  # after a failed write, closing fails once more
                stream.close()
        with write_errors(path):
            os.replace(part, target)
        _flush_folder(target.parent)


@contextlib.contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """The path of a temporary file, yet to be made, that is gone after the block at the latest."""
    _sweep(folder)
    part = _temporary_beside(folder / "any")
    _unfinished.add(part)
    try:
        yield part
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
        _unfinished.discard(part)


def _opened_like(target: Path, part: Path) -> IO[bytes]:
    """The temporary file, open; with the rights of the file that it is to replace, if there is one.  Raises OSError."""
    try:
        old = target.stat()
    except FileNotFoundError:
        return part.open("xb")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    if hasattr(os, "fchown"):
        with contextlib.suppress(OSError):  # a file system without modes
            _keep_rights(handle, target, old)
    return open(handle, "wb")


def _keep_rights(handle: int, target: Path, old: os.stat_result) -> None:
    """Owner, group, mode and access list of the old file, as far as this process may set them; nobody gets more rights.

    setuid and setgid go, as they do when a file is written in place.
    """
    mode = stat.S_IMODE(old.st_mode) & 0o777
    for owner in (old.st_uid, -1):  # only root can give a file away; its group may be one of ours
        with contextlib.suppress(OSError):
            os.fchown(handle, owner, old.st_gid)
            break
    lists = _access_list(handle, target)
    if os.fstat(handle).st_gid != old.st_gid or not lists:
        mode &= ~0o070 | (mode & 0o007) << 3  # the members of another group are among the others
    os.fchmod(handle, mode)


#: Access lists in Linux's terms.
_ACL = "system.posix_acl_access"


def _access_list(handle: int, target: Path) -> bool:
    """Copy the access list of a file, or remove the one that the folder gave; False where that fails."""
    if not hasattr(os, "getxattr"):
        return True
    try:
        wanted = os.getxattr(target, _ACL)
    except OSError:  # none, or a file system without
        with contextlib.suppress(OSError):
            os.removexattr(handle, _ACL)
        return True
    try:
        os.setxattr(handle, _ACL, wanted)
    except OSError:
        return False
    return True


def discard_unfinished() -> None:
    """Remove the temporary files of this process, for one that is about to end without unwinding its stack."""
    for part in list(_unfinished):
        with contextlib.suppress(OSError):
            part.unlink()


def _hold(stream: IO[bytes]) -> bool:
    """Lock a temporary file, as its writer does for as long as it lives; False if another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows, where nobody removes a file that is open
        return True
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # or a file system without locks
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove temporary files whose writers were killed."""
    with contextlib.suppress(OSError):
        for found in os.scandir(folder):
            if _PART.fullmatch(found.name) and found.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    if time.time() - found.stat().st_mtime > _ABANDONED:
                        _remove_abandoned(Path(found.path))


def _remove_abandoned(part: Path) -> None:
    with part.open("rb") as stream:
        abandoned = _hold(stream)
    if abandoned:
        part.unlink()


def _write(path: Path, stream: IO[bytes], content: Any) -> None:
    with write_errors(path):
        stream.write(content)


def _flush_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets a folder be opened (not on Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _flush(path: Path, stream: IO[bytes]) -> None:
    with write_errors(path):
        stream.flush()
        os.fsync(stream.fileno())

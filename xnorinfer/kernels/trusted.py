"""Files that hold machine code: read and written only where nobody but this user (or root) can have put anything.

Who may write into a folder, or exchange one above it, decides what this process runs.  So every folder on the way is opened by
its own descriptor and looked at there: it belongs to this user or to root, and nobody else may write into it (above the last
one, a sticky folder like /tmp will do: others cannot exchange what they do not own).  Symbolic links on the way are followed if
they belong to this user or to root; one in place of a file never is.

Where a system has no owners of this kind (Windows), only the kind of the file and its size are looked at.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from xnorinfer.files import temporary

#: No file of compiled code comes near.
MAX_BYTES = 1 << 24
#: Links on the way to a folder, as Linux counts them.
_MAX_LINKS = 40

#: Whether folders can be opened and looked at by descriptor.
POSIX = hasattr(os, "geteuid") and os.open in os.supports_dir_fd
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class DistrustedError(Exception):
    """Somebody else could have put the file there; says why."""


def read(folder: Path, name: str) -> bytes:
    """The content of a file.  Raises DistrustedError or OSError (no such file, no permission, ...); never blocks."""
    with _opened(folder) as at:
        flags = os.O_RDONLY | _flags("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")
        handle = os.open(name if POSIX else folder / name, flags, dir_fd=at)
        with open(handle, "rb") as stream:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise DistrustedError(f"{folder / name} is not a regular file")
            if found.st_size > MAX_BYTES:
                raise DistrustedError(f"{folder / name} has {found.st_size} bytes, at most {MAX_BYTES} are read")
            _require_own(folder / name, found)
            return stream.read(MAX_BYTES)


def write(folder: Path, name: str, content: bytes) -> None:
    """Put a file there, whole or not at all, in place of whatever has its name; makes missing folders, for this user only.

    Raises DistrustedError or OSError.
    """
    with _opened(folder, create=True) as at, temporary(folder) as part:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flags("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")
        # Others may read it: what root compiled beside the package serves everybody.
        with open(os.open(part.name if POSIX else part, flags, 0o644, dir_fd=at), "wb") as stream:
            stream.write(content)
        if POSIX:
            os.rename(part.name, name, src_dir_fd=at, dst_dir_fd=at)
        else:
            os.replace(part, folder / name)


def reason_against(folder: Path) -> str | None:
    """Why nothing is read from this folder, which may well not exist yet; None if there is no reason."""
    try:
        with _opened(folder):
            return None
    except DistrustedError as error:
        return str(error)
    except OSError as error:
        return None if isinstance(error, FileNotFoundError) else f"{folder} cannot be used: {error.strerror or error}"


def _flags(*names: str) -> int:
    """Flags of `os.open`, as far as the system has them."""
    return sum(getattr(os, name, 0) for name in names)


@contextlib.contextmanager
def _opened(folder: Path, create: bool = False) -> Iterator[int | None]:
    """A descriptor of the folder, after all on the way to it was looked at; None where there are no such descriptors."""
    if not folder.is_absolute():
        raise DistrustedError(f"{folder} is not an absolute path")
    if not POSIX:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        yield None
        return
    at = _walk(folder, create)
    try:
        found = os.fstat(at)
        _require_own(folder, found)
        yield at
    finally:
        os.close(at)


def _walk(folder: Path, create: bool) -> int:
    """Descriptor of a folder; raises DistrustedError at the first one on the way that another user could exchange."""
    # O_PATH: folders on the way may be passed, not listed.
    flags = os.O_RDONLY | _flags("O_PATH", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC")
    at, where, links = os.open("/", flags), Path("/"), 0
    try:
        ahead = list(reversed(folder.parts[1:]))
        while ahead:
            part = ahead.pop()
            _require_fixed(where, os.fstat(at))
            try:
                found = os.stat(part, dir_fd=at, follow_symlinks=False)
            except FileNotFoundError:
                if not create:
                    raise
                with contextlib.suppress(FileExistsError):  # another process was faster
                    os.mkdir(part, 0o700, dir_fd=at)
                found = os.stat(part, dir_fd=at, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                _require_owner(where / part, found)
                target = Path(os.readlink(part, dir_fd=at))
                if links > _MAX_LINKS:
                    raise DistrustedError(f"{folder} leads through too many symbolic links")
                ahead += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                if not target.is_absolute():
                    continue
                part, where = "/", Path("/")
            following = os.open(part, flags, dir_fd=at)
            os.close(at)
            at, where = following, where / part
        return at
    except BaseException:
        os.close(at)
        raise


def _require_owner(path: Path, found: os.stat_result) -> None:
    user = os.geteuid()
    if found.st_uid not in (user, 0):
        raise DistrustedError(f"{path} belongs to user {found.st_uid}, neither to root nor to this process's user {user}")


def _require_own(path: Path, found: os.stat_result) -> None:
    """Of this user or root, and nobody else may write it."""
    if not POSIX:
        return
    _require_owner(path, found)
    if found.st_mode & _OTHERS:
        raise DistrustedError(f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o})")


def _require_fixed(path: Path, found: os.stat_result) -> None:
    """A folder in which nobody else can exchange what belongs to this user or root."""
    _require_owner(path, found)
    if found.st_mode & _OTHERS and not found.st_mode & stat.S_ISVTX:
        raise DistrustedError(
            f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}), who could exchange the folders in it"
        )

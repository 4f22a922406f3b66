"""Compiled functions, kept on disk between processes as plain object code.

numba's own cache does not notice edits in another file than the cached function's, takes the first folder it can write to, so
that what an image's builder compiled is lost to its users, and needs all of numba to read it back.  Here a file's name holds a
digest of all that goes into the code: the sources of this package, versions, the CPU with its features, the arguments of the
function's maker.  A changed source simply has another name.

Looked for in this order: XNORINFER_CACHE_DIR (then nowhere else), `__pycache__` beside this file (as with Python's own
bytecode, whoever installs the package may fill it for everybody), the user's cache folder.  Written to the first of them that
takes it; where none does, the process compiles for itself.

What is found is run, so it counts only where nobody but this user or root can have put it (`trusted`), under the name it was
written for, and if it is an object file with the function that is wanted (`objectfile`).  Anything else is compiled again.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from xnorinfer.kernels import native, objectfile, trusted

ENVIRONMENT = "XNORINFER_CACHE_DIR"
SUFFIX = ".kernel"

log = logging.getLogger("xnorinfer.kernels")

#: Called with the name of a function before it is compiled because no folder has it: the command line shows a message.
on_compile: list[Callable[[str], None]] = []


def folders() -> list[Path]:
    """Where compiled functions are looked for, in order."""
    package = Path(__file__).parent / "__pycache__"
    if hasattr(os, "geteuid") and (os.getuid(), os.getgid()) != (os.geteuid(), os.getegid()):
        return [package]  # with another's rights, the environment is not to be obeyed
    given = os.environ.get(ENVIRONMENT)
    return [Path(given)] if given else [package, _user_folder() / "xnorinfer"]


def _user_folder() -> Path:
    """The platform's folder for files that can be made again; one that does not exist is no error.

    Where nobody knows the user's home (a container with a user of its own), it is "~": not absolute, so not used.
    """
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local"))
    if sys.platform == "darwin":
        return Path(home, "Library", "Caches")
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"))


@cache
def _foundation() -> bytes:
    """Digest of everything that all functions share: sources, versions, CPU."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    versions = [importlib.metadata.version(name) for name in ("numba", "llvmlite")]
    digest.update(repr((versions, sys.version_info[:2], native.cpu())).encode())
    return digest.digest()


_addresses: dict[tuple[Any, ...], int] = {}
_lock = threading.RLock()


def address(maker: str, arity: int, *arguments: Any, returns: bool = False) -> int:
    """Address of what `maker` of `layers` or `driver` makes of the arguments: a C function of `arity` int64.

    arguments: plain values with a telling repr; they are part of the name on disk.  returns: an int64, else nothing.
    Loaded or compiled once per process.
    """
    key = (maker, arity, arguments)
    with _lock:
        if key not in _addresses:
            _addresses[key] = _load(maker, key, returns)
        return _addresses[key]


def python_function(maker: str, arity: int, *arguments: Any) -> Callable[..., int]:
    """The same as a Python function that returns an int64, which runs without the GIL."""
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arity)
    return kind(address(maker, arity, *arguments, returns=True))


def _load(maker: str, key: tuple[Any, ...], returns: bool) -> int:
    symbol = f"xnorinfer_{maker}"
    file = f"{maker}-{hashlib.sha256(_foundation() + repr(key).encode()).hexdigest()[:24]}{SUFFIX}"
    for folder in folders():
        found = _load_from(folder, file, symbol)
        if found:
            return found
    log.info("compiling %s for %s", maker, native.cpu()[1])
    for hook in on_compile:
        hook(maker)
    with _uninterrupted():
        from xnorinfer.kernels import build
    with _uninterrupted():
        code = build.object_code(maker, symbol, key[1], key[2], returns)
    _save(file, sealed(file, code))
    return native.load(code, symbol)


def _load_from(folder: Path, file: str, symbol: str) -> int:
    """Address of the function in a file, 0 if there is none that may be used."""
    try:
        code = _unsealed(file, trusted.read(folder, file))
        objectfile.require_loadable(code, symbol)
        return native.load(code, symbol)
    except trusted.DistrustedError as error:
        _tell(str(error))
    except (objectfile.ObjectFileError, LookupError, RuntimeError) as error:
        log.info("%s is compiled again: %s", folder / file, error)
    except OSError as error:
        log.debug("%s: %s", folder / file, error)
    return 0


def sealed(file: str, code: bytes) -> bytes:
    """Content of a file: a digest of its name and of the code, then the code.

    The digest tells a torn, damaged or renamed file before anything in it is run; it keeps nobody out (see `trusted`).
    """
    return hashlib.sha256(file.encode() + b"\0" + code).digest() + code


def _unsealed(file: str, content: bytes) -> bytes:
    """The code in a file.  Raises ObjectFileError if it is not what was written under this name."""
    code = content[32:]
    if sealed(file, code) != content:
        raise objectfile.ObjectFileError("its digest is wrong")
    return code


@cache
def _tell(reason: str) -> None:
    """Once each; as a warning where somebody asked for this folder."""
    level = logging.WARNING if os.environ.get(ENVIRONMENT) else logging.INFO
    log.log(level, "compiled kernels are neither taken from there nor kept there: %s", reason)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C during the block takes effect at its end: in the midst of numba or LLVM it is lost, or does damage."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(signal.SIGINT, came[0])


def _save(file: str, content: bytes) -> None:
    """Put a file into the first folder that takes it, whole or not at all."""
    if not any(_save_in(folder, file, content) for folder in folders()):
        log.info("no folder takes compiled kernels; tried %s", ", ".join(map(str, folders())))


def _save_in(folder: Path, file: str, content: bytes) -> bool:
    try:
        trusted.write(folder, file, content)
    except trusted.DistrustedError as error:
        _tell(str(error))
        return False
    except OSError as error:
        log.debug("%s: %s", folder / file, error)
        return False
    return True

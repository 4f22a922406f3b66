"""Compiled functions, kept on disk between processes as plain object code.

numba's own cache does not notice edits in another file than the cached function's, takes the first folder it can write to, so
that what an image's builder compiled is lost to its users, and needs all of numba to read it back.  Here a file's name holds a
digest of all that goes into the code: the sources of this package, versions, the CPU with its features, the arguments of the
function's maker.  A changed source simply has another name.

Looked for in this order: XNORINFER_CACHE_DIR (then nowhere else), `__pycache__` beside this file (as with Python's own
bytecode, whoever installs the package may fill it for everybody), the user's cache folder.  Written to the first of them that
takes it; where none does, the process compiles for itself.
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

from xnorinfer.errors import OutputError
from xnorinfer.kernels import native
from xnorinfer.writing import write_bytes

ENVIRONMENT = "XNORINFER_CACHE_DIR"
SUFFIX = ".kernel"

log = logging.getLogger("xnorinfer.kernels")

#: Called with the name of a function before it is compiled because no folder has it: the command line shows a message.
on_compile: list[Callable[[str], None]] = []


def folders() -> list[Path]:
    """Where compiled functions are looked for, in order."""
    given = os.environ.get(ENVIRONMENT)
    if given:
        return [Path(given)]
    return [Path(__file__).parent / "__pycache__", _user_folder() / "xnorinfer"]


def _user_folder() -> Path:
    """The platform's folder for files that can be made again; one that does not exist is no error."""
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
    digest.update(repr((versions, sys.version_info[:2], native.cpu(), os.environ.get("NUMBA_OPT"))).encode())
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


def python_function(maker: str, arity: int) -> Callable[..., int]:
    """The same as a Python function, which runs without the GIL."""
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arity)
    return kind(address(maker, arity, returns=True))


def _load(maker: str, key: tuple[Any, ...], returns: bool) -> int:
    symbol = f"xnorinfer_{maker}"
    file = f"{maker}-{hashlib.sha256(_foundation() + repr(key).encode()).hexdigest()[:24]}{SUFFIX}"
    for folder in folders():
        with contextlib.suppress(OSError):
            data = (folder / file).read_bytes()
            # The digest in front tells a torn or damaged file before anything in it is run.
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                return native.load(data[32:], symbol)
    log.info("compiling %s for %s", maker, native.cpu()[1])
    for hook in on_compile:
        hook(maker)
    with _uninterrupted():
        from xnorinfer.kernels import build
    with _uninterrupted():
        code = build.object_code(maker, symbol, key[1], key[2], returns)
    _save(file, hashlib.sha256(code).digest() + code)
    return native.load(code, symbol)


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
    for folder in folders():
        with contextlib.suppress(OSError, OutputError):
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / file, content)
            return
    log.info("no folder takes compiled kernels; tried %s", ", ".join(map(str, folders())))

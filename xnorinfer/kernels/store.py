"""Compiled functions, kept on disk between processes.

numba's own cache does not notice edits in another file than the cached function's, and takes the first folder it can write
to, so that what an image's builder compiled is lost to its users.  Here a file's name holds a digest of all that goes into the
code: the sources of this package, versions, the CPU with its features, the arguments of the function's maker.  A changed
source simply has another name.

Looked for in this order: XNORINFER_CACHE_DIR (then nowhere else), `__pycache__` beside this file (as with Python's own
bytecode, whoever installs the package may fill it for everybody), the user's cache folder.  Written to the first of them that
takes it; where none does, the process compiles for itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import platform
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import types
from numba.core import serialize
from numba.core.caching import _Cache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target

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
    versions = (numba.__version__, llvmlite.__version__, platform.python_version(), platform.python_implementation())
    cpu = cpu_target.target_context.codegen().magic_tuple()
    digest.update(repr((versions, cpu, numba.config.OPT)).encode())
    return digest.digest()


class _Store(_Cache):
    """What numba asks before and tells after it compiles one function; the function has one signature only."""

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        key = hashlib.sha256(_foundation() + repr((name, arguments)).encode()).hexdigest()[:24]
        self.name, self.file = name, f"{name}-{key}{SUFFIX}"

    @property
    def cache_path(self) -> str:
        return str(folders()[0])

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        for folder in folders():
            with contextlib.suppress(OSError):
                data = (folder / self.file).read_bytes()
                # The digest in front tells a torn or damaged file, before anything in it is believed.
                if hashlib.sha256(data[32:]).digest() == data[:32]:
                    return CompileResult._rebuild(target_context, *pickle.loads(data[32:]))
        log.info("compiling %s for %s", self.name, cpu_target.target_context.codegen().magic_tuple()[1])
        for hook in on_compile:
            hook(self.name)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        content = serialize.dumps(data._reduce())
        content = hashlib.sha256(content).digest() + content
        for folder in folders():
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                temporary = folder / f"{self.file}.{os.getpid()}"
                temporary.write_bytes(content)
                os.replace(temporary, folder / self.file)
                return
        log.info("no folder takes compiled kernels; tried %s", ", ".join(map(str, folders())))

    def enable(self) -> None:
        pass

    def disable(self) -> None:
        pass

    def flush(self) -> None:
        pass


_compiled: dict[tuple[Any, ...], Any] = {}


def compiled(make: Callable[..., Callable[..., Any]], arity: int, *arguments: Any) -> int:
    """Address of `make(*arguments)` compiled as a C function of `arity` int64 that returns nothing.

    arguments: plain values with a telling repr; they are part of the name on disk.  Compiled once per process and CPU.
    """
    key = (make, arity, arguments)
    if key not in _compiled:
        function = CFunc(make(*arguments), ([types.int64] * arity, types.void), {}, {"nogil": True})
        function._cache = _Store(make.__name__, (arity, *arguments))
        function.compile()
        _compiled[key] = function
    return int(_compiled[key].address)


def callable_from_python(make: Callable[..., Callable[..., Any]], arity: int) -> Callable[..., int]:
    """`make()` compiled as a Python function of `arity` int64 that runs without the GIL and returns an int64."""
    key = (make, arity)
    if key not in _compiled:
        function = numba.njit(nogil=True)(make())
        function._cache = _Store(make.__name__, (arity,))
        function.compile(types.int64(*[types.int64] * arity))
        function.disable_compile()
        _compiled[key] = function
    dispatcher: Callable[..., int] = _compiled[key]
    return dispatcher

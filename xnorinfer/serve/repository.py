"""The models that a server has, by name; of a file that changes, the old one serves until the new one is validated."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from xnorinfer import shipped
from xnorinfer.engine.model import Model
from xnorinfer.errors import InputError, ModelFileError, NotAModelError, OptionError
from xnorinfer.files import write_bytes
from xnorinfer.packing import modelfile
from xnorinfer.packing.description import widths
from xnorinfer.packing.packed import PackedModel
from xnorinfer.serve.batching import Batcher
from xnorinfer.serve.limits import Limits
from xnorinfer.serve.protocol import metadata

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: Digits of the content digest that are a version.
VERSION_DIGITS = 16

#: What tells that a file is another one: time, size, number; None where there is no file.
Stamp: TypeAlias = "tuple[int, int, int] | None"


@dataclass(frozen=True)
class Served:
    """A network that is ready to answer.  version: the first digits of its content digest.  about: the protocol's metadata."""

    name: str
    version: str
    model: Model
    about: dict[str, Any]


def named_models(arguments: Sequence[str]) -> dict[str, Path]:
    """Names and files of models from `MODEL` or `NAME=MODEL` each; a file's name without its ending is its name.

    Raises OptionError for a name that is none, or of two models.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        name, equals, model = argument.partition("=")
        if not equals or not NAME.fullmatch(name) or Path(argument).exists():
            name, model = "", argument
        path = shipped.locate(model)
        name = name or path.stem
        if not NAME.fullmatch(name):
            raise OptionError(f"{name!r} cannot be the name of a model (letters, digits, '.', '_', '-'); write NAME={argument}")
        if name in found:
            raise OptionError(f"two models are called {name}; give one another name: NAME={argument}")
        found[name] = path
    return found


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class Repository:
    """All models of a server.

    models: their files by name.  threads, kernel: as in `Model`.  snapshots: a folder for copies of the files, which are then
    mapped, so that processes share their pages, while the files may be changed in place.
    Raises ModelFileError, OptionError or KernelError for a model that cannot be loaded.
    """

    def __init__(
        self, models: dict[str, Path], *, threads: int | None = None, kernel: str | None = None, snapshots: Path | None = None
    ) -> None:
        self._files, self._asked, self._snapshots = models, (threads, kernel), snapshots
        self._stamps: dict[str, Stamp] = {name: stamp_of(path) for name, path in models.items()}
        self._copies: dict[str, Path] = {}
        self._changing: dict[str, Stamp] = {}
        self.served = {name: self._load(name) for name in models}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.served)

    def batchers(self, limits: Limits, observe: Callable[[str], Callable[[int, float], None]]) -> dict[str, Batcher]:
        """A batcher for each model."""
        return {name: Batcher(name, limits, observe(name)) for name in self.served}

    def _load(self, name: str) -> Served:
        threads, kernel = self._asked
        packed = self._read(name)
        version = str(modelfile.header_of(packed)["content_digest"])[:VERSION_DIGITS]
        model = Model(packed, threads=threads, kernel=kernel)
        return Served(name, version, model, metadata(name, version, model))

    def _read(self, name: str) -> PackedModel:
        path = self._files[name]
        if self._snapshots is None:
            return modelfile.load(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise NotAModelError(f"{path}: cannot be read: {error.strerror}") from None
        copy = self._snapshots / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        with _alone(self._snapshots):
            if not copy.exists():
                write_bytes(copy, content)
            try:
                packed = modelfile.load(copy, mapped=True)
            except ModelFileError as error:
                copy.unlink()
                raise type(error)(str(error).replace(str(copy), str(path))) from None
            before, self._copies[name] = self._copies.get(name), copy
            if before is not None and before not in self._copies.values():
                before.unlink(missing_ok=True)  # whoever has mapped it keeps it
        return packed

    # ------------------------------------------------------------ files that change

    def changed(self) -> list[str]:
        """Names of models whose files changed and have been at rest since the last call: none that is still being written."""
        found = []
        for name, path in self._files.items():
            now = stamp_of(path)
            if now == self._stamps[name]:
                self._changing.pop(name, None)
            elif name in self._changing and self._changing[name] == now:
                del self._changing[name]
                self._stamps[name] = now
                found.append(name)
            else:
                self._changing[name] = now
        return found

    async def reload(self, name: str) -> Served | Exception:
        """Load a model again, beside the event loop; it serves from then on.  Gives the error for which the old one stays."""
        try:
            self.served[name] = await asyncio.to_thread(self._load, name)
        except Exception as error:  # a defect as well: the old one can serve
            return error
        return self.served[name]

    async def watch(self, seconds: float, tell: Callable[[str, Served | Exception], None]) -> None:
        """Look for changed files for ever; `tell` learns what became of each."""
        while True:
            await asyncio.sleep(seconds)
            for name in self.changed():
                tell(name, await self.reload(name))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The block is run by one process at a time: two that copy a file would map two copies."""
    import fcntl  # not on Windows, where no processes share a folder

    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def describe(served: Served) -> str:
    """A model in a word: '784-1024-10'."""
    return widths(served.model.packed)


def read_tokens(path: Path) -> tuple[bytes, ...]:
    """The tokens of a file, one a line.  Raises InputError where there is none, OptionError for what no header can hold."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: the tokens cannot be read: {error.strerror}") from None
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens:
        raise InputError(f"{path}: holds no token; needed is one a line")
    for number, token in enumerate(tokens, 1):
        if not re.fullmatch(rb"[\x21-\x7e]+", token):
            raise OptionError(f"{path}: token {number} holds what a bearer token cannot: spaces, or other than ASCII")
    return tokens


def readable_by_others(path: Path) -> bool:
    """Whether users other than its owner can read a file, where the system has modes."""
    return os.name == "posix" and bool(path.stat().st_mode & 0o077)

"""Checkpoint sources of other packages, which their entry points name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xnorinfer.converters.reading import Source
from xnorinfer.errors import SourceError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Each entry point of this group is a source: a class without arguments, or an object, with what `Source` has.  It is called as
#: the source itself.
GROUP = "xnorinfer.sources"


def sources_of_others(taken: set[str]) -> Iterator[Source]:
    """The sources of installed packages, by name.  taken: names that they cannot have.

    Each is loaded when it is asked for.  Raises SourceError for what cannot be loaded or is no source, which names the package.
    """
    from importlib.metadata import entry_points

    for entry in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        about = f"the checkpoint source {entry.name} of the package {_package(entry)}"
        if entry.name in taken:
            raise SourceError(f"{about} has the name of another one")
        taken = {*taken, entry.name}
        yield _loaded(entry, about)


def _loaded(entry: EntryPoint, about: str) -> Source:
    try:
        found: Any = entry.load()
        source: Source = found() if isinstance(found, type) else found
    except Exception as error:
        raise SourceError(f"{about} cannot be loaded: {type(error).__name__}: {error}") from error
    if not all(isinstance(getattr(source, name, None), str) for name in ("name", "meaning")) or not all(
        callable(getattr(source, name, None)) for name in ("sniff", "read")
    ):
        raise SourceError(f"{about} is none: it needs name, meaning, sniff(path) and read(path, options)")
    if source.name != entry.name:
        raise SourceError(f"{about} calls itself {source.name}; its entry point must have that name")
    return source


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value

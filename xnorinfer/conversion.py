"""The straight line from a checkpoint to a packed model: read, check, lower."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnorinfer.errors import NetworkError
from xnorinfer.lower import lower
from xnorinfer.packed import PackedModel

if TYPE_CHECKING:
    from xnorinfer.converters.base import ConvertOptions, Reading


@dataclass(frozen=True)
class Conversion:
    """A packed model beside the reading it came from; `notes` are remarks of the folding."""

    packed: PackedModel
    reading: Reading
    notes: tuple[str, ...]


def convert_file(path: str | Path, options: ConvertOptions) -> Conversion:
    """Convert a checkpoint.  Raises SourceError, OptionError or NetworkError; writes nothing."""
    from xnorinfer.converters import read_source

    path = Path(path)
    reading = read_source(path, options)
    return pack_reading(reading, options, path.name, digest_of(path))


def pack_reading(reading: Reading, options: ConvertOptions, name: str, digest: str | None) -> Conversion:
    """Lower what a source read; `name` and `digest` (None for live modules) go into the provenance."""
    from xnorinfer import __version__

    try:
        lowered = lower(reading.net)
    except NetworkError as error:
        raise NetworkError(error.problems, about=name) from None
    provenance: dict[str, Any] = {
        "source": name,
        "format": reading.source,
        "sha256": digest,
        "options": options.to_json(),
        "assumptions": [[a.what, a.value, a.origin] for a in reading.assumptions],
        "xnorinfer": __version__,
    }
    return Conversion(dataclasses.replace(lowered.packed, provenance=provenance), reading, lowered.notes)


def digest_of(path: Path) -> str:
    """SHA-256 of a checkpoint, hexadecimal; of one in several files, over their names and contents in order."""
    from xnorinfer.converters import files_of

    files = sorted(files_of(path), key=lambda file: (file.name, file))
    total = hashlib.sha256()
    for file in files:
        if files != [path]:
            total.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                total.update(chunk)
    return total.hexdigest()

"""The straight line from a checkpoint to a packed model: read, check, lower."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnorinfer import budget
from xnorinfer.errors import NetworkError, StrictError
from xnorinfer.lower import lower
from xnorinfer.packed import PackedModel
from xnorinfer.sensitivity import Default, measure_defaults

if TYPE_CHECKING:
    from xnorinfer.converters.base import ConvertOptions, Reading


@dataclass(frozen=True)
class Conversion:
    """A packed model beside the reading it came from.

    defaults: what was taken by default, and what other values would change.  warnings: everything that can change results or
    does not fit: those of the reading, of defaults and of the folding; they are in the model's provenance, too.
    """

    packed: PackedModel
    reading: Reading
    defaults: tuple[Default, ...]
    warnings: tuple[str, ...]

    def require_no_warnings(self, about: str) -> None:
        """Raise StrictError if there are any."""
        if self.warnings:
            raise StrictError(self.warnings, about)


def convert_file(path: str | Path, options: ConvertOptions) -> Conversion:
    """Convert a checkpoint.  Raises SourceError, OptionError or NetworkError; writes nothing."""
    from xnorinfer.converters import read_source

    path = Path(path)
    with budget.reading(path, options.max_memory):
        reading = read_source(path, options)
        return pack_reading(reading, options, path.name, digest_of(path))


def pack_reading(reading: Reading, options: ConvertOptions, name: str, digest: str | None) -> Conversion:
    """Lower what a source read; `name` and `digest` (None for live modules) go into the provenance."""
    from xnorinfer import __version__

    try:
        lowered = lower(reading.net)
    except NetworkError as error:
        raise NetworkError(error.problems, about=name) from None
    defaults = tuple(measure_defaults(reading))
    measured = [default.warning() for default in defaults if default.changing]
    warnings = tuple(dict.fromkeys([*reading.warnings, *measured, *lowered.notes]))
    provenance: dict[str, Any] = {
        "source": name,
        "format": reading.source,
        "sha256": digest,
        "options": options.to_json(),
        "assumptions": [[a.what, a.value, a.origin] for a in reading.assumptions],
        "warnings": list(warnings),
        "xnorinfer": __version__,
    }
    return Conversion(dataclasses.replace(lowered.packed, provenance=provenance), reading, defaults, warnings)


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

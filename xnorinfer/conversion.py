"""The straight line from a checkpoint to a packed model: read, check, lower."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnorinfer import budget
from xnorinfer.errors import ExpectationError, InputError, NetworkError, StrictError, UnusableInputError
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import PackedModel
from xnorinfer.proof.defaults import Default, measure_defaults
from xnorinfer.report import assumptions_to_json, tensors_to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from xnorinfer.converters.reading import ConvertOptions, Reading
    from xnorinfer.proof.agreement import Agreement
    from xnorinfer.proof.answers import Answers

    Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Conversion:
    """A packed model beside the reading it came from.

    options: what it was read with; what data decided is among them.
    defaults: what was taken by default, and what other values would change.  warnings: everything that can change results or
    does not fit: those of the reading, of defaults and of the folding; they are in the model's provenance, too.
    agreement: with expected answers, where there are some.
    """

    packed: PackedModel
    reading: Reading
    options: ConvertOptions
    defaults: tuple[Default, ...]
    warnings: tuple[str, ...]
    agreement: Agreement | None = None

    def require_no_warnings(self, about: str) -> None:
        """Raise StrictError if there are any."""
        if self.warnings:
            raise StrictError(self.warnings, about)


def convert_file(path: str | Path, options: ConvertOptions, data: NDArray[Any] | None = None) -> Conversion:
    """Convert a checkpoint; writes nothing.

    data: unlabelled inputs (rows, ...), which the first BatchNorm's statistics are compared with (see `inputmapping`): they
    confirm the input mapping, or choose it where nothing else says it.
    Raises SourceError, OptionError, NetworkError, or InputError.
    """
    from xnorinfer.converters import read_source

    path = Path(path)
    with budget.reading(path, options.max_memory):
        reading = read_source(path, options)
        if data is not None:
            reading, options = with_data(reading, options, data)
        return pack_reading(reading, options, path.name, digest_of(path))


def with_data(reading: Reading, options: ConvertOptions, data: NDArray[Any]) -> tuple[Reading, ConvertOptions]:
    """A reading and its options with what inputs say about the input mapping.  Raises InputError.

    data: (rows, ...), images as `Model.scores` takes them.
    """
    from xnorinfer.converters.evidence.inputmapping import apply_mapping, judge_mapping
    from xnorinfer.converters.reading import INPUT
    from xnorinfer.imageaxes import channels_last

    if len(reading.net.shape) == 3:
        data = channels_last("data", reading.net.shape, data, source_first=reading.channels_first)
    evidence = judge_mapping(reading.net, data)
    if evidence is None:
        text = "--data says nothing about the input mapping: no BatchNorm directly follows the first layer, or the inputs"
        return dataclasses.replace(reading, warnings=(*reading.warnings, text)), options
    # A net.toml says the input itself: what contradicts it is a warning.
    given = options if options.net is None else dataclasses.replace(options, input=reading.net.input)
    found = apply_mapping(reading, evidence, given)
    # What the inputs decided is recorded like an option, so that the file is read so again.
    decided = any(one.what == INPUT and one.origin == "data" for one in found.assumptions)
    return found, dataclasses.replace(options, input=found.net.input) if decided else options


def pack_reading(reading: Reading, options: ConvertOptions, name: str, digest: str | None) -> Conversion:
    """Lower what a source read; `name` and `digest` (None for live modules) go into the provenance."""
    from xnorinfer import __version__

    try:
        lowered = lower(reading.net)
    except NetworkError as error:
        raise NetworkError(error.problems, about=name, understood=reading) from None
    defaults = tuple(measure_defaults(reading))
    warnings = merged([*_with_effects(reading.warnings, [one for one in defaults if one.changing]), *lowered.notes])
    provenance: dict[str, Any] = {
        "source": name,
        "format": reading.source,
        "sha256": digest,
        "options": options.to_json(),
        "tensors": tensors_to_json(reading.tensors),
        "assumptions": assumptions_to_json(reading.assumptions),
        "warnings": list(warnings),
        "xnorinfer": __version__,
    }
    if reading.channels_first:  # as rows of images may come, then
        provenance["channels_first"] = True
    return Conversion(dataclasses.replace(lowered.packed, provenance=provenance), reading, options, defaults, warnings)


def _with_effects(warnings: Iterable[str], defaults: Iterable[Default]) -> list[str]:
    """Warnings of a reading, and of its defaults; what a remark is about already is not said twice, but measured there."""
    from xnorinfer.converters.reading import Remark

    found = list(warnings)
    for default in defaults:
        about = (index for index, text in enumerate(found) if isinstance(text, Remark) and text.about == default.what)
        index = next(about, None)
        if index is None:
            found.append(default.warning())
        else:
            found[index] = f"{found[index]}. {default.effect()}"
    return found


#: Warnings that say the same of so many layers or tensors are one.
ALIKE = 4
_ABOUT = re.compile(r"(?s)([^:\n]{1,200}): (.+)")


def merged(warnings: Iterable[str]) -> tuple[str, ...]:
    """Warnings in order, each once: of those that differ in a name before a colon and in numbers alone, the first, with how
    many others it stands for."""
    groups: dict[str, list[str]] = {}
    for text in dict.fromkeys(warnings):
        parts = _ABOUT.fullmatch(text)
        kind = text if parts is None else re.sub(r"\d[\d.,]*(e[+-]?\d+)?", "#", parts[2])
        groups.setdefault(kind, []).append(text)
    found: list[str] = []
    for texts in groups.values():
        if len(texts) < ALIKE:
            found.extend(texts)
            continue
        names = [parts[1] for text in texts[1:] if (parts := _ABOUT.fullmatch(text))]
        listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        found.append(f"{texts[0]} (and alike of {len(names)} others: {listed})")
    return tuple(found)


#: What classes may be that no reading gives.
LABELS = "; true labels are not what the network answers: their share is measured by `xnorinfer run --labels`"


def require_expected(
    conversion: Conversion,
    expected: Answers,
    read: Callable[[ConvertOptions], Reading] | None = None,
    *,
    report: Progress = lambda what, done, total: None,
    agreement: Agreement | None = None,
) -> Conversion:
    """The conversion with what was compared.  Raises ExpectationError that says what would explain a difference, InputError.

    read: reads the source with other options.  agreement: where they were compared already.
    """
    from xnorinfer.converters.reading import net_line
    from xnorinfer.proof.agreement import compare
    from xnorinfer.proof.elimination import eliminate, exact_form

    expected = expected.placed(conversion.packed.shape, source_first=conversion.packed.channels_first)
    unusable: InputError | None = None
    try:
        if agreement is None:
            agreement = compare(expected, conversion.reading.net, conversion.packed, report=report)
        text = agreement.text()
    except UnusableInputError as error:
        agreement, text, unusable = None, str(error), error
    if agreement is None or not agreement.holds:
        found = eliminate(expected, conversion.reading, conversion.options, read, report)
        if unusable is not None and not found.explanations:
            raise unusable
        labels = "" if found.explanations or expected.values.ndim > 1 else LABELS
        raise ExpectationError(f"{conversion.packed.provenance['source']}: {text}; {found.text()}{labels}")
    odd = agreement.warning()
    warnings = conversion.warnings if odd is None else (*conversion.warnings, odd)
    form = exact_form(expected, conversion.reading.net, conversion.packed, agreement)
    if form is not None:
        what = f"answers differ from those of {agreement.name} in the last bits of float32; with BatchNorm's operations in the"
        warnings = (*warnings, f"{what} order of {form} none does" + net_line(f'form = "{form}"'))
    provenance = {**conversion.packed.provenance, "warnings": list(warnings), "expected": agreement.to_json()}
    packed = dataclasses.replace(conversion.packed, provenance=provenance)
    return dataclasses.replace(conversion, packed=packed, warnings=warnings, agreement=agreement)


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

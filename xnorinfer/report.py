"""What a conversion found, assumed, ignored and warned of: kept in a model file's provenance, and read from there again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from xnorinfer.errors import MalformedModelError
from xnorinfer.oneline import one_line
from xnorinfer.spelling import in_python


@dataclass(frozen=True)
class TensorUse:
    """One tensor of the checkpoint and what became of it: `use` reads like "fc1: bias", or is the reason to ignore it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    use: str
    ignored: bool = False


#: Where an assumption comes from.  statistics: BatchNorm's own bear it out; data: inputs that were given bear it out.
Origin = Literal["file", "graph", "option", "net", "default", "statistics", "data"]


@dataclass(frozen=True)
class Assumption:
    """Something that decides results and where it came from: the file, its graph, an option, a net.toml, a default.

    A default that can change results comes with a warning, unless it is one of those that are measured.
    """

    what: str
    value: str
    origin: Origin


@dataclass(frozen=True)
class Report:
    """What the conversion that made a model said of it (`Model.report`); empty is what an older model file does not hold.

    source: name of the checkpoint, or class of the live model.  format: the kind of checkpoint.  sha256: its digest, None of
    live models.  options: what the user said.  found, ignored: the tensors of the checkpoint, which the network is made of and
    which are no part of it.  assumed: what decides results, and where it was taken from.  warnings: each a sentence or more.
    expected: what the model was compared with, if it was.
    """

    source: str
    format: str
    sha256: str | None
    options: dict[str, Any]
    found: tuple[TensorUse, ...]
    ignored: tuple[TensorUse, ...]
    assumed: tuple[Assumption, ...]
    warnings: tuple[str, ...]
    expected: dict[str, Any] | None

    @classmethod
    def of(cls, provenance: dict[str, Any]) -> Report:
        """From what a model file holds.  Raises MalformedModelError: whoever made the file may have written anything there."""
        tensors = tuple(
            TensorUse(name, tuple(shape), dtype, in_python(use), ignored)
            for name, shape, dtype, use, ignored in _rows(provenance, "tensors", (str, list, str, str, bool))
        )
        return cls(
            source=_one(provenance, "source", str, ""),
            format=_one(provenance, "format", str, ""),
            sha256=_one(provenance, "sha256", str, None),
            options=_one(provenance, "options", dict, {}),
            found=tuple(tensor for tensor in tensors if not tensor.ignored),
            ignored=tuple(tensor for tensor in tensors if tensor.ignored),
            assumed=tuple(Assumption(*row) for row in _rows(provenance, "assumptions", (str, str, str))),
            warnings=tuple(map(in_python, _texts(provenance, "warnings"))),
            expected=_one(provenance, "expected", dict, None),
        )

    def to_json(self) -> dict[str, Any]:
        """The same as dicts and lists, JSON-able."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(one_line(line) for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"Found in {self.source}" + (f" (format {self.format})" if self.format else "")
        for title, tensors in (("", self.found), ("Ignored", self.ignored)):
            if title and tensors:
                yield title
            for one in tensors:
                yield f"  {one.name} ({', '.join(map(str, one.shape))}) {one.dtype}: {one.use}"
        if self.assumed:
            yield "Assumed"
        for assumption in self.assumed:
            yield f"  {assumption.what}: {assumption.value} (from: {assumption.origin})"
        if self.warnings:
            yield "Warnings"
        for text in self.warnings:
            yield f"  {text}"


def tensors_to_json(tensors: tuple[TensorUse, ...]) -> list[list[Any]]:
    """Tensors as provenance holds them; `Report.of` is the way back."""
    return [[one.name, [int(size) for size in one.shape], one.dtype, one.use, one.ignored] for one in tensors]


def assumptions_to_json(assumptions: tuple[Assumption, ...]) -> list[list[str]]:
    """Assumptions as provenance holds them; `Report.of` is the way back."""
    return [[one.what, one.value, one.origin] for one in assumptions]


def _one(provenance: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = provenance.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise MalformedModelError(f"provenance: {name} has the wrong type")
    return value


def _texts(provenance: dict[str, Any], name: str) -> list[str]:
    texts: list[Any] = _one(provenance, name, list, [])
    if not all(isinstance(text, str) for text in texts):
        raise MalformedModelError(f"provenance: {name} holds something of the wrong type")
    return texts


def _rows(provenance: dict[str, Any], name: str, kinds: tuple[type, ...]) -> list[list[Any]]:
    rows: list[Any] = _one(provenance, name, list, [])
    for row in rows:
        if not isinstance(row, list) or len(row) != len(kinds) or not all(map(isinstance, row, kinds)):
            raise MalformedModelError(f"provenance: {name} holds something of the wrong type")
        if any(type(size) is not int for value in row if isinstance(value, list) for size in value):
            raise MalformedModelError(f"provenance: {name} holds a shape that is none")
    return rows

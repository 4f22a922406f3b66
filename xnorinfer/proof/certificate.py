"""A verification as a document to keep: JSON with a digest of its own, or the same as text.

It names what was compared (digests of source and model), with which options and versions, how many weights and accumulator
values were checked in every layer, and the result.  `check` tells whether such a document was changed after it was written, and
whether it speaks of given files; `differences` compares it with a fresh one.
"""

from __future__ import annotations

import hashlib
import json
import platform
import textwrap
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from xnorinfer.conversion import digest_of
from xnorinfer.errors import InputError
from xnorinfer.files import write_bytes, write_json
from xnorinfer.oneline import one_line
from xnorinfer.proof.agreement import Agreement
from xnorinfer.proof.verification import Verification
from xnorinfer.samples.dataio import split_member

FORMAT = "xnorinfer certificate"
FORMAT_VERSION = 1


def build(result: Verification, model_path: str | Path, *, data: str | None = None) -> dict[str, Any]:
    """The certificate of a verification as JSON-able dict.  data: name of the file with the samples, None for random ones."""
    from xnorinfer import __version__

    verified = result.to_json()
    body: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "holds": result.holds,
        "proves": result.proves,
        "first_difference": result.first_difference,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": {
            "file": result.model,
            "sha256": digest_of(Path(model_path)),
            "content_digest": result.content_digest,
            "header_digest": result.header_digest,
            "input": result.input,
            "profile": result.profile,
        },
        "source": {
            "file": result.source,
            "sha256": result.source_digest,
            "is_what_the_model_was_made_from": result.source_unchanged,
            "format": result.source_format,
            "options": result.options,
            "assumptions": result.assumptions,
            "reading": result.reading,
        },
        "versions": {
            "xnorinfer": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("numpy", "numba", "llvmlite", "safetensors", "torch")},
            "machine": platform.machine(),
            "system": platform.system(),
            "kernel": result.kernel,
            "threads": result.threads,
        },
        "proof": {
            "layers": verified["layers"],
            "weights": sum(layer.weights for layer in result.layers),
            "values": sum(layer.compared for layer in result.layers),
            "differences": sum(layer.differences for layer in result.layers),
        },
        "comparison": {
            "data": data if result.data == "given" else "random",
            "data_sha256": None if data is None else digest_of(split_member(data)[0]),
            "rows": result.rows,
            "differing_rows": result.differing_rows,
            "differing_predictions": result.differing_predictions,
            "rows_with_ties": result.tie_rows,
        },
        "sensitivity": verified["sensitivity"],
        "framework": verified["framework"],
        "expected": verified["expected"],
    }
    return {**body, "digest": _digest(body)}


def write(certificate: dict[str, Any], path: Path) -> None:
    """Write it, as text where the name ends in .txt or .md, else as JSON.  Raises OutputError."""
    if path.suffix.lower() in (".txt", ".md"):
        write_bytes(path, ("\n".join(text_lines(certificate)) + "\n").encode())
    else:
        write_json(path, certificate)


def check(path: str | Path, model_path: str | Path | None = None, source_path: str | Path | None = None) -> dict[str, Any]:
    """Read a JSON certificate.  Raises InputError if it was changed, or speaks of another model or source than those given."""
    path = Path(path)
    try:
        certificate = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is no JSON, so no certificate (one written as text is for reading only)") from None
    if not isinstance(certificate, dict) or certificate.get("format") != FORMAT:
        raise InputError(f"{path}: is no certificate of 'xnorinfer verify --certificate'")
    body = {name: value for name, value in certificate.items() if name != "digest"}
    if certificate.get("format_version") != FORMAT_VERSION or certificate.get("digest") != _digest(body):
        raise InputError(f"{path}: was changed after it was written, or is of another format version")
    lacking = [part for part, kind in _PARTS.items() if not isinstance(certificate.get(part), kind)]
    if lacking:
        raise InputError(f"{path}: is incomplete: {', '.join(lacking)} missing, or of the wrong type")
    for what, other in (("model", model_path), ("source", source_path)):
        if other is None:
            continue
        kept, found = certificate[what].get("sha256"), digest_of(Path(other))
        if kept != found:
            raise InputError(
                f"{path}: speaks of another {what} than {other}: of {certificate[what].get('file')}, SHA-256 {kept}, "
                f"while that of {other} is {found}"
            )
    return certificate


#: What a certificate consists of.
_PARTS: dict[str, type] = {
    "holds": bool,
    "date": str,
    **dict.fromkeys(("model", "source", "versions", "proof", "comparison"), dict),
}
#: What may differ between two certificates of one fact: when, where and by which versions they were made, what files are
#: called, and the sentence that follows from the rest.
_CIRCUMSTANCES = (
    "date",
    "digest",
    "versions",
    "model.file",
    "source.file",
    "comparison.data",
    "expected.name",
    "framework.name",
    "framework.version",
    "proves",
)


def differences(kept: dict[str, Any], fresh: dict[str, Any]) -> list[str]:
    """Where a kept certificate and a fresh one of the same files do not agree: options, assumptions, counts, results.

    The comparison on samples, the framework's among it, is left out where the samples are not the same, the framework and
    expected answers where only one has them, and what certificates did not say once.
    """
    left_out = [*_CIRCUMSTANCES, *([] if "reading" in kept["source"] else ["source.reading"])]
    same = ("data_sha256", "rows")
    if any(kept["comparison"].get(name) != fresh["comparison"].get(name) for name in same):
        left_out += ["comparison", "framework", "sensitivity.rows", "sensitivity.alternatives"]
    for part in ("framework", "expected"):
        said, told = kept.get(part), fresh.get(part)
        if isinstance(said, dict) and isinstance(told, dict):
            left_out += [f"{part}.{name}" for name in said.keys() ^ told.keys()]
        elif said is None or told is None:
            left_out.append(part)
    return list(_differ("", kept, fresh, left_out))


def _differ(where: str, kept: Any, fresh: Any, left_out: list[str]) -> Iterator[str]:
    if where in left_out:
        return
    if isinstance(kept, dict) and isinstance(fresh, dict):
        for name in dict.fromkeys([*kept, *fresh]):
            yield from _differ(f"{where}.{name}" if where else name, kept.get(name), fresh.get(name), left_out)
    elif isinstance(kept, list) and isinstance(fresh, list) and len(kept) == len(fresh):
        for index, (one, other) in enumerate(zip(kept, fresh, strict=True)):
            yield from _differ(f"{where}[{index}]", one, other, left_out)
    elif kept != fresh:
        yield f"{where}: {json.dumps(kept)} in the certificate, {json.dumps(fresh)} now"


def other_versions(kept: dict[str, Any], fresh: dict[str, Any]) -> list[str]:
    """Software and machine that are not those of the certificate, in words."""
    return [line.replace("versions.", "", 1) for line in _differ("versions", kept["versions"], fresh["versions"], [])]


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ---------------------------------------------------------------- as text


def text_lines(certificate: dict[str, Any]) -> Iterator[str]:
    """The certificate for people, up to 100 columns wide; names from files are part of a line, whatever they hold."""
    yield from map(one_line, _text_lines(certificate))


def _text_lines(certificate: dict[str, Any]) -> Iterator[str]:
    model, source, proof = certificate["model"], certificate["source"], certificate["proof"]
    compared = certificate["comparison"]
    yield "Certificate of equality"
    yield "======================="
    yield from _wrap("", f"{certificate['proves']}.")
    yield ""
    yield from _wrap("model", f"{model['file']}, SHA-256 {model['sha256']}")
    yield from _wrap("network", f"content digest {model['content_digest']}")
    yield from _wrap("input", model["input"])
    yield from _wrap("source", f"{source['file']} (format {source['format']}), SHA-256 {source['sha256']}")
    if not source["is_what_the_model_was_made_from"]:
        yield from _wrap("", "not byte for byte the file that the model was made from")
    yield from _wrap("options", json.dumps(source["options"]))
    for what, value, origin in source["assumptions"]:
        yield from _wrap("assumed", f"{what}: {value} (from: {origin})")
    for line in source["reading"]:
        yield from _wrap("reading", line)
    versions = ", ".join(f"{name} {value}" for name, value in certificate["versions"].items() if value is not None)
    yield from _wrap("versions", versions)
    yield from _wrap("date", certificate["date"])
    yield ""
    yield f"Proof: {proof['weights']:,} weights and {proof['values']:,} values compared, {proof['differences']} differences"
    for layer in proof["layers"]:
        yield from _wrap(
            f"  {layer['name']}",
            f"{layer['kind']}, {layer['neurons']} neurons: {layer['weights']:,} weights; {layer['values']:,} values each "
            f"({layer['method']}), {layer['compared']:,} in all; {layer['flipped']} stored negated, {layer['never']} never and "
            f"{layer['always']} always fire; {layer['ties']} ties; {layer['differences']} differences",
        )
    yield ""
    yield from _wrap(
        "Compared on",
        f"{compared['rows']} samples ({compared['data']}), every bit of every layer and every score: "
        f"{compared['differing_rows']} samples differ, {compared['differing_predictions']} predictions differ, "
        f"{compared['rows_with_ties']} not compared because of an exact 0 before a sign",
    )
    if certificate["sensitivity"]:
        yield ""
        yield from sensitivity_lines(certificate["sensitivity"])
    if certificate["framework"]:
        yield ""
        yield from _wrap("Framework", Agreement.from_json(certificate["framework"]).text())
    if certificate["expected"]:
        yield ""
        yield from _wrap("Expected", Agreement.from_json(certificate["expected"]).text())
    yield ""
    yield from _wrap("digest", certificate["digest"])


def _wrap(label: str, text: str) -> list[str]:
    label, text = one_line(label), one_line(text)
    indent = " " * 14
    first = f"{label:<13} " if label else ""
    return textwrap.wrap(text, 100, initial_indent=first, subsequent_indent=indent if label else "", break_on_hyphens=False)


def _wrap_item(text: str) -> list[str]:
    return textwrap.wrap(one_line(text), 110, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def sensitivity_lines(found: dict[str, Any]) -> Iterator[str]:
    """What the conversion depends on, in words."""
    yield "Sensitivity"
    for layer in found["layers"]:
        zeros = "sums are real numbers"
        if layer["neurons_with_zero"] is not None:
            zeros = (
                f"{layer['neurons_with_zero']} neurons can reach exactly 0 before the sign, at {layer['sums_with_zero']} sums"
            )
        yield f"  {layer['name']}: {layer['latents_zero']} latents are 0, {layer['latents_close']} within 2^-24 of it; {zeros}"
    for other in found["alternatives"]:
        what = f"{other['what']} {other['value']}: "
        if other["impossible"] is not None:
            yield from _wrap_item(what + f"not possible: {other['impossible']}")
            continue
        changed = other["changed_predictions"]
        on_data = "" if changed is None else f", {changed} of {found['rows']} predictions change"
        yield from _wrap_item(
            f"{what}{other['weight_bits']} weights, {other['thresholds']} thresholds and {other['head_values']} values of the "
            f"head differ{on_data}"
        )

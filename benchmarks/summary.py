"""One table of both kinds of machine, from committed results: `python -m benchmarks.summary` puts it into docs/results.md.

    python -m benchmarks.table --output benchmarks/results/avx512
    python -m benchmarks.table --isa avx2 --output benchmarks/results/avx2

A column has the times and ratios of one machine and one run; no ratio mixes two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.convolution_cases import LAYERS
from benchmarks.networks import REFERENCE
from benchmarks.openvino_binary import OPENVINO

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- from here on written by python -m benchmarks.summary -->", "<!-- up to here -->"

#: Kind of machine -> its results, those that are there.
KINDS = {"AVX-512": "avx512.json", "AVX2": "avx2.json"}
_NETWORK = "-".join(map(str, REFERENCE))
#: What a line says -> how the rows begin that it is of.
LINES = {
    f"{_NETWORK}, batch 256": f"{_NETWORK}, batch 256, 1 thread",
    f"{_NETWORK}, batch 1": f"{_NETWORK}, batch 1, 1 thread",
    "hidden layer 4096x4096, 256 rows": "hidden layer 4096x4096, 256 rows",
    "VGG-small, batch 64": "VGG-small, batch 64, 1 thread",
    "VGG-small, batch 1": "VGG-small, batch 1, 1 thread",
    **{f"3x3, {channels} channels, {size}x{size}": f"3x3, {channels} channels, {size}x{size} (" for channels, size in LAYERS},
}


def table(folder: Path) -> list[str]:
    """Lines of Markdown: time of a sample on one thread, and against the fastest float32 and OpenVINO's binary convolution."""
    found = {kind: json.loads((folder / name).read_text("utf-8")) for kind, name in KINDS.items() if (folder / name).is_file()}
    heads = [f"{kind}, {results['environment']['cpu']} | float32 | OpenVINO, binary" for kind, results in found.items()]
    lines = [f"| one thread | {' | '.join(heads)} |", f"|---|{'---|' * 3 * len(heads)}"]
    for label, what in LINES.items():
        cells = [cell for results in found.values() for cell in _cells(results["rows"], what)]
        if any(cells):
            lines.append(f"| {' | '.join([label, *cells])} |")
    dates = ", ".join(f"{kind} on {results['environment']['date'][:10]}" for kind, results in found.items())
    return [*lines, "", f"Measured: {dates}; the fastest of all float32 libraries that were there."]


def _cells(rows: list[dict[str, Any]], what: str) -> tuple[str, str, str]:
    mine = [row for row in rows if row["what"].startswith(what) and row["ours"] and row["theirs"]]
    floats = [row for row in mine if "float32" in row["peer"]]
    if not floats:
        return "", "", ""
    fastest = min(floats, key=lambda row: row["theirs"]["median"])
    binary = next((row for row in mine if row["peer"] == OPENVINO), None)
    return _time(fastest), f"**{_ratio(fastest)}**", "" if binary is None else _ratio(binary)


def _time(row: dict[str, Any]) -> str:
    seconds = row["ours"]["median"] / row["samples"]
    return f"{1e6 * seconds:.3g} us" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms"


def _ratio(row: dict[str, Any]) -> str:
    least, middle, most = row["ratio"]
    return f"{least:.2g} to {most:.2g} x" if row["unstable"] else f"{middle:.2g} x"


def written(text: str, folder: Path) -> str:
    """The document with the table of these results in its place."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, "the document has no place for the table"
    return "\n".join([before + BEGIN, "", *table(folder), "", END + after])


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text("utf-8"), Path(__file__).parent / "results"), "utf-8")

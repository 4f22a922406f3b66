"""What docs/microcontrollers.md says that a network takes, compiled again where the compilers are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

TABLE = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in (ROOT / "docs" / "microcontrollers.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `mnist-")
]


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import extracted

    return extracted


def test_the_stack_is_that_of_the_deepest_calls(extracted: Any) -> None:
    graph = """
node: { title: "start" label: "start\\na.c:1:1\\n8 bytes (static)" }
node: { title: "a.c:one" label: "one\\na.c:2:1\\n100 bytes (static)" }
node: { title: "a.c:two" label: "two\\na.c:3:1\\n16 bytes (static)" }
node: { title: "memset" label: "memset\\n<built-in>" shape : ellipse }
edge: { sourcename: "start" targetname: "a.c:one" label: "a.c:1:5" }
edge: { sourcename: "start" targetname: "a.c:two" label: "a.c:1:6" }
edge: { sourcename: "a.c:two" targetname: "a.c:one" }
edge: { sourcename: "a.c:one" targetname: "memset" }
"""
    assert extracted.deepest(graph) == 8 + 16 + 100


@pytest.mark.parametrize("processor", ["Cortex-M0, M0+", "xtensa LX106 (ESP8266)"])
def test_sizes_are_about_what_the_documents_say(extracted: Any, processor: str, tmp_path: Path) -> None:
    """Other versions of a compiler make other code; constants are ours."""
    tool = extracted.PROCESSORS[processor][0]
    if shutil.which(f"{tool}-gcc") is None:
        pytest.skip(f"there is no {tool}-gcc")
    (row,) = (row for row in TABLE if row[:2] == ["`mnist-conv`", processor])
    source = extracted.write(tmp_path, "mnist-conv", extracted.PROGRAM)
    code, constants, stack = (size / 1024 for size in extracted.measure(source, processor, "-O2"))
    place = 3 + extracted.LEVELS.index("-O2")
    assert constants == pytest.approx(float(row[2]), abs=0.5)
    assert code == pytest.approx(float(row[place]), rel=0.5)
    assert stack == pytest.approx(float(row[place + len(extracted.LEVELS)]), rel=0.3)


def test_every_processor_has_its_rows(extracted: Any) -> None:
    names = [f"`{name}`" for name in extracted.shipped.names()]
    assert [row[:2] for row in TABLE if len(row) > 5] == [[name, one] for name in names for one in extracted.PROCESSORS]

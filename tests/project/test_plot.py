from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from networks import INPUTS, random_network

from xnorinfer.errors import MissingExtraError, OptionError
from xnorinfer.packing.lower import lower
from xnorinfer.speed.benchmark import bench
from xnorinfer.speed.plot import draw, require_drawable


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_report_is_drawn(tmp_path: Path, suffix: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    packed = lower(random_network(1, [16, 30, 4], INPUTS["range"])).packed
    path = tmp_path / f"times{suffix}"
    report = bench(packed, (1, 8), (1,), seconds=0.01)
    wild = replace(report.cases[1].packed, high=1.0)
    draw(replace(report, cases=(report.cases[0], replace(report.cases[1], packed=wild))), path)
    assert path.read_bytes().startswith(magic)


def test_other_file_types_are_refused() -> None:
    with pytest.raises(OptionError, match=r"--plot times\.txt: ends in \.txt; needed is one of \.png, \.svg, \.pdf"):
        require_drawable(Path("times.txt"))


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        MissingExtraError, match=r"drawing a benchmark needs the package matplotlib: pip install 'xnorinfer\[bench\]'"
    ):
        require_drawable(Path("times.png"))

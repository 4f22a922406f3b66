"""The table of the benchmarks: what its rows say, and its files."""

from __future__ import annotations

import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from xnorinfer.speed.timing import Timing


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("threadpoolctl")
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import table

    return table


def timing(low: float, median: float, high: float) -> Timing:
    return Timing(median, low, high, median, high, low, 5, 100)


def test_rows_have_spreads_and_no_ratio_where_they_are_unstable(table: Any) -> None:
    row = table.Row("a layer", "a peer", timing(2e-3, 2e-3, 2e-3), timing(5e-3, 6e-3, 7e-3), 100)
    assert row.text() == "| a layer | 20.00 us | +-0% | a peer | 60.00 us | +-17% | 3.00 x |"
    assert table.Row("start", value=1.5, unit="s").text() == "| start | | | | | | 1.50 s |"
    wild = replace(row, theirs=timing(1e-3, 6e-3, 9e-3))
    assert wild.text().endswith("| unstable: 0.50 to 4.50 x |")
    assert wild.to_json()["unstable"]
    assert replace(row, inverted=True).ratio == pytest.approx((2 / 7, 2 / 6, 2 / 5))


def test_the_default_is_part_of_all(table: Any) -> None:
    for section in table.SECTIONS.values():
        assert 1 <= len(list(section(False))) <= len(list(section(True)))
    assert len(list(table.networks(False))) < len(list(table.networks(True)))


def test_one_section_in_text_json_and_picture(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "NETWORKS", {(70, 90, 10): (3,)})
    monkeypatch.setattr(table, "usable_cores", lambda: 1)
    monkeypatch.setattr(table.peers, "_PEERS", dict(itertools.islice(table.peers._PEERS.items(), 1)))
    place = tmp_path / "here.now"
    monkeypatch.setattr(sys, "argv", ["table", "--only", "networks", "--seconds", "0.01", "--output", str(place)])
    table.main()
    shown = capsys.readouterr().out
    assert "| 70-90-10, batch 3, 1 thread | " in shown
    assert (tmp_path / "here.now.md").read_text() == shown
    written = json.loads((tmp_path / "here.now.json").read_text())
    assert written["rows"][0]["what"] == "70-90-10, batch 3, 1 thread"
    assert {"cpu", "date", "numpy", "peers"} <= written["environment"].keys()
    assert (tmp_path / "here.now.png").read_bytes().startswith(b"\x89PNG")


def test_the_overview_is_drawn_from_the_committed_results(table: Any, tmp_path: Path) -> None:
    """Every word and number of the picture; how matplotlib draws them may change."""
    from benchmarks import overview

    drawn, committed = tmp_path / "overview.svg", ROOT / "docs" / "overview.svg"
    overview.draw(drawn)
    words = [re.findall(r"<text [^>]*>([^<]*)<", path.read_text(encoding="utf-8")) for path in (drawn, committed)]
    assert words[0] == words[1]
    assert "6.88 us" in words[0]
    assert committed.stat().st_size < 30_000

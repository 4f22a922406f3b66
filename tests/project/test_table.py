"""The table of the benchmarks: what its rows say, and its files."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from xnorinfer import kernels
from xnorinfer.kernels import native
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


def test_the_overview_is_drawn_from_another_run(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not measured there has no bar."""
    from benchmarks import overview

    found = json.loads(overview.INSTALLED.read_text(encoding="utf-8"))
    found["rows"] = [row | {"ours": 1e-3} for row in found["rows"] if "NumKong" not in row["peer"] and row.get("ours")]
    (tmp_path / "here.json").write_text(json.dumps(found))
    monkeypatch.setattr(sys, "argv", ["overview", "-o", str(tmp_path / "o.svg"), "--results", str(tmp_path / "here.json")])
    overview.main()
    words = re.findall(r"<text [^>]*>([^<]*)<", (tmp_path / "o.svg").read_text(encoding="utf-8"))
    assert words.count("1000 us") == 3
    assert not {"1 bit NumKong", "the same with AVX-512", "6.88 us"} & {*words}


def test_every_library_is_held_before_it_is_loaded(table: Any) -> None:
    """Also numpy and BLAS, which the parent has loaded; whoever does not obey is named."""
    from benchmarks import instructions

    code = "import sys; from benchmarks import instructions; print(*instructions.hold(sys.argv[1]), sep='\\n')"
    for isa, kernel in (("avx2", "avx2"), ("x86-64", "portable")):
        if platform.machine() not in ("x86_64", "AMD64") or (isa == "avx2" and "avx2" not in native.features()):
            pytest.skip("this machine has less itself")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **instructions.switches(isa)}
        done = subprocess.run([sys.executable, "-c", code, isa], env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.startswith(f"held to {isa}: xnorinfer to {kernel} ("), done.stderr
        assert "onnxruntime is left out" in done.stdout


def test_a_library_that_does_not_obey_is_named(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import instructions

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(instructions, "_imported", lambda name: None)
    monkeypatch.setattr(instructions, "threadpool_info", lambda: [{"user_api": "blas", "architecture": "SkylakeX"}])
    monkeypatch.setattr(instructions, "_numpy_found", list)
    with pytest.raises(RuntimeError, match=r"not held to avx2: .*BLAS uses SkylakeX"):
        instructions.hold("avx2")


def test_the_summary_has_a_column_for_each_kind_of_machine(table: Any, tmp_path: Path) -> None:
    from benchmarks import summary

    slow, fast = timing(2e-3, 2e-3, 2e-3), timing(1e-3, 1e-3, 1e-3)
    what = "3x3, 64 channels, 56x56 (avx2)"
    rows = [
        table.Row(what, "torch float32", fast, timing(3e-3, 3e-3, 3e-3)),
        table.Row(what, "numpy float32", fast, slow),
        table.Row(what, table.OPENVINO, fast, timing(1e-3, 2e-3, 4e-3)),
        table.Row("start", value=1, unit="s"),
    ]
    results = {"environment": {"cpu": "A CPU", "date": "2026-01-02T"}, "rows": [row.to_json() for row in rows]}
    (tmp_path / "avx2.json").write_text(json.dumps(results))
    lines = summary.table(tmp_path)
    assert lines[0] == "| one thread | AVX2, A CPU | float32 | OpenVINO, binary |"
    assert lines[2] == "| 3x3, 64 channels, 56x56 | 1 ms | **2 x** | 1 to 4 x |"
    assert "AVX2 on 2026-01-02" in lines[-1]
    committed = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    again = summary.written(summary.written(committed, tmp_path), tmp_path)
    assert again.count(lines[2]) == 1
    assert again.partition(summary.END)[2] == committed.partition(summary.END)[2]
    if any((ROOT / "benchmarks" / "results" / name).is_file() for name in summary.KINDS.values()):
        assert summary.written(committed, ROOT / "benchmarks" / "results") == committed


@pytest.mark.long
def test_the_roofline_finds_the_loop_of_every_tile(table: Any) -> None:
    from benchmarks import roofline

    for kernel in kernels.usable():
        assert roofline.hot_loop(kernel).total() > 10

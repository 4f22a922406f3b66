"""Random graphs of ONNX give ONNX Runtime's scores, but where a sign is taken of what is 0 but for rounding."""

from __future__ import annotations

from pathlib import Path

import onnx_graphs
import pytest


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_every_difference_is_a_tie(seed: int, ties: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    assert not list(onnx_graphs.differences(seed, tmp_path, ties=ties))

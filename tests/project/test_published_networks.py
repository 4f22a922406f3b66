"""The published networks of the benchmarks, on small images: packed they give the reference's numbers, and peers run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from places import ROOT

from xnorinfer.engine.buffers import most_alive
from xnorinfer.engine.passes import apart, lives_of
from xnorinfer.engine.plan import Plan


@pytest.fixture
def branches(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import branches

    return branches


@pytest.mark.parametrize("name", ["QuickNet", "BinaryResNetE-18", "Bi-RealNet-18", "BinaryDenseNet-28", "ReActNet-A"])
def test_packed_it_is_the_network(branches: Any, name: str) -> None:
    case = branches.Case.of(name, 32)
    assert case.differences == 0
    assert case.text().endswith(" 0 differences")
    assert 0.5 < branches.binary_share(case.net) < 1


@pytest.mark.parametrize("name", ["QuickNet", "BinaryResNetE-18", "Bi-RealNet-18", "BinaryDenseNet-28", "ReActNet-A"])
def test_memory_is_what_the_fullest_moment_needs(branches: Any, name: str) -> None:
    """At most 1.3 times that of nodes one after the other."""
    packed = branches.Case.of(name, 32).packed
    plan = Plan(packed, threads=1)
    lives = lives_of(packed, apart(packed), [value.nbytes * plan._block for value in packed.values])
    assert plan._buffers_bytes <= 1.3 * most_alive(list(lives.values()))


def test_all_are_named(branches: Any) -> None:
    assert len(branches.NETWORKS) == 5


def test_peers_compute_the_same(branches: Any) -> None:
    pytest.importorskip("onnxruntime")
    found = branches.times(branches.Case.of("QuickNet", 32), 1, 0.01)
    assert set(found) == {"xnorinfer", branches.FLOAT, branches.INT8}


@pytest.mark.parametrize("name", ["QuickNet", "BinaryResNetE-18", "Bi-RealNet-18", "BinaryDenseNet-28", "ReActNet-A"])
def test_both_ends_are_those_of_the_network(branches: Any, name: str) -> None:
    pytest.importorskip("onnxruntime")
    case = branches.Case.of(name, 32)
    stem, head = branches.ends_of(case.packed).values()
    last = len(case.packed.nodes) - len(head.nodes) - 1
    assert stem.values[-1] == case.packed.values[len(stem.nodes) - 1]
    assert head.shape == case.packed.values[last].shape
    assert head.values[-1] == case.packed.values[-1]
    for line in list(branches.end_lines(case, 0.01))[2:]:
        assert line.startswith(("| stem |", "| head |"))


def test_eight_bits_reach_the_scores(branches: Any) -> None:
    """Values do not fade on the way, nor stand at an end of their range."""
    pytest.importorskip("onnxruntime")
    from benchmarks.int8_resnet import int8_resnet18
    from xnorinfer.speed.peers import onnx_session

    x = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), np.uint8)
    (scores,) = onnx_session(int8_resnet18(64), 1).run(None, {"x": x})
    assert scores.shape == (1, 1000)
    assert scores.std() > 1

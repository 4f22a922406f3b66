"""The benchmark: its float network computes what the packed network computes, and wrong answers do not pass for rounding."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from networks import INPUTS, random_inputs, random_network
from numpy.typing import NDArray

from xnorinfer import benchmark as bench
from xnorinfer.errors import MissingExtraError
from xnorinfer.net.reference import forward
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Affine, PackedModel


def network(name: str, seed: int = 0, tail: bool = False) -> tuple[PackedModel, NDArray[Any], NDArray[np.int64]]:
    """A random packed network, inputs, and the reference's classes."""
    net = random_network(seed, [50, 130, 70, 10], INPUTS[name], float_tail=tail)
    x = random_inputs(np.random.default_rng(seed), net.input, 120, 50)
    return lower(net).packed, x, forward(net, x).argmax(axis=1)


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_exact_float_network_equals_the_reference(name: str, tail: bool) -> None:
    for seed in range(3):
        packed, x, classes = network(name, seed, tail)
        assert (bench.exact_predict(packed, x) == classes).all()


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_float32_network_equals_the_reference_but_for_rounding(name: str, tail: bool) -> None:
    packed, x, classes = network(name, tail=tail)
    float_network = bench.FloatNetwork(packed, len(x))
    predicted = float_network.predict(x)
    assert predicted.dtype == np.int64
    differences = int((predicted != classes).sum())
    # Bits and thresholded pixels give small integers, which float32 sums exactly; the others round now and then.
    assert differences <= (0 if name in ("signs", "threshold") and not tail else 3)
    assert (float_network.predict(x) == predicted).all()


@pytest.mark.parametrize("name", ["range", "inverted", "reals"])
def test_inputs_that_are_binarized_one_by_one(name: str) -> None:
    net = random_network(3, [50, 130, 10], INPUTS[name], binarize_input=True)
    packed, x = lower(net).packed, random_inputs(np.random.default_rng(3), net.input, 120, 50)
    classes = forward(net, x).argmax(axis=1)
    assert packed.binarize is not None
    assert (bench.exact_predict(packed, x) == classes).all()
    assert (bench.FloatNetwork(packed, len(x)).predict(x) == classes).mean() > 0.97


def test_report() -> None:
    pytest.importorskip("threadpoolctl")
    packed, _, _ = network("range")
    seen: list[tuple[str, int, int]] = []
    report = bench.bench(packed, [1, 33], [1], seconds=0.01, name="m", progress=lambda *what: seen.append(what))
    assert [(case.batch, case.threads, case.rows_compared) for case in report.cases] == [(1, 1, 64), (33, 1, 66)]
    assert report.holds
    assert seen[-1] == ("measuring", 2, 2)
    for case in report.cases:
        assert case.rounds >= bench.FEWEST_ROUNDS
        for timing in (case.packed, case.float32):
            assert 0 < timing.low <= timing.median <= timing.high
        assert case.speedup == case.float32.median / case.packed.median
    written = json.loads(json.dumps(report.to_json()))
    assert written["holds"] is True
    assert written["cases"][1]["batch"] == 33
    assert written["environment"]["usable_cores"] >= 1


def test_a_wrong_answer_is_not_called_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _, _ = network("range")
    head = packed.layers[-1].op
    assert isinstance(head.output, Affine)
    # A float network whose classes are the packed ones, turned by one.
    real = bench.FloatNetwork.predict
    monkeypatch.setattr(bench.FloatNetwork, "predict", lambda self, x: (real(self, x) + 1) % 10)
    monkeypatch.setattr(bench, "exact_predict", lambda packed, x: np.full(len(x), -1))
    report = bench.bench(packed, [8], None, seconds=0.01)
    assert not report.holds
    assert report.cases[0].differences == 64
    assert report.cases[0].unexplained == 64
    assert replace(report.cases[0], unexplained=0).differences == 64


def test_without_threadpoolctl(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _, _ = network("threshold")
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(MissingExtraError, match=r"xnorinfer\[bench\]"):
        bench.bench(packed, [1], [1])
    report = bench.bench(packed, [4], None, seconds=0.01)
    assert {case.threads for case in report.cases} == {bench.usable_cores()}
    assert "threadpoolctl is not installed" in report.remarks[0]


@pytest.mark.parametrize("name", INPUTS)
def test_random_inputs_fit_the_network(name: str) -> None:
    from xnorinfer.engine.model import canonical_input

    packed, _, _ = network(name)
    x = bench.random_inputs(packed, 7, 1)
    assert canonical_input(packed, x).shape == (7, 50)
    assert (x == bench.random_inputs(packed, 7, 1)).all()

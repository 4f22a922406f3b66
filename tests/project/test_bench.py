"""The benchmark: its float network computes what the packed network computes, and wrong answers do not pass for rounding."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import packed_networks
import packed_oracle
import pytest
from branching_networks import random_branching_network
from networks import INPUTS, random_inputs, random_network
from numpy.typing import NDArray

from xnorinfer.cli.bench import _faster, _side
from xnorinfer.cli.layerlist import rate_text
from xnorinfer.errors import MissingExtraError
from xnorinfer.net.reference import forward
from xnorinfer.net.values import ChannelInput
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Affine, PackedModel
from xnorinfer.speed import benchmark as bench
from xnorinfer.speed import floatnetwork, peers
from xnorinfer.speed.layertimes import NodeTime
from xnorinfer.speed.timing import FEWEST_ROUNDS, Timing


def network(name: str, seed: int = 0, tail: bool = False) -> tuple[PackedModel, NDArray[Any], NDArray[np.int64]]:
    """A random packed network, inputs, and the reference's classes."""
    net = random_network(seed, [50, 130, 70, 10], INPUTS[name], float_tail=tail, awkward=name != "reals")
    x = random_inputs(np.random.default_rng(seed), net.input, 120, 50)
    return lower(net).packed, x, forward(net, x).argmax(axis=1)


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_exact_float_network_equals_the_reference(name: str, tail: bool) -> None:
    for seed in range(3):
        packed, x, classes = network(name, seed, tail)
        assert (floatnetwork.exact_predict(packed, x) == classes).all()


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_float32_network_equals_the_reference_but_for_rounding(name: str, tail: bool) -> None:
    packed, x, classes = network(name, tail=tail)
    float_network = floatnetwork.FloatNetwork(packed, len(x))
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
    assert (floatnetwork.exact_predict(packed, x) == classes).all()
    assert (floatnetwork.FloatNetwork(packed, len(x)).predict(x) == classes).mean() > 0.97


def test_report() -> None:
    pytest.importorskip("threadpoolctl")
    packed, _, _ = network("range")
    seen: list[tuple[str, int, int]] = []
    report = bench.bench(packed, [1, 33], [1], seconds=0.01, name="m", progress=lambda *what: seen.append(what))
    assert [(case.batch, case.threads, case.rows_compared) for case in report.cases] == [(1, 1, 64), (33, 1, 66)]
    assert report.holds
    assert seen[-1] == ("measuring", 2, 2)
    for case in report.cases:
        for timing in (case.packed, case.baseline.timing):
            assert 0 < timing.low <= timing.median <= timing.high
            assert 0 < timing.p50 <= timing.p99
            assert timing.calls >= timing.rounds >= FEWEST_ROUNDS
        assert [(side.name, side.threads) for side in case.sides] == [("numpy float32", 1)]
    written = json.loads(json.dumps(report.to_json()))
    assert written["holds"] is True
    assert written["cases"][1]["batch"] == 33
    assert written["environment"]["usable_cores"] >= 1


def timing(low: float, median: float, high: float) -> Timing:
    return Timing(median, low, high, median, high, low, 5, 100)


def test_quartiles_are_of_rounds_and_percentiles_of_calls() -> None:
    calls = np.concatenate([np.full(98, 1.0), [7.0, 9.0]])
    found = Timing.of([calls, calls, calls + 1, calls + 1, calls + 4])
    assert (found.low, found.median, found.high) == pytest.approx((1.14, 2.14, 2.14))
    assert (found.p50, found.calls, found.rounds) == (2.0, 500, 5)
    assert found.least == pytest.approx(1.14)
    assert found.p99 == 9
    assert found.spread == pytest.approx(0.5 / 2.14)
    assert not found.unstable


def test_an_unstable_side_has_a_range_and_no_ratio() -> None:
    calm, wild = timing(0.9, 1, 1.1), timing(8, 10, 13.2)
    assert (calm.unstable, wild.unstable) == (False, True)
    for packed, other in ((calm, wild), (wild, calm), (wild, wild)):
        case = bench.Case(1, 1, packed, (bench.Side("numpy float32", 1, other, 0),), 64, 0, 0)
        assert case.speedup is None
        assert case.range_over(case.baseline) == (other.low / packed.high, other.high / packed.low)
        assert json.loads(json.dumps(case.to_json()))["speedup"] is None
        assert _faster(case, case.baseline).startswith("unstable: ")
    assert _faster(replace(case, packed=calm), bench.Side("a", 1, timing(5.9, 6, 6.1), 0)) == "6.0 x"


def test_the_baseline_is_the_fastest_side_that_computes_the_network() -> None:
    sides = [bench.Side(str(t), threads, timing(t, t, t), d) for t, threads, d in ((9, 2, 0), (3, 1, 6), (1, 2, 7))]
    case = bench.Case(1, 2, timing(1, 1, 1), tuple(sides), 64, 7, 0)
    assert (case.baseline.name, case.speedup, _side(case.baseline, 2)) == ("3", 3.0, "3, 1 thread")
    assert replace(case, sides=tuple(sides[2:])).baseline.name == "1"


def test_several_threads_of_numpy_are_held_against_one() -> None:
    pytest.importorskip("threadpoolctl")
    packed, _, _ = network("threshold")
    (case,) = bench.bench(packed, [4], [2], seconds=0.01).cases
    assert [(side.name, side.threads) for side in case.sides] == [("numpy float32", 2), ("numpy float32", 1)]
    assert case.threads == 2


@pytest.mark.parametrize("name", ["range", "threshold", "reals"])
def test_every_layer_is_timed_by_itself(name: str) -> None:
    pytest.importorskip("threadpoolctl")
    packed, _, _ = network(name)
    report = bench.bench(packed, [3], [1], seconds=0.01, layers=True)
    (found,) = report.profiles
    assert [node.name for node in found.nodes] == [node.name for node in packed.nodes]
    assert [node.gives for node in found.nodes] == [f"{value.width} {value.kind}" for value in packed.values]
    assert [node.operations for node in found.nodes[-3:]] == [2 * 3 * n for n in (50 * 130, 130 * 70, 70 * 10)]
    assert sum(found.share(node) for node in found.nodes) == pytest.approx(1)
    assert all(node.rate == node.operations / node.timing.median > 0 for node in found.nodes)
    (written,) = json.loads(json.dumps(report.to_json()))["profiles"]
    assert [node["share"] for node in written["nodes"]] == [found.share(node) for node in found.nodes]
    assert written["whole"]["median"] > 0


@pytest.mark.parametrize("binarize", [False, True])
@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_every_peer_computes_the_network(name: str, tail: bool, binarize: bool) -> None:
    if binarize and name in ("signs", "threshold"):
        pytest.skip("such inputs are bits already")
    net = random_network(4, [50, 130, 70, 10], INPUTS[name], float_tail=tail, binarize_input=binarize)
    packed, x = lower(net).packed, random_inputs(np.random.default_rng(4), net.input, 60, 50)
    scores = forward(net, x)
    for peer in peers.peers(packed, len(x), 1):
        with peer.around():
            found = peer.scores(x)
            assert (peer.predict(x) == found.argmax(axis=1)).all()
        assert (found.shape, found.dtype) == (scores.shape, np.float32)
        close = np.isclose(found, scores, rtol=1e-4, atol=1e-4 * np.abs(scores).max()).all(axis=1)
        # Sums of reals are rounded, now and then across a threshold; all others are integers.
        assert (~close).sum() <= (3 if name == "reals" else 0), peer.name


@pytest.mark.parametrize("mapping", ["range", "channels", "threshold", "signs", "reals"])
def test_networks_of_maps(mapping: str) -> None:
    """Float networks, exact ones and every peer give the classes of random convolutional networks."""
    channels = ChannelInput.normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    for seed in range(6):
        rng = np.random.default_rng(seed)
        packed = packed_networks.random_maps(
            rng, channels if mapping == "channels" else INPUTS[mapping], (7, 5, 3), 1 + seed % 3
        )
        x = packed_networks.random_rows(rng, packed, 16)
        classes = floatnetwork.classes_of(packed_oracle.expected(packed, x)[-1].reshape(16, *packed.values[-1].shape))
        np.testing.assert_array_equal(floatnetwork.exact_predict(packed, x), classes)
        # Sums of reals are rounded, now and then across a threshold or from one class to another.
        assert (floatnetwork.FloatNetwork(packed, 16).predict(x) != classes).mean() < 0.1
        for peer in peers.peers(packed, 16, 1):
            assert (peer.predict(x) != classes).mean() < 0.1, peer.name


@pytest.mark.parametrize("seed", range(8))
def test_networks_that_branch(seed: int) -> None:
    """The same, sums of two values and values side by side among them; and every node is timed with all that it reads."""
    kind = ("range", "reals", "signs", "threshold")[seed % 4]
    packed = lower(random_branching_network(500 + seed, INPUTS[kind], awkward=False, falling=False, moves=seed > 3)).packed
    x = packed_networks.random_rows(np.random.default_rng(seed), packed, 24)
    classes = floatnetwork.classes_of(packed_oracle.expected(packed, x)[-1].reshape(24, *packed.values[-1].shape))
    # Float layers round now and then otherwise than the order of the network says.
    assert (floatnetwork.exact_predict(packed, x) != classes).mean() < 0.1
    assert (floatnetwork.FloatNetwork(packed, 24).predict(x) != classes).mean() < 0.2
    for peer in peers.peers(packed, 24, 1):
        assert (peer.predict(x) != classes).mean() < 0.2, peer.name
    (found,) = bench.bench(packed, [3], [1], seconds=0.01, layers=True).profiles if seed < 2 else (None,)
    assert found is None or [node.name for node in found.nodes] == [node.name for node in packed.nodes]


@pytest.mark.parametrize("installed", [True, False])
def test_convolutions_are_compared_with_torch_where_it_is(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("threadpoolctl")
    if installed:
        pytest.importorskip("torch")
    else:
        monkeypatch.setitem(sys.modules, "torch", None)
    packed = packed_networks.random_maps(np.random.default_rng(2), INPUTS["threshold"], (7, 5, 3), 2)
    report = bench.bench(packed, [3], [1], seconds=0.01, layers=True)
    assert [side.name for side in report.cases[0].sides] == ["numpy float32", *(["torch float32"] if installed else [])]
    assert any("gathered windows (im2col) alone" in remark for remark in report.remarks) != installed
    assert report.holds
    assert [node.operations % 3 for node in report.profiles[0].nodes] == [0] * len(packed.nodes)


def test_a_report_with_peers_names_all_and_those_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("threadpoolctl")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    packed, _, _ = network("range")
    report = bench.bench(packed, [3], [1], seconds=0.01, peers=True)
    assert re.search("onnxruntime int8 is left out: (onnx, )?onnxruntime cannot be imported", "; ".join(report.remarks))
    names = [side.name for side in report.cases[0].sides]
    assert names[0] == "numpy float32"
    assert not any("onnxruntime" in name for name in names)
    assert ("torch" in report.environment["peers"]) == ("torch float32" in names)
    assert report.holds
    assert all(side.differences <= 3 for side in report.cases[0].sides)


def test_peers_get_as_many_threads_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("threadpoolctl")
    torch = pytest.importorskip("torch")
    for name in ("onnx", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    before = torch.get_num_threads()
    packed, _, _ = network("range")
    (case,) = bench.bench(packed, [2], [2], seconds=0.01, peers=True).cases
    counted = [(side.name.split()[0], side.threads) for side in case.sides]
    assert counted == [("numpy", 2), ("numpy", 1), ("torch", 2), ("torch", 1)]
    assert torch.get_num_threads() == before


def test_an_unstable_layer_has_norate_text() -> None:
    node = NodeTime("a", "8 bits", "4 bits", 3_000_000_000, timing(0.9e-3, 1e-3, 1.1e-3))
    assert rate_text(node) == "3 T"
    assert rate_text(replace(node, timing=timing(0.5e-3, 1e-3, 1.1e-3))) == "unstable"


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

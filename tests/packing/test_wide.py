"""Numbers for each feature of a flattened map: BatchNorm by pixel and channel, with a sign or without one behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import packed_oracle
import pytest
from networks import random_inputs
from wide_networks import BETWEEN, MAPPINGS, network

from xnorinfer.engine.model import Model
from xnorinfer.engine.plan import Plan
from xnorinfer.net.reference import forward
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower, stored_form
from xnorinfer.packing.packed import Binarize, Concat, Elementwise
from xnorinfer.proof.layerproofs import prove_parts
from xnorinfer.speed.floatnetwork import FloatNetwork, exact_predict


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("ends", [False, True], ids=["sign", "scores"])
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("kind", MAPPINGS)
def test_each_feature_has_its_own_limit(kind: str, between: str, ends: bool, tmp_path: Path) -> None:
    net = network(MAPPINGS[kind], between, len(kind) + len(between), ends=ends, scalar=len(between) % 2 == 0)
    packed = lower(net).packed
    x = random_inputs(np.random.default_rng(1), net.input, 20, net.depth)
    want = forward(net, x)
    model = Model(packed, threads=1)
    np.testing.assert_array_equal(model.scores(x), want)
    outputs = packed_oracle.expected(packed, x)
    assert all(map(np.array_equal, Plan(packed, threads=2).trace(x), outputs))
    assert not [
        proof.first for proof in prove_parts(packed, stored_form(net), lambda what, done, total: None) if proof.differences
    ]
    modelfile.save(packed, tmp_path / "m.safetensors")
    again = modelfile.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(Model(again).scores(x), want)
    assert [value.shape for value in again.values] == [value.shape for value in packed.values]
    classes = want.argmax(axis=1)
    np.testing.assert_array_equal(exact_predict(packed, x), classes)
    assert (FloatNetwork(packed, 20).predict(x) == classes).mean() > 0.9
    if not (between == "one pixel" or kind in ("signs", "threshold")):
        assert model.margins(x).classes.tolist() == classes.tolist()


def test_what_is_stored_is_a_vector() -> None:
    packed = lower(network(MAPPINGS["range"], "sums", 3)).packed
    _, flatten, sign, head = packed.nodes
    assert isinstance(flatten.op, Concat)
    assert flatten.op.flat
    assert isinstance(sign.op, Binarize)
    assert sign.op.limits.shape == (84,)
    assert [value.shape for value in packed.values] == [(4, 3, 7), (84,), (84,), (5,)]
    assert head.op.window is None  # type: ignore[union-attr]
    ended = lower(network(MAPPINGS["range"], "sums", 3, ends=True)).packed
    assert isinstance(ended.nodes[-1].op, Elementwise)
    assert ended.classes == 84


def test_a_pool_of_one_pixel_stays_fused() -> None:
    packed = lower(network(MAPPINGS["range"], "one pixel", 3)).packed
    assert [type(node.op).__name__ for node in packed.nodes] == ["Dot", "Pool", "Dot"]
    assert packed.values[0].kind == "bits"

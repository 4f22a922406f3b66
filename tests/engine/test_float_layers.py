"""Dense float layers anywhere: first, in the middle, last; their scores are the oracle's on every kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import packed_networks as nets
import pytest
from mixed_networks import KINDS, MAPPINGS, random_mixed_network
from networks import random_inputs
from seeds import seeds

from xnorinfer import kernels
from xnorinfer.engine.model import Model
from xnorinfer.engine.plan import Plan
from xnorinfer.errors import MalformedModelError
from xnorinfer.net.reference import forward
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Binarize, Dot, Threshold

KERNELS = [kernel.name for kernel in kernels.usable()]


@pytest.mark.parametrize("seed", seeds(len(MAPPINGS) * len(KINDS), 200))
def test_every_kernel_gives_the_scores_of_the_oracle(seed: int) -> None:
    net = random_mixed_network(seed)
    packed = lower(net).packed
    x = random_inputs(np.random.default_rng(seed), net.input, 19, net.depth)
    want = forward(net, x)
    for number, kernel in enumerate(KERNELS):
        plan = Plan(packed, threads=1 + (seed + number) % 2, kernel=kernel)
        for rows in (1, 3, 19):
            assert nets.same(plan.run(x[:rows]), want[:rows])
        assert nets.same(plan.trace(x)[-1], want)


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_files_hold_them(seed: int, tmp_path: Path) -> None:
    net = random_mixed_network(len(MAPPINGS) * seed)
    modelfile.save(lower(net).packed, tmp_path / "model")
    model = Model(modelfile.load(tmp_path / "model"), threads=1)
    x = random_inputs(np.random.default_rng(seed), net.input, 19, net.depth)
    assert nets.same(model.scores(x), forward(net, x))
    assert model.margins(x).gaps.shape == (19,)
    assert [layer["kind"] for layer in model.info["layers"] if layer["kind"] == "float"]


def test_layers_of_which_none_is_binary_are_no_model() -> None:
    packed = lower(random_mixed_network(0)).packed
    floats = [node for node in packed.nodes if isinstance(node.op, Dot) and not node.op.binary]
    entry = packed.nodes[0]
    alone = replace(packed, nodes=(entry, replace(floats[0], inputs=(0,))))
    assert alone.check() == ["no layer is binary"]
    with pytest.raises(MalformedModelError, match="no layer is binary"):
        Plan(alone)


def test_a_dense_float_layer_has_no_limits_of_its_own() -> None:
    """A sign behind it compares the numbers that it gives."""
    packed = lower(random_mixed_network(0)).packed
    first, sign = packed.nodes[1], packed.nodes[2]
    assert isinstance(first.op, Dot)
    assert isinstance(sign.op, Binarize)
    limits = Threshold(sign.op.limits)
    nodes = (packed.nodes[0], replace(first, op=replace(first.op, output=limits)), *packed.nodes[2:])
    assert any("a float layer has no threshold" in problem for problem in replace(packed, nodes=nodes).check())

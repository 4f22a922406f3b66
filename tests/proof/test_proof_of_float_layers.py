"""Proofs of networks with dense float layers anywhere: every layer holds, a change of any number is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mixed_networks import KINDS, MAPPINGS, mixed_network, random_mixed_network
from seeds import seeds
from test_proof_of_branches import changed, differences

from xnorinfer.net.ops import Linear
from xnorinfer.packing.lower import lower
from xnorinfer.proof.sensitivity import sensitivity


@pytest.mark.parametrize("seed", seeds(len(MAPPINGS) * len(KINDS), 200))
def test_every_layer_is_proved(seed: int) -> None:
    net = random_mixed_network(seed)
    assert differences(lower(net).packed, net) == []


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_what_is_changed_is_found(seed: int) -> None:
    net = mixed_network(seed, MAPPINGS["normalize"], KINDS[seed])
    packed = lower(net).packed
    for index, node in enumerate(packed.nodes):
        for op in changed(node.op):
            other = replace(packed, nodes=(*packed.nodes[:index], replace(node, op=op), *packed.nodes[index + 1 :]))
            assert other.check() == []
            assert differences(other, net) != [], node.name


@pytest.mark.parametrize("seed", range(0, len(MAPPINGS) * len(KINDS), len(MAPPINGS)))
def test_other_readings_leave_float_weights(seed: int) -> None:
    """What another tie rule, order or epsilon would change is counted over the layers that have bits."""
    net = random_mixed_network(seed)
    found = sensitivity(net, lower(net).packed)
    weights = sum(op.weight.size for _, op in net.linears if op.binary)
    assert all(effect.weight_bits <= weights for effect in found.alternatives)
    names = {node.name for node in net.nodes if isinstance(node.op, Linear) and node.op.binary}
    assert {ties.name for ties in found.layers} == names

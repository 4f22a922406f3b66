"""Proofs of networks that branch: every layer holds, and a change of any of its numbers or of what it reads is found."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from branching_networks import PUBLISHED, random_branching_network
from conv_networks import MAPPINGS
from seeds import seeds

from xnorinfer.engine.model import Model
from xnorinfer.net import Linear, Pad, Pool, Quantize, RealInput, Window
from xnorinfer.net.network import Net
from xnorinfer.packing.lower import lower, stored_form
from xnorinfer.packing.packed import Affine, Binarize, Concat, Dot, Elementwise, Moved, PackedModel
from xnorinfer.proof.equal import _compare, _structure_difference
from xnorinfer.proof.layerproofs import prove_parts
from xnorinfer.proof.sensitivity import sensitivity


def differences(packed: PackedModel, net: Net) -> list[str]:
    stored = stored_form(net)
    structure = _structure_difference(packed, stored)
    if structure is not None:
        return [structure]
    return [proof.first for proof in prove_parts(packed, stored, lambda what, done, total: None) if proof.first]


@pytest.mark.parametrize("seed", seeds(8, 24))
def test_every_layer_is_proved(seed: int) -> None:
    kind = ("range", "threshold", "reals", "channels", "raw", "signs")[seed % 6]
    net = random_branching_network(200 + seed, MAPPINGS[kind], moves=seed % 2 == 1)
    assert differences(lower(net).packed, net) == []


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_kinds_and_what_is_changed_in_them(kind: str) -> None:
    net = PUBLISHED[kind](2, MAPPINGS["range"], (6, 6, 3), 16)
    packed = lower(net).packed
    assert differences(packed, net) == []
    for index, node in enumerate(packed.nodes):
        for op in changed(node.op):
            other = replace(packed, nodes=(*packed.nodes[:index], replace(node, op=op), *packed.nodes[index + 1 :]))
            assert other.check() == []
            assert differences(other, net) != [], node.name
        if len(node.inputs) == 2 and node.inputs[0] != node.inputs[1]:
            swapped = replace(node, inputs=(node.inputs[0], node.inputs[0]))
            other = replace(packed, nodes=(*packed.nodes[:index], swapped, *packed.nodes[index + 1 :]))
            assert other.check() or differences(other, net) != []


@pytest.mark.parametrize("kind", ["bi-real", "quicknet", "real-to-binary", "reactnet", "densenet", "comparison"])
def test_a_number_that_is_one_float_off_is_found(kind: str) -> None:
    comparison = kind == "comparison"  # steps that end in one, of numbers that no layer made
    net = (
        random_branching_network(902, MAPPINGS["reals"]) if comparison else PUBLISHED[kind](2, MAPPINGS["range"], (6, 6, 3), 16)
    )
    packed, tried = lower(net).packed, 0
    for index, node in enumerate(packed.nodes):
        steps = steps_of(node.op)
        for place, step in enumerate(() if steps is None else steps.ops):
            if step != ("step" if comparison else "add"):
                continue
            assert steps is not None
            ends = np.float32([-np.inf, np.inf])
            for neuron, towards in itertools.product(range(0, steps.values.shape[2], 5), ends):
                values = steps.values.copy()
                values[place, 0, neuron] = np.nextafter(values[place, 0, neuron], towards)
                other = replace(node, op=with_steps(node.op, Affine(steps.ops, values)))
                other = replace(packed, nodes=(*packed.nodes[:index], other, *packed.nodes[index + 1 :]))
                if other.check() == []:
                    assert differences(other, net) != [], (node.name, neuron)
                    tried += 1
    assert tried


def steps_of(op: object) -> Affine | None:
    steps = op.steps if isinstance(op, Elementwise) else op.output if isinstance(op, Dot) else None
    return steps if isinstance(steps, Affine) else None


def with_steps(op: object, steps: Affine) -> Dot | Elementwise:
    return replace(op, output=steps) if isinstance(op, Dot) else Elementwise(steps)


def changed(op: object) -> list[Dot | Elementwise | Binarize | Concat | Moved]:
    """The same op with one number otherwise."""
    found: list[Dot | Elementwise | Binarize | Concat | Moved] = []
    if isinstance(op, Moved):
        found.append(replace(op, channels=np.roll(op.channels, 1)))
    steps = steps_of(op)
    if steps is not None and (places := [at for at, step in enumerate(steps.ops) if step in ("mul", "add", "prelu")]):
        values = steps.values.copy()
        values[places[-1], 0, -1] += 1
        found.append(with_steps(op, Affine(steps.ops, values)))
    if isinstance(op, Binarize) and op.limits.dtype == np.float32:
        limits = op.limits.copy()
        limits[0] = np.nextafter(limits[0], np.float32(np.inf))
        found.append(replace(op, limits=limits))
    return found


@pytest.mark.parametrize("pooled", [False, True])
def test_what_torch_sign_has_at_zero_is_a_tie_where_signs_have_codes_of_levels(pooled: bool) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(4, size, size, 4)).astype(np.float32) for size in (1, 3, 1)]
    layers = [
        ("stem", Linear(weights[0], window=Window((1, 1)))),
        ("sign", Quantize("sign")),
        *([("pool", Pool("max", Window((2, 2), (2, 2))))] if pooled else []),
        ("border", Pad((1, 1, 1, 1))),
        ("conv", Linear(weights[1], "ge", window=Window((3, 3)))),
        ("head", Linear(weights[2], window=Window((1, 1)))),
    ]
    net = Net.chain(RealInput(), layers, "torch-sign", (4, 4, 4))
    packed = lower(net).packed
    proofs = list(prove_parts(packed, net, lambda what, done, total: None))
    assert [proof.first for proof in proofs] == [None] * len(packed.nodes)
    assert [proof.name for proof in proofs if proof.ties] == ["sign"]
    x = rng.normal(size=(8, 64)).astype(np.float32)
    x[2] = 0
    result = cast("Any", SimpleNamespace(first_difference=None, differing_rows=0, differing_predictions=0, tie_rows=0, rows=0))
    _compare(result, Model(packed), net, x, lambda what, done, total: None)
    assert (result.first_difference, result.differing_rows, result.tie_rows, result.rows) == (None, 0, 1, 8)


def test_other_assumptions_are_tried() -> None:
    net = PUBLISHED["bi-real"](2, MAPPINGS["range"], (5, 5, 3), 8)
    packed = lower(net).packed
    x = np.random.default_rng(0).integers(0, 256, (5, net.depth), dtype=np.uint8)
    found = sensitivity(net, packed, x)
    assert any(effect.thresholds or effect.head_values for effect in found.alternatives)

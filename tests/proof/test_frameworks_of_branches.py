"""Networks that branch, held against PyTorch: what rounding explains is told, and a wrong network is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from branching_networks import PUBLISHED, random_branching_network
from conv_networks import MAPPINGS
from networks import random_inputs

import xnorinfer
from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Norm
from xnorinfer.net.reference import forward, node_outputs
from xnorinfer.net.values import PixelInput
from xnorinfer.packing.lower import lower
from xnorinfer.proof.agreement import compare
from xnorinfer.proof.alternatives import every
from xnorinfer.proof.answers import Answers
from xnorinfer.proof.elimination import eliminate
from xnorinfer.proof.frameworks.as_read import open_as_read
from xnorinfer.proof.frameworks.rounding import RoundedNet


def test_bounds_hold_around_what_the_network_gives() -> None:
    for seed in range(12):
        mapping = MAPPINGS[("range", "reals", "channels")[seed % 3]]
        net = random_branching_network(600 + seed, mapping, awkward=False, moves=seed % 2 == 1)
        x = random_inputs(np.random.default_rng(seed), net.input, 5, net.depth)
        outputs, scores = RoundedNet(net).exact(x)
        assert all(np.array_equal(a, b) for a, (_, b) in zip(outputs, node_outputs(net, x), strict=True))
        assert (np.abs(outputs[-1].reshape(scores.value.shape) - scores.value) <= scores.error).all()
        first = next(RoundedNet(net).tried(x[:1]))
        assert first.value.shape[1:] == scores.value.shape[1:]


@pytest.mark.parametrize("kind", PUBLISHED)
def test_pytorch_gives_the_same_but_for_rounding(kind: str) -> None:
    pytest.importorskip("torch")
    net = PUBLISHED[kind](3, PixelInput.range(-1, 1), (6, 6, 3), 8)
    x = random_inputs(np.random.default_rng(0), net.input, 12, net.depth)
    answers = open_as_read(net, "torch").answers("net", x)
    assert answers.signs is None
    agreement = compare(answers, net, lower(net).packed)
    # A float stem rounds otherwise, and signs behind shortcuts may turn with it: that is told, and few of them.
    assert agreement.different <= 4
    np.testing.assert_allclose(np.median(np.abs(answers.values - forward(net, x))), 0, atol=1e-3)
    wrong = compare(replace(answers, values=np.roll(answers.values, 1, axis=1)), net, lower(net).packed)
    assert not wrong.holds


def test_a_program_must_give_the_scores_and_not_the_classes_alone() -> None:
    pytest.importorskip("torch")
    net = PUBLISHED["bi-real"](3, PixelInput.range(-1, 1), (6, 6, 3), 8)
    packed = lower(net).packed
    x = random_inputs(np.random.default_rng(0), net.input, 12, net.depth)
    answers = open_as_read(net, "torch").answers("net", x)
    assert answers.run is not None
    program = replace(answers, run=replace(answers.run, program=True))
    assert compare(program, net, packed).holds
    moved = compare(replace(program, values=program.values + 1, inner=None), net, packed)
    assert (moved.different, moved.unexplained, moved.holds) == (0, 12, False)
    users = compare(replace(program, values=program.values + 1, inner=None, run=None), net, packed)
    assert users.holds
    assert users.warning()


def test_assumptions_of_chains_are_not_tried_where_branches_meet() -> None:
    net = PUBLISHED["quicknet"](1, PixelInput.range(-1, 1), (5, 5, 3), 6)
    found = {one.about for one in every(net)}
    assert found >= {"input", "profile", "epsilon"}
    assert not found & {"head", "order", "function"}
    for one in every(net):
        assert isinstance(one.change(net), Net)


def test_a_network_that_branches_is_packed_as_it_is_written_down(tmp_path: object) -> None:
    net = PUBLISHED["reactnet"](1, PixelInput.range(-1, 1), (6, 6, 3), 10)
    x = random_inputs(np.random.default_rng(0), net.input, 4, net.depth)
    model = xnorinfer.pack(net, threads=1)
    np.testing.assert_array_equal(model.scores(x), forward(net, x))
    path = f"{tmp_path}/m.safetensors"
    model.save(path)
    again = xnorinfer.load(path, threads=1)
    np.testing.assert_array_equal(again.scores(x), forward(net, x))
    assert len(again.margins(x).layers) == sum(isinstance(op, Linear) and op.binary for op in net.ops)
    assert sum(isinstance(op, Norm) for op in net.ops) > 5


def test_answers_of_a_network_that_branches_say_what_was_read_otherwise() -> None:
    net = PUBLISHED["densenet"](1, PixelInput.range(-1, 1), (5, 5, 3), 6)
    x = random_inputs(np.random.default_rng(0), net.input, 100, net.depth)
    reading = Reading("onnx", net, (), ())
    truth = replace(net, input=PixelInput.range(0, 1))
    found = eliminate(Answers.of(x, forward(truth, x)), reading, ConvertOptions())
    assert "--input-range=0:1" in [one.option for one in found.explanations]
    turned = forward(net, x)[:, ::-1]
    text = eliminate(Answers.of(x, turned), reading, ConvertOptions()).text()
    assert "what stands between them are taken as the graph has them" in text
    assert "orders of arrays and of layers" not in text

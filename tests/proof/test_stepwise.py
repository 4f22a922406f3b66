"""A framework's own values on the way to its scores: what rounding turns is explained from node to node, or it is found."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from branching_networks import PUBLISHED
from networks import random_inputs
from places import DATA, unpack

from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Levels, Linear, Quantize, Steps
from xnorinfer.net.reference import node_outputs
from xnorinfer.net.values import PixelInput, RealInput
from xnorinfer.packing.lower import lower
from xnorinfer.proof.agreement import Agreement, compare
from xnorinfer.proof.answers import Answers
from xnorinfer.proof.frameworks import as_read, framework_answers, rounding
from xnorinfer.proof.frameworks.as_read import open_as_read
from xnorinfer.proof.frameworks.rounding import RoundedNet
from xnorinfer.proof.frameworks.run_keras import live_program
from xnorinfer.proof.frameworks.stepwise import walk
from xnorinfer.proof.squashed import function_of

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # larq is written for Keras 2; read when TensorFlow is imported

ROWS = 12
#: torch.jit warns that it will go, the exporters of much.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def at_ties(net: Net) -> Net:
    """With a stem whose sums of mapped pixels often are 0, but for rounding."""
    stem, norm, *others = net.nodes
    assert isinstance(stem.op, Linear)
    weight = np.rint(stem.op.weight * 8).astype(np.float32) / np.float32(8)
    scaled = Steps.of(("mul", np.full(stem.op.neurons, 1.5, np.float32)))
    nodes = (replace(stem, op=replace(stem.op, weight=weight, bias=None)), replace(norm, op=scaled), *others)
    return replace(net, nodes=nodes)


def answered(kind: str, size: int, seed: int = 3) -> tuple[Net, Answers]:
    """A network at ties, and what PyTorch makes of it."""
    pytest.importorskip("torch")
    net = at_ties(PUBLISHED[kind](seed, PixelInput.range(0, 1), (size, size, 3), 16))
    x = random_inputs(np.random.default_rng(0), net.input, ROWS, net.depth)
    return net, run(net, x)


def run(net: Net, x: Any) -> Answers:
    """What PyTorch makes of a network whose stem is off by less than the order of its terms may make it."""
    usual = as_read.in_torch.function(net.nodes[0])

    def linear(op: Linear, value: Any, weights: Any) -> Any:
        sums = usual(op, value, weights)
        return sums - np.float32(2.0**-23) if op is net.nodes[0].op else sums

    with mock.patch.dict(as_read.in_torch._functions, {Linear: linear}):
        given = open_as_read(net, "torch").answers("net", x)
        # What it shows is computed later.
        inner = given.inner
        assert inner is not None
        every = frozenset(value.width for value in net.values)
        kept = inner(np.arange(len(x)), every)
    return replace(given, inner=lambda rows, widths: [value[rows] for value in kept])


@pytest.mark.parametrize("kind", PUBLISHED)
def test_every_row_is_explained_by_the_frameworks_own_values(kind: str) -> None:
    net, given = answered(kind, 10)
    found = compare(given, net, lower(net).packed)
    assert (found.unexplained, found.undetermined, found.parted) == (0, 0, None)
    assert found.complete
    assert found.walked >= 4
    assert found.shown == found.walked * (len(net.nodes) - 1)
    assert 0.5 * found.shown < found.same <= found.shown
    assert "are ours bit for bit" in found.text()


def test_levels_are_taken_as_the_framework_has_them() -> None:
    net, _ = answered("bi-real", 10)
    net = net.mapped(lambda op: Levels(-2, 1, step=0.5) if isinstance(op, Quantize) else op)
    x = random_inputs(np.random.default_rng(0), net.input, ROWS, net.depth)
    given, rounded = run(net, x), RoundedNet(net)
    assert given.inner is not None
    answer, *values = given.inner(np.arange(ROWS), frozenset(value.width for value in net.values))
    found = walk(rounded, x, values)
    assert (found.values == len(net.nodes) - 1).all()
    assert not found.open.any()
    assert (np.abs(answer - found.scores.value) <= found.scores.error).all()
    bound = walk(rounded, x[:1]).scores
    for way in rounded.tried(x[:1], 40):
        assert (np.abs(way.value - bound.value) <= bound.error + way.error).all()


def test_what_many_bits_decide_is_told_as_undetermined_where_nobody_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    net, given = answered("quicknet", 24)
    packed = lower(net).packed
    shown = compare(given, net, packed)
    assert (shown.unexplained, shown.undetermined) == (0, 0)
    assert shown.stepwise > 3
    monkeypatch.setattr(rounding, "NEAREST", 0)  # as if there were more such bits than are tried
    hidden = compare(replace(given, inner=None), net, packed)
    assert hidden.unexplained == 0
    assert 0 < hidden.undetermined <= hidden.undetermined + hidden.other_bits == shown.stepwise
    assert f"{hidden.undetermined} undetermined" in hidden.text()


@pytest.mark.parametrize("kind", ["quicknet", "reactnet"])
def test_other_scores_are_not_explained(kind: str) -> None:
    net, given = answered(kind, 8)
    inner = given.inner
    assert inner is not None

    def turned(*args: Any) -> list[Any]:
        answer, *values = inner(*args)
        return [np.roll(answer, 1, axis=1), *values]

    found = compare(replace(given, values=np.roll(given.values, 1, axis=1), inner=turned), net, lower(net).packed)
    assert not found.holds
    assert found.unexplained == ROWS
    assert found.parted == net.nodes[-2].name
    assert found.text().endswith(f"the last one that agrees is that of {net.nodes[-2].name}")


def test_a_layer_that_computes_otherwise_is_where_they_part() -> None:
    net, _ = answered("bi-real", 8)
    last = max(index for index, node in enumerate(net.nodes) if isinstance(node.op, Linear) and node.op.binary)
    layer = net.nodes[last]
    other = replace(
        net, nodes=(*net.nodes[:last], replace(layer, op=replace(layer.op, weight=-layer.op.weight)), *net.nodes[last + 1 :])
    )
    x = random_inputs(np.random.default_rng(0), net.input, ROWS, net.depth)
    given = run(other, x)
    found = compare(given, net, lower(net).packed)
    assert found.unexplained > 0
    assert found.parted == net.nodes[last - 1].name


def test_intervals_hold_what_every_choice_of_bits_gives() -> None:
    net, given = answered("quicknet", 10)
    rounded = RoundedNet(net)
    for row in range(ROWS):
        bound = walk(rounded, given.x[row : row + 1]).scores
        for way in rounded.tried(given.x[row : row + 1], 40):
            assert (np.abs(way.value - bound.value) <= bound.error + way.error).all()


def compared(path: Path, options: ConvertOptions, rows: int = 5) -> Agreement:
    reading = read_source(path, options)
    x = np.random.default_rng(1).integers(0, 256, (rows, reading.net.depth), dtype=np.uint8)
    answers = framework_answers(path, reading, options, x)
    assert answers.run is not None
    assert answers.run.program, answers.run.instead
    return compare(answers, reading.net, lower(reading.net).packed)


def assert_shown(found: Agreement, share: float) -> None:
    """That the framework shows so many values, and that they are ours."""
    assert (found.different - found.by_rounding, found.unexplained, found.undetermined) == (0, 0, 0), found.text()
    assert found.shown >= share * found.walked * 15
    assert found.same > 0


@pytest.mark.parametrize("how", ["export", "traced", "scripted", "onnx"])
@pytest.mark.parametrize("name", ["birealnet", "quicknet"])
def test_files_of_pytorch(tmp_path: Path, name: str, how: str) -> None:
    torch = pytest.importorskip("torch")
    if how == "onnx":
        pytest.importorskip("onnx")
    import torch_branches
    from torch_maps import write

    net = torch_branches.network(name)
    with torch.no_grad():  # sums of the stem that are 0 but for rounding
        stem = next(module for module in net.modules() if isinstance(module, torch.nn.Conv2d))
        norm = next(module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d))
        stem.weight.copy_(torch.round(stem.weight / stem.weight.abs().max() * 4))
        norm.running_mean.zero_()
        norm.bias.zero_()
    shape = torch_branches.SAMPLE if how == "scripted" else None
    path = write(net, torch_branches.SAMPLE, tmp_path, how)
    assert_shown(compared(path, ConvertOptions(input=PixelInput.range(0, 1), input_shape=shape)), 1)


@pytest.mark.parametrize("name", ["birealnet.pb", "quicknet.tflite", "densenet.h5", "reactnet.keras"])
def test_files_of_tensorflow(tmp_path: Path, name: str) -> None:
    pytest.importorskip("tensorflow")
    if name.endswith((".h5", ".keras")):
        pytest.importorskip("larq")
        pytest.importorskip("h5py")
    path = unpack(DATA / "tf" / "branches.tar.xz", tmp_path) / name
    assert_shown(compared(path, ConvertOptions(input=PixelInput.range(-1, 1))), 0.8 if name.endswith(".tflite") else 1)


def larq_model(name: str) -> Any:
    """A model of tf_keras by its kind."""
    pytest.importorskip("larq")
    pytest.importorskip("keras")
    import branch_files

    given = branch_files.tf.keras.Input(branch_files.SAMPLE)
    model = branch_files.tf.keras.Model(given, branch_files.NETWORKS[name](given))
    return branch_files.fill(model)


@pytest.mark.parametrize("name", ["birealnet", "quicknet", "meliusnet"])
def test_saved_models(tmp_path: Path, name: str) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    tensorflow.saved_model.save(larq_model(name), str(tmp_path / "model"))
    assert_shown(compared(tmp_path / "model", ConvertOptions(input=PixelInput.range(-1, 1))), 1)


def test_a_model_of_code_shows_its_values() -> None:
    tensorflow = pytest.importorskip("tensorflow")
    inner = larq_model("densenet")

    class Coded(tensorflow.keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def call(self, x: Any, training: bool = False) -> Any:
            return self.inner(x, training=training)

    from xnorinfer.converters.livekeras import read_graph_of

    model, shape = Coded(), tuple(inner.input_shape[1:])
    model(np.zeros((1, *shape), np.float32))
    assert not getattr(model, "inputs", None)
    options = ConvertOptions(input=PixelInput.range(-1, 1))
    reading = read_graph_of(model, "coded", shape, options)
    x = np.random.default_rng(1).integers(0, 256, (5, reading.net.depth), dtype=np.uint8)
    answers = live_program(model, reading, PixelInput.range(-1, 1), shape).answers("coded", x)
    assert_shown(compare(replace(answers, function=function_of(reading)), reading.net, lower(reading.net).packed), 1)


def test_values_between_steps_are_no_other_ones() -> None:
    """A small bias is a step with what comes behind it, and frameworks show the sum with it."""
    random = np.random.default_rng(4)
    weights, bias = random.normal(size=(6, 9)).astype(np.float32), np.full(6, 0.01, np.float32)
    steps = Steps.of(("add", bias), ("div", np.float32(6)), ("clip", -9, 9))
    ops = [("stem", Linear(weights)), ("steps", steps), ("sign", Quantize("ge")), ("head", Linear(weights[:3, :6], "ge"))]
    net = Net.chain(RealInput(), ops, "ge-zero", shape=(9,))
    x = random.normal(size=(5, 9)).astype(np.float32)
    stem = next(iter(node_outputs(net, x)))[1]
    found = walk(RoundedNet(net), x, [stem + bias])
    assert found.other == [None] * 5
    assert found.values.tolist() == [1] * 5

"""Networks that branch: what the oracle makes of a graph is what PyTorch and TensorFlow make of it, what is none is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from branching_networks import PUBLISHED, norms_as_steps, random_branching_network
from networks import random_inputs
from seeds import seeds

from xnorinfer.errors import NetworkError
from xnorinfer.graph import Node
from xnorinfer.net import (
    Add,
    Channels,
    Concat,
    Flatten,
    Linear,
    Multiply,
    Net,
    Pad,
    Pool,
    Quantize,
    RealInput,
    SignInput,
    Steps,
    Window,
)
from xnorinfer.net.reference import forward, node_outputs
from xnorinfer.proof.frameworks.as_read import open_as_read
from xnorinfer.proof.wording import words_of

f = np.float32
MAP = (4, 3, 2)


def layer(neurons: int = 2, channels: int = 2, **parts: Any) -> Linear:
    weight = np.random.default_rng(neurons).standard_normal((neurons, 1, 1, channels)).astype(f)
    return Linear(weight, **{"rule": "ge", "window": Window((1, 1)), **parts})


def net_of(*nodes: tuple[Any, tuple[int, ...]], shape: tuple[int, ...] = MAP, entry: Any = None) -> Net:
    """Nodes that are called a, b, c, ..."""
    made = tuple(Node(chr(97 + index), op, inputs) for index, (op, inputs) in enumerate(nodes))
    return Net(entry or SignInput(), shape, made, "ge-zero")


# ---------------------------------------------------------------- what they compute


def test_an_add_takes_signs_as_numbers_and_a_concat_of_signs_stays_signs() -> None:
    net = net_of(
        (layer(), (-1,)), (Quantize("ge"), (0,)), (Add(), (0, 1)), (Concat(), (1, 1)), (layer(2, 4), (3,)), (Add(), (2, 4))
    )
    assert net.check() == []
    assert [value.domain.kind for value in net.values] == ["reals", "signs", "reals", "signs", "reals", "reals"]
    found = dict(node_outputs(net, random_inputs(np.random.default_rng(0), net.input, 5, net.depth)))
    np.testing.assert_array_equal(found["c"], found["a"] + found["b"])
    np.testing.assert_array_equal(found["d"], np.concatenate([found["b"]] * 2, axis=-1))
    assert found["c"].dtype == found["d"].dtype == f


def test_a_sum_is_rounded_once_and_may_leave_the_range_of_float32() -> None:
    net = net_of((Linear(np.eye(2, dtype=f)), (-1,)), (Add(), (0, -1)), entry=RealInput(), shape=(2,))
    x = np.array([[1e8, 3.0], [3e38, -3e38], [0.1, 2.0**-24]], f)
    wanted = np.array([[2e8, 6.0], [np.inf, -np.inf], [f(0.1) * 2, 2.0**-23]], f)
    np.testing.assert_array_equal(dict(node_outputs(net, x))["b"], wanted)


@pytest.mark.parametrize("seed", seeds(16, 60))
def test_graphs_are_those_of_torch(seed: int) -> None:
    """A diamond, several readers, nested joins: PyTorch by the names of values, with sums that are exact in any order."""
    pytest.importorskip("torch")
    net = exact_sums(norms_as_steps(random_branching_network(seed, SignInput(), moves=seed % 2 == 1)))
    assert net.check() == []
    x = random_inputs(np.random.default_rng(seed), net.input, 6, net.depth)
    program = open_as_read(net, "torch")
    np.testing.assert_array_equal(forward(net, x), program.run(x.reshape(6, *net.shape).astype(f)))


@pytest.mark.parametrize("seed", seeds(2, 12))
def test_graphs_are_those_of_tensorflow(seed: int) -> None:
    tf = pytest.importorskip("tensorflow")
    net = exact_sums(norms_as_steps(random_branching_network(seed, SignInput(), moves=seed % 2 == 1)))
    x = random_inputs(np.random.default_rng(seed), net.input, 6, net.depth)
    known: dict[int, Any] = {-1: tf.constant(x.reshape(6, *net.shape).astype(f))}
    for index, node in enumerate(net.nodes):
        known[index] = in_tensorflow(tf, node.op, *(known[read] for read in node.inputs))
    np.testing.assert_array_equal(forward(net, x), known[len(net.nodes) - 1].numpy())


def in_tensorflow(tf: Any, op: Any, value: Any, *others: Any) -> Any:
    match op:
        case Add():
            return tf.add(value, *others)
        case Concat():
            return tf.concat([value, *others], axis=-1)
        case Multiply():
            (other,) = others
            alike = other.shape[1:].num_elements() == value.shape[1:].num_elements()
            return value * (other if alike else tf.reshape(other, (len(value), *[1] * (len(value.shape) - 2), -1)))
        case Channels():
            order = np.array(op.order)
            return tf.where(order < 0, f(0), tf.gather(value, order.clip(0), axis=-1))
        case Pad():
            top, bottom, left, right = (max(0, number) for number in op.padding)
            more = tf.pad(value, [[0, 0], [top, bottom], [left, right], [0, 0]], constant_values=f(op.value))
            top, bottom, left, right = (max(0, -number) for number in op.padding)
            return more[:, top : more.shape[1] - bottom, left : more.shape[2] - right]
        case Flatten():
            return tf.reshape(value, (len(value), -1))
        case Quantize():
            plus = value >= 0 if op.rule == "ge" else value > 0
            return tf.where(plus, f(1), f(-1))
        case Pool():
            window = op.window or Window.whole(tuple(value.shape[1:]))
            kind = "MAX" if op.kind == "max" else "AVG"
            return tf.nn.pool(value, window.size, kind, window.stride, "VALID")
        case Steps():
            for step in op.steps:
                operations = {"mul": tf.multiply, "add": tf.add, "sub": tf.subtract, "relu": tf.nn.relu}
                prelu = lambda x, slope: tf.where(x > 0, x, slope * x)  # noqa: E731
                value = {**operations, "prelu": prelu}[step.function](value, *step.parameters)
            return value
    weight = np.where(op.weight >= 0 if op.rule == "ge" else op.weight > 0, f(1), f(-1)) if op.binary else op.weight
    if op.window is None:
        made = tf.matmul(tf.reshape(value, (len(value), -1)), weight.T)
    else:
        top, bottom, left, right = op.window.padding
        padded = tf.pad(value, [[0, 0], [top, bottom], [left, right], [0, 0]], constant_values=f(op.pad))
        made = tf.nn.conv2d(padded, weight.transpose(1, 2, 3, 0), op.window.stride, "VALID")
    made = made if op.scale is None else made * op.scale
    return made if op.bias is None else made + op.bias


def exact_sums(net: Net) -> Net:
    """With ge and gt as tie rules, averages of two numbers at most left out, and float layers of which each neuron takes one
    number: what a framework may sum in any order."""

    def change(op: Any) -> Any:
        if isinstance(op, Pool) and op.kind == "average":
            return replace(op, kind="max", padded=False)
        if isinstance(op, Quantize | Linear) and op.rule is not None:
            op = replace(op, rule="ge" if op.rule in ("ge", "round-away") else "gt")
        if isinstance(op, Linear) and not op.binary:
            weight = np.zeros_like(op.weight).reshape(op.neurons, -1)
            weight[np.arange(op.neurons), np.arange(op.neurons) % op.depth] = op.weight.reshape(op.neurons, -1)[:, 0]
            op = replace(op, weight=weight.reshape(op.weight.shape), bias=None)
        return op

    return net.mapped(change)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_kinds_are_networks(kind: str) -> None:
    net = PUBLISHED[kind](1, RealInput())
    assert net.check() == []
    x = random_inputs(np.random.default_rng(0), net.input, 2, net.depth)
    assert np.isfinite(forward(net, x)).all()
    words = list(words_of(net))
    assert len(words) == len(net.nodes) + 1
    assert any("the sum, of " in line or "side by side along channels, of " in line for line in words)


# ---------------------------------------------------------------- what is no network

SIGNS_OF = ((layer(), (-1,)), (Quantize("ge"), (0,)))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (((Add(), (0,)),), "c: reads 1 values, Add takes 2"),
        (((Add(), (0, 0, 1)),), "c: reads 3 values, Add takes 2"),
        (((Concat(), (0,)),), "c: reads 1 values, Concat takes two or more"),
        (((Concat(), (0, 2)),), r"c: node 2 reads 0, 2, needed are -1 to 1"),
        (((layer(3), (1,)), (Add(), (0, 2))), r"d: adds two values of one shape, a gives \(4, 3, 2\) and c \(4, 3, 3\)"),
        (((Pool("max", Window((2, 2))), (0,)), (Add(), (2, 1))), r"d: adds two .* c gives \(3, 2, 2\) and b \(4, 3, 2\)"),
        (((Pool("max"), (0,)), (Concat(), (2, 1))), r"d: joins values along channels, maps of 1x1 here: c gives \(1, 1, 2\)"),
        (((Flatten(), (0,)), (Concat(), (2, 1))), r"d: joins values along channels, vectors here: c gives \(24,\) and b"),
        (((Flatten(), (0,)), (Concat(), (1, 2))), r"d: joins values along channels, maps of 4x3 here: b gives"),
        (((Concat(), (1, 1)), (Quantize("ge"), (2,)), (Add(), (3, 3))), "d: a sign must follow .*, here it follows c"),
        (((Concat(), (1, 1)),), "the last layer is a sign"),
        (((Add(), (0, 1)), (layer(), (2,))), "d: a binary layer follows c without a sign between them"),
        (((Concat(), (0, 1)), (layer(2, 4), (2,))), "d: a binary layer follows c without a sign"),
        (((Concat(), (1, 1)), (layer(2, 2), (2,))), "d: takes 2 channels but c gives 4"),
        (((Add(), (0, 0)), (Add(), (1, 1)), (Add(), (0, 1))), "c: no node reads what it gives"),
        (((Pool("max", Window((2, 2))), (0,)), (Multiply(), (1, 2))), r"d: multiplies .* and c \(3, 2, 2\)"),
        (((Multiply(), (0, 1)), (layer(), (2,))), "d: a binary layer follows c without a sign"),
        (((Channels((0, 2)), (1,)),), r"c: takes channels \(0, 2\), needed are numbers from 0 to 1, or -1 for zeros"),
        (((Channels(()), (1,)),), r"c: takes channels \(\), needed"),
        (((Channels((0, -1)), (0,)), (Concat(), (1, 2)), (layer(2, 4), (3,))), "e: a binary layer follows d without a sign"),
        (((Channels((1, 0)), (1,)),), "the last layer is a sign"),
        (((Pad((0, 0, 1)), (1,)),), r"c: its padding is \(0, 0, 1\), needed are 4"),  # type: ignore[arg-type]
        (((Pad((-2, -2, 0, 0)), (1,)),), "c: gives 0 lines of 3, needed is a map"),
        (((Pad((1, 1, 1, 1), 0.1), (0,)),), "c: pads with 0.1, needed is a number of float32"),
        (((Pad((1, 1, 1, 1), 1e300), (0,)),), "c: pads with .*, needed is a number of float32"),
        (((Pad((1, 1, 1, 1), 10**310), (0,)),), "c: pads with .*, needed is a number of float32"),
        (((Pad((1, 1, 1, 1), 0.3), (1,)), (layer(), (2,))), "d: a binary layer follows c without a sign"),
        (((Flatten(), (1,)), (Pad((1, 1, 1, 1)), (2,))), r"d: takes a map .*, a gives \(24,\)"),
    ],
)  # fmt: skip
def test_joins_that_do_not_fit_are_named(nodes: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        net_of(*SIGNS_OF, *nodes).require_valid()


def test_a_gate_may_be_computed_by_float_layers() -> None:
    """What multiplies a map, number by number or channel by channel, and a map of one pixel itself."""
    square = Linear(np.ones((2, 2), f))
    gate = (layer(), (-1,)), (Pool("average"), (0,)), (Flatten(), (1,)), (square, (2,))
    good = net_of(*gate, (Multiply(), (0, 3)), (Quantize("ge"), (4,)), (layer(), (5,)))
    assert good.check() == []
    itself = net_of(*gate, (Multiply(), (3, 3)), (Quantize("ge"), (4,)), (replace(square, rule="ge"), (5,)))
    assert itself.check() == []


def test_signs_may_stand_behind_float_layers_and_joins() -> None:
    head = (Flatten(), (0,)), (Linear(np.ones((24, 24), f)), (2,)), (Flatten(), (1,))
    joins = (Add(), (4, 3)), (Concat(), (5, 4)), (Quantize("ge"), (6,))
    net = net_of(*SIGNS_OF, *head, *joins, (Linear(np.ones((2, 48), f), "ge"), (7,)))
    assert net.check() == []

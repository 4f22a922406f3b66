"""Nothing reaches compiled code through the Python API that it must not believe: look-alikes of arrays, changed models."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import packed_networks as nets
import pytest
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from xnorinfer.engine.model import Model
from xnorinfer.engine.plan import Plan
from xnorinfer.errors import ArrayError, InputError, MalformedModelError, OptionError
from xnorinfer.graph import chain
from xnorinfer.memory import plain
from xnorinfer.net.values import PixelInput, RealInput, SignInput, ThresholdInput
from xnorinfer.packing.packed import Affine, Binarize, Dot, PackedModel, Threshold


def model(seed: int = 0) -> PackedModel:
    return nets.random_model(np.random.default_rng(seed), PixelInput.range(-1, 1), (70, 65, 129, 33, 4), floats=1)


class Duck:
    """Has all that a plan looks at."""

    ndim, shape, dtype, base = 2, (4, 70), np.dtype(np.uint8), None
    size, nbytes = 280, 280

    class flags:
        c_contiguous = aligned = writeable = True

    def __len__(self) -> int:
        return 4


class Liar(np.ndarray[Any, Any]):
    """An array that speaks of more rows than it has."""

    shape = (100_000, 70)  # type: ignore[assignment]
    ndim = 2  # type: ignore[assignment]


def liar(rows: int = 1) -> Any:
    array = np.zeros((rows, 70), np.uint8).view(Liar)
    assert array.shape == (100_000, 70)
    return array


def beyond(rows: int) -> Any:
    return as_strided(np.zeros((2, 70), np.uint8), (rows, 70), (70, 1))


def unaligned(shape: tuple[int, int]) -> Any:
    array = np.frombuffer(bytes(4 * shape[0] * shape[1] + 1), np.uint8)[1:].view(np.float32).reshape(shape)
    assert not array.flags.aligned
    return array


NO_INPUTS: dict[str, Callable[[], Any]] = {
    "duck": Duck,
    "list": lambda: [[0] * 70],
    "None": lambda: None,
    "bytes": lambda: bytes(70),
    "memoryview": lambda: memoryview(np.zeros((1, 70), np.uint8)),
    "one dimension": lambda: np.zeros(70, np.uint8),
    "three dimensions": lambda: np.zeros((1, 70, 1), np.uint8),
    "another depth": lambda: np.zeros((1, 71), np.uint8),
    "another dtype": lambda: np.zeros((1, 70), np.int8),
    "wider": lambda: np.zeros((1, 70), np.uint16),
    "object": lambda: np.zeros((1, 70), object),
    "strided": lambda: np.zeros((1, 140), np.uint8)[:, ::2],
    "reversed": lambda: np.zeros((3, 70), np.uint8)[:, ::-1],
    "Fortran": lambda: np.asfortranarray(np.zeros((3, 70), np.uint8)),
    "broadcast": lambda: np.broadcast_to(np.zeros(70, np.uint8), (1000, 70)),
    "one row beyond": lambda: beyond(3),
    "far beyond": lambda: beyond(1 << 30),
    "a view of beyond": lambda: beyond(1000)[500:][:10],
    "beyond its part": lambda: as_strided(np.zeros((9, 70), np.uint8)[8:], (2, 70), (70, 1)),
    "beyond twice": lambda: as_strided(beyond(3)[:2], (2, 70), (140, 1))[1:],
}


@pytest.mark.parametrize("what", NO_INPUTS)
def test_what_a_plan_does_not_take(what: str) -> None:
    plan = Plan(model(), threads=1)
    for use in (plan.run, plan.trace):
        with pytest.raises(ArrayError):
            use(NO_INPUTS[what]())
    assert issubclass(ArrayError, InputError)


def test_subclasses_count_as_what_they_are() -> None:
    packed = model()
    plan = Plan(packed, threads=1)
    assert plan.run(liar(1)).shape == (1, 4)
    assert Model(packed, threads=1).scores(liar(2)).shape == (2, 4)
    x = nets.random_rows(np.random.default_rng(1), packed, 3)
    want = nets.expected(packed, x)[-1]
    for view in (x.view(np.matrix), np.ma.MaskedArray(x), x[:], sliding_window_view(x, 3, axis=0)[0].T.copy()):
        assert nets.same(plan.run(view), want)


def test_reals_that_begin_between_two() -> None:
    packed = nets.random_model(np.random.default_rng(0), RealInput(), (5, 3, 2))
    x = unaligned((2, 5))
    with pytest.raises(ArrayError, match="aligned float32"):
        Plan(packed, threads=1).run(x)
    assert nets.same(Model(packed, threads=1).scores(x), nets.expected(packed, np.zeros((2, 5), np.float32))[-1])


def test_arrays_that_reach_beyond_their_origin() -> None:
    base = np.arange(12, dtype=np.int32)
    for inside in (as_strided(base, (3, 4), (16, 4)), as_strided(base[2:], (10,)), as_strided(base, (5, 8), (4, 4)), base[:0]):
        assert np.array_equal(plain(inside, "it"), inside)
    for outside in (as_strided(base[2:], (11,)), as_strided(base[::-1], (3,), (4,)), as_strided(base, (2,), (-4,))):
        with pytest.raises(ArrayError, match="beyond the memory of the array it was made from"):
            plain(outside, "it")


# ---------------------------------------------------------------- layers one by one


def layer_arguments() -> dict[str, Any]:
    return {"source": np.zeros((3, 70), np.uint8), "target": np.zeros((3, 3), np.uint64), "first": 0, "last": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first", -1),
        ("first", 2),
        ("last", 5),
        ("last", 0),
        ("last", 1.5),
        ("source", np.zeros((4, 70), np.uint8)),
        ("source", np.zeros((3, 70), np.int8)),
        ("source", np.zeros((3, 2), np.uint64)),
        ("source", Duck()),
        ("target", np.zeros((2, 3), np.uint64)),
        ("target", np.zeros((3, 2), np.uint64)),
        ("target", np.zeros((3, 3), np.float32)),
        ("target", np.zeros((3, 3), np.uint64, order="F")),
        ("target", Duck()),
    ],
)
def test_layers_on_other_arrays(name: str, value: Any) -> None:
    plan = Plan(model(), threads=1)
    plan.run_nodes(**layer_arguments())
    with pytest.raises(ArrayError):
        plan.run_nodes(**{**layer_arguments(), name: value})


def test_layers_into_what_may_not_be_written() -> None:
    plan = Plan(model(), threads=1)
    arguments = layer_arguments()
    arguments["target"].flags.writeable = False
    with pytest.raises(ArrayError, match="must be writable"):
        plan.run_nodes(**arguments)
    room = np.zeros(70 * 3 + 72, np.uint8)
    with pytest.raises(ArrayError, match="apart from the source"):
        plan.run_nodes(room[: 70 * 3].reshape(3, 70), room[200:272].view(np.uint64).reshape(3, 3), 0, 2)
    with pytest.raises(ArrayError, match="beyond"):
        plan.run_nodes(layer_arguments()["source"], as_strided(np.zeros((1, 3), np.uint64), (3, 3), (24, 8)), 0, 2)


# ---------------------------------------------------------------- models


def dense(packed: PackedModel) -> Dot:
    return packed.layers[0].op


class EvilDot(Dot):
    @property
    def neurons(self) -> int:
        return 1 << 20


class EvilWeights(np.ndarray[Any, Any]):
    shape = (65, 2)  # type: ignore[assignment]
    ndim = 2  # type: ignore[assignment]


class EvilReads(str):
    """Is what it is compared with, unless that are real numbers: so it is checked as bits and laid out as reals."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return other == "reals"

    def __ne__(self, other: object) -> bool:
        return False


class EvilModel(PackedModel):
    def require_valid(self) -> PackedModel:
        return self


class EvilInput(PixelInput):
    """Pixels or real numbers, as it likes."""


def with_first(packed: PackedModel, **changes: Any) -> PackedModel:
    return nets.with_layer(packed, 0, **changes)


def with_last(packed: PackedModel, output: Any) -> PackedModel:
    return nets.with_layer(packed, len(packed.layers) - 1, output=output)


def with_node(packed: PackedModel, **changes: Any) -> PackedModel:
    return replace(packed, nodes=(packed.nodes[0], replace(packed.nodes[1], **changes), *packed.nodes[2:]))


def evil(packed: PackedModel) -> PackedModel:
    layer = dense(packed)
    return nets.with_layer(packed, 0, EvilDot(layer.reads, layer.depth, layer.weights, layer.output))


def with_bits(packed: PackedModel, limits: Any, mirrored: Any) -> PackedModel:
    """Inputs that become bits, read by a first layer that reads bits."""
    layers = [(node.name, node.op) for node in with_first(packed, reads="bits", output=Threshold(np.zeros(65, np.int32))).nodes]
    return nets.network(packed.input, [("bits", Binarize(limits, mirrored)), *layers])


BAD: dict[str, Callable[[PackedModel], Any]] = {
    "no model": lambda packed: {"nodes": packed.nodes},
    "no nodes": lambda packed: replace(packed, nodes=()),
    "nodes are text": lambda packed: replace(packed, nodes="nodes"),
    "no node": lambda packed: replace(packed, nodes=(*packed.nodes[:1], dense(packed))),
    "a layer that inherits": evil,
    "reads itself": lambda packed: with_node(packed, inputs=(1,)),
    "reads a later one": lambda packed: with_node(packed, inputs=(2,)),
    "reads the input": lambda packed: with_node(packed, inputs=(-1,)),
    "reads two": lambda packed: with_node(packed, inputs=(0, 0)),
    "reads nothing": lambda packed: with_node(packed, inputs=()),
    "reads text": lambda packed: with_node(packed, inputs="0"),
    "depth": lambda packed: with_first(packed, depth=6_400_000),
    "depth of 0": lambda packed: with_first(packed, depth=0),
    "depth is text": lambda packed: with_first(packed, depth="70"),
    "depth is a float": lambda packed: with_first(packed, depth=70.0),
    "reads": lambda packed: with_first(packed, reads="bits"),
    "reads one thing and another": lambda packed: nets.with_layer(
        packed, 1, reads=EvilReads("bits"), output=Threshold(np.zeros(129, np.float32))
    ),
    "a model that inherits": lambda packed: EvilModel(packed.input, packed.shape, packed.nodes[1:], packed.profile),
    "weights are a list": lambda packed: with_first(packed, weights=dense(packed).weights.tolist()),
    "weights are none": lambda packed: with_first(packed, weights=None),
    "weights of another dtype": lambda packed: with_first(packed, weights=dense(packed).weights.view(np.int64)),
    "weights in another order": lambda packed: with_first(packed, weights=dense(packed).weights.astype(">u8")),
    "weights that lie": lambda packed: with_first(packed, weights=dense(packed).weights[:1].view(EvilWeights)),
    "weights beyond": lambda packed: with_first(packed, weights=as_strided(dense(packed).weights[:1].copy(), (65, 2), (16, 8))),
    "pad bits": lambda packed: with_first(packed, weights=~dense(packed).weights),
    "limits": lambda packed: with_first(packed, output=Threshold(np.zeros(64, np.int32))),
    "limits are a list": lambda packed: with_first(packed, output=Threshold([0] * 65)),  # type: ignore[arg-type]
    "output": lambda packed: with_first(packed, output=None),
    "steps": lambda packed: with_last(packed, Affine(("mul",), np.ones((1, 2, 3), np.float32))),
    "steps are none": lambda packed: with_last(packed, Affine(None, np.ones((1, 2, 4), np.float32))),  # type: ignore[arg-type]
    "steps that are no plain text": lambda packed: with_last(
        packed,
        Affine((EvilReads("mul"),), np.ones((1, 2, 4), np.float32)),  # type: ignore[arg-type]
    ),
    "a name that is no text": lambda packed: with_node(packed, name=5),
    "provenance": lambda packed: replace(packed, provenance=["a file"]),
    "a later format version": lambda packed: replace(packed, format_version=3),
    "a format version that is text": lambda packed: replace(packed, format_version="2"),
    "profile": lambda packed: replace(packed, profile=["ge-zero"]),
    "float with a threshold": lambda packed: with_last(packed, Threshold(np.zeros(4, np.int32))),
    "float of another width": lambda packed: nets.with_layer(packed, 3, depth=34),
    "float64": lambda packed: nets.with_layer(packed, 3, weights=packed.layers[3].op.weights.astype(np.float64)),
    "float that reads bits": lambda packed: nets.with_layer(packed, 3, reads="bits"),
    "widths": lambda packed: nets.network(packed.input, [(n.name, n.op) for n in (packed.layers[0], *packed.layers[2:])]),
    "ends in bits": lambda packed: replace(packed, nodes=packed.nodes[:2]),
    "nothing reads it": lambda packed: replace(packed, nodes=(*packed.nodes[:2], replace(packed.nodes[2], inputs=(0,)))),
    "input": lambda packed: replace(packed, input=None),
    "an input that inherits": lambda packed: replace(packed, input=EvilInput(2.0, -255.0, 255.0)),
    "another input": lambda packed: replace(packed, input=SignInput()),
    "one threshold": lambda packed: replace(packed, input=ThresholdInput(128)),
    "another threshold": lambda packed: replace(
        with_bits(packed, np.full(70, -127, np.int32), np.ones(70, bool)), input=ThresholdInput(128)
    ),
    "input bits": lambda packed: with_bits(packed, np.zeros(3, np.int32), np.zeros(3, bool)),
    "input bits of reals": lambda packed: with_bits(packed, np.zeros(70, np.float32), np.zeros(70, bool)),
    "input bits are numbers": lambda packed: with_bits(packed, np.zeros(70, np.int32), np.zeros(70, np.uint8)),
    "input bits of no size": lambda packed: with_bits(packed, np.int32(3), np.zeros(70, bool)),
    "input bits are text": lambda packed: with_bits(packed, "bits", np.zeros(70, bool)),
    "bits once more": lambda packed: replace(
        packed, nodes=chain([("fc", dense(packed)), ("bits", Binarize(np.zeros(65, np.int32), np.zeros(65, bool)))])
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_models_that_no_plan_takes(what: str) -> None:
    packed = BAD[what](model())
    for make in (Plan, Model):
        with pytest.raises(MalformedModelError):
            make(packed, threads=1)
    if what != "no model":
        assert packed.check()


def test_what_is_changed_after_a_plan_was_made() -> None:
    """Shapes and parts of the model are the plan's own; values were copied into its panels."""
    packed = model()
    x = nets.random_rows(np.random.default_rng(1), packed, 3)
    want = nets.expected(packed, x)
    plan = Plan(packed, threads=1)
    weights = dense(packed).weights
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        weights.shape = (1, 130)
    weights[:] = 0
    last = packed.layers[-1]
    assert isinstance(last.op.output, Affine)
    last.op.output.values[:] = np.nan
    object.__setattr__(last.op, "weights", np.zeros((1 << 12, 33), np.float32))
    object.__setattr__(last, "inputs", (7,))
    object.__setattr__(packed, "nodes", ())
    assert nets.same(plan.run(x), want[-1])
    assert all(nets.same(got, expected) for got, expected in zip(plan.trace(x), want, strict=True))


def test_the_network_of_a_model_is_read_only() -> None:
    """Else what is saved would be another network than the one that runs."""
    loaded = Model(model(), threads=1)
    for name, array in loaded.packed.tensors():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        assert not array.flags.writeable, name


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", 1 << 40, None])
def test_numbers_of_threads(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if threads is None:
        monkeypatch.setenv("XNORINFER_NUM_THREADS", "99999999")
    with pytest.raises(OptionError, match="a whole number"):
        Plan(model(), threads=threads)


# ---------------------------------------------------------------- steps that have no one meaning


@pytest.mark.parametrize(
    ("op", "a", "b", "wrong"),
    [
        ("clip", 5, -5, True),
        ("clip", np.inf, -np.inf, True),
        ("clip", 1, 1, False),
        ("clip", -np.inf, np.inf, False),
        ("clip", 0, np.inf, False),
        ("step", -3, 3, True),
        ("step", 0, 0, True),
        ("step", np.inf, np.inf, True),
        ("step", 0, np.nextafter(np.float32(0), np.float32(-1)), False),
        ("step", np.inf, -np.inf, False),
    ],
)
def test_ends_of_clip_and_step(op: Any, a: float, b: float, wrong: bool) -> None:
    values = np.array([[[1, a, 1], [0.5, b, 1 if op == "clip" else 0.5]]], np.float32)
    packed = nets.random_model(np.random.default_rng(0), SignInput(), (70, 65, 3))
    packed = with_last(packed, Affine((op,), values))
    if op == "clip":
        values[0, 0, 0] = 0
    problems = packed.check()
    if not wrong:
        assert problems == []
        x = nets.random_rows(np.random.default_rng(1), packed, 9)
        assert nets.same(Model(packed, threads=1).scores(x), nets.expected(packed, x)[-1])
        return
    (problem,) = problems
    assert f"{op} has {a:g} and {b:g} at [1], the first must be" in problem
    with pytest.raises(MalformedModelError, match=f"{op} has"):
        Model(packed)


def test_bits_of_inputs_are_fine_as_such() -> None:
    """What the changed ones above differ from; one pixel for all is the same network as a threshold."""
    packed = with_bits(model(), np.full(70, -128, np.int32), np.ones(70, bool))
    assert packed.check() == []
    same = replace(packed, input=ThresholdInput(128))
    assert same.check() == []
    x = nets.random_rows(np.random.default_rng(1), packed, 9)
    assert nets.same(Model(packed, threads=1).scores(x), Model(same, threads=1).scores(x))

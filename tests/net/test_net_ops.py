from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import INPUTS, random_network

import xnorinfer
import xnorinfer.net
from xnorinfer.errors import ConversionWarning, NetworkError, OptionError, StrictError
from xnorinfer.graph import Node
from xnorinfer.net.check import Problems, Seen, result_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Named, Norm, Quantize, Steps
from xnorinfer.net.reference import forward, node_outputs
from xnorinfer.net.values import REALS, SIGNS, PixelInput, SignInput, ThresholdInput, Value, input_from_json, input_to_json
from xnorinfer.packing.lower import parts_of

f = np.float32


def test_random_networks_are_valid() -> None:
    for mapping in INPUTS.values():
        assert random_network(1, [30, 20, 10, 5], mapping).check() == []
        assert random_network(2, [30, 20, 10, 5], mapping, float_tail=True).check() == []


def test_all_problems_are_reported_at_once() -> None:
    latent = np.ones((4, 3), f)
    latent[1, 2] = np.nan
    net = Net.chain(
        SignInput(),
        (
            ("a", Linear(latent, "ge", bias=np.ones(3, f))),
            ("bn", Norm(np.ones(4, f), variance=np.array([1, -2, 1, 1], f), epsilon=-1.0)),
            ("s", Quantize("ge")),
            ("b", Linear(np.ones((2, 5), f), "ge", h=0.0)),
        ),
        "nobody",
    )
    problems = "\n".join(net.check())
    for part in (
        "tie profile 'nobody' is none of tf1-round",
        "a: bias has shape (3,), needed is (4,)",
        "b: takes 5 inputs but a gives 4",
        "a: latent weights has 1 values that are NaN or infinite, the first at [1, 2]",
        "bn: variance is -2 at [1], it cannot be negative",
        "bn: epsilon is -1.0",
        "b: H is 0.0",
    ):
        assert part in problems
    with pytest.raises(NetworkError) as caught:
        net.require_valid()
    assert len(caught.value.problems) == 7


def dense(name: str = "fc", neurons: int = 4, depth: int = 4) -> Named:
    return (name, Linear(np.ones((neurons, depth), f), "ge"))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "no layer is binary"),
        ((("f", Linear(np.ones((1, 1), f))),), "f: no layer is binary"),
        ((dense("a"), dense("b")), "b: a binary layer follows a without a sign between"),
        ((dense(), ("s", Quantize("ge"))), "the last layer is a sign"),
        ((dense(), ("s", Quantize("ge")), ("t", Quantize("ge")), dense()), "t: a sign must follow"),
        (
            (dense(), ("s", Quantize("ge")), ("n", Norm(np.ones(4, f), variance=np.ones(4, f), epsilon=0.0)), dense()),
            "n: BatchNorm must follow",
        ),
        ((("f", Linear(np.ones((4, 4), f))), dense("b")), "b: a binary layer follows f without a sign between"),
        ((dense(), ("n", Norm(np.ones(4, f)))), "n: exactly one of variance and inv_std is needed"),
        ((dense(), ("n", Norm(np.ones(4, f), inv_std=np.ones(4, f)))), "n: inv_std belongs to the form 'lasagne'"),
        ((("d", Linear(np.ones((4, 4)), "ge")),), "d: latent weights has dtype float64"),  # type: ignore[arg-type]
        ((("d", Linear(np.ones((0, 4), f), "ge")),), r"d: weights have shape \(0, 4\)"),
        (
            (("d", Linear(np.eye(2, dtype=f), "sign")),),
            r"d: 2 latent weights are exactly 0, the first at \[0, 1\].*--profile ge-zero",
        ),
    ],
)
def test_each_structural_problem_is_named(layers: tuple, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        Net.chain(SignInput(), layers, "ge-zero").require_valid()


def test_infinite_inv_std_is_left_to_folding() -> None:
    norm = Norm(np.ones(4, f), inv_std=np.array([np.inf, 1, 1, 1], f), form="lasagne")
    assert Net.chain(SignInput(), (dense(), ("bn", norm)), "theano").check() == []
    assert "NaN" in replace_inv_std(norm).check()[0]


def replace_inv_std(norm: Norm) -> Net:
    return Net.chain(SignInput(), (dense(), ("bn", replace(norm, inv_std=np.array([np.nan, 1, 1, 1], f)))), "theano")


@pytest.mark.parametrize("name", INPUTS)
def test_input_mappings_survive_json(name: str) -> None:
    assert input_from_json(input_to_json(INPUTS[name])) == INPUTS[name]


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"kind": "video"}, {"kind": "pixels", "slope": 1.0}, {"kind": "threshold", "threshold": 2.5}]
    + [
        {"kind": "pixels", "slope": s, "intercept": 0.0, "divisor": d}
        for s, d in ((0.0, 1.0), (1.0, 0.0), (True, 1.0), ("1", 1.0))
    ]
    + [{"kind": "pixels", "slope": float("nan"), "intercept": 0.0, "divisor": 1.0}, {"kind": "reals", "extra": 1}],
)
def test_malformed_input_mappings_are_refused(data: object) -> None:
    with pytest.raises(OptionError):
        input_from_json(data)


def test_useless_input_mappings_are_refused() -> None:
    for make in (
        lambda: PixelInput.range(1, 1),
        lambda: PixelInput.range(0, float("inf")),
        lambda: PixelInput.normalize(0.5, 0),
        lambda: ThresholdInput(0),
        lambda: ThresholdInput(256),
    ):
        with pytest.raises(OptionError):
            make()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 1, 1), "zero slope or divisor"),
        ((1, 0, 0), "zero slope or divisor"),
        ((1, 0, np.inf), "out of the range of float32"),
        ((np.nan, 0, 1), "out of the range of float32"),
        ((None, 0, 1), "three numbers, and None is none"),
        (("2", 0, 1), "three numbers, and '2' is none"),
        ((True, 0, 1), "three numbers, and True is none"),
        ((10**400, 0, 1), "three numbers, and 10+"),
    ],
)
def test_numbers_that_map_no_pixels_are_refused_where_they_are_given(numbers: Any, message: str) -> None:
    """And not by a network that computes with them, or when its file is loaded."""
    with pytest.raises(OptionError, match=message):
        PixelInput(*numbers)


def test_mappings_of_numpy_numbers_are_saved(tmp_path: Path) -> None:
    for mapping in (ThresholdInput(np.int64(128)), PixelInput.range(np.float32(-1), np.float32(1))):  # type: ignore[arg-type]
        net = random_network(3, [10, 6, 3], mapping)
        xnorinfer.pack(net, threads=1).save(tmp_path / "m.safetensors")
        assert xnorinfer.load(tmp_path / "m.safetensors", threads=1).packed.input == mapping


def test_whole_numbers_and_floats_are_one_mapping() -> None:
    assert input_to_json(PixelInput.range(-1, 1)) == input_to_json(PixelInput.range(-1.0, 1.0))
    assert str(input_to_json(PixelInput.range(-1, 1))) == str(input_to_json(PixelInput.range(-1.0, 1.0)))


def test_usual_mappings_are_exact() -> None:
    assert PixelInput.range(-1, 1) == PixelInput(2, -255, 255)
    assert PixelInput.range(0, 255) == PixelInput(1, 0, 1)
    assert PixelInput.range(0, 1) == PixelInput(1, 0, 255)


# ---------------------------------------------------------------- the graph


def branched() -> Net:
    """Two readers of one value, of which the network ends in one."""
    first, norm = Linear(np.eye(4, dtype=f) - f(0.5), "ge"), Norm(np.full(4, 0.5, f), np.ones(4, f), epsilon=0.0)
    nodes = (Node("fc", first, (-1,)), Node("aside", Steps.of(("relu",)), (0,)), Node("bn", norm, (0,)))
    return Net(SignInput(), (4,), nodes, "ge-zero")


def test_nodes_read_what_they_say_and_not_what_stands_before_them() -> None:
    net, x = branched(), np.array([[1, -1, 1, 1]], np.int8)
    found = dict(node_outputs(net, x))
    np.testing.assert_array_equal(found["aside"], np.maximum(found["fc"], 0))
    np.testing.assert_array_equal(found["bn"], found["fc"] - f(0.5))
    assert net.check() == ["aside: no node reads what it gives"]
    with pytest.raises(NetworkError, match="bn: does not read the node before it alone"):
        _ = net.line
    assert [part.name for part in parts_of(net)] == ["fc", "aside", "bn"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((1,), "bn: node 1 reads 1, needed are -1 to 0"),
        ((-2,), "bn: node 1 reads -2"),
        ((7,), "bn: node 1 reads 7"),
        (("fc",), "bn: inputs are"),
        ((), r"bn: inputs are \(\)"),
        ([0], r"bn: inputs are \[0\]"),
        ((0, 0), "bn: reads 2 values, Norm takes 1"),
    ],
)
def test_inputs_of_nodes_are_checked(inputs: Any, message: str) -> None:
    first, _, norm = branched().nodes
    net = Net(SignInput(), (4,), (first, replace(norm, inputs=inputs)), "ge-zero")
    with pytest.raises(NetworkError, match=message):
        net.require_valid()


@pytest.mark.parametrize("shape", [(), (0,), (2, 2), (4.0,), 4, None])
def test_the_shape_of_the_input_is_checked(shape: Any) -> None:
    first, _, norm = branched().nodes
    with pytest.raises(NetworkError, match=r"the input has the shape|takes 4 inputs but the input gives 1"):
        Net(SignInput(), shape, (first, norm), "ge-zero").require_valid()


def test_what_every_node_gives() -> None:
    layers = (dense("a", 3), ("n", Norm(np.ones(3, f), np.ones(3, f), epsilon=0.0)), ("s", Quantize("ge")), dense("b", 2, 3))
    shapes = [Value((3,), REALS), Value((3,), REALS), Value((3,), SIGNS), Value((2,), REALS)]
    read, found = Seen(Value((4,), SignInput()), "the input", "the input", raw=True), []
    for node in Net.chain(SignInput(), layers, "ge-zero").nodes:
        read = result_of(node, node.name, Problems(), read)
        found.append(read.value)
    assert found == shapes


# ---------------------------------------------------------------- the public door


def test_a_network_is_packed_as_it_is_written_down() -> None:
    net = random_network(5, [40, 30, 20, 6], PixelInput.range(-1, 1), float_tail=True)
    x = np.random.default_rng(0).integers(0, 256, (50, 40), dtype=np.uint8)
    model = xnorinfer.pack(net, threads=1, kernel="portable")
    np.testing.assert_array_equal(model.scores(x), forward(net, x))
    assert model.info["provenance"]["source"] == "xnorinfer.pack"
    with pytest.raises(NetworkError, match="no layer is binary"):
        xnorinfer.pack(Net.chain(SignInput(), (), "ge-zero"))


@pytest.mark.parametrize(
    "wrong", [{"weight": [[1.0] * 4]}, {"bias": 3}, {"h": "1"}, {"h": None}, {"weight": np.ones((4, 4), int)}]
)
def test_what_is_no_array_or_number_is_named(wrong: Any) -> None:
    op = replace(dense()[1], **wrong)
    message = rf"fc: .*({next(iter(wrong))}|H|latent weights).*needed is (a numpy array of float32|a finite number|float32)"
    with pytest.raises(NetworkError, match=message):
        xnorinfer.pack(Net.chain(SignInput(), [("fc", op)], "ge-zero"))


@pytest.mark.parametrize("mean", [None, 0.0, np.array(list("mean")), np.array([None] * 4), np.zeros(4, complex)])
def test_a_batch_norm_is_of_numbers(mean: Any) -> None:
    norm = Norm(mean, mean, epsilon=0.0)
    with pytest.raises(NetworkError, match=r"bn: mean (is a|has dtype) .*needed is (a numpy array of )?float32"):
        xnorinfer.pack(Net.chain(SignInput(), [dense(), ("bn", norm)], "ge-zero"))


@pytest.mark.parametrize("name", [0, None])
def test_names_are_text(name: Any) -> None:
    """Else a file of the network could not be loaded."""
    with pytest.raises(NetworkError, match=f"node 0: its name is {name}, needed is text"):
        xnorinfer.pack(Net.chain(SignInput(), [dense(name)], "ge-zero"))


def test_nodes_that_are_none_and_profiles_that_are_no_text() -> None:
    with pytest.raises(NetworkError, match=r"node 0 is a tuple, needed is a Node; Net\.chain makes them of \(name, op\)"):
        xnorinfer.pack(Net(SignInput(), (4,), (dense(),), "ge-zero"))  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match=r"tie profile \['ge-zero'\] is none of tf1-round"):
        xnorinfer.pack(Net.chain(SignInput(), [dense()], ["ge-zero"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [None, "soon", -1.0, np.nan])
def test_a_variance_needs_an_epsilon(epsilon: Any) -> None:
    norm = Norm(np.zeros(4, f), np.ones(4, f), epsilon=epsilon)
    with pytest.raises(NetworkError, match=rf"bn: epsilon is {epsilon}, needed is a finite number"):
        xnorinfer.pack(Net.chain(SignInput(), [dense(), ("bn", norm)], "ge-zero"))


def test_what_packing_finds_is_a_warning_or_an_error() -> None:
    dead = Norm(np.full(4, 99, f), np.ones(4, f), epsilon=0.0)
    net = Net.chain(SignInput(), (dense(), ("bn", dead), ("s", Quantize("ge")), dense("head", 2)), "ge-zero")
    with pytest.warns(ConversionWarning, match="all 4 neurons are dead"):
        model = xnorinfer.pack(net)
    assert len(model.info["warnings"]) == 1
    with pytest.raises(StrictError, match="the network converts with 1 warning"):
        xnorinfer.pack(net, strict=True)


def test_everything_that_a_network_is_made_of_has_one_address() -> None:
    names = {name: getattr(xnorinfer.net, name) for name in xnorinfer.net.__all__}
    assert names["Net"] is Net
    assert names["PixelInput"] is PixelInput
    with pytest.raises(AttributeError, match="no attribute 'Conv'"):
        _ = xnorinfer.net.Conv

"""Networks that branch, packed: what is stored is the network, whatever reads a value and how often."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import conv_networks
import numpy as np
import pytest
from branching_networks import PUBLISHED, Graph, random_branching_network
from conv_networks import MAPPINGS
from networks import random_inputs
from packed_networks import expected
from safetensors import safe_open
from safetensors.numpy import save_file
from seeds import seeds

from xnorinfer.errors import MalformedModelError
from xnorinfer.net.network import Net
from xnorinfer.net.reference import node_outputs
from xnorinfer.packing.description import describe
from xnorinfer.packing.lower import lower, parts_of, stored_form
from xnorinfer.packing.modelfile import KEY, header_of, load, save
from xnorinfer.packing.packed import Affine, Concat, Dot, Elementwise, Moved, Multiply, PackedModel

KINDS = ("range", "threshold", "reals", "channels", "normalize", "signs")


def compare(net: Net, rows: int = 3) -> PackedModel:
    """Every value of the packed network is that of the network."""
    model = lower(net).packed
    assert model.check() == []
    stored = stored_form(net)
    x = random_inputs(np.random.default_rng(0), net.input, rows, net.depth)
    wanted = [value for _, value in node_outputs(net, x)]
    gone = len(net.nodes) - len(stored.nodes)
    for part, value, found in zip(parts_of(stored), model.values, expected(model, x), strict=True):
        if part.end is None or part.enters:
            continue
        got = value.signs(found) if value.kind == "bits" else found
        np.testing.assert_array_equal(got, wanted[part.end + gone].reshape(rows, -1), err_msg=part.name)
    return model


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("seed", seeds(30, 90))
def test_random_networks(seed: int, moves: bool) -> None:
    net = random_branching_network(seed, MAPPINGS[KINDS[seed % len(KINDS)]], moves=moves)
    assert net.check() == []
    compare(net)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_kinds(kind: str) -> None:
    model = compare(PUBLISHED[kind](0, MAPPINGS["channels"], (6, 6, 3), 16), 2)
    assert len(model.nodes) < len(PUBLISHED[kind](0, MAPPINGS["channels"], (6, 6, 3), 16).nodes)


# ---------------------------------------------------------------- files


def small() -> PackedModel:
    """Every way to join: side by side, as vectors, at the side of steps and of a layer."""
    model = lower(PUBLISHED["reactnet"](0, MAPPINGS["reals"], (4, 4, 3), 6)).packed
    assert any(isinstance(node.op, Concat) for node in model.nodes)
    return model


@pytest.mark.parametrize("seed", range(8))
def test_files_of_branches_and_back(seed: int, tmp_path: Path) -> None:
    mapping = MAPPINGS[KINDS[seed % len(KINDS)]]
    model = lower(random_branching_network(400 + seed, mapping, falling=False, moves=seed % 2 == 1)).packed
    save(model, tmp_path / "m")
    other = load(tmp_path / "m")
    assert header_of(other) == header_of(model)
    assert header_of(model)["format_version"] in (3, 4)
    assert [node.inputs for node in other.nodes] == [node.inputs for node in model.nodes]
    save(other, tmp_path / "again")
    assert (tmp_path / "m").read_bytes() == (tmp_path / "again").read_bytes()
    described = describe(model)["layers"]
    leading = len(model.nodes) - len(model.layers)
    assert [one.get("from", [index - 1]) for index, one in enumerate(described)] == [
        [max(read - leading, -1) for read in node.inputs] for node in model.layers
    ]


def test_a_chain_of_maps_has_the_format_that_it_had_and_joins_a_newer_one() -> None:
    chain = lower(conv_networks.random_conv_network(1, MAPPINGS["reals"], awkward=False)).packed
    assert header_of(chain)["format_version"] == 3
    assert header_of(small())["format_version"] == 4


def with_node(model: PackedModel, kind: type, **parts: Any) -> PackedModel:
    """The first node of a kind with two inputs otherwise."""
    at = next(at for at, node in enumerate(model.nodes) if type(node.op) is kind and len(node.inputs) == 2)
    return replace(model, nodes=(*model.nodes[:at], replace(model.nodes[at], **parts), *model.nodes[at + 1 :]))


@pytest.mark.parametrize(
    ("kind", "parts", "message"),
    [
        (Concat, {"inputs": (3,)}, "joins 1 nodes, needed are 2 to 64"),
        (Concat, {"inputs": (1,) * 65}, "joins 65 nodes"),
        (Concat, {"inputs": (-1, -1)}, "joins the input, the input"),
        (Concat, {"inputs": (0, 1)}, "joins reals, bits, needed are bits, levels of one kind or reals alone"),
        (Concat, {"inputs": (3, 99)}, "needed are -1 to"),
        (Concat, {"op": Concat(1)}, "does not know the class int"),  # type: ignore[arg-type]
        (Concat, {"op": Concat(flat=True)}, "has a window, but reads a vector"),
        (Dot, {"inputs": (1,)}, "reads 1 nodes, needed are two"),
        (Dot, {"inputs": (1, 0, 0)}, "reads 3 nodes, needed are two"),
        (Dot, {"inputs": (1, 1)}, "adds 96 bits to 96 numbers"),
        (Dot, {"inputs": (1, -1)}, "adds 48 reals to 96 numbers"),
        (Elementwise, {"inputs": (0,)}, "reads 1 nodes, needed are two"),
    ],
)
def test_joins_that_do_not_fit_are_named(kind: type, parts: dict[str, Any], message: str) -> None:
    model = small()
    if kind is Elementwise:
        model = lower(joined_steps()).packed
    problems = with_node(model, kind, **parts).check()
    assert any(message in problem for problem in problems), problems


def joined_steps() -> Net:
    """A sum whose terms both have other readers."""
    made = Graph(0, MAPPINGS["reals"], (4, 4, 3))
    stem = made.stem(6)
    sums = made.layer(made.sign(stem), 6)
    return made.head(made.join(made.plus(stem, sums), sums))


def test_what_stands_at_the_side_is_added_once() -> None:
    model = small()
    at = next(at for at, node in enumerate(model.nodes) if isinstance(node.op, Dot) and len(node.inputs) == 2)
    steps = model.nodes[at].op.output
    twice = Affine((*steps.ops, "side"), np.concatenate([steps.values, steps.values[:1]]))
    other = replace(model.nodes[at], op=replace(model.nodes[at].op, output=twice))
    problems = replace(model, nodes=(*model.nodes[:at], other, *model.nodes[at + 1 :])).check()
    assert any("adds what stands at its side 2 times" in problem for problem in problems)


def test_entries_of_joins_are_checked(tmp_path: Path) -> None:
    save(small(), tmp_path / "m")
    with safe_open(tmp_path / "m", framework="numpy") as container:
        header = json.loads(container.metadata()[KEY])
        tensors = {name: container.get_tensor(name) for name in container.keys()}  # noqa: SIM118
    entry = next(entry for entry in header["nodes"] if entry["kind"] == "concat")
    for change, message in (({"flat": 0}, "flat is neither"), ({"more": 1}, "is no node of format"), ({"inputs": []}, "whole")):
        before = dict(entry)
        entry.update(change)
        save_file(tensors, tmp_path / "other", metadata={KEY: json.dumps(header)})
        with pytest.raises(MalformedModelError, match=message):
            load(tmp_path / "other")
        entry.clear()
        entry.update(before)
    header["format_version"] = 3
    save_file(tensors, tmp_path / "other", metadata={KEY: json.dumps(header)})
    with pytest.raises(MalformedModelError, match="says that it has format version 3, what it holds is of version 4"):
        load(tmp_path / "other")


# ---------------------------------------------------------------- products, and numbers in other places


def elsewhere() -> PackedModel:
    """A gate, a shuffle, a border."""
    made = Graph(1, MAPPINGS["reals"], (4, 4, 3))
    stem = made.stem(6)
    value = made.channels(made.gate(made.layer(made.sign(stem), 6), stem), (5, 0, -1, 3, 3, 1))
    return lower(made.head(made.pad(value, (1, 0, -1, 2), 0.5))).packed


@pytest.mark.parametrize(
    ("kind", "parts", "message"),
    [
        (Multiply, {"inputs": (3,)}, "reads 1 nodes, needed are two"),
        (Multiply, {"inputs": (-1, 3)}, "multiplies (4, 4, 3) numbers by"),
        (Multiply, {"inputs": (1, 0)}, "multiplies real numbers, but gets bits"),
        (Multiply, {"inputs": (0, 1)}, "multiplies (4, 4, 6) numbers by 96 bits"),
        (Moved, {"inputs": (0, 0)}, "reads 2 nodes, needed is one"),
        (Moved, {"inputs": (1,)}, "puts 0 outside, needed is a number of float32, of bits -1 or 1"),
        (Moved, {"op": Moved(np.full(6, 6, np.int32))}, "takes channels 6 to 6, there are 6"),
        (Moved, {"op": Moved(np.full(6, -2, np.int32))}, "takes channels -2 to -2"),
        (Moved, {"op": Moved(np.array([0], np.int32), (-2, -2, 0, 0))}, "moves 4 x 4 x 6 numbers by (-2, -2, 0, 0)"),
        (Moved, {"op": Moved(np.array([0], np.int32), (0, 0, 0))}, "needed are 4 whole numbers"),  # type: ignore[arg-type]
        (Moved, {"op": Moved(np.array([0], np.int32), (2**21, 0, 0, 0))}, "needed are numbers up to"),
        (Moved, {"op": Moved(np.array([0], np.int64))}, "channels are (1,) int64, needed is (channels,) int32"),
        (Moved, {"op": Moved(np.zeros(6, np.int32), (1, 0, 0, 0), 0.1)}, "needed is a number of float32"),
        (Moved, {"op": Moved(np.zeros(6, np.int32), (1, 0, 0, 0), np.nan)}, "needed is a number of float32"),
        (Moved, {"op": Moved(np.zeros(6, np.int32), (1, 0, 0, 0), 1e300)}, "needed is a number of float32"),
        (Moved, {"op": Moved(np.zeros(6, np.int32), (1, 0, 0, 0), 10**310)}, "needed is a number"),
        (Moved, {"op": Moved(np.array([0], np.int32), value="1")}, "value is '1', needed is a number"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_products_and_places_that_do_not_fit_are_named(kind: type, parts: dict[str, Any], message: str) -> None:
    model = elsewhere()
    assert model.check() == []
    at = next(at for at, node in enumerate(model.nodes) if type(node.op) is kind)
    model = replace(model, nodes=(*model.nodes[:at], replace(model.nodes[at], **parts), *model.nodes[at + 1 :]))
    assert any(message in problem for problem in model.check()), model.check()


def test_entries_of_products_and_places_are_checked(tmp_path: Path) -> None:
    save(elsewhere(), tmp_path / "m")
    assert header_of(load(tmp_path / "m")) == header_of(elsewhere())
    with safe_open(tmp_path / "m", framework="numpy") as container:
        header = json.loads(container.metadata()[KEY])
        tensors = {name: container.get_tensor(name) for name in container.keys()}  # noqa: SIM118
    entry = next(entry for entry in header["nodes"] if entry["kind"] == "moved")
    changes = (
        ({"padding": [1, 1, 1]}, "needed are 4 whole"),
        ({"value": "1"}, "value has the wrong"),
        ({"value": 10**310}, "value has the wrong"),
        ({"more": 1}, "is no node"),
    )
    for change, message in changes:
        before = dict(entry)
        entry.update(change)
        save_file(tensors, tmp_path / "other", metadata={KEY: json.dumps(header)})
        with pytest.raises(MalformedModelError, match=message):
            load(tmp_path / "other")
        entry.clear()
        entry.update(before)

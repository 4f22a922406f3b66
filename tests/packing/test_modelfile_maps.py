"""Files of networks of maps (format 3): what goes in comes out, what is malformed is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import conv_networks
import numpy as np
import packed_networks as nets
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from seeds import seeds

from xnorinfer.engine.plan import Plan
from xnorinfer.errors import DigestError, MalformedModelError, ModelFileError
from xnorinfer.graph import chain
from xnorinfer.net.values import PixelInput, RealInput, SignInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.description import describe, widths
from xnorinfer.packing.lower import lower
from xnorinfer.packing.modelfile import KEY, _build, header_of, load, save
from xnorinfer.packing.packed import Affine, Binarize, Elementwise, Mapped, PackedModel, Pool

f = np.float32


def every_op() -> PackedModel:
    """Pixels of 4x5, two channels: numbers, a float stem, pooled sums, bits, a padded convolution in groups, scores."""
    rng = np.random.default_rng(1)
    mapping = PixelInput.range(-1, 1)
    near = Window((3, 3), padding=(1, 1, 1, 0))
    steps = Affine(("mul",), np.ones((1, 2, 4), f))
    inside = nets.random_dot(rng, "bits", (3, 4, 4), 6, window=near, bits=True, groups=2)
    ops = [
        ("input", Mapped.of(mapping)),
        ("stem", nets.random_dot(rng, "reals", (4, 5, 2), 4, window=Window((2, 2)), bits=False, binary=False)),
        ("steps", Elementwise(steps)),
        ("average", Pool("average", Window((1, 1)))),
        ("sign", Binarize(np.zeros(4, f), np.array([True, False, True, False]))),
        ("conv", inside),
        ("pool", Pool("max", Window((2, 2)), np.array([True, False] * 3))),
        ("head", nets.random_dot(rng, "bits", (2, 2, 6), 3, window=Window((2, 2)), bits=False)),
    ]
    model = PackedModel(mapping, (4, 5, 2), chain(ops), "ge-zero", {"source": "test"})
    assert model.check() == []
    return model


def parts(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with safe_open(path, framework="numpy") as container:
        return json.loads(container.metadata()[KEY]), {k: container.get_tensor(k) for k in container.keys()}  # noqa: SIM118


def same(one: PackedModel, other: PackedModel) -> None:
    assert header_of(one) == header_of(other)
    assert (one.input, one.shape, one.values) == (other.input, other.shape, other.values)
    for (name, mine), (other_name, theirs) in zip(one.tensors(), other.tensors(), strict=True):
        assert name == other_name
        assert nets.same(mine, theirs)
    for ours, theirs in zip(one.nodes, other.nodes, strict=True):
        assert (ours.name, ours.inputs, type(ours.op)) == (theirs.name, theirs.inputs, type(theirs.op))
        for field in ("window", "groups", "pad", "kind", "padded", "reads", "depth"):
            assert getattr(ours.op, field, None) == getattr(theirs.op, field, None)


def test_every_op_goes_into_a_file_and_back(tmp_path: Path) -> None:
    model = every_op()
    save(model, tmp_path / "m")
    same(model, load(tmp_path / "m"))
    same(model, load(tmp_path / "m", mapped=True))
    assert parts(tmp_path / "m")[0]["format_version"] == 3
    save(load(tmp_path / "m"), tmp_path / "again")
    assert (tmp_path / "m").read_bytes() == (tmp_path / "again").read_bytes()


@pytest.mark.parametrize("name", conv_networks.MAPPINGS)
def test_random_networks_go_into_files_and_back(tmp_path: Path, name: str) -> None:
    with np.errstate(all="ignore"):
        for seed in range(6):
            net = conv_networks.random_conv_network(seed, conv_networks.MAPPINGS[name], awkward=False)
            packed = lower(net).packed
            save(packed, tmp_path / "m")
            same(packed, load(tmp_path / "m"))


def test_chains_of_dense_layers_have_the_format_that_they_had(tmp_path: Path) -> None:
    dense = nets.random_model(np.random.default_rng(1), SignInput(), (70, 65, 3))
    assert header_of(dense)["format_version"] == 2
    save(every_op(), tmp_path / "m")
    header, _ = parts(tmp_path / "m")
    entry = {"kind": "dense", "reads": "bits", "depth": 70, "output": "threshold", "window": None, "groups": 1, "pad": 0}
    head = {**entry, "depth": 65, "output": "affine", "ops": list(dense.nodes[1].op.output.ops)}
    nodes = [{**entry, "inputs": [-1]}, {**head, "inputs": [0]}]
    header.update(nodes=nodes, names=["a", "b"], shape=[70], input={"kind": "signs"})
    tensors = {name: np.ascontiguousarray(array) for name, array in dense.tensors()}
    save_file(tensors, tmp_path / "m", metadata={KEY: json.dumps(header)})
    with pytest.raises(MalformedModelError, match="a chain of dense layers, which format version 2 holds"):
        load(tmp_path / "m")


Change = Callable[[dict[str, Any], dict[str, Any]], Any]


def header(key: str, value: Any) -> Change:
    return lambda head, tensors: head.update({key: value})


def node(index: int, key: str, value: Any) -> Change:
    return lambda head, tensors: head["nodes"][index].update({key: value})


def window(index: int, key: str, value: Any) -> Change:
    return lambda head, tensors: head["nodes"][index]["window"].update({key: value})


def tensor(name: str, change: Callable[[Any], Any]) -> Change:
    return lambda head, tensors: tensors.update({name: np.ascontiguousarray(change(tensors[name]))})


MALFORMED: dict[str, tuple[Change, str]] = {
    "no shape": (lambda head, tensors: head.pop("shape"), "header fields"),
    "layers": (header("layers", []), "header fields"),
    "nodes are no list": (header("nodes", {}), "wrong type"),
    "no nodes": (header("nodes", []), "names is no list of 0 strings"),
    "a shape of two": (header("shape", [4, 5]), "needed is (features,) or (height, width, channels)"),
    "a shape of text": (header("shape", "452"), "whole numbers"),
    "a shape of fractions": (header("shape", [4.0, 5, 2]), "whole numbers"),
    "a shape of truths": (header("shape", [True, 5, 2]), "whole numbers"),
    "a shape of nothing": (header("shape", [4, 0, 2]), "needed are numbers above 0"),
    "a vector": (header("shape", [40]), "has a window, but reads a vector of 40"),
    "a huge map": (header("shape", [1 << 20, 1 << 20, 2]), "too many"),
    "a long map": (header("shape", [(1 << 20) + 1, 1, 2]), "too many"),
    "numbers beyond all": (header("shape", [10**30, 5, 2]), "too many"),
    "another channel": (header("shape", [4, 5, 3]), "layer 1 (stem): takes 8 inputs, its window has 2 x 2 of 3 channels"),
    "another input": (header("input", {"kind": "reals"}), "maps pixels or levels, but gets reals"),
    "another mapping": (header("input", {"kind": "pixels", "slope": 1.0, "intercept": 0.0, "divisor": 1.0}), "its values are"),
    "a node that is no dict": (lambda head, tensors: head["nodes"].__setitem__(1, []), "is no node of format version 3"),
    "an unknown kind": (node(1, "kind", "conv"), "is no node of format version 3"),
    "a kind that is a list": (node(1, "kind", ["dense"]), "is no node of format version 3"),
    "a field too many": (node(3, "extra", 1), "is no node of format version 3"),
    "no inputs": (node(3, "inputs", []), "inputs is []"),
    "inputs that are text": (node(3, "inputs", "2"), "inputs is '2'"),
    "reads itself": (node(3, "inputs", [3]), "node 3 reads 3"),
    "reads a later node": (node(3, "inputs", [5]), "node 3 reads 5"),
    "reads two": (node(3, "inputs", [2, 2]), "layer 3 (average): reads 2 nodes, needed is one"),
    "reads the input": (node(3, "inputs", [-1]), "a pool (average) of pixels"),
    "window is no dict": (node(5, "window", 3), "window is 3"),
    "no window": (node(5, "window", None), "reads a map of 3 x 4 x 4 and has no window"),
    "a window of one number": (window(5, "size", [3]), "size of its window is [3], needed are 2"),
    "a window of fractions": (window(5, "size", [3.0, 3]), "needed are 2 whole numbers"),
    "a window of nothing": (window(5, "size", [0, 3]), "needed are numbers from 1"),
    "a window larger than the map": (window(5, "size", [9, 3]), "its window of 9 x 3 is larger than the padded map of 3 x 4"),
    "a window of other inputs": (window(5, "size", [3, 2]), "takes 18 inputs, its window has 3 x 2 of 2 channels"),
    "a stride of 0": (window(5, "stride", [1, 0]), "stride of its window is (1, 0), needed are numbers from 1"),
    "a dilation of 0": (window(5, "dilation", [0, 1]), "dilation of its window is (0, 1)"),
    "a negative padding": (window(5, "padding", [-1, 0, 0, 0]), "padding of its window is (-1, 0, 0, 0)"),
    "a padding larger than the window": (window(5, "padding", [3, 0, 0, 0]), "leaves nothing of its window of 3 x 3"),
    "numbers that overflow": (window(5, "stride", [1 << 62, 1]), "needed are numbers from 1 to"),
    "numbers that no word holds": (window(6, "size", [10**40, 1]), "needed are numbers from 1 to"),
    "a dilated window beyond the map": (window(6, "dilation", [1 << 20, 1]), "is larger than the padded map"),
    "another padding": (window(5, "padding", [1, 1, 1, 1]), "limits are (6, 6) int32, needed is (9, 6) int32"),
    "groups that do not divide": (node(5, "groups", 3), "4 channels and 6 neurons do not make 3 groups"),
    "no groups": (node(5, "groups", 0), "do not make 0 groups"),
    "groups are text": (node(5, "groups", "2"), "groups has the wrong type"),
    "another pad": (node(5, "pad", 2), "pads bits with 2"),
    "a pad of ones": (node(5, "pad", 1), "limits are (6, 6) int32, needed is (6,) int32"),
    "a pad of numbers": (node(1, "pad", 1), "pads reals with 1, needed is 0"),
    "another pool": (node(3, "of", "median"), "pool 'median' is none of"),
    "a pool of a list": (node(3, "of", ["max"]), "is none of"),
    "an average of bits": (node(6, "of", "average"), "a pool (average) of bits"),
    "a padded maximum": (node(6, "padded", True), "only an average counts"),
    "padded is a number": (node(6, "padded", 1), "neither true nor false"),
    "falling is missing": (lambda head, tensors: tensors.pop("layers.6.falling"), "layers.6.falling is missing"),
    "falling is not said": (node(6, "falling", False), "tensors that no layer uses: layers.6.falling"),
    "falling of other channels": (tensor("layers.6.falling", lambda a: a[:-1]), "falling is (5,) bool"),
    "falling is no truth": (tensor("layers.6.falling", lambda a: a.astype(np.int32)), "tensor layers.6.falling is"),
    "steps of other channels": (tensor("layers.2.steps", lambda a: a[:, :, :3]), "steps are (1, 2, 3) float32"),
    "steps that are none": (node(2, "ops", ["swish"]), "unknown steps 'swish'"),
    "steps that are NaN": (tensor("layers.2.steps", lambda a: a * f(np.nan)), "steps hold NaN"),
    "values of another size": (tensor("layers.0.values", lambda a: a[:255]), "needed is (256, 1) or (256, 2)"),
    "values that are NaN": (tensor("layers.0.values", lambda a: a * f(np.nan)), "must be finite"),
    "other values": (tensor("layers.0.values", lambda a: a * f(2)), "its values are not those of uint8 pixels"),
    "limits of a comparison": (tensor("layers.4.limits", lambda a: a[:3]), "limits are (3,) float32, needed is (4,) float32"),
    "limits of integers": (tensor("layers.4.limits", lambda a: a.astype(np.int32)), "needed is (4,) float32"),
    "limits beyond those inside": (tensor("layers.5.limits", lambda a: a + np.int32(18)), "those inside of a border class"),
    "a bit of weights": (tensor("layers.5.bits", lambda a: a ^ np.uint64(1)), "content_digest"),
    "depth": (node(5, "depth", 17), "pad bits beyond depth 17"),
    "reads": (node(5, "reads", "reals"), "reads reals, but gets bits"),
    "a float layer of bits": (node(1, "reads", "bits"), "a float layer reads reals"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_every_way_of_being_malformed(tmp_path: Path, what: str) -> None:
    path = tmp_path / "m.safetensors"
    save(every_op(), path)
    head, tensors = parts(path)
    change, message = MALFORMED[what]
    change(head, tensors)
    save_file(tensors, path, metadata={KEY: json.dumps(head)})
    with pytest.raises(ModelFileError, match=re.escape(message)) as caught:
        load(path)
    assert isinstance(caught.value, MalformedModelError | DigestError)
    assert str(path) in str(caught.value)


def test_what_a_plan_is_made_of_is_checked_as_what_a_file_holds() -> None:
    class Evil(Window):
        def outputs(self, height: int, width: int) -> tuple[int, int]:
            return 1 << 40, 1

    model = every_op()
    pool = model.nodes[6].op
    for op in (
        replace(pool, window=Evil((2, 2))),
        replace(pool, window=None),
        replace(pool, window=Window((2, 2), (1.0, 1))),  # type: ignore[arg-type]
        replace(pool, kind=np.str_("max")),
        replace(pool, padded=1),
        replace(pool, falling=[True] * 6),
        replace(model.nodes[2].op, steps=None),
        replace(model.nodes[0].op, values=None),
        replace(model.nodes[5].op, groups=2.0),
        replace(model.nodes[5].op, window=((3, 3),)),
        type("Heir", (Pool,), {})("max", Window((2, 2))),
    ):
        at = next(i for i, node in enumerate(model.nodes) if isinstance(op, type(node.op)) and (i != 3 and i != 1 and i != 7))
        nodes = tuple(replace(node, op=op) if index == at else node for index, node in enumerate(model.nodes))
        assert replace(model, nodes=nodes).check()
        with pytest.raises(MalformedModelError):
            replace(model, nodes=nodes).require_valid()
    for shape in ((4, 5), "452", (4, 5, 2.0), (4, 5, -2), None, (1 << 40, 5, 2)):
        assert replace(model, shape=shape).check()


def test_real_inputs_of_maps_pass(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for seed in range(20):
        model = nets.random_maps(np.random.default_rng(seed), RealInput(), (5, 4, 3), int(rng.integers(1, 5)))
        save(model, tmp_path / "m")
        same(model, load(tmp_path / "m"))


def test_what_is_said_of_every_node() -> None:
    described = describe(every_op())
    assert widths(every_op()) == "4x5x2-4c2-p1-6c3-p2-3"
    assert described["shape"] == [4, 5, 2]
    kinds = ["mapped", "float", "steps", "pool", "bits", "binary", "pool", "binary"]
    assert [layer["kind"] for layer in described["layers"]] == kinds
    assert [layer["gives"] for layer in described["layers"]] == [*["reals"] * 4, *["bits"] * 3, "reals"]
    assert [layer["shape"] for layer in described["layers"]][4:] == [[3, 4, 4], [3, 3, 6], [2, 2, 6], [1, 1, 3]]
    conv = described["layers"][5]
    assert (conv["inputs"], conv["neurons"], conv["groups"], conv["pad"], conv["weight_bits"]) == (18, 6, 2, 0, 108)
    assert conv["window"] == {"size": (3, 3), "stride": (1, 1), "dilation": (1, 1), "padding": (1, 1, 1, 0)}
    assert described["packed_bytes"] == sum(array.nbytes for _, array in every_op().tensors())
    assert json.loads(json.dumps(described))["content_digest"] == header_of(every_op())["content_digest"]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, key))
    else:
        yield path


STRANGE = [0, -1, 2, 64, 2**31 - 1, 2**63, 10**30, True, None, "x", 1.5, "max", "average", "bits", "reals", "affine"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", seeds(1, 3))
def test_headers_changed_at_random_are_refused_or_computed_as_they_say(seed: int) -> None:
    rng, times = np.random.default_rng(seed), 500
    models = [
        every_op(),
        *(nets.random_maps(np.random.default_rng(n), PixelInput.range(-1, 1), (6, 5, 3), 3) for n in range(4)),
    ]
    ran = 0
    for _ in range(times):
        model = models[rng.integers(len(models))]
        head = json.loads(json.dumps(header_of(model)))
        for _ in range(rng.integers(1, 3)):
            paths = list(leaves({key: head[key] for key in ("shape", "nodes")}))
            *path, last = paths[rng.integers(len(paths))]
            place: Any = head
            for key in path:
                place = place[key]
            near = type(place[last]) is int and rng.random() < 0.7
            place[last] = place[last] + int(rng.integers(-1, 2)) if near else STRANGE[rng.integers(len(STRANGE))]
        try:
            changed = _build(Path("m"), head, dict(model.tensors()))
        except ModelFileError:
            continue
        if not changed.check() and changed.depth < 1 << 12:
            x = nets.random_rows(rng, changed, 2)
            traced = zip(Plan(changed, threads=1).trace(x), nets.expected(changed, x), strict=True)
            assert all(np.array_equal(got, want, equal_nan=True) for got, want in traced)
            ran += 1
    assert ran > times / 30

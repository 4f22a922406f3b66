"""Whatever walks over a network stops at a part that it does not know, and names it: nothing is passed by in silence."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import packed_networks
import pytest
from places import ROOT

from xnorinfer.converters.nettoml.document import network_arrays
from xnorinfer.converters.nettoml.writer import net_text
from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.engine import margins
from xnorinfer.engine.model import Model, canonical_input, random_inputs
from xnorinfer.engine.plan import Plan
from xnorinfer.errors import MissingExtraError, ModelFileError, XnorinferError
from xnorinfer.export import ccode, plainarrays
from xnorinfer.graph import Interpretation, Node, chain
from xnorinfer.net.network import Net
from xnorinfer.net.ops import HARDTANH, Linear, Norm, Quantize, Steps
from xnorinfer.net.ops import OPS as FLOAT_OPS
from xnorinfer.net.reference import forward, input_dot, mapped_input
from xnorinfer.net.values import PixelInput
from xnorinfer.packing import modelfile
from xnorinfer.packing.description import describe
from xnorinfer.packing.folding import steps_of_nodes
from xnorinfer.packing.lower import lower, parts_of
from xnorinfer.packing.packed import PACKED_OPS, STEP_NAMES, Affine, PackedModel
from xnorinfer.proof.frameworks.as_read import open_as_read
from xnorinfer.proof.frameworks.rounding import RoundedNet
from xnorinfer.proof.layerproofs import source_values
from xnorinfer.proof.sensitivity import sensitivity
from xnorinfer.proof.wording import words_of
from xnorinfer.speed import floatnetwork, layertimes, onnxnetwork, torchnetwork

f = np.float32
X = np.zeros((3, 4), np.uint8)


@dataclass(frozen=True)
class Alien:
    """An op, a layer or an output that nothing implements, with all that an ordinary one is asked for."""

    name: str = "stranger"
    neurons: int = 4
    depth: int = 4
    weight: Any = None


@dataclass(frozen=True)
class AlienInput:
    kind: str = "elsewhere"
    name: str = "stranger"

    def describe(self) -> str:
        return "something else"


ALIEN: Any = Alien()


def net() -> Net:
    square = np.eye(4, dtype=f) - f(0.5)
    norm = Norm(np.zeros(4, f), np.ones(4, f), epsilon=0.0)
    hidden = [("fc1", Linear(square, "ge")), ("bn", norm), ("sign", Quantize("ge"))]
    return Net.chain(
        PixelInput.range(-1, 1),
        [*hidden, ("fc2", Linear(square, "ge")), ("clip", HARDTANH), ("fc3", Linear(square))],
        "ge-zero",
    )


def with_op(place: int) -> Net:
    named = net().named
    return Net.chain(net().input, [*named[:place], ("stranger", ALIEN), *named[place:]], "ge-zero")


def with_input() -> Net:
    return replace(net(), input=AlienInput())  # type: ignore[arg-type]


def written(spec: Net) -> str:
    arrays = {name: entry.load() for name, entry in network_arrays(net()).items()}
    Path("net.npz").write_bytes(b"")
    np.savez("net.npz", **arrays)
    return net_text(Path("net.npz"), Reading("npz", spec, (), ()), ConvertOptions())


FLOAT: dict[str, Callable[[Net], Any]] = {
    "check": lambda spec: spec.require_valid(),
    "oracle": lambda spec: forward(spec, X),
    "lower": lower,
    "folding": lambda spec: steps_of_nodes(spec.nodes[1:2]),
    "proof": lambda spec: source_values(replace(parts_of(net())[0], nodes=spec.nodes[1:2]), np.zeros((1, 4), f)),
    "sensitivity": lambda spec: sensitivity(spec, lower(net()).packed, X),
    "rounding": lambda spec: next(RoundedNet(spec).tried(X[:1])),
    "words": lambda spec: list(words_of(spec)),
    "arrays": network_arrays,
    "net.toml": written,
}


@pytest.mark.parametrize("walker", FLOAT)
def test_an_unknown_op_of_the_float_network(walker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = with_op(5 if walker == "rounding" else 1)
    with pytest.raises(XnorinferError, match=r"stranger: .* does not know the class Alien"):
        FLOAT[walker](spec)


@pytest.fixture(scope="module")
def every_meaning() -> list[Interpretation[..., Any]]:
    """Those of all modules of the package, whatever other tests have imported: benchmarks, too."""
    for folder, prefix in (("xnorinfer", ()), ("converters", ("converters",))):
        for path in (ROOT / folder).rglob("*.py"):
            if path.stem != "__main__":
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                with contextlib.suppress(MissingExtraError, ModuleNotFoundError):  # what needs packages that are not there
                    importlib.import_module(".".join(("xnorinfer", *prefix, *parts)).removesuffix(".__init__"))
    return [
        meaning
        for meaning in Interpretation.every
        if not any(function.__module__.startswith("benchmarks.") for function in meaning._functions.values())
    ]


def test_every_meaning_knows_every_op(every_meaning: list[Interpretation[..., Any]]) -> None:
    """What a new op lacks is listed here by name; and no meaning takes a class for another, not even for its base class."""
    lacking = {meaning.name: meaning.missing for meaning in every_meaning if meaning.missing}
    assert lacking == {}
    floats = [meaning for meaning in every_meaning if meaning.family == FLOAT_OPS]
    assert len(floats) >= 10
    for meaning in every_meaning:
        for alien in (ALIEN, *(type("Heir", (kind,), {}).__new__(type("Heir", (kind,), {})) for kind in meaning.family)):
            with pytest.raises(XnorinferError, match=r"stranger: .* does not know the class (Alien|Heir)"):
                meaning(Node("stranger", alien, (-1,)))


def test_an_unknown_op_in_pytorch() -> None:
    pytest.importorskip("torch")
    with pytest.raises(XnorinferError, match=r"stranger: .* does not know the class Alien"):
        open_as_read(with_op(1), "npz").answers("net", X)


@pytest.mark.parametrize(
    "walker", [walker for walker in FLOAT if walker not in ("check", "proof", "sensitivity", "arrays", "net.toml")]
)
def test_an_unknown_step_of_the_float_network(walker: str) -> None:
    spec = Net.chain(net().input, [*net().named[:5], ("act", Steps.of(("swish",))), *net().named[5:]], "ge-zero")
    assert spec.check()[-1].startswith("act: function 'swish' is none of mul, div, add, sub, relu")
    if walker == "folding":
        spec = replace(spec, nodes=spec.nodes[4:])
    if walker != "words":
        with pytest.raises(XnorinferError, match="swish"):
            FLOAT[walker](spec)


PACKED: dict[str, Callable[[PackedModel], Any]] = {
    "digest": modelfile.header_of,
    "file": lambda packed: modelfile.save(packed, Path("m.safetensors")),
    "description": describe,
    "plan": Plan,
    "margins": lambda packed: margins.margins(packed, X, [np.zeros((3, 4), f)] * len(packed.nodes)),
    "activity": margins.Activity,
    "arrays": plainarrays.arrays,
    "C": lambda packed: ccode.header(packed, "net"),
    "float network": lambda packed: floatnetwork.FloatNetwork(packed, 3),
    "exact classes": lambda packed: floatnetwork.exact_predict(packed, X),
}


@pytest.mark.parametrize("walker", PACKED)
def test_an_unknown_layer_of_the_packed_network(walker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packed = lower(net()).packed
    first, *others = ((node.name, node.op) for node in packed.nodes)
    alien = replace(packed, nodes=chain([first, ("stranger", ALIEN), *others]))
    with pytest.raises(XnorinferError, match=r"stranger: .* does not know the class Alien"):
        PACKED[walker](alien)
    assert not list(tmp_path.iterdir())


def test_every_meaning_of_packed_networks_knows_every_op(every_meaning: list[Interpretation[..., Any]]) -> None:
    """What a new op lacks is listed here by name."""
    meanings = {meaning.name: meaning.missing for meaning in every_meaning if meaning.family == PACKED_OPS}
    assert {name: missing for name, missing in meanings.items() if missing} == {}
    model = {"PackedModel.values", "PackedModel.tensors", "PackedModel.plain", "PackedModel.check", "modelfile", "description"}
    assert meanings.keys() >= model | {"Plan", "margins", "margins.constant", "extract", "ccode"}
    assert meanings.keys() >= {"bench.FloatNetwork", "bench.exact_predict"}
    assert meanings.keys() >= {one.name for one in (layertimes._operations, torchnetwork._torch_op, onnxnetwork._onnx_op)}


def test_an_unknown_output_of_a_packed_layer(tmp_path: Path) -> None:
    alien = packed_networks.with_layer(lower(net()).packed, 0, output=ALIEN)
    with pytest.raises(ModelFileError, match="does not know the class Alien"):
        modelfile.save(alien, tmp_path / "m.safetensors")
    with pytest.raises(XnorinferError, match="does not know the class Alien"):
        modelfile.header_of(alien)


def test_an_unknown_step(tmp_path: Path) -> None:
    op: Any = "swish"
    steps = Affine((op,), np.ones((1, 2, 4), f))
    alien = packed_networks.with_layer(lower(net()).packed, 2, output=steps)
    assert op not in STEP_NAMES
    assert f"layer 2 (fc3): unknown steps '{op}'" in alien.check()
    with pytest.raises(ModelFileError, match="unknown steps"):
        modelfile.save(alien, tmp_path / "m.safetensors")
    for walker in (
        Plan,
        lambda packed: floatnetwork.FloatNetwork(packed, 3).predict(X),
        lambda packed: ccode.header(packed, "net"),
    ):
        with pytest.raises((XnorinferError, ValueError, KeyError)):
            walker(alien)
    if op == "swish":
        with pytest.raises(XnorinferError, match=r"'swish': Affine.apply does not know"):
            steps.apply(np.zeros((1, 4), f))


def test_an_unknown_input_mapping() -> None:
    mapping: Any = AlienInput()
    for walker in (
        lambda: with_input().require_valid(),
        lambda: lower(with_input()),
        lambda: forward(with_input(), X),
        lambda: input_dot(mapping, X, np.ones((2, 4), f)),
        lambda: mapped_input(mapping, X),
        lambda: canonical_input(replace(lower(net()).packed, input=mapping), X),
        lambda: random_inputs(replace(lower(net()).packed, input=mapping), 3, 0),
    ):
        with pytest.raises(XnorinferError, match=r"stranger: .* does not know the class AlienInput"):
            walker()
    packed = replace(lower(net()).packed, input=mapping)
    assert packed.check() == ["stranger: PackedModel.check does not know the class AlienInput"]
    with pytest.raises((XnorinferError, KeyError)):
        Model(packed)


def test_the_walkers_above_take_the_network_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the stranger nothing raises: it is what the tests above see."""
    monkeypatch.chdir(tmp_path)
    packed = lower(net()).packed
    for name, walker in {**FLOAT, **PACKED}.items():  # type: ignore[dict-item]
        if name == "margins":
            trace = Plan(packed).trace(X)
            margins.margins(packed, X, trace)
        else:
            walker(packed if name in PACKED and walker is PACKED[name] else net())

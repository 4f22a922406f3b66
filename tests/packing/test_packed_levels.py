"""Levels, packed: random networks equal the oracle on every kernel, in files, in C, in proofs, and beside peers."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from level_networks import random_net
from seeds import seeds

from xnorinfer.engine.margins import Activity, margins
from xnorinfer.engine.model import Model, canonical_input, random_inputs
from xnorinfer.engine.plan import Plan
from xnorinfer.errors import MalformedModelError, ModelFileError, NetworkError
from xnorinfer.export import ccode, plainarrays
from xnorinfer.graph import Node
from xnorinfer.kernels import usable
from xnorinfer.net import (
    Concat,
    Levels,
    Linear,
    Net,
    Norm,
    Pad,
    PixelInput,
    Pool,
    Quantize,
    RealInput,
    Steps,
    Window,
)
from xnorinfer.net.reference import forward, mapped_input, node_outputs
from xnorinfer.packing import modelfile
from xnorinfer.packing.description import describe
from xnorinfer.packing.lower import lower, parts_of, stored_form
from xnorinfer.packing.packed import Affine, Digitize, Dot, Grades, Mapped, Moved, PackedModel
from xnorinfer.proof.layerproofs import prove_parts
from xnorinfer.proof.sensitivity import sensitivity
from xnorinfer.speed.floatnetwork import FloatNetwork, classes_of, exact_predict

f = np.float32
SEEDS = seeds(8, 24)
ROWS = 9


def example(seed: int) -> tuple[Net, PackedModel, Any]:
    net = random_net(seed, moved=seed % 2 == 1)
    packed = lower(net).packed
    return net, packed, canonical_input(packed, random_inputs(packed, ROWS, seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kernel_and_node_equals_the_oracle(seed: int, tmp_path: Path) -> None:
    net, packed, x = example(seed)
    modelfile.save(packed, tmp_path / "model.safetensors")
    loaded = modelfile.load(tmp_path / "model.safetensors")
    outputs = [output.reshape(ROWS, -1) for _, output in node_outputs(net, x)]
    stored = stored_form(net)
    gone = len(net.nodes) - len(stored.nodes)
    for kernel in usable():
        for threads in (1, 2):
            plan = Plan(loaded, kernel=kernel.name, threads=threads)
            assert (plan.run(x) == outputs[-1]).all()
        for part, value, found in zip(parts_of(stored), packed.values, plan.trace(x), strict=True):
            if part.end is None or part.enters:
                continue
            got: Any = found
            if value.kind == "levels":
                assert part.coded is not None
                got = mapped_input(part.coded, value.codes(found.view(np.uint64)) + f(part.coded.low))
            elif value.kind == "bits":
                got = value.signs(found.view(np.uint64))
            assert (got == outputs[part.end + gone]).all(), (kernel.name, part.name)


@pytest.mark.parametrize("seed", SEEDS)
def test_proof_margins_and_descriptions(seed: int) -> None:
    net, packed, x = example(seed)
    assert not [one.first for one in prove_parts(packed, stored_form(net), lambda *_: None) if one.differences]
    trace = Plan(packed).trace(x)
    for layer in margins(packed, x, trace).layers:
        assert (layer.smallest > 0).all() or layer.unit.startswith("real")
    activity = Activity(packed)
    activity.add(trace)
    assert len(activity.describe()) == len(activity.layers)
    assert (describe(packed)["format_version"] == 5) == any(value.kind == "levels" for value in packed.values)
    plainarrays.arrays(packed, signs=True)
    sensitivity(net, packed, None)


@pytest.mark.parametrize("seed", SEEDS)
def test_c_equals_the_oracle(seed: int, tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    net, packed, x = example(seed)
    (tmp_path / "net.h").write_text(ccode.header(packed, "net"))
    (tmp_path / "run.c").write_text(ccode.runner(packed, "net", "net"))
    (tmp_path / "samples.txt").write_text(ccode.vectors(packed, x, forward(net, x)))
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", *(["-mpopcnt"] if seed % 2 and "x86" in _machine() else [])]
    subprocess.run([compiler, *flags, "-o", tmp_path / "run", tmp_path / "run.c", "-lm"], check=True)
    subprocess.run([tmp_path / "run", tmp_path / "samples.txt"], check=True, stdout=subprocess.PIPE)


def _machine() -> str:
    import platform

    return platform.machine().lower().replace("amd64", "x86_64")


@pytest.mark.parametrize("seed", SEEDS)
def test_peers_give_the_same_classes(seed: int) -> None:
    net, packed, x = example(seed)
    wanted = classes_of(forward(net, x).reshape(ROWS, *packed.score_shape))
    assert (exact_predict(packed, x) == wanted).all()
    found = {"numpy": FloatNetwork(packed, ROWS).predict(x)}
    if (torch := _maybe("torch")) is not None:
        from xnorinfer.speed.torchnetwork import torch_network

        found[torch.__name__] = torch_network("torch", packed, ROWS, 1).predict(x)
    if (ort := _maybe("onnxruntime")) is not None:
        from xnorinfer.speed.onnxnetwork import onnx_model

        for integers in (False, True):
            session = ort.InferenceSession(onnx_model(packed, ROWS, integers), providers=["CPUExecutionProvider"])
            (scores,) = session.run(None, {"x": x})
            found[f"onnx {integers}"] = classes_of(scores.reshape(ROWS, *packed.values[-1].shape))
    # Float32 may round a sum otherwise next to a limit; hardly any sample meets one.
    for name, classes in found.items():
        assert (classes.reshape(ROWS, -1) == wanted.reshape(ROWS, -1)).all(axis=1).mean() >= 0.7, name


def _maybe(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


# ---------------------------------------------------------------- what is stored


def chain(levels: Levels = Levels(0, 3), depth: int = 20) -> Net:  # noqa: B008 (frozen)
    rng = np.random.default_rng(1)

    def latents(*shape: int) -> Any:
        return rng.normal(size=shape).astype(f)

    norm = Norm(np.zeros(6, f), np.full(6, 1e4, f), gamma=f([1, -1, 0, 1, 1, -1]), beta=np.full(6, 1.4, f), epsilon=1e-4)
    layers = [("fc1", Linear(latents(6, depth), "ge")), ("bn", norm), ("levels", levels), ("fc2", Linear(latents(3, 6), "ge"))]
    return Net.chain(PixelInput(1, 0, 1), layers, "ge-zero")


def test_layers_compare_with_a_limit_for_each_code() -> None:
    packed = lower(chain()).packed
    first, last = (node.op for node in packed.nodes)
    assert isinstance(first, Dot)
    assert isinstance(first.output, Grades)
    assert first.output.limits.shape == (3, 6)
    assert (np.diff(first.output.limits, axis=0) <= 0).all()
    assert isinstance(last, Dot)
    assert (last.reads, last.low, packed.values[0].top) == ("levels", 0, 3)
    assert isinstance(last.output, Affine)


def test_one_form_for_one_network() -> None:
    """Where a layer ends in thresholds, it does not matter what the lowest level stands for."""

    def digest(levels: Levels, shift: float) -> str:
        net = chain(levels)
        named = net.named[:2] + [("shift", Steps.of(("add", shift)))] * bool(shift) + net.named[2:]
        rng = np.random.default_rng(2)
        named += [("bn2", Norm(np.zeros(3, f), np.ones(3, f), epsilon=0.0)), ("levels2", Levels(0, 2))]
        named += [("fc3", Linear(rng.normal(size=(2, 3)).astype(f), "ge"))]
        return str(modelfile.header_of(lower(Net.chain(net.input, named, "ge-zero")).packed)["content_digest"])

    assert digest(Levels(0, 3), 0) == digest(Levels(-2, 1, -2), -2.0)
    assert digest(Levels(0, 3), 0) != digest(Levels(-2, 1), -2.0)


def test_pixels_of_few_levels() -> None:
    """A first layer over pixels that are quantized before it."""
    rng = np.random.default_rng(0)
    layers = [
        ("scale", Steps.of(("div", 60.0))),
        ("levels", Levels(0, 3)),
        ("fc", Linear(rng.normal(size=(5, 70)).astype(f), "ge")),
    ]
    net = Net.chain(PixelInput(1, 0, 1), layers, "ge-zero")
    packed = lower(net).packed
    assert isinstance(packed.nodes[0].op, Digitize)
    assert packed.nodes[0].op.limits.dtype == np.int32
    x = rng.integers(0, 256, (4, 70), dtype=np.uint8)
    assert (Plan(packed).run(x) == forward(net, x)).all()


def test_deep_layers_sum_exactly() -> None:
    """More inputs than 16-bit counts hold."""
    rng = np.random.default_rng(0)
    depth = 33000
    layers = [("levels", Levels(0, 15)), ("fc", Linear(rng.normal(size=(3, depth)).astype(f), "ge"))]
    net = Net.chain(PixelInput(1, 0, 1), [("scale", Steps.of(("mul", 0.06))), *layers], "ge-zero")
    packed, x = lower(net).packed, rng.integers(0, 256, (3, depth), dtype=np.uint8)
    for kernel in usable():
        assert (Plan(packed, kernel=kernel.name).run(x) == forward(net, x)).all()


@pytest.mark.parametrize(
    ("channels", "groups", "neurons"), [(6, 3, 9), (128, 2, 256), (24, 24, 48), (130, 2, 128), (64, 4, 20)]
)
def test_layers_in_groups_of_channels(channels: int, groups: int, neurons: int) -> None:
    """Codes from signs, codes, bits and numbers from codes, over the border of a map and without."""
    rng = np.random.default_rng(channels)

    def grouped(read: int, given: int, size: int) -> Linear:
        window = Window((size, size), padding=(size // 2,) * 4)
        return Linear(rng.normal(size=(given, size, size, read // groups)).astype(f), "ge", window=window, groups=groups)

    def norm(count: int, spread: float) -> Norm:
        gamma = rng.choice([-1, 1], count).astype(f)
        return Norm(rng.normal(size=count).astype(f), np.full(count, spread**2, f), gamma=gamma, epsilon=1e-4)

    layers = [
        ("stem", Linear(rng.normal(size=(channels, 1, 1, 2)).astype(f), "ge", window=Window((1, 1)))),
        ("bn0", norm(channels, 0.7)),
        ("sign", Quantize("ge")),
        ("conv1", grouped(channels, channels, 3)),
        ("bn1", norm(channels, (channels // groups) ** 0.5 * 2)),
        ("levels1", Levels(-1, 2, step=0.3)),
        ("conv2", grouped(channels, neurons, 3)),
        ("bn2", norm(neurons, (channels // groups) ** 0.5)),
        ("levels2", Levels(0, 4)),
        ("conv3", grouped(neurons, neurons, 1)),
        ("bn3", norm(neurons, (neurons // groups) ** 0.5)),
        ("levels3", Levels(1, 3)),
        ("conv4", grouped(neurons, neurons, 3)),
        ("bn4", norm(neurons, (neurons // groups) ** 0.5 * 4)),
        ("sign4", Quantize("gt")),
        ("fc", Linear(rng.normal(size=(4, 35 * neurons)).astype(f), "ge")),
    ]
    net = Net.chain(PixelInput.range(-1, 1), layers, "ge-zero", (5, 7, 2))
    packed = lower(net).packed
    assert [type(node.op) for node in packed.nodes] == [Dot] * 6
    x = rng.integers(0, 256, (3, 70), dtype=np.uint8)
    wanted = forward(net, x)
    for kernel in usable():
        for threads in (1, 3):
            assert (Plan(packed, kernel=kernel.name, threads=threads).run(x) == wanted).all(), kernel.name
    assert not [one.first for one in prove_parts(packed, net, lambda *_: None) if one.differences]


@pytest.mark.parametrize("top", [2, 3, 4, 6, 7, 8, 14, 15])
def test_infinite_numbers_have_the_levels_of_the_ends(top: int) -> None:
    """What has fewer codes than its bits can say has none above the last."""
    layers = [("turned", Steps.of(("mul", np.array([1, -1, 0], f)))), ("levels", Levels(0, top))]
    net = Net.chain(RealInput(), [*layers, ("fc", Linear(np.ones((1, 3), f), "ge"))], "ge-zero")
    packed = lower(net).packed
    x = np.array([[-np.inf, np.inf, 1], [np.inf, -np.inf, 0], [-3e38, 3e38, 0], [3e38, -3e38, 0]], f)
    for kernel in usable():
        assert Plan(packed, kernel=kernel.name).run(x).tolist() == [[0], [2 * top]] * 2


# ---------------------------------------------------------------- what is refused, and what proofs find


def test_levels_that_change_twice_over_the_sums_are_compared_as_numbers() -> None:
    given = chain()
    bent = [("slope", Steps.of(("prelu", -1.0)))]
    net = Net.chain(given.input, given.named[:2] + bent + given.named[2:], "ge-zero")
    packed = lower(net).packed
    assert [type(node.op) for node in packed.nodes][:2] == [Dot, Digitize]
    x = random_inputs(packed, 200, 0)
    assert (Model(packed, threads=1).scores(x) == forward(net, x)).all()
    assert not any(one.differences for one in prove_parts(packed, net, lambda *_: None))


@pytest.mark.parametrize("levels", [Levels(0, 3, step=1e-45, divisor=3.0), Levels(-2, 1, step=3e38)])
def test_levels_that_are_one_number_are_told_apart(levels: Levels) -> None:
    """Too small for float32, or too large: layers sum whole numbers."""
    net = chain(levels)
    packed = lower(net).packed
    x = random_inputs(packed, 50, 0)
    assert (Plan(packed).run(x) == forward(net, x)).all()
    assert not [one.first for one in prove_parts(packed, net, lambda *_: None) if one.differences]


def test_proof_finds_a_limit_that_is_wrong() -> None:
    net = chain()
    packed = lower(net).packed
    first = packed.nodes[0].op
    assert isinstance(first, Dot)
    assert isinstance(first.output, Grades)
    limits = first.output.limits.copy()
    limits[1, 0] -= 1
    nodes = (replace(packed.nodes[0], op=replace(first, output=Grades(limits))), *packed.nodes[1:])
    (found,) = (one for one in prove_parts(replace(packed, nodes=nodes), net, lambda *_: None) if one.differences)
    assert found.name == "fc1"
    assert found.first is not None
    assert "neuron 0 at accumulator" in found.first


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda op: replace(op, output=Grades(op.output.limits[::-1])), "limits of a code lie above those of the code before"),
        (lambda op: replace(op, output=Grades(op.output.limits[:1])), "has codes up to 1, needed is 2 to 15"),
        (lambda op: replace(op, output=Grades(op.output.limits[:, :5])), "limits are"),
        (lambda op: replace(op, output=Grades(op.output.limits[0])), "limits have shape"),
        (lambda op: replace(op, low=1), "low is 1, and nothing depends on it"),
    ],
)
def test_inconsistent_layers(change: Any, problem: str) -> None:
    packed = lower(chain()).packed
    nodes = (replace(packed.nodes[0], op=change(packed.nodes[0].op)), *packed.nodes[1:])
    assert any(problem in one for one in replace(packed, nodes=nodes).check())
    with pytest.raises(MalformedModelError):
        Plan(replace(packed, nodes=nodes))


def moved_levels() -> Net:
    """Levels by thresholds that are padded for a binary layer, and read as numbers beside it."""
    rng = np.random.default_rng(5)
    thresholds = np.sort(rng.normal(size=(4, 3)), axis=0).astype(f)
    nodes = (
        Node("levels", Levels(1, 5, 0, 0.3, thresholds=thresholds), (-1,)),
        Node("border", Pad((1, 0, 0, 2), 0.0), (0,)),
        Node("conv", Linear(rng.normal(size=(70, 2, 2, 3)).astype(f), "ge", window=Window((2, 2))), (1,)),
        Node("average", Pool("average"), (2,)),
        Node("again", Pool("average"), (0,)),
        Node("both", Concat(), (3, 4)),
        Node("fc", Linear(rng.normal(size=(2, 73)).astype(f)), (5,)),
    )
    return Net(PixelInput.range(-1, 1), (4, 5, 3), nodes, "ge-zero")


def test_levels_by_thresholds_are_read_as_numbers() -> None:
    net = moved_levels()
    packed = lower(net).packed
    found = [(type(node.op), value.kind, value.top) for node, value in zip(packed.nodes, packed.values, strict=True)]
    assert found[:3] == [(Digitize, "levels", 5), (Digitize, "levels", 4), (Mapped, "reals", 0)]
    assert (Moved, "levels", 5) in found
    x = np.random.default_rng(1).integers(0, 256, (7, 60), dtype=np.uint8)
    for kernel in usable():
        assert (Plan(packed, kernel=kernel.name).run(x) == forward(net, x)).all()
    assert not any(one.differences for one in prove_parts(packed, net, lambda *_: None))


@pytest.mark.parametrize(
    ("kind", "change", "problem"),
    [
        (Moved, lambda op: replace(op, value=6.0), "puts 6 outside, needed is a code from 0 to 5"),
        (Moved, lambda op: replace(op, value=0.5), "puts 0.5 outside, needed is a code from 0 to 5"),
        (Moved, lambda op: replace(op, value=-1.0), "puts -1 outside, needed is a code from 0 to 5"),
        (Mapped, lambda op: Mapped(op.values[:4]), "values are (4, 1) float32, needed is (5, 1) float32"),
        (Mapped, lambda op: Mapped(np.repeat(op.values, 3, 1)), "values are (5, 3) float32, needed is (5, 1) float32"),
        (Mapped, lambda op: Mapped(op.values * f(np.inf)), "values must be finite"),
    ],
)
def test_inconsistent_codes(kind: type, change: Any, problem: str) -> None:
    packed = lower(moved_levels()).packed
    nodes = tuple(replace(node, op=change(node.op)) if isinstance(node.op, kind) else node for node in packed.nodes)
    assert any(problem in one for one in replace(packed, nodes=nodes).check())


@pytest.mark.parametrize("pooled", [False, True])
def test_what_torch_sign_has_at_zero_is_judged_where_signs_are_padded_with_it(pooled: bool) -> None:
    """They have the codes of levels then, -1, 0 and +1."""
    rng = np.random.default_rng(0)
    one, three = Window((1, 1)), Window((3, 3))
    layers = [
        ("conv1", Linear(rng.normal(size=(4, 1, 1, 2)).astype(f), "ge", window=one)),
        ("sign1", Quantize("ge")),
        ("conv2", Linear(rng.normal(size=(4, 1, 1, 4)).astype(f), "ge", window=one)),
        *([("average", Pool("average", Window((2, 2))))] if pooled else []),
        ("sign2", Quantize("sign")),
        ("border", Pad((1, 1, 1, 1))),
        ("conv3", Linear(rng.normal(size=(4, 3, 3, 4)).astype(f), "ge", window=three)),
    ]
    net = Net.chain(PixelInput.range(-1, 1), layers, "torch-sign", (6, 6, 2))
    with pytest.raises(NetworkError, match=("sign2" if pooled else "conv2") + ": 4 neurons .* exactly 0 before sign"):
        lower(net)
    known = Net.chain(net.input, [*layers[:-3], ("sign2", Quantize("gt")), *layers[-2:]], "gt-zero", (6, 6, 2))
    packed = lower(known).packed
    assert [value.top for value in packed.values][-3:-1] == [2, 2]
    x = rng.integers(0, 256, (5, 72), dtype=np.uint8)
    assert (Plan(packed).run(x) == forward(known, x)).all()


def test_proof_finds_numbers_that_are_wrong() -> None:
    net = moved_levels()
    packed = lower(net).packed
    for index, node in enumerate(packed.nodes):
        if isinstance(node.op, Mapped | Digitize):
            field = "values" if isinstance(node.op, Mapped) else "limits"
            array = getattr(node.op, field).copy()
            array[2, 0] = np.nextafter(array[2, 0], f(9)) if field == "values" else array[2, 0] - 1
            nodes = list(packed.nodes)
            nodes[index] = replace(node, op=replace(node.op, **{field: array}))
            found = [one for one in prove_parts(replace(packed, nodes=tuple(nodes)), net, lambda *_: None) if one.differences]
            assert len(found) == 1


def test_low_must_be_a_level_where_maps_are_padded() -> None:
    for seed in range(100):
        packed = lower(random_net(seed)).packed
        for index, node in enumerate(packed.nodes):
            op = node.op
            if isinstance(op, Dot) and op.reads == "levels" and op.window is not None and any(op.window.padding):
                nodes = list(packed.nodes)
                nodes[index] = Node(node.name, replace(op, low=1), node.inputs)
                assert any("0 outside the map is none of the" in one for one in replace(packed, nodes=tuple(nodes)).check())
                return
    raise AssertionError


def test_files_say_their_format(tmp_path: Path) -> None:
    import json

    from safetensors import safe_open
    from safetensors.numpy import save_file

    packed = lower(chain()).packed
    path = tmp_path / "model.safetensors"
    modelfile.save(packed, path)
    with safe_open(path, framework="numpy") as container:
        header = json.loads(container.metadata()["xnorinfer"])
        tensors = {name: container.get_tensor(name) for name in container.keys()}  # noqa: SIM118
    assert header["format_version"] == 5
    assert header["nodes"][1]["low"] == 0
    for change in ({"format_version": 4}, {"nodes": [header["nodes"][0], {**header["nodes"][1], "low": 0.5}]}):
        save_file(tensors, path, metadata={"xnorinfer": json.dumps({**header, **change})})
        with pytest.raises(ModelFileError):
            modelfile.load(path)
    assert Model(packed).info["layers"][0]["gives"] == "levels"

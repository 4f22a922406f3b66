"""A constant of any node that is not the framework's is told, however little of the scores it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import DATA, unpack

from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.errors import NetworkError
from xnorinfer.graph import Node
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Channels, Linear, Norm, Op, Pad, Pool, Steps, arrays_of
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput
from xnorinfer.packing.lower import lower
from xnorinfer.proof.agreement import compare
from xnorinfer.proof.frameworks import framework_answers

ROWS = 3
#: By how much of itself one number is another.
APART = 2e-3
#: So many nodes of a kind.
EACH = 2
#: torch.jit warns that it will go, the exporters of much.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def moved(values: Any) -> Any:
    """One number of several other than it was."""
    values, place = values.copy().reshape(-1), values.size // 2
    values[place] = values[place] * np.float32(1 + APART) if values[place] else APART
    return values


def others(node: Node[Op]) -> Iterator[tuple[str, Op]]:
    """The op of a node with one constant other than it was, each by its name."""
    op: Any = node.op
    match op:
        case Norm(epsilon=float(epsilon)):
            yield "epsilon", replace(op, epsilon=10 * epsilon)
        case Steps():
            for place, step in enumerate(op.steps):
                for number, values in enumerate(step.parameters):
                    parameters = list(step.parameters)
                    parameters[number] = moved(values).reshape(values.shape)
                    other = replace(step, parameters=tuple(parameters))
                    yield f"{step.function} {place}", Steps((*op.steps[:place], other, *op.steps[place + 1 :]))
            return
        case Pool():
            yield "kind", replace(op, kind="max" if op.kind == "average" else "average", padded=False)
            if op.kind == "average" and op.window is not None and any(op.window.padding):
                yield "padded", replace(op, padded=not op.padded)
        case Pad():
            yield "value", replace(op, value=op.value + APART)
        case Channels():
            yield "order", replace(op, order=(op.order[1], op.order[0], *op.order[2:]))
        case Linear(binary=True, window=window) if window is not None and any(window.padding):
            yield "pad", replace(op, pad=op.pad - 1)
    for name, values in arrays_of(node):
        changed = moved(values).reshape(values.shape)
        if name == "latent":
            changed = np.where(changed == values, values, -values)
        yield name, replace(op, **{"weight" if name == "latent" else name: changed})


def assert_all_are_told(path: Path, options: ConvertOptions, kinds: set[str]) -> None:
    """kinds: names of constants that the network has, among others."""
    reading = read_source(path, options)
    net = reading.net
    x = np.random.default_rng(1).integers(0, 256, (ROWS, net.depth), dtype=np.uint8)
    answers = framework_answers(path, reading, options, x)
    assert answers.inner is not None
    kept = answers.inner(np.arange(ROWS), frozenset(value.width for value in net.values))
    answers = replace(answers, inner=lambda rows, widths: [value[rows] for value in kept])
    found = compare(answers, net, lower(net).packed)
    assert (found.holds, found.unexplained, found.other) == (True, 0, None), found.text()
    scores, seen = forward(net, x), Counter[tuple[str, str]]()
    for index, node in enumerate(net.nodes):
        behind = [one.name for one in net.nodes[max(index - 1, 0) :]]  # what is added to a sum may be shown with it alone
        for name, op in others(node):
            seen[type(op).__name__, name] += 1
            if seen[type(op).__name__, name] > EACH:
                continue
            other = Net(net.input, net.shape, (*net.nodes[:index], replace(node, op=op), *net.nodes[index + 1 :]), net.profile)
            try:
                packed = lower(other).packed
            except NetworkError:  # padding of a network that cannot be
                continue
            found = compare(answers, other, packed)
            same = np.array_equal(forward(other, x), scores)
            assert same or not found.holds, f"{node.name}, {name}: {found.text()}"
            assert found.other is None or found.other in behind, f"{node.name}, {name}: {found.text()}"
    assert {name for _, name in seen} >= kinds


@pytest.mark.parametrize("how", ["export", "onnx"])
def test_constants_of_pytorchs_files(tmp_path: Path, how: str) -> None:
    torch = pytest.importorskip("torch")
    if how == "onnx":
        pytest.importorskip("onnx")
    import torch_branches as kinds
    from torch_maps import made, write

    layers = [
        *(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), torch.nn.BatchNorm2d(8), kinds.Residual(8, 8)),
        *(torch.nn.AvgPool2d(3, 1, 1), torch.nn.LeakyReLU(0.25), kinds.Gated(8), kinds.React(8, 16, 2)),
        *(torch.nn.MaxPool2d(2), kinds.Improve(16), kinds.Scaled(16, 16), kinds.Bordered(), torch.nn.AdaptiveAvgPool2d(1)),
        *(torch.nn.Flatten(), torch.nn.Linear(16, 5)),
    ]
    net = made(torch.nn.Sequential(*layers), 0)
    path = write(net, kinds.SAMPLE, tmp_path, how)
    constants = {
        "mean",
        "variance",
        "gamma",
        "beta",
        "epsilon",
        "prelu 0",
        "latent",
        "weight",
        "pad",
        "kind",
        "padded",
        "value",
    }
    assert_all_are_told(path, ConvertOptions(input=PixelInput.range(0, 1)), constants)


@pytest.mark.parametrize("name", ["birealnet.pb", "quicknet.tflite", "densenet.h5", "reactnet.keras"])
def test_constants_of_tensorflows_files(tmp_path: Path, name: str) -> None:
    pytest.importorskip("tensorflow")
    if name.endswith((".h5", ".keras")):
        pytest.importorskip("larq")
        pytest.importorskip("h5py")
    path = unpack(DATA / "tf" / "branches.tar.xz", tmp_path) / name
    assert_all_are_told(path, ConvertOptions(input=PixelInput.range(-1, 1)), {"latent", "weight"})
